//! Services packet by packet: containers that ask for a frontend, and what comes back to them.
//!
//! Every packet that the programs have rewritten is read with `read`, which computes its checksums anew.

use crate::read::{self, Read, read};
use crate::tunnel::{REMOTE, peers, remote, with_peer};
use crate::world::*;
use bpf::abi;
use bpf::names::map;
use bpf::testing::Ran;
use bpf::testing::node::{ACT_OK, ACT_REDIRECT, ACT_SHOT};
use bpf::testing::packet::{ACK, FIN, Packet, RST, SCTP, SYN, TCP, UDP};
use model::{Direction, PolicyMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const PORT: u16 = 8080;
const BACKEND_PORT: u16 = 80;
const CLIENT_PORT: u16 = 40000;
const NUMBER: u32 = 9;

/// The address of the service.
pub fn vip(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, 0, 10).into(),
        Family::V6 => Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 10).into(),
    }
}

fn frontend(family: Family) -> (IpAddr, u16) {
    (vip(family), PORT)
}

pub fn bytes(address: IpAddr) -> ([u8; 16], u8) {
    let key = ipcache_key(address);
    (key.address, key.family)
}

fn lb_key(address: IpAddr, port: u16, protocol: u8) -> abi::LbKey {
    let (address, family) = bytes(address);
    abi::LbKey { address, port: abi::Be16::new(port), protocol, family }
}

/// A service as the tables hold it.
#[derive(Clone)]
pub struct Service {
    pub number: u32,
    pub frontend: (IpAddr, u16),
    pub protocol: u8,
    pub kind: u32,
    pub flags: u32,
    pub affinity: u32,
    /// Number and address.
    pub backends: Vec<(u32, (IpAddr, u16))>,
}

impl Service {
    pub fn new(frontend: (IpAddr, u16), protocol: u8, backends: &[(u32, (IpAddr, u16))]) -> Service {
        let (number, kind) = (NUMBER, abi::LB_CLUSTER_IP);
        Service { number, frontend, protocol, kind, flags: 0, affinity: 0, backends: backends.to_vec() }
    }

    /// Writes it: backends, places, the way back, and then the service.
    pub fn put(&self, world: &mut World) {
        for (number, address) in &self.backends {
            put_backend(world, *number, *address);
        }
        let mut row = abi::LbRow::default();
        for (place, (number, _)) in row.backend.iter_mut().zip(&self.backends) {
            *place = *number;
        }
        world.node.set(map::LB_PLACES, self.number, row).unwrap();
        let (address, family) = bytes(self.frontend.0);
        let port = abi::Be16::new(self.frontend.1);
        let reverse = abi::LbReverse { number: self.number, port, family, address, ..Default::default() };
        world.node.set(map::LB_REVERSE, self.number, reverse).unwrap();
        let places = self.backends.len() as u32;
        let first = self.number * abi::LB_ROW;
        let service = abi::LbService {
            number: self.number,
            first: [first, first],
            places: [places, places],
            affinity: self.affinity,
            kind: self.kind as u8,
            flags: self.flags as u8,
            ..Default::default()
        };
        world.node.put(map::LB_SERVICES, lb_key(self.frontend.0, self.frontend.1, self.protocol), service).unwrap();
        world.node.put(map::LB_SERVICES, lb_key(self.frontend.0, 0, 0), abi::LbService::default()).unwrap();
    }
}

pub fn put_backend(world: &mut World, number: u32, (address, port): (IpAddr, u16)) {
    let (address, family) = bytes(address);
    let port = abi::Be16::new(port);
    let backend = abi::LbBackend { number, port, family, address, ..Default::default() };
    world.node.set(map::LB_BACKENDS, number % abi::LB_BACKENDS, backend).unwrap();
}

/// A packet from A's client port; of TCP with these flags.
fn from_a(protocol: u8, from: (IpAddr, u16), to: (IpAddr, u16), flags: u8) -> Packet {
    match protocol {
        TCP => Packet::tcp(from, to, flags),
        UDP => Packet::udp(from, to, b"what?"),
        SCTP => {
            let mut packet = Packet::sctp(from, to);
            packet.transport.extend(b"some chunk of it");
            let sum = read::sctp_checksum(&packet.transport);
            packet.transport[8..12].copy_from_slice(&sum.to_le_bytes());
            packet
        }
        _ => panic!("protocol {protocol}"),
    }
}

fn client(family: Family) -> (IpAddr, u16) {
    (family.of(A), CLIENT_PORT)
}

fn ask(family: Family, protocol: u8, flags: u8) -> Packet {
    from_a(protocol, client(family), frontend(family), flags)
}

/// Everybody may do everything, and B serves.
fn served(family: Family, protocol: u8) -> World {
    let mut world = World::open();
    Service::new(frontend(family), protocol, &[(3, (family.of(B), BACKEND_PORT))]).put(&mut world);
    world
}

#[track_caller]
fn redirected(world: &mut World, ran: &Ran) -> Read {
    assert_eq!(ran.action, ACT_REDIRECT, "{:?}", world.node.events());
    read(&ran.packet)
}

#[test]
#[ignore = "needs root: make test"]
fn a_flow_to_a_frontend_goes_to_the_backend_and_comes_back_from_the_frontend() {
    for family in FAMILIES {
        for protocol in [TCP, UDP, SCTP] {
            let mut world = served(family, protocol);
            let backend = (family.of(B), BACKEND_PORT);
            // More than once: the first packet is judged, the others ride.
            for flags in [SYN, ACK, ACK] {
                let ran = world.leave(A, &ask(family, protocol, flags));
                assert_eq!(ran.packet[..12], [mac(B), node_mac(B)].concat());
                let there = redirected(&mut world, &ran);
                assert_eq!((there.source, there.destination), (client(family), backend));
                assert_eq!(there.hops, 63);
                let ran = world.leave(B, &from_a(protocol, backend, client(family), flags | ACK));
                let back = redirected(&mut world, &ran);
                assert_eq!((back.source, back.destination), (frontend(family), client(family)));
                assert_eq!(ran.packet[..12], [mac(A), node_mac(A)].concat());
            }
            // The service entry and the flow.
            assert_eq!(world.flows(family), 2);
            let events = world.node.events().unwrap();
            assert_eq!(u32::from(events[0].kind), abi::EVENT_VERDICT);
            assert_eq!((events[0].destination_port, events[0].destination_slot), (BACKEND_PORT, B as u16));
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn policy_is_asked_about_the_backend() {
    for family in FAMILIES {
        let mut world = World::new();
        Service::new(frontend(family), TCP, &[(3, (family.of(B), BACKEND_PORT))]).put(&mut world);
        // The frontend's port is nobody's business.
        world.set_policy(A, &policy([one_port(Direction::Egress, identity(B), PORT)]));
        world.set_policy(B, &policy([any(Direction::Ingress)]));
        world.leave_dropped(A, &ask(family, TCP, SYN), abi::DROP_POLICY_DENIED);
        assert_eq!(world.flows(family), 0, "a refused flow is not remembered");
        world.set_policy(A, &policy([one_port(Direction::Egress, identity(B), BACKEND_PORT)]));
        let ran = world.leave(A, &ask(family, TCP, SYN));
        redirected(&mut world, &ran);
        // Taken away, it cuts both directions.
        world.set_policy(A, &PolicyMap::default());
        world.leave_dropped(A, &ask(family, TCP, ACK), abi::DROP_POLICY_DENIED);
        let answer = Packet::tcp((family.of(B), BACKEND_PORT), client(family), ACK);
        world.refused_there(B, &answer, abi::DROP_POLICY_DENIED);
        // Given again, both go on as before.
        world.set_policy(A, &policy([one_port(Direction::Egress, identity(B), BACKEND_PORT)]));
        let ran = world.leave(B, &answer);
        assert_eq!(redirected(&mut world, &ran).source, frontend(family));
        let ran = world.leave(A, &ask(family, TCP, ACK));
        assert_eq!(redirected(&mut world, &ran).destination, (family.of(B), BACKEND_PORT));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_udp_datagram_without_a_checksum_has_none_afterwards() {
    let family = Family::V4;
    let mut world = served(family, UDP);
    let mut packet = ask(family, UDP, 0);
    packet.transport[6..8].fill(0);
    let ran = world.leave(A, &packet);
    assert_eq!(redirected(&mut world, &ran).transport[6..8], [0, 0]);
}

#[test]
#[ignore = "needs root: make test"]
fn a_checksum_that_becomes_zero_is_written_as_all_ones() {
    for family in FAMILIES {
        let mut world = served(family, UDP);
        // A payload such that the sum is 0 with the backend's address: 0 would mean that there is none.
        let target = Packet::udp(client(family), (family.of(B), BACKEND_PORT), &[0, 0]);
        let missing = [target.transport[6], target.transport[7]];
        let packet = Packet::udp(client(family), frontend(family), &missing);
        let ran = world.leave(A, &packet);
        assert_eq!(redirected(&mut world, &ran).transport[6..8], [0xff, 0xff]);
    }
}

/// Addresses by which a container sees what it sent to itself.
fn oneself(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(169, 254, 42, 1).into(),
        Family::V6 => Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0xa9fe, 0x2a01).into(),
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_container_may_be_its_own_backend() {
    for family in FAMILIES {
        for protocol in [TCP, UDP, SCTP] {
            // Without any rule: it is nobody else.
            let mut world = World::new();
            let own = (family.of(A), BACKEND_PORT);
            Service::new(frontend(family), protocol, &[(3, own)]).put(&mut world);
            let seen = (oneself(family), CLIENT_PORT);
            for flags in [SYN, ACK, ACK] {
                let ran = world.leave(A, &ask(family, protocol, flags));
                let there = redirected(&mut world, &ran);
                assert_eq!((there.source, there.destination), (seen, own));
                let ran = world.leave(A, &from_a(protocol, own, seen, flags | ACK));
                let back = redirected(&mut world, &ran);
                assert_eq!((back.source, back.destination), (frontend(family), client(family)));
                assert_eq!(ran.packet[..12], [mac(A), node_mac(A)].concat());
            }
            assert_eq!(world.flows(family), 2);
            // That address means nothing by itself.
            let packet = from_a(protocol, (family.of(A), 1), (oneself(family), 2), SYN);
            world.leave_dropped(A, &packet, abi::DROP_UNROUTABLE);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn without_a_backend_who_asks_is_told_at_once() {
    for family in FAMILIES {
        let mut world = World::open();
        for protocol in [TCP, UDP, SCTP] {
            Service::new(frontend(family), protocol, &[]).put(&mut world);
        }
        // No service at this port, but one at the address.
        for port in [PORT, PORT + 1] {
            let asked = (vip(family), port);
            let refused = |world: &mut World, packet: &Packet| {
                let before = world.node.metric(abi::DROP_NO_SERVICE, abi::DIRECTION_EGRESS).unwrap().0;
                let ran = world.leave(A, packet);
                let answer = redirected(world, &ran);
                assert_eq!(world.node.metric(abi::DROP_NO_SERVICE, abi::DIRECTION_EGRESS).unwrap().0, before + 1);
                let event = *world.node.events().unwrap().last().unwrap();
                assert_eq!((u32::from(event.kind), u32::from(event.reason)), (abi::EVENT_DROP, abi::DROP_NO_SERVICE));
                assert_eq!(ran.packet[..12], [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 0xfe]].concat());
                assert_eq!((answer.source.0, answer.destination.0), (vip(family), family.of(A)));
                answer
            };
            let answer = refused(&mut world, &Packet::tcp(client(family), asked, SYN));
            assert_eq!((answer.source, answer.destination, answer.protocol), (asked, client(family), TCP));
            assert_eq!(answer.transport[4..14], [0, 0, 0, 0, 0, 0, 0, 2, 0x50, RST | ACK]);
            let mut late = Packet::tcp(client(family), asked, ACK | FIN);
            late.transport[8..12].copy_from_slice(&[1, 2, 3, 4]);
            late.transport[16..18].fill(0);
            let answer = refused(&mut world, &late);
            assert_eq!(answer.transport[4..14], [1, 2, 3, 4, 0, 0, 0, 0, 0x50, RST]);
            // A reset is answered to nobody.
            let ran = world.leave(A, &Packet::tcp(client(family), asked, RST));
            assert_eq!(ran.action, ACT_SHOT);
            for protocol in [UDP, SCTP] {
                let packet = from_a(protocol, client(family), asked, 0);
                let answer = refused(&mut world, &packet);
                let unreachable: &[u8] = if family == Family::V4 { &[3, 3] } else { &[1, 4] };
                assert_eq!(&answer.transport[..2], unreachable);
                assert_eq!(answer.transport[8..], packet.build()[14..][..answer.transport.len() - 8]);
                let quoted = read::parse(&answer.transport[8..], false);
                assert_eq!((quoted.source, quoted.destination), (client(family), asked));
            }
            // A long one is quoted in part.
            let answer = refused(&mut world, &Packet::udp(client(family), asked, &[7; 1000]));
            assert_eq!(answer.transport.len(), 8 + 68);
        }
        assert_eq!(world.flows(family), 0);
        // Elsewhere nobody is known, and the packet goes its way.
        world.reaches_stack(A, &Packet::tcp(client(family), (family.world(), PORT), SYN));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_address_of_a_service_answers_a_ping() {
    for family in FAMILIES {
        let mut world = served(family, TCP);
        let ran = world.leave(A, &Packet::echo_request(family.of(A), vip(family), 7));
        let answer = redirected(&mut world, &ran);
        assert_eq!((answer.source.0, answer.destination.0), (vip(family), family.of(A)));
        assert_eq!(answer.transport[0], if family == Family::V4 { 0 } else { 129 });
        assert_eq!(answer.transport[4..], Packet::echo_request(family.of(A), vip(family), 7).transport[4..]);
        assert_eq!(world.flows(family), 0);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_backend_that_is_gone_ends_tcp_and_moves_the_rest() {
    for family in FAMILIES {
        let (b, c) = ((family.of(B), BACKEND_PORT), (family.of(C), BACKEND_PORT));
        for protocol in [TCP, UDP] {
            let mut world = served(family, protocol);
            let ran = world.leave(A, &ask(family, protocol, SYN));
            assert_eq!(redirected(&mut world, &ran).destination, b);
            // Its successor has another number, be it at the same place of the array.
            Service::new(frontend(family), protocol, &[(4, c)]).put(&mut world);
            put_backend(&mut world, 3 + abi::LB_BACKENDS, b);
            let ran = world.leave(A, &ask(family, protocol, ACK));
            let seen = redirected(&mut world, &ran);
            if protocol == TCP {
                assert_eq!((seen.source, seen.transport[13]), (frontend(family), RST));
                let ran = world.leave(A, &ask(family, protocol, SYN));
                assert_eq!(redirected(&mut world, &ran).destination, c);
            } else {
                assert_eq!(seen.destination, c);
            }
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_flow_stays_with_a_backend_that_is_leaving_and_the_next_goes_elsewhere() {
    for family in FAMILIES {
        let (b, c) = ((family.of(B), BACKEND_PORT), (family.of(C), BACKEND_PORT));
        let mut world = served(family, TCP);
        let ran = world.leave(A, &ask(family, TCP, SYN));
        assert_eq!(redirected(&mut world, &ran).destination, b);
        Service::new(frontend(family), TCP, &[(4, c)]).put(&mut world);
        // It has no place any more. A repeated SYN is the same flow.
        for flags in [SYN, ACK, FIN | ACK] {
            let ran = world.leave(A, &ask(family, TCP, flags));
            assert_eq!(redirected(&mut world, &ran).destination, b);
            let ran = world.leave(B, &Packet::tcp(b, client(family), flags | ACK));
            assert_eq!(redirected(&mut world, &ran).source, frontend(family));
        }
        // The same port again after the end.
        let ran = world.leave(A, &ask(family, TCP, SYN));
        assert_eq!(redirected(&mut world, &ran).destination, c);
        let ran = world.leave(C, &Packet::tcp(c, client(family), SYN | ACK));
        assert_eq!(redirected(&mut world, &ran).source, frontend(family));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_flow_outlives_its_service() {
    for family in FAMILIES {
        let mut world = served(family, TCP);
        let ran = world.leave(A, &ask(family, TCP, SYN));
        redirected(&mut world, &ran);
        let key = lb_key(vip(family), PORT, TCP);
        world.node.delete::<_, abi::LbService>(map::LB_SERVICES, key).unwrap();
        let ran = world.leave(A, &ask(family, TCP, ACK));
        assert_eq!(redirected(&mut world, &ran).destination, (family.of(B), BACKEND_PORT));
        // Another flow is refused.
        let ran = world.leave(A, &Packet::tcp((family.of(A), 2), frontend(family), SYN));
        assert_eq!(redirected(&mut world, &ran).transport[13], RST | ACK);
        // When what was asked for is forgotten, an answer is nobody's.
        world.node.set(map::LB_REVERSE, NUMBER, abi::LbReverse::default()).unwrap();
        let answer = Packet::tcp((family.of(B), BACKEND_PORT), client(family), ACK);
        world.leave_dropped(B, &answer, abi::DROP_NO_SERVICE);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn one_port_asks_a_service_and_its_backend() {
    for family in FAMILIES {
        let mut world = served(family, UDP);
        let backend = (family.of(B), BACKEND_PORT);
        let answer = from_a(UDP, backend, client(family), 0);
        for _ in 0..2 {
            let ran = world.leave(A, &ask(family, UDP, 0));
            redirected(&mut world, &ran);
            let ran = world.leave(B, &answer);
            assert_eq!(redirected(&mut world, &ran).source, frontend(family));
            // Who was asked last is who answers.
            let ran = world.leave(A, &from_a(UDP, client(family), backend, 0));
            assert_eq!(redirected(&mut world, &ran).destination, backend);
            let ran = world.leave(B, &answer);
            assert_eq!(redirected(&mut world, &ran).source, backend);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn pieces_of_a_datagram_go_the_same_way() {
    for family in FAMILIES {
        let backend = (family.of(B), BACKEND_PORT);
        let mut world = served(family, UDP);
        let whole = Packet::udp(client(family), frontend(family), &[7; 64]);
        let pieces = [0..32, 32..64, 64..72];
        let mut put_together = Vec::new();
        for piece in pieces.clone() {
            let ran = world.leave(A, &whole.piece(77, piece));
            assert_eq!(ran.action, ACT_REDIRECT, "{:?}", world.node.events());
            let there = read::parse(&ran.packet[14..], true);
            assert_eq!((there.source.0, there.destination.0), (family.of(A), family.of(B)));
            put_together.extend(there.transport);
        }
        assert_eq!(put_together, Packet::udp(client(family), backend, &[7; 64]).transport);
        let whole = Packet::udp(backend, client(family), &[8; 64]);
        let mut put_together = Vec::new();
        for piece in pieces {
            let ran = world.leave(B, &whole.piece(78, piece));
            assert_eq!(ran.action, ACT_REDIRECT, "{:?}", world.node.events());
            let back = read::parse(&ran.packet[14..], true);
            assert_eq!((back.source.0, back.destination.0), (vip(family), family.of(A)));
            put_together.extend(back.transport);
        }
        assert_eq!(put_together, Packet::udp(frontend(family), client(family), &[8; 64]).transport);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn headers_of_unusual_length_are_no_trouble() {
    for (family, protocol) in FAMILIES.into_iter().flat_map(|f| [TCP, UDP, SCTP].map(|p| (f, p))) {
        let mut world = served(family, protocol);
        let packet = ask(family, protocol, SYN);
        let packet =
            if family == Family::V4 { packet.options(&[1; 8]) } else { packet.extension(60, &[1, 4, 0, 0, 0, 0]) };
        let ran = world.leave(A, &packet);
        assert_eq!(ran.action, ACT_REDIRECT, "{:?}", world.node.events());
        if family == Family::V4 {
            assert_eq!(read(&ran.packet).destination, (family.of(B), BACKEND_PORT));
        } else {
            // The same bytes but for what must differ.
            let wanted = from_a(protocol, client(family), (family.of(B), BACKEND_PORT), SYN);
            assert_eq!(ran.packet[62..], wanted.transport);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn errors_speak_of_what_each_end_knows() {
    for family in FAMILIES {
        for protocol in [TCP, UDP, SCTP] {
            let backend = (family.of(B), BACKEND_PORT);
            let mut world = served(family, protocol);
            let ran = world.leave(A, &ask(family, protocol, SYN));
            redirected(&mut world, &ran);
            let ran = world.leave(B, &from_a(protocol, backend, client(family), ACK));
            redirected(&mut world, &ran);
            for length in [48, 1000] {
                // From the backend about what it got.
                let got = from_a(protocol, client(family), backend, SYN);
                let ran = world.leave(B, &Packet::error(family.of(B), family.of(A), &got, length));
                let error = redirected(&mut world, &ran);
                assert_eq!((error.source.0, error.destination.0), (vip(family), family.of(A)));
                let quoted = read::parse(&error.transport[8..], false);
                assert_eq!((quoted.source, quoted.destination), (client(family), frontend(family)));
                // From a router on the way.
                let ran = world.enter_from_world(A, &Packet::error(family.world(), family.of(A), &got, length));
                assert_eq!(ran.action, ACT_OK, "{:?}", world.node.events());
                let error = read(&ran.packet);
                assert_eq!(error.source.0, family.world());
                assert_eq!(read::parse(&error.transport[8..], false).destination, frontend(family));
                // From who asked, about what came back.
                let got = from_a(protocol, frontend(family), client(family), ACK);
                let ran = world.leave(A, &Packet::error(family.of(A), vip(family), &got, length));
                let error = redirected(&mut world, &ran);
                assert_eq!((error.source.0, error.destination.0), (family.of(A), family.of(B)));
                assert_eq!(ran.packet[..6], mac(B));
                let quoted = read::parse(&error.transport[8..], false);
                assert_eq!((quoted.source, quoted.destination), (backend, client(family)));
            }
            // About what was never sent.
            let other = from_a(protocol, (vip(family), PORT + 1), client(family), ACK);
            world.leave_dropped(A, &Packet::error(family.of(A), vip(family), &other, 1000), abi::DROP_UNKNOWN_CT_STATE);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_backend_outside_is_reached_by_the_stack() {
    for family in FAMILIES {
        let backend = (family.world(), BACKEND_PORT);
        let mut world = World::open();
        Service::new(frontend(family), TCP, &[(3, backend)]).put(&mut world);
        for flags in [SYN, ACK] {
            let ran = world.leave(A, &ask(family, TCP, flags));
            assert_eq!(ran.action, ACT_OK, "{:?}", world.node.events());
            assert_eq!(read(&ran.packet).destination, backend);
            let ran = world.enter_from_world(A, &Packet::tcp(backend, client(family), flags | ACK));
            assert_eq!(ran.action, ACT_OK, "{:?}", world.node.events());
            assert_eq!(read(&ran.packet).source, frontend(family));
        }
        // A router on the way has a word about it; it is itself who says so.
        let sent = Packet::tcp(client(family), backend, ACK);
        let router = family.cidr();
        let ran = world.enter_from_world(A, &Packet::error(router, family.of(A), &sent, 48));
        assert_eq!(ran.action, ACT_OK, "{:?}", world.node.events());
        let error = read(&ran.packet);
        assert_eq!(error.source.0, router);
        assert_eq!(read::parse(&error.transport[8..], false).destination, frontend(family));
        // Judged again, in both directions.
        world.set_address(Family::V4.of(200), identity(B), 0);
        let ran = world.enter_from_world(A, &Packet::tcp(backend, client(family), ACK));
        assert_eq!(read(&ran.packet).source, frontend(family));
        world.set_address(Family::V4.of(201), identity(B), 0);
        let ran = world.leave(A, &ask(family, TCP, ACK));
        assert_eq!((ran.action, read(&ran.packet).destination), (ACT_OK, backend));
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_backend_behind_the_tunnel() {
    let [peer, _] = peers();
    for family in FAMILIES {
        for protocol in [TCP, UDP, SCTP] {
            let backend = (remote(family), BACKEND_PORT);
            let mut world = with_peer(World::open());
            Service::new(frontend(family), protocol, &[(3, backend)]).put(&mut world);
            for flags in [SYN, ACK, ACK] {
                let ran = world.leave(A, &ask(family, protocol, flags));
                assert_eq!(redirected(&mut world, &ran).destination, backend);
                let answer = from_a(protocol, backend, client(family), flags | ACK).build();
                let ran = world.node.carried(peer, REMOTE.0, &answer).unwrap();
                let back = redirected(&mut world, &ran);
                assert_eq!((back.source, back.destination), (frontend(family), client(family)));
            }
            // Judged again on the way back.
            world.set_address(Family::V4.of(200), identity(B), 0);
            let answer = from_a(protocol, backend, client(family), ACK).build();
            let ran = world.node.carried(peer, REMOTE.0, &answer).unwrap();
            assert_eq!(redirected(&mut world, &ran).source, frontend(family));
            // An error of the backend's.
            let got = from_a(protocol, client(family), backend, ACK);
            let error = Packet::error(remote(family), family.of(A), &got, 48).build();
            let ran = world.node.carried(peer, REMOTE.0, &error).unwrap();
            let error = redirected(&mut world, &ran);
            assert_eq!(error.source.0, vip(family));
            assert_eq!(read::parse(&error.transport[8..], false).destination, frontend(family));
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn a_client_with_affinity_stays() {
    for family in FAMILIES {
        let (b, c) = ((family.of(B), BACKEND_PORT), (family.of(C), BACKEND_PORT));
        let mut world = World::open();
        let mut service = Service::new(frontend(family), TCP, &[(3, b), (4, c)]);
        service.affinity = 100;
        service.put(&mut world);
        for backend in [3, 4] {
            let member = abi::LbMember { service: NUMBER, backend };
            world.node.put(map::LB_AFFINITY_MATCH, member, 0u32).unwrap();
        }
        let ask = |world: &mut World, port| {
            let ran = world.leave(A, &Packet::tcp((family.of(A), port), frontend(family), SYN));
            redirected(world, &ran).destination
        };
        let first = ask(&mut world, 1);
        for port in 2..30 {
            assert_eq!(ask(&mut world, port), first);
        }
        // Without it both have their turn.
        service.affinity = 0;
        service.put(&mut world);
        assert!((30..200).any(|port| ask(&mut world, port) != first));
    }
}
