//! What is to be said about the packet of an event: its addresses and ports in one line, layer by layer, as bytes, and
//! the number of its flow.

use api::Protocol;
use api::event::{Event, PacketSummary};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

/// `10.1.0.2:44382 -> 10.1.0.1:80 tcp SYN`, `10.1.0.2 -> 10.1.0.1 icmp EchoRequest`, `ethertype 0x0806`.
pub fn summary(event: &Event) -> String {
    let Some(packet) = &event.packet else {
        return match ethertype(&event.capture) {
            Some(kind) => format!("ethertype {kind:#06x}"),
            None => "no IP packet".to_owned(),
        };
    };
    let source = address(packet.source, packet.source_port);
    let destination = address(packet.destination, packet.destination_port);
    format!("{source} -> {destination} {}", transport(packet))
}

fn address(ip: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| ip.to_string(), |port| SocketAddr::new(ip, port).to_string())
}

/// `tcp SYN`, `udp`, `icmp EchoRequest`, `protocol 47`.
fn transport(packet: &PacketSummary) -> String {
    let number = packet.protocol.0.to_string();
    let name = match packet.protocol.to_string() {
        name if name == number => format!("protocol {number}"),
        name => name.to_lowercase(),
    };
    format!("{name} {}", details(packet)).trim_end().to_owned()
}

/// What the transport header says beside ports: TCP's flags, ICMP's meaning.
fn details(packet: &PacketSummary) -> String {
    match (packet.icmp, packet.tcp_flags) {
        (Some((kind, code)), _) => {
            icmp_name(packet.protocol, kind, code).map_or_else(|| format!("type {kind} code {code}"), str::to_owned)
        }
        (None, Some(flags)) => tcp_flags(flags),
        (None, None) => String::new(),
    }
}

/// Names of the bits of a TCP header's 14th byte (RFC 9293, RFC 3168), the order in which they are told.
const TCP_FLAGS: [(u8, &str); 8] = [
    (0x02, "SYN"),
    (0x10, "ACK"),
    (0x04, "RST"),
    (0x01, "FIN"),
    (0x08, "PSH"),
    (0x20, "URG"),
    (0x40, "ECE"),
    (0x80, "CWR"),
];

fn tcp_flags(flags: u8) -> String {
    let set = TCP_FLAGS.iter().filter(|(bit, _)| flags & bit != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

/// Types and codes that matter in a container network (RFC 792, RFC 1191, RFC 4443, RFC 4861, RFC 3810).
fn icmp_name(protocol: Protocol, kind: u8, code: u8) -> Option<&'static str> {
    let name = match (protocol, kind, code) {
        (Protocol::ICMP, 0, _) => "EchoReply",
        (Protocol::ICMP, 3, 0) => "DestinationUnreachable(Net)",
        (Protocol::ICMP, 3, 1) => "DestinationUnreachable(Host)",
        (Protocol::ICMP, 3, 2) => "DestinationUnreachable(Protocol)",
        (Protocol::ICMP, 3, 3) => "DestinationUnreachable(Port)",
        (Protocol::ICMP, 3, 4) => "DestinationUnreachable(FragmentationNeeded)",
        (Protocol::ICMP, 3, 13) => "DestinationUnreachable(AdministrativelyProhibited)",
        (Protocol::ICMP, 8, _) => "EchoRequest",
        (Protocol::ICMP, 11, 0) => "TimeExceeded(TTL)",
        (Protocol::ICMP, 11, 1) => "TimeExceeded(Reassembly)",
        (Protocol::ICMPV6, 1, 0) => "DestinationUnreachable(NoRoute)",
        (Protocol::ICMPV6, 1, 1) => "DestinationUnreachable(AdministrativelyProhibited)",
        (Protocol::ICMPV6, 1, 3) => "DestinationUnreachable(Address)",
        (Protocol::ICMPV6, 1, 4) => "DestinationUnreachable(Port)",
        (Protocol::ICMPV6, 2, _) => "PacketTooBig",
        (Protocol::ICMPV6, 3, 0) => "TimeExceeded(HopLimit)",
        (Protocol::ICMPV6, 3, 1) => "TimeExceeded(Reassembly)",
        (Protocol::ICMPV6, 128, _) => "EchoRequest",
        (Protocol::ICMPV6, 129, _) => "EchoReply",
        (Protocol::ICMPV6, 133, _) => "RouterSolicitation",
        (Protocol::ICMPV6, 134, _) => "RouterAdvertisement",
        (Protocol::ICMPV6, 135, _) => "NeighborSolicitation",
        (Protocol::ICMPV6, 136, _) => "NeighborAdvertisement",
        (Protocol::ICMPV6, 143, _) => "MulticastListenerReport",
        _ => return None,
    };
    Some(name)
}

/// A number that all packets of a flow share, both ways: FNV-1a (32 bits) over protocol and both ends, the smaller end
/// first. It is for the reader's eye, and stays the same from one run to the next. 0 when the packet has no flow.
pub fn flow(event: &Event) -> u32 {
    const OFFSET: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    let Some(packet) = &event.packet else { return 0 };
    let end = |ip, port: Option<u16>| (ip, port.unwrap_or(0));
    let mut ends = [end(packet.source, packet.source_port), end(packet.destination, packet.destination_port)];
    ends.sort();
    let mut bytes = vec![packet.protocol.0];
    for (ip, port) in ends {
        match ip {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
        bytes.extend(port.to_be_bytes());
    }
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME))
}

/// One line for each layer that is known.
pub fn layers(event: &Event) -> impl Iterator<Item = String> {
    [ethernet(&event.capture), event.packet.as_ref().map(network), event.packet.as_ref().map(upper)]
        .into_iter()
        .flatten()
}

fn ethernet(capture: &[u8]) -> Option<String> {
    let (destination, source) = (capture.get(0..6)?, capture.get(6..12)?);
    let kind = ethertype(capture)?;
    let mac = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    Some(format!("Ethernet  {} -> {} ethertype {kind:#06x}", mac(source), mac(destination)))
}

fn ethertype(capture: &[u8]) -> Option<u16> {
    let bytes = capture.get(12..14)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn network(packet: &PacketSummary) -> String {
    let version = if packet.source.is_ipv4() { "IPv4" } else { "IPv6" };
    format!("{version}      {} -> {} protocol {}", packet.source, packet.destination, packet.protocol)
}

fn upper(packet: &PacketSummary) -> String {
    let ports = match (packet.source_port, packet.destination_port) {
        (Some(source), Some(destination)) => format!("{source} -> {destination} "),
        _ => String::new(),
    };
    format!("{:<9} {ports}{}", packet.protocol.to_string(), details(packet)).trim_end().to_owned()
}

/// Sixteen bytes a line: offset, hexadecimal, printable characters.
pub fn hexdump(bytes: &[u8]) -> impl Iterator<Item = String> + '_ {
    bytes.chunks(16).enumerate().map(|(row, chunk)| {
        let mut hex = String::new();
        for (i, byte) in chunk.iter().enumerate() {
            let gap = if i == 8 { " " } else { "" };
            write!(hex, " {gap}{byte:02x}").expect("writing to a String cannot fail");
        }
        let printable = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' };
        format!("{:08x} {hex:<49}  |{}|", row * 16, chunk.iter().map(printable).collect::<String>())
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn packet(protocol: Protocol) -> PacketSummary {
        PacketSummary {
            source: "f00d::2".parse().unwrap(),
            destination: "f00d::1".parse().unwrap(),
            protocol,
            source_port: None,
            destination_port: None,
            icmp: None,
            tcp_flags: None,
        }
    }

    fn summary_of(packet: PacketSummary) -> String {
        summary(&Event { packet: Some(packet), ..sample::drop().event })
    }

    #[test]
    fn ports_and_flags() {
        assert_eq!(summary(&sample::drop().event), "10.15.1.2:44382 -> 10.15.1.1:80 tcp SYN");
        let ends = PacketSummary { source_port: Some(1), destination_port: Some(53), ..packet(Protocol::UDP) };
        assert_eq!(summary_of(ends), "[f00d::2]:1 -> [f00d::1]:53 udp");
        assert_eq!(tcp_flags(0x12), "SYN, ACK");
        assert_eq!(tcp_flags(0xff), "SYN, ACK, RST, FIN, PSH, URG, ECE, CWR");
    }

    #[test]
    fn icmp_has_names() {
        let echo = PacketSummary { icmp: Some((128, 0)), ..packet(Protocol::ICMPV6) };
        assert_eq!(summary_of(echo), "f00d::2 -> f00d::1 icmpv6 EchoRequest");
        let odd = PacketSummary { icmp: Some((200, 1)), ..packet(Protocol::ICMP) };
        assert_eq!(summary_of(odd), "f00d::2 -> f00d::1 icmp type 200 code 1");
    }

    #[test]
    fn packets_without_ports() {
        assert_eq!(summary_of(packet(Protocol::TCP)), "f00d::2 -> f00d::1 tcp");
        assert_eq!(summary_of(packet(Protocol(47))), "f00d::2 -> f00d::1 protocol 47");
        let mut event = sample::drop().event;
        event.packet = None;
        event.capture[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(summary(&event), "ethertype 0x0806");
        assert_eq!(flow(&event), 0);
        event.capture.clear();
        assert_eq!(summary(&event), "no IP packet");
    }

    #[test]
    fn both_directions_are_one_flow() {
        let there = sample::drop().event;
        let mut back = there.clone();
        let summary = back.packet.as_mut().unwrap();
        std::mem::swap(&mut summary.source, &mut summary.destination);
        std::mem::swap(&mut summary.source_port, &mut summary.destination_port);
        assert_eq!(flow(&there), flow(&back));
        back.packet.as_mut().unwrap().source_port = Some(81);
        assert_ne!(flow(&there), flow(&back));
    }

    #[test]
    fn bytes_are_shown_sixteen_a_line() {
        let bytes: Vec<u8> = (0x3a..0x4c).collect();
        let expected = [
            "00000000  3a 3b 3c 3d 3e 3f 40 41  42 43 44 45 46 47 48 49  |:;<=>?@ABCDEFGHI|",
            "00000010  4a 4b                                             |JK|",
        ];
        assert_eq!(hexdump(&bytes).collect::<Vec<_>>(), expected);
    }
}
