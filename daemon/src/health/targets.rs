//! Which addresses of which nodes are probed, and whether they are believed to be theirs: a record of a stranger must not
//! have this node knock at doors of others.

use ipnetwork::IpNetwork;
use model::Identity;
use state::{Family, NodeName, View};
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
        let addresses = local.addresses.iter().map(|address| (End::Host, *address)).collect();
        return Some(Target { name: name.clone(), addresses });
    }
    let node = view.nodes.get(name)?;
    let first = |family| node.addresses.iter().find(|address| Family::of(address) == family);
    let families = [Family::V4, Family::V6].into_iter().filter(|family| local.has(*family));
    let addresses = families.filter_map(first).map(|address| (End::Host, *address)).collect();
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
