//! Geneve without a device for it: what the programs write, what they take out, and what they refuse.

use crate::tunnel::{REMOTE, answer, call, peers, remote, with_peer};
use crate::world::*;
use bpf::abi;
use bpf::names::knob;
use bpf::names::program::{FROM_OVERLAY, FROM_UNDERLAY, TO_OVERLAY};
use bpf::testing::node::{ACT_OK, ACT_REDIRECT, ACT_SHOT, ACT_UNSPEC};
use bpf::testing::packet::{ACK, ETHERNET, Packet, SYN, checksum};
use bpf::testing::{Options, Ran};
use model::{Direction, Identity, PolicyMap};
use std::net::IpAddr;
use std::process::Command;

const PORT: u16 = 6081;
/// The loopback device stands for the uplink: packets to no hardware address are for it.
const UNDERLAY: u32 = 1;
const GENEVE: usize = 8;

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A node whose programs speak Geneve, with an uplink of this MTU and a peer behind it.
fn world(mtu: u32) -> World {
    let mut world = World::with(&Options { knobs: vec![(knob::GENEVE, abi::GENEVE_PROGRAMS)], ..Options::default() });
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    ip("link set lo up");
    ip(&format!("link add uplink0 mtu {mtu} type veth peer name other0 mtu {mtu}"));
    ip(&format!("addr add {NODE4}/24 dev uplink0"));
    ip(&format!("addr add {NODE6}/64 dev uplink0 nodad"));
    ip("link set uplink0 up");
    ip("link set other0 up");
    for own in own() {
        world.set_address(own, Identity::HOST, 0);
    }
    with_peer(world)
}

fn own() -> [IpAddr; 2] {
    [NODE4.into(), NODE6.into()]
}

/// The Geneve header and what stands behind it.
fn header(options: &[u8], flags: u8, protocol: u16, identity: u32) -> Vec<u8> {
    let mut header = vec![(options.len() / 4) as u8, flags];
    header.extend(protocol.to_be_bytes());
    header.extend((identity << 8 | 0x5a).to_be_bytes());
    header.extend(options);
    header
}

fn wrapped(options: &[u8], identity: Identity, inner: &Packet) -> Vec<u8> {
    [header(options, 0, 0x6558, identity.0), inner.build()].concat()
}

/// As it comes in on the underlay.
fn outer(from: IpAddr, to: IpAddr, payload: &[u8]) -> Packet {
    let mut packet = Packet::udp((from, 54_321), (to, PORT), payload);
    (packet.to_mac, packet.from_mac) = ([0; 6], [2; 6]);
    packet
}

/// Between peer and node by one family.
fn ends(outer: usize) -> (IpAddr, IpAddr) {
    (peers()[outer], own()[outer])
}

fn arrives(world: &mut World, frame: &[u8]) -> Ran {
    world.node.run_on(FROM_UNDERLAY, UNDERLAY, 0, frame).unwrap()
}

fn carried(world: &mut World, family: usize, identity: Identity, inner: &Packet) -> Ran {
    let (from, to) = ends(family);
    arrives(world, &outer(from, to, &wrapped(&[], identity, inner)).build())
}

/// Checks the outer headers of a packet that left, and gives the identity and the frame inside.
#[track_caller]
fn unwrapped(frame: &[u8], family: usize) -> (u32, Vec<u8>) {
    let (to, from) = ends(family);
    let at = if family == 0 {
        let ip = &frame[ETHERNET..ETHERNET + 20];
        assert_eq!(frame[12..14], [8, 0]);
        assert_eq!((ip[0], ip[6..10].to_vec()), (0x45, vec![0x40, 0, 64, 17]), "do not fragment, hops, UDP");
        assert_eq!(checksum(&[ip]), 0);
        assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), frame.len() - ETHERNET);
        let addresses = [from, to].map(|a| if let IpAddr::V4(a) = a { a.octets() } else { panic!("{a}") }).concat();
        assert_eq!(ip[12..], addresses);
        ETHERNET + 20
    } else {
        let ip = &frame[ETHERNET..ETHERNET + 40];
        assert_eq!(frame[12..14], [0x86, 0xdd]);
        assert_eq!((ip[0], ip[6], ip[7]), (0x60, 17, 64));
        assert_eq!(usize::from(u16::from_be_bytes([ip[4], ip[5]])), frame.len() - ETHERNET - 40);
        let addresses = [from, to].map(|a| if let IpAddr::V6(a) = a { a.octets() } else { panic!("{a}") }).concat();
        assert_eq!(ip[8..], addresses);
        ETHERNET + 40
    };
    let udp = &frame[at..at + 8];
    assert_eq!(u16::from_be_bytes([udp[2], udp[3]]), PORT);
    assert!(u16::from_be_bytes([udp[0], udp[1]]) >= 0xc000);
    assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), frame.len() - at);
    assert_eq!(udp[6..], [0, 0]);
    let geneve = &frame[at + 8..at + 8 + GENEVE];
    assert_eq!((&geneve[..4], geneve[7]), (&[0, 0, 0x65, 0x58][..], 0));
    (u32::from_be_bytes([0, geneve[4], geneve[5], geneve[6]]), frame[at + 8 + GENEVE..].to_vec())
}

/// The frame that a container sends, one hop later.
fn hop_less(packet: &Packet) -> Vec<u8> {
    let mut packet = packet.clone();
    packet.hops -= 1;
    packet.build()
}

#[test]
#[ignore = "needs root: make test"]
fn the_identity_in_the_network_identifier_is_judged() {
    for outer in [0, 1] {
        for family in FAMILIES {
            let mut world = world(1500);
            world.set_policy(A, &policy([one_port(Direction::Ingress, REMOTE, 80)]));
            let ran = carried(&mut world, outer, REMOTE, &call(family, SYN));
            assert_eq!(ran.action, ACT_REDIRECT, "{:?}", world.node.events());
            assert_eq!(ran.packet[..12], [mac(A), node_mac(A)].concat());
            assert_eq!(ran.packet[12..], hop_less(&call(family, SYN))[12..], "nothing else is changed");
            // The answer goes into the tunnel, as A's; the next packet needs no other look.
            let back = answer(family, SYN | ACK);
            let ran = world.leave(A, &back);
            assert_eq!(ran.action, ACT_REDIRECT, "{:?}", world.node.events());
            assert_eq!(unwrapped(&ran.packet, 0), (identity(A).0, hop_less(&back)));
            assert_eq!(carried(&mut world, outer, REMOTE, &call(family, ACK)).action, ACT_REDIRECT);
            assert_eq!(world.flows(family), 1);
            let other = Packet::tcp((remote(family), 5000), (family.of(A), 81), SYN);
            let ran = carried(&mut world, outer, REMOTE, &other);
            world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
            world.set_policy(A, &PolicyMap::default());
            let ran = carried(&mut world, outer, REMOTE, &call(family, ACK));
            world.dropped(&ran, abi::DROP_POLICY_DENIED, abi::DIRECTION_INGRESS);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn what_leaves_is_geneve_over_either_family() {
    for family in FAMILIES {
        for outer in [0, 1] {
            let mut world = world(1500);
            world.allow_all(&[A]);
            // The peer's own address is behind itself, by the outer family.
            let node = peers()[outer];
            let there = if (node.is_ipv4()) == (family == Family::V4) { node } else { remote(family) };
            let packet = Packet::tcp((family.of(A), 40_000), (there, 80), SYN);
            let ran = world.leave(A, &packet);
            assert_eq!(ran.action, ACT_REDIRECT, "{:?}", world.node.events());
            let by = usize::from(there == peers()[1]);
            assert_eq!(unwrapped(&ran.packet, by), (identity(A).0, hop_less(&packet)));
            // The host speaks for itself, by the device to which its routes lead.
            let packet = Packet::tcp((family.host(), 40_000), (there, 80), SYN);
            let ran = world.node.run(TO_OVERLAY, 0, 0, &packet.build()).unwrap();
            assert_eq!(ran.action, ACT_REDIRECT, "{:?}", world.node.events());
            assert_eq!(unwrapped(&ran.packet, by), (Identity::HOST.0, packet.build()));
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn flows_differ_by_the_outer_port_and_a_flow_does_not() {
    let mut world = world(1500);
    world.allow_all(&[A]);
    let mut port = |from| {
        let packet = Packet::udp((Family::V4.of(A), from), (remote(Family::V4), 53), b"question");
        let ran = world.leave(A, &packet);
        assert_eq!(ran.action, ACT_REDIRECT);
        [ran.packet[34], ran.packet[35]]
    };
    let ports: std::collections::BTreeSet<_> = (0..32).map(|n| port(1000 + n)).collect();
    assert!(ports.len() > 16, "{ports:?}");
    assert_eq!(port(1000), port(1000));
}

#[test]
#[ignore = "needs root: make test"]
fn everything_else_on_the_underlay_is_left_alone() {
    let mut world = world(1500);
    for family in [0, 1] {
        let (from, to) = ends(family);
        let inner = wrapped(&[], REMOTE, &call(Family::V4, SYN));
        let fine = outer(from, to, &inner);
        let elsewhere = outer(from, peers()[family], &inner);
        let mut other_port = Packet::udp((from, 54_321), (to, PORT + 1), &inner);
        let mut tcp = Packet::tcp((from, 54_321), (to, PORT), SYN);
        let mut not_ours = fine.clone();
        not_ours.to_mac = [2, 9, 9, 9, 9, 9];
        for packet in [&mut other_port, &mut tcp] {
            packet.to_mac = [0; 6];
        }
        let mut tagged = fine.build();
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        let later_piece = fine.piece(7, 48..fine.transport.len());
        for packet in [&elsewhere, &other_port, &tcp, &not_ours, &later_piece, &fine.clone().options(&[1; 4])] {
            if family == 1 && !packet.options.is_empty() {
                continue;
            }
            let frame = packet.build();
            assert_eq!(arrives(&mut world, &frame), Ran { action: ACT_UNSPEC, packet: frame }, "{packet:?}");
        }
        assert_eq!(arrives(&mut world, &tagged).action, ACT_UNSPEC);
        let mut arp = vec![0; 60];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(arrives(&mut world, &arp).action, ACT_UNSPEC);
        // Cut short anywhere before the Geneve header it is nothing of ours either.
        let frame = fine.build();
        let headers = if family == 0 { 42 } else { 62 };
        for length in (if family == 0 { 34 } else { 54 })..headers {
            assert_eq!(arrives(&mut world, &frame[..length]).action, ACT_UNSPEC, "{length}");
        }
    }
    assert_eq!(world.node.events().unwrap(), []);
}

#[test]
#[ignore = "needs root: make test"]
fn who_is_no_node_is_not_believed() {
    let mut world = world(1500);
    world.allow_all(&[A]);
    for (stranger, own) in [(IpAddr::from([172, 31, 0, 66]), own()[0]), ("fd77::66".parse().unwrap(), own()[1])] {
        for family in FAMILIES {
            let frame = outer(stranger, own, &wrapped(&[], REMOTE, &call(family, SYN))).build();
            let ran = arrives(&mut world, &frame);
            world.dropped(&ran, abi::DROP_UNKNOWN_SENDER, abi::DIRECTION_INGRESS);
        }
    }
    for claimed in [0, 2, 9, 0x00ff_ffff] {
        let ran = carried(&mut world, 0, Identity(claimed), &call(Family::V4, SYN));
        world.dropped(&ran, abi::DROP_INVALID_IDENTITY, abi::DIRECTION_INGRESS);
    }
    let lie = Packet::tcp((Family::V4.of(B), 5000), (Family::V4.of(A), 80), SYN);
    let ran = carried(&mut world, 0, identity(B), &lie);
    world.dropped(&ran, abi::DROP_INVALID_SOURCE, abi::DIRECTION_INGRESS);
}

#[test]
#[ignore = "needs root: make test"]
fn options_are_passed_over_unless_they_are_critical() {
    for family in [0, 1] {
        let mut world = world(1500);
        world.allow_all(&[A]);
        let (from, to) = ends(family);
        for length in [0, 4, 8, 252] {
            let frame = outer(from, to, &wrapped(&vec![0x33; length], REMOTE, &call(Family::V6, SYN))).build();
            let ran = arrives(&mut world, &frame);
            assert_eq!(ran.action, ACT_REDIRECT, "{:?}", world.node.events());
            assert_eq!(ran.packet[12..], hop_less(&call(Family::V6, SYN))[12..]);
        }
        let inner = call(Family::V4, SYN).build();
        let mut refused = |what: &str, payload: Vec<u8>, reason| {
            let ran = arrives(&mut world, &outer(from, to, &payload).build());
            assert_eq!(ran.action, ACT_SHOT, "{what}");
            world.dropped(&ran, reason, abi::DIRECTION_INGRESS);
        };
        let mut newer = header(&[], 0, 0x6558, REMOTE.0);
        newer[0] |= 0x40;
        refused("another version", [newer, inner.clone()].concat(), abi::DROP_TUNNEL_KEY);
        let critical = header(&[0, 1, 0x80, 0], 0x40, 0x6558, REMOTE.0);
        refused("a critical option", [critical, inner.clone()].concat(), abi::DROP_TUNNEL_KEY);
        let control = header(&[], 0x80, 0x6558, REMOTE.0);
        refused("a control packet", [control, inner.clone()].concat(), abi::DROP_TUNNEL_KEY);
        let bare = header(&[], 0, 0x0800, REMOTE.0);
        refused("no Ethernet inside", [bare, inner[ETHERNET..].to_vec()].concat(), abi::DROP_TUNNEL_KEY);
        let mut arp = inner.clone();
        arp[12..14].copy_from_slice(&[8, 6]);
        let fine = header(&[], 0, 0x6558, REMOTE.0);
        refused("neither IPv4 nor IPv6 inside", [fine.clone(), arp].concat(), abi::DROP_UNSUPPORTED_L3);
        let mut long = fine.clone();
        long[0] = 0x3f;
        refused("options beyond the end", [long, inner.clone()].concat(), abi::DROP_INVALID_PACKET);
        let piece = outer(from, to, &[fine, inner].concat());
        let ran = arrives(&mut world, &piece.piece(7, 0..48).build());
        if family == 0 {
            world.dropped(&ran, abi::DROP_FRAGMENTED, abi::DIRECTION_INGRESS);
        } else {
            assert_eq!(ran.action, ACT_UNSPEC, "behind an extension header it is for nobody");
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn what_is_cut_short_is_refused() {
    for family in [0, 1] {
        let mut world = world(1500);
        world.allow_all(&[A]);
        let (from, to) = ends(family);
        let frame = outer(from, to, &wrapped(&[0; 4], REMOTE, &call(Family::V4, SYN))).build();
        let headers = if family == 0 { 42 } else { 62 };
        for length in headers..frame.len() {
            let ran = arrives(&mut world, &frame[..length]);
            assert_eq!(ran.action, ACT_SHOT, "{length}");
            let event = world.node.events().unwrap().pop().unwrap();
            let reasons = [abi::DROP_INVALID_PACKET, abi::DROP_CT_INVALID_HEADER, abi::DROP_WRITE_ERROR];
            assert!(reasons.contains(&u32::from(event.reason)), "{length}: {event:?}");
        }
        assert_eq!(arrives(&mut world, &frame).action, ACT_REDIRECT);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn congestion_on_the_way_is_told_inside() {
    const TOS: usize = ETHERNET + 1;
    for family in [0, 1] {
        for inner_family in FAMILIES {
            let mut world = world(1500);
            world.allow_all(&[A]);
            let (from, to) = ends(family);
            // What the field is inside, and what it is to be when the outer one says "congested".
            for (inside, expected) in [(1, Some(3)), (2, Some(3)), (3, Some(3)), (0, None)] {
                let mark = |frame: &mut [u8], ecn: u8| match frame[ETHERNET] >> 4 {
                    4 => {
                        frame[TOS] = ecn;
                        frame[24..26].fill(0);
                        let sum = checksum(&[&frame[ETHERNET..34]]);
                        frame[24..26].copy_from_slice(&sum.to_be_bytes());
                    }
                    _ => frame[TOS] = ecn << 4,
                };
                let mut inner = call(inner_family, SYN).build();
                mark(&mut inner, inside);
                let mut frame = outer(from, to, &[header(&[], 0, 0x6558, REMOTE.0), inner].concat()).build();
                mark(&mut frame, 3);
                let ran = arrives(&mut world, &frame);
                match expected {
                    None => drop(world.dropped(&ran, abi::DROP_INVALID_PACKET, abi::DIRECTION_INGRESS)),
                    Some(ecn) => {
                        assert_eq!(ran.action, ACT_REDIRECT);
                        let mut marked = hop_less(&call(inner_family, SYN));
                        mark(&mut marked, ecn);
                        assert_eq!(ran.packet[12..], marked[12..]);
                    }
                }
            }
            // And what the inner one says goes out.
            let mut frame = call_out(inner_family).build();
            frame[TOS] = if inner_family == Family::V4 { 2 } else { 2 << 4 };
            let ran = world.node.leave(A, &frame).unwrap();
            assert_eq!(ran.action, ACT_REDIRECT);
            assert_eq!(ran.packet[TOS], 2, "over IPv4");
        }
    }
}

fn call_out(family: Family) -> Packet {
    Packet::tcp((family.of(A), 40_000), (remote(family), 80), SYN)
}

#[test]
#[ignore = "needs root: make test"]
fn the_host_gets_its_own_by_the_tunnel_device() {
    for outer in [0, 1] {
        for family in FAMILIES {
            let mut world = world(1500);
            let packet = Packet::tcp((remote(family), 5000), (family.host(), 22), SYN);
            let ran = carried(&mut world, outer, REMOTE, &packet);
            assert_eq!(ran.action, ACT_REDIRECT, "{:?}", world.node.events());
            assert_eq!(ran.packet[12..], packet.build()[12..]);
            let lost = Packet::tcp((remote(family), 5000), (family.world(), 22), SYN);
            let ran = carried(&mut world, outer, REMOTE, &lost);
            world.dropped(&ran, abi::DROP_NO_ENDPOINT, abi::DIRECTION_INGRESS);
            // What comes in on that device by itself was sent by nobody.
            let ran = world.node.run(FROM_OVERLAY, 0, 0, &packet.build()).unwrap();
            world.dropped(&ran, abi::DROP_UNKNOWN_SENDER, abi::DIRECTION_INGRESS);
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn without_a_way_to_the_node_nothing_leaves() {
    for family in FAMILIES {
        let mut narrow = world(1300);
        narrow.allow_all(&[A]);
        let big = Packet::udp((family.of(A), 40_000), (remote(family), 80), &[0; 1250]);
        narrow.leave_dropped(A, &big, abi::DROP_TOO_LONG);
        assert_eq!(narrow.leave(A, &call_out(family)).action, ACT_REDIRECT);
        ip("addr flush dev uplink0");
        narrow.leave_dropped(A, &call_out(family), abi::DROP_NO_FIB);
        // An address that nobody has told yet is none.
        let mut world = world(1500);
        world.allow_all(&[A]);
        assert_eq!(world.leave(A, &call_out(family)).action, ACT_REDIRECT);
        world.node.set_runtime(abi::Runtime { monitor: abi::MONITOR_MEDIUM, ..Default::default() }).unwrap();
        world.leave_dropped(A, &call_out(family), abi::DROP_NO_FIB);
        assert_eq!(world.leave(A, &call_out(family).hops(1)).action, ACT_OK, "the stack tells");
    }
}
