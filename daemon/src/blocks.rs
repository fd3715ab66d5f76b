//! This node's parts of address ranges that nodes share: of the cluster's pools one block for each family, of the subnets
//! of Docker networks as many as it takes. They are keys in the kvstore that are only ever created, never overwritten,
//! and each together with the `turn` that every claim takes (`ledger.rs`), so that no two claims overlap, of whatever
//! size and range.
//!
//! Which ones the node has is kept on disk by who asks, so that a kvstore that is away is no reason to wait after the
//! first start. What goes back when is `keeper.rs`'.

pub mod keeper;
mod ledger;

use crate::controllers::causes;
use crate::feed::patience;
use ipnetwork::IpNetwork;
use kvstore::{Backend, keys};
use ledger::{Ledger, Owner};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// First and longest pause after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("no block of /{bits} is left in {cluster}: {taken} are taken, see the keys under {under}")]
    Full { cluster: IpNetwork, bits: u8, taken: usize, under: String },
    #[error("nothing of {subnet} is left for this node: {taken} parts are taken, see the keys under {under}")]
    NothingLeft { subnet: IpNetwork, taken: usize, under: String },
    #[error("{address} of {subnet} is taken: {block} is {owner}'s")]
    Taken { address: IpAddr, subnet: IpNetwork, block: IpNetwork, owner: String },
    #[error("others claimed addresses at the same time {ATTEMPTS} times in a row: try again")]
    Contended,
    #[error("the claim cannot be written as JSON")]
    Encode(#[from] serde_json::Error),
    #[error("addresses that nodes share cannot be claimed")]
    Store(#[from] kvstore::Error),
}

/// How often a claim is tried again because another came first.
const ATTEMPTS: u32 = 32;

/// What is wanted of a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A block out of the range, as large as the subnet's size suggests, or else smaller.
    Block { range: IpNetwork },
    /// This address, for an endpoint of this node alone.
    Address(IpAddr),
    /// This address, which is no endpoint's on any node: a gateway, or one that is reserved.
    Aside(IpAddr),
}

#[derive(Clone, Debug)]
pub struct Blocks {
    backend: Arc<dyn Backend>,
    owner: Owner,
}

impl Blocks {
    pub fn new(backend: Arc<dyn Backend>, cluster: &str, node: &str) -> Blocks {
        Blocks { backend, owner: Owner::Node { cluster: cluster.to_owned(), node: node.to_owned() } }
    }

    /// A block of `bits` out of `cluster`: the kept one if it still is one and no other node has it. Waits for the
    /// kvstore unless there is a kept one.
    pub async fn claim(&self, cluster: IpNetwork, bits: u8, kept: Option<IpNetwork>) -> Result<IpNetwork, ClaimError> {
        let kept = kept.filter(|kept| is_block(*kept, cluster, bits));
        let (mut pause, limit) = (RETRY.0, patience(kept.is_some()));
        loop {
            let attempt = self.attempt(cluster, bits, kept);
            let reason = match tokio::time::timeout(limit, attempt).await {
                Ok(Ok(block)) => return Ok(block),
                Ok(Err(error @ (ClaimError::Store(_) | ClaimError::Contended))) => causes(&error),
                Ok(Err(error)) => return Err(error),
                Err(_) => format!("no answer within {limit:?}"),
            };
            if let Some(kept) = kept {
                tracing::warn!(reason, block = %kept, "the kvstore cannot confirm this node's block; it is kept");
                return Ok(kept);
            }
            tracing::warn!(reason, range = %cluster, "no block of the cluster's range can be claimed yet; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    async fn attempt(&self, cluster: IpNetwork, bits: u8, kept: Option<IpNetwork>) -> Result<IpNetwork, ClaimError> {
        let pool = cluster.to_string();
        for _ in 0..ATTEMPTS {
            let ledger = Ledger::read(self.backend.as_ref()).await?;
            let own = ledger.of(&pool).filter(|claim| claim.owner == self.owner).map(|claim| claim.block);
            let own: Vec<IpNetwork> = own.filter(|block| is_block(*block, cluster, bits)).collect();
            if let Some(block) =
                kept.filter(|kept| own.contains(kept)).or(own.first().copied().filter(|_| kept.is_none()))
            {
                return Ok(block);
            }
            let free = kept.filter(|kept| ledger.overlapping(*kept).is_none());
            if let Some(kept) = kept.filter(|_| free.is_none()) {
                tracing::error!(block = %kept, "another node has this node's block: another one is claimed");
                if let Some(block) = own.first() {
                    return Ok(*block);
                }
            }
            let free = free.or_else(|| first_free(cluster, bits, &ledger.blocks()));
            let Some(block) = free else {
                let (taken, under) = (ledger.of(&pool).count(), keys::blocks_of(&pool));
                return Err(ClaimError::Full { cluster, bits, taken, under });
            };
            if ledger.write(self.backend.as_ref(), &pool, block, &self.owner).await? {
                tracing::info!(%block, range = %cluster, "claimed this node's block");
                return Ok(block);
            }
        }
        Err(ClaimError::Contended)
    }

    /// Claims a part of a subnet that nodes share. Returns what is this node's to give out by that, or, for an address
    /// that is set aside, that address.
    pub async fn take(&self, subnet: IpNetwork, want: Want) -> Result<IpNetwork, ClaimError> {
        let pool = subnet.to_string();
        for _ in 0..ATTEMPTS {
            let ledger = Ledger::read(self.backend.as_ref()).await?;
            let aside = matches!(want, Want::Aside(_));
            let owner = if aside { &Owner::Nobody { aside } } else { &self.owner };
            let block = match want {
                Want::Address(address) | Want::Aside(address) => {
                    let wanted = IpNetwork::from(address);
                    match ledger.overlapping(wanted) {
                        None => wanted,
                        Some(claim) if claim.owner == *owner && (!aside || claim.block == wanted) => {
                            return Ok(claim.block);
                        }
                        Some(claim) => {
                            let (block, owner) = (claim.block, claim.owner.to_string());
                            return Err(ClaimError::Taken { address, subnet, block, owner });
                        }
                    }
                }
                Want::Block { range } => {
                    let taken = ledger.blocks();
                    block_of(subnet, range, &taken).ok_or_else(|| ClaimError::NothingLeft {
                        subnet,
                        taken: ledger.of(&pool).count(),
                        under: keys::blocks_of(&pool),
                    })?
                }
            };
            if ledger.write(self.backend.as_ref(), &pool, block, owner).await? {
                tracing::info!(%block, %subnet, "claimed a part of a network's subnet");
                return Ok(block);
            }
        }
        Err(ClaimError::Contended)
    }
}

/// A free block of the range: of half the subnet's bits, so that there are about as many blocks as addresses in each, but
/// no larger than a node's usual part; where none is free, a smaller one, down to one address.
fn block_of(subnet: IpNetwork, range: IpNetwork, taken: &[IpNetwork]) -> Option<IpNetwork> {
    let (width, largest) = if subnet.is_ipv4() { (32, 8) } else { (128, 16) };
    let host_bits = match width - subnet.prefix() {
        // So few that single addresses are what can be shared.
        0..4 => 0,
        bits => (bits / 2).min(largest),
    };
    // Those that no host can have make no block of their own.
    let mut unusable = taken.to_vec();
    unusable.push(IpNetwork::from(subnet.network()));
    if subnet.is_ipv4() {
        unusable.push(IpNetwork::from(subnet.broadcast()));
    }
    let mut lengths = (width - host_bits).max(range.prefix())..=width;
    lengths.find_map(|bits| first_free(range, bits, if bits == width { &unusable } else { taken }))
}

fn is_block(block: IpNetwork, cluster: IpNetwork, bits: u8) -> bool {
    block.prefix() == bits && block.ip() == block.network() && cluster.contains(block.ip())
}

/// The lowest block that overlaps none of those.
fn first_free(cluster: IpNetwork, bits: u8, taken: &[IpNetwork]) -> Option<IpNetwork> {
    let taken = taken.iter().filter(|block| block.is_ipv4() == cluster.is_ipv4());
    let mut taken: Vec<(u128, u128)> =
        taken.map(|block| (number(block.network()), number(block.broadcast()))).collect();
    taken.sort_unstable();
    let width: u8 = if cluster.is_ipv4() { 32 } else { 128 };
    let size = 1_u128.checked_shl(u32::from(width.checked_sub(bits)?))?;
    let last = number(cluster.broadcast());
    let mut first = number(cluster.network());
    for (start, end) in taken {
        if end >= first && start < first + size {
            // The next one that begins behind it.
            first = (end / size + 1).checked_mul(size)?;
        }
    }
    let address = match cluster.is_ipv4() {
        true => IpAddr::V4(Ipv4Addr::from(u32::try_from(first).ok()?)),
        false => IpAddr::V6(Ipv6Addr::from(first)),
    };
    (first <= last).then(|| IpNetwork::new(address, bits).ok())?
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvstore::memory;
    use std::collections::BTreeSet;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn nodes_that_claim_at_once_have_different_blocks() {
        let (backend, _power) = memory::open();
        let claims = (0..8).map(|n| {
            let blocks = Blocks::new(Arc::clone(&backend), "default", &format!("n{n}"));
            tokio::spawn(async move { blocks.claim(net("10.64.0.0/21"), 24, None).await.unwrap() })
        });
        let mut found = BTreeSet::new();
        for claim in claims.collect::<Vec<_>>() {
            found.insert(claim.await.unwrap());
        }
        assert_eq!(found.len(), 8, "{found:?}");
        let late = Blocks::new(Arc::clone(&backend), "default", "late");
        assert!(matches!(late.claim(net("10.64.0.0/21"), 24, None).await, Err(ClaimError::Full { taken: 8, .. })));
    }

    #[tokio::test]
    async fn a_node_finds_its_block_again_by_its_name() {
        let (backend, _power) = memory::open();
        let first = Blocks::new(Arc::clone(&backend), "default", "n1");
        let block = first.claim(net("fd64::/64"), 112, None).await.unwrap();
        assert_eq!(block, net("fd64::/112"));
        Blocks::new(Arc::clone(&backend), "default", "n2").claim(net("fd64::/64"), 112, None).await.unwrap();
        let again = Blocks::new(Arc::clone(&backend), "default", "n1");
        assert_eq!(again.claim(net("fd64::/64"), 112, None).await.unwrap(), block);
        let entry = backend.get("cilium/state/blocks/v1/fd64::%2F64/fd64::%2F112").await.unwrap().unwrap();
        assert_eq!(entry.value, br#"{"cluster":"default","node":"n1"}"#);
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_block_needs_no_kvstore_and_is_claimed_again_where_it_was_lost() {
        let (backend, power) = memory::open();
        let blocks = Blocks::new(Arc::clone(&backend), "default", "n1");
        let kept = Some(net("10.64.7.0/24"));
        power.off();
        assert_eq!(blocks.claim(net("10.64.0.0/16"), 24, kept).await.unwrap(), net("10.64.7.0/24"));
        power.on();
        assert_eq!(blocks.claim(net("10.64.0.0/16"), 24, kept).await.unwrap(), net("10.64.7.0/24"));
        // Somebody else has it now, or the range is another.
        let other = Blocks::new(Arc::clone(&backend), "default", "n2");
        assert_eq!(other.claim(net("10.64.0.0/16"), 24, kept).await.unwrap(), net("10.64.0.0/24"));
        assert_eq!(other.claim(net("10.80.0.0/16"), 24, kept).await.unwrap(), net("10.80.0.0/24"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_claim_waits_for_the_kvstore() {
        let (backend, power) = memory::open();
        power.off();
        let blocks = Blocks::new(backend, "default", "n1");
        let claim = tokio::spawn(async move { blocks.claim(net("10.64.0.0/16"), 24, None).await });
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!claim.is_finished());
        power.on();
        assert_eq!(claim.await.unwrap().unwrap(), net("10.64.0.0/24"));
    }

    fn nodes(backend: &Arc<dyn Backend>, count: usize) -> Vec<Blocks> {
        (0..count).map(|n| Blocks::new(Arc::clone(backend), "default", &format!("n{n}"))).collect()
    }

    #[tokio::test]
    async fn parts_of_a_subnet_never_overlap_down_to_single_addresses() {
        for (subnet, usable) in [("10.9.1.0/24", 253), ("10.9.1.0/28", 13), ("10.9.1.0/30", 1), ("fd09::/120", 254)] {
            let backend = memory::open().0;
            let subnet = net(subnet);
            let nodes = nodes(&backend, 3);
            let gateway = number(subnet.network()) + 1;
            let gateway = match subnet.is_ipv4() {
                true => IpAddr::V4(Ipv4Addr::from(u32::try_from(gateway).unwrap())),
                false => IpAddr::V6(Ipv6Addr::from(gateway)),
            };
            for node in &nodes {
                let aside = node.take(subnet, Want::Aside(gateway)).await.unwrap();
                assert_eq!(aside, IpNetwork::from(gateway), "the same on all nodes");
            }
            let takes = nodes.iter().map(|node| async move {
                let mut taken = Vec::new();
                while let Ok(block) = node.take(subnet, Want::Block { range: subnet }).await {
                    taken.push(block);
                }
                taken
            });
            let taken = futures::future::join_all(takes).await.concat();
            let mut hosts = BTreeSet::new();
            for block in taken {
                assert!(subnet.contains(block.network()) && subnet.contains(block.broadcast()), "{block}");
                for host in block.iter() {
                    assert!(hosts.insert(host), "{host} was given twice");
                }
            }
            assert!(!hosts.contains(&gateway));
            hosts.remove(&subnet.network());
            if subnet.is_ipv4() {
                hosts.remove(&subnet.broadcast());
            }
            assert_eq!(hosts.len(), usable, "{subnet}");
        }
    }

    #[tokio::test]
    async fn an_address_by_name_is_one_nodes() {
        let backend = memory::open().0;
        let nodes = nodes(&backend, 2);
        let (subnet, address) = (net("10.9.1.0/24"), "10.9.1.40".parse().unwrap());
        assert_eq!(nodes[0].take(subnet, Want::Address(address)).await.unwrap(), net("10.9.1.40/32"));
        assert_eq!(nodes[0].take(subnet, Want::Address(address)).await.unwrap(), net("10.9.1.40/32"));
        let refused = nodes[1].take(subnet, Want::Address(address)).await.unwrap_err();
        assert_eq!(refused.to_string(), "10.9.1.40 of 10.9.1.0/24 is taken: 10.9.1.40/32 is node n0 of default's");
        assert!(nodes[1].take(subnet, Want::Aside(address)).await.is_err());
        let block = nodes[1].take(subnet, Want::Block { range: net("10.9.1.32/27") }).await.unwrap();
        assert_eq!(block, net("10.9.1.48/28"));
        // Another network whose subnet overlaps has nothing of it either.
        let wider = nodes[0].take(net("10.9.0.0/16"), Want::Address("10.9.1.50".parse().unwrap())).await;
        assert!(matches!(wider, Err(ClaimError::Taken { .. })), "{wider:?}");
    }

    #[test]
    fn free_blocks_overlap_none_of_another_size() {
        let cases = [
            (&["10.64.0.0/17"][..], Some("10.64.128.0/24")),
            (&["10.64.0.0/26", "10.64.1.192/26"], Some("10.64.2.0/24")),
            (&["10.64.1.0/24"], Some("10.64.0.0/24")),
            (&["10.0.0.0/8"], None),
            (&["fd00::/8"], Some("10.64.0.0/24")),
        ];
        for (taken, wanted) in cases {
            let taken: Vec<_> = taken.iter().map(|text| net(text)).collect();
            assert_eq!(first_free(net("10.64.0.0/16"), 24, &taken), wanted.map(net), "{taken:?}");
        }
        assert_eq!(first_free(net("255.255.255.0/24"), 24, &[net("255.255.255.0/24")]), None);
    }
}
