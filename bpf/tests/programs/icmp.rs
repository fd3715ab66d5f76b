//! ICMP: echo as a flow, errors as related to one, all else by itself.

use crate::world::*;
use bpf::abi;
use bpf::testing::node::{ACT_OK, ACT_REDIRECT};
use bpf::testing::packet::{ACK, Packet, SYN};
use model::{Direction, Identity, PolicyEntry, PolicyKey, PolicyMap};

fn echo_only(family: Family, direction: Direction, peer: Identity) -> PolicyMap {
    policy([(PolicyKey::one_port(direction, peer, family.icmp(), family.echo_type()), PolicyEntry::ALLOW)])
}

/// A may ping B, nothing else.
fn pinging(family: Family) -> World {
    let mut world = World::new();
    world.set_policy(A, &echo_only(family, Direction::Egress, identity(B)));
    world.set_policy(B, &echo_only(family, Direction::Ingress, identity(A)));
    world
}

#[test]
#[ignore = "needs root: make test"]
fn an_echo_is_answered_once_asked_for() {
    for family in FAMILIES {
        let (a, b) = (family.of(A), family.of(B));
        let mut world = pinging(family);
        world.leave_dropped(B, &Packet::echo_reply(b, a, 7), abi::DROP_POLICY_DENIED);
        world.delivered(A, &Packet::echo_request(a, b, 7));
        world.delivered(B, &Packet::echo_reply(b, a, 7));
        world.leave_dropped(B, &Packet::echo_reply(b, a, 8), abi::DROP_POLICY_DENIED);
        assert_eq!(world.flows(family), 1);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_request_the_other_way_does_not_ride_whatever_its_identifier() {
    for family in FAMILIES {
        let (a, b) = (family.of(A), family.of(B));
        for id in [0, 7, 0xffff] {
            let mut world = pinging(family);
            world.delivered(A, &Packet::echo_request(a, b, id));
            world.leave_dropped(B, &Packet::echo_request(b, a, id), abi::DROP_POLICY_DENIED);
            // The one who asks may not answer in its own name either.
            let ran = world.leave(A, &Packet::echo_reply(a, b, id));
            world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_EGRESS);
            world.delivered(B, &Packet::echo_reply(b, a, id));
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn both_may_ask_with_one_identifier() {
    for family in FAMILIES {
        let (a, b) = (family.of(A), family.of(B));
        let mut world = World::open();
        world.delivered(A, &Packet::echo_request(a, b, 0));
        world.delivered(B, &Packet::echo_request(b, a, 0));
        assert_eq!(world.flows(family), 2);
        world.set_policy(A, &echo_only(family, Direction::Egress, identity(B)));
        world.delivered(B, &Packet::echo_reply(b, a, 0));
        // A may not be asked any more: its answers go with that.
        world.leave_dropped(A, &Packet::echo_reply(a, b, 0), abi::DROP_POLICY_DENIED);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_revoked_ping_is_cut_in_both_directions() {
    for family in FAMILIES {
        let (a, b) = (family.of(A), family.of(B));
        let mut world = pinging(family);
        world.delivered(A, &Packet::echo_request(a, b, 7));
        world.set_policy(A, &PolicyMap::default());
        world.refused_there(B, &Packet::echo_reply(b, a, 7), abi::DROP_POLICY_DENIED);
        world.leave_dropped(A, &Packet::echo_request(a, b, 7), abi::DROP_POLICY_DENIED);
    }
}

/// A has a flow to B that both have spoken on; nothing else is allowed.
fn connected(family: Family) -> (World, Packet, Packet) {
    let mut world = World::new();
    world.set_policy(A, &policy([one_port(Direction::Egress, identity(B), 80)]));
    world.set_policy(B, &policy([one_port(Direction::Ingress, identity(A), 80)]));
    let (a, b) = ((family.of(A), 40000), (family.of(B), 80));
    world.delivered(A, &Packet::tcp(a, b, SYN));
    world.delivered(B, &Packet::tcp(b, a, SYN | ACK));
    (world, Packet::tcp(a, b, ACK), Packet::tcp(b, a, ACK))
}

#[test]
#[ignore = "needs root: make test"]
fn an_error_about_a_flow_passes_in_both_directions() {
    for family in FAMILIES {
        let (mut world, forward, reply) = connected(family);
        // 8 bytes of transport are all that a host must quote.
        for quoted in [1000, if family == Family::V4 { 28 } else { 48 }] {
            let ran = world.leave(B, &Packet::error(family.of(B), family.of(A), &forward, quoted));
            assert_eq!(ran.action, ACT_REDIRECT);
            let ran = world.leave(A, &Packet::error(family.of(A), family.of(B), &reply, quoted));
            assert_eq!(ran.action, ACT_REDIRECT);
        }
        assert_eq!(world.flows(family), 1, "errors are no flows");
    }
}

#[test]
#[ignore = "needs root: make test"]
fn an_error_about_nothing_is_refused_though_policy_allows_everything() {
    for family in FAMILIES {
        let mut world = World::open();
        let never_sent = Packet::tcp((family.of(A), 40000), (family.of(B), 80), ACK);
        let error = Packet::error(family.of(B), family.of(A), &never_sent, 1000);
        let event = world.leave_dropped(B, &error, abi::DROP_UNKNOWN_CT_STATE);
        assert_eq!(u32::from(event.ct_state), abi::CT_RELATED);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn an_error_about_the_flow_of_others_is_a_forgery() {
    for family in FAMILIES {
        let (mut world, forward, reply) = connected(family);
        // C takes part in neither.
        for (quoted, whom) in [(&forward, A), (&reply, B)] {
            let error = Packet::error(family.of(C), family.of(whom), quoted, 1000);
            world.leave_dropped(C, &error, abi::DROP_UNKNOWN_CT_STATE);
        }
        // B speaks of its own flow, but to somebody else.
        let error = Packet::error(family.of(B), family.of(C), &forward, 1000);
        world.leave_dropped(B, &error, abi::DROP_UNKNOWN_CT_STATE);
        // B quotes what it sent itself.
        let error = Packet::error(family.of(B), family.of(B), &reply, 1000);
        world.leave_dropped(B, &error, abi::DROP_UNKNOWN_CT_STATE);
        // Another port.
        let other = Packet::tcp((family.of(A), 40001), (family.of(B), 80), ACK);
        let error = Packet::error(family.of(B), family.of(A), &other, 1000);
        world.leave_dropped(B, &error, abi::DROP_UNKNOWN_CT_STATE);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn an_error_does_not_outlive_the_verdict() {
    for family in FAMILIES {
        let (mut world, forward, _) = connected(family);
        let error = Packet::error(family.of(B), family.of(A), &forward, 1000);
        world.set_policy(A, &PolicyMap::default());
        world.leave_dropped(B, &error, abi::DROP_UNKNOWN_CT_STATE);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn an_error_cut_short_says_nothing() {
    for family in FAMILIES {
        let (mut world, forward, _) = connected(family);
        let network = if family == Family::V4 { 20 } else { 40 };
        for (quoted, reason) in [
            (0, abi::DROP_INVALID_PACKET),
            (network - 1, abi::DROP_INVALID_PACKET),
            (network, abi::DROP_CT_INVALID_HEADER),
            (network + 7, abi::DROP_CT_INVALID_HEADER),
        ] {
            let error = Packet::error(family.of(B), family.of(A), &forward, quoted);
            world.leave_dropped(B, &error, reason);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn errors_about_pings_and_datagrams_pass_too() {
    for family in FAMILIES {
        let mut world = World::open();
        let (a, b) = (family.of(A), family.of(B));
        let ping = Packet::echo_request(a, b, 9);
        let datagram = Packet::udp((a, 1234), (b, 4321), b"hello");
        for packet in [ping, datagram] {
            world.delivered(A, &packet);
            world.delivered(B, &Packet::error(b, a, &packet, 1000));
        }
        // An error about an error, or about a reply that nobody asked for.
        let error = Packet::error(a, b, &Packet::udp((b, 4321), (a, 1234), b"x"), 1000);
        world.delivered(A, &error);
        world.leave_dropped(B, &Packet::error(b, a, &error, 1000), abi::DROP_UNKNOWN_CT_STATE);
        let unasked = Packet::echo_reply(a, b, 10);
        world.leave_dropped(B, &Packet::error(b, a, &unasked, 1000), abi::DROP_UNKNOWN_CT_STATE);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn routers_may_tell_of_what_the_container_sent() {
    for family in FAMILIES {
        let mut world = World::new();
        world.set_policy(A, &policy([one_port(Direction::Egress, family.outside(), 80)]));
        let sent = Packet::tcp((family.of(A), 40000), (family.world(), 80), SYN);
        world.reaches_stack(A, &sent);
        // "Fragmentation needed" of a router on the way, "time exceeded" of the host itself.
        let from_router = Packet::error(family.cidr(), family.of(A), &sent, 1000);
        assert_eq!(world.enter_from_world(A, &from_router).action, ACT_OK);
        let from_host = Packet::error(family.host(), family.of(A), &sent, 1000);
        assert_eq!(world.enter_from_host(A, &from_host).action, ACT_OK);
        let other = Packet::tcp((family.of(A), 40001), (family.world(), 80), SYN);
        let ran = world.enter_from_world(A, &Packet::error(family.cidr(), family.of(A), &other, 1000));
        world.dropped(&ran, abi::DROP_UNKNOWN_CT_STATE, abi::DIRECTION_INGRESS);
        // Of what B sent: A has nothing to do with it.
        world.allow_all(&[B]);
        let of_b = Packet::tcp((family.of(B), 40000), (family.world(), 80), SYN);
        world.reaches_stack(B, &of_b);
        let ran = world.enter_from_world(A, &Packet::error(family.cidr(), family.of(A), &of_b, 1000));
        world.dropped(&ran, abi::DROP_UNKNOWN_CT_STATE, abi::DIRECTION_INGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_container_may_tell_the_world_of_what_it_got() {
    for family in FAMILIES {
        let mut world = World::new();
        let key = PolicyKey::any_port(Direction::Ingress, family.outside());
        world.set_policy(A, &policy([(key, PolicyEntry::ALLOW)]));
        let got = Packet::udp((family.world(), 5000), (family.of(A), 53), b"x");
        assert_eq!(world.enter_from_world(A, &got).action, ACT_OK);
        world.reaches_stack(A, &Packet::error(family.of(A), family.world(), &got, 1000));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn other_types_are_judged_each_by_itself() {
    for family in FAMILIES {
        // Timestamp, and a type of IPv6 that nobody has assigned.
        let (kind, answer) = if family == Family::V4 { (13, 14) } else { (200, 201) };
        let mut world = World::new();
        world.allow_all(&[A]);
        let allowed =
            (PolicyKey::one_port(Direction::Ingress, identity(A), family.icmp(), kind.into()), PolicyEntry::ALLOW);
        world.set_policy(B, &policy([allowed]));
        let (a, b) = (family.of(A), family.of(B));
        world.delivered(A, &Packet::icmp(a, b, kind, 0, &[0; 16]));
        world.refused_there(A, &Packet::icmp(a, b, answer, 0, &[0; 16]), abi::DROP_POLICY_DENIED);
        world.leave_dropped(B, &Packet::icmp(b, a, answer, 0, &[0; 16]), abi::DROP_POLICY_DENIED);
        assert_eq!(world.flows(family), 0);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn icmp_of_the_other_family_is_nothing() {
    let mut world = World::open();
    for (family, number) in [(Family::V4, 58), (Family::V6, 1)] {
        let packet = Packet::raw(family.of(A), family.of(B), number, vec![8, 0, 0, 0, 0, 7, 0, 1]);
        world.leave_dropped(A, &packet, abi::DROP_CT_UNKNOWN_PROTOCOL);
    }
}
