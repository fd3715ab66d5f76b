//! What is told of packets: records, levels, counters.

use crate::world::*;
use bpf::abi;
use bpf::names::{knob, map};
use bpf::testing::Options;
use bpf::testing::node::ACT_REDIRECT;
use bpf::testing::packet::{ACK, FIN, Packet, RST, SYN, TCP, UDP};
use model::{Direction, Identity};

fn kinds(world: &mut World) -> Vec<u32> {
    world.node.events().unwrap().iter().map(|e| u32::from(e.kind)).collect()
}

fn forward(family: Family, flags: u8) -> Packet {
    Packet::tcp((family.of(A), 40000), (family.of(B), 80), flags)
}

fn reply(family: Family, flags: u8) -> Packet {
    Packet::tcp((family.of(B), 80), (family.of(A), 40000), flags)
}

#[test]
#[ignore = "needs root: make test"]
fn a_drop_says_all_that_is_known() {
    let mut world = World::new();
    for (family, number) in [(Family::V4, abi::FAMILY_IPV4), (Family::V6, abi::FAMILY_IPV6)] {
        let before = world.node.clock().unwrap();
        let packet = forward(family, SYN);
        let event = world.leave_dropped(A, &packet, abi::DROP_POLICY_DENIED);
        let frame = packet.build();
        assert!(event.timestamp > 0 && before > 0);
        assert_eq!(u32::from(event.point), abi::POINT_FROM_ENDPOINT);
        assert_eq!(u32::from(event.ct_state), abi::CT_NEW);
        assert_eq!((u32::from(event.family), event.protocol), (number, TCP));
        assert_eq!((event.source_identity, event.destination_identity), (identity(A).0, identity(B).0));
        assert_eq!((event.source_slot, event.destination_slot), (A as u16, B as u16));
        assert_eq!((event.source_port, event.destination_port), (40000, 80));
        assert_eq!(event.ifindex, device(A));
        assert_eq!((event.length as usize, event.captured as usize), (frame.len(), frame.len()));
        assert_eq!(event.packet[..frame.len()], frame);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn timestamps_rise() {
    let mut world = World::new();
    for _ in 0..3 {
        world.leave(A, &forward(Family::V4, SYN));
    }
    let times: Vec<u64> = world.node.events().unwrap().iter().map(|e| e.timestamp).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
}

#[test]
#[ignore = "needs root: make test"]
fn a_long_packet_is_captured_in_part() {
    let mut world = World::new();
    for family in FAMILIES {
        let packet = Packet::udp((family.of(A), 1), (family.of(B), 2), &[9; 1000]);
        let event = world.leave_dropped(A, &packet, abi::DROP_POLICY_DENIED);
        let frame = packet.build();
        assert_eq!((event.length as usize, event.captured), (frame.len(), 128));
        assert_eq!(event.packet, frame[..128]);
        assert_eq!(event.protocol, UDP);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn of_icmp_the_type_stands_for_the_port() {
    let mut world = World::new();
    for family in FAMILIES {
        let packet = Packet::echo_request(family.of(A), family.of(B), 77);
        let event = world.leave_dropped(A, &packet, abi::DROP_POLICY_DENIED);
        assert_eq!((event.source_port, event.destination_port), (0, family.echo_type()));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_new_flow_between_containers_is_one_verdict_of_both() {
    let mut world = World::open();
    for family in FAMILIES {
        world.delivered(A, &forward(family, SYN));
        let events = world.node.events().unwrap();
        let [event] = events[..] else { panic!("{events:?}") };
        assert_eq!(u32::from(event.kind), abi::EVENT_VERDICT);
        assert_eq!(u32::from(event.direction), abi::DIRECTION_EGRESS | abi::DIRECTION_INGRESS);
        assert_eq!((event.reason, u32::from(event.ct_state)), (0, abi::CT_NEW));
        assert_eq!((event.source_slot, event.destination_slot), (A as u16, B as u16));
        assert_eq!(usize::from(event.captured), forward(family, SYN).build().len());
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_new_flow_with_the_outside_is_a_verdict_of_one() {
    let mut world = World::open();
    for family in FAMILIES {
        world.reaches_stack(A, &Packet::tcp((family.of(A), 40000), (family.world(), 80), SYN));
        world.enter_from_world(A, &Packet::tcp((family.world(), 40000), (family.of(A), 80), SYN));
        let events = world.node.events().unwrap();
        let [out, into] = events[..] else { panic!("{events:?}") };
        assert_eq!((u32::from(out.direction), out.destination_identity), (abi::DIRECTION_EGRESS, family.outside().0));
        assert_eq!((out.source_slot, out.destination_slot), (A as u16, 0));
        assert_eq!((u32::from(into.direction), into.source_identity), (abi::DIRECTION_INGRESS, family.outside().0));
        assert_eq!((into.source_slot, into.destination_slot), (0, A as u16));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn each_direction_is_traced_when_a_flag_is_new() {
    let mut world = World::open();
    for family in FAMILIES {
        world.delivered(A, &forward(family, SYN));
        assert_eq!(kinds(&mut world), [abi::EVENT_VERDICT]);
        world.delivered(B, &reply(family, SYN | ACK));
        let events = world.node.events().unwrap();
        let [event] = events[..] else { panic!("{events:?}") };
        assert_eq!((u32::from(event.kind), u32::from(event.ct_state)), (abi::EVENT_TRACE, abi::CT_REPLY));
        assert_eq!(u32::from(event.point), abi::POINT_TO_ENDPOINT);
        assert_eq!((event.source_identity, event.destination_identity), (identity(B).0, identity(A).0));
        assert_eq!((event.source_slot, event.destination_slot), (B as u16, A as u16));
        // An acknowledgement is no news, however often.
        for _ in 0..5 {
            world.delivered(A, &forward(family, ACK));
            world.delivered(B, &reply(family, ACK));
        }
        assert!(kinds(&mut world).is_empty());
        world.delivered(A, &forward(family, FIN | ACK));
        world.delivered(A, &forward(family, FIN | ACK));
        world.delivered(B, &reply(family, RST));
        assert_eq!(kinds(&mut world), [abi::EVENT_TRACE; 2]);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_flow_is_traced_once_in_an_interval_and_direction() {
    let mut world = World::with(&Options { knobs: vec![(knob::REPORT_INTERVAL, 1_000_000)], ..Options::default() });
    world.allow_all(&[A, B]);
    for family in FAMILIES {
        let out = Packet::udp((family.of(A), 40000), (family.of(B), 53), b"x");
        let back = Packet::udp((family.of(B), 53), (family.of(A), 40000), b"x");
        world.delivered(A, &out);
        assert_eq!(kinds(&mut world), [abi::EVENT_VERDICT]);
        for _ in 0..5 {
            world.delivered(A, &out);
        }
        assert!(kinds(&mut world).is_empty());
        for _ in 0..5 {
            world.delivered(B, &back);
        }
        assert_eq!(kinds(&mut world), [abi::EVENT_TRACE], "the first reply");
        // The interval passes for one direction.
        let now = world.node.clock().unwrap();
        // As far back as the field can tell.
        world.change_flow(family, |flow| flow.reported[0] = ((now >> abi::REPORT_SHIFT) as u8).wrapping_sub(0x80));
        world.delivered(B, &back);
        assert!(kinds(&mut world).is_empty());
        world.delivered(A, &out);
        world.delivered(A, &out);
        let events = world.node.events().unwrap();
        let [event] = events[..] else { panic!("{events:?}") };
        assert_eq!((u32::from(event.kind), u32::from(event.ct_state)), (abi::EVENT_TRACE, abi::CT_ESTABLISHED));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn traces_of_traffic_with_the_outside_say_where_it_goes() {
    let mut world = World::open();
    world.monitor(abi::MONITOR_ALL);
    for family in FAMILIES {
        for (peer, point, identity) in [
            (family.world(), abi::POINT_TO_STACK, family.outside()),
            (family.host(), abi::POINT_TO_HOST, Identity::HOST),
            (family.cidr(), abi::POINT_TO_STACK, CIDR),
        ] {
            for flags in [SYN, ACK] {
                world.reaches_stack(A, &Packet::tcp((family.of(A), 40000), (peer, 80), flags));
            }
            let event = *world.node.events().unwrap().last().unwrap();
            assert_eq!(u32::from(event.kind), abi::EVENT_TRACE);
            assert_eq!((u32::from(event.point), event.destination_identity), (point, identity.0));
        }
        let answer = Packet::tcp((family.world(), 80), (family.of(A), 40000), SYN | ACK);
        world.enter_from_world(A, &answer);
        let event = *world.node.events().unwrap().last().unwrap();
        assert_eq!((u32::from(event.kind), u32::from(event.ct_state)), (abi::EVENT_TRACE, abi::CT_REPLY));
        assert_eq!((u32::from(event.point), event.source_identity), (abi::POINT_TO_ENDPOINT, family.outside().0));
        assert_eq!((event.source_slot, event.destination_slot), (0, A as u16));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn levels_add_up() {
    for (level, expected) in [
        (abi::MONITOR_DROPS, vec![abi::EVENT_DROP]),
        (abi::MONITOR_VERDICTS, vec![abi::EVENT_VERDICT, abi::EVENT_DROP]),
        (abi::MONITOR_MEDIUM, vec![abi::EVENT_VERDICT, abi::EVENT_TRACE, abi::EVENT_DROP]),
        (
            abi::MONITOR_ALL,
            vec![abi::EVENT_VERDICT, abi::EVENT_TRACE, abi::EVENT_TRACE, abi::EVENT_TRACE, abi::EVENT_DROP],
        ),
    ] {
        let mut world = World::new();
        world.allow_all(&[A]);
        world.set_policy(B, &policy([one_port(Direction::Ingress, identity(A), 80)]));
        world.monitor(level);
        let family = Family::V4;
        world.delivered(A, &forward(family, SYN));
        world.delivered(A, &forward(family, ACK));
        world.delivered(B, &reply(family, SYN | ACK));
        world.delivered(B, &reply(family, ACK));
        let refused = Packet::tcp((family.of(A), 40000), (family.of(B), 81), SYN);
        assert_eq!(world.leave(A, &refused).action, 2);
        assert_eq!(kinds(&mut world), expected, "level {level}");
    }
}

#[test]
#[ignore = "needs root: make test"]
fn an_event_without_room_is_counted_and_stops_nothing() {
    let mut world = World::with(&Options { sizes: vec![(map::EVENTS, 4096)], ..Options::default() });
    world.allow_all(&[A, B]);
    let open = |port| Packet::tcp((Family::V4.of(A), port), (Family::V4.of(B), 80), SYN);
    for port in 1..=100 {
        assert_eq!(world.leave(A, &open(port)).action, ACT_REDIRECT);
    }
    let kept = world.node.events().unwrap().len() as u64;
    let lost = world.node.metric(abi::REASON_EVENT_LOST, abi::DIRECTION_EGRESS).unwrap().0;
    assert!(kept > 0 && lost > 0);
    assert_eq!(kept + lost, 100);
}

#[test]
#[ignore = "needs root: make test"]
fn counters_count_packets_and_bytes_by_direction() {
    let mut world = World::open();
    let count = |world: &World, direction| world.node.metric(abi::REASON_FORWARDED, direction).unwrap();
    let packet = forward(Family::V6, SYN);
    let bytes = packet.build().len() as u64;
    for n in 1..=3 {
        world.delivered(A, &packet);
        assert_eq!(count(&world, abi::DIRECTION_EGRESS), (n, n * bytes));
        assert_eq!(count(&world, abi::DIRECTION_INGRESS), (n, n * bytes));
    }
    world.reaches_stack(A, &Packet::tcp((Family::V6.of(A), 1), (Family::V6.world(), 80), SYN));
    assert_eq!(count(&world, abi::DIRECTION_EGRESS), (4, 4 * bytes));
    world.enter_from_world(A, &Packet::tcp((Family::V6.world(), 80), (Family::V6.of(A), 1), ACK));
    assert_eq!(count(&world, abi::DIRECTION_INGRESS), (4, 4 * bytes));
    let dropped = Packet::tcp((Family::V6.of(B), 1), (Family::V6.of(B), 80), SYN);
    world.leave_dropped(A, &dropped, abi::DROP_INVALID_SOURCE);
    let counted = world.node.metric(abi::DROP_INVALID_SOURCE, abi::DIRECTION_EGRESS).unwrap();
    assert_eq!(counted, (1, dropped.build().len() as u64));
    assert_eq!(count(&world, abi::DIRECTION_EGRESS).0, 4);
}
