//! Other nodes: the tunnel device, who is behind which of them, whom to believe, and the host's routes to their pods.

use super::{Plan, Seen, Stage};
use crate::Tunnel;
use crate::current::{Attachment, Current, NodeNumber, Vtep};
use crate::operation::{Operation, TunnelSpec};
use ipnetwork::IpNetwork;
use model::Identity;
use model::desired::Datapath;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What fits through an underlay of 1500 bytes, whatever its family; before there are endpoints that tell.
const FIRST_MTU: u32 = 1430;

/// What is wanted of other nodes.
#[derive(Default)]
struct Wanted {
    /// Prefixes of pods.
    pods: BTreeMap<IpNetwork, IpAddr>,
    /// Their addresses, and the one that stands for each.
    nodes: BTreeMap<IpAddr, IpAddr>,
    /// Of the nodes' addresses our own: the other nodes know them.
    own: BTreeSet<IpAddr>,
}

impl Wanted {
    /// What snapshots say, but for this node itself: nothing of ours is behind a tunnel, and who comes through one with
    /// an address of ours lies.
    fn of(desired: &Datapath) -> Wanted {
        let held = |node: &IpAddr| desired.ipcache.get(&IpNetwork::from(*node));
        let own = |node: &IpAddr| held(node).is_some_and(|entry| entry.identity == Identity::HOST);
        let elsewhere = |node: &IpAddr| !own(node) && held(node).is_none_or(|entry| entry.endpoint.is_none());
        Wanted {
            pods: desired.vteps.iter().filter(|(_, node)| elsewhere(node)).map(|(p, node)| (*p, *node)).collect(),
            nodes: desired.nodes.iter().filter(|(ip, _)| elsewhere(ip)).map(|(ip, node)| (*ip, *node)).collect(),
            own: desired.nodes.keys().copied().filter(own).collect(),
        }
    }

    /// What the host's packets to a prefix have as source: an address that those who answer believe to be a node's.
    fn source(&self, prefix: &IpNetwork) -> Option<IpAddr> {
        self.own.iter().copied().find(|own| own.is_ipv4() == prefix.is_ipv4())
    }

    /// Pods, and the nodes themselves, which are behind themselves.
    fn vteps(&self, numbers: &Numbers) -> BTreeMap<IpNetwork, Vtep> {
        let nodes = self.nodes.keys().map(|node| (IpNetwork::from(*node), *node));
        let vtep = |address| self.number(numbers, address).map(|node| Vtep { address, node });
        nodes.chain(self.pods.clone()).filter_map(|(prefix, node)| Some((prefix, vtep(node)?))).collect()
    }

    /// The number of the node that an address belongs to.
    fn number(&self, numbers: &Numbers, address: IpAddr) -> Option<NodeNumber> {
        numbers.get(&self.name(address)).copied()
    }

    /// The address that stands for the node of an address.
    fn name(&self, address: IpAddr) -> IpAddr {
        self.nodes.get(&address).copied().unwrap_or(address)
    }

    /// A number for each node, by the address that stands for it: the one that it has, or one that no node ever had.
    fn numbers(&self, current: &Current) -> Numbers {
        let bpf = &current.bpf;
        let behind = bpf.vteps.values().map(|vtep| (self.name(vtep.address), vtep.node));
        let nodes = bpf.nodes.iter().map(|(address, number)| (self.name(*address), *number));
        let held: Numbers = behind.chain(nodes).collect();
        let mut last = bpf.last_node;
        let (mut numbers, mut taken) = (Numbers::new(), BTreeSet::new());
        let names = self.nodes.values().copied().chain(self.pods.values().map(|vtep| self.name(*vtep)));
        for name in names.collect::<BTreeSet<IpAddr>>() {
            let number = held.get(&name).copied().filter(|number| number.0 != 0 && !taken.contains(number));
            let number = number.unwrap_or_else(|| {
                last = last.wrapping_add(1).max(1);
                NodeNumber(last)
            });
            taken.insert(number);
            numbers.insert(name, number);
        }
        numbers
    }
}

/// By the address that stands for the node.
type Numbers = BTreeMap<IpAddr, NodeNumber>;

/// Whether flows rest on what an operation changes.
pub(super) fn moves_flows(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::PutVtep(..) | Operation::RemoveVtep(_) | Operation::RemoveNode(_) | Operation::RemoveIdentity(_)
    )
}

pub(super) fn plan(plan: &mut Plan, current: &Current, desired: &Datapath, seen: &Seen, tunnel: Tunnel) {
    let wanted = match tunnel {
        Tunnel::Disabled => Wanted::default(),
        Tunnel::Vxlan { .. } => Wanted::of(desired),
    };
    // Without a tunnel nothing is to be heard of that could be merely unrecognised.
    let settled = desired.settled || tunnel == Tunnel::Disabled;
    let made = match tunnel {
        Tunnel::Disabled => {
            withdraw(plan, current);
            false
        }
        Tunnel::Vxlan { port } => device(plan, current, desired, port),
    };
    nodes(plan, current, &wanted, seen, settled);
    let none = BTreeMap::new();
    let routes = if made { &none } else { &current.network.tunnel_routes };
    for prefix in wanted.pods.keys() {
        let source = wanted.source(prefix);
        if routes.get(prefix) != Some(&source) {
            plan.add(Stage::Reach, Operation::AddTunnelRoute(*prefix, source));
        }
    }
    for prefix in routes.keys().filter(|prefix| !wanted.pods.contains_key(prefix)) {
        if settled || seen.vteps.contains(prefix) {
            plan.add(Stage::Withdraw, Operation::RemoveTunnelRoute(*prefix));
        }
    }
}

/// Plans the device; tells whether it is made anew.
fn device(plan: &mut Plan, current: &Current, desired: &Datapath, port: u16) -> bool {
    let held = current.network.tunnel;
    let largest = desired.endpoints.values().map(|endpoint| endpoint.mtu).max();
    let former = held.map(|link| link.mtu).filter(|_| largest.is_none() || !desired.settled);
    let spec = TunnelSpec { port, mtu: largest.max(former).unwrap_or(FIRST_MTU) };
    let made = held.is_none_or(|link| link.port != port);
    if made {
        plan.add(Stage::Node, Operation::CreateTunnel(spec));
    } else if held.is_some_and(|link| link.mtu != spec.mtu) {
        plan.add(Stage::Node, Operation::AdjustTunnel(spec));
    }
    if made || current.bpf.tunnel != Some(Attachment::Current) {
        plan.add(Stage::Attach, Operation::AttachTunnel);
    }
    if made || !held.is_some_and(|link| link.up) {
        plan.add(Stage::Raise, Operation::RaiseTunnel);
    }
    made
}

fn withdraw(plan: &mut Plan, current: &Current) {
    if current.network.tunnel.is_some() {
        plan.add(Stage::Remove, Operation::DeleteTunnel);
    }
    if current.bpf.tunnel.is_some() {
        plan.add(Stage::Unpin, Operation::UnpinTunnel);
    }
}

fn nodes(plan: &mut Plan, current: &Current, wanted: &Wanted, seen: &Seen, settled: bool) {
    let numbers = wanted.numbers(current);
    let vteps = wanted.vteps(&numbers);
    let known = |prefix: &IpNetwork| seen.vteps.contains(prefix) || seen.nodes.contains(&prefix.ip());
    for prefix in current.bpf.vteps.keys().filter(|prefix| !vteps.contains_key(prefix)) {
        if settled || known(prefix) {
            plan.add(Stage::Forget, Operation::RemoveVtep(*prefix));
        }
    }
    for node in current.bpf.nodes.keys().filter(|node| !wanted.nodes.contains_key(node)) {
        if settled || seen.nodes.contains(node) {
            plan.add(Stage::Forget, Operation::RemoveNode(*node));
        }
    }
    for (prefix, vtep) in vteps {
        if current.bpf.vteps.get(&prefix) != Some(&vtep) {
            plan.add(Stage::Nodes, Operation::PutVtep(prefix, vtep));
        }
    }
    for node in wanted.nodes.keys() {
        match wanted.number(&numbers, *node) {
            Some(number) if current.bpf.nodes.get(node) != Some(&number) => {
                plan.add(Stage::Nodes, Operation::PutNode(*node, number));
            }
            _ => {}
        }
    }
}
