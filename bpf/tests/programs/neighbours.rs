//! ARP and neighbour discovery, byte for byte.

use crate::world::*;
use bpf::abi;
use bpf::testing::node::{ACT_OK, ACT_REDIRECT};
use bpf::testing::packet::{ICMPV6, Packet, arp, transport_checksum};
use bpf::testing::{Arrival, Ran};
use std::net::{IpAddr, Ipv6Addr};

const BROADCAST: [u8; 6] = [0xff; 6];
const NOBODY: [u8; 6] = [0; 6];

fn v4(address: IpAddr) -> [u8; 4] {
    let IpAddr::V4(address) = address else { panic!("{address} is no IPv4") };
    address.octets()
}

fn v6(address: IpAddr) -> [u8; 16] {
    let IpAddr::V6(address) = address else { panic!("{address} is no IPv6") };
    address.octets()
}

fn ask(world: &mut World, target: [u8; 4]) -> Ran {
    world.node.leave(A, &arp(1, (mac(A), v4(Family::V4.of(A))), (NOBODY, target), BROADCAST)).unwrap()
}

#[test]
#[ignore = "needs root: make test"]
fn every_address_is_behind_the_host() {
    let mut world = World::new();
    let own = v4(Family::V4.of(A));
    for target in [v4(Family::V4.host()), v4(Family::V4.of(B)), v4(Family::V4.world()), [10, 15, 255, 255]] {
        let ran = ask(&mut world, target);
        assert_eq!(ran.action, ACT_REDIRECT);
        assert_eq!(ran.packet, arp(2, (node_mac(A), target), (mac(A), own), mac(A)));
    }
    assert!(world.node.events().unwrap().is_empty());
}

#[test]
#[ignore = "needs root: make test"]
fn a_longer_frame_is_answered_with_a_plain_one() {
    let mut world = World::new();
    let own = v4(Family::V4.of(A));
    let target = v4(Family::V4.host());
    let mut frame = arp(1, (mac(A), own), (NOBODY, target), BROADCAST);
    frame.resize(60, 0);
    let ran = world.node.leave(A, &frame).unwrap();
    assert_eq!(ran.packet, arp(2, (node_mac(A), target), (mac(A), own), mac(A)));
}

#[test]
#[ignore = "needs root: make test"]
fn a_probe_for_an_address_is_answered_too() {
    let mut world = World::new();
    let frame = arp(1, (mac(A), [0; 4]), (NOBODY, v4(Family::V4.of(B))), BROADCAST);
    let ran = world.node.leave(A, &frame).unwrap();
    assert_eq!(ran.packet, arp(2, (node_mac(A), v4(Family::V4.of(B))), (mac(A), [0; 4]), mac(A)));
}

#[test]
#[ignore = "needs root: make test"]
fn nobody_answers_for_the_endpoints_own_address() {
    let mut world = World::new();
    let own = v4(Family::V4.of(A));
    for sender in [own, [0; 4]] {
        let frame = arp(1, (mac(A), sender), (NOBODY, own), BROADCAST);
        let ran = world.node.leave(A, &frame).unwrap();
        assert_eq!((ran.action, ran.packet), (ACT_OK, frame));
    }
    // Its own answers reach the host, which may have asked.
    let frame = arp(2, (mac(A), own), (node_mac(A), v4(Family::V4.host())), node_mac(A));
    assert_eq!(world.node.leave(A, &frame).unwrap().action, ACT_OK);
}

#[test]
#[ignore = "needs root: make test"]
fn nobody_speaks_for_others_in_arp() {
    let mut world = World::new();
    for operation in [1, 2] {
        let sender = (mac(A), v4(Family::V4.of(B)));
        let frame = arp(operation, sender, (NOBODY, v4(Family::V4.host())), BROADCAST);
        let ran = world.node.leave(A, &frame).unwrap();
        world.dropped(&ran, abi::DROP_INVALID_SOURCE, abi::DIRECTION_EGRESS);
    }
    let frame = arp(2, (mac(A), [0; 4]), (NOBODY, v4(Family::V4.host())), BROADCAST);
    let ran = world.node.leave(A, &frame).unwrap();
    world.dropped(&ran, abi::DROP_INVALID_SOURCE, abi::DIRECTION_EGRESS);
}

#[test]
#[ignore = "needs root: make test"]
fn arp_that_makes_no_sense_is_refused() {
    let mut world = World::new();
    let good = arp(1, (mac(A), v4(Family::V4.of(A))), (NOBODY, v4(Family::V4.host())), BROADCAST);
    for (at, byte) in [(15, 6), (16, 9), (18, 8), (19, 16), (21, 3), (21, 0)] {
        let mut frame = good.clone();
        frame[at] = byte;
        let ran = world.node.leave(A, &frame).unwrap();
        world.dropped(&ran, abi::DROP_UNSUPPORTED_L2, abi::DIRECTION_EGRESS);
    }
    for length in 14..good.len() {
        let ran = world.node.leave(A, &good[..length]).unwrap();
        world.dropped(&ran, abi::DROP_UNSUPPORTED_L2, abi::DIRECTION_EGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_question_that_cannot_be_made_an_answer_is_dropped() {
    let mut world = World::new();
    let mut frame = arp(1, (mac(A), v4(Family::V4.of(A))), (NOBODY, v4(Family::V4.host())), BROADCAST);
    frame.resize(100, 0);
    // A checksum to be written behind the answer's end: the kernel does not let it be cut there.
    world.node.arrive(A, &frame, Arrival { unfinished_checksum: Some(80), ..Arrival::default() }).unwrap();
    let event = *world.node.events().unwrap().last().expect("a drop is reported");
    assert_eq!((u32::from(event.kind), u32::from(event.reason)), (abi::EVENT_DROP, abi::DROP_WRITE_ERROR));
}

#[test]
#[ignore = "needs root: make test"]
fn the_stack_may_ask_and_answer() {
    let mut world = World::new();
    for operation in [1, 2] {
        let frame = arp(operation, (node_mac(A), v4(Family::V4.host())), (NOBODY, v4(Family::V4.of(A))), mac(A));
        let ran = world.node.enter(A, 0, &frame).unwrap();
        assert_eq!((ran.action, ran.packet), (ACT_OK, frame));
    }
}

fn link_local(n: u16) -> IpAddr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n).into()
}

const ALL_NODES: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
const UNSPECIFIED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// A solicitation (135) or an advertisement (136) about `target`.
fn nd(kind: u8, source: IpAddr, destination: IpAddr, target: IpAddr) -> Packet {
    let mut rest = vec![0; 4];
    rest.extend(v6(target));
    rest.extend([if kind == 135 { 1 } else { 2 }, 1]);
    rest.extend(mac(A));
    Packet::icmp(source, destination, kind, 0, &rest).hops(255)
}

/// What must come back: an advertisement with the host's MAC.
fn advertisement(to: IpAddr, target: IpAddr) -> Vec<u8> {
    let mut rest = vec![0xe0, 0, 0, 0];
    rest.extend(v6(target));
    rest.extend([2, 1]);
    rest.extend(node_mac(A));
    let packet = Packet::icmp(target, to, 136, 0, &rest).hops(255);
    Packet { to_mac: mac(A), from_mac: node_mac(A), ..packet }.build()
}

#[test]
#[ignore = "needs root: make test"]
fn every_solicitation_is_advertised_to() {
    let mut world = World::new();
    let family = Family::V6;
    for source in [family.of(A), link_local(0xa)] {
        for target in [family.host(), family.of(B), family.world(), link_local(1)] {
            let ran = world.leave(A, &nd(135, source, ALL_NODES, target));
            assert_eq!(ran.action, ACT_REDIRECT);
            assert_eq!(ran.packet, advertisement(source, target));
            assert_eq!(transport_checksum(target, source, ICMPV6, &ran.packet[54..]), 0);
        }
    }
    assert!(world.node.events().unwrap().is_empty());
}

#[test]
#[ignore = "needs root: make test"]
fn options_of_a_solicitation_may_be_missing_or_many() {
    let mut world = World::new();
    let family = Family::V6;
    for options in [0, 8, 64] {
        let mut rest = vec![0; 4];
        rest.extend(v6(family.host()));
        rest.resize(20 + options, 1);
        let packet = Packet::icmp(family.of(A), ALL_NODES, 135, 0, &rest).hops(255);
        let ran = world.leave(A, &packet);
        assert_eq!(ran.packet, advertisement(family.of(A), family.host()));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn detection_of_duplicates_is_not_disturbed() {
    let mut world = World::new();
    for target in [Family::V6.of(A), link_local(0xa), Family::V6.host()] {
        let packet = nd(135, UNSPECIFIED, ALL_NODES, target);
        let ran = world.leave(A, &packet);
        assert_eq!((ran.action, ran.packet), (ACT_OK, packet.build()));
    }
    for (source, target) in [(Family::V6.of(A), Family::V6.of(A)), (link_local(0xa), link_local(0xa))] {
        world.reaches_stack(A, &nd(135, source, ALL_NODES, target));
        world.reaches_stack(A, &nd(136, source, ALL_NODES, target));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn nobody_speaks_for_others_in_discovery() {
    let mut world = World::new();
    let family = Family::V6;
    for target in [family.of(B), family.host(), link_local(1)] {
        world.leave_dropped(A, &nd(136, family.of(A), ALL_NODES, target), abi::DROP_INVALID_SOURCE);
    }
    world.leave_dropped(A, &nd(136, link_local(0xa), ALL_NODES, link_local(1)), abi::DROP_INVALID_SOURCE);
    for kind in [135, 136] {
        world.leave_dropped(A, &nd(kind, family.of(B), ALL_NODES, family.host()), abi::DROP_INVALID_SOURCE);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn discovery_from_afar_is_refused() {
    let mut world = World::new();
    let family = Family::V6;
    let packet = nd(135, family.of(A), ALL_NODES, family.host());
    world.leave_dropped(A, &packet.clone().hops(254), abi::DROP_FORBIDDEN_ICMP6);
    let mut other_code = packet.clone();
    other_code.transport[1] = 1;
    world.leave_dropped(A, &other_code, abi::DROP_FORBIDDEN_ICMP6);
    let mut short = packet;
    short.transport.truncate(23);
    world.leave_dropped(A, &short, abi::DROP_CT_INVALID_HEADER);
}

/// What belongs to one link and is no neighbour discovery that containers do.
const FORBIDDEN: [u8; 15] = [130, 131, 132, 133, 134, 137, 141, 142, 143, 148, 149, 151, 152, 153, 137];

#[test]
#[ignore = "needs root: make test"]
fn other_messages_of_the_link_are_forbidden() {
    let mut world = World::open();
    for kind in FORBIDDEN {
        for source in [Family::V6.of(A), link_local(0xa), UNSPECIFIED] {
            let packet = Packet::icmp(source, ALL_NODES, kind, 0, &[0; 24]).hops(255);
            world.leave_dropped(A, &packet, abi::DROP_FORBIDDEN_ICMP6);
        }
        let to_b = Packet::icmp(Family::V6.of(A), Family::V6.of(B), kind, 0, &[0; 24]).hops(255);
        world.leave_dropped(A, &to_b, abi::DROP_FORBIDDEN_ICMP6);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn only_the_host_shares_the_link() {
    let mut world = World::open();
    for kind in FORBIDDEN.into_iter().chain([135, 136]) {
        let packet = Packet::icmp(link_local(1), Family::V6.of(A), kind, 0, &[0; 24]).hops(255);
        assert_eq!(world.enter_from_host(A, &packet).action, ACT_OK);
        let ran = world.enter_from_world(A, &packet);
        world.dropped(&ran, abi::DROP_FORBIDDEN_ICMP6, abi::DIRECTION_INGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn link_local_addresses_are_for_discovery_alone() {
    let mut world = World::open();
    let packet = Packet::udp((link_local(0xa), 546), (link_local(1), 547), b"dhcp");
    world.leave_dropped(A, &packet, abi::DROP_INVALID_SOURCE);
    let ping = Packet::echo_request(link_local(0xa), link_local(1), 1);
    world.leave_dropped(A, &ping, abi::DROP_INVALID_SOURCE);
}
