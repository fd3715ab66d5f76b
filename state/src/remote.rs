//! What other nodes tell through the kvstore: themselves, and who has which of their addresses. And what of it is
//! believed: a record may be stale or hostile, so none takes an address of this node, one that another node answers for,
//! or an identity that nobody may claim.

use crate::State;
use crate::identities::Identities;
use crate::input::{Family, NodeName, RemoteAddress, RemoteNode};
use crate::ipam::{masked, overlap, single};
use ipnetwork::IpNetwork;
use model::Identity;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// All records, believed or not.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    nodes: Arc<BTreeMap<NodeName, RemoteNode>>,
    addresses: BTreeMap<IpAddr, RemoteAddress>,
    /// The addresses with each identity.
    by_identity: BTreeMap<Identity, BTreeSet<IpAddr>>,
    /// The addresses that are told to be on a node with this address.
    by_node: BTreeMap<IpAddr, BTreeSet<IpAddr>>,
    /// Addresses of which something else is told since that was last asked.
    changed: BTreeSet<IpNetwork>,
}

impl Remote {
    pub(crate) fn nodes(&self) -> &Arc<BTreeMap<NodeName, RemoteNode>> {
        &self.nodes
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.keys().copied()
    }

    /// Whether that was news.
    pub(crate) fn put_node(&mut self, node: RemoteNode) -> bool {
        let news = self.nodes.get(&node.name) != Some(&node);
        if news {
            Arc::make_mut(&mut self.nodes).insert(node.name.clone(), node);
        }
        news
    }

    /// Whether it was there.
    pub(crate) fn remove_node(&mut self, name: &NodeName) -> bool {
        self.nodes.contains_key(name) && Arc::make_mut(&mut self.nodes).remove(name).is_some()
    }

    /// Whether that was news.
    pub(crate) fn put_address(&mut self, address: IpAddr, record: RemoteAddress) -> bool {
        if self.addresses.get(&address) == Some(&record) {
            return false;
        }
        self.remove_address(address);
        self.addresses.insert(address, record);
        self.by_identity.entry(record.identity).or_default().insert(address);
        self.by_node.entry(record.node).or_default().insert(address);
        self.changed.insert(single(address));
        true
    }

    /// Whether it was there.
    pub(crate) fn remove_address(&mut self, address: IpAddr) -> bool {
        let Some(before) = self.addresses.remove(&address) else { return false };
        remove_inner(&mut self.by_identity, before.identity, address);
        remove_inner(&mut self.by_node, before.node, address);
        self.changed.insert(single(address));
        true
    }

    /// Whether another node's address has the identity.
    pub(crate) fn mentions(&self, identity: Identity) -> bool {
        self.by_identity.contains_key(&identity)
    }

    /// Addresses with identities that no other node may give.
    fn unclaimable(&self) -> impl Iterator<Item = (IpAddr, Identity)> {
        let identities = self.by_identity.iter().filter(|(identity, _)| !is_claimable(**identity));
        identities.flat_map(|(identity, addresses)| addresses.iter().map(|address| (*address, *identity)))
    }

    /// Other nodes' addresses with the identity.
    pub(crate) fn with_identity(&self, identity: Identity) -> impl Iterator<Item = IpNetwork> {
        self.by_identity.get(&identity).into_iter().flatten().map(|address| single(*address))
    }

    /// The addresses of which something else was told since the last call.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<IpNetwork> {
        std::mem::take(&mut self.changed)
    }

    /// The addresses for which it matters whether the one or the other is believed.
    pub(crate) fn concerned(&self, one: &Believed, other: &Believed) -> BTreeSet<IpNetwork> {
        let mut concerned = BTreeSet::new();
        for node in differing(&one.nodes, &other.nodes) {
            concerned.insert(single(*node));
            concerned.extend(self.by_node.get(node).into_iter().flatten().map(|address| single(*address)));
        }
        concerned.extend(differing(&one.routers, &other.routers).map(|router| single(*router)));
        for prefix in differing(&one.prefixes, &other.prefixes) {
            let inside = self.addresses.range(prefix.network()..=prefix.broadcast());
            concerned.extend(inside.map(|(address, _)| single(*address)));
        }
        concerned
    }
}

fn remove_inner<K: Ord>(index: &mut BTreeMap<K, BTreeSet<IpAddr>>, key: K, address: IpAddr) {
    if let Some(inner) = index.get_mut(&key) {
        inner.remove(&address);
        if inner.is_empty() {
            index.remove(&key);
        }
    }
}

/// The keys on which two maps differ; those of both sides may come twice.
fn differing<'m, K: Ord, V: PartialEq>(
    one: &'m BTreeMap<K, V>,
    other: &'m BTreeMap<K, V>,
) -> impl Iterator<Item = &'m K> {
    one.keys().chain(other.keys()).filter(|key| one.get(key) != other.get(key))
}

/// What another node may say of an address of its own. Other reserved identities are this node's to tell.
pub(crate) fn is_claimable(identity: Identity) -> bool {
    identity.is_allocated() || identity == Identity::INIT || identity == Identity::HEALTH
}

/// The part of the records that is believed.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Believed {
    /// Underlay addresses, and the one of them that the node's own prefixes are behind, if that can be reached.
    nodes: BTreeMap<IpAddr, Option<IpAddr>>,
    /// Prefixes of nodes, none of which overlaps another.
    prefixes: BTreeMap<IpNetwork, IpAddr>,
    /// By what address of its node, out of its own family, each prefix is reached without a tunnel.
    hops: BTreeMap<IpNetwork, IpAddr>,
    /// Nodes' own addresses out of their prefixes, and which node they are of.
    routers: BTreeMap<IpAddr, IpAddr>,
    /// What is not believed of which nodes.
    doubts: BTreeMap<NodeName, String>,
}

impl Believed {
    /// Addresses of nodes, and the one that stands for each.
    pub(crate) fn nodes(&self) -> BTreeMap<IpAddr, IpAddr> {
        self.nodes.iter().map(|(address, vtep)| (*address, vtep.unwrap_or(*address))).collect()
    }

    /// What is behind which node.
    pub(crate) fn vteps(&self) -> BTreeMap<IpNetwork, IpAddr> {
        self.prefixes.clone()
    }

    /// To which node's address a prefix is routed, where there is no tunnel.
    pub(crate) fn hops(&self) -> BTreeMap<IpNetwork, IpAddr> {
        self.hops.clone()
    }

    /// Addresses that nodes have themselves.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.nodes.keys().chain(self.routers.keys()).copied()
    }

    /// The node that answers for the prefix which an address is in.
    fn covering(&self, address: IpAddr) -> Option<IpAddr> {
        let (prefix, vtep) = self.prefixes.range(..=single(address)).next_back()?;
        prefix.contains(address).then_some(*vtep)
    }

    /// Whether the address is out of the node's own prefixes: a record of another one is no reason to send its packets
    /// there.
    fn may_have(&self, node: IpAddr, address: IpAddr) -> bool {
        let vtep = self.nodes.get(&node).copied().flatten();
        vtep.is_some() && self.covering(address) == vtep
    }

    fn is_free(&self, prefix: IpNetwork) -> bool {
        let before = self.prefixes.range(..=prefix).next_back();
        let after = self.prefixes.range(prefix..).next();
        before.into_iter().chain(after).all(|(other, _)| !overlap(other, &prefix))
            && self.nodes.range(prefix.network()..=prefix.broadcast()).next().is_none()
    }
}

impl State {
    /// What is to be believed of other nodes.
    pub(crate) fn whom_to_believe(&self) -> Believed {
        let mut believed = Believed::default();
        let mut others: Vec<&RemoteNode> = Vec::new();
        for (name, node) in self.remote.nodes().iter() {
            if name.cluster != self.config.cluster {
                believed.doubts.insert(name.clone(), format!("it is of another cluster, {:?}", name.cluster));
            } else if name.name != self.config.node {
                others.push(node);
            }
        }
        let family = self.underlay();
        let mut reachable = Vec::new();
        for node in others {
            let addresses: Vec<IpAddr> =
                node.addresses.iter().copied().filter(|address| self.is_foreign(*address)).collect();
            let vtep = addresses.iter().copied().find(|address| Family::of(address) == family);
            if vtep.is_none() {
                let why =
                    format!("it has no {family} address that may be another node's: what is behind it is not reached");
                believed.doubts.insert(node.name.clone(), why);
            }
            for address in addresses {
                believed.nodes.entry(address).or_insert(vtep);
            }
            reachable.extend(vtep.map(|vtep| (node, vtep)));
        }
        let own_pools = self.own_prefixes();
        for (node, vtep) in &reachable {
            for prefix in node.prefixes.iter().map(|prefix| masked(*prefix)) {
                if let Some(why) = self.why_not(prefix, &own_pools, &believed) {
                    believed.doubts.insert(node.name.clone(), format!("{prefix} {why}"));
                    continue;
                }
                believed.prefixes.insert(prefix, *vtep);
                let of_node = |ip: &&IpAddr| believed.nodes.get(*ip) == Some(&Some(*vtep));
                match node.addresses.iter().find(|ip| ip.is_ipv4() == prefix.is_ipv4() && of_node(ip)) {
                    Some(hop) => drop(believed.hops.insert(prefix, *hop)),
                    None if self.routes_directly() => {
                        let why = format!("{prefix} cannot be routed to it: it has no address of that family");
                        believed.doubts.insert(node.name.clone(), why);
                    }
                    None => {}
                }
            }
        }
        for (node, vtep) in reachable {
            for router in &node.routers {
                if believed.covering(*router) == Some(vtep) {
                    believed.routers.entry(*router).or_insert(vtep);
                }
            }
        }
        believed
    }

    /// Why a prefix cannot be another node's.
    fn why_not(&self, prefix: IpNetwork, own_pools: &BTreeSet<IpNetwork>, believed: &Believed) -> Option<&'static str> {
        if !is_narrow(prefix) {
            Some("would take half the world away")
        } else if own_pools.iter().any(|pool| overlap(pool, &prefix)) {
            Some("overlaps what this node hands out addresses of")
        } else if self.host.iter().any(|address| prefix.contains(*address)) {
            Some("holds an address of this host")
        } else if self.config.kvstore.iter().any(|address| prefix.contains(*address)) {
            Some("holds an address of the kvstore")
        } else if !believed.is_free(prefix) {
            Some("overlaps another node's, or holds an address of one")
        } else {
            None
        }
    }

    /// What others tell and is not believed, by whom or about what, with the reason. Of addresses the first few are told.
    pub(crate) fn doubts(&self) -> BTreeMap<String, String> {
        let of_node = |(name, why): (&NodeName, &String)| (format!("node {}/{}", name.cluster, name.name), why.clone());
        let of_address = |(address, identity): (IpAddr, Identity)| {
            (format!("address {address}"), format!("identity {identity} is no other node's to give"))
        };
        let addresses = self.remote.unclaimable().take(TOLD_ADDRESSES).map(of_address);
        self.believed.doubts.iter().map(of_node).chain(addresses).collect()
    }

    /// Who has an address elsewhere, and on which node: another node itself or, as far as its identity is known here, an
    /// endpoint there.
    pub(crate) fn remote_holder(&self, address: IpAddr) -> Option<(Identity, IpAddr)> {
        let believed = &self.believed;
        if believed.nodes.contains_key(&address) {
            return Some((Identity::REMOTE_NODE, address));
        }
        if let Some(node) = believed.routers.get(&address) {
            return Some((Identity::REMOTE_NODE, *node));
        }
        let record = self.remote.addresses.get(&address)?;
        self.is_believed(address, record, &self.identities, believed).then_some((record.identity, record.node))
    }

    /// The family that nodes reach each other by: IPv4 where this node has it.
    fn underlay(&self) -> Family {
        if self.config.node_ipv4.is_some() { Family::V4 } else { Family::V6 }
    }

    fn is_believed(
        &self,
        address: IpAddr,
        record: &RemoteAddress,
        identities: &Identities,
        believed: &Believed,
    ) -> bool {
        is_claimable(record.identity)
            && believed.may_have(record.node, address)
            && identities.labels(record.identity).is_some()
            && self.is_foreign(address)
    }

    /// An address that may be another node's: unicast, and neither this node's nor out of its own range.
    fn is_foreign(&self, address: IpAddr) -> bool {
        let link_local = match address {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let usable = !link_local && !address.is_loopback() && !address.is_unspecified() && !address.is_multicast();
        let config = &self.config;
        let own = config.node_ipv4.is_some_and(|own| address == own) || config.node_ipv6.is_some_and(|o| address == o);
        let in_range = match address {
            IpAddr::V4(ip) => config.ipv4_range.is_some_and(|range| range.contains(ip)),
            IpAddr::V6(ip) => config.ipv6_range.is_some_and(|range| range.contains(ip)),
        };
        usable
            && !own
            && !in_range
            && !self.host.contains(&address)
            && !self.endpoints.by_address().contains_key(&address)
    }
}

/// How many addresses of which something impossible is told are named.
const TOLD_ADDRESSES: usize = 8;

/// Whether a prefix may be one node's: a wider one would take half the world away.
fn is_narrow(prefix: IpNetwork) -> bool {
    prefix.prefix() >= if prefix.is_ipv4() { 8 } else { 32 }
}
