//! Keeps the claims in the kvstore and what this node gives out of in step: what the node no longer uses goes back after a
//! while, what it uses and is not claimed (any more) is claimed again or, if it is another's by now, given up; and the
//! claims of nodes that are gone for good go back.
//!
//! Nothing of a node's addresses is announced under a new lease before that: while the node had none others may have taken
//! what was its own.
//!
//! A node counts as gone when this one saw none of its record for the whole grace, by its own steady clock and without
//! having lost sight of the kvstore meanwhile. The deletion then happens only if the record is still absent and the claim
//! as it was, so that several who sweep do not cross each other or a node that comes back.

use super::ledger::{Claim, Ledger, Owner};
use super::{Blocks, ClaimError};
use crate::controllers::{Controllers, causes};
use crate::writer::Inputs;
use ipnetwork::IpNetwork;
use kvstore::session::Session;
use kvstore::{Backend, Condition, Outcome, Txn, keys};
use state::{Input, Outputs};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const CONTROLLER: &str = "address-blocks";
/// How often everything is compared; more often where the grace is short.
const EVERY: Duration = Duration::from_secs(30);
/// How soon it is tried again while others wait to hear of this node.
const SOON: Duration = Duration::from_millis(500);
/// How long what this node does not use is kept: a claim that is being made is not in the state yet, and a network that
/// is made again finds its addresses.
const UNUSED: Duration = Duration::from_secs(60);

/// This node's block of the cluster's range is another's.
#[derive(Debug, thiserror::Error)]
#[error(
    "this node's block {block} of the cluster's range is {owner}'s by now: the agent has to start anew with another"
)]
pub struct Evicted {
    block: IpNetwork,
    owner: String,
}

pub struct Keeper {
    pub blocks: Blocks,
    pub inputs: Inputs,
    pub outputs: watch::Receiver<Arc<Outputs>>,
    pub controllers: Controllers,
    /// Waits with what it announces for what is found here.
    pub session: Session,
    /// Ranges of the cluster and this node's blocks of them.
    pub own: Vec<(IpNetwork, IpNetwork)>,
    /// How long a node without a record keeps its blocks.
    pub grace: Duration,
}

/// What has become of this node's blocks.
#[derive(Debug)]
enum Found {
    Kept,
    /// Some were another's, and were given up.
    Lost,
    Evicted(Evicted),
}

/// Since when what is to be deleted has been so.
#[derive(Debug, Default)]
struct Waiting {
    unused: BTreeMap<String, Instant>,
    ownerless: BTreeMap<(String, String), Instant>,
}

impl Keeper {
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Evicted> {
        let mut waiting = Waiting::default();
        let every = EVERY.min(self.grace / 4).max(Duration::from_secs(1));
        let mut health = self.session.health();
        loop {
            // Of a lease that is taken while things are compared nothing is known yet.
            let doubted = self.session.doubts();
            match self.round(&mut waiting).await {
                Ok(Found::Kept) => {
                    self.controllers.success(CONTROLLER);
                    if let Some(lease) = doubted {
                        self.session.confirm(lease);
                    }
                }
                // The state is without them by the next time.
                Ok(Found::Lost) => {}
                Ok(Found::Evicted(evicted)) => return Err(evicted),
                Err(error) => {
                    tracing::debug!(error = causes(&error), "the claims of addresses cannot be compared now");
                    self.controllers.failure(CONTROLLER, causes(&error));
                    // Who was not seen may have been there.
                    waiting.ownerless.clear();
                }
            }
            let pause = every.mul_f64(0.75 + rand::random::<f64>() / 2.0);
            let pause = if doubted.is_some() && self.session.doubts().is_some() { SOON } else { pause };
            let another_lease = async {
                // An error is the end of the session, and of all.
                while self.session.doubts().is_none() && health.changed().await.is_ok() {}
                if doubted.is_some() && self.session.doubts() == doubted {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = another_lease => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// What is to be claimed: range and block.
    fn wanted(&self) -> BTreeSet<(IpNetwork, IpNetwork)> {
        let outputs = self.outputs.borrow();
        let pools = outputs.view.pools.values();
        let blocks = pools.flat_map(|pool| pool.blocks.iter().flatten().map(|block| (pool.subnet, *block)));
        blocks.chain(self.own.iter().copied()).collect()
    }

    async fn round(&self, waiting: &mut Waiting) -> Result<Found, ClaimError> {
        let backend = self.blocks.backend.as_ref();
        let wanted = self.wanted();
        let mut found = Found::Kept;
        for (range, block) in &wanted {
            match self.confirm(*range, *block).await? {
                Found::Kept => {}
                Found::Lost => found = Found::Lost,
                evicted @ Found::Evicted(_) => return Ok(evicted),
            }
        }
        let ledger = Ledger::read(backend).await?;
        self.give_back(&ledger, &wanted, waiting).await?;
        self.sweep(&ledger, waiting).await?;
        Ok(found)
    }

    /// Makes sure that a block is claimed by this node; gives it up if it is another's.
    async fn confirm(&self, range: IpNetwork, block: IpNetwork) -> Result<Found, ClaimError> {
        for _ in 0..super::ATTEMPTS {
            let ledger = Ledger::read(self.blocks.backend.as_ref()).await?;
            match ledger.overlapping(block) {
                Some(claim) if claim.owner == self.blocks.owner => return Ok(Found::Kept),
                Some(claim) => return Ok(self.lose(range, block, claim).await),
                None => {
                    let owner = &self.blocks.owner;
                    if ledger.write(self.blocks.backend.as_ref(), &range.to_string(), block, owner).await? {
                        tracing::warn!(%block, %range, "a claim of this node was gone; it is made again");
                        return Ok(Found::Kept);
                    }
                }
            }
        }
        Err(ClaimError::Contended)
    }

    async fn lose(&self, range: IpNetwork, block: IpNetwork, claim: &Claim) -> Found {
        let owner = claim.owner.to_string();
        tracing::error!(%block, %range, owner, "a block of this node is another's: nothing of it is given out any more");
        if self.own.contains(&(range, block)) {
            return Found::Evicted(Evicted { block, owner });
        }
        self.inputs.tell(Input::BlockLost { pool: range.to_string(), block }).await;
        Found::Lost
    }

    /// Deletes this node's claims that it has not used for a while.
    async fn give_back(
        &self,
        ledger: &Ledger,
        wanted: &BTreeSet<(IpNetwork, IpNetwork)>,
        waiting: &mut Waiting,
    ) -> Result<(), kvstore::Error> {
        let is_wanted = |claim: &&Claim| wanted.iter().any(|(_, block)| *block == claim.block);
        let own = ledger.claims().iter().filter(|claim| claim.owner == self.blocks.owner);
        let unused: Vec<&Claim> = own.filter(|claim| !is_wanted(claim)).collect();
        let keys: BTreeSet<&str> = unused.iter().map(|claim| claim.entry.key.as_str()).collect();
        waiting.unused.retain(|key, _| keys.contains(key.as_str()));
        for claim in unused {
            let since = *waiting.unused.entry(claim.entry.key.clone()).or_insert_with(Instant::now);
            if since.elapsed() >= UNUSED {
                let entry = &claim.entry;
                self.blocks.backend.compare_and_delete(&entry.key, entry.revision).await?;
                tracing::info!(block = %claim.block, range = claim.pool, "gave back a block that is not used");
            }
        }
        Ok(())
    }

    /// Deletes the claims of nodes that are gone for good.
    async fn sweep(&self, ledger: &Ledger, waiting: &mut Waiting) -> Result<(), kvstore::Error> {
        let backend = self.blocks.backend.as_ref();
        let nodes = backend.list(keys::NODES).await?.entries;
        let nodes: BTreeSet<_> = nodes.iter().filter_map(|entry| keys::parse_node(&entry.key)).collect();
        let mut absent: BTreeMap<(String, String), Vec<&Claim>> = BTreeMap::new();
        for claim in ledger.claims().iter().filter(|claim| claim.owner != self.blocks.owner) {
            if let Owner::Node { cluster, node } = &claim.owner {
                let name = (cluster.clone(), node.clone());
                if !nodes.contains(&name) {
                    absent.entry(name).or_default().push(claim);
                }
            }
        }
        waiting.ownerless.retain(|name, _| absent.contains_key(name));
        for (name, claims) in absent {
            let since = *waiting.ownerless.entry(name.clone()).or_insert_with(Instant::now);
            if since.elapsed() < self.grace {
                continue;
            }
            for claim in claims {
                if free(backend, &name, claim).await? {
                    tracing::info!(block = %claim.block, node = name.1, "took back a block of a node that is gone");
                }
            }
        }
        Ok(())
    }
}

/// Deletes a claim unless its node is back or it changed.
async fn free(
    backend: &dyn Backend,
    (cluster, node): &(String, String),
    claim: &Claim,
) -> Result<bool, kvstore::Error> {
    let absent = Condition::Absent { key: keys::node(cluster, node) };
    let unchanged = Condition::Revision { key: claim.entry.key.clone(), revision: claim.entry.revision };
    let txn = Txn::new().when(absent).when(unchanged).delete(&claim.entry.key);
    Ok(matches!(backend.commit(txn).await?, Outcome::Committed { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::Want;
    use crate::testing::Brain;
    use kvstore::{memory, session};

    const GRACE: Duration = Duration::from_secs(3600);

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn blocks(backend: &Arc<dyn Backend>, node: &str) -> Blocks {
        Blocks::new(Arc::clone(backend), "default", node)
    }

    fn keeper(brain: &Brain, backend: &Arc<dyn Backend>, own: &[(&str, &str)]) -> Keeper {
        Keeper {
            blocks: blocks(backend, "n1"),
            inputs: brain.inputs.clone(),
            outputs: brain.outputs.clone(),
            controllers: Controllers::default(),
            session: Session::start(
                Arc::clone(backend),
                session::Options { guarded: &[keys::NODES], ..Default::default() },
            ),
            own: own.iter().map(|(range, block)| (net(range), net(block))).collect(),
            grace: GRACE,
        }
    }

    async fn claims(backend: &Arc<dyn Backend>) -> Vec<String> {
        let ledger = Ledger::read(backend.as_ref()).await.unwrap();
        ledger.claims().iter().map(|claim| claim.block.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn blocks_of_a_node_that_is_gone_go_back_after_the_grace_and_not_while_it_comes_and_goes() {
        let (brain, backend) = (Brain::begin().await, memory::open().0);
        blocks(&backend, "n2").take(net("10.9.1.0/24"), Want::Block { range: net("10.9.1.0/24") }).await.unwrap();
        let record = keys::node("default", "n2");
        let (shutdown, keeper) = (brain.shutdown.clone(), keeper(&brain, &backend, &[]));
        tokio::spawn(keeper.run(shutdown));
        tokio::time::sleep(GRACE / 2).await;
        backend.put(&record, b"{}".to_vec(), None).await.unwrap();
        tokio::time::sleep(GRACE / 2).await;
        backend.delete(&record).await.unwrap();
        tokio::time::sleep(GRACE - EVERY * 2).await;
        assert_eq!(claims(&backend).await.len(), 1, "it was there in between");
        tokio::time::sleep(EVERY * 6).await;
        assert!(claims(&backend).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_use_is_claimed_again_and_what_is_not_goes_back() {
        let (brain, backend) = (Brain::begin().await, memory::open().0);
        let address = "10.9.1.9".parse().unwrap();
        blocks(&backend, "n1").take(net("10.9.1.0/24"), Want::Address(address)).await.unwrap();
        let (shutdown, keeper) =
            (brain.shutdown.clone(), keeper(&brain, &backend, &[("10.64.0.0/16", "10.64.3.0/24")]));
        tokio::spawn(keeper.run(shutdown));
        tokio::time::sleep(UNUSED / 3).await;
        assert_eq!(claims(&backend).await, ["10.64.3.0/24", "10.9.1.9/32"]);
        tokio::time::sleep(UNUSED * 3).await;
        assert_eq!(claims(&backend).await, ["10.64.3.0/24"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_block_is_anothers_does_not_go_on() {
        let (brain, backend) = (Brain::begin().await, memory::open().0);
        let other = blocks(&backend, "n2").claim(net("10.64.0.0/16"), 24, None).await.unwrap();
        let keeper = keeper(&brain, &backend, &[("10.64.0.0/16", &other.to_string())]);
        let ended = keeper.run(brain.shutdown.clone()).await;
        assert_eq!(ended.unwrap_err().block, other);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_announced_under_a_new_lease_before_it_was_compared() {
        let (brain, backend) = (Brain::begin().await, memory::open().0);
        let own = blocks(&backend, "n1").claim(net("10.64.0.0/16"), 24, None).await.unwrap();
        let keeper = keeper(&brain, &backend, &[("10.64.0.0/16", &own.to_string())]);
        let session = keeper.session.clone();
        let record = keys::node("default", "n1");
        session.publish_later(&record, b"{}".to_vec()).unwrap();
        let keeping = tokio::spawn(keeper.run(brain.shutdown.clone()));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(backend.get(&record).await.unwrap().is_some());
        // Both lease and claim go, and the block is another's when the session is back.
        let claim = Ledger::read(backend.as_ref()).await.unwrap().claims()[0].entry.key.clone();
        backend.delete(&claim).await.unwrap();
        blocks(&backend, "n2").claim(net("10.64.0.0/16"), 24, Some(own)).await.unwrap();
        backend.revoke(session.health().borrow().lease.unwrap()).await.unwrap();
        assert_eq!(keeping.await.unwrap().unwrap_err().block, own);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(session.doubts().is_some(), "another lease was taken");
        assert!(backend.get(&record).await.unwrap().is_none());
    }
}
