//! The naive interpreter: every rule, every entry, every element is looked at for one packet, in the order in which they
//! are written.

use crate::entity::Entity;
use crate::peer::Peer;
use crate::repository::Repository;
use crate::resolve::{AllowLocalhost, Enforcement, Options};
use crate::rule::{Entry, IcmpField, Port, PortProtocol, Rule, Verdict, section_name};
use crate::selector::Selector;
use ipnetwork::IpNetwork;
use model::{Direction, Identity, Labels, Protocol};
use std::fmt;
use std::net::IpAddr;

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    Allowed,
    Denied,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Decision::Allowed => "allowed",
            Decision::Denied => "denied",
        })
    }
}

/// The traffic in question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// A destination port; for ICMP the type, 0 for protocols that have neither.
    Port(Protocol, u16),
    /// All traffic at once: only entries that name no ports answer that.
    Everything,
}

/// The place of an entry in the rules.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Origin {
    /// The rule's place in the repository, from 0.
    pub rule: usize,
    /// Such as `ingress[0]`.
    pub entry: String,
    /// The rule's labels.
    pub labels: Labels,
}

/// What was found for one side of a connection.
#[derive(Debug)]
pub struct Judgement<'r> {
    pub direction: Direction,
    /// Whether the side is an endpoint; nothing is enforced for others.
    pub is_endpoint: bool,
    pub enforced: bool,
    /// Whether what no entry allows is refused.
    pub default_deny: bool,
    pub(super) rules: Vec<RuleStep<'r>>,
    /// Requirements of allow entries and of deny entries.
    pub(super) requirements: [Vec<&'r Selector>; 2],
    /// Allowed because the host may reach its own endpoints.
    pub(super) localhost: bool,
}

/// One rule of the repository.
#[derive(Debug)]
pub(super) struct RuleStep<'r> {
    pub(super) rule: &'r Rule,
    /// Whether it selects the subject and speaks of the direction.
    pub(super) selected: bool,
    pub(super) entries: Vec<EntryStep<'r>>,
}

/// One entry of a selected rule.
#[derive(Debug)]
pub(super) struct EntryStep<'r> {
    pub(super) verdict: Verdict,
    pub(super) index: usize,
    pub(super) entry: &'r Entry,
    pub(super) peer_matches: bool,
    pub(super) traffic_matches: bool,
}

impl Judgement<'_> {
    pub fn verdict(&self) -> Decision {
        let found = |verdict| self.deciding(verdict).is_some();
        if !self.enforced {
            Decision::Allowed
        } else if found(Verdict::Deny) {
            Decision::Denied
        } else if found(Verdict::Allow) || self.localhost || !self.default_deny {
            Decision::Allowed
        } else {
            Decision::Denied
        }
    }

    /// The entry that decided, if one did.
    pub fn origin(&self) -> Option<Origin> {
        let found = self.deciding(Verdict::Deny).or_else(|| self.deciding(Verdict::Allow));
        let (rule, entry) = found.filter(|_| self.enforced)?;
        Some(Origin {
            rule,
            entry: format!("{}[{}]", section_name(self.direction, entry.verdict), entry.index),
            labels: self.rules[rule].rule.rule_labels().collect(),
        })
    }

    /// The first entry with this verdict that matches, and its rule's place.
    pub(super) fn deciding(&self, verdict: Verdict) -> Option<(usize, &EntryStep<'_>)> {
        self.rules.iter().enumerate().find_map(|(place, step)| {
            let matching =
                |entry: &&EntryStep<'_>| entry.verdict == verdict && entry.peer_matches && entry.traffic_matches;
            step.entries.iter().find(matching).map(|entry| (place, entry))
        })
    }
}

/// What becomes of a packet between the endpoint with the labels `subject` and `peer`, as far as the endpoint's own
/// side decides.
pub fn decide(
    repository: &Repository,
    options: Options,
    direction: Direction,
    subject: &Labels,
    peer: &Peer<'_>,
    ask: Ask,
) -> Decision {
    judge(repository, options, direction, &Peer::from_labels(subject), peer, ask).verdict()
}

pub(super) fn judge<'r>(
    repository: &'r Repository,
    options: Options,
    direction: Direction,
    subject: &Peer<'_>,
    peer: &Peer<'_>,
    ask: Ask,
) -> Judgement<'r> {
    let mut rules: Vec<RuleStep<'r>> = Vec::new();
    let mut requirements = [Vec::new(), Vec::new()];
    for rule in repository.rules() {
        let selected = applies(rule, subject, direction);
        rules.push(RuleStep { rule, selected, entries: Vec::new() });
        if selected {
            for (verdict, list) in [Verdict::Allow, Verdict::Deny].into_iter().zip(&mut requirements) {
                let entries = rule.entries(direction, verdict);
                list.extend(entries.iter().flat_map(|entry| entry.requires.iter().flatten()));
            }
        }
    }
    for step in rules.iter_mut().filter(|step| step.selected) {
        for (verdict, requirements) in [Verdict::Allow, Verdict::Deny].into_iter().zip(&requirements) {
            for (index, entry) in step.rule.entries(direction, verdict).iter().enumerate() {
                step.entries.push(EntryStep {
                    verdict,
                    index,
                    entry,
                    peer_matches: peer_matches(entry, peer, requirements),
                    traffic_matches: traffic_matches(entry, ask),
                });
            }
        }
    }
    let is_endpoint = subject.is_endpoint();
    let always = options.enforcement == Enforcement::Always || subject.labels.has_reserved("init");
    let any = |test: &dyn Fn(&RuleStep<'_>) -> bool| rules.iter().any(test);
    let enforced = options.enforcement != Enforcement::Never && is_endpoint && (always || any(&|step| step.selected));
    let default_deny = always || any(&|step| step.selected && wants_default_deny(step.rule, direction));
    let localhost = direction == Direction::Ingress
        && options.allow_localhost == AllowLocalhost::Always
        && peer.identity == Identity::HOST;
    Judgement { direction, is_endpoint, enforced, default_deny, rules, requirements, localhost }
}

fn applies(rule: &Rule, subject: &Peer<'_>, direction: Direction) -> bool {
    let speaks = match direction {
        Direction::Ingress => rule.ingress.iter().chain(&rule.ingress_deny).flatten().next().is_some(),
        Direction::Egress => rule.egress.iter().chain(&rule.egress_deny).flatten().next().is_some(),
    };
    speaks && subject.is_endpoint() && rule.endpoint_selector.as_ref().is_some_and(|s| s.matches(subject.labels))
}

fn wants_default_deny(rule: &Rule, direction: Direction) -> bool {
    let Some(said) = rule.enable_default_deny else {
        return true;
    };
    let said = if direction == Direction::Ingress { said.ingress } else { said.egress };
    said != Some(false)
}

fn peer_matches(entry: &Entry, peer: &Peer<'_>, requirements: &[&Selector]) -> bool {
    let lists = [
        entry.endpoints.as_ref().map(|_| ()),
        entry.cidr.as_ref().map(|_| ()),
        entry.cidr_set.as_ref().map(|_| ()),
        entry.entities.as_ref().map(|_| ()),
        entry.services.as_ref().map(|_| ()),
        entry.fqdns.as_ref().map(|_| ()),
        entry.groups.as_ref().map(|_| ()),
        entry.nodes.as_ref().map(|_| ()),
    ];
    if lists.iter().all(Option::is_none) {
        // Ports alone are about everyone; nothing at all is about nobody.
        return entry.to_ports.iter().flatten().next().is_some() || entry.icmps.iter().flatten().next().is_some();
    }
    let endpoint = |selector: &Selector| endpoint_matches(selector, requirements, peer);
    let set = |set: &crate::rule::CidrRule| {
        let excepted = set.except.iter().flatten().any(|prefix| prefix_matches(prefix.value, peer, Whole::IsNot));
        set.cidr.as_ref().is_some_and(|prefix| prefix_matches(prefix.value, peer, Whole::Is)) && !excepted
    };
    entry.endpoints.iter().flatten().any(endpoint)
        || entry.cidr.iter().flatten().any(|prefix| prefix_matches(prefix.value, peer, Whole::Is))
        || entry.cidr_set.iter().flatten().any(set)
        || entry.entities.iter().flatten().any(|entity| entity_matches(*entity, peer))
}

pub(super) fn endpoint_matches(selector: &Selector, requirements: &[&Selector], peer: &Peer<'_>) -> bool {
    selector.matches(peer.labels) && requirements.iter().all(|requirement| requirement.matches(peer.labels))
}

pub(super) fn entity_matches(entity: Entity, peer: &Peer<'_>) -> bool {
    entity.matches(peer)
}

/// Whether a prefix that holds every address of a family stands for the world of that family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    Is,
    IsNot,
}

/// By first and last address, where `cidr` compares bits.
pub(super) fn prefix_matches(prefix: IpNetwork, peer: &Peer<'_>, whole: Whole) -> bool {
    match peer.prefix {
        Some(inner) => {
            let (first, last) = bounds(prefix);
            let (inner_first, inner_last) = bounds(inner);
            prefix.is_ipv4() == inner.is_ipv4() && first <= inner_first && inner_last <= last
        }
        None => whole == Whole::Is && peer.labels.has_reserved("world") && prefix.prefix() == 0,
    }
}

fn bounds(prefix: IpNetwork) -> (u128, u128) {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    (number(prefix.network()), number(prefix.broadcast()))
}

fn traffic_matches(entry: &Entry, ask: Ask) -> bool {
    let mut ports = entry.to_ports.iter().flatten().peekable();
    let mut icmps = entry.icmps.iter().flatten().peekable();
    if ports.peek().is_none() && icmps.peek().is_none() {
        return true;
    }
    let Ask::Port(protocol, number) = ask else {
        return false;
    };
    ports.flat_map(|rule| rule.ports.iter().flatten()).any(|port| port_matches(port, protocol, number))
        || icmps.flat_map(|rule| rule.fields.iter().flatten()).any(|field| type_matches(field, protocol, number))
}

fn port_matches(port: &PortProtocol, protocol: Protocol, number: u16) -> bool {
    let first = match &port.port {
        Some(Port::Number(first)) => *first,
        // The number of a name is not known.
        Some(Port::Name(_)) => return false,
        None => 0,
    };
    let last = match port.end_port.unwrap_or(0) {
        0 if first == 0 => u16::MAX,
        last => last.max(first),
    };
    port.l4_protocol().numbers().contains(&protocol) && first <= number && number <= last
}

fn type_matches(field: &IcmpField, protocol: Protocol, number: u16) -> bool {
    field.family().protocol() == protocol && u16::from(field.number()) == number
}
