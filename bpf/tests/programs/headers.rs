//! What stands before the transport header, and what is changed in it on the way.

use crate::world::*;
use bpf::abi;
use bpf::testing::Arrival;
use bpf::testing::node::{ACT_OK, ACT_REDIRECT};
use bpf::testing::packet::{ACK, Packet, SYN, TCP, UDP, checksum, transport_checksum};
use model::Direction;

/// A may open port 80 of B.
fn world() -> World {
    let mut world = World::new();
    world.allow_all(&[A]);
    world.set_policy(B, &policy([one_port(Direction::Ingress, identity(A), 80)]));
    world
}

fn syn(family: Family, port: u16) -> Packet {
    Packet::tcp((family.of(A), 40000), (family.of(B), port), SYN)
}

#[test]
#[ignore = "needs root: make test"]
fn a_delivered_packet_has_new_macs_and_one_hop_less() {
    let mut world = world();
    for family in FAMILIES {
        // Once when the flow is new, once when it is known.
        for hops in [64, 2, 255] {
            let packet = syn(family, 80).hops(hops);
            let sent = packet.build();
            let ran = world.leave(A, &packet);
            assert_eq!(ran.action, ACT_REDIRECT);
            assert_eq!(ran.packet[..6], mac(B));
            assert_eq!(ran.packet[6..12], node_mac(B));
            let mut expected = Packet { hops: hops - 1, ..packet }.build();
            expected[..12].copy_from_slice(&ran.packet[..12]);
            assert_eq!(ran.packet, expected);
            assert_eq!(ran.packet.len(), sent.len());
            if family == Family::V4 {
                assert_eq!(checksum(&[&ran.packet[14..34]]), 0);
                assert_eq!(transport_checksum(family.of(A), family.of(B), TCP, &ran.packet[34..]), 0);
            }
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn every_checksum_survives_the_hop() {
    let mut world = world();
    // Identifications that make the header's checksum run through its carries.
    for id in (0..=0xffff).step_by(251).chain([0xffff, 0xfffe, 0xfeff]) {
        let mut frame = syn(Family::V4, 80).build();
        frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        frame[24..26].fill(0);
        let sum = checksum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        let ran = world.node.leave(A, &frame).unwrap();
        assert_eq!(ran.action, ACT_REDIRECT);
        assert_eq!(checksum(&[&ran.packet[14..34]]), 0, "identification {id:#x}");
    }
}

#[test]
#[ignore = "needs root: make test"]
fn without_a_hop_left_the_stack_answers() {
    for family in FAMILIES {
        let mut world = world();
        for hops in [0, 1] {
            let packet = syn(family, 80).hops(hops);
            let ran = world.leave(A, &packet);
            assert_eq!(ran.action, ACT_OK);
            assert_eq!(ran.packet, packet.build(), "unchanged");
        }
        let ingress = world.node.metric(abi::REASON_FORWARDED, abi::DIRECTION_INGRESS).unwrap().0;
        assert_eq!(ingress, 0, "it has not come in anywhere");
        // What it answers comes in as related.
        let answer = Packet::error(family.host(), family.of(A), &syn(family, 80).hops(1), 1000);
        assert_eq!(world.enter_from_host(A, &answer).action, ACT_OK);
        // Refused stays refused.
        world.refused_there(A, &syn(family, 81).hops(1), abi::DROP_POLICY_DENIED);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn what_goes_to_the_stack_is_unchanged() {
    let mut world = World::open();
    for family in FAMILIES {
        for flags in [SYN, ACK] {
            let packet = Packet::tcp((family.of(A), 40000), (family.world(), 80), flags);
            let ran = world.leave(A, &packet);
            assert_eq!((ran.action, ran.packet), (ACT_OK, packet.build()));
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn options_do_not_hide_the_port() {
    let mut world = world();
    for length in [4, 8, 40] {
        let options = vec![1; length];
        world.delivered(A, &syn(Family::V4, 80).options(&options));
        world.refused_there(A, &syn(Family::V4, 81).options(&options), abi::DROP_POLICY_DENIED);
        let ran =
            world.leave(A, &Packet::tcp((Family::V4.of(A), 40000), (Family::V4.of(B), 80), ACK).options(&options));
        assert_eq!(checksum(&[&ran.packet[14..34 + length]]), 0);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn extension_headers_do_not_hide_the_port() {
    let mut world = world();
    let with = |port| syn(Family::V6, port).extension(0, &[0; 6]).extension(60, &[0; 14]).extension(43, &[0; 6]);
    world.delivered(A, &with(80));
    world.refused_there(A, &with(81), abi::DROP_POLICY_DENIED);
    // The authentication header counts in other units.
    let authenticated = |port| syn(Family::V6, port).extension(51, &[0; 22]).extension(135, &[0; 6]);
    world.delivered(A, &authenticated(80));
    world.refused_there(A, &authenticated(81), abi::DROP_POLICY_DENIED);
    world.delivered(B, &Packet::tcp((Family::V6.of(B), 80), (Family::V6.of(A), 40000), ACK).extension(60, &[0; 6]));
}

#[test]
#[ignore = "needs root: make test"]
fn a_chain_of_extension_headers_has_an_end() {
    let mut world = world();
    let chain = |n| (0..n).fold(syn(Family::V6, 80), |packet, _| packet.extension(60, &[0; 6]));
    world.delivered(A, &chain(7));
    world.leave_dropped(A, &chain(8), abi::DROP_INVALID_EXTENSION);
    // Nothing follows, by its own word.
    let nothing = Packet { protocol: 59, ..syn(Family::V6, 80) };
    world.leave_dropped(A, &nothing, abi::DROP_INVALID_EXTENSION);
    // A length that leads out of the packet.
    let mut frame = syn(Family::V6, 80).extension(60, &[0; 6]).build();
    frame[55] = 200;
    let ran = world.node.leave(A, &frame).unwrap();
    world.dropped(&ran, abi::DROP_CT_INVALID_HEADER, abi::DIRECTION_EGRESS);
}

#[test]
#[ignore = "needs root: make test"]
fn a_header_that_lies_about_itself_is_refused() {
    let mut world = World::open();
    for (family, first) in [(Family::V4, 0x44), (Family::V4, 0x65), (Family::V6, 0x40)] {
        let mut frame = syn(family, 80).build();
        frame[14] = first;
        let ran = world.node.leave(A, &frame).unwrap();
        world.dropped(&ran, abi::DROP_INVALID_PACKET, abi::DIRECTION_EGRESS);
        let ran = world.node.enter(A, 0, &frame).unwrap();
        world.dropped(&ran, abi::DROP_INVALID_PACKET, abi::DIRECTION_INGRESS);
    }
    // Options beyond the end of the packet.
    let mut frame = Packet::raw(Family::V4.of(A), Family::V4.of(B), UDP, vec![0; 8]).build();
    frame[14] = 0x4f;
    let ran = world.node.leave(A, &frame).unwrap();
    world.dropped(&ran, abi::DROP_INVALID_PACKET, abi::DIRECTION_EGRESS);
}

#[test]
#[ignore = "needs root: make test"]
fn unknown_transports_are_refused() {
    let mut world = World::open();
    for family in FAMILIES {
        for protocol in [2, 41, 47, 50, 89] {
            let packet = Packet::raw(family.of(A), family.of(B), protocol, vec![0; 24]);
            world.leave_dropped(A, &packet, abi::DROP_CT_UNKNOWN_PROTOCOL);
            let packet = Packet::raw(family.world(), family.of(B), protocol, vec![0; 24]);
            let ran = world.enter_from_world(B, &packet);
            world.dropped(&ran, abi::DROP_CT_UNKNOWN_PROTOCOL, abi::DIRECTION_INGRESS);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn other_ethertypes_are_refused() {
    let mut world = World::open();
    for (ethertype, reason) in [
        (0x8847_u16, abi::DROP_UNSUPPORTED_L3),
        (0x88cc, abi::DROP_UNSUPPORTED_L3),
        (0x0600, abi::DROP_UNSUPPORTED_L3),
        (0x05ff, abi::DROP_UNSUPPORTED_L2),
        (0x0026, abi::DROP_UNSUPPORTED_L2),
    ] {
        let mut frame = syn(Family::V4, 80).build();
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        let ran = world.node.leave(A, &frame).unwrap();
        let event = world.dropped(&ran, reason, abi::DIRECTION_EGRESS);
        assert_eq!(event.family, 0);
        let ran = world.node.enter(A, 0, &frame).unwrap();
        world.dropped(&ran, reason, abi::DIRECTION_INGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_tagged_frame_is_refused() {
    let mut world = World::open();
    for family in FAMILIES {
        let mut frame = syn(family, 80).build();
        frame.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        // The kernel takes the tag out of the frame before programs see it.
        world.node.arrive(A, &frame, Arrival::default()).unwrap();
        let event = *world.node.events().unwrap().last().expect("a drop is reported");
        assert_eq!((u32::from(event.kind), u32::from(event.reason)), (abi::EVENT_DROP, abi::DROP_UNSUPPORTED_L2));
        assert_eq!(world.flows(family), 0);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn nobody_speaks_to_the_tunnels() {
    let mut world = World::open();
    for family in FAMILIES {
        for port in [8472, 6081] {
            for to in [family.of(B), family.host(), family.world()] {
                let packet = Packet::udp((family.of(A), 40000), (to, port), &[0; 30]);
                world.leave_dropped(A, &packet, abi::DROP_ENCAPSULATION);
            }
            world.delivered(A, &Packet::tcp((family.of(A), 40000), (family.of(B), port), SYN));
        }
        // In pieces or behind options it is the same.
        let tunnel = Packet::udp((family.of(A), 40000), (family.host(), 8472), &[0; 40]);
        world.leave_dropped(A, &tunnel.piece(1, 0..24), abi::DROP_ENCAPSULATION);
        world.leave_dropped(A, &tunnel.piece(1, 24..48), abi::DROP_ENCAPSULATION);
    }
    let behind = Packet::udp((Family::V4.of(A), 40000), (Family::V4.host(), 8472), &[0; 30]).options(&[1; 4]);
    world.leave_dropped(A, &behind, abi::DROP_ENCAPSULATION);
}

#[test]
#[ignore = "needs root: make test"]
fn a_tunnel_that_is_off_has_no_port() {
    use bpf::names::knob::{GENEVE_PORT, VXLAN_PORT};
    let knobs = vec![(VXLAN_PORT, 0), (GENEVE_PORT, 4000)];
    let mut world = World::with(&bpf::testing::Options { knobs, ..Default::default() });
    world.allow_all(&[A, B]);
    for family in FAMILIES {
        let to = |port| Packet::udp((family.of(A), 40000), (family.of(B), port), b"x");
        for port in [0, 8472, 6081] {
            world.delivered(A, &to(port));
        }
        world.leave_dropped(A, &to(4000), abi::DROP_ENCAPSULATION);
    }
}
