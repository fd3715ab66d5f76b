//! What a set of rules means for one subject: which directions are enforced, which entries apply, whom they select now.
//! The outcome is a policy map. How keys are laid out in it is `compile`'s; the same question answered rule by rule is
//! `trace`'s.

use crate::compile::{Compiler, PeerSet, Traffic};
use crate::peer::{Peer, PeerSelector};
use crate::repository::Repository;
use crate::rule::{Entry, Rule, Verdict};
use crate::selector::Selector;
use ipnetwork::IpNetwork;
use model::{Direction, Identity, Label, Labels, PolicyEntry, PolicyMap};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// When policy is enforced at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// For each endpoint and direction as soon as a rule that selects the endpoint speaks of the direction.
    #[default]
    Default,
    /// For all endpoints; `enableDefaultDeny: false` has no effect.
    Always,
    /// Not at all, denies included.
    Never,
}

const ENFORCEMENTS: [(Enforcement, &str); 3] =
    [(Enforcement::Default, "default"), (Enforcement::Always, "always"), (Enforcement::Never, "never")];

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown enforcement mode {0:?}: use default, always or never")]
pub struct UnknownEnforcement(String);

impl FromStr for Enforcement {
    type Err = UnknownEnforcement;

    fn from_str(text: &str) -> Result<Enforcement, UnknownEnforcement> {
        let known = ENFORCEMENTS.iter().find(|(_, name)| *name == text).map(|(mode, _)| *mode);
        known.ok_or_else(|| UnknownEnforcement(text.to_owned()))
    }
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ENFORCEMENTS.iter().find(|(mode, _)| mode == self).map_or("", |(_, name)| name))
    }
}

/// Whether the host may open connections to the endpoints of its own node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AllowLocalhost {
    /// Without a rule; an explicit deny still refuses it.
    Always,
    /// Only by a rule, like anybody.
    #[default]
    Policy,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    pub enforcement: Enforcement,
    pub allow_localhost: AllowLocalhost,
}

/// Answers for any number of subjects under one set of rules and identities. Selectors are evaluated once, when a
/// subject first needs them; subjects with the same rules share one map.
pub struct Resolver<'a> {
    options: Options,
    rules: Vec<&'a Rule>,
    known: Vec<Known<'a>>,
    selected: BTreeMap<PeerSelector, Arc<PeerSet>>,
    prepared: BTreeMap<(usize, Direction), Arc<Vec<Prepared>>>,
    resolved: BTreeMap<Situation, Arc<PolicyMap>>,
}

/// An identity that selectors can select.
struct Known<'a> {
    identity: Identity,
    labels: Cow<'a, Labels>,
    prefix: Option<IpNetwork>,
}

/// All that a subject's policy depends on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Situation {
    always_denied: bool,
    /// Indices of the rules that select the subject.
    rules: Vec<usize>,
}

/// An entry, with its peers looked up.
struct Prepared {
    verdict: Verdict,
    peers: Vec<PreparedPeers>,
    traffic: Vec<Traffic>,
}

struct PreparedPeers {
    set: Arc<PeerSet>,
    /// Whether requirements constrain them: only peers chosen by labels are.
    constrained: bool,
}

impl<'a> Resolver<'a> {
    /// `identities` are all that exist now. The reserved ones always do and need not be among them.
    pub fn new(
        repository: &'a Repository,
        identities: &'a BTreeMap<Identity, Labels>,
        options: Options,
    ) -> Resolver<'a> {
        let given = identities.iter().map(|(identity, labels)| (*identity, Cow::Borrowed(labels)));
        let absent = Identity::RESERVED.iter().filter(|(identity, _)| !identities.contains_key(identity));
        let reserved = absent.map(|(identity, _)| (*identity, Cow::Owned(reserved_labels(*identity))));
        let mut known: Vec<Known<'a>> = given
            .chain(reserved)
            .filter(|(identity, _)| *identity != Identity::UNKNOWN)
            .map(|(identity, labels)| Known { identity, prefix: Peer::new(identity, &labels).prefix, labels })
            .collect();
        known.sort_unstable_by_key(|known| known.identity);
        Resolver {
            options,
            rules: repository.rules().iter().map(AsRef::as_ref).collect(),
            known,
            selected: BTreeMap::new(),
            prepared: BTreeMap::new(),
            resolved: BTreeMap::new(),
        }
    }

    /// The indices of the rules that apply to an endpoint with these labels.
    pub fn selecting(&self, subject: &Labels) -> Vec<usize> {
        let applies = |rule: &&Rule| selects(rule, subject);
        self.rules.iter().enumerate().filter(|(_, rule)| applies(rule)).map(|(index, _)| index).collect()
    }

    /// The policy of every endpoint with the labels `subject`.
    pub fn resolve(&mut self, subject: &Labels) -> Arc<PolicyMap> {
        let never = self.options.enforcement == Enforcement::Never || is_host(subject);
        let situation = Situation {
            always_denied: self.options.enforcement == Enforcement::Always || is_init(subject),
            rules: if never { Vec::new() } else { self.selecting(subject) },
        };
        if never {
            return Arc::new(PolicyMap::allow_all());
        }
        if let Some(map) = self.resolved.get(&situation) {
            return map.clone();
        }
        let map = Arc::new(self.resolve_situation(&situation));
        self.resolved.insert(situation, map.clone());
        map
    }

    fn resolve_situation(&mut self, situation: &Situation) -> PolicyMap {
        let mut compiler = Compiler::default();
        let [enforced_ingress, enforced_egress] =
            Direction::BOTH.map(|direction| self.resolve_direction(situation, direction, &mut compiler));
        PolicyMap { entries: compiler.finish(), enforced_ingress, enforced_egress }
    }

    /// Adds what one direction needs; tells whether it is enforced.
    fn resolve_direction(&mut self, situation: &Situation, direction: Direction, compiler: &mut Compiler) -> bool {
        let speaking: Vec<usize> =
            situation.rules.iter().copied().filter(|index| self.rules[*index].speaks_of(direction)).collect();
        let default_deny =
            situation.always_denied || speaking.iter().any(|index| self.rules[*index].default_deny(direction));
        if !default_deny {
            compiler.add(direction, &PeerSet::Everyone, Traffic::Everything, PolicyEntry::ALLOW);
        }
        let enforced = situation.always_denied || !speaking.is_empty();
        if !enforced {
            return false;
        }
        for (verdict, outcome) in [(Verdict::Allow, PolicyEntry::ALLOW), (Verdict::Deny, PolicyEntry::DENY)] {
            let required = self.required(&speaking, direction, verdict);
            for index in &speaking {
                let entries = self.prepare(*index, direction);
                for entry in entries.iter().filter(|entry| entry.verdict == verdict) {
                    self.add_entry(entry, direction, required.as_deref(), outcome, compiler);
                }
            }
        }
        if direction == Direction::Ingress && self.options.allow_localhost == AllowLocalhost::Always {
            let host = PeerSet::These(vec![Identity::HOST]);
            compiler.add(direction, &host, Traffic::Everything, PolicyEntry::ALLOW);
        }
        true
    }

    fn add_entry(
        &self,
        entry: &Prepared,
        direction: Direction,
        required: Option<&[Identity]>,
        outcome: PolicyEntry,
        compiler: &mut Compiler,
    ) {
        for peers in &entry.peers {
            let narrowed = match required {
                Some(required) if peers.constrained => Some(intersection(&peers.set, required)),
                _ => None,
            };
            for traffic in &entry.traffic {
                compiler.add(direction, narrowed.as_ref().unwrap_or(&peers.set), *traffic, outcome);
            }
        }
    }

    /// The identities that satisfy all requirements in the entries of the given rules; `None` if there are none.
    fn required(&mut self, rules: &[usize], direction: Direction, verdict: Verdict) -> Option<Vec<Identity>> {
        let entries = rules.iter().flat_map(|index| self.rules[*index].entries(direction, verdict));
        let requirements: Vec<&Selector> = entries.flat_map(|entry| entry.requires.iter().flatten()).collect();
        let (first, rest) = requirements.split_first()?;
        let everyone: Vec<Identity> = self.known.iter().map(|known| known.identity).collect();
        let mut satisfying = match &*self.select(&PeerSelector::Labels((*first).clone())) {
            PeerSet::Everyone => everyone,
            PeerSet::These(identities) => identities.clone(),
        };
        for requirement in rest {
            if let PeerSet::These(these) = &*self.select(&PeerSelector::Labels((*requirement).clone())) {
                satisfying.retain(|identity| these.binary_search(identity).is_ok());
            }
        }
        Some(satisfying)
    }

    /// The entries of a rule in one direction.
    fn prepare(&mut self, index: usize, direction: Direction) -> Arc<Vec<Prepared>> {
        if let Some(prepared) = self.prepared.get(&(index, direction)) {
            return prepared.clone();
        }
        let rule = self.rules[index];
        let mut prepared = Vec::new();
        for verdict in [Verdict::Allow, Verdict::Deny] {
            for entry in rule.entries(direction, verdict) {
                let peers = self.prepare_peers(entry);
                prepared.push(Prepared { verdict, peers, traffic: traffic_of(entry) });
            }
        }
        let prepared = Arc::new(prepared);
        self.prepared.insert((index, direction), prepared.clone());
        prepared
    }

    /// An entry that names ports but no peers is about everyone; one that names neither is about nobody.
    fn prepare_peers(&mut self, entry: &Entry) -> Vec<PreparedPeers> {
        if entry.names_peers() {
            let constrained = |selector: &PeerSelector| matches!(selector, PeerSelector::Labels(_));
            entry
                .peers()
                .map(|peer| PreparedPeers { constrained: constrained(&peer), set: self.select(&peer) })
                .collect()
        } else if entry.names_ports() {
            vec![PreparedPeers { set: Arc::new(PeerSet::Everyone), constrained: false }]
        } else {
            Vec::new()
        }
    }

    /// Whom a selector selects now.
    fn select(&mut self, selector: &PeerSelector) -> Arc<PeerSet> {
        if let Some(set) = self.selected.get(selector) {
            return set.clone();
        }
        let set = if selector.is_everyone() {
            PeerSet::Everyone
        } else {
            let peers = self.known.iter().map(|known| Peer {
                identity: known.identity,
                labels: &known.labels,
                prefix: known.prefix,
            });
            PeerSet::These(peers.filter(|peer| selector.matches(peer)).map(|peer| peer.identity).collect())
        };
        let set = Arc::new(set);
        self.selected.insert(selector.clone(), set.clone());
        set
    }
}

/// The labels of a reserved identity that nothing more is known of.
pub(crate) fn reserved_labels(identity: Identity) -> Labels {
    let mut labels = Labels::reserved(identity.reserved_name().unwrap_or("unknown"));
    if identity == Identity::KUBE_APISERVER {
        labels.0.insert(Label::reserved("remote-node"));
    }
    labels
}

/// Whether a rule applies to an endpoint with these labels and says anything.
pub(crate) fn selects(rule: &Rule, subject: &Labels) -> bool {
    !is_host(subject) && rule.endpoint_selector.as_ref().is_some_and(|selector| selector.matches(subject))
}

/// Rules for endpoints never apply to the host, and there are no others.
pub(crate) fn is_host(subject: &Labels) -> bool {
    subject.has_reserved("host")
}

/// An endpoint whose labels are not known yet is refused everything that no rule allows.
pub(crate) fn is_init(subject: &Labels) -> bool {
    subject.has_reserved("init")
}

fn traffic_of(entry: &Entry) -> Vec<Traffic> {
    if !entry.names_ports() {
        return vec![Traffic::Everything];
    }
    let ports = entry.to_ports.iter().flatten().flat_map(|rule| rule.ports.iter().flatten());
    let ports = ports.filter_map(|port| port.range().map(|range| (port.l4_protocol(), range)));
    let ports = ports.flat_map(|(protocol, (first, last))| {
        protocol.numbers().iter().map(move |protocol| Traffic::Ports { protocol: *protocol, first, last })
    });
    let types = entry.icmps.iter().flatten().flat_map(|rule| rule.fields.iter().flatten());
    let types = types.map(|field| {
        let number = u16::from(field.number());
        Traffic::Ports { protocol: field.family().protocol(), first: number, last: number }
    });
    ports.chain(types).collect()
}

/// Requirements turn "everyone" into those who are known to satisfy them.
fn intersection(set: &PeerSet, required: &[Identity]) -> PeerSet {
    PeerSet::These(match set {
        PeerSet::Everyone => required.to_vec(),
        PeerSet::These(these) => {
            these.iter().copied().filter(|identity| required.binary_search(identity).is_ok()).collect()
        }
    })
}

#[cfg(test)]
mod tests;
