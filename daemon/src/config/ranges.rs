//! The cluster's ranges out of which nodes claim their pools: how they are set, and what is wrong with them.

use super::{Range, Reader};
use ipnetwork::{Ipv4Network, Ipv6Network};
use std::str::FromStr;

/// The two settings of a family, and what they may be.
pub struct Pool<N> {
    pub name: &'static str,
    mask_size: &'static str,
    /// Prefix lengths of a node's part.
    lengths: std::ops::RangeInclusive<u32>,
    /// What is wrong with a range, if anything, and its length.
    check: fn(N) -> Result<u8, String>,
}

pub const IPV4: Pool<Ipv4Network> = Pool {
    name: "cluster-pool-ipv4",
    mask_size: "cluster-pool-ipv4-mask-size",
    lengths: 8..=28,
    check: |range| match range.ip() == range.network() && range.prefix() >= 8 && !is_odd_ipv4(range) {
        true => Ok(range.prefix()),
        false => Err(format!("{range} is no unicast range of /8 or smaller without host bits")),
    },
};

pub const IPV6: Pool<Ipv6Network> = Pool {
    name: "cluster-pool-ipv6",
    mask_size: "cluster-pool-ipv6-mask-size",
    lengths: 48..=120,
    check: |range| match range.ip() == range.network() && range.prefix() >= 32 && !is_odd_ipv6(range) {
        true => Ok(range.prefix()),
        false => Err(format!("{range} is no unicast range of /32 or smaller without host bits")),
    },
};

impl<N: FromStr + Copy> Pool<N> {
    /// The range, if one is set; after a fault none.
    pub fn read(&self, reader: &mut Reader<'_>) -> Option<Range<N>> {
        let text = reader.text(self.name);
        let bits = u8::try_from(reader.number(self.mask_size, self.lengths.clone())).ok()?;
        if text.is_empty() {
            return None;
        }
        let Ok(cluster) = text.parse::<N>() else {
            reader.fault(self.name, format!("{text:?} is no CIDR prefix of this family"));
            return None;
        };
        match (self.check)(cluster) {
            Err(message) => reader.fault(self.name, message),
            Ok(length) if length > bits => {
                reader.fault(self.mask_size, format!("a /{bits} does not fit into {text}"));
            }
            Ok(_) => return Some(Range::Claimed { cluster, bits }),
        }
        None
    }
}

fn is_odd_ipv4(range: Ipv4Network) -> bool {
    let ip = range.ip();
    ip.is_loopback() || ip.is_multicast() || ip.is_link_local() || ip.octets()[0] == 0 || ip.octets()[0] >= 240
}

fn is_odd_ipv6(range: Ipv6Network) -> bool {
    let ip = range.ip();
    ip.is_multicast() || ip.is_unicast_link_local() || ip.segments()[..6] == [0; 6]
}
