//! Who a packet is from: the sender's own address, the host, the world, and those who only say so.

use crate::world::*;
use bpf::abi;
use bpf::testing::node::ACT_OK;
use bpf::testing::packet::{ACK, Packet, SYN};
use model::{Direction, Identity, PolicyEntry, PolicyKey, PolicyMap};

#[test]
#[ignore = "needs root: make test"]
fn a_container_sends_from_its_own_address() {
    let mut world = World::open();
    for family in FAMILIES {
        for source in [family.of(B), family.host(), family.world()] {
            let packet = Packet::tcp((source, 40000), (family.of(B), 80), SYN);
            let event = world.leave_dropped(A, &packet, abi::DROP_INVALID_SOURCE);
            assert_eq!(event.source_identity, identity(A).0);
        }
    }
    let from_nobody = Packet::udp(("0.0.0.0".parse().unwrap(), 68), ("255.255.255.255".parse().unwrap(), 67), b"dhcp");
    world.leave_dropped(A, &from_nobody, abi::DROP_INVALID_SOURCE);
    let from_nobody = Packet::udp(("::".parse().unwrap(), 68), (Family::V6.of(B), 67), b"x");
    world.leave_dropped(A, &from_nobody, abi::DROP_INVALID_SOURCE);
}

#[test]
#[ignore = "needs root: make test"]
fn a_family_that_an_endpoint_lacks_is_nobodys() {
    let mut world = World::open();
    world.change_endpoint(A, |endpoint| {
        endpoint.ipv4 = abi::Be32::default();
        endpoint.ipv6 = [0; 16];
    });
    for family in FAMILIES {
        let zero = if family == Family::V4 { "0.0.0.0" } else { "::" }.parse().unwrap();
        for source in [zero, family.of(A)] {
            let packet = Packet::tcp((source, 40000), (family.of(B), 80), SYN);
            world.leave_dropped(A, &packet, abi::DROP_INVALID_SOURCE);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_known_flow_does_not_excuse_a_false_source() {
    let mut world = World::open();
    for family in FAMILIES {
        world.delivered(A, &Packet::tcp((family.of(A), 40000), (family.of(B), 80), SYN));
        // C knows the ports.
        let forged = Packet::tcp((family.of(A), 40000), (family.of(B), 80), ACK);
        world.leave_dropped(C, &forged, abi::DROP_INVALID_SOURCE);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn an_empty_slot_neither_sends_nor_receives() {
    let mut world = World::open();
    for family in FAMILIES {
        let packet = Packet::tcp((family.of(A), 40000), (family.of(B), 80), SYN).build();
        let ran = world.node.leave(9, &packet).unwrap();
        let event = world.dropped(&ran, abi::DROP_UNKNOWN_SENDER, abi::DIRECTION_EGRESS);
        assert_eq!((event.source_slot, event.ifindex), (9, device(9)));
        let ran = world.node.enter(9, 0, &packet).unwrap();
        world.dropped(&ran, abi::DROP_NO_ENDPOINT, abi::DIRECTION_INGRESS);
    }
    // Written but not yet valid, or not any more.
    world.change_endpoint(A, |endpoint| endpoint.flags = 0);
    let packet = Packet::tcp((Family::V4.of(A), 40000), (Family::V4.of(B), 80), SYN);
    world.leave_dropped(A, &packet, abi::DROP_UNKNOWN_SENDER);
    world.leave_dropped(B, &Packet::tcp((Family::V4.of(B), 1), (Family::V4.of(A), 2), SYN), abi::DROP_UNROUTABLE);
}

/// Lets only `peer` open port 80 of A.
fn opened_to(peer: Identity) -> World {
    let mut world = World::new();
    world.set_policy(A, &policy([one_port(Direction::Ingress, peer, 80)]));
    world
}

fn call(family: Family, from: std::net::IpAddr, flags: u8) -> Packet {
    Packet::tcp((from, 5000), (family.of(A), 80), flags)
}

#[test]
#[ignore = "needs root: make test"]
fn the_host_is_the_host_by_its_origin() {
    for family in FAMILIES {
        let mut world = opened_to(Identity::HOST);
        assert_eq!(world.enter_from_host(A, &call(family, family.host(), SYN)).action, ACT_OK);
        assert_eq!(world.enter_from_host(A, &call(family, family.host(), ACK)).action, ACT_OK);
        world.reaches_stack(A, &Packet::tcp((family.of(A), 80), (family.host(), 5000), SYN | ACK));
        // The host gets no exception: what policy does not allow is refused.
        let other = Packet::tcp((family.host(), 5000), (family.of(A), 81), SYN);
        let ran = world.enter_from_host(A, &other);
        let event = world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
        assert_eq!(event.source_identity, Identity::HOST.0);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_world_is_not_the_host_whatever_it_says() {
    for family in FAMILIES {
        let mut world = opened_to(Identity::HOST);
        let forged = call(family, family.host(), SYN);
        let ran = world.enter_from_world(A, &forged);
        let event = world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
        assert_eq!(event.source_identity, family.outside().0);
        // Nor on a flow that the host has opened.
        assert_eq!(world.enter_from_host(A, &forged).action, ACT_OK);
        let ran = world.enter_from_world(A, &call(family, family.host(), ACK));
        world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_world_does_not_answer_for_the_host() {
    for family in FAMILIES {
        let mut world = World::new();
        world.set_policy(A, &policy([one_port(Direction::Egress, Identity::HOST, 80)]));
        world.reaches_stack(A, &Packet::tcp((family.of(A), 40000), (family.host(), 80), SYN));
        let answer = Packet::tcp((family.host(), 80), (family.of(A), 40000), SYN | ACK);
        assert_eq!(world.enter_from_host(A, &answer).action, ACT_OK);
        let ran = world.enter_from_world(A, &answer);
        world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_host_may_answer_in_the_worlds_place() {
    // A proxy or a redirection on the host: the address is the world's, the packet is the host's.
    for family in FAMILIES {
        let mut world = World::new();
        world.set_policy(A, &policy([one_port(Direction::Egress, family.outside(), 80)]));
        world.reaches_stack(A, &Packet::tcp((family.of(A), 40000), (family.world(), 80), SYN));
        let answer = Packet::tcp((family.world(), 80), (family.of(A), 40000), SYN | ACK);
        assert_eq!(world.enter_from_host(A, &answer).action, ACT_OK);
        // But a flow that the world has opened is not the host's to go on with.
        world.set_policy(A, &policy([one_port(Direction::Ingress, family.outside(), 80)]));
        assert_eq!(world.enter_from_world(A, &call(family, family.world(), SYN)).action, ACT_OK);
        let ran = world.enter_from_host(A, &call(family, family.world(), ACK));
        world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn nobody_outside_has_a_containers_address() {
    for family in FAMILIES {
        let mut world = World::open();
        let ran = world.enter_from_world(A, &call(family, family.of(B), SYN));
        let event = world.dropped(&ran, abi::DROP_INVALID_SOURCE, abi::DIRECTION_INGRESS);
        assert_eq!(event.source_slot, B as u16);
        // Nor another container, by way of the host; nor on a flow that B has.
        world.delivered(B, &call(family, family.of(B), SYN));
        for from in [UPLINK, device(C), device(A)] {
            let ran = world.node.enter(A, from, &call(family, family.of(B), ACK).build()).unwrap();
            world.dropped(&ran, abi::DROP_INVALID_SOURCE, abi::DIRECTION_INGRESS);
        }
        // An error about that flow is no better.
        let error = Packet::error(family.of(B), family.of(A), &call(family, family.of(B), ACK), 1000);
        let ran = world.enter_from_world(A, &error);
        world.dropped(&ran, abi::DROP_INVALID_SOURCE, abi::DIRECTION_INGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_hairpin_keeps_its_identity_and_its_way_back() {
    for family in FAMILIES {
        // B called a port of the host, which the host turned to A: it comes in on B's device with B's address.
        let mut world = opened_to(identity(B));
        let packet = |flags| call(family, family.of(B), flags).build();
        assert_eq!(world.node.enter(A, device(B), &packet(SYN)).unwrap().action, ACT_OK);
        let answer = Packet::tcp((family.of(A), 80), (family.of(B), 5000), SYN | ACK);
        world.reaches_stack(A, &answer);
        assert_eq!(world.node.enter(A, device(B), &packet(ACK)).unwrap().action, ACT_OK);
        // Nobody else takes its place in the flow.
        let ran = world.node.enter(A, UPLINK, &packet(ACK)).unwrap();
        world.dropped(&ran, abi::DROP_INVALID_SOURCE, abi::DIRECTION_INGRESS);
        // It is cut like any other; the answer after it, and the call.
        world.set_policy(A, &PolicyMap::default());
        let ran = world.leave(A, &answer);
        world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_EGRESS);
        let ran = world.node.enter(A, device(B), &packet(ACK)).unwrap();
        world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn who_answers_behind_a_port_of_the_host_answers_as_the_host() {
    for family in FAMILIES {
        // A may reach the host alone; the host turns its port to B, and B's answers back.
        let mut world = World::new();
        world.set_policy(A, &policy([one_port(Direction::Egress, Identity::HOST, 80)]));
        let call = |flags| Packet::tcp((family.of(A), 40000), (family.host(), 80), flags);
        let answer = |flags| Packet::tcp((family.host(), 80), (family.of(A), 40000), flags);
        world.reaches_stack(A, &call(SYN));
        assert_eq!(world.node.enter(A, device(B), &answer(SYN | ACK).build()).unwrap().action, ACT_OK);
        world.reaches_stack(A, &call(ACK));
        assert_eq!(world.node.enter(A, device(B), &answer(ACK).build()).unwrap().action, ACT_OK);
        world.set_policy(A, &PolicyMap::default());
        let ran = world.node.enter(A, device(B), &answer(ACK).build()).unwrap();
        world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_hosts_address_makes_no_container_the_host() {
    for family in FAMILIES {
        // B called, and the host has given the call an address of its own.
        let mut world = opened_to(Identity::HOST);
        let packet = call(family, family.host(), SYN).build();
        let ran = world.node.enter(A, device(B), &packet).unwrap();
        let event = world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
        assert_eq!((event.source_identity, event.source_slot), (identity(B).0, B as u16));
        world.set_policy(A, &policy([one_port(Direction::Ingress, identity(B), 80)]));
        assert_eq!(world.node.enter(A, device(B), &packet).unwrap().action, ACT_OK);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_verdict_is_about_the_identity_whose_policy_it_is() {
    for family in FAMILIES {
        // The slot has the next policy already and the former identity still, or the other way round.
        let mut world = World::open();
        let next = Identity(2000);
        world.set_policy(B, &policy([one_port(Direction::Ingress, next, 80)]));
        let packet = Packet::tcp((family.of(A), 40000), (family.of(B), 80), SYN);
        world.change_endpoint(A, |endpoint| endpoint.identity = next.0);
        let event = world.refused_there(A, &packet, abi::DROP_POLICY_DENIED);
        assert_eq!(event.source_identity, identity(A).0);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn an_internal_network_knows_no_outside() {
    for family in FAMILIES {
        let mut world = World::open();
        for outside in [family.world(), family.cidr()] {
            let out = Packet::tcp((family.of(C), 40000), (outside, 80), SYN);
            world.leave_dropped(C, &out, abi::DROP_UNROUTABLE);
            let into = Packet::tcp((outside, 40000), (family.of(C), 80), SYN);
            let ran = world.enter_from_world(C, &into);
            world.dropped(&ran, abi::DROP_UNROUTABLE, abi::DIRECTION_INGRESS);
        }
        // The node it is on is inside.
        world.delivered(C, &Packet::tcp((family.of(C), 40000), (family.of(B), 80), SYN));
        world.delivered(B, &Packet::tcp((family.of(B), 40000), (family.of(C), 80), SYN));
        world.reaches_stack(C, &Packet::tcp((family.of(C), 40000), (family.host(), 80), SYN));
        let from_host = Packet::tcp((family.host(), 40000), (family.of(C), 80), SYN);
        assert_eq!(world.enter_from_host(C, &from_host).action, ACT_OK);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn prefixes_tell_who_comes_in() {
    for family in FAMILIES {
        let mut world = World::new();
        let key = PolicyKey::any_port(Direction::Ingress, CIDR);
        world.set_policy(A, &policy([(key, PolicyEntry::ALLOW)]));
        assert_eq!(world.enter_from_world(A, &call(family, family.cidr(), SYN)).action, ACT_OK);
        let ran = world.enter_from_world(A, &call(family, family.world(), SYN));
        world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
    }
}
