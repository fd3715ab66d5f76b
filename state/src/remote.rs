//! What other nodes tell through the kvstore: themselves, and who has which of their addresses. And what of it is
//! believed: a record may be stale or hostile, so none takes an address of this node, one that another node answers for,
//! or an identity that nobody may claim.

use crate::State;
use crate::identities::Identities;
use crate::input::{Family, NodeName, RemoteAddress, RemoteNode};
use crate::ipam::{masked, overlap, single};
use crate::ipcache::Ipcache;
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
    /// How many addresses have each identity.
    references: BTreeMap<Identity, u32>,
}

impl Remote {
    pub(crate) fn nodes(&self) -> &Arc<BTreeMap<NodeName, RemoteNode>> {
        &self.nodes
    }

    pub(crate) fn put_node(&mut self, node: RemoteNode) {
        if self.nodes.get(&node.name) != Some(&node) {
            Arc::make_mut(&mut self.nodes).insert(node.name.clone(), node);
        }
    }

    pub(crate) fn remove_node(&mut self, name: &NodeName) {
        if self.nodes.contains_key(name) {
            Arc::make_mut(&mut self.nodes).remove(name);
        }
    }

    pub(crate) fn put_address(&mut self, address: IpAddr, record: RemoteAddress) {
        *self.references.entry(record.identity).or_default() += 1;
        let before = self.addresses.insert(address, record);
        before.into_iter().for_each(|before| self.dereference(before.identity));
    }

    pub(crate) fn remove_address(&mut self, address: IpAddr) {
        let before = self.addresses.remove(&address);
        before.into_iter().for_each(|before| self.dereference(before.identity));
    }

    /// Whether another node's address has the identity.
    pub(crate) fn mentions(&self, identity: Identity) -> bool {
        self.references.contains_key(&identity)
    }

    fn dereference(&mut self, identity: Identity) {
        if let Some(count) = self.references.get_mut(&identity) {
            *count -= 1;
            if *count == 0 {
                self.references.remove(&identity);
            }
        }
    }
}

/// What another node may say of an address of its own. Other reserved identities are this node's to tell.
pub(crate) fn is_claimable(identity: Identity) -> bool {
    identity.is_allocated() || identity == Identity::INIT || identity == Identity::HEALTH
}

/// The part of the records that is believed.
#[derive(Debug, Default)]
pub(crate) struct Believed {
    /// Underlay addresses, and the one of them that the node's own prefixes are behind, if that can be reached.
    nodes: BTreeMap<IpAddr, Option<IpAddr>>,
    /// Prefixes of nodes, none of which overlaps another.
    prefixes: BTreeMap<IpNetwork, IpAddr>,
    routers: Vec<(IpAddr, IpAddr)>,
}

impl Believed {
    pub(crate) fn nodes(&self) -> BTreeSet<IpAddr> {
        self.nodes.keys().copied().collect()
    }

    /// What is behind which node.
    pub(crate) fn vteps(&self) -> BTreeMap<IpNetwork, IpAddr> {
        self.prefixes.clone()
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
    /// What is believed of other nodes.
    pub(crate) fn believed(&self) -> Believed {
        let mut believed = Believed::default();
        let own = |node: &&RemoteNode| node.name.name == self.config.node && node.name.cluster == self.config.cluster;
        let others: Vec<&RemoteNode> = self.remote.nodes().values().filter(|node| !own(node)).collect();
        let family = self.underlay();
        let mut reachable = Vec::new();
        for node in others {
            let addresses: Vec<IpAddr> =
                node.addresses.iter().copied().filter(|address| self.is_foreign(*address)).collect();
            let vtep = addresses.iter().copied().find(|address| Family::of(address) == family);
            for address in addresses {
                believed.nodes.entry(address).or_insert(vtep);
            }
            reachable.extend(vtep.map(|vtep| (node, vtep)));
        }
        let own_pools = self.pools();
        for (node, vtep) in &reachable {
            for prefix in node.prefixes.iter().map(|prefix| masked(*prefix)) {
                let ours = own_pools.iter().any(|pool| overlap(pool, &prefix));
                let host = self.host.iter().any(|address| prefix.contains(*address));
                if !ours && !host && is_narrow(prefix) && believed.is_free(prefix) {
                    believed.prefixes.insert(prefix, *vtep);
                }
            }
        }
        for (node, vtep) in reachable {
            let routers = node.routers.iter().filter(|router| believed.covering(**router) == Some(vtep));
            let routers: Vec<_> = routers.map(|router| (*router, vtep)).collect();
            believed.routers.extend(routers);
        }
        believed
    }

    /// Other nodes themselves and, as far as their identities are known here, their endpoints.
    pub(crate) fn remote_rows(&self, believed: &Believed, ipcache: &mut Ipcache) {
        for node in believed.nodes.keys() {
            ipcache.remote(*node, Identity::REMOTE_NODE, *node);
        }
        for (router, node) in &believed.routers {
            ipcache.remote(*router, Identity::REMOTE_NODE, *node);
        }
        for (address, record) in &self.remote.addresses {
            if self.is_believed(*address, record, &self.identities, believed) {
                ipcache.remote(*address, record.identity, record.node);
            }
        }
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

/// Whether a prefix may be one node's: a wider one would take half the world away.
fn is_narrow(prefix: IpNetwork) -> bool {
    prefix.prefix() >= if prefix.is_ipv4() { 8 } else { 32 }
}
