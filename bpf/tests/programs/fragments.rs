//! Datagrams in pieces: only the first one has ports.

use crate::world::*;
use bpf::abi;
use bpf::names::knob;
use bpf::testing::Options;
use bpf::testing::packet::{Packet, SYN};
use model::{Direction, PolicyEntry, PolicyKey, Protocol};

/// A may send UDP to port 53 of B, and ping it.
fn world() -> World {
    let mut world = World::new();
    world.allow_all(&[A]);
    let allow =
        |protocol, port| (PolicyKey::one_port(Direction::Ingress, identity(A), protocol, port), PolicyEntry::ALLOW);
    let entries =
        [allow(Protocol::UDP, 53), allow(Protocol::ICMP, 8), allow(Protocol::ICMPV6, 128), allow(Protocol::TCP, 80)];
    world.set_policy(B, &policy(entries));
    world
}

fn datagram(family: Family, port: u16) -> Packet {
    Packet::udp((family.of(A), 40000), (family.of(B), port), &[7; 56])
}

#[test]
#[ignore = "needs root: make test"]
fn later_pieces_go_where_the_first_one_went() {
    let mut world = world();
    for family in FAMILIES {
        let allowed = datagram(family, 53);
        world.delivered(A, &allowed.piece(1, 0..24));
        world.delivered(A, &allowed.piece(1, 24..48));
        world.delivered(A, &allowed.piece(1, 48..64));
        assert_eq!(world.flow(family).packets, [3, 0], "one flow");
        let refused = datagram(family, 54);
        world.refused_there(A, &refused.piece(2, 0..24), abi::DROP_POLICY_DENIED);
        world.refused_there(A, &refused.piece(2, 24..64), abi::DROP_POLICY_DENIED);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_piece_without_its_first_one_is_refused() {
    let mut world = world();
    for family in FAMILIES {
        let datagram = datagram(family, 53);
        world.leave_dropped(A, &datagram.piece(1, 24..64), abi::DROP_FRAGMENT_NOT_FOUND);
        world.delivered(A, &datagram.piece(1, 0..24));
        world.delivered(A, &datagram.piece(1, 24..64));
        // Another datagram, another protocol, another receiver: not the piece of that one.
        world.leave_dropped(A, &datagram.piece(2, 24..64), abi::DROP_FRAGMENT_NOT_FOUND);
        let tcp = Packet { protocol: 6, ..datagram.piece(1, 24..64) };
        world.leave_dropped(A, &tcp, abi::DROP_FRAGMENT_NOT_FOUND);
        let to_c = Packet { destination: family.of(C), ..datagram.piece(1, 24..64) };
        world.leave_dropped(A, &to_c, abi::DROP_FRAGMENT_NOT_FOUND);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn an_old_first_piece_is_of_another_datagram() {
    // Nothing is older than a jiffy less than nothing.
    let mut world = World::with(&Options { knobs: vec![(knob::FRAG_TIMEOUT, u32::MAX)], ..Options::default() });
    world.allow_all(&[A, B]);
    for family in FAMILIES {
        let datagram = datagram(family, 53);
        world.delivered(A, &datagram.piece(1, 0..24));
        world.leave_dropped(A, &datagram.piece(1, 24..64), abi::DROP_FRAGMENT_NOT_FOUND);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn pings_may_be_large() {
    let mut world = world();
    for family in FAMILIES {
        let (a, b) = (family.of(A), family.of(B));
        let ping = Packet::echo_request(a, b, 7);
        world.delivered(A, &ping.piece(3, 0..16));
        world.delivered(A, &ping.piece(3, 16..40));
        let pong = Packet::echo_reply(b, a, 7);
        world.delivered(B, &pong.piece(3, 0..16));
        world.delivered(B, &pong.piece(3, 16..40));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_first_piece_must_hold_the_whole_header() {
    let mut world = world();
    for family in FAMILIES {
        let syn = Packet::tcp((family.of(A), 40000), (family.of(B), 80), SYN);
        world.leave_dropped(A, &syn.piece(4, 0..16), abi::DROP_CT_INVALID_HEADER);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_piece_that_writes_over_a_judged_header_is_refused() {
    let mut world = world();
    for family in FAMILIES {
        let mut syn = Packet::tcp((family.of(A), 40000), (family.of(B), 80), SYN);
        syn.transport.extend([0; 44]);
        world.delivered(A, &syn.piece(5, 0..40));
        for start in [8, 16] {
            world.leave_dropped(A, &syn.piece(5, start..64), abi::DROP_INVALID_PACKET);
        }
        world.delivered(A, &syn.piece(5, 40..64));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn errors_do_not_come_in_pieces() {
    let mut world = World::open();
    for family in FAMILIES {
        let sent = datagram(family, 53);
        world.delivered(A, &sent);
        let error = Packet::error(family.of(B), family.of(A), &sent, 1000);
        world.delivered(B, &error.piece(6, 0..80));
        world.leave_dropped(B, &error.piece(6, 80..error.transport.len()), abi::DROP_FRAGMENT_NOT_FOUND);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_quoted_piece_names_no_flow() {
    let mut world = World::open();
    for family in FAMILIES {
        let sent = datagram(family, 53);
        world.delivered(A, &sent.piece(7, 0..24));
        world.delivered(A, &sent.piece(7, 24..64));
        world.delivered(B, &Packet::error(family.of(B), family.of(A), &sent.piece(7, 0..24), 1000));
        let later = Packet::error(family.of(B), family.of(A), &sent.piece(7, 24..64), 1000);
        world.leave_dropped(B, &later, abi::DROP_UNKNOWN_CT_STATE);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn pieces_enter_as_they_leave() {
    for family in FAMILIES {
        let mut world = World::new();
        let key = PolicyKey::one_port(Direction::Ingress, family.outside(), Protocol::UDP, 53);
        world.set_policy(A, &policy([(key, PolicyEntry::ALLOW)]));
        let datagram = Packet::udp((family.world(), 40000), (family.of(A), 53), &[7; 56]);
        let ran = world.enter_from_world(A, &datagram.piece(8, 24..64));
        world.dropped(&ran, abi::DROP_FRAGMENT_NOT_FOUND, abi::DIRECTION_INGRESS);
        assert_eq!(world.enter_from_world(A, &datagram.piece(8, 0..24)).action, 0);
        assert_eq!(world.enter_from_world(A, &datagram.piece(8, 24..64)).action, 0);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_datagram_in_one_piece_is_whole() {
    let mut world = world();
    let family = Family::V6;
    let mut atomic = datagram(family, 53).piece(9, 0..64);
    assert!(!atomic.fragment.unwrap().more);
    world.delivered(A, &atomic);
    // It has left nothing behind that a later piece could use.
    atomic.fragment.as_mut().unwrap().offset = 3;
    world.leave_dropped(A, &atomic, abi::DROP_FRAGMENT_NOT_FOUND);
}
