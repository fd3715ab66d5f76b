//! A rule as the engine keeps it: its peers as numbers of selectors, its ports as keys. Done once a rule, whatever
//! number of subjects it selects.

use super::selectors::{SelectorId, Selectors};
use crate::compile::Traffic;
use crate::peer::PeerSelector;
use crate::rule::{Entry, Rule, Verdict};
use crate::selector::{Anchor, Selector};
use model::{Direction, PolicyEntry, PolicyKey};
use std::sync::Arc;

/// Place of a rule in the engine.
pub(super) type RuleId = u32;

/// Keys without a peer, and what becomes of the packets they match.
pub(super) type Keys = Arc<[(PolicyKey, PolicyEntry)]>;

#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) rule: Arc<Rule>,
    /// By which its subjects find it.
    pub(super) ways: Vec<Anchor>,
    /// By direction.
    pub(super) sides: [Side; 2],
}

/// What a rule says of one direction.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) speaks: bool,
    pub(super) default_deny: bool,
    pub(super) entries: Vec<Prep>,
    /// What peers that are chosen by labels must satisfy as well, for allows and for denies.
    pub(super) requires: [Vec<SelectorId>; 2],
}

/// One entry of a rule.
#[derive(Debug)]
pub(super) struct Prep {
    pub(super) verdict: Verdict,
    pub(super) peers: Vec<Whom>,
    pub(super) keys: Keys,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Whom {
    /// `None`: everyone.
    pub(super) selector: Option<SelectorId>,
    /// Whether requirements narrow it: only peers chosen by labels are.
    pub(super) constrained: bool,
}

const VERDICTS: [Verdict; 2] = [Verdict::Allow, Verdict::Deny];

impl Prepared {
    pub(super) fn new(rule: Arc<Rule>, ways: Vec<Anchor>, selectors: &mut Selectors) -> Prepared {
        let sides = Direction::BOTH.map(|direction| Side {
            speaks: rule.speaks_of(direction),
            default_deny: rule.default_deny(direction),
            requires: VERDICTS.map(|verdict| {
                let entries = rule.entries(direction, verdict);
                let requires = entries.iter().flat_map(|entry| entry.requires.iter().flatten());
                requires.filter_map(|selector| acquire_labels(selectors, selector)).collect()
            }),
            entries: VERDICTS
                .iter()
                .flat_map(|verdict| rule.entries(direction, *verdict).iter().map(|entry| (*verdict, entry)))
                .map(|(verdict, entry)| prepare(direction, verdict, entry, selectors))
                .collect(),
        });
        Prepared { rule, ways, sides }
    }

    /// Every use of a selector.
    pub(super) fn selectors(&self) -> impl Iterator<Item = SelectorId> + '_ {
        self.sides.iter().flat_map(|side| {
            let peers = side.entries.iter().flat_map(|entry| entry.peers.iter().filter_map(|whom| whom.selector));
            peers.chain(side.requires.iter().flatten().copied())
        })
    }
}

fn prepare(direction: Direction, verdict: Verdict, entry: &Entry, selectors: &mut Selectors) -> Prep {
    let outcome = match verdict {
        Verdict::Allow => PolicyEntry::ALLOW,
        Verdict::Deny => PolicyEntry::DENY,
    };
    let keys = traffic_of(entry).into_iter().flat_map(|traffic| traffic.keys(direction));
    let mut keys: Vec<_> = keys.map(|key| (key, outcome)).collect();
    keys.sort_unstable();
    keys.dedup();
    Prep { verdict, peers: peers_of(entry, selectors), keys: keys.into() }
}

/// An entry that names ports but no peers is about everyone; one that names neither is about nobody.
fn peers_of(entry: &Entry, selectors: &mut Selectors) -> Vec<Whom> {
    if entry.names_peers() {
        let whom = |peer: PeerSelector| Whom {
            constrained: matches!(peer, PeerSelector::Labels(_)),
            selector: (!peer.is_everyone()).then(|| selectors.acquire(peer)),
        };
        entry.peers().map(whom).collect()
    } else if entry.names_ports() {
        vec![Whom { selector: None, constrained: false }]
    } else {
        Vec::new()
    }
}

/// `None`: everyone.
fn acquire_labels(selectors: &mut Selectors, selector: &Selector) -> Option<SelectorId> {
    (!selector.is_empty()).then(|| selectors.acquire(PeerSelector::Labels(selector.clone())))
}

pub(crate) fn traffic_of(entry: &Entry) -> Vec<Traffic> {
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
