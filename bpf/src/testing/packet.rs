//! Frames byte by byte, with sound checksums unless a test spoils them.
//!
//! Owns the formats; what a frame is for is the tests' business.

use std::net::IpAddr;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// An IPv6 extension header: its number, and its bytes behind the first two.
pub type Extension = (u8, Vec<u8>);

/// One IP packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Packet {
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
    pub source: IpAddr,
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    pub protocol: u8,
    /// Transport header and payload.
    pub transport: Vec<u8>,
    /// IPv4 options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers in order.
    pub extensions: Vec<Extension>,
    pub fragment: Option<Fragment>,
}

/// Which piece of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    pub id: u32,
    /// In units of 8 bytes.
    pub offset: u16,
    pub more: bool,
}

impl Packet {
    /// A packet of any protocol with these bytes behind the network header.
    pub fn raw(source: IpAddr, destination: IpAddr, protocol: u8, transport: Vec<u8>) -> Packet {
        Packet {
            to_mac: [2, 0, 0, 0, 0, 0xfe],
            from_mac: [2, 0, 0, 0, 0, 1],
            source,
            destination,
            hops: 64,
            protocol,
            transport,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
        }
    }

    pub fn tcp(from: (IpAddr, u16), to: (IpAddr, u16), flags: u8) -> Packet {
        let mut header = ports(from.1, to.1);
        header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        Packet::raw(from.0, to.0, TCP, header).with_checksum(16)
    }

    pub fn udp(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Packet {
        let mut header = ports(from.1, to.1);
        header.extend((8 + payload.len() as u16).to_be_bytes());
        header.extend([0, 0]);
        header.extend(payload);
        Packet::raw(from.0, to.0, UDP, header).with_checksum(6)
    }

    pub fn sctp(from: (IpAddr, u16), to: (IpAddr, u16)) -> Packet {
        let mut header = ports(from.1, to.1);
        header.extend([0; 12]);
        Packet::raw(from.0, to.0, SCTP, header)
    }

    /// ICMP of the family; `rest` is what follows the checksum.
    pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Packet {
        let mut header = vec![kind, code, 0, 0];
        header.extend(rest);
        let protocol = if source.is_ipv4() { ICMP } else { ICMPV6 };
        Packet::raw(source, destination, protocol, header).with_checksum(2)
    }

    pub fn echo_request(source: IpAddr, destination: IpAddr, id: u16) -> Packet {
        Packet::icmp(source, destination, if source.is_ipv4() { 8 } else { 128 }, 0, &echo_body(id))
    }

    pub fn echo_reply(source: IpAddr, destination: IpAddr, id: u16) -> Packet {
        Packet::icmp(source, destination, if source.is_ipv4() { 0 } else { 129 }, 0, &echo_body(id))
    }

    /// An ICMP error of the family ("port unreachable") about `quoted`, of which `bytes` are quoted at most.
    pub fn error(source: IpAddr, destination: IpAddr, quoted: &Packet, bytes: usize) -> Packet {
        let (kind, code) = if source.is_ipv4() { (3, 3) } else { (1, 4) };
        let frame = quoted.build();
        let quote = &frame[ETHERNET..];
        let mut rest = vec![0; 4];
        rest.extend(&quote[..quote.len().min(bytes)]);
        Packet::icmp(source, destination, kind, code, &rest)
    }

    pub fn hops(mut self, hops: u8) -> Packet {
        self.hops = hops;
        self
    }

    pub fn options(mut self, options: &[u8]) -> Packet {
        self.options = options.to_vec();
        self
    }

    pub fn extension(mut self, number: u8, body: &[u8]) -> Packet {
        self.extensions.push((number, body.to_vec()));
        self
    }

    /// A piece of this packet: `bytes` of what is behind the network header.
    pub fn piece(&self, id: u32, bytes: std::ops::Range<usize>) -> Packet {
        let more = bytes.end < self.transport.len();
        let fragment = Fragment { id, offset: (bytes.start / 8) as u16, more };
        Packet { transport: self.transport[bytes].to_vec(), fragment: Some(fragment), ..self.clone() }
    }

    /// Writes the checksum of the transport at that offset.
    fn with_checksum(mut self, at: usize) -> Packet {
        self.transport[at..at + 2].fill(0);
        let sum = match self.protocol {
            ICMP => checksum(&[&self.transport]),
            protocol => transport_checksum(self.source, self.destination, protocol, &self.transport),
        };
        self.transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = self.to_mac.to_vec();
        frame.extend(self.from_mac);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                frame.extend(self.header4(source.octets(), destination.octets()));
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend([0x86, 0xdd]);
                frame.extend(self.header6(source.octets(), destination.octets()));
            }
            (source, destination) => panic!("{source} and {destination} are of two families"),
        }
        frame.extend(&self.transport);
        frame
    }

    fn header4(&self, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let length = 20 + self.options.len();
        let total = (length + self.transport.len()) as u16;
        let mut header = vec![0x40 | (length / 4) as u8, 0];
        header.extend(total.to_be_bytes());
        let (id, offset) =
            self.fragment.map_or((0x1234, 0x4000), |f| (f.id as u16, f.offset | if f.more { 0x2000 } else { 0 }));
        header.extend(id.to_be_bytes());
        header.extend(offset.to_be_bytes());
        header.extend([self.hops, self.protocol, 0, 0]);
        header.extend(source);
        header.extend(destination);
        header.extend(&self.options);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn header6(&self, source: [u8; 16], destination: [u8; 16]) -> Vec<u8> {
        let mut extensions = self.extensions.clone();
        if let Some(f) = self.fragment {
            let mut body = (f.offset << 3 | u16::from(f.more)).to_be_bytes().to_vec();
            body.extend(f.id.to_be_bytes());
            extensions.push((44, body));
        }
        let numbers: Vec<u8> = extensions.iter().map(|(number, _)| *number).chain([self.protocol]).collect();
        let mut chain = Vec::new();
        for ((number, body), next) in extensions.iter().zip(&numbers[1..]) {
            chain.push(*next);
            // The authentication header counts in fours, beyond the first two; the others in eights, beyond the first.
            chain.push(if *number == 51 { (body.len() + 2) / 4 - 2 } else { (body.len() + 2) / 8 - 1 } as u8);
            chain.extend(body);
        }
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(((chain.len() + self.transport.len()) as u16).to_be_bytes());
        header.extend([numbers[0], self.hops]);
        header.extend(source);
        header.extend(destination);
        header.extend(chain);
        header
    }
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

fn echo_body(id: u16) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend([0, 1]);
    body.extend([0x5a; 32]);
    body
}

/// The Internet checksum (RFC 1071) of parts of even length but the last.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum with the pseudo header of the family; over bytes that hold their checksum it is 0.
pub fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, transport: &[u8]) -> u16 {
    let mut pseudo = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(a) => pseudo.extend(a.octets()),
            IpAddr::V6(a) => pseudo.extend(a.octets()),
        }
    }
    pseudo.extend((transport.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    checksum(&[&pseudo, transport])
}

/// An ARP frame for IPv4 over Ethernet.
pub fn arp(operation: u16, sender: ([u8; 6], [u8; 4]), target: ([u8; 6], [u8; 4]), to_mac: [u8; 6]) -> Vec<u8> {
    let mut frame = to_mac.to_vec();
    frame.extend(sender.0);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(sender.0);
    frame.extend(sender.1);
    frame.extend(target.0);
    frame.extend(target.1);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn checksums_hold() {
        let (a, b) = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
        let frame = Packet::tcp((a, 1), (b, 2), SYN).build();
        assert_eq!(checksum(&[&frame[14..34]]), 0);
        assert_eq!(transport_checksum(a, b, TCP, &frame[34..]), 0);
    }

    #[test]
    fn extensions_name_what_follows_them() {
        let (a, b) = (IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let packet = Packet::udp((a, 1), (b, 2), &[0; 24]).extension(0, &[0; 6]);
        let frame = packet.piece(7, 8..16).build();
        assert_eq!(frame[14 + 6], 0);
        assert_eq!(&frame[54..56], &[44, 0]);
        assert_eq!(&frame[62..70], &[UDP, 0, 0, 9, 0, 0, 0, 7]);
    }
}
