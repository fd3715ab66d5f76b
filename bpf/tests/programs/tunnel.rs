//! What comes out of the tunnel and goes into it: whom a node believes, and what it sends on.

use crate::world::*;
use bpf::abi;
use bpf::names::program::TO_OVERLAY;
use bpf::testing::Ran;
use bpf::testing::node::{ACT_OK, ACT_REDIRECT};
use bpf::testing::packet::{ACK, Packet, SYN};
use model::{Direction, Identity, PolicyMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A container of another node.
pub const REMOTE: Identity = Identity(2007);
/// The number of the tunnel device.
const TUNNEL: u32 = abi::LXC_IFINDEX_BASE;

/// The other node's underlay addresses: the outer family has nothing to do with the inner one.
pub fn peers() -> [IpAddr; 2] {
    [Ipv4Addr::new(172, 31, 0, 2).into(), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2).into()]
}

pub fn remote(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 15, 2, 7).into(),
        Family::V6 => Ipv6Addr::new(0xf00d, 0, 0, 0, 0, 0, 0x2a0f, 7).into(),
    }
}

/// Within the other node's pods, and nobody's.
fn nobody(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 15, 2, 99).into(),
        Family::V6 => Ipv6Addr::new(0xf00d, 0, 0, 0, 0, 0, 0x2a0f, 99).into(),
    }
}

fn vtep(address: IpAddr, node: u32) -> abi::Vtep {
    let abi::IpcacheKey { family, address, .. } = ipcache_key(address);
    abi::Vtep { family, node, address, ..Default::default() }
}

/// The number of the other node ...
const PEER: u32 = 7;
/// ... and of a third one.
const THIRD: u32 = 8;

/// Underlay addresses of the third node.
fn third() -> [IpAddr; 2] {
    [Ipv4Addr::new(172, 31, 0, 3).into(), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 3).into()]
}

/// Behind the third node, and nobody's as far as is known.
fn behind_third(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 15, 3, 7).into(),
        Family::V6 => Ipv6Addr::new(0xf00d, 0, 0, 0, 0, 0, 0x3a0f, 7).into(),
    }
}

/// The other node and its container are known, and of a third node its pods' prefixes.
pub fn with_peer(mut world: World) -> World {
    for (addresses, number) in [(peers(), PEER), (third(), THIRD)] {
        for address in addresses {
            world.node.set_node(ipcache_key(address), number).unwrap();
            let bits = if address.is_ipv4() { 32 } else { 128 };
            world.node.set_vtep(ipcache_key(address), bits, vtep(address, number)).unwrap();
            world.set_address(address, Identity::REMOTE_NODE, 0);
        }
    }
    let ([peer, _], [third, _]) = (peers(), third());
    for family in FAMILIES {
        let bits = if family == Family::V4 { 24 } else { 112 };
        let prefix = |address| match address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & !0xff).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !0xffff).into(),
        };
        world.node.set_vtep(ipcache_key(prefix(remote(family))), bits, vtep(peer, PEER)).unwrap();
        world.node.set_vtep(ipcache_key(prefix(behind_third(family))), bits, vtep(third, THIRD)).unwrap();
        world.set_address(remote(family), REMOTE, 0);
    }
    world.node.set_identity(REMOTE.0).unwrap();
    world
}

fn carried(world: &mut World, from: IpAddr, identity: Identity, packet: &Packet) -> Ran {
    world.node.carried(from, identity.0, &packet.build()).unwrap()
}

/// The remote container calls port 80 of A.
pub fn call(family: Family, flags: u8) -> Packet {
    Packet::tcp((remote(family), 5000), (family.of(A), 80), flags)
}

pub fn answer(family: Family, flags: u8) -> Packet {
    Packet::tcp((family.of(A), 80), (remote(family), 5000), flags)
}

#[test]
#[ignore = "needs root: make test"]
fn the_identity_in_the_tunnel_is_judged() {
    for outer in peers() {
        for family in FAMILIES {
            let mut world = with_peer(World::new());
            world.set_policy(A, &policy([one_port(Direction::Ingress, REMOTE, 80)]));
            let ran = carried(&mut world, outer, REMOTE, &call(family, SYN));
            assert_eq!(ran.action, ACT_REDIRECT, "{:?}", world.node.events());
            assert_eq!(ran.packet[..12], [mac(A), node_mac(A)].concat());
            // The answer needs no rule, and the next packet no other look.
            assert_eq!(world.leave(A, &answer(family, SYN | ACK)).action, ACT_REDIRECT);
            assert_eq!(carried(&mut world, outer, REMOTE, &call(family, ACK)).action, ACT_REDIRECT);
            assert_eq!(world.flows(family), 1);
            // Another port is refused, and a rule that is gone cuts both directions.
            let other = Packet::tcp((remote(family), 5000), (family.of(A), 81), SYN);
            let ran = carried(&mut world, outer, REMOTE, &other);
            let event = world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
            assert_eq!((event.source_identity, event.destination_slot), (REMOTE.0, A as u16));
            world.set_policy(A, &PolicyMap::default());
            let ran = carried(&mut world, outer, REMOTE, &call(family, ACK));
            world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
            let ran = world.leave(A, &answer(family, ACK));
            world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_EGRESS);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn only_known_nodes_are_believed() {
    let strangers = [IpAddr::from([172, 31, 0, 66]), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x66).into()];
    for family in FAMILIES {
        let mut world = with_peer(World::open());
        for stranger in strangers {
            let ran = carried(&mut world, stranger, REMOTE, &call(family, SYN));
            world.dropped(&ran, abi::DROP_UNKNOWN_SENDER, abi::DIRECTION_INGRESS);
        }
        // Nor on a flow that there is.
        let [peer, _] = peers();
        assert_eq!(carried(&mut world, peer, REMOTE, &call(family, SYN)).action, ACT_REDIRECT);
        let ran = carried(&mut world, strangers[0], REMOTE, &call(family, ACK));
        world.dropped(&ran, abi::DROP_UNKNOWN_SENDER, abi::DIRECTION_INGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn some_identities_are_nobodys_to_claim() {
    let [peer, _] = peers();
    for family in FAMILIES {
        let mut world = with_peer(World::open());
        assert_eq!(carried(&mut world, peer, REMOTE, &call(family, SYN)).action, ACT_REDIRECT);
        // Not at all: unknown, world, kube-apiserver, ingress, reserved for later, of a prefix; of whom policies here
        // have not heard. The flow that there is excuses none of them.
        for claimed in [0, 2, 3, 7, 8, 9, 10, 128, 255, identity(B).0, 65_535] {
            for flags in [SYN, ACK] {
                let ran = carried(&mut world, peer, Identity(claimed), &call(family, flags));
                world.dropped(&ran, abi::DROP_INVALID_IDENTITY, abi::DIRECTION_INGRESS);
            }
        }
        // One that is no longer believed takes its flows with it, when they are judged again.
        world.node.remove_identity(REMOTE.0).unwrap();
        world.set_address(family.host(), Identity::HOST, 0);
        let ran = carried(&mut world, peer, REMOTE, &call(family, ACK));
        world.dropped(&ran, abi::DROP_INVALID_IDENTITY, abi::DIRECTION_INGRESS);
    }
}

/// Nodes of one cluster do not speak for another's, whoever policies here know.
#[test]
#[ignore = "needs root: make test"]
fn a_node_gives_identities_of_its_cluster_alone() {
    let [peer, _] = peers();
    let of = |cluster: u32| Identity(cluster << 16 | 2007);
    for family in FAMILIES {
        let mut world = with_peer(World::open());
        [of(1), of(2), of(255)].iter().for_each(|identity| world.node.set_identity(identity.0).unwrap());
        let bits = if family == Family::V4 { 32 } else { 128 };
        for (strict, clusters, believed) in
            [(0, [0, 0], &[0, 1, 2, 255][..]), (1, [0, 1], &[0, 1]), (1, [2, 2], &[2]), (1, [255, 255], &[255])]
        {
            let node = abi::Vtep { strict, clusters, ..vtep(peer, PEER) };
            world.node.set_vtep(ipcache_key(remote(family)), bits, node).unwrap();
            for cluster in [0, 1, 2, 255] {
                // The generation is another one: no flow that there is excuses it.
                world.set_address(family.host(), Identity::HOST, 0);
                let ran = carried(&mut world, peer, of(cluster), &call(family, SYN));
                match believed.contains(&cluster) {
                    true => assert_eq!(ran.action, ACT_REDIRECT, "{cluster} by {clusters:?}"),
                    false => drop(world.dropped(&ran, abi::DROP_INVALID_IDENTITY, abi::DIRECTION_INGRESS)),
                }
            }
            // The reserved ones that a node may give have no cluster.
            let ran = carried(&mut world, peer, Identity::HEALTH, &call(family, SYN));
            assert_eq!(ran.action, ACT_REDIRECT, "{clusters:?}");
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_identity_counts_and_not_what_is_known_of_the_address() {
    let [peer, _] = peers();
    let other = Identity(2008);
    for family in FAMILIES {
        let mut world = with_peer(World::new());
        world.node.set_identity(other.0).unwrap();
        world.set_policy(A, &policy([one_port(Direction::Ingress, other, 80)]));
        let unheard = |flags| Packet::tcp((nobody(family), 5000), (family.of(A), 80), flags);
        let back = |to, flags| Packet::tcp((family.of(A), 80), (to, 5000), flags);
        // Nobody has heard of the address, or it was another one's the last time.
        for (from, packet) in [(nobody(family), unheard(SYN)), (remote(family), call(family, SYN))] {
            let ran = carried(&mut world, peer, REMOTE, &packet);
            let event = world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
            assert_eq!(event.source_identity, REMOTE.0);
            assert_eq!(carried(&mut world, peer, other, &packet).action, ACT_REDIRECT, "{from}");
            assert_eq!(world.leave(A, &back(from, SYN | ACK)).action, ACT_REDIRECT, "{from}");
            // So is the answer, though it be judged again.
            world.set_address(family.host(), Identity::HOST, 0);
            assert_eq!(world.leave(A, &back(from, ACK)).action, ACT_REDIRECT, "{from}");
        }
        // It is no reason to call there, nor to answer whom nobody may be any more.
        world.set_policy(A, &policy([one_port(Direction::Ingress, other, 80), any(Direction::Egress)]));
        world.leave_dropped(A, &Packet::tcp((family.of(A), 40000), (nobody(family), 80), SYN), abi::DROP_UNROUTABLE);
        let kind = if family == Family::V4 { 13 } else { 140 };
        let alone = Packet::icmp(family.of(A), nobody(family), kind, 0, &[0; 4]);
        world.leave_dropped(A, &alone, abi::DROP_UNROUTABLE);
        world.node.remove_identity(other.0).unwrap();
        world.leave_dropped(A, &back(nobody(family), ACK), abi::DROP_UNROUTABLE);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_node_speaks_for_what_is_behind_it_alone() {
    for family in FAMILIES {
        let mut world = with_peer(World::open());
        let outsiders = [family.world(), family.cidr(), behind_third(family), third()[family as usize]];
        for peer in peers() {
            for source in outsiders {
                let packet = Packet::tcp((source, 5000), (family.of(A), 80), SYN);
                for claimed in [REMOTE, Identity::HOST] {
                    let ran = carried(&mut world, peer, claimed, &packet);
                    world.dropped(&ran, abi::DROP_INVALID_SOURCE, abi::DIRECTION_INGRESS);
                }
            }
        }
        // Nor is a flow another node's to go on with, whoever opened it.
        let [node, _] = peers();
        let [other, _] = third();
        assert_eq!(carried(&mut world, node, REMOTE, &call(family, SYN)).action, ACT_REDIRECT);
        let ran = carried(&mut world, other, REMOTE, &call(family, ACK));
        world.dropped(&ran, abi::DROP_INVALID_SOURCE, abi::DIRECTION_INGRESS);
        let out = Packet::tcp((family.of(A), 40000), (remote(family), 80), SYN);
        assert_eq!(world.leave(A, &out).action, ACT_REDIRECT);
        let back = Packet::tcp((remote(family), 80), (family.of(A), 40000), SYN | ACK);
        let ran = carried(&mut world, other, REMOTE, &back);
        world.dropped(&ran, abi::DROP_INVALID_SOURCE, abi::DIRECTION_INGRESS);
        for node in peers() {
            assert_eq!(carried(&mut world, node, REMOTE, &back).action, ACT_REDIRECT, "by any of its addresses");
            assert_eq!(carried(&mut world, node, REMOTE, &call(family, ACK)).action, ACT_REDIRECT);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_host_of_another_node_is_a_remote_node() {
    let [peer, _] = peers();
    for family in FAMILIES {
        let mut world = with_peer(World::new());
        let node = peers()[family as usize];
        let packet = |flags| Packet::tcp((node, 5000), (family.of(A), 80), flags);
        world.set_policy(A, &policy([one_port(Direction::Ingress, Identity::HOST, 80)]));
        let ran = carried(&mut world, peer, Identity::HOST, &packet(SYN));
        let event = world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
        assert_eq!(event.source_identity, Identity::REMOTE_NODE.0);
        world.set_policy(A, &policy([one_port(Direction::Ingress, Identity::REMOTE_NODE, 80)]));
        for claimed in [Identity::HOST, Identity::REMOTE_NODE] {
            assert_eq!(carried(&mut world, peer, claimed, &packet(SYN)).action, ACT_REDIRECT, "{claimed}");
        }
        let back = Packet::tcp((family.of(A), 80), (node, 5000), SYN | ACK);
        assert_eq!(world.leave(A, &back).action, ACT_REDIRECT, "back through the tunnel");
    }
}

#[test]
#[ignore = "needs root: make test"]
fn nobody_elsewhere_has_an_address_of_ours() {
    let [peer, _] = peers();
    for family in FAMILIES {
        let mut world = with_peer(World::open());
        world.delivered(B, &Packet::tcp((family.of(B), 5000), (family.of(A), 80), SYN));
        for source in [family.of(B), family.of(A), family.host()] {
            for (flags, claimed) in [(SYN, identity(B)), (ACK, identity(B)), (SYN, Identity::HOST)] {
                let packet = Packet::tcp((source, 5000), (family.of(A), 80), flags);
                let ran = carried(&mut world, peer, claimed, &packet);
                world.dropped(&ran, abi::DROP_INVALID_SOURCE, abi::DIRECTION_INGRESS);
            }
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_tunnel_leads_to_endpoints_and_the_host_alone() {
    let [peer, _] = peers();
    for family in FAMILIES {
        let mut world = with_peer(World::open());
        let to = |destination| Packet::tcp((remote(family), 5000), (destination, 80), SYN);
        let ran = carried(&mut world, peer, REMOTE, &to(family.host()));
        assert_eq!(ran.action, ACT_OK);
        for destination in [family.world(), family.cidr(), remote(family)] {
            let ran = carried(&mut world, peer, REMOTE, &to(destination));
            world.dropped(&ran, abi::DROP_NO_ENDPOINT, abi::DIRECTION_INGRESS);
        }
        world.change_endpoint(A, |endpoint| endpoint.flags = 0);
        let ran = carried(&mut world, peer, REMOTE, &call(family, SYN));
        world.dropped(&ran, abi::DROP_NO_ENDPOINT, abi::DIRECTION_INGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn other_nodes_pods_come_through_the_tunnel_alone() {
    let [peer, _] = peers();
    for family in FAMILIES {
        let mut world = with_peer(World::open());
        assert_eq!(carried(&mut world, peer, REMOTE, &call(family, SYN)).action, ACT_REDIRECT);
        for flags in [SYN, ACK] {
            let ran = world.enter_from_world(A, &call(family, flags));
            world.dropped(&ran, abi::DROP_INVALID_SOURCE, abi::DIRECTION_INGRESS);
        }
        // What the host translated after it came out of the tunnel, and the node itself, which has other ways.
        let frame = Packet::tcp((remote(family), 5001), (family.of(A), 80), SYN).build();
        assert_eq!(world.node.enter(A, TUNNEL, &frame).unwrap().action, ACT_OK);
        let node = Packet::tcp((peers()[family as usize], 5001), (family.of(A), 80), SYN);
        assert_eq!(world.enter_from_world(A, &node).action, ACT_OK);
        // They are answered by way of the host.
        world.reaches_stack(A, &Packet::tcp((family.of(A), 80), (remote(family), 5001), SYN | ACK));
        world.reaches_stack(A, &Packet::tcp((family.of(A), 80), (peers()[family as usize], 5001), SYN | ACK));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_container_calls_into_the_tunnel() {
    let [peer, _] = peers();
    for family in FAMILIES {
        let mut world = with_peer(World::new());
        world.set_policy(A, &policy([one_port(Direction::Egress, REMOTE, 80)]));
        let call = |port| Packet::tcp((family.of(A), 40000), (remote(family), port), SYN);
        let ran = world.leave(A, &call(80));
        assert_eq!(ran.action, ACT_REDIRECT);
        let hops = if family == Family::V4 { 14 + 8 } else { 14 + 7 };
        assert_eq!(ran.packet[hops], call(80).build()[hops] - 1, "a hop less");
        world.leave_dropped(A, &call(81), abi::DROP_POLICY_DENIED);
        let back = Packet::tcp((remote(family), 80), (family.of(A), 40000), SYN | ACK);
        assert_eq!(carried(&mut world, peer, REMOTE, &back).action, ACT_REDIRECT);
        // An error about it comes from anywhere behind a node, and is for A alone.
        let node = peers()[family as usize];
        let error = Packet::error(node, family.of(A), &call(80), 1000);
        assert_eq!(carried(&mut world, peer, Identity::HOST, &error).action, ACT_REDIRECT);
        let error = Packet::error(node, family.of(B), &call(80), 1000);
        let ran = carried(&mut world, peer, Identity::HOST, &error);
        world.dropped(&ran, abi::DROP_UNKNOWN_CT_STATE, abi::DIRECTION_INGRESS);
        // With no hop left the stack answers.
        world.reaches_stack(A, &call(80).hops(1));
        // Nobody is there.
        world.allow_all(&[A]);
        let lost = Packet::tcp((family.of(A), 40000), (nobody(family), 80), SYN);
        world.leave_dropped(A, &lost, abi::DROP_UNROUTABLE);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_stack_gets_what_is_too_large_for_the_tunnel() {
    for family in FAMILIES {
        let mut world = with_peer(World::open());
        let headers = if family == Family::V4 { 20 + 8 } else { 40 + 8 };
        let call = |size: usize| Packet::udp((family.of(A), 40000), (remote(family), 53), &vec![7; size - headers]);
        world.monitor(abi::MONITOR_MEDIUM);
        assert_eq!(world.leave(A, &call(1400)).action, ACT_REDIRECT, "nothing is known of a limit");
        world.limit_tunnel(1300);
        assert_eq!(world.leave(A, &call(1300)).action, ACT_REDIRECT);
        let large = call(1301);
        let ran = world.leave(A, &large);
        assert_eq!((ran.action, ran.packet), (ACT_OK, large.build()), "with all its hops");
    }
}

#[test]
#[ignore = "needs root: make test"]
fn an_error_about_a_tunnelled_flow_goes_back_through_the_tunnel() {
    let [peer, _] = peers();
    for family in FAMILIES {
        let mut world = with_peer(World::open());
        assert_eq!(carried(&mut world, peer, REMOTE, &call(family, SYN)).action, ACT_REDIRECT);
        let error = Packet::error(family.of(A), remote(family), &call(family, SYN), 1000);
        assert_eq!(world.leave(A, &error).action, ACT_REDIRECT);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_stack_speaks_for_the_host_and_its_containers() {
    for family in FAMILIES {
        let mut world = with_peer(World::open());
        let packet = |source, to| Packet::tcp((source, 5000), (to, 80), SYN).build();
        let there = remote(family);
        let mut out = |source, from, to| world.node.run(TO_OVERLAY, 0, from, &packet(source, to)).unwrap();
        assert_eq!(out(family.host(), 0, there).action, ACT_OK);
        assert_eq!(out(family.host(), device(A), there).action, ACT_OK);
        assert_eq!(out(family.of(A), device(A), there).action, ACT_OK);
        for (source, from) in
            [(family.host(), UPLINK), (family.world(), UPLINK), (family.of(A), UPLINK), (family.of(B), device(A))]
        {
            let ran = out(source, from, there);
            assert_eq!(ran.action, bpf::testing::node::ACT_SHOT, "{source} from {from}");
        }
        let ran = out(family.host(), 0, family.world());
        world.dropped(&ran, abi::DROP_UNROUTABLE, abi::DIRECTION_EGRESS);
    }
}
