//! Which addresses of which nodes are probed, and whether they are believed to be theirs: a record of a stranger must not
//! have this node knock at doors of others.

use ipnetwork::IpNetwork;
use model::Identity;
use state::{Family, NodeName, View};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Whose address it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    Host,
    HealthEndpoint,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pub name: NodeName,
    /// At most one of each end and family, IPv4 first.
    pub addresses: Vec<(End, IpAddr)>,
}

/// This node, as the prober knows it.
#[derive(Clone, Debug)]
pub struct Local {
    pub name: NodeName,
    pub addresses: Vec<IpAddr>,
}

impl Local {
    /// Others are probed in the families that this node has.
    fn has(&self, family: Family) -> bool {
        self.addresses.iter().any(|address| Family::of(address) == family)
    }
}

/// A node's name and what it tells of itself.
pub fn target(local: &Local, name: &NodeName, view: &View) -> Option<Target> {
    if *name == local.name {
        let host = local.addresses.iter().map(|address| (End::Host, *address));
        let own = view.endpoints.values().filter(|endpoint| endpoint.identity == Identity::HEALTH);
        let own =
            own.flat_map(|endpoint| endpoint.ipv4.map(IpAddr::V4).into_iter().chain(endpoint.ipv6.map(IpAddr::V6)));
        let addresses = host.chain(own.map(|address| (End::HealthEndpoint, address))).collect();
        return Some(Target { name: name.clone(), addresses });
    }
    let node = view.nodes.get(name)?;
    let first =
        |addresses: &BTreeSet<IpAddr>, family| addresses.iter().copied().find(|address| Family::of(address) == family);
    let families = || [Family::V4, Family::V6].into_iter();
    let hosts = families().filter(|family| local.has(*family)).filter_map(|family| first(&node.addresses, family));
    // What is behind a node is reached by whichever family the nodes have, if this one has such addresses itself.
    let ours = |family: &Family| view.pools.values().any(|pool| pool.node_pool && pool.family == *family);
    let ends = families().filter(ours).filter_map(|family| first(&node.health, family));
    let hosts = hosts.map(|address| (End::Host, address));
    let addresses = hosts.chain(ends.map(|address| (End::HealthEndpoint, address))).collect();
    Some(Target { name: name.clone(), addresses })
}

/// Whether an address is that node's, as far as this node believes the records.
pub fn is_believed(local: &Local, name: &NodeName, end: End, address: IpAddr, view: &View) -> bool {
    let identity = match end {
        End::Host => Identity::REMOTE_NODE,
        End::HealthEndpoint => Identity::HEALTH,
    };
    *name == local.name || view.ips.get(&IpNetwork::from(address)).is_some_and(|row| row.identity == identity)
}

/// All nodes, this one included.
pub fn names<'a>(local: &'a Local, view: &'a View) -> impl Iterator<Item = &'a NodeName> {
    let others = view.nodes.keys().filter(|name| **name != local.name);
    std::iter::once(&local.name).chain(others)
}
