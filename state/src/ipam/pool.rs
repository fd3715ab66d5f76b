//! One pool: which addresses it spans, which of them are set aside, and where the search for a free one goes on. Who has
//! which address is the business of `ipam.rs`.

use crate::Rejected;
use crate::input::Family;
use crate::outputs::Timestamp;
use ipnetwork::IpNetwork;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest prefixes of a subnet: room for the network address, a gateway, one endpoint and (IPv4) the broadcast address.
const MAX_PREFIX_V4: u8 = 30;
const MAX_PREFIX_V6: u8 = 126;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pool {
    pub(crate) id: String,
    pub(crate) node_pool: bool,
    pub(crate) subnet: IpNetwork,
    pub(crate) range: Option<IpNetwork>,
    pub(crate) gateway: IpAddr,
    /// A request named the gateway.
    pub(crate) gateway_chosen: bool,
    /// Requests that hold it.
    pub(crate) references: u32,
    /// When it was last requested.
    pub(crate) since: Timestamp,
    /// The number of the address that was handed out last.
    pub(crate) cursor: Option<u128>,
    /// What of the subnet is this node's to give out; `None`: all of it, no other node has the subnet.
    pub(crate) blocks: Option<BTreeSet<IpNetwork>>,
}

impl Pool {
    /// A pool whose gateway is the first usable address. Host bits of the two prefixes are dropped.
    pub(crate) fn new(id: String, subnet: IpNetwork, range: Option<IpNetwork>) -> Result<Pool, Rejected> {
        let subnet = masked(subnet);
        let range = range.map(masked).filter(|range| *range != subnet);
        check_subnet(subnet)?;
        let gateway = address(Family::of_network(&subnet), first(&subnet) + 1);
        let pool = Pool {
            id,
            node_pool: false,
            subnet,
            range,
            gateway,
            gateway_chosen: false,
            references: 0,
            since: Timestamp::default(),
            cursor: None,
            blocks: None,
        };
        if let Some(range) = range {
            pool.check_range(range)?;
        }
        Ok(pool)
    }

    pub(crate) fn family(&self) -> Family {
        Family::of_network(&self.subnet)
    }

    /// Why `address` is never an endpoint's; `None` when it may be.
    pub(crate) fn set_aside(&self, address: IpAddr) -> Option<&'static str> {
        if address == self.gateway {
            return Some("the gateway of its subnet");
        }
        self.not_a_host(number(address))
    }

    /// Likewise, the gateway not considered.
    pub(crate) fn not_a_host(&self, number: u128) -> Option<&'static str> {
        if number == first(&self.subnet) {
            return Some(match self.family() {
                Family::V4 => "the network address of its subnet",
                Family::V6 => "the routers' anycast address of its subnet",
            });
        }
        let broadcast = self.family() == Family::V4 && number == last(&self.subnet);
        broadcast.then_some("the broadcast address of its subnet")
    }

    /// First and last number that is handed out when none is asked for by name.
    pub(crate) fn span(&self) -> (u128, u128) {
        let range = self.range.as_ref().unwrap_or(&self.subnet);
        (first(range), last(range))
    }

    /// Whether the address may be given to somebody who names none.
    pub(crate) fn hands_out(&self, address: IpAddr) -> bool {
        let (low, high) = self.span();
        self.subnet.contains(address) && (low..=high).contains(&number(address)) && self.set_aside(address).is_none()
    }

    /// How many addresses of the span may be handed out at all.
    pub(crate) fn capacity(&self) -> u128 {
        let (low, high) = self.span();
        let inside = |n: u128| (low..=high).contains(&n);
        let mut aside = vec![first(&self.subnet), number(self.gateway)];
        if self.family() == Family::V4 {
            aside.push(last(&self.subnet));
        }
        aside.dedup();
        // The span of ::/0 would overflow; no such subnet passes `check_subnet`.
        (high - low + 1) - aside.into_iter().filter(|n| inside(*n)).count() as u128
    }

    /// The same, of a part of the subnet only, and without the part's first and last address, which look like no host's.
    /// Fails when the part has none of them.
    pub(crate) fn span_within(&self, part: Option<IpNetwork>) -> Result<(u128, u128), Rejected> {
        let Some(part) = part.map(masked) else { return Ok(self.span()) };
        let (low, high) = self.span();
        let (low, high) = (low.max(first(&part).saturating_add(1)), high.min(last(&part).saturating_sub(1)));
        if part.is_ipv4() == self.subnet.is_ipv4() && low <= high {
            return Ok((low, high));
        }
        Err(Rejected::BadRange { range: part, subnet: self.subnet, reason: "it has no address of the pool's range" })
    }

    /// The parts of a span that are this node's to give out.
    pub(crate) fn own_spans(&self, (low, high): (u128, u128)) -> Vec<(u128, u128)> {
        let Some(blocks) = &self.blocks else { return vec![(low, high)] };
        let parts = blocks.iter().map(|block| (first(block).max(low), last(block).min(high)));
        parts.filter(|(low, high)| low <= high).collect()
    }

    /// Whether the address is this node's to give out.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        self.blocks.as_ref().is_none_or(|blocks| blocks.iter().any(|block| block.contains(address)))
    }

    /// The number of a span to try first: the one after that handed out last.
    pub(crate) fn start_within(&self, (low, high): (u128, u128)) -> u128 {
        match self.cursor {
            Some(last) if (low..high).contains(&last) => last + 1,
            _ => low,
        }
    }

    pub(crate) fn overlaps(&self, other: &IpNetwork) -> bool {
        overlap(&self.subnet, other)
    }

    fn check_range(&self, range: IpNetwork) -> Result<(), Rejected> {
        let bad = |reason| Rejected::BadRange { range, subnet: self.subnet, reason };
        if range.is_ipv4() != self.subnet.is_ipv4() {
            return Err(bad("they are of different families"));
        }
        if !self.subnet.contains(range.ip()) || range.prefix() < self.subnet.prefix() {
            return Err(bad("it is not inside the subnet"));
        }
        if self.capacity() == 0 {
            return Err(bad("it has no address that an endpoint could get"));
        }
        Ok(())
    }
}

fn check_subnet(subnet: IpNetwork) -> Result<(), Rejected> {
    let bad = |reason| Err(Rejected::BadSubnet { subnet, reason });
    let max = if subnet.is_ipv4() { MAX_PREFIX_V4 } else { MAX_PREFIX_V6 };
    if subnet.prefix() > max {
        return bad("it has no room for a gateway and an endpoint");
    }
    if subnet.prefix() < 8 {
        return bad("it is larger than /8");
    }
    let holds = |text: [u8; 4], prefix| match subnet {
        IpNetwork::V4(_) => overlap(&subnet, &prefix_of(IpAddr::V4(Ipv4Addr::from(text)), prefix)),
        IpNetwork::V6(_) => false,
    };
    let holds6 = |head: u16, prefix| match subnet {
        IpNetwork::V4(_) => false,
        IpNetwork::V6(_) => overlap(&subnet, &prefix_of(IpAddr::V6(Ipv6Addr::new(head, 0, 0, 0, 0, 0, 0, 0)), prefix)),
    };
    if holds([127, 0, 0, 0], 8) || holds6(0, 96) {
        return bad("it holds loopback or IPv4-compatible addresses");
    }
    if holds([0, 0, 0, 0], 8) {
        return bad("it holds addresses of \"this network\", 0.0.0.0/8");
    }
    if holds([224, 0, 0, 0], 3) || holds6(0xff00, 8) {
        return bad("it holds multicast or reserved addresses");
    }
    if holds([169, 254, 0, 0], 16) || holds6(0xfe80, 10) {
        return bad("it holds link-local addresses");
    }
    Ok(())
}

/// Whether two prefixes share an address.
pub(crate) fn overlap(a: &IpNetwork, b: &IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

/// The prefix without its host bits.
pub(crate) fn masked(network: IpNetwork) -> IpNetwork {
    prefix_of(network.network(), network.prefix())
}

/// The address as a prefix of full length.
pub(crate) fn single(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

/// The address of a prefix of one.
pub(crate) fn only_address(prefix: IpNetwork) -> Option<IpAddr> {
    let whole = Family::of_network(&prefix).bits();
    (prefix.prefix() == whole).then(|| prefix.ip())
}

fn prefix_of(address: IpAddr, prefix: u8) -> IpNetwork {
    // A length beyond the family's cannot come up: callers pass lengths of prefixes of the same family.
    IpNetwork::new(address, prefix).unwrap_or(IpNetwork::from(address))
}

pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The inverse of `number`; bits beyond the family's are dropped.
pub(crate) fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from((number & u128::from(u32::MAX)) as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

fn first(network: &IpNetwork) -> u128 {
    number(network.network())
}

fn last(network: &IpNetwork) -> u128 {
    number(network.broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(subnet: &str, range: Option<&str>) -> Result<Pool, Rejected> {
        Pool::new("p".to_owned(), subnet.parse().unwrap(), range.map(|r| r.parse().unwrap()))
    }

    #[test]
    fn first_usable_address_is_the_gateway() {
        assert_eq!(pool("10.9.1.77/24", None).unwrap().gateway.to_string(), "10.9.1.1");
        assert_eq!(pool("fd00:9::/64", None).unwrap().gateway.to_string(), "fd00:9::1");
    }

    #[test]
    fn capacity_leaves_out_what_is_set_aside() {
        for (subnet, range, capacity) in [
            ("10.9.1.0/24", None, 253),
            ("10.9.1.0/30", None, 1),
            ("10.9.1.0/24", Some("10.9.1.0/25"), 126),
            ("10.9.1.0/24", Some("10.9.1.128/25"), 127),
            ("10.9.1.0/24", Some("10.9.1.64/26"), 64),
            ("10.9.1.0/24", Some("10.9.1.7/32"), 1),
            ("fd00:9::/126", None, 2),
        ] {
            assert_eq!(pool(subnet, range).unwrap().capacity(), capacity, "{subnet} {range:?}");
        }
    }

    #[test]
    fn unusable_subnets_are_refused() {
        for subnet in [
            "0.0.0.0/0",
            "10.0.0.0/7",
            "0.1.0.0/16",
            "127.0.0.0/16",
            "169.254.1.0/24",
            "224.0.0.0/24",
            "240.0.0.0/8",
            "255.255.255.0/24",
            "10.9.1.0/31",
            "::/112",
            "::1/112",
            "fe80::/64",
            "ff02::/64",
            "fd00::/127",
        ] {
            assert!(matches!(pool(subnet, None), Err(Rejected::BadSubnet { .. })), "{subnet}");
        }
    }

    #[test]
    fn unusable_ranges_are_refused() {
        for range in ["10.9.0.0/16", "10.9.2.0/25", "fd00::/64", "10.9.1.0/32", "10.9.1.255/32", "10.9.1.1/32"] {
            assert!(matches!(pool("10.9.1.0/24", Some(range)), Err(Rejected::BadRange { .. })), "{range}");
        }
    }

    #[test]
    fn the_search_goes_on_after_the_last_and_wraps() {
        let mut pool = pool("10.9.1.0/24", None).unwrap();
        let (low, high) = pool.span();
        assert_eq!(pool.start_within(pool.span()), low);
        pool.cursor = Some(low + 9);
        assert_eq!(pool.start_within(pool.span()), low + 10);
        pool.cursor = Some(high);
        assert_eq!(pool.start_within(pool.span()), low);
    }
}
