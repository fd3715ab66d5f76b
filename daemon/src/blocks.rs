//! This node's parts of the cluster's address ranges: claimed in the kvstore by keys that are only ever created, never
//! overwritten, so that no two nodes can have the same.
//!
//! A block is never given back while the node lives, and is found again by the node's name. Which one the node has is
//! kept on disk by who asks, so that a kvstore that is away is no reason to wait after the first start.

use crate::controllers::causes;
use crate::feed::patience;
use ipnetwork::IpNetwork;
use kvstore::{Attempt, Backend, Entry, keys};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// First and longest pause after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("no block of /{bits} is left in {cluster}: {taken} are taken, see the keys under {under}")]
    Full { cluster: IpNetwork, bits: u8, taken: usize, under: String },
    #[error("write the claim as JSON")]
    Encode(#[from] serde_json::Error),
}

#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error(transparent)]
    Store(#[from] kvstore::Error),
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

/// Who has a block.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Owner {
    cluster: String,
    node: String,
}

pub struct Blocks {
    backend: Arc<dyn Backend>,
    owner: Owner,
}

impl Blocks {
    pub fn new(backend: Arc<dyn Backend>, cluster: &str, node: &str) -> Blocks {
        Blocks { backend, owner: Owner { cluster: cluster.to_owned(), node: node.to_owned() } }
    }

    /// A block of `bits` out of `cluster`: the kept one if it still is one and no other node has it. Waits for the
    /// kvstore unless there is a kept one.
    pub async fn claim(&self, cluster: IpNetwork, bits: u8, kept: Option<IpNetwork>) -> Result<IpNetwork, ClaimError> {
        let kept = kept.filter(|kept| is_block(*kept, cluster, bits));
        let (mut pause, limit) = (RETRY.0, patience(kept.is_some()));
        loop {
            let attempt = self.attempt(cluster, bits, kept);
            let reason = match (tokio::time::timeout(limit, attempt).await, kept) {
                (Ok(Ok(block)), _) => return Ok(block),
                (Ok(Err(TryError::Claim(error))), _) => return Err(error),
                (Ok(Err(TryError::Store(error))), _) => causes(&error),
                (Err(_), _) => format!("no answer within {limit:?}"),
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

    async fn attempt(&self, cluster: IpNetwork, bits: u8, kept: Option<IpNetwork>) -> Result<IpNetwork, TryError> {
        let pool = cluster.to_string();
        if let Some(kept) = kept {
            if self.create(&pool, kept).await? {
                return Ok(kept);
            }
            tracing::error!(block = %kept, "another node has this node's block: another one is claimed");
        }
        let listing = self.backend.list(&keys::blocks_of(&pool)).await?;
        let mut taken = Vec::new();
        for entry in &listing.entries {
            let block = keys::parse_block(&entry.key).and_then(|(_, block)| block.parse::<IpNetwork>().ok());
            let Some(block) = block else { continue };
            if self.is_ours(entry) && is_block(block, cluster, bits) {
                return Ok(block);
            }
            taken.push(block);
        }
        while let Some(block) = first_free(cluster, bits, &taken) {
            if self.create(&pool, block).await? {
                tracing::info!(%block, range = %cluster, "claimed this node's block");
                return Ok(block);
            }
            // Another node was quicker.
            taken.push(block);
        }
        let under = keys::blocks_of(&pool);
        Err(ClaimError::Full { cluster, bits, taken: taken.len(), under }.into())
    }

    /// Whether the block is this node's now.
    async fn create(&self, pool: &str, block: IpNetwork) -> Result<bool, TryError> {
        let value = serde_json::to_vec(&self.owner).map_err(ClaimError::Encode)?;
        match self.backend.create_only(&keys::block(pool, &block.to_string()), value, None).await? {
            Attempt::Done(_) => Ok(true),
            Attempt::Conflict(entry) => Ok(entry.is_some_and(|entry| self.is_ours(&entry))),
        }
    }

    fn is_ours(&self, entry: &Entry) -> bool {
        serde_json::from_slice::<Owner>(&entry.value).is_ok_and(|owner| owner == self.owner)
    }
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
