//! `cilium_ct4_global` and `cilium_ct6_global`: the flows that the programs know.

use super::{MapError, Maps};
use crate::clock;
use crate::syscall::{Cursor, Map, Pairs};
use crate::{NodeAddresses, Timeouts};
use bpf::abi;
use bpf::names::map::{CT4, CT6};
use model::{EndpointId, Protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// Where a flow is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// TCP that only one side has spoken on.
    Opening,
    /// TCP that both sides have spoken on.
    Established,
    /// TCP after a reset, or a FIN from both sides.
    Closing,
    /// No TCP: it lives while packets come.
    Active,
}

/// One direction of a flow, seen from the end that sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct FlowEnd {
    pub address: IpAddr,
    /// For ICMP the echo identifier.
    pub port: u16,
    /// The endpoint of this node at this end.
    pub endpoint: Option<EndpointId>,
    /// Of that endpoint's policy the version that allowed the flow.
    pub policy: Option<u32>,
    /// Who is at this end, where it is no endpoint of this node.
    pub identity: Option<u32>,
    /// Every TCP flag that this end has sent.
    pub tcp_flags: u8,
    /// What this end has sent.
    pub packets: u64,
    pub bytes: u64,
}

/// A flow. `source` opened it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Flow {
    pub protocol: Protocol,
    pub state: FlowState,
    pub source: FlowEnd,
    pub destination: FlowEnd,
    /// The service that its opener asked for, by its number in the kernel.
    pub service: Option<u32>,
    /// No flow, but which backend a frontend's flow was given: that one's number in the kernel. It goes with the flow.
    pub backend: Option<u32>,
    /// Seconds until it is forgotten if nothing comes; 0: it is, and waits to be collected.
    pub expires: u64,
}

/// Reads at most `limit` flows.
pub fn read(maps: &Maps, limit: usize, timeouts: &Timeouts, jiffies: u32) -> Result<Vec<Flow>, MapError> {
    let mut flows = Vec::new();
    let age = Age { timeouts, jiffies };
    collect(&maps.ct4, CT4, limit, &mut flows, &age, |key| Ends::from(key))?;
    collect(&maps.ct6, CT6, limit, &mut flows, &age, |key| Ends::from(key))?;
    Ok(flows)
}

fn collect<K: aya::Pod>(
    map: &Map<K, abi::CtEntry>,
    name: &'static str,
    limit: usize,
    flows: &mut Vec<Flow>,
    age: &Age<'_>,
    ends: impl Fn(&K) -> Ends,
) -> Result<(), MapError> {
    let mut cursor = Cursor::default();
    let failed = |source| MapError::Read { map: name, source };
    while flows.len() < limit
        && let Some(Pairs { keys, values }) = map.next_batch(&mut cursor).map_err(failed)?
    {
        let room = limit - flows.len();
        flows.extend(keys.iter().zip(&values).take(room).map(|(key, value)| decode(&ends(key), value, age)));
    }
    Ok(())
}

/// Forgets every flow: each is judged anew with its next packet. Tells how many there were.
pub fn flush(maps: &Maps) -> Result<usize, MapError> {
    Ok(empty(&maps.ct4, CT4)? + empty(&maps.ct6, CT6)?)
}

fn empty<K: aya::Pod>(map: &Map<K, abi::CtEntry>, name: &'static str) -> Result<usize, MapError> {
    let mut cursor = Cursor::default();
    let mut count = 0;
    while let Some(batch) = map.next_batch(&mut cursor).map_err(|source| MapError::Read { map: name, source })? {
        map.delete_all(&batch.keys).map_err(|source| MapError::Write { map: name, source })?;
        count += batch.keys.len();
    }
    Ok(count)
}

/// What a key says, whatever its family.
pub struct Ends {
    addresses: [IpAddr; 2],
    ports: [u16; 2],
    protocol: Protocol,
}

impl From<&abi::Ct4Key> for Ends {
    fn from(key: &abi::Ct4Key) -> Ends {
        Ends {
            addresses: [IpAddr::V4(Ipv4Addr::from(key.a)), IpAddr::V4(Ipv4Addr::from(key.b))],
            ports: [key.pa.get(), key.pb.get()],
            protocol: Protocol(key.protocol),
        }
    }
}

impl From<&abi::Ct6Key> for Ends {
    fn from(key: &abi::Ct6Key) -> Ends {
        Ends {
            addresses: [IpAddr::V6(Ipv6Addr::from(key.a)), IpAddr::V6(Ipv6Addr::from(key.b))],
            ports: [key.pa.get(), key.pb.get()],
            protocol: Protocol(key.protocol),
        }
    }
}

impl Ends {
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }
}

/// What a container that was chosen to serve itself sees as its caller; as in bpf/lib/serve.h.
const SELF_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 42, 1);
const SELF_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0xa9fe, 0x2a01);

/// A key of conntrack: what it says, and how it is made of that. No ICMP: services have none.
pub trait FlowKey: aya::Pod {
    fn ends(&self) -> Ends;
    /// `None`: not of this family.
    fn of(ends: [(IpAddr, u16); 2], protocol: Protocol) -> Option<Self>;
}

impl FlowKey for abi::Ct4Key {
    fn ends(&self) -> Ends {
        Ends::from(self)
    }

    fn of([one, other]: [(IpAddr, u16); 2], protocol: Protocol) -> Option<abi::Ct4Key> {
        let ((IpAddr::V4(one), p), (IpAddr::V4(other), q)) = (one, other) else { return None };
        // As the machine reads both from memory.
        let order = |ip: Ipv4Addr, port: u16| (u32::from_ne_bytes(ip.octets()), u16::from_ne_bytes(port.to_be_bytes()));
        let ((a, pa), (b, pb)) =
            if order(one, p) > order(other, q) { ((other, q), (one, p)) } else { ((one, p), (other, q)) };
        let (pa, pb) = (abi::Be16::new(pa), abi::Be16::new(pb));
        Some(abi::Ct4Key { a: a.into(), b: b.into(), pa, pb, protocol: protocol.0, ..Default::default() })
    }
}

impl FlowKey for abi::Ct6Key {
    fn ends(&self) -> Ends {
        Ends::from(self)
    }

    fn of([one, other]: [(IpAddr, u16); 2], protocol: Protocol) -> Option<abi::Ct6Key> {
        let ((IpAddr::V6(one), p), (IpAddr::V6(other), q)) = (one, other) else { return None };
        let order = |ip: Ipv6Addr, port: u16| {
            let half = |at: usize| u64::from_ne_bytes(std::array::from_fn(|n| ip.octets()[at + n]));
            (half(0), half(8), u16::from_ne_bytes(port.to_be_bytes()))
        };
        let ((a, pa), (b, pb)) =
            if order(one, p) > order(other, q) { ((other, q), (one, p)) } else { ((one, p), (other, q)) };
        let (pa, pb) = (abi::Be16::new(pa), abi::Be16::new(pb));
        Some(abi::Ct6Key { a: a.octets(), b: b.octets(), pa, pb, protocol: protocol.0, ..Default::default() })
    }
}

/// Whether an entry only says which backend a frontend's flow was given.
pub fn is_service(entry: &abi::CtEntry) -> bool {
    u32::from(entry.flags) & abi::CT_SERVICE != 0
}

/// The key of the flow that belongs to a service entry. `backend`: what the kernel holds in the place of the one that the
/// entry names; `own`: as whom this node speaks for others. `None`: one of them is gone, and the flow with it.
pub fn served<K: FlowKey>(key: &K, entry: &abi::CtEntry, backend: &abi::LbBackend, own: NodeAddresses) -> Option<K> {
    let [number, port] = entry.stamp;
    if backend.number != number {
        return None;
    }
    let ip = match u32::from(backend.family) {
        abi::FAMILY_IPV4 => {
            let [a, b, c, d, ..] = backend.address;
            IpAddr::from([a, b, c, d])
        }
        abi::FAMILY_IPV6 => IpAddr::from(backend.address),
        _ => return None,
    };
    let ends = key.ends();
    if u32::from(entry.flags) & abi::CT_SNAT != 0 {
        let own = if ip.is_ipv4() { own.v4.map(IpAddr::V4) } else { own.v6.map(IpAddr::V6) };
        // As it is in packets.
        let [high, low, ..] = port.to_ne_bytes();
        return K::of([(own?, u16::from_be_bytes([high, low])), (ip, backend.port.get())], ends.protocol);
    }
    let [a, b] = [(ends.addresses[0], ends.ports[0]), (ends.addresses[1], ends.ports[1])];
    let (mut client, port) = if u32::from(entry.flags) & abi::CT_OPENED_BY_B != 0 { b } else { a };
    if client == ip {
        client = if ip.is_ipv4() { SELF_V4.into() } else { SELF_V6.into() };
    }
    K::of([(client, port), (ip, backend.port.get())], ends.protocol)
}

/// By which the age of an entry is told.
pub struct Age<'a> {
    pub timeouts: &'a Timeouts,
    pub jiffies: u32,
}

impl Age<'_> {
    /// Jiffies since the last packet. A packet can come after the clock was read.
    fn of(&self, entry: &abi::CtEntry) -> u32 {
        u32::try_from(self.jiffies.wrapping_sub(entry.seen) as i32).unwrap_or(0)
    }

    fn limit(&self, protocol: Protocol, entry: &abi::CtEntry) -> u32 {
        clock::ticks(match state(protocol, entry) {
            FlowState::Opening => self.timeouts.tcp_syn,
            FlowState::Established => self.timeouts.tcp,
            FlowState::Closing => self.timeouts.closing,
            FlowState::Active => self.timeouts.any,
        })
    }

    /// Whether the programs count the entry as none any more, for at least `slack` jiffies.
    pub fn is_over(&self, protocol: Protocol, entry: &abi::CtEntry, slack: u32) -> bool {
        self.of(entry) > self.limit(protocol, entry).saturating_add(slack)
    }
}

fn state(protocol: Protocol, entry: &abi::CtEntry) -> FlowState {
    let [a, b] = entry.tcp_flags;
    if protocol != Protocol::TCP {
        FlowState::Active
    } else if (a | b) & RST != 0 || a & b & FIN != 0 {
        FlowState::Closing
    } else if a != 0 && b != 0 {
        FlowState::Established
    } else {
        FlowState::Opening
    }
}

fn decode(ends: &Ends, entry: &abi::CtEntry, age: &Age<'_>) -> Flow {
    let end = |side: usize| FlowEnd {
        address: ends.addresses[side],
        port: ends.ports[side],
        endpoint: Some(EndpointId(entry.slot[side])).filter(|id| id.0 != 0),
        policy: (entry.slot[side] != 0).then_some(entry.stamp[side]),
        identity: (entry.slot[side] == 0 && !is_service(entry)).then_some(entry.stamp[side]),
        tcp_flags: entry.tcp_flags[side],
        packets: entry.packets[side],
        bytes: entry.bytes[side],
    };
    let opened_by_b = u32::from(entry.flags) & abi::CT_OPENED_BY_B != 0;
    let (source, destination) = if opened_by_b { (end(1), end(0)) } else { (end(0), end(1)) };
    let left = age.limit(ends.protocol, entry).saturating_sub(age.of(entry));
    let expires = (clock::tick() * left).as_secs();
    let service = Some(entry.service).filter(|number| *number != 0);
    let [stamp, _] = entry.stamp;
    let backend = is_service(entry).then_some(stamp);
    Flow { protocol: ends.protocol, state: state(ends.protocol, entry), source, destination, service, backend, expires }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::abi::{Be16, Be32};

    fn key() -> Ends {
        let (a, b) = (Be32::from(Ipv4Addr::new(10, 0, 0, 1)), Be32::from(Ipv4Addr::new(10, 0, 0, 2)));
        let key = abi::Ct4Key { a, b, pa: Be16::new(80), pb: Be16::new(4000), protocol: 6, ..Default::default() };
        Ends::from(&key)
    }

    fn age(timeouts: &Timeouts, jiffies: u32) -> Age<'_> {
        Age { timeouts, jiffies }
    }

    #[test]
    fn the_source_is_who_opened_it() {
        let entry = abi::CtEntry {
            flags: abi::CT_OPENED_BY_B as u8,
            slot: [7, 0],
            stamp: [3, 2],
            tcp_flags: [0x12, 0x02],
            packets: [10, 20],
            ..Default::default()
        };
        let flow = decode(&key(), &entry, &age(&Timeouts::default(), 0));
        assert_eq!((flow.source.port, flow.source.packets, flow.source.identity), (4000, 20, Some(2)));
        assert_eq!((flow.destination.endpoint, flow.destination.policy), (Some(EndpointId(7)), Some(3)));
        assert_eq!(flow.state, FlowState::Established);
    }

    #[test]
    fn a_service_entry_leads_to_its_flow() {
        let service: abi::Ct4Key = FlowKey::of([ip(1, 4000), ip(99, 80)], Protocol::TCP).unwrap();
        let by_b = service.ends().ports[1] == 4000;
        let flags = abi::CT_SERVICE | if by_b { abi::CT_OPENED_BY_B } else { 0 };
        let entry = abi::CtEntry { flags: flags as u8, stamp: [7, 0], service: 3, ..Default::default() };
        let mut backend =
            abi::LbBackend { number: 7, port: Be16::new(8080), family: abi::FAMILY_IPV4 as u8, ..Default::default() };
        backend.address[..4].copy_from_slice(&[10, 0, 0, 2]);
        let wanted: abi::Ct4Key = FlowKey::of([ip(2, 8080), ip(1, 4000)], Protocol::TCP).unwrap();
        assert_eq!(served(&service, &entry, &backend, NodeAddresses::default()), Some(wanted));
        // Itself, under another address.
        backend.address[3] = 1;
        let wanted: abi::Ct4Key = FlowKey::of([(SELF_V4.into(), 4000), ip(1, 8080)], Protocol::TCP).unwrap();
        assert_eq!(served(&service, &entry, &backend, NodeAddresses::default()), Some(wanted));
        // Somebody else in that place, or nobody.
        assert_eq!(served(&service, &entry, &abi::LbBackend { number: 8, ..backend }, NodeAddresses::default()), None);
        assert_eq!(served(&service, &entry, &abi::LbBackend { family: 0, ..backend }, NodeAddresses::default()), None);
        // Sent on to another node.
        let port = u32::from(u16::from_ne_bytes(2000u16.to_be_bytes()));
        let flags = u32::from(entry.flags) | abi::CT_SNAT;
        let sent_on = abi::CtEntry { flags: flags as u8, stamp: [7, port], ..entry };
        let own = NodeAddresses { v4: Some(Ipv4Addr::new(10, 0, 0, 50)), v6: None };
        let wanted: abi::Ct4Key = FlowKey::of([ip(50, 2000), ip(1, 8080)], Protocol::TCP).unwrap();
        assert_eq!(served(&service, &sent_on, &backend, own), Some(wanted));
        assert_eq!(served(&service, &sent_on, &backend, NodeAddresses::default()), None);
        let flow = decode(&Ends::from(&service), &entry, &age(&Timeouts::default(), 0));
        assert_eq!((flow.source.port, flow.service, flow.backend), (4000, Some(3), Some(7)));
        assert_eq!(flow.source.identity, None);
    }

    fn ip(last: u8, port: u16) -> (IpAddr, u16) {
        (IpAddr::from([10, 0, 0, last]), port)
    }

    #[test]
    fn tcp_flags_tell_the_state() {
        for (flags, wanted) in [
            ([0x02, 0], FlowState::Opening),
            ([0x02, 0x12], FlowState::Established),
            ([0x13, 0x12], FlowState::Established),
            ([0x13, 0x11], FlowState::Closing),
            ([0x02, 0x14], FlowState::Closing),
        ] {
            let entry = abi::CtEntry { tcp_flags: flags, ..Default::default() };
            assert_eq!(state(Protocol::TCP, &entry), wanted, "{flags:?}");
        }
        assert_eq!(state(Protocol::UDP, &abi::CtEntry::default()), FlowState::Active);
    }

    #[test]
    fn age_survives_the_wrap_of_the_clock_and_packets_from_the_future() {
        let timeouts = Timeouts::default();
        let limit = clock::ticks(timeouts.any);
        let entry = abi::CtEntry { seen: u32::MAX - 10, ..Default::default() };
        assert!(!age(&timeouts, limit - 11).is_over(Protocol::UDP, &entry, 0));
        assert!(age(&timeouts, limit).is_over(Protocol::UDP, &entry, 0));
        assert!(!age(&timeouts, u32::MAX - 20).is_over(Protocol::UDP, &entry, 0));
    }
}
