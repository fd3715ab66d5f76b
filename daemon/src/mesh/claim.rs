//! This cluster's own id, claimed in its kvstore: all its agents have the same, others read it there, and it does not
//! change under identities that carry it.

use crate::controllers::causes;
use kvstore::{Attempt, Backend, keys};
use state::shared_records as records;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long the kvstore may take to say so at start.
const START_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked at later (it may have been restored), and the pause after a failure.
const LOOK: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "--cluster-id is {wanted}, but cluster {cluster} has the id {found} in the kvstore (key {key}): its identities carry \
         that. All agents of a cluster have the same id; how to change it is told in docs/operations.md"
    )]
    OtherId { cluster: String, wanted: u8, found: u8, key: String },
    #[error("what the kvstore has of cluster {cluster} (key {key}) cannot be read: {reason}")]
    Unreadable { cluster: String, key: String, reason: String },
    #[error("read the cluster's id")]
    Store(#[from] kvstore::Error),
}

/// A cluster's own name and id.
#[derive(Clone, Debug)]
pub struct Claim {
    pub store: Arc<dyn Backend>,
    pub cluster: String,
    /// 0: nothing is claimed, but nobody else may have.
    pub id: u8,
}

impl Claim {
    async fn check(&self) -> Result<(), ClaimError> {
        let key = keys::cluster_config(&self.cluster);
        let mut found = self.store.get(&key).await?;
        if found.is_none() && self.id != 0 {
            let record = state::cluster_record(&self.cluster, self.id).into_bytes();
            match self.store.compare_and_swap(&key, 0, record, None).await? {
                Attempt::Done(_) => {}
                Attempt::Conflict(entry) => found = entry,
            }
        }
        let (cluster, wanted) = (self.cluster.clone(), self.id);
        match found.map(|entry| records::cluster(&self.cluster, &entry.value)) {
            None => Ok(()),
            Some(Ok(found)) if found == wanted => Ok(()),
            Some(Ok(found)) => Err(ClaimError::OtherId { cluster, wanted, found, key }),
            Some(Err(error)) => Err(ClaimError::Unreadable { cluster, key, reason: causes(&error) }),
        }
    }

    /// Checks it at start, as far as the kvstore answers soon.
    pub async fn begin(&self) -> Result<(), ClaimError> {
        match tokio::time::timeout(START_PATIENCE, self.check()).await {
            Ok(Err(ClaimError::Store(error))) => {
                tracing::warn!(error = causes(&error), "the cluster's id could not be checked yet");
                Ok(())
            }
            Ok(outcome) => outcome,
            Err(_) => {
                tracing::warn!("the kvstore does not answer: the cluster's id could not be checked yet");
                Ok(())
            }
        }
    }

    /// The task: ends only when the id turns out to be another one.
    pub async fn keep(self, shutdown: CancellationToken) -> Result<(), ClaimError> {
        loop {
            let pause = match self.check().await {
                Ok(()) => LOOK,
                Err(ClaimError::Store(error)) => {
                    tracing::debug!(error = causes(&error), "the cluster's id could not be checked");
                    RETRY
                }
                Err(other) => return Err(other),
            };
            if tokio::time::timeout(pause, shutdown.cancelled()).await.is_ok() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(store: &Arc<dyn Backend>, id: u8) -> Claim {
        Claim { store: Arc::clone(store), cluster: "a".to_owned(), id }
    }

    #[tokio::test]
    async fn the_first_id_is_the_clusters() {
        let store = kvstore::memory::open().0;
        claim(&store, 0).begin().await.unwrap();
        claim(&store, 7).begin().await.unwrap();
        claim(&store, 7).begin().await.unwrap();
        for other in [0, 8] {
            let refused = claim(&store, other).begin().await.unwrap_err().to_string();
            assert!(refused.contains("has the id 7") && refused.contains("cluster-config/a"), "{refused}");
        }
        store.put(&keys::cluster_config("a"), b"garbage".to_vec(), None).await.unwrap();
        assert!(matches!(claim(&store, 7).begin().await, Err(ClaimError::Unreadable { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_is_asked_later() {
        let (store, power) = kvstore::memory::open();
        claim(&store, 7).begin().await.unwrap();
        power.off();
        claim(&store, 8).begin().await.unwrap();
        let kept = tokio::spawn(claim(&store, 8).keep(CancellationToken::new()));
        tokio::time::sleep(LOOK).await;
        power.on();
        assert!(matches!(kept.await.unwrap(), Err(ClaimError::OtherId { found: 7, .. })));
    }
}
