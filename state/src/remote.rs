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

/// An address, and the id of the cluster that tells of it: what one says takes nothing away from another.
type Told = (IpAddr, u8);

/// All records, believed or not.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    nodes: Arc<BTreeMap<NodeName, RemoteNode>>,
    addresses: BTreeMap<Told, RemoteAddress>,
    /// The addresses that a cluster tells to have an identity.
    by_identity: BTreeMap<(Identity, u8), BTreeSet<IpAddr>>,
    /// The addresses that a cluster tells to be on a node with this address.
    by_node: BTreeMap<(u8, IpAddr), BTreeSet<IpAddr>>,
    /// How many addresses each cluster tells of.
    tellers: BTreeMap<u8, usize>,
    /// Addresses of which something else is told since that was last asked.
    changed: BTreeSet<IpNetwork>,
}

impl Remote {
    pub(crate) fn nodes(&self) -> &Arc<BTreeMap<NodeName, RemoteNode>> {
        &self.nodes
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.keys().map(|(address, _)| *address)
    }

    /// What is told of an address, and by which cluster.
    fn told_of(&self, address: IpAddr) -> impl Iterator<Item = (u8, &RemoteAddress)> {
        let told = self.addresses.range((address, u8::MIN)..=(address, u8::MAX));
        told.map(|((_, teller), record)| (*teller, record))
    }

    /// Every address of a node that the cluster with the id tells of, with one of the addresses that are said to be there.
    pub(crate) fn homes(&self, teller: u8) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let (first, last) = (IpAddr::from([0; 4]), IpAddr::from([u8::MAX; 16]));
        let homes = self.by_node.range((teller, first)..=(teller, last));
        homes.filter_map(|((_, node), inside)| Some((*node, *inside.first()?)))
    }

    /// What a cluster told.
    pub(crate) fn told_by(&self, teller: u8) -> Vec<IpAddr> {
        self.addresses.keys().filter(|(_, other)| *other == teller).map(|(address, _)| *address).collect()
    }

    pub(crate) fn nodes_of(&self, cluster: &str) -> Vec<NodeName> {
        self.nodes.keys().filter(|name| name.cluster == cluster).cloned().collect()
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
    pub(crate) fn put_address(&mut self, teller: u8, address: IpAddr, record: RemoteAddress) -> bool {
        let told = (address, teller);
        if self.addresses.get(&told) == Some(&record) {
            return false;
        }
        self.remove_address(teller, address);
        self.addresses.insert(told, record);
        *self.tellers.entry(teller).or_default() += 1;
        self.by_identity.entry((record.identity, teller)).or_default().insert(address);
        self.by_node.entry((teller, record.node)).or_default().insert(address);
        self.changed.insert(single(address));
        true
    }

    /// Whether it was there.
    pub(crate) fn remove_address(&mut self, teller: u8, address: IpAddr) -> bool {
        let told = (address, teller);
        let Some(before) = self.addresses.remove(&told) else { return false };
        if let Some(count) = self.tellers.get_mut(&teller) {
            *count -= 1;
        }
        remove_inner(&mut self.by_identity, (before.identity, teller), address);
        remove_inner(&mut self.by_node, (teller, before.node), address);
        self.changed.insert(single(address));
        true
    }

    /// Whether another node's address has the identity.
    pub(crate) fn mentions(&self, identity: Identity) -> bool {
        self.addresses_with(identity).next().is_some()
    }

    fn addresses_with(&self, identity: Identity) -> impl Iterator<Item = IpAddr> {
        self.by_identity.range((identity, u8::MIN)..=(identity, u8::MAX)).flat_map(|(_, told)| told.iter().copied())
    }

    /// Every identity that a cluster tells addresses to have, and those.
    fn claims(&self) -> impl Iterator<Item = (Identity, u8, &BTreeSet<IpAddr>)> {
        self.by_identity.iter().map(|((identity, teller), told)| (*identity, *teller, told))
    }

    /// Other nodes' addresses with the identity.
    pub(crate) fn with_identity(&self, identity: Identity) -> impl Iterator<Item = IpNetwork> {
        self.addresses_with(identity).map(single)
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
            concerned.extend(self.behind(node));
        }
        for node in differing(&one.tellers, &other.tellers) {
            concerned.extend(self.behind(node));
        }
        concerned.extend(differing(&one.routers, &other.routers).map(|router| single(*router)));
        for prefix in differing(&one.prefixes, &other.prefixes) {
            let inside = self.addresses.range((prefix.network(), u8::MIN)..=(prefix.broadcast(), u8::MAX));
            concerned.extend(inside.map(|((address, _), _)| single(*address)));
        }
        concerned
    }

    /// The addresses that are told to be on a node.
    fn behind(&self, node: &IpAddr) -> impl Iterator<Item = IpNetwork> {
        let tellers = self.tellers.keys().filter_map(|teller| self.by_node.get(&(*teller, *node)));
        tellers.flatten().map(|address| single(*address))
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

/// The part of the records that is believed.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Believed {
    /// Underlay addresses, and the one of them that the node's own prefixes are behind, if that can be reached.
    nodes: BTreeMap<IpAddr, Option<IpAddr>>,
    /// The id of the cluster whose node has the underlay address.
    tellers: BTreeMap<IpAddr, u8>,
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
    /// The id of the cluster whose node has the underlay address.
    pub(crate) fn teller(&self, node: &IpAddr) -> Option<u8> {
        self.tellers.get(node).copied()
    }

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

    /// Whether an address is that of a node of another cluster than the one with the id, or behind such a node.
    fn is_of_another_cluster(&self, address: IpAddr, id: u8) -> bool {
        let node = self.covering(address).unwrap_or(address);
        self.tellers.get(&node).or(self.tellers.get(&address)).is_some_and(|teller| *teller != id)
    }

    /// The node that answers for the prefix which an address is in.
    fn covering(&self, address: IpAddr) -> Option<IpAddr> {
        let (prefix, vtep) = self.prefixes.range(..=single(address)).next_back()?;
        prefix.contains(address).then_some(*vtep)
    }

    /// By which node's address other clusters' nodes are known, with the ids of those.
    pub(crate) fn other_clusters(&self, own: u8) -> BTreeMap<IpAddr, u8> {
        let others = self.nodes.iter().filter_map(|(address, vtep)| {
            let cluster = self.tellers.get(address).copied().filter(|cluster| *cluster != own)?;
            Some((vtep.unwrap_or(*address), cluster))
        });
        others.collect()
    }

    /// Whether the address is out of the own prefixes of a node of the cluster that says so: a record of another one is
    /// no reason to send its packets there.
    fn may_have(&self, teller: u8, node: IpAddr, address: IpAddr) -> bool {
        let vtep = self.nodes.get(&node).copied().flatten();
        vtep.is_some() && self.covering(address) == vtep && self.tellers.get(&node) == Some(&teller)
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
        let mut clusters: BTreeMap<(bool, u8), Vec<&RemoteNode>> = BTreeMap::new();
        for (name, node) in self.remote.nodes().iter() {
            match self.id_of_cluster(&name.cluster) {
                None => {
                    believed.doubts.insert(name.clone(), format!("it is of another cluster, {:?}", name.cluster));
                }
                Some(id) if id != self.config.cluster_id || name.name != self.config.node => {
                    clusters.entry((id != self.config.cluster_id, id)).or_default().push(node);
                }
                Some(_) => {}
            }
        }
        // Of two clusters that claim the same the first is believed, which is this one before any other: whatever a later
        // one says takes nothing away from it.
        let own_prefixes = self.own_prefixes();
        for ((_, id), nodes) in clusters {
            self.believe_in(id, &nodes, &own_prefixes, &mut believed);
        }
        believed
    }

    /// Adds what is to be believed of a cluster's nodes, after those of the clusters before it.
    fn believe_in(&self, id: u8, nodes: &[&RemoteNode], own_prefixes: &BTreeSet<IpNetwork>, believed: &mut Believed) {
        let family = self.underlay();
        let mut reachable = Vec::new();
        for node in nodes {
            let (taken, addresses): (Vec<IpAddr>, Vec<IpAddr>) = node
                .addresses
                .iter()
                .copied()
                .filter(|address| self.is_foreign(*address))
                .partition(|address| believed.is_of_another_cluster(*address, id));
            let vtep = addresses.iter().copied().find(|address| Family::of(address) == family);
            if vtep.is_none() {
                let why =
                    format!("it has no {family} address that may be another node's: what is behind it is not reached");
                believed.doubts.insert(node.name.clone(), why);
            }
            if let Some(address) = taken.first() {
                let why = format!("{address} is, or is behind, another cluster's node");
                believed.doubts.insert(node.name.clone(), why);
            }
            for address in addresses {
                believed.nodes.entry(address).or_insert(vtep);
                believed.tellers.entry(address).or_insert(id);
            }
            reachable.extend(vtep.map(|vtep| (*node, vtep)));
        }
        for (node, vtep) in &reachable {
            for prefix in node.prefixes.iter().map(|prefix| masked(*prefix)) {
                if let Some(why) = self.why_not(prefix, own_prefixes, believed) {
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
        let unclaimable = self.remote.claims().filter(|(identity, teller, _)| !self.may_give(*teller, *identity));
        let unclaimable =
            unclaimable.flat_map(|(identity, _, told)| told.iter().map(move |address| (*address, identity)));
        let addresses = unclaimable.take(TOLD_ADDRESSES).map(of_address);
        let strange = self.strange_addresses().take(TOLD_ADDRESSES);
        let believed = self.believed.doubts.iter().map(of_node);
        believed.chain(addresses).chain(strange).chain(self.mesh.doubts()).collect()
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
        let mut told = self.remote.told_of(address);
        let (_, record) =
            told.find(|(teller, record)| self.is_believed(*teller, address, record, &self.identities, believed))?;
        Some((record.identity, record.node))
    }

    /// The family that nodes reach each other by: IPv4 where this node has it.
    fn underlay(&self) -> Family {
        if self.config.node_ipv4.is_some() { Family::V4 } else { Family::V6 }
    }

    fn is_believed(
        &self,
        teller: u8,
        address: IpAddr,
        record: &RemoteAddress,
        identities: &Identities,
        believed: &Believed,
    ) -> bool {
        self.may_give(teller, record.identity)
            && believed.may_have(teller, record.node, address)
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
