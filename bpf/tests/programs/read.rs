//! What a frame says, and whether its checksums hold.
//!
//! Owns the reading of frames that programs have written; the sums are computed anew from all the bytes.

use bpf::testing::packet::{ICMP, ICMPV6, SCTP, TCP, UDP, checksum, transport_checksum};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP packet in a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
    pub hops: u8,
    pub protocol: u8,
    pub transport: Vec<u8>,
}

/// Reads a whole packet; every checksum in it must hold. Ports of ICMP are 0.
#[track_caller]
pub fn read(frame: &[u8]) -> Read {
    let found = parse(&frame[14..], true);
    let (source, destination) = (found.source.0, found.destination.0);
    match found.protocol {
        UDP if found.transport[6..8] == [0, 0] => {}
        TCP | UDP | ICMPV6 => {
            let sum = transport_checksum(source, destination, found.protocol, &found.transport);
            assert_eq!(sum, 0, "transport checksum: {found:?}");
        }
        ICMP => assert_eq!(checksum(&[&found.transport]), 0, "ICMP checksum: {found:?}"),
        SCTP => {
            let held = u32::from_le_bytes(found.transport[8..12].try_into().unwrap());
            assert!(held == 0 || held == sctp_checksum(&found.transport), "SCTP checksum: {found:?}");
        }
        _ => {}
    }
    found
}

/// Reads a piece of a packet, or one that an ICMP error quotes: without a look at the transport's checksum.
#[track_caller]
pub fn parse(packet: &[u8], whole: bool) -> Read {
    let (source, destination, protocol, hops, transport): (IpAddr, IpAddr, u8, u8, &[u8]) = if packet[0] >> 4 == 4 {
        let header = usize::from(packet[0] & 15) * 4;
        assert_eq!(checksum(&[&packet[..header]]), 0, "IPv4 checksum: {packet:x?}");
        let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        assert!(!whole || total == packet.len(), "{total} bytes: {packet:x?}");
        let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        (address(12).into(), address(16).into(), packet[9], packet[8], &packet[header..])
    } else {
        let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
        assert!(!whole || length + 40 == packet.len(), "{length} bytes: {packet:x?}");
        let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
        // A piece's header is passed over.
        let (protocol, at) = if packet[6] == 44 { (packet[40], 48) } else { (packet[6], 40) };
        (address(8).into(), address(24).into(), protocol, packet[7], &packet[at..])
    };
    let port = |at: usize| {
        let has_ports = matches!(protocol, TCP | UDP | SCTP) && transport.len() >= 4;
        if has_ports { u16::from_be_bytes([transport[at], transport[at + 1]]) } else { 0 }
    };
    Read {
        source: (source, port(0)),
        destination: (destination, port(2)),
        hops,
        protocol,
        transport: transport.to_vec(),
    }
}

/// CRC32c over the packet, its own checksum taken as 0.
pub fn sctp_checksum(packet: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in packet.iter().enumerate() {
        crc ^= u32::from(if (8..12).contains(&at) { 0 } else { *byte });
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[test]
fn a_known_checksum() {
    // The check value of CRC-32C.
    let mut packet = b"123456789".to_vec();
    packet.truncate(8);
    assert_eq!(sctp_checksum(&packet), 0x6087_809a);
}
