//! Who has which part of which range: all claims as they stood at one moment, and the next one, which happens only if
//! nobody claimed anything since.
//!
//! ```text
//! cilium/state/blocks/v1/<range>/<block>   {"cluster": "default", "node": "n1"} or {"aside": true}
//! cilium/state/blocks/v1/turn              who claimed last: written with each claim, on the condition that it is as it was
//! ```

use super::ClaimError;
use ipnetwork::IpNetwork;
use kvstore::{Backend, Condition, Entry, Outcome, Revision, Txn, keys};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Who has a block.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Owner {
    Node {
        cluster: String,
        node: String,
    },
    /// An address that no endpoint gets, on any node.
    Nobody {
        aside: bool,
    },
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Node { cluster, node } => write!(f, "node {node} of {cluster}"),
            Owner::Nobody { .. } => f.write_str("nobody"),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) pool: String,
    pub(super) block: IpNetwork,
    pub(super) owner: Owner,
    pub(super) entry: Entry,
}

#[derive(Debug)]
pub(super) struct Ledger {
    turn: Revision,
    claims: Vec<Claim>,
}

fn turn_key() -> String {
    format!("{}turn", keys::BLOCKS)
}

impl Ledger {
    pub(super) async fn read(backend: &dyn Backend) -> Result<Ledger, kvstore::Error> {
        // Before the claims: one that is made in between changes it.
        let turn = backend.get(&turn_key()).await?.map_or(0, |entry| entry.revision);
        let entries = backend.list(keys::BLOCKS).await?.entries;
        Ok(Ledger { turn, claims: entries.into_iter().filter_map(claim).collect() })
    }

    pub(super) fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// The claims on one range.
    pub(super) fn of(&self, pool: &str) -> impl Iterator<Item = &Claim> {
        self.claims.iter().filter(move |claim| claim.pool == pool)
    }

    pub(super) fn blocks(&self) -> Vec<IpNetwork> {
        self.claims.iter().map(|claim| claim.block).collect()
    }

    pub(super) fn overlapping(&self, block: IpNetwork) -> Option<&Claim> {
        let overlaps = |other: &IpNetwork| {
            other.is_ipv4() == block.is_ipv4() && (other.contains(block.network()) || block.contains(other.network()))
        };
        self.claims.iter().find(|claim| overlaps(&claim.block))
    }

    /// Writes one more; false if others claimed meanwhile.
    pub(super) async fn write(
        &self,
        backend: &dyn Backend,
        pool: &str,
        block: IpNetwork,
        owner: &Owner,
    ) -> Result<bool, ClaimError> {
        let (key, turn) = (keys::block(pool, &block.to_string()), turn_key());
        let unchanged = match self.turn {
            0 => Condition::Absent { key: turn.clone() },
            revision => Condition::Revision { key: turn.clone(), revision },
        };
        let value = serde_json::to_vec(owner)?;
        let txn = Txn::new().when(unchanged).when(Condition::Absent { key: key.clone() });
        let txn = txn.put(key, value, None).put(turn, owner.to_string(), None);
        Ok(matches!(backend.commit(txn).await?, Outcome::Committed { .. }))
    }
}

/// A key that is none of ours, or a value that nobody wrote, keeps its block from others: it may be of a later build.
fn claim(entry: Entry) -> Option<Claim> {
    let (pool, block) = keys::parse_block(&entry.key)?;
    let block = block.parse().ok()?;
    let owner = serde_json::from_slice(&entry.value).unwrap_or(Owner::Nobody { aside: false });
    Some(Claim { pool, block, owner, entry })
}
