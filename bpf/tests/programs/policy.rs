//! Verdicts: what is looked up, what wins, and what is said about it.

use crate::world::*;
use bpf::abi;
use bpf::testing::node::{ACT_REDIRECT, ACT_SHOT};
use bpf::testing::packet::{ACK, Packet, SYN};
use model::{Direction, Identity, PolicyEntry, PolicyKey, Protocol};

fn syn(family: Family, from: u32, to: u32, port: u16) -> Packet {
    Packet::tcp((family.of(from), 40000), (family.of(to), port), SYN)
}

#[test]
#[ignore = "needs root: make test"]
fn what_no_entry_allows_is_refused_at_the_source() {
    let mut world = World::new();
    for family in FAMILIES {
        let event = world.leave_dropped(A, &syn(family, A, B, 80), abi::DROP_POLICY_DENIED);
        assert_eq!(u32::from(event.matched), abi::MATCH_NONE);
        assert_eq!(world.flows(family), 0);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_destination_refuses_for_itself() {
    let mut world = World::new();
    world.allow_all(&[A]);
    for family in FAMILIES {
        let event = world.refused_there(A, &syn(family, A, B, 80), abi::DROP_POLICY_DENIED);
        assert_eq!((event.source_identity, event.destination_identity), (identity(A).0, identity(B).0));
        assert_eq!(world.flows(family), 0);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn one_port_is_one_port() {
    let mut world = World::new();
    world.allow_all(&[A]);
    world.set_policy(B, &policy([one_port(Direction::Ingress, identity(A), 80)]));
    for family in FAMILIES {
        world.delivered(A, &syn(family, A, B, 80));
        world.refused_there(A, &syn(family, A, B, 81), abi::DROP_POLICY_DENIED);
        let udp = Packet::udp((family.of(A), 40000), (family.of(B), 80), b"x");
        world.refused_there(A, &udp, abi::DROP_POLICY_DENIED);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn one_identity_is_one_identity() {
    let mut world = World::new();
    world.allow_all(&[A, C]);
    world.set_policy(B, &policy([one_port(Direction::Ingress, identity(A), 80)]));
    for family in FAMILIES {
        world.refused_there(C, &syn(family, C, B, 80), abi::DROP_POLICY_DENIED);
        world.delivered(A, &syn(family, A, B, 80));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_deny_entry_has_a_reason_of_its_own() {
    let mut world = World::new();
    world.allow_all(&[A]);
    let deny = (PolicyKey::one_port(Direction::Ingress, identity(A), Protocol::TCP, 80), PolicyEntry::DENY);
    world.set_policy(B, &policy([any(Direction::Ingress), deny]));
    for family in FAMILIES {
        world.refused_there(A, &syn(family, A, B, 80), abi::DROP_POLICY_DENY);
        world.delivered(A, &syn(family, A, B, 81));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_port_prefix_covers_its_ports() {
    let range = PolicyKey {
        direction: Direction::Ingress,
        identity: identity(A),
        protocol: Some(Protocol::TCP),
        prefix: 13,
        port: 80,
    };
    let mut world = World::new();
    world.allow_all(&[A]);
    world.set_policy(B, &policy([(range, PolicyEntry::ALLOW)]));
    for family in FAMILIES {
        for port in [80, 83, 87] {
            world.delivered(A, &syn(family, A, B, port));
        }
        for port in [79, 88] {
            world.refused_there(A, &syn(family, A, B, port), abi::DROP_POLICY_DENIED);
        }
    }
}

/// The verdict on A -> B port 80 when B's ingress has these two entries: of the peer, and of anybody.
fn contest(peer: (PolicyKey, PolicyEntry), anybody: (PolicyKey, PolicyEntry)) -> Option<u32> {
    let mut world = World::new();
    world.allow_all(&[A]);
    world.set_policy(B, &policy([peer, anybody]));
    let ran = world.leave(A, &syn(Family::V4, A, B, 80));
    if ran.action == ACT_REDIRECT {
        return None;
    }
    Some(u32::from(world.node.events().unwrap().last().unwrap().reason))
}

#[test]
#[ignore = "needs root: make test"]
fn the_larger_precedence_wins_then_deny_then_the_longer_match() {
    let narrow = PolicyKey::one_port(Direction::Ingress, identity(A), Protocol::TCP, 80);
    let wide = PolicyKey::any_port(Direction::Ingress, identity(A));
    let narrow_any = PolicyKey::one_port(Direction::Ingress, Identity::UNKNOWN, Protocol::TCP, 80);
    let wide_any = PolicyKey::any_port(Direction::Ingress, Identity::UNKNOWN);
    let entry = |deny, precedence, proxy_port| PolicyEntry { deny, precedence, proxy_port };

    assert_eq!(contest((narrow, PolicyEntry::ALLOW), (wide_any, PolicyEntry::DENY)), Some(abi::DROP_POLICY_DENY));
    assert_eq!(contest((wide, PolicyEntry::DENY), (narrow_any, PolicyEntry::ALLOW)), Some(abi::DROP_POLICY_DENY));
    assert_eq!(contest((wide, entry(false, 9, 0)), (narrow_any, entry(true, 8, 0))), None);
    // A tie of precedence: the denial, whoever has it.
    assert_eq!(contest((wide, entry(true, 5, 0)), (narrow_any, entry(false, 5, 0))), Some(abi::DROP_POLICY_DENY));
    assert_eq!(contest((narrow, entry(false, 5, 0)), (wide_any, entry(true, 5, 0))), Some(abi::DROP_POLICY_DENY));
    // All equal but the length: the longer one; the redirect shows which it was.
    assert_eq!(contest((wide, entry(false, 5, 0)), (narrow_any, entry(false, 5, 1))), Some(abi::DROP_NO_PROXY));
    assert_eq!(contest((narrow, entry(false, 5, 1)), (wide_any, entry(false, 5, 0))), Some(abi::DROP_NO_PROXY));
    // Equal throughout: the peer's.
    assert_eq!(contest((narrow, entry(false, 5, 0)), (narrow_any, entry(false, 5, 1))), None);
}

#[test]
#[ignore = "needs root: make test"]
fn what_only_a_proxy_may_pass_does_not_pass() {
    let mut world = World::new();
    world.allow_all(&[A]);
    let redirect = PolicyEntry { deny: false, proxy_port: 9999, precedence: 2 };
    let key = PolicyKey::one_port(Direction::Ingress, identity(A), Protocol::TCP, 80);
    world.set_policy(B, &policy([(key, redirect)]));
    for family in FAMILIES {
        world.refused_there(A, &syn(family, A, B, 80), abi::DROP_NO_PROXY);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_policy_that_is_not_there_refuses_everything() {
    let mut world = World::open();
    let id = world.node.endpoint(A).unwrap().policy;
    // The same slot of the table, another id: as when an old id is met after its place was given away.
    for missing in [0, id + abi::POLICY_SLOTS] {
        world.change_endpoint(A, |endpoint| endpoint.policy = missing);
        for family in FAMILIES {
            world.leave_dropped(A, &syn(family, A, B, 80), abi::DROP_NO_POLICY);
            let ran = world.leave(B, &syn(family, B, A, 80));
            assert_eq!(ran.action, ACT_SHOT);
            let event = *world.node.events().unwrap().last().unwrap();
            assert_eq!(u32::from(event.reason), abi::DROP_NO_POLICY);
            let ran = world.enter_from_host(A, &Packet::tcp((family.host(), 1), (family.of(A), 80), SYN));
            world.dropped(&ran, abi::DROP_NO_POLICY, abi::DIRECTION_INGRESS);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_event_says_what_matched() {
    let ingress = Direction::Ingress;
    let with = |identity, protocol, prefix, port| PolicyKey { direction: ingress, identity, protocol, prefix, port };
    let anybody = Identity::UNKNOWN;
    let tcp = Some(Protocol::TCP);
    for (key, matched) in [
        (with(identity(A), None, 0, 0), abi::MATCH_L3_ONLY),
        (with(identity(A), tcp, 16, 80), abi::MATCH_L3_L4),
        (with(identity(A), tcp, 12, 80), abi::MATCH_L3_L4),
        (with(anybody, tcp, 16, 80), abi::MATCH_L4_ONLY),
        (with(anybody, None, 0, 0), abi::MATCH_ALL),
        (with(identity(A), tcp, 0, 0), abi::MATCH_L3_PROTO),
        (with(anybody, tcp, 0, 0), abi::MATCH_PROTO_ONLY),
    ] {
        let mut world = World::new();
        world.allow_all(&[A]);
        world.set_policy(B, &policy([(key, PolicyEntry::ALLOW)]));
        world.delivered(A, &syn(Family::V6, A, B, 80));
        let events = world.node.events().unwrap();
        let [event] = events[..] else { panic!("one event: {events:?}") };
        assert_eq!((u32::from(event.kind), u32::from(event.matched)), (abi::EVENT_VERDICT, matched), "{key:?}");
    }
}

#[test]
#[ignore = "needs root: make test"]
fn an_entry_counts_what_it_decided_and_no_more() {
    let mut world = World::new();
    world.allow_all(&[A]);
    let (key, entry) = one_port(Direction::Ingress, identity(A), 80);
    let id = world.set_policy(B, &policy([(key, entry)]));
    let packet = syn(Family::V4, A, B, 80);
    world.delivered(A, &packet);
    world.delivered(A, &Packet::tcp((Family::V4.of(A), 40000), (Family::V4.of(B), 80), ACK));
    let counted = world.node.policy(key_of(id, &key)).unwrap();
    assert_eq!((counted.packets, counted.bytes), (1, packet.build().len() as u64));
}

#[test]
#[ignore = "needs root: make test"]
fn other_transports_have_ports_too() {
    let mut world = World::new();
    world.allow_all(&[A]);
    let entry =
        |protocol, port| (PolicyKey::one_port(Direction::Ingress, identity(A), protocol, port), PolicyEntry::ALLOW);
    world.set_policy(B, &policy([entry(Protocol::UDP, 53), entry(Protocol::SCTP, 38412)]));
    for family in FAMILIES {
        let to = |port| (family.of(B), port);
        let from = (family.of(A), 40000);
        world.delivered(A, &Packet::udp(from, to(53), b"query"));
        world.refused_there(A, &Packet::udp(from, to(54), b"query"), abi::DROP_POLICY_DENIED);
        world.delivered(A, &Packet::sctp(from, to(38412)));
        world.refused_there(A, &Packet::sctp(from, to(38413)), abi::DROP_POLICY_DENIED);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_prefix_names_an_identity() {
    let mut world = World::new();
    world.set_policy(A, &policy([one_port(Direction::Egress, CIDR, 443)]));
    for family in FAMILIES {
        world.reaches_stack(A, &Packet::tcp((family.of(A), 40000), (family.cidr(), 443), SYN));
        let elsewhere = Packet::tcp((family.of(A), 40000), (family.world(), 443), SYN);
        let event = world.leave_dropped(A, &elsewhere, abi::DROP_POLICY_DENIED);
        assert_eq!(event.destination_identity, family.outside().0);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_longest_prefix_counts_and_a_whole_address_before_it() {
    let mut world = World::new();
    let special = Identity(Identity::FIRST_LOCAL + 9);
    world.set_policy(A, &policy([one_port(Direction::Egress, special, 443)]));
    for family in FAMILIES {
        let packet = Packet::tcp((family.of(A), 40000), (family.cidr(), 443), SYN);
        world.leave_dropped(A, &packet, abi::DROP_POLICY_DENIED);
        world.set_address(family.cidr(), special, 0);
        world.reaches_stack(A, &packet);
    }
}
