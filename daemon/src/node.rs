//! Who this node is: its addresses as others see them, and the pools that it hands out addresses from.
//!
//! Pools that are neither set nor claimed out of the cluster's are derived from the node's address once and then kept: another uplink at the next boot must
//! not move running containers' addresses.

use crate::blocks::{Blocks, ClaimError};
use crate::config::{Config, Range};
use crate::controllers::causes;
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use kvstore::Backend;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Where the pools are kept in the local store.
const KEY: &str = "cilium/agent/node";
/// Last octet of the default pool's second byte when the node has no IPv4 address: Cilium's classic.
const DEFAULT_OCTET: u8 = 15;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub cluster: String,
    /// By which other nodes reach it: as set, else the source address of what leaves by the default route.
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// `None`: the family is off.
    pub ipv4_range: Option<Ipv4Network>,
    pub ipv6_range: Option<Ipv6Network>,
}

/// The pools of an earlier run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kept {
    ipv4_range: Option<Ipv4Network>,
    ipv6_range: Option<Ipv6Network>,
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("read this node's pools from the local store")]
    Read(#[source] kvstore::Error),
    #[error("keep this node's pools in the local store")]
    Keep(#[source] kvstore::Error),
    #[error("claim this node's pools out of the cluster's")]
    Claim(#[from] ClaimError),
    #[error("--node-ip names {address}, which this host does not have")]
    NotOurs { address: IpAddr, source: std::io::Error },
    #[error("write this node's pools as JSON")]
    Encode(#[from] serde_json::Error),
}

impl Node {
    /// Looks at the machine and at what was kept, and keeps what is new.
    pub async fn find(config: &Config, store: &dyn Backend, blocks: &Blocks) -> Result<Node, NodeError> {
        let kept = read(store).await?;
        let (ipv4, ipv6) = match config.node_ip {
            Some(set) => checked(set)?,
            None => (own_ipv4(), own_ipv6()),
        };
        let range4 = claimed(config.ipv4, kept.ipv4_range, only_ipv4, blocks);
        let range6 = claimed(config.ipv6, kept.ipv6_range, only_ipv6, blocks);
        let (range4, range6) = tokio::try_join!(range4, range6)?;
        let pools = choose(range4, range6, ipv4, kept);
        if pools != kept {
            store.put(KEY, serde_json::to_vec(&pools)?, None).await.map_err(NodeError::Keep)?;
        }
        Ok(Node {
            name: config.node_name.clone(),
            cluster: config.cluster_name.clone(),
            ipv4,
            ipv6,
            ipv4_range: pools.ipv4_range.filter(|_| config.ipv4.is_some()),
            ipv6_range: pools.ipv6_range.filter(|_| config.ipv6.is_some()),
        })
    }
}

impl Node {
    /// The ranges of the cluster out of which this node has claimed its pools, and those.
    pub fn claims(&self, config: &Config) -> Vec<(IpNetwork, IpNetwork)> {
        let mut claims = Vec::new();
        if let (Some(Range::Claimed { cluster, .. }), Some(own)) = (config.ipv4, self.ipv4_range) {
            claims.push((cluster.into(), own.into()));
        }
        if let (Some(Range::Claimed { cluster, .. }), Some(own)) = (config.ipv6, self.ipv6_range) {
            claims.push((cluster.into(), own.into()));
        }
        claims
    }
}

async fn read(store: &dyn Backend) -> Result<Kept, NodeError> {
    let Some(entry) = store.get(KEY).await.map_err(NodeError::Read)? else { return Ok(Kept::default()) };
    Ok(serde_json::from_slice(&entry.value).unwrap_or_else(|error| {
        tracing::warn!(
            key = KEY,
            error = causes(&error),
            "the pools of the last run cannot be read; they are derived anew"
        );
        Kept::default()
    }))
}

/// The same, with a claim turned into what was claimed.
async fn claimed<N: Into<IpNetwork>>(
    range: Option<Range<N>>,
    kept: Option<N>,
    of_family: fn(IpNetwork) -> Option<N>,
    blocks: &Blocks,
) -> Result<Option<Range<N>>, NodeError> {
    let Some(Range::Claimed { cluster, bits }) = range else { return Ok(range) };
    let block = blocks.claim(cluster.into(), bits, kept.map(Into::into)).await?;
    Ok(of_family(block).map(Range::Fixed))
}

fn only_ipv4(network: IpNetwork) -> Option<Ipv4Network> {
    if let IpNetwork::V4(network) = network { Some(network) } else { None }
}

fn only_ipv6(network: IpNetwork) -> Option<Ipv6Network> {
    if let IpNetwork::V6(network) = network { Some(network) } else { None }
}

type Addresses = (Option<Ipv4Addr>, Option<Ipv6Addr>);

/// Fails on an address that no packet of this host could have.
fn checked(set: Addresses) -> Result<Addresses, NodeError> {
    for address in set.0.map(IpAddr::V4).into_iter().chain(set.1.map(IpAddr::V6)) {
        UdpSocket::bind((address, 0)).map_err(|source| NodeError::NotOurs { address, source })?;
    }
    Ok(set)
}

/// What is set wins, then what was kept, then what the node's address says. Families that are off keep what they had.
fn choose(
    ipv4: Option<Range<Ipv4Network>>,
    ipv6: Option<Range<Ipv6Network>>,
    address: Option<Ipv4Addr>,
    kept: Kept,
) -> Kept {
    let v4 = match ipv4 {
        Some(Range::Fixed(range)) => Some(range),
        Some(Range::Claimed { .. }) => kept.ipv4_range,
        Some(Range::Auto) => kept.ipv4_range.or_else(|| Some(derived_ipv4(address))),
        None => kept.ipv4_range,
    };
    let v6 = match ipv6 {
        Some(Range::Fixed(range)) => Some(range),
        Some(Range::Claimed { .. }) => kept.ipv6_range,
        Some(Range::Auto) => {
            kept.ipv6_range.or_else(|| Some(derived_ipv6(v4.unwrap_or_else(|| derived_ipv4(address)))))
        }
        None => kept.ipv6_range,
    };
    Kept { ipv4_range: v4, ipv6_range: v6 }
}

/// `10.<last octet of the node's address>.0.0/16`.
fn derived_ipv4(address: Option<Ipv4Addr>) -> Ipv4Network {
    let octet = address.map_or(DEFAULT_OCTET, |address| address.octets()[3]);
    Ipv4Network::new(Ipv4Addr::new(10, octet, 0, 0), 16).expect("16 is a prefix length of IPv4")
}

/// `f00d::` with the IPv4 pool as the 32 bits before the last 32: `f00d::a0f:0:0:0/96` for `10.15.0.0/16`.
fn derived_ipv6(pool: Ipv4Network) -> Ipv6Network {
    let bits = (0xf00d_u128 << 112) | (u128::from(pool.network().to_bits()) << 32);
    Ipv6Network::new(Ipv6Addr::from_bits(bits), 96).expect("96 is a prefix length of IPv6")
}

/// Which address the kernel would send from. Connecting a datagram socket chooses one and sends nothing.
fn own_address(bind: SocketAddr, towards: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(bind).ok()?;
    socket.connect(towards).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

fn own_ipv4() -> Option<Ipv4Addr> {
    // Any address beyond the default route will do: 192.0.2.0/24 is for documentation (RFC 5737).
    match own_address(([0, 0, 0, 0], 0).into(), ([192, 0, 2, 1], 9).into())? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn own_ipv6() -> Option<Ipv6Addr> {
    // 2001:db8::/32 is for documentation (RFC 3849).
    let towards = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    match own_address((Ipv6Addr::UNSPECIFIED, 0).into(), (towards, 9).into())? {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Kept = Kept { ipv4_range: None, ipv6_range: None };

    #[test]
    fn pools_are_derived_as_cilium_does() {
        let pools = choose(Some(Range::Auto), Some(Range::Auto), Some(Ipv4Addr::new(10, 0, 2, 15)), NONE);
        assert_eq!(pools.ipv4_range, Some("10.15.0.0/16".parse().unwrap()));
        assert_eq!(pools.ipv6_range, Some("f00d:0:0:0:a0f:0:0:0/96".parse().unwrap()));
    }

    #[test]
    fn without_an_address_the_classic_pool_is_used() {
        let pools = choose(Some(Range::Auto), None, None, NONE);
        assert_eq!((pools.ipv4_range, pools.ipv6_range), (Some("10.15.0.0/16".parse().unwrap()), None));
    }

    #[test]
    fn kept_pools_survive_another_uplink_but_not_another_setting() {
        let kept = choose(Some(Range::Auto), Some(Range::Auto), Some(Ipv4Addr::new(192, 168, 1, 7)), NONE);
        assert_eq!(choose(Some(Range::Auto), Some(Range::Auto), Some(Ipv4Addr::new(1, 1, 1, 9)), kept), kept);
        let fixed = "10.99.0.0/16".parse().unwrap();
        let moved = choose(Some(Range::Fixed(fixed)), Some(Range::Auto), None, kept);
        assert_eq!((moved.ipv4_range, moved.ipv6_range), (Some(fixed), kept.ipv6_range));
    }

    #[test]
    fn a_family_switched_off_keeps_its_pool_for_later() {
        let kept = choose(Some(Range::Auto), Some(Range::Auto), None, NONE);
        assert_eq!(choose(Some(Range::Auto), None, None, kept), kept);
    }

    #[tokio::test]
    async fn pools_are_kept_in_the_store() {
        let store = kvstore::memory::open().0;
        let args = ["cilium-agent", "--ipv4-range=10.77.0.0/16"].map(std::ffi::OsString::from);
        let config = match crate::config::load(args, [], "n").unwrap() {
            crate::config::Invocation::Run(config) => config,
            other => panic!("{other:?}"),
        };
        let blocks = Blocks::new(kvstore::memory::open().0, "default", "n");
        let first = Node::find(&config, store.as_ref(), &blocks).await.unwrap();
        assert_eq!(read(store.as_ref()).await.unwrap().ipv4_range, first.ipv4_range);
        store.put(KEY, b"junk".to_vec(), None).await.unwrap();
        assert_eq!(Node::find(&config, store.as_ref(), &blocks).await.unwrap().ipv4_range, first.ipv4_range);
    }
}
