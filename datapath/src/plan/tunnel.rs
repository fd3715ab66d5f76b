//! Other nodes: the tunnel device, who is behind which of them, whom to believe, and the host's routes to their pods.

use super::{Plan, Seen, Settings, Stage};
use crate::current::{Attachment, Current, NodeNumber, Vtep};
use crate::operation::{Operation, TunnelKind, TunnelSpec};
use crate::{GeneveBy, NodeAddresses, Tunnel};
use ipnetwork::IpNetwork;
use model::Identity;
use model::desired::{Datapath, Object};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What fits through an underlay of 1500 bytes, whatever its family; before there is a snapshot that tells.
const FIRST_MTU: u32 = 1430;

/// What is wanted of other nodes.
#[derive(Default)]
struct Wanted {
    /// Prefixes of pods.
    pods: BTreeMap<IpNetwork, IpAddr>,
    /// Their addresses, and the one that stands for each.
    nodes: BTreeMap<IpAddr, IpAddr>,
    /// The id of this node's cluster.
    cluster_id: u8,
    /// Those of others' nodes, by the address that stands for each.
    clusters: Arc<BTreeMap<IpAddr, u8>>,
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
            cluster_id: desired.cluster_id,
            clusters: desired.clusters.clone(),
        }
    }

    /// Pods, and the nodes themselves: all their addresses by way of the one that the tunnel's MTU is reckoned for. By way
    /// of itself an IPv6 address would have an outer header larger than that.
    fn vteps(&self, numbers: &Numbers) -> BTreeMap<IpNetwork, Vtep> {
        let way = |address: &IpAddr, node: &IpAddr| if self.nodes.contains_key(node) { *node } else { *address };
        let nodes = self.nodes.iter().map(|(address, node)| (IpNetwork::from(*address), way(address, node)));
        let vtep = |address| {
            let node = self.number(numbers, address)?;
            Some(Vtep { address, node, clusters: self.clusters_of(address) })
        };
        nodes.chain(self.pods.clone()).filter_map(|(prefix, node)| Some((prefix, vtep(node)?))).collect()
    }

    /// Whose identities the node of an address may give: those of its cluster, and those without an id that this cluster
    /// gave before it had one.
    fn clusters_of(&self, address: IpAddr) -> Option<[u8; 2]> {
        let other = self.clusters.get(&self.name(address)).map(|id| [*id, *id]);
        (self.cluster_id != 0).then(|| other.unwrap_or([0, self.cluster_id]))
    }

    /// The number of the node that an address belongs to.
    fn number(&self, numbers: &Numbers, address: IpAddr) -> Option<NodeNumber> {
        numbers.get(&self.name(address)).copied()
    }

    /// The address that stands for the node of an address.
    fn name(&self, address: IpAddr) -> IpAddr {
        self.nodes.get(&address).copied().unwrap_or(address)
    }

    /// A number for each node, by the address that stands for it: the one that it has, or one that no node ever had. Once
    /// all were given: one that no node has. Flows of who had it are judged again since it went.
    fn numbers(&self, current: &Current) -> Numbers {
        let bpf = &current.bpf;
        let behind = bpf.vteps.values().map(|vtep| (self.name(vtep.address), vtep.node));
        let nodes = bpf.nodes.iter().map(|(address, number)| (self.name(*address), *number));
        let held: Numbers = behind.chain(nodes).collect();
        let in_kernel: BTreeSet<NodeNumber> =
            bpf.vteps.values().map(|v| v.node).chain(bpf.nodes.values().copied()).collect();
        let mut last = bpf.last_node;
        let (mut numbers, mut taken) = (Numbers::new(), BTreeSet::new());
        let names = self.nodes.values().copied().chain(self.pods.values().map(|vtep| self.name(*vtep)));
        for name in names.collect::<BTreeSet<IpAddr>>() {
            let fits = |number: &NodeNumber| (1..=NodeNumber::LAST).contains(&number.0);
            let number = held.get(&name).copied().filter(|number| fits(number) && !taken.contains(number));
            let free = |number: &NodeNumber| !taken.contains(number) && !in_kernel.contains(number);
            let after =
                |last: u32| (last + 1..=NodeNumber::LAST).chain(1..=NodeNumber::LAST).map(NodeNumber).find(free);
            // Without a number it is not believed: there are more nodes than numbers.
            let Some(number) = number.or_else(|| after(last)) else { continue };
            last = last.max(number.0);
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

/// Plans what does not depend on other nodes; tells whether the device is made anew.
pub(super) fn plan(plan: &mut Plan, current: &Current, desired: &Datapath, settings: Settings) -> bool {
    let Settings { tunnel, node, .. } = settings;
    let made = match tunnel {
        Tunnel::Disabled => {
            withdraw(plan, current);
            false
        }
        Tunnel::Vxlan { port } => device(plan, current, desired, TunnelKind::Vxlan { port }),
        Tunnel::Geneve { by: GeneveBy::Programs, .. } => device(plan, current, desired, TunnelKind::Pair),
        Tunnel::Geneve { port, .. } => device(plan, current, desired, TunnelKind::Geneve { port }),
    };
    let by_programs = matches!(tunnel, Tunnel::Geneve { by: GeneveBy::Programs, .. });
    let directly = tunnel == Tunnel::Disabled && !desired.nodes.is_empty();
    let mut devices =
        underlay(plan, current, if by_programs || directly { node } else { NodeAddresses::default() }, by_programs);
    if !desired.services.is_empty() {
        devices.extend(&current.network.ethernet);
    }
    uplinks(plan, current, &devices);
    let sources = if by_programs { node } else { NodeAddresses::default() };
    if current.bpf.tunnel_sources != sources {
        plan.add(Stage::Nodes, Operation::TunnelSources(sources));
    }
    let snat = NodeAddresses::of(&sources_of(current, desired, node));
    if !desired.services.is_empty() && current.bpf.snat_sources != snat {
        plan.add(Stage::Nodes, Operation::SnatSources(snat));
    }
    let mtu = match tunnel {
        Tunnel::Disabled => Some(0),
        Tunnel::Vxlan { .. } | Tunnel::Geneve { .. } => desired.tunnel_mtu,
    };
    if let Some(mtu) = mtu.filter(|mtu| *mtu != current.bpf.tunnel_mtu) {
        plan.add(Stage::Node, Operation::TunnelMtu(mtu));
    }
    made
}

/// What the host's packets to other nodes' pods, and those that it sends on for others, have as source: of each family an address that those who answer believe to be
/// this node's, its own or, where the network between the nodes lacks the family, a gateway out of a pool of its own. Left
/// to itself the kernel would take any IPv4 address of the host, that of `docker0` for one.
fn sources_of(current: &Current, desired: &Datapath, node: NodeAddresses) -> Vec<IpAddr> {
    let own: Vec<IpAddr> = node.iter().filter(|ip| current.network.addresses.contains_key(ip)).collect();
    let ours = |gateway: &&IpAddr| desired.pools.iter().any(|pool| pool.contains(**gateway));
    let gateways = desired.gateways.iter().filter(ours).copied();
    own.iter().copied().chain(gateways).collect()
}

/// Plans who is behind the tunnel, and the routes there. `made`: the device is made anew.
pub(super) fn nodes(
    plan: &mut Plan,
    current: &Current,
    desired: &Datapath,
    seen: &Seen,
    settings: Settings,
    made: bool,
) {
    let Settings { tunnel, node, .. } = settings;
    let wanted = match tunnel {
        Tunnel::Disabled => Wanted::default(),
        Tunnel::Vxlan { .. } | Tunnel::Geneve { .. } => Wanted::of(desired),
    };
    // Without a tunnel nothing is to be heard of that could be merely unrecognised.
    let settled = desired.settled || tunnel == Tunnel::Disabled;
    vteps(plan, current, &wanted, seen, settled);
    let none = BTreeMap::new();
    let routes = if made { &none } else { &current.network.tunnel_routes };
    let sources = sources_of(current, desired, node);
    for prefix in wanted.pods.keys() {
        let source = sources.iter().copied().find(|source| source.is_ipv4() == prefix.is_ipv4());
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
fn device(plan: &mut Plan, current: &Current, desired: &Datapath, kind: TunnelKind) -> bool {
    let held = current.network.tunnel;
    let former = held.map(|link| link.mtu);
    let spec = TunnelSpec { kind, mtu: desired.tunnel_mtu.or(former).unwrap_or(FIRST_MTU) };
    let made = held.is_none_or(|link| link.kind != kind);
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

/// The devices that carry addresses of the node's; where programs `must` speak for a tunnel device, one for each.
fn underlay(plan: &mut Plan, current: &Current, node: NodeAddresses, must: bool) -> BTreeSet<u32> {
    let mut devices = BTreeSet::new();
    let ethernet = |device: &&u32| current.network.ethernet.contains(device);
    for address in node.iter() {
        match current.network.addresses.get(&address).filter(ethernet) {
            Some(device) => drop(devices.insert(*device)),
            None if !must => {}
            None => {
                let missing = format!("no Ethernet device has this node's address {address}");
                plan.failures.insert(Object::Node("underlay"), missing);
            }
        }
    }
    devices
}

/// The program on devices that are not ours: where other nodes are reached by programs or without a tunnel, and where
/// services may be asked for, which is by any address of the host. Without Ethernet frames there is nothing that it could
/// read.
fn uplinks(plan: &mut Plan, current: &Current, devices: &BTreeSet<u32>) {
    let held = &current.bpf.underlays;
    for device in devices.iter().filter(|device| held.get(device) != Some(&Attachment::Current)) {
        plan.add(Stage::Attach, Operation::AttachUnderlay(*device));
    }
    for device in held.keys().filter(|device| !devices.contains(device)) {
        plan.add(Stage::Unpin, Operation::DetachUnderlay(*device));
    }
}

fn withdraw(plan: &mut Plan, current: &Current) {
    if current.network.tunnel.is_some() {
        plan.add(Stage::Remove, Operation::DeleteTunnel);
    }
    if current.bpf.tunnel.is_some() {
        plan.add(Stage::Unpin, Operation::UnpinTunnel);
    }
}

fn vteps(plan: &mut Plan, current: &Current, wanted: &Wanted, seen: &Seen, settled: bool) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use model::service::{Algorithm, ServiceType, Table};
    use model::{L4Address, LoadBalancer, Protocol, ServiceId};
    use std::net::{Ipv4Addr, Ipv6Addr};

    const NODE: NodeAddresses =
        NodeAddresses { v4: Some(Ipv4Addr::new(172, 31, 0, 1)), v6: Some(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1)) };

    fn planned(current: &Current, tunnel: Tunnel) -> Plan {
        let desired = Datapath { settled: true, ..Datapath::default() };
        let settings = Settings { masquerade: false, tunnel, node: NODE, sockets: false };
        let mut planned = Plan::default();
        let made = plan(&mut planned, current, &desired, settings);
        nodes(&mut planned, current, &desired, &Seen::default(), settings, made);
        planned
    }

    fn operations(plan: &Plan) -> Vec<Operation> {
        plan.stages.values().flatten().cloned().collect()
    }

    #[test]
    fn nodes_give_identities_of_their_clusters() {
        let (near, far): (IpAddr, IpAddr) = ([172, 31, 0, 2].into(), [172, 31, 0, 3].into());
        let vteps = |cluster_id| {
            let desired = Datapath {
                nodes: Arc::new([(near, near), (far, far)].into()),
                vteps: Arc::new([("10.65.0.0/24".parse().unwrap(), far)].into()),
                cluster_id,
                clusters: Arc::new([(far, 7)].into()),
                ..Datapath::default()
            };
            let wanted = Wanted::of(&desired);
            let vteps = wanted.vteps(&wanted.numbers(&Current::default()));
            vteps.into_values().map(|vtep| vtep.clusters).collect::<Vec<_>>()
        };
        // The pods of the far node, the near node, the far one.
        assert_eq!(vteps(3), [Some([7, 7]), Some([0, 3]), Some([7, 7])]);
        assert_eq!(vteps(0), [None; 3]);
    }

    #[test]
    fn services_are_asked_for_on_every_device_with_an_address() {
        let mut current = Current::default();
        current.network.addresses = [([172, 31, 0, 1].into(), 3), ([172, 17, 0, 1].into(), 4)].into();
        current.network.ethernet = [3, 4].into();
        let mut desired = Datapath { settled: true, ..Datapath::default() };
        let settings = Settings { masquerade: false, tunnel: Tunnel::Disabled, node: NODE, sockets: false };
        let attached = |desired: &Datapath| {
            let mut planned = Plan::default();
            plan(&mut planned, &current, desired, settings);
            operations(&planned)
        };
        assert_eq!(attached(&desired), []);
        let table = Table { by: Algorithm::Random, places: [].into() };
        let service = LoadBalancer {
            id: ServiceId(1),
            kind: ServiceType::HostPort,
            backends: [].into(),
            internal: table.clone(),
            external: table,
            affinity: None,
            source_ranges: None,
        };
        let port = L4Address { ip: [172, 31, 0, 1].into(), port: 8080, protocol: Protocol::TCP };
        desired.services.insert(port, Arc::new(service));
        let sources = Operation::SnatSources(NodeAddresses { v4: NODE.v4, v6: None });
        assert_eq!(attached(&desired), [sources, Operation::AttachUnderlay(3), Operation::AttachUnderlay(4)]);
    }

    #[test]
    fn a_node_is_reached_one_way_by_whichever_address() {
        let (v4, v6): (IpAddr, IpAddr) = ([172, 31, 0, 2].into(), "fd77::2".parse().unwrap());
        let desired = Datapath { nodes: Arc::new([(v4, v4), (v6, v4)].into()), ..Datapath::default() };
        let wanted = Wanted::of(&desired);
        let vteps = wanted.vteps(&wanted.numbers(&Current::default()));
        assert!(vteps.values().all(|vtep| vtep.address == v4) && vteps.len() == 2, "{vteps:?}");
    }

    #[test]
    fn programs_that_speak_geneve_are_where_the_nodes_addresses_are() {
        let by = |by| Tunnel::Geneve { port: 6081, by };
        let mut current = Current::default();
        current.network.addresses.extend(NODE.iter().map(|address| (address, 3)));
        current.network.addresses.insert([192, 0, 2, 1].into(), 4);
        current.network.ethernet = [3, 4, 5].into();
        let first = operations(&planned(&current, by(GeneveBy::Programs)));
        for wanted in [
            Operation::CreateTunnel(TunnelSpec { kind: TunnelKind::Pair, mtu: FIRST_MTU }),
            Operation::TunnelSources(NODE),
            Operation::AttachUnderlay(3),
        ] {
            assert!(first.contains(&wanted), "{wanted:?} is not in {first:?}");
        }
        first.iter().for_each(|operation| current.record(operation));
        assert_eq!(operations(&planned(&current, by(GeneveBy::Programs))), []);
        // An address moves; another is nowhere.
        current.network.addresses.insert(NODE.v4.unwrap().into(), 5);
        current.network.addresses.remove(&IpAddr::from(NODE.v6.unwrap()));
        let moved = planned(&current, by(GeneveBy::Programs));
        assert_eq!(operations(&moved), [Operation::DetachUnderlay(3), Operation::AttachUnderlay(5)]);
        assert!(moved.failures.contains_key(&Object::Node("underlay")));
        // Nothing of it stays in any other mode.
        for other in [Tunnel::Disabled, Tunnel::Vxlan { port: 8472 }, by(GeneveBy::Device)] {
            let plan = planned(&current, other);
            let all = operations(&plan);
            assert!(all.contains(&Operation::DetachUnderlay(3)), "{all:?}");
            assert!(all.contains(&Operation::TunnelSources(NodeAddresses::default())), "{all:?}");
            assert!(plan.failures.is_empty());
        }
    }
}
