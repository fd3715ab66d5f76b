//! What the first bytes of a packet say: addresses, protocol, ports. The bytes are a container's, so nothing is believed.

use model::Protocol;
use model::event::PacketSummary;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Extension headers that are walked at most; the programs walk no further either.
const EXTENSIONS: usize = 8;

/// Reads a frame, Ethernet header first; `None`: it is no IP packet, or too short to tell.
pub fn summary(frame: &[u8]) -> Option<PacketSummary> {
    let ip = frame.get(ETHERNET..)?;
    match u16_at(frame, 12)? {
        IPV4 => ipv4(ip),
        IPV6 => ipv6(ip),
        _ => None,
    }
}

fn ipv4(ip: &[u8]) -> Option<PacketSummary> {
    let address = |at: usize| ip.get(at..)?.first_chunk::<4>().map(|octets| IpAddr::V4(Ipv4Addr::from(*octets)));
    let later_fragment = u16_at(ip, 6)? & 0x1fff != 0;
    let length = usize::from(*ip.first()? & 0x0f) * 4;
    let transport = if later_fragment { &[] } else { ip.get(length..).unwrap_or_default() };
    Some(transport_summary(address(12)?, address(16)?, Protocol(*ip.get(9)?), transport))
}

fn ipv6(ip: &[u8]) -> Option<PacketSummary> {
    let address = |at: usize| ip.get(at..)?.first_chunk::<16>().map(|octets| IpAddr::V6(Ipv6Addr::from(*octets)));
    let (source, destination) = (address(8)?, address(24)?);
    let (mut next, mut rest, mut later_fragment) = (*ip.get(6)?, ip.get(40..).unwrap_or_default(), false);
    for _ in 0..EXTENSIONS {
        let length = match (next, rest) {
            // Hop-by-hop options, routing, destination options.
            (0 | 43 | 60, [_, units, ..]) => (usize::from(*units) + 1) * 8,
            (44, [_, _, high, low, ..]) => {
                later_fragment = u16::from_be_bytes([*high, *low]) & 0xfff8 != 0;
                8
            }
            // Authentication.
            (51, [_, units, ..]) => (usize::from(*units) + 2) * 4,
            _ => break,
        };
        next = rest[0];
        rest = rest.get(length..).unwrap_or_default();
    }
    let transport = if later_fragment { &[] } else { rest };
    Some(transport_summary(source, destination, Protocol(next), transport))
}

fn transport_summary(source: IpAddr, destination: IpAddr, protocol: Protocol, bytes: &[u8]) -> PacketSummary {
    let mut summary = PacketSummary {
        source,
        destination,
        protocol,
        source_port: None,
        destination_port: None,
        icmp: None,
        tcp_flags: None,
    };
    match protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => {
            summary.source_port = u16_at(bytes, 0);
            summary.destination_port = u16_at(bytes, 2);
        }
        Protocol::ICMP | Protocol::ICMPV6 => summary.icmp = bytes.first_chunk::<2>().map(|[kind, code]| (*kind, *code)),
        _ => {}
    }
    if protocol == Protocol::TCP {
        summary.tcp_flags = bytes.get(13).copied();
    }
    summary
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u16, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 12];
        bytes.extend(kind.to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    fn ipv4_tcp(fragment: u16) -> Vec<u8> {
        let mut ip = vec![0x45, 0, 0, 40, 0, 1];
        ip.extend(fragment.to_be_bytes());
        ip.extend([64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        ip.extend([0x1f, 0x90, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0, 0]);
        frame(IPV4, &ip)
    }

    #[test]
    fn ports_and_flags_of_tcp() {
        let summary = summary(&ipv4_tcp(0)).unwrap();
        assert_eq!((summary.source_port, summary.destination_port, summary.tcp_flags), (Some(8080), Some(80), Some(2)));
        assert_eq!(summary.destination, IpAddr::from([10, 0, 0, 2]));
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let summary = summary(&ipv4_tcp(100)).unwrap();
        assert_eq!((summary.protocol, summary.source_port, summary.tcp_flags), (Protocol::TCP, None, None));
    }

    #[test]
    fn extension_headers_are_stepped_over() {
        let mut ip = vec![0x60, 0, 0, 0, 0, 16, 0, 64];
        ip.extend([0; 32]);
        ip.extend([58, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 0]);
        let summary = summary(&frame(IPV6, &ip)).unwrap();
        assert_eq!((summary.protocol, summary.icmp), (Protocol::ICMPV6, Some((128, 0))));
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(bytes in proptest::collection::vec(any::<u8>(), 0..200), v6: bool) {
            summary(&frame(if v6 { IPV6 } else { IPV4 }, &bytes));
        }
    }
}
