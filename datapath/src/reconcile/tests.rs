pub(crate) mod services;

use super::*;
use crate::current::{Attachment, Current};
use crate::fake::Fake;
use crate::{NodeAddresses, Tunnel};
use ipnetwork::IpNetwork;
use model::desired::{Endpoint, LinkIntent};
use model::{Direction, Mac, PolicyEntry, PolicyKey, PolicyMap};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};

const SETTINGS: Settings = Settings {
    masquerade: true,
    tunnel: Tunnel::Vxlan { port: 8472 },
    node: NodeAddresses { v4: None, v6: None },
    sockets: true,
};

fn endpoint(id: u16, name: u8, identity: u32, address: u8) -> Endpoint {
    Endpoint {
        id: EndpointId(id),
        ifname: format!("lxc{id}{name}"),
        peer_ifname: format!("tmp{id}{name}"),
        link: LinkIntent::Create,
        mac: Mac([2, 0, 0, name, 0, id as u8]),
        node_mac: Mac([2, 1, 0, name, 0, id as u8]),
        mtu: 1500,
        ipv4: Some(Ipv4Addr::new(10, 15, address, id as u8)),
        ipv6: address.is_multiple_of(2).then(|| Ipv6Addr::from(u128::from(address) << 16 | u128::from(id))),
        gateway4: Some(Ipv4Addr::new(10, 15, 0, 1)),
        gateway6: None,
        identity: Identity(identity),
        internal: address == 3,
    }
}

/// Identities that policies and addresses speak of.
fn identity() -> impl Strategy<Value = u32> {
    prop_oneof![Just(1u32), Just(2), 300u32..304, (1u32 << 24)..(1 << 24) + 3]
}

fn policy_map() -> impl Strategy<Value = Arc<PolicyMap>> {
    let key = (any::<bool>(), prop_oneof![Just(0u32), identity()]).prop_map(|(egress, identity)| {
        let direction = if egress { Direction::Egress } else { Direction::Ingress };
        PolicyKey::any_port(direction, Identity(identity))
    });
    let entry = any::<bool>().prop_map(|deny| if deny { PolicyEntry::DENY } else { PolicyEntry::ALLOW });
    btree_map(key, entry, 0..6).prop_map(|entries| Arc::new(entries.into_iter().collect()))
}

/// Snapshots of a few endpoints, policies, prefixes, gateways and pools.
pub(crate) fn snapshot(settled: impl Strategy<Value = bool>) -> impl Strategy<Value = Datapath> {
    let endpoints = btree_map(1u16..6, (0u8..2, 300u32..303, 0u8..4), 0..5);
    let cidrs = btree_map((0u8..4).prop_map(|n| format!("172.16.{n}.0/24").parse().unwrap()), identity(), 0..3);
    // Of a pool of the node's, or of none.
    let gateways = btree_set(
        (1u8..4, any::<bool>()).prop_map(|(n, ours)| IpAddr::from([10, if ours { n } else { 15 }, n, 1])),
        0..3,
    );
    let pools = btree_set((0u8..3).prop_map(|n| format!("10.{n}.0.0/16").parse().unwrap()), 0..3);
    let node = || (1u8..4).prop_map(|n| IpAddr::from([172, 31, 0, n]));
    let pods = prop_oneof![
        (0u8..4).prop_map(|n| format!("10.16.{n}.0/24").parse().unwrap()),
        (0u8..2).prop_map(|n| format!("f00d:{n}::/64").parse().unwrap()),
    ];
    let identities = btree_set((300u32..306).prop_map(Identity), 0..5);
    let peers = (btree_map(pods, node(), 0..4), btree_map(node(), node(), 0..3), identities);
    (endpoints, cidrs, vec(policy_map(), 3), gateways, pools, peers, settled).prop_map(
        |(endpoints, cidrs, policies, gateways, pools, (vteps, nodes, identities), settled)| {
            let identities = identities.into_iter().map(|identity| (identity, ())).collect();
            let (vteps, nodes) = (Arc::new(vteps), Arc::new(nodes));
            let mut desired = Datapath { settled, gateways, pools, vteps, nodes, identities, ..Datapath::default() };
            desired.tunnel_mtu = Some(1400 + desired.pools.len() as u32);
            let host = IpcacheEntry { identity: Identity::HOST, endpoint: None };
            desired.ipcache.insert("172.31.0.1/32".parse().unwrap(), host);
            for (id, (name, identity, address)) in endpoints {
                let endpoint = endpoint(id, name, identity, address);
                let entry = IpcacheEntry { identity: endpoint.identity, endpoint: Some(endpoint.id) };
                desired.ipcache.extend(addresses(&endpoint).map(|ip| (IpNetwork::from(ip), entry)));
                desired.policies.insert(endpoint.identity, policies[identity as usize - 300].clone());
                desired.endpoints.insert(endpoint.id, endpoint);
            }
            let cidr = |(prefix, identity)| (prefix, IpcacheEntry { identity: Identity(identity), endpoint: None });
            desired.ipcache.extend(cidrs.into_iter().map(cidr));
            desired
        },
    )
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> {
    endpoint.ipv4.map(IpAddr::V4).into_iter().chain(endpoint.ipv6.map(IpAddr::V6))
}

/// What a policy says about one peer by name.
fn about(map: &PolicyMap, identity: Identity) -> BTreeMap<PolicyKey, PolicyEntry> {
    map.columns().get(&identity).into_iter().flat_map(|column| column.of(identity)).collect()
}

/// What must hold after every single operation, whatever failed before it.
fn fail_closed(before: &Current, operation: &Operation, after: &Current, desired: &Datapath, nothing_fails: bool) {
    for (id, link) in &after.network.links {
        let filtered = after.bpf.attachments.get(id).is_some_and(|attachment| *attachment != Attachment::Dead);
        assert!(!link.up || filtered, "endpoint {id} is up and unfiltered after {operation:?}");
    }
    let filtered = after.bpf.tunnel.is_some_and(|attachment| attachment != Attachment::Dead);
    assert!(after.network.tunnel.is_none_or(|link| !link.up) || filtered, "an unfiltered tunnel after {operation:?}");
    for (id, slot) in &after.bpf.slots {
        let policy = after.bpf.policies.get(&slot.policy);
        let policy = policy.unwrap_or_else(|| panic!("endpoint {id} has no policy after {operation:?}"));
        assert_eq!(policy.identity, Some(slot.identity), "endpoint {id} after {operation:?}");
    }
    match operation {
        Operation::Attach(id) => assert!(before.bpf.slots.contains_key(id), "{id} is attached without a slot"),
        Operation::Unpin(id) => assert!(!before.network.links.contains_key(id), "{id} is unpinned and has its device"),
        Operation::WritePolicy(id, ..) => {
            assert!(
                id.0 > before.bpf.last_policy && !before.bpf.policies.contains_key(id),
                "{id:?} is given out again"
            );
        }
        Operation::AmendPolicy(_, _, former, map) => former.differences(map, |peer, _, _| {
            let bpf = &before.bpf;
            let met = bpf.identities.contains_key(&peer)
                || bpf.ipcache.values().any(|entry| entry.identity == peer)
                || bpf.slots.values().any(|slot| slot.identity == peer)
                || bpf.policies.values().any(|policy| policy.identity == Some(peer));
            // Flows that rest on another identity may have failed to be told since the round was planned.
            let told = !bpf.flows_stale || !nothing_fails;
            assert!(!met && told && !peer.is_reserved(), "{peer} is not at rest before {operation:?}");
        }),
        Operation::PutIpcache(_, IpcacheEntry { identity, .. }) | Operation::PutIdentity(identity) => {
            for slot in after.bpf.slots.values() {
                let Some(wanted) = desired.policies.get(&slot.identity) else { continue };
                let wanted = about(wanted, *identity);
                let held = about(&after.bpf.policies[&slot.policy].map, *identity);
                assert!(wanted.is_empty() || wanted == held, "{operation:?} before the identity is judged");
            }
        }
        // An address that could not be made to forget its identity must not hold up a policy, so this holds only while
        // nothing fails.
        Operation::WriteSlot(id, slot) if nothing_fails => {
            let Some(former) = before.bpf.slots.get(id).filter(|former| former.identity == slot.identity) else {
                return;
            };
            let map = |policy| &after.bpf.policies[policy].map;
            let bpf = &after.bpf;
            let addresses = bpf.ipcache.iter().filter(|(prefix, _)| !desired.ipcache.contains_key(prefix));
            let believed = bpf.identities.keys().filter(|identity| !desired.identities.contains_key(identity));
            for identity in addresses.map(|(_, entry)| entry.identity).chain(believed) {
                let (was, is) = (about(map(&former.policy), identity), about(map(&slot.policy), identity));
                // Before everything is settled an address may have another owner who is known, and judged.
                let known = !desired.settled && desired.identities.contains_key(&identity);
                let known = known || !desired.settled && desired.ipcache.values().any(|e| e.identity == identity);
                let known = known || !desired.settled && desired.policies.contains_key(&identity);
                let known = known || identity.is_reserved();
                assert!(was.is_empty() || !is.is_empty() || known, "{identity} outlives the verdict on it");
            }
        }
        _ => {}
    }
}

/// The kernel holds what is wanted and nothing else.
fn assert_equal(current: &Current, desired: &Datapath) {
    let links: Vec<_> = current.network.links.iter().map(|(id, link)| (*id, link.name.clone(), link.up)).collect();
    let wanted: Vec<_> = desired.endpoints.values().map(|e| (e.id, e.ifname.clone(), true)).collect();
    assert_eq!(links, wanted);
    assert_eq!(current.bpf.slots.keys().collect::<Vec<_>>(), desired.endpoints.keys().collect::<Vec<_>>());
    for (id, slot) in &current.bpf.slots {
        let endpoint = &desired.endpoints[id];
        assert_eq!((slot.identity, slot.ipv4, slot.ipv6), (endpoint.identity, endpoint.ipv4, endpoint.ipv6));
        assert_eq!((slot.mac, slot.internal), (endpoint.mac, endpoint.internal));
        assert!(current.bpf.policies[&slot.policy].map.has_same_entries(&desired.policies[&slot.identity]));
        assert_eq!(current.bpf.attachments[id], Attachment::Current);
        let routes: Vec<_> = current.network.routes.get(id).into_iter().flatten().map(|(ip, _)| *ip).collect();
        assert_eq!(routes, addresses(endpoint).collect::<Vec<_>>());
    }
    assert_eq!(current.bpf.policies.len(), desired.policies.len());
    assert_eq!(current.bpf.attachments.len(), desired.endpoints.len());
    assert_eq!(current.bpf.ipcache, desired.ipcache);
    assert!(!current.bpf.flows_stale);
    assert_eq!((&current.network.gateways, &current.network.pools), (&desired.gateways, &desired.pools));
    assert_eq!(current.firewall.masquerade.as_ref(), Some(&desired.pools));
    let own = IpAddr::from([172, 31, 0, 1]);
    let pods: Vec<_> = desired.vteps.iter().filter(|(_, node)| **node != own).map(|(p, node)| (*p, *node)).collect();
    let nodes: BTreeSet<IpAddr> = desired.nodes.keys().copied().filter(|node| *node != own).collect();
    assert_eq!(
        current.network.tunnel_routes.keys().collect::<Vec<_>>(),
        pods.iter().map(|(p, _)| p).collect::<Vec<_>>()
    );
    assert_eq!(current.bpf.nodes.keys().copied().collect::<BTreeSet<_>>(), nodes);
    let way = |address: &IpAddr| Some(desired.nodes[address]).filter(|node| nodes.contains(node)).unwrap_or(*address);
    let wanted: BTreeMap<IpNetwork, IpAddr> =
        pods.into_iter().chain(nodes.iter().map(|address| ((*address).into(), way(address)))).collect();
    let vteps = current.bpf.vteps.iter().map(|(prefix, vtep)| (*prefix, vtep.address));
    assert_eq!(vteps.collect::<BTreeMap<_, _>>(), wanted);
    // What is one node's has one number, and no other node has it.
    let behind = current.bpf.vteps.values().map(|vtep| (vtep.address, vtep.node));
    let numbers: BTreeSet<_> = behind
        .chain(current.bpf.nodes.iter().map(|(node, number)| (*node, *number)))
        .map(|(ip, number)| (desired.nodes.get(&ip).copied().filter(|_| ip != own).unwrap_or(ip), number))
        .collect();
    assert!(numbers.iter().all(|(_, number)| number.0 != 0));
    for (node, number) in &numbers {
        let same = numbers.iter().filter(|(other, n)| (other == node) != (n == number)).count();
        assert_eq!(same, 0, "{numbers:?}");
    }
    assert_eq!(current.bpf.identities, desired.identities);
    assert!(desired.tunnel_mtu.is_none_or(|mtu| current.bpf.tunnel_mtu == mtu));
    assert!(desired.tunnel_mtu.is_none_or(|mtu| current.network.tunnel.is_some_and(|link| link.mtu == mtu)));
    assert!(current.network.tunnel.is_some_and(|link| link.up) && current.bpf.tunnel == Some(Attachment::Current));
    assert!(current.network.forwarding && current.network.host_device && current.firewall.forward);
}

/// A reconciler whose kernel checks the invariants against the snapshot in the cell.
fn watched_by(first: &Datapath, nothing_fails: bool) -> (Reconciler<Fake>, Arc<Mutex<Datapath>>) {
    let goal = Arc::new(Mutex::new(first.clone()));
    let seen = goal.clone();
    let witness = move |before: &Current, operation: &Operation, after: &Current| {
        let desired = seen.lock().unwrap();
        fail_closed(before, operation, after, &desired, nothing_fails);
    };
    let kernel = Fake { witness: Some(Box::new(witness)), ..Fake::default() };
    (Reconciler::new(kernel, SETTINGS), goal)
}

fn watched(first: &Datapath) -> (Reconciler<Fake>, Arc<Mutex<Datapath>>) {
    watched_by(first, true)
}

/// A round, the sweep that follows it, and the rounds that end what has to wait for peers to come to rest.
fn round(reconciler: &mut Reconciler<Fake>, desired: &Datapath, now: Instant) -> Status {
    let mut status = reconciler.round(desired, now);
    reconciler.sweep(now + GRACE);
    for n in 1..5 {
        if reconciler.unfinished.is_some() {
            status = reconciler.round(desired, now + REST * n);
            reconciler.sweep(now + REST * n + GRACE);
        }
    }
    status
}

proptest! {
    #[test]
    fn any_snapshot_follows_any_other(mut states in vec(snapshot(Just(true)), 1..4), shared in any::<bool>()) {
        if shared && let [first, .., last] = states.as_mut_slice() {
            // As where only other things changed.
            (last.vteps, last.nodes) = (first.vteps.clone(), first.nodes.clone());
        }
        let (mut reconciler, goal) = watched(&states[0]);
        let now = Instant::now();
        for (n, desired) in states.iter().enumerate() {
            *goal.lock().unwrap() = desired.clone();
            let status = round(&mut reconciler, desired, now);
            prop_assert_eq!(status.failing, BTreeMap::new());
            assert_equal(&reconciler.kernel().state, desired);
            prop_assert_eq!(reconciler.current(), &reconciler.kernel.state, "the picture is right, round {}", n);
            let before = reconciler.kernel().log.len();
            round(&mut reconciler, desired, now);
            prop_assert_eq!(reconciler.kernel().log.len(), before, "a second round has nothing to do");
        }
    }

    #[test]
    fn failures_open_nothing_and_pass(
        first in snapshot(Just(true)),
        second in snapshot(Just(true)),
        refused in vec(any::<bool>(), 0..60),
        reads in 0u32..3,
    ) {
        let (mut reconciler, goal) = watched_by(&first, false);
        let mut now = Instant::now();
        round(&mut reconciler, &first, now);
        *goal.lock().unwrap() = second.clone();
        let mut fate = refused.into_iter();
        reconciler.kernel().refuse =
            Some(Box::new(move |_| fate.next().unwrap_or(false).then(|| "told to fail".to_owned())));
        reconciler.kernel().failing_reads = reads;
        // Each failed attempt uses up some of the refusals, so this ends.
        for _ in 0..200 {
            let status = round(&mut reconciler, &second, now);
            if status.failing.is_empty() && reconciler.due().is_none() {
                break;
            }
            now += LAST_RETRY;
        }
        assert_equal(&reconciler.kernel().state, &second);
    }

    #[test]
    fn what_is_unknown_stays_until_settled(old in snapshot(Just(true)), new in snapshot(Just(false))) {
        let mut before = Reconciler::new(Fake::default(), SETTINGS);
        let now = Instant::now();
        round(&mut before, &old, now);
        // Another agent takes over what the first one left.
        let (mut reconciler, goal) = watched(&new);
        reconciler.kernel().state = std::mem::take(&mut before.kernel().state);
        round(&mut reconciler, &new, now);
        let state = &reconciler.kernel().state;
        for id in old.endpoints.keys().filter(|id| !new.endpoints.contains_key(id)) {
            prop_assert!(state.bpf.slots.contains_key(id) && state.network.links[id].up);
            prop_assert!(state.bpf.policies.contains_key(&state.bpf.slots[id].policy));
        }
        for prefix in old.ipcache.keys() {
            prop_assert!(state.bpf.ipcache.contains_key(prefix));
        }
        // What the new one says is behind this node itself is known not to be elsewhere.
        let own = IpAddr::from([172, 31, 0, 1]);
        let kept = old.vteps.iter().filter(|(prefix, node)| **node != own && !new.vteps.contains_key(prefix));
        for (prefix, node) in kept {
            prop_assert_eq!(state.bpf.vteps.get(prefix).map(|vtep| vtep.address), Some(*node));
            prop_assert!(state.network.tunnel_routes.contains_key(prefix));
        }
        for identity in old.identities.keys() {
            prop_assert!(state.bpf.identities.contains_key(&identity));
            // Of whom the new one does not know, what the old one said goes on to hold.
            let known = new.identities.contains_key(&identity)
                || new.policies.contains_key(&identity)
                || new.ipcache.values().any(|entry| entry.identity == identity);
            for (id, before) in old.endpoints.iter().filter(|_| !known) {
                let subject = before.identity;
                let said = about(&old.policies[&subject], identity);
                let same = new.endpoints.get(id).is_none_or(|endpoint| endpoint.identity == subject);
                if same && new.policies.get(&subject).is_none_or(|map| about(map, identity).is_empty()) {
                    let held = about(&state.bpf.policies[&state.bpf.slots[id].policy].map, identity);
                    prop_assert_eq!(held, said);
                }
            }
        }
        let settled = Datapath { settled: true, ..new };
        *goal.lock().unwrap() = settled.clone();
        round(&mut reconciler, &settled, now);
        assert_equal(&reconciler.kernel().state, &settled);
    }
}

#[test]
fn the_hosts_own_packets_to_other_nodes_have_a_source_that_is_known_there() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let pods: [IpNetwork; 2] = ["10.16.2.0/24".parse().unwrap(), "f00d:2::/64".parse().unwrap()];
    let mut desired = Datapath { settled: true, ..Datapath::default() };
    let other = ip("fd78::12");
    desired.vteps = Arc::new(pods.map(|prefix| (prefix, other)).into());
    desired.nodes = Arc::new([(other, other)].into());
    // The second is of a pool that is not this node's: others have it behind somebody else.
    desired.gateways = [ip("10.16.1.1"), ip("10.9.0.1"), ip("f00d:1::1")].into();
    desired.pools = ["10.16.1.0/24".parse().unwrap(), "f00d:1::/64".parse().unwrap()].into();
    // The network between the nodes has IPv6 alone.
    let node = NodeAddresses { v4: None, v6: Some("fd78::11".parse().unwrap()) };
    let mut reconciler = Reconciler::new(Fake::default(), Settings { node, ..SETTINGS });
    reconciler.kernel().state.network.addresses = [(ip("fd78::11"), 2)].into();
    let now = Instant::now();
    let mut sources = |desired: &Datapath| {
        round(&mut reconciler, desired, now);
        round(&mut reconciler, desired, now);
        reconciler.kernel().state.network.tunnel_routes.values().copied().collect::<Vec<_>>()
    };
    assert_eq!(sources(&desired), [Some(ip("10.16.1.1")), Some(ip("fd78::11"))]);
    desired.gateways.remove(&ip("10.16.1.1"));
    desired.gateways.insert(ip("10.16.1.9"));
    assert_eq!(sources(&desired), [Some(ip("10.16.1.9")), Some(ip("fd78::11"))]);
}

#[test]
fn which_of_the_nodes_is_this_one_may_change_alone() {
    let node = |n| IpAddr::from([172, 31, 0, n]);
    let pods = |n: u8| format!("10.16.{n}.0/24").parse::<IpNetwork>().unwrap();
    let mut desired = Datapath { settled: true, ..Datapath::default() };
    desired.vteps = Arc::new([2, 3].map(|n| (pods(n), node(n))).into());
    desired.nodes = Arc::new([2, 3].map(|n| (node(n), node(n))).into());
    let mut reconciler = Reconciler::new(Fake::default(), SETTINGS);
    let now = Instant::now();
    let mut behind = |desired: &Datapath| {
        round(&mut reconciler, desired, now);
        round(&mut reconciler, desired, now);
        let held = &reconciler.kernel().state;
        assert!(held.bpf.vteps.keys().filter(|prefix| prefix.prefix() == 24).eq(held.network.tunnel_routes.keys()));
        held.network.tunnel_routes.keys().copied().collect::<Vec<_>>()
    };
    assert_eq!(behind(&desired), [pods(2), pods(3)]);
    desired.ipcache.insert(node(2).into(), IpcacheEntry { identity: Identity::HOST, endpoint: None });
    assert_eq!(behind(&desired), [pods(3)]);
    desired.ipcache.insert(pods(7), IpcacheEntry { identity: Identity::WORLD, endpoint: None });
    assert_eq!(behind(&desired), [pods(3)]);
    desired.ipcache.remove(&node(2).into());
    assert_eq!(behind(&desired), [pods(2), pods(3)]);
}

fn one_endpoint() -> Datapath {
    let mut desired = Datapath { revision: 1, settled: true, ..Datapath::default() };
    let endpoint = endpoint(1, 0, 300, 1);
    desired.policies.insert(endpoint.identity, Arc::new(PolicyMap::allow_all()));
    desired.endpoints.insert(endpoint.id, endpoint);
    desired
}

#[test]
fn a_new_agent_keeps_the_policy_that_is_in_force() {
    let desired = one_endpoint();
    let now = Instant::now();
    let mut before = Reconciler::new(Fake::default(), SETTINGS);
    round(&mut before, &desired, now);
    let (mut reconciler, _) = watched(&desired);
    reconciler.kernel().state = before.kernel().state.clone();
    reconciler.kernel().state.bpf.attachments.insert(EndpointId(1), Attachment::Outdated);
    reconciler.kernel().state.bpf.flows_stale = true;
    round(&mut reconciler, &desired, now);
    let log = &reconciler.kernel().log;
    assert_eq!(
        *log,
        [Operation::Attach(EndpointId(1)), Operation::InvalidateFlows]
            .as_slice()
            .iter()
            .rev()
            .cloned()
            .collect::<Vec<_>>()
    );
}

#[test]
fn entries_without_a_header_are_swept() {
    let (mut reconciler, _) = watched(&Datapath::default());
    let orphan = crate::current::Policy { identity: None, map: Arc::new(PolicyMap::allow_all()) };
    reconciler.kernel().state.bpf.policies.insert(crate::current::PolicyId(7), orphan);
    reconciler.kernel().state.bpf.last_policy = 7;
    round(&mut reconciler, &Datapath { settled: true, ..Datapath::default() }, Instant::now());
    assert!(reconciler.kernel().state.bpf.policies.is_empty());
}

#[test]
fn a_kept_device_that_is_gone_is_a_failure_and_is_not_made_again() {
    let mut desired = one_endpoint();
    let (mut reconciler, _) = watched(&desired);
    let now = Instant::now();
    round(&mut reconciler, &desired, now);
    desired.endpoints.values_mut().for_each(|endpoint| endpoint.link = LinkIntent::Keep);
    reconciler.kernel().state.network.links.clear();
    reconciler.kernel().state.network.routes.clear();
    reconciler.kernel().state.network.neighbours.clear();
    reconciler.distrust(Domain::Network);
    let status = round(&mut reconciler, &desired, now);
    assert_eq!(status.failing[&Object::Endpoint(EndpointId(1))].message, "its network device lxc10 is gone");
    let state = &reconciler.kernel().state;
    assert!(state.bpf.slots.is_empty() && state.bpf.attachments.is_empty() && state.network.links.is_empty());
}

#[test]
fn what_cannot_be_read_is_not_planned_on() {
    let mut desired = one_endpoint();
    let (mut reconciler, _) = watched(&desired);
    let now = Instant::now();
    reconciler.kernel().failing_reads = 1;
    let status = round(&mut reconciler, &desired, now);
    assert_eq!((status.realised, status.failing.len()), (0, 1));
    assert!(reconciler.kernel().log.is_empty());
    desired.revision = 2;
    let status = round(&mut reconciler, &desired, now + FIRST_RETRY);
    assert_eq!((status.realised, status.failing.len()), (2, 0));
}

#[test]
fn attempts_are_counted_and_come_ever_later() {
    let desired = one_endpoint();
    let (mut reconciler, _) = watched(&desired);
    reconciler.kernel().refuse =
        Some(Box::new(|operation| matches!(operation, Operation::Forward).then(|| "no tool".to_owned())));
    let start = Instant::now();
    let object = Object::Node("forward");
    let mut now = start;
    for attempts in 1..12 {
        let status = reconciler.round(&desired, now);
        assert_eq!(status.failing[&object], Failure { message: "no tool".to_owned(), attempts, full: false });
        let asked = reconciler.kernel().log.len();
        reconciler.round(&desired, now);
        assert_eq!(reconciler.kernel().log.len(), asked, "it is not tried before its time");
        now = reconciler.due().expect("a retry");
    }
    assert_eq!(back_off(12), LAST_RETRY);
    reconciler.kernel().refuse = None;
    assert!(reconciler.round(&desired, now).failing.is_empty());
}

#[test]
fn a_policy_that_cannot_be_written_leaves_the_former_in_force_and_holds_back_who_it_is_about() {
    let mut desired = one_endpoint();
    let (mut reconciler, goal) = watched(&desired);
    let now = Instant::now();
    round(&mut reconciler, &desired, now);
    let before = reconciler.kernel().state.bpf.slots[&EndpointId(1)].policy;
    let mut map = PolicyMap::allow_all();
    map.insert(PolicyKey::any_port(Direction::Egress, Identity(1 << 24)), PolicyEntry::DENY);
    map.insert(PolicyKey::any_port(Direction::Egress, Identity::WORLD_IPV4), PolicyEntry::DENY);
    desired.policies.insert(Identity(300), Arc::new(map));
    let entry = |identity| IpcacheEntry { identity: Identity(identity), endpoint: None };
    let (denied, other) = ("172.16.0.0/24".parse().unwrap(), "172.16.1.0/24".parse().unwrap());
    desired.ipcache.extend([(denied, entry(1 << 24)), (other, entry(301))]);
    *goal.lock().unwrap() = desired.clone();
    reconciler.kernel().refuse =
        Some(Box::new(|operation| matches!(operation, Operation::WritePolicy(..)).then(|| "full".to_owned())));
    let status = round(&mut reconciler, &desired, now);
    let state = &reconciler.kernel().state;
    assert_eq!(state.bpf.slots[&EndpointId(1)].policy, before);
    assert_eq!(state.bpf.ipcache.keys().collect::<Vec<_>>(), [&other]);
    let failing: Vec<_> = status.failing.keys().cloned().collect();
    assert_eq!(failing, [Object::Endpoint(EndpointId(1)), Object::Ipcache(denied), Object::Policy(Identity(300))]);
}

fn about_ingress(identity: u32, entry: PolicyEntry) -> (PolicyKey, PolicyEntry) {
    (PolicyKey::any_port(Direction::Ingress, Identity(identity)), entry)
}

fn policy(entries: &[(PolicyKey, PolicyEntry)]) -> Arc<PolicyMap> {
    Arc::new(entries.iter().copied().collect())
}

/// One endpoint under `before` and then under `after`, with the address 172.16.0.0/24 in these hands; the operations on
/// policies that the second snapshot costs, and how many rounds.
fn policy_operations(
    before: &[(PolicyKey, PolicyEntry)],
    holders: [Option<u32>; 2],
    after: &[(PolicyKey, PolicyEntry)],
) -> Vec<Operation> {
    let mut desired = one_endpoint();
    let address = |holder: Option<u32>| {
        let prefix: IpNetwork = "172.16.0.0/24".parse().unwrap();
        holder.map(|identity| (prefix, IpcacheEntry { identity: Identity(identity), endpoint: None }))
    };
    desired.policies.insert(Identity(300), policy(before));
    desired.ipcache = address(holders[0]).into_iter().collect();
    let (mut reconciler, goal) = watched(&desired);
    let now = Instant::now();
    round(&mut reconciler, &desired, now);
    reconciler.kernel().log.clear();
    desired.policies.insert(Identity(300), policy(after));
    desired.ipcache = address(holders[1]).into_iter().collect();
    *goal.lock().unwrap() = desired.clone();
    round(&mut reconciler, &desired, now + REST);
    assert_equal(&reconciler.kernel().state, &desired);
    let log = std::mem::take(&mut reconciler.kernel().log);
    log.into_iter().filter(|operation| matches!(operation.object(), Object::Policy(_) | Object::Ipcache(_))).collect()
}

#[test]
fn what_is_said_of_a_peer_at_rest_is_said_before_it_has_an_address_and_unsaid_after() {
    let (allow, deny) = (about_ingress(301, PolicyEntry::ALLOW), about_ingress(301, PolicyEntry::DENY));
    let other = about_ingress(302, PolicyEntry::ALLOW);
    let kinds = |operations: Vec<Operation>| {
        let kind = |operation: &Operation| match operation {
            Operation::WritePolicy(..) => "write",
            Operation::AmendPolicy(..) => "amend",
            Operation::PutIpcache(..) => "put",
            Operation::RemoveIpcache(_) => "remove",
            _ => "other",
        };
        operations.iter().map(kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(policy_operations(&[other], [None, None], &[other, allow])), ["amend"]);
    assert_eq!(kinds(policy_operations(&[other], [None, Some(301)], &[other, allow])), ["amend", "put"]);
    assert_eq!(kinds(policy_operations(&[other, allow], [None, None], &[other, deny])), ["amend"]);
    assert_eq!(kinds(policy_operations(&[other, allow], [Some(301), None], &[other])), ["remove", "amend"]);
    // A peer that packets can be of, the endpoint itself, any peer, and one that the programs give.
    assert_eq!(kinds(policy_operations(&[other, allow], [Some(301), Some(301)], &[other])), ["write"]);
    assert_eq!(kinds(policy_operations(&[other, allow], [Some(301), Some(301)], &[other, deny])), ["write"]);
    assert_eq!(kinds(policy_operations(&[other], [Some(301), Some(302)], &[deny])), ["write", "put"]);
    assert_eq!(kinds(policy_operations(&[other], [None, None], &[about_ingress(300, PolicyEntry::ALLOW)])), ["write"]);
    for any in [0, Identity::HOST.0, Identity::WORLD_IPV4.0] {
        assert_eq!(kinds(policy_operations(&[], [None, None], &[about_ingress(any, PolicyEntry::ALLOW)])), ["write"]);
    }
}

#[test]
fn a_peer_that_comes_back_at_once_is_not_at_rest() {
    let mut desired = one_endpoint();
    let (allow, deny) = (about_ingress(301, PolicyEntry::ALLOW), about_ingress(301, PolicyEntry::DENY));
    let entry = ("172.16.0.0/24".parse().unwrap(), IpcacheEntry { identity: Identity(301), endpoint: None });
    desired.policies.insert(Identity(300), policy(&[allow]));
    desired.ipcache.extend([entry]);
    let (mut reconciler, goal) = watched(&desired);
    let now = Instant::now();
    round(&mut reconciler, &desired, now);
    let gone = Datapath { ipcache: Ipcache::default(), ..desired.clone() };
    *goal.lock().unwrap() = gone.clone();
    reconciler.round(&gone, now);
    reconciler.kernel().log.clear();
    desired.policies.insert(Identity(300), policy(&[deny]));
    *goal.lock().unwrap() = desired.clone();
    reconciler.round(&desired, now);
    let written = reconciler.kernel().log.iter().any(|operation| matches!(operation, Operation::WritePolicy(..)));
    assert!(written, "{:?}", reconciler.kernel().log);
}

#[test]
fn an_endpoint_that_another_one_should_refuse_waits_until_it_can() {
    let mut desired = one_endpoint();
    desired.policies.insert(Identity(300), policy(&[]));
    let (mut reconciler, goal) = watched(&desired);
    let now = Instant::now();
    round(&mut reconciler, &desired, now);
    let newcomer = endpoint(2, 0, 301, 2);
    desired.policies.insert(Identity(300), policy(&[about_ingress(301, PolicyEntry::DENY)]));
    desired.policies.insert(Identity(301), Arc::new(PolicyMap::allow_all()));
    desired.endpoints.insert(newcomer.id, newcomer);
    *goal.lock().unwrap() = desired.clone();
    reconciler.kernel().refuse =
        Some(Box::new(|operation| matches!(operation, Operation::AmendPolicy(..)).then(|| "told to fail".to_owned())));
    let status = round(&mut reconciler, &desired, now + REST);
    assert!(!reconciler.kernel().state.bpf.slots.contains_key(&EndpointId(2)));
    assert!(status.failing.contains_key(&Object::Endpoint(EndpointId(2))), "{:?}", status.failing);
    reconciler.kernel().refuse = None;
    let status = round(&mut reconciler, &desired, now + LAST_RETRY);
    assert_eq!(status.failing, BTreeMap::new());
    assert_equal(&reconciler.kernel().state, &desired);
}

#[test]
fn a_policy_without_room_leaves_the_former_one_in_force() {
    let mut desired = one_endpoint();
    let held = about_ingress(Identity::HOST.0, PolicyEntry::ALLOW);
    desired.policies.insert(Identity(300), policy(&[held]));
    let (mut reconciler, _) = watched_by(&desired, false);
    reconciler.kernel().room = Some(4);
    let mut now = Instant::now();
    round(&mut reconciler, &desired, now);
    let before = reconciler.kernel().state.bpf.slots.clone();
    let many: Vec<_> = (400..410).map(|identity| about_ingress(identity, PolicyEntry::ALLOW)).collect();
    let object = Object::Policy(Identity(300));
    // About peers that are not there, in place; and about one that is, as a new version.
    for first in [held, about_ingress(Identity::HOST.0, PolicyEntry::DENY)] {
        now += LAST_RETRY;
        desired.policies.insert(Identity(300), policy(&[vec![first], many.clone()].concat()));
        let status = round(&mut reconciler, &desired, now);
        assert!(status.failing[&object].full, "{:?}", status.failing);
        let bpf = &reconciler.kernel().state.bpf;
        assert_eq!(bpf.slots, before);
        assert_eq!(bpf.policies[&before[&EndpointId(1)].policy].map, policy(&[held]));
    }
    desired.policies.insert(Identity(300), policy(&[held, many[0]]));
    assert_eq!(round(&mut reconciler, &desired, now + LAST_RETRY).failing, BTreeMap::new());
    assert_equal(&reconciler.kernel().state, &desired);
}
