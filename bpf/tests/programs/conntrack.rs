//! Flows: who may answer, how long, and what ends the right to.

use crate::world::*;
use bpf::abi;
use bpf::names::{knob, map};
use bpf::testing::node::{ACT_OK, ACT_REDIRECT};
use bpf::testing::packet::{ACK, FIN, Packet, RST, SYN};
use bpf::testing::{Options, Pins};
use model::{Direction, Identity, PolicyEntry, PolicyKey, PolicyMap, Protocol};

fn tcp(family: Family, from: (u32, u16), to: (u32, u16), flags: u8) -> Packet {
    Packet::tcp((family.of(from.0), from.1), (family.of(to.0), to.1), flags)
}

const CALLER: (u32, u16) = (A, 40000);
const CALLED: (u32, u16) = (B, 80);

/// A may open port 80 of B, nothing else may be opened.
fn one_way() -> World {
    let mut world = World::new();
    world.set_policy(A, &policy([one_port(Direction::Egress, identity(B), 80)]));
    world.set_policy(B, &policy([one_port(Direction::Ingress, identity(A), 80)]));
    world
}

/// The same with a flow on it that both have spoken on.
fn one_way_open(family: Family) -> World {
    let mut world = one_way();
    world.delivered(A, &tcp(family, CALLER, CALLED, SYN));
    world.delivered(B, &tcp(family, CALLED, CALLER, SYN | ACK));
    world.delivered(A, &tcp(family, CALLER, CALLED, ACK));
    world
}

#[test]
#[ignore = "needs root: make test"]
fn replies_need_no_policy() {
    for family in FAMILIES {
        let mut world = one_way();
        world.leave_dropped(B, &tcp(family, CALLED, CALLER, SYN | ACK), abi::DROP_POLICY_DENIED);
        world.delivered(A, &tcp(family, CALLER, CALLED, SYN));
        world.delivered(B, &tcp(family, CALLED, CALLER, SYN | ACK));
        world.delivered(B, &tcp(family, CALLED, CALLER, ACK));
        assert_eq!(world.flows(family), 1, "both directions are one flow");
    }
}

#[test]
#[ignore = "needs root: make test"]
fn an_entry_holds_both_sides() {
    for family in FAMILIES {
        let mut world = one_way_open(family);
        let flow = world.flow(family);
        // Addresses are compared as the machine reads them: the last byte is the most significant one.
        assert_eq!(flow.slot, [A as u16, B as u16]);
        let policies = [A, B].map(|slot| world.node.endpoint(slot).unwrap().policy);
        assert_eq!(flow.stamp, policies);
        assert_eq!(flow.flags, 0, "side a opened it");
        assert_eq!(flow.tcp_flags, [SYN | ACK, SYN | ACK]);
        assert_eq!(flow.packets, [2, 1]);
        let length = tcp(family, CALLER, CALLED, SYN).build().len() as u64;
        assert_eq!(flow.bytes, [2 * length, length]);
        // And a flow of the other side.
        world.allow_all(&[A, B]);
        let from_b = tcp(family, (B, 40000), (A, 22), SYN);
        world.delivered(B, &from_b);
        assert_eq!(world.flows(family), 2);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_policy_that_went_away_cuts_both_directions() {
    for family in FAMILIES {
        for (changed, at_source_of_forward) in [(A, true), (B, false)] {
            let mut world = one_way_open(family);
            world.set_policy(changed, &PolicyMap::default());
            let forward = tcp(family, CALLER, CALLED, ACK);
            if at_source_of_forward {
                world.leave_dropped(A, &forward, abi::DROP_POLICY_DENIED);
            } else {
                world.refused_there(A, &forward, abi::DROP_POLICY_DENIED);
            }
            assert_eq!(world.flows(family), 1, "the entry stays, or the other end could open it again");
        }
        for (changed, at_source_of_reply) in [(A, false), (B, true)] {
            let mut world = one_way_open(family);
            world.set_policy(changed, &PolicyMap::default());
            let reply = tcp(family, CALLED, CALLER, ACK);
            let event = if at_source_of_reply {
                world.leave_dropped(B, &reply, abi::DROP_POLICY_DENIED)
            } else {
                world.refused_there(B, &reply, abi::DROP_POLICY_DENIED)
            };
            assert_eq!(u32::from(event.ct_state), abi::CT_REPLY);
            assert_eq!(world.flows(family), 1);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_cut_flow_is_not_opened_again_from_its_other_end() {
    for family in FAMILIES {
        let mut world = one_way_open(family);
        // B may call A from now on, but A may not call B any more.
        world.set_policy(A, &PolicyMap::allow_all());
        let mut deaf = PolicyMap::allow_all();
        deaf.remove(&PolicyKey::any_port(Direction::Ingress, Identity::UNKNOWN));
        world.set_policy(B, &deaf);
        for _ in 0..2 {
            world.refused_there(A, &tcp(family, CALLER, CALLED, ACK), abi::DROP_POLICY_DENIED);
            world.leave_dropped(B, &tcp(family, CALLED, CALLER, ACK), abi::DROP_POLICY_DENIED);
        }
        world.set_policy(B, &policy([one_port(Direction::Ingress, identity(A), 80)]));
        world.delivered(B, &tcp(family, CALLED, CALLER, ACK));
        world.delivered(A, &tcp(family, CALLER, CALLED, ACK));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_policy_that_still_allows_leaves_the_flow_alone() {
    for family in FAMILIES {
        let mut world = one_way_open(family);
        let before = world.flow(family);
        world.node.events().unwrap();
        let id = world.set_policy(B, &policy([one_port(Direction::Ingress, identity(A), 80)]));
        // In reply direction, where no policy of its own would allow it.
        world.delivered(B, &tcp(family, CALLED, CALLER, ACK));
        let after = world.flow(family);
        assert_eq!(after.stamp[1], id);
        assert_eq!(after.packets, [before.packets[0], before.packets[1] + 1]);
        assert_eq!(after.tcp_flags, before.tcp_flags);
        assert!(world.node.events().unwrap().is_empty(), "no new flow, nothing to tell");
        world.delivered(A, &tcp(family, CALLER, CALLED, ACK));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_changed_address_cache_is_asked_again() {
    for family in FAMILIES {
        let mut world = World::new();
        world.set_policy(A, &policy([one_port(Direction::Egress, family.outside(), 80)]));
        let packet = |flags| Packet::tcp((family.of(A), 40000), (family.world(), 80), flags);
        world.reaches_stack(A, &packet(SYN));
        world.reaches_stack(A, &packet(ACK));
        assert_eq!(world.flow(family).stamp.iter().filter(|s| **s == family.outside().0).count(), 1);
        // Something else changes: judged again, allowed again.
        world.set_address(family.cidr(), CIDR, 0);
        world.reaches_stack(A, &packet(ACK));
        // The peer is somebody else now.
        world.set_address(family.world(), CIDR, 0);
        let event = world.leave_dropped(A, &packet(ACK), abi::DROP_POLICY_DENIED);
        assert_eq!(event.destination_identity, CIDR.0);
        // Its entry stays, so that neither side can open the flow anew.
        assert_eq!(world.flows(family), 1);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn replies_from_outside_are_cut_with_the_address_cache_too() {
    for family in FAMILIES {
        let mut world = World::new();
        world.set_policy(A, &policy([one_port(Direction::Egress, family.outside(), 80)]));
        world.reaches_stack(A, &Packet::tcp((family.of(A), 40000), (family.world(), 80), SYN));
        let reply = Packet::tcp((family.world(), 80), (family.of(A), 40000), SYN | ACK);
        assert_eq!(world.enter_from_world(A, &reply).action, ACT_OK);
        world.set_address(family.world(), CIDR, 0);
        let ran = world.enter_from_world(A, &reply);
        world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn flows_between_containers_do_not_hang_on_the_address_cache() {
    for family in FAMILIES {
        let mut world = one_way_open(family);
        let generation = world.flow(family).ipcache_generation;
        world.set_address(family.world(), CIDR, 0);
        world.delivered(A, &tcp(family, CALLER, CALLED, ACK));
        assert_eq!(world.flow(family).ipcache_generation, generation, "not judged again");
    }
}

/// Makes the only flow look as if its last packet came so many jiffies ago.
fn age(world: &mut World, family: Family, jiffies: u32) {
    let now = world.node.clock().unwrap();
    world.change_flow(family, |flow| flow.seen = now.wrapping_sub(jiffies));
}

const TIMES: [(&str, u32); 4] = [
    (knob::CT_TIMEOUT_CLOSING, 1_000),
    (knob::CT_TIMEOUT_ANY, 10_000),
    (knob::CT_TIMEOUT_TCP_SYN, 20_000),
    (knob::CT_TIMEOUT_TCP, 1_000_000),
];
/// Less than the distance of two times, more than a test lasts.
const MARGIN: u32 = 900;

fn timed(entries: &[(PolicyKey, PolicyEntry)]) -> World {
    let mut world = World::with(&Options { knobs: TIMES.to_vec(), ..Options::default() });
    world.set_policy(A, &policy(entries.iter().copied()));
    world.set_policy(B, &policy([any(Direction::Ingress)]));
    world
}

#[test]
#[ignore = "needs root: make test"]
fn a_flow_lives_as_long_as_its_state_says() {
    let egress = (PolicyKey::any_port(Direction::Egress, identity(B)), PolicyEntry::ALLOW);
    for family in FAMILIES {
        let reply = tcp(family, CALLED, CALLER, ACK);
        let opened = |packets: &[(u32, u8)]| {
            let mut world = timed(&[egress]);
            for (slot, flags) in packets {
                let (from, to) = if *slot == A { (CALLER, CALLED) } else { (CALLED, CALLER) };
                world.delivered(*slot, &tcp(family, from, to, *flags));
            }
            world
        };
        let spoken: &[(u32, u8)] = &[(A, SYN), (B, SYN | ACK), (A, ACK)];
        let one_sided: &[(u32, u8)] = &[(A, SYN), (A, ACK)];
        let reset: &[(u32, u8)] = &[(A, SYN), (B, SYN | ACK), (B, RST)];
        let finished: &[(u32, u8)] = &[(A, SYN), (B, SYN | ACK), (A, FIN | ACK), (B, FIN | ACK)];
        let half_closed: &[(u32, u8)] = &[(A, SYN), (B, SYN | ACK), (A, FIN | ACK)];
        for (packets, life) in
            [(spoken, 1_000_000), (one_sided, 20_000), (reset, 1_000), (finished, 1_000), (half_closed, 1_000_000)]
        {
            let mut world = opened(packets);
            age(&mut world, family, life - MARGIN);
            world.delivered(B, &reply);
            let mut world = opened(packets);
            age(&mut world, family, life + 1);
            world.leave_dropped(B, &reply, abi::DROP_POLICY_DENIED);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn other_flows_live_shorter() {
    let egress = (PolicyKey::any_port(Direction::Egress, identity(B)), PolicyEntry::ALLOW);
    for family in FAMILIES {
        let udp =
            |from: (u32, u16), to: (u32, u16)| Packet::udp((family.of(from.0), from.1), (family.of(to.0), to.1), b"x");
        let mut world = timed(&[egress]);
        world.delivered(A, &udp(CALLER, CALLED));
        age(&mut world, family, 10_000 - MARGIN);
        world.delivered(B, &udp(CALLED, CALLER));
        age(&mut world, family, 10_001);
        world.leave_dropped(B, &udp(CALLED, CALLER), abi::DROP_POLICY_DENIED);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn an_expired_flow_starts_anew_where_policy_allows() {
    let egress = (PolicyKey::any_port(Direction::Egress, identity(B)), PolicyEntry::ALLOW);
    for family in FAMILIES {
        let mut world = timed(&[egress]);
        world.delivered(A, &tcp(family, CALLER, CALLED, SYN));
        age(&mut world, family, 20_001);
        world.node.events().unwrap();
        world.delivered(A, &tcp(family, CALLER, CALLED, ACK));
        let events = world.node.events().unwrap();
        assert_eq!(events.iter().map(|e| u32::from(e.kind)).collect::<Vec<_>>(), [abi::EVENT_VERDICT]);
        assert_eq!(world.flow(family).packets, [1, 0], "counted from the start");
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_clock_that_another_cpu_has_ahead_does_not_expire_a_flow() {
    for family in FAMILIES {
        let mut world = one_way_open(family);
        age(&mut world, family, u32::MAX - 5);
        world.delivered(B, &tcp(family, CALLED, CALLER, ACK));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_syn_after_the_end_is_a_new_flow() {
    for family in FAMILIES {
        let mut world = one_way_open(family);
        world.delivered(B, &tcp(family, CALLED, CALLER, RST));
        world.node.events().unwrap();
        world.delivered(A, &tcp(family, CALLER, CALLED, SYN));
        let event = *world.node.events().unwrap().last().unwrap();
        assert_eq!((u32::from(event.kind), u32::from(event.ct_state)), (abi::EVENT_VERDICT, abi::CT_NEW));
        let flow = world.flow(family);
        assert_eq!((flow.packets, flow.tcp_flags), ([1, 0], [SYN, 0]));
        // The last segments of the old one are another matter: no new flow.
        let mut world = one_way_open(family);
        world.delivered(B, &tcp(family, CALLED, CALLER, RST));
        world.delivered(A, &tcp(family, CALLER, CALLED, ACK));
        assert_eq!(world.flow(family).packets, [3, 2]);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_syn_against_the_direction_is_judged_for_itself() {
    for family in FAMILIES {
        let mut world = one_way_open(family);
        let against = tcp(family, CALLED, CALLER, SYN);
        world.leave_dropped(B, &against, abi::DROP_POLICY_DENIED);
        world.delivered(A, &tcp(family, CALLER, CALLED, ACK));
        world.delivered(B, &tcp(family, CALLED, CALLER, ACK));
        assert_eq!(world.flow(family).flags, 0, "the flow is as it was");

        // Where it is allowed, the flow is the other's from now on.
        world.set_policy(B, &policy([any(Direction::Egress), one_port(Direction::Ingress, identity(A), 80)]));
        world.set_policy(A, &policy([any(Direction::Ingress), one_port(Direction::Egress, identity(B), 80)]));
        world.delivered(B, &against);
        let flow = world.flow(family);
        assert_eq!(u32::from(flow.flags), abi::CT_OPENED_BY_B);
        assert_eq!(flow.packets, [0, 1]);
        world.delivered(A, &tcp(family, CALLER, CALLED, SYN | ACK));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_repeated_syn_rides() {
    for family in FAMILIES {
        let mut world = one_way();
        for _ in 0..3 {
            world.delivered(A, &tcp(family, CALLER, CALLED, SYN));
        }
        assert_eq!(world.flow(family).packets, [3, 0]);
        assert_eq!(world.node.events().unwrap().len(), 1);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_flow_in_the_middle_is_taken_up_where_policy_allows() {
    for family in FAMILIES {
        let mut world = one_way();
        world.delivered(A, &tcp(family, CALLER, CALLED, ACK));
        world.delivered(B, &tcp(family, CALLED, CALLER, ACK));
        assert_eq!(world.flows(family), 1);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn ports_tell_flows_apart() {
    for family in FAMILIES {
        let mut world = one_way_open(family);
        world.leave_dropped(B, &tcp(family, CALLED, (A, 40001), ACK), abi::DROP_POLICY_DENIED);
        world.leave_dropped(B, &tcp(family, (B, 81), CALLER, ACK), abi::DROP_POLICY_DENIED);
        let udp = Packet::udp((family.of(B), 80), (family.of(A), 40000), b"x");
        world.leave_dropped(B, &udp, abi::DROP_POLICY_DENIED);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn equal_ports_on_both_ends_are_no_trouble() {
    for family in FAMILIES {
        let mut world = World::new();
        let key = |direction, peer| (PolicyKey::one_port(direction, peer, Protocol::UDP, 123), PolicyEntry::ALLOW);
        world.set_policy(A, &policy([key(Direction::Egress, identity(B))]));
        world.set_policy(B, &policy([key(Direction::Ingress, identity(A))]));
        let udp = |from, to| Packet::udp((family.of(from), 123), (family.of(to), 123), b"ntp");
        world.leave_dropped(B, &udp(B, A), abi::DROP_POLICY_DENIED);
        world.delivered(A, &udp(A, B));
        world.delivered(B, &udp(B, A));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn another_container_in_the_slot_does_not_inherit_the_flow() {
    for family in FAMILIES {
        let mut world = one_way_open(family);
        // The same identity, so the same policy; another address. The address cache has not heard of it yet.
        world.change_endpoint(B, |endpoint| {
            endpoint.ipv4 = std::net::Ipv4Addr::new(10, 15, 0, 200).into();
            endpoint.ipv6[15] = 200;
        });
        world.leave_dropped(A, &tcp(family, CALLER, CALLED, ACK), abi::DROP_UNROUTABLE);
        // Nobody in it at all.
        world.change_endpoint(B, |endpoint| *endpoint = abi::Endpoint::default());
        world.leave_dropped(A, &tcp(family, CALLER, CALLED, ACK), abi::DROP_UNROUTABLE);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn world_may_be_answered_by_whom_it_may_call() {
    for family in FAMILIES {
        let mut world = World::new();
        world.set_policy(A, &policy([one_port(Direction::Ingress, family.outside(), 80)]));
        let call = |flags| Packet::tcp((family.world(), 5555), (family.of(A), 80), flags);
        let answer = |flags| Packet::tcp((family.of(A), 80), (family.world(), 5555), flags);
        world.leave_dropped(A, &answer(SYN | ACK), abi::DROP_POLICY_DENIED);
        assert_eq!(world.enter_from_world(A, &call(SYN)).action, ACT_OK);
        world.reaches_stack(A, &answer(SYN | ACK));
        assert_eq!(world.enter_from_world(A, &call(ACK)).action, ACT_OK);
        world.set_policy(A, &PolicyMap::default());
        let ran = world.leave(A, &answer(ACK));
        world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_EGRESS);
        let ran = world.enter_from_world(A, &call(ACK));
        world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_flow_that_cannot_be_remembered_is_refused() {
    use aya::maps::{HashMap, MapData};
    // A plain hash with room for one stands where the table is looked for: unlike the real one it does not evict.
    let pins = Pins::new().unwrap();
    let table = HashMap::<MapData, [u8; 16], [u8; 64]>::create(1, 0).unwrap();
    table.pin(pins.path().join(map::CT4)).unwrap();
    let mut world = World::with(&Options { pins: Some(pins.path()), ..Options::default() });
    world.allow_all(&[A, B]);
    let open = |port| tcp(Family::V4, (A, port), CALLED, SYN);
    assert_eq!(world.leave(A, &open(1)).action, ACT_REDIRECT);
    let ran = world.leave(A, &open(2));
    world.dropped(&ran, abi::DROP_CT_INSERT_FAILED, abi::DIRECTION_EGRESS);
}
