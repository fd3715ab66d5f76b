//! Packets cut off anywhere: refused with a reason, or let through whole headers only.

use crate::world::*;
use bpf::abi;
use bpf::names::program::{FROM_CONTAINER, TO_CONTAINER};
use bpf::testing::Arrival;
use bpf::testing::node::ACT_SHOT;
use bpf::testing::packet::{ETHERNET, Packet, SYN};
use model::Direction;

/// How many bytes of each kind of packet hold all headers that a verdict needs.
fn samples(family: Family) -> Vec<(Packet, usize)> {
    let (a, b) = (family.of(A), family.of(B));
    let network = ETHERNET + if family == Family::V4 { 20 } else { 40 };
    let quoted = Packet::tcp((b, 80), (a, 40000), SYN);
    let mut samples = vec![
        (Packet::tcp((a, 40000), (b, 80), SYN), network + 20),
        (Packet::udp((a, 40000), (b, 53), &[1; 30]), network + 8),
        (Packet::sctp((a, 40000), (b, 36412)), network + 12),
        (Packet::echo_request(a, b, 7), network + 8),
        (Packet::icmp(a, b, 200, 0, &[0; 30]), network + 8),
        (Packet::error(a, b, &quoted, 1000), network + 8 + (network - ETHERNET) + 8),
    ];
    if family == Family::V4 {
        samples.push((Packet::tcp((a, 40000), (b, 80), SYN).options(&[1; 12]), network + 12 + 20));
    } else {
        samples.push((Packet::udp((a, 40000), (b, 80), &[1; 9]).extension(60, &[0; 14]), network + 16 + 8));
    }
    samples
}

#[test]
#[ignore = "needs root: make test"]
fn a_cut_packet_is_never_let_through_unread() {
    let mut world = World::open();
    for family in FAMILIES {
        // The flow that the error speaks of.
        world.delivered(B, &Packet::tcp((family.of(B), 80), (family.of(A), 40000), SYN));
        for (packet, whole) in samples(family) {
            let frame = packet.build();
            for length in ETHERNET..=frame.len() {
                let action = world.node.run_cut(FROM_CONTAINER, A, 0, &frame, length).unwrap();
                if length >= whole {
                    assert_ne!(action, ACT_SHOT, "{length} of {packet:?}: {:?}", world.node.events());
                    continue;
                }
                assert_eq!(action, ACT_SHOT, "{length} of {packet:?}");
                let event = *world.node.events().unwrap().last().unwrap();
                let reasons = [abi::DROP_INVALID_PACKET, abi::DROP_CT_INVALID_HEADER, abi::DROP_INVALID_EXTENSION];
                assert!(reasons.contains(&u32::from(event.reason)), "{length} of {packet:?}: {event:?}");
                assert_eq!((event.length as usize, event.captured as usize), (length, length.min(128)));
                assert_eq!(event.packet[..length.min(128)], frame[..length.min(128)]);
            }
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn what_enters_is_read_as_carefully() {
    let mut world = World::open();
    for family in FAMILIES {
        let packet = Packet::tcp((family.world(), 40000), (family.of(A), 80), SYN);
        let frame = packet.build();
        for length in ETHERNET..frame.len() {
            let action = world.node.run_cut(TO_CONTAINER, A, UPLINK, &frame, length).unwrap();
            assert_eq!(action, ACT_SHOT, "{length}");
        }
        assert_eq!(world.enter_from_world(A, &packet).action, 0);
    }
}

/// The kernel itself refuses to run a frame of less than an Ethernet header.
#[test]
#[ignore = "needs root: make test"]
fn less_than_a_frame_is_no_packet() {
    let mut world = World::open();
    for length in 0..ETHERNET {
        assert!(world.node.leave(A, &vec![0; length]).is_err(), "{length}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 8, failure_persistence: None, ..Default::default() })]
    /// Noise behind a plausible beginning: any action but a crash; what passes left a flow, or was answered.
    #[test]
    #[ignore = "needs root: make test"]
    fn noise_is_survived(noise in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 14..160), 64)) {
        let mut world = World::new();
        for (n, mut bytes) in noise.into_iter().enumerate() {
            let ethertype: u16 = [0x0800, 0x86dd, 0x0806][n % 3];
            bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            if n % 2 == 0 && bytes.len() > 40 {
                let family = FAMILIES[n / 2 % 2];
                let start = Packet::raw(family.of(A), family.of(B), bytes[23], vec![]).build();
                let length = start.len().min(bytes.len());
                bytes[..length].copy_from_slice(&start[..length]);
            }
            let left = world.node.run_cut(FROM_CONTAINER, A, 0, &bytes, bytes.len()).unwrap();
            let entered = world.node.run_cut(TO_CONTAINER, A, UPLINK, &bytes, bytes.len()).unwrap();
            if ethertype != 0x0806 {
                proptest::prop_assert_eq!(left, ACT_SHOT);
                proptest::prop_assert_eq!(entered, ACT_SHOT);
            }
        }
    }
}

/// Headers that cannot be read in place are made so; the outcome is the same.
#[test]
#[ignore = "needs root: make test"]
fn scattered_packets_are_gathered() {
    let mut world = World::new();
    world.allow_all(&[A]);
    world.set_policy(B, &policy([one_port(Direction::Ingress, identity(A), 80)]));
    for family in FAMILIES {
        let network = ETHERNET as u16 + if family == Family::V4 { 20 } else { 40 };
        let in_place = |linear| Arrival { linear, ..Arrival::default() };
        let frame = |port| {
            let mut frame = Packet::tcp((family.of(A), 40000), (family.of(B), port), SYN).build();
            frame.resize(9000, 7);
            frame
        };
        let mut forwarded = world.node.metric(abi::REASON_FORWARDED, abi::DIRECTION_INGRESS).unwrap().0;
        for linear in [ETHERNET as u16, network - 1, network, network + 4, network + 19, network + 20, 1000] {
            world.node.arrive(A, &frame(80), in_place(linear)).unwrap();
            forwarded += 1;
            let counted = world.node.metric(abi::REASON_FORWARDED, abi::DIRECTION_INGRESS).unwrap().0;
            let events = world.node.events().unwrap();
            assert_eq!(counted, forwarded, "{linear} bytes in place: {events:?}");
            assert!(events.iter().all(|event| u32::from(event.kind) != abi::EVENT_DROP), "{linear}: {events:?}");
            world.node.arrive(A, &frame(81), in_place(linear)).unwrap();
            let event = *world.node.events().unwrap().last().unwrap();
            assert_eq!((u32::from(event.reason), event.length), (abi::DROP_POLICY_DENIED, 9000), "{event:?}");
            assert_eq!(event.packet, frame(81)[..128]);
        }
        assert_eq!(world.flows(family), 1);
    }
}
