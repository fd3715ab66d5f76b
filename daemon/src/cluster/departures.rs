//! Who went and when that is to be believed: the clockwork of the cluster's feed, without a clock of its own.

use state::{NodeName, RemoteNode};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// How long an address that went is kept to see whether its node goes too: the two are told by different watches.
const SETTLE: Duration = Duration::from_secs(1);
/// How long after an interruption it may turn out that the store lost something, which its writers still have to notice
/// and write again: what goes meanwhile is believed as long as a node that went. Longer than the followers take to
/// compare everything ([`kvstore::watch::Options::compare_after`]).
const DOUBT: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Gone {
    Node(NodeName),
    Address(IpAddr),
}

#[derive(Debug)]
pub(crate) struct Departures {
    grace: Duration,
    /// Underlay addresses of the nodes that are there or leaving.
    underlay: BTreeMap<NodeName, BTreeSet<IpAddr>>,
    /// Node of each address that is there or leaving.
    homes: BTreeMap<IpAddr, IpAddr>,
    leaving_nodes: BTreeMap<NodeName, Instant>,
    leaving_addresses: BTreeMap<IpAddr, Instant>,
    /// Whether there was contact before, which can be interrupted.
    begun: bool,
    /// The end of the time after an interruption in which the store is in doubt.
    doubted_until: Option<Instant>,
}

impl Departures {
    pub(crate) fn new(grace: Duration) -> Departures {
        Departures {
            grace,
            underlay: BTreeMap::new(),
            homes: BTreeMap::new(),
            leaving_nodes: BTreeMap::new(),
            leaving_addresses: BTreeMap::new(),
            begun: false,
            doubted_until: None,
        }
    }

    /// How many nodes are there or leaving, and whether this one is.
    pub(crate) fn nodes(&self) -> usize {
        self.underlay.len()
    }

    pub(crate) fn has_node(&self, name: &NodeName) -> bool {
        self.underlay.contains_key(name)
    }

    pub(crate) fn node_names(&self) -> impl Iterator<Item = &NodeName> {
        self.underlay.keys()
    }

    pub(crate) fn all_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.homes.keys().copied()
    }

    /// Likewise of addresses.
    pub(crate) fn addresses(&self) -> usize {
        self.homes.len()
    }

    pub(crate) fn has_address(&self, address: &IpAddr) -> bool {
        self.homes.contains_key(address)
    }

    /// A node that comes back may take as long to write its addresses again as it had to come back.
    pub(crate) fn node_there(&mut self, node: &RemoteNode, now: Instant) {
        if self.leaving_nodes.remove(&node.name).is_some() {
            let back = |home: Option<&IpAddr>| home.is_some_and(|home| node.addresses.contains(home));
            for (address, due) in &mut self.leaving_addresses {
                if back(self.homes.get(address)) {
                    *due = now + self.grace.max(SETTLE);
                }
            }
        }
        self.underlay.insert(node.name.clone(), node.addresses.clone());
    }

    pub(crate) fn node_went(&mut self, name: NodeName, now: Instant) {
        if self.underlay.contains_key(&name) {
            self.leaving_nodes.entry(name).or_insert(now + self.grace);
        }
    }

    pub(crate) fn address_there(&mut self, address: IpAddr, node: IpAddr) {
        self.leaving_addresses.remove(&address);
        self.homes.insert(address, node);
    }

    pub(crate) fn address_went(&mut self, address: IpAddr, now: Instant) {
        if self.homes.contains_key(&address) {
            let due = now + self.patience(now);
            self.leaving_addresses.entry(address).or_insert(due);
        }
    }

    /// How long an address that goes now is kept.
    fn patience(&self, now: Instant) -> Duration {
        let doubted = self.doubted_until.is_some_and(|until| now < until);
        if doubted { self.grace.max(SETTLE) } else { SETTLE }
    }

    /// What was heard of them is old: everybody who is leaving has the whole time again.
    pub(crate) fn begin_anew(&mut self, now: Instant) {
        if std::mem::replace(&mut self.begun, true) {
            self.doubted_until = Some(now + DOUBT);
        }
        self.leaving_nodes.values_mut().for_each(|due| *due = now + self.grace);
        let wait = self.patience(now);
        self.leaving_addresses.values_mut().for_each(|due| *due = (*due).max(now + wait));
    }

    /// When `take_due` has something to do next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let nodes = self.leaving_nodes.values().copied();
        let held = self.held();
        let addresses = self.leaving_addresses.iter().filter(|(address, _)| !self.is_held(address, &held));
        nodes.chain(addresses.map(|(_, due)| *due)).min()
    }

    /// Those whose time has come: first the nodes, with whom go the addresses that they left behind.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Gone> {
        let (due, stay) = std::mem::take(&mut self.leaving_nodes).into_iter().partition(|(_, due)| *due <= now);
        self.leaving_nodes = stay;
        let due: BTreeMap<NodeName, Instant> = due;
        let held = self.held();
        let addresses = self.leaving_addresses.iter();
        let addresses: Vec<IpAddr> = addresses
            .filter(|(address, due)| **due <= now && !self.is_held(address, &held))
            .map(|(address, _)| *address)
            .collect();
        for address in &addresses {
            self.leaving_addresses.remove(address);
            self.homes.remove(address);
        }
        due.keys().for_each(|name| drop(self.underlay.remove(name)));
        due.into_keys().map(Gone::Node).chain(addresses.into_iter().map(Gone::Address)).collect()
    }

    /// Underlay addresses of the nodes that are leaving.
    fn held(&self) -> BTreeSet<IpAddr> {
        self.leaving_nodes.keys().filter_map(|name| self.underlay.get(name)).flatten().copied().collect()
    }

    /// Whether an address waits for its node, which is leaving itself.
    fn is_held(&self, address: &IpAddr, held: &BTreeSet<IpAddr>) -> bool {
        self.homes.get(address).is_some_and(|home| held.contains(home))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn node(last: u8) -> RemoteNode {
        RemoteNode {
            name: NodeName { cluster: "default".to_owned(), name: format!("n{last}") },
            addresses: [ip(last)].into(),
            routers: BTreeSet::new(),
            health: BTreeSet::new(),
            prefixes: BTreeSet::new(),
        }
    }

    /// A node with one address, 100 above its own.
    fn one_node(now: Instant) -> Departures {
        let mut departures = Departures::new(GRACE);
        departures.node_there(&node(2), now);
        departures.address_there(ip(102), ip(2));
        departures
    }

    #[test]
    fn an_address_of_a_living_node_goes_soon() {
        let now = Instant::now();
        let mut departures = one_node(now);
        departures.address_went(ip(102), now);
        assert_eq!(departures.next_due(), Some(now + SETTLE));
        assert_eq!(departures.take_due(now), []);
        assert_eq!(departures.take_due(now + SETTLE), [Gone::Address(ip(102))]);
        assert_eq!(departures.next_due(), None);
    }

    #[test]
    fn what_goes_soon_after_an_interruption_has_the_whole_grace() {
        let now = Instant::now();
        let mut departures = one_node(now);
        departures.begin_anew(now);
        // The first contact interrupts nothing.
        departures.address_went(ip(102), now);
        assert_eq!(departures.next_due(), Some(now + SETTLE));
        departures.address_there(ip(102), ip(2));
        // The second does: the store may have lost the address.
        departures.begin_anew(now);
        departures.address_went(ip(102), now + SETTLE);
        assert_eq!(departures.next_due(), Some(now + SETTLE + GRACE));
        assert!(departures.take_due(now + GRACE).is_empty());
        // Written again, and then gone for good, when the store has shown all it has.
        departures.address_there(ip(102), ip(2));
        departures.address_went(ip(102), now + DOUBT);
        assert_eq!(departures.take_due(now + DOUBT + SETTLE), [Gone::Address(ip(102))]);
    }

    #[test]
    fn a_dead_node_and_its_addresses_have_the_whole_grace_in_whichever_order_they_went() {
        let now = Instant::now();
        for address_first in [true, false] {
            let mut departures = one_node(now);
            if address_first {
                departures.address_went(ip(102), now);
            }
            departures.node_went(node(2).name, now);
            departures.address_went(ip(102), now);
            assert_eq!(departures.next_due(), Some(now + GRACE));
            assert_eq!(departures.take_due(now + GRACE - SETTLE), []);
            assert_eq!(departures.take_due(now + GRACE), [Gone::Node(node(2).name), Gone::Address(ip(102))]);
        }
    }

    #[test]
    fn a_node_that_comes_back_has_time_to_write_its_addresses_again() {
        let now = Instant::now();
        let mut departures = one_node(now);
        departures.node_went(node(2).name, now);
        departures.address_went(ip(102), now);
        let back = now + GRACE / 2;
        departures.node_there(&node(2), back);
        assert_eq!(departures.take_due(now + GRACE), []);
        departures.address_there(ip(102), ip(2));
        assert_eq!(departures.next_due(), None);
        departures.address_went(ip(102), back);
        assert_eq!(departures.take_due(back + SETTLE), [Gone::Address(ip(102))]);
    }

    #[test]
    fn what_was_never_there_does_not_go() {
        let now = Instant::now();
        let mut departures = one_node(now);
        departures.node_went(node(3).name, now);
        departures.address_went(ip(103), now);
        assert_eq!(departures.next_due(), None);
    }
}
