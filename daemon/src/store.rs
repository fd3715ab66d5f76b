//! Keeps the local store equal to the records of the newest snapshot: what must be on disk before Docker is told.
//!
//! A reconciler like the others: it knows what the store has, writes the difference in one transaction, and reports how
//! far it is. A store that fails (disk full) is tried again; nothing is lost meanwhile, and who waits is told.

use crate::controllers::{Controllers, causes};
use kvstore::{Backend, MAX_BYTES, MAX_STEPS, Txn};
use state::{Outputs, RECORDS_PREFIX};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const CONTROLLER: &str = "local-store";
/// First and longest pause after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How far the disk is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// `Outputs::records_revision` up to which everything is durable.
    pub realised: u64,
    /// The same for what was tried: larger than `realised` while the store fails.
    pub attempted: u64,
    pub failure: Option<String>,
}

pub type Records = BTreeMap<String, Arc<str>>;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("read the records of the local store")]
    List(#[from] kvstore::Error),
}

/// Reads what the last run left. Values that are no text are left where they are, and told.
pub async fn read(store: &dyn Backend) -> Result<Records, ReadError> {
    let mut records = Records::new();
    for entry in store.list(RECORDS_PREFIX).await?.entries {
        match String::from_utf8(entry.value) {
            Ok(text) => {
                records.insert(entry.key, text.into());
            }
            Err(_) => tracing::warn!(key = entry.key, "a record of the local store is no text; it is left as it is"),
        }
    }
    Ok(records)
}

/// What the store has that is not wanted, and what is wanted that it has not, as transactions of bounded size.
fn difference(stored: &Records, wanted: &Records) -> Vec<Txn> {
    let puts = wanted.iter().filter(|(key, value)| stored.get(*key) != Some(value));
    let puts = puts.map(|(key, value)| (key, Some(value)));
    let deletes = stored.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key, None));
    let mut transactions = Vec::new();
    let (mut txn, mut bytes) = (Txn::new(), 0);
    for (key, value) in deletes.chain(puts) {
        let size = key.len() + value.map_or(0, |value| value.len());
        if txn.changes.len() == MAX_STEPS || (bytes + size > MAX_BYTES && !txn.changes.is_empty()) {
            transactions.push(std::mem::take(&mut txn));
            bytes = 0;
        }
        bytes += size;
        txn = match value {
            Some(value) => txn.put(key, value.as_bytes(), None),
            None => txn.delete(key),
        };
    }
    if !txn.changes.is_empty() {
        transactions.push(txn);
    }
    transactions
}

/// The task. `stored` is what the store is known to have (the records that were restored; bad ones are not among them,
/// so that they are never deleted).
pub struct StoreWriter {
    pub store: Arc<dyn Backend>,
    pub stored: Arc<Records>,
    pub outputs: watch::Receiver<Arc<Outputs>>,
    pub status: watch::Sender<StoreStatus>,
    pub controllers: Controllers,
}

impl StoreWriter {
    /// Runs until `shutdown`; what is pending then is written before it ends, if that succeeds at once.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut pause = RETRY.0;
        loop {
            let outputs = Arc::clone(&self.outputs.borrow_and_update());
            let (records, revision) = (Arc::clone(&outputs.records), outputs.records_revision);
            drop(outputs);
            let failed = self.write(&records, revision).await;
            pause = if failed { (pause * 2).min(RETRY.1) } else { RETRY.0 };
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = self.outputs.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(pause), if failed => {}
            }
        }
        let outputs = Arc::clone(&self.outputs.borrow());
        self.write(&outputs.records, outputs.records_revision).await;
    }

    /// Writes the difference; true if that failed.
    async fn write(&mut self, records: &Arc<Records>, revision: u64) -> bool {
        if Arc::ptr_eq(records, &self.stored) {
            self.status.send_replace(StoreStatus { realised: revision, attempted: revision, failure: None });
            return false;
        }
        let outcome = self.commit(difference(&self.stored, records)).await;
        match self.controllers.book(CONTROLLER, outcome) {
            Ok(()) => {
                self.stored = Arc::clone(records);
                self.status.send_replace(StoreStatus { realised: revision, attempted: revision, failure: None });
                false
            }
            Err(error) => {
                let message = causes(&error);
                tracing::warn!(error = message, "the local store could not be written; trying again");
                self.status.send_modify(|status| {
                    status.attempted = revision;
                    status.failure = Some(message);
                });
                true
            }
        }
    }

    async fn commit(&self, transactions: Vec<Txn>) -> Result<(), kvstore::Error> {
        for txn in transactions {
            self.store.commit(txn).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records(pairs: &[(&str, &str)]) -> Records {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), Arc::from(*value))).collect()
    }

    #[test]
    fn nothing_to_do_is_no_transaction() {
        assert!(difference(&records(&[("a", "1")]), &records(&[("a", "1")])).is_empty());
    }

    #[test]
    fn a_large_difference_is_split() {
        let value = "x".repeat(MAX_BYTES / 3);
        let wanted = records(&[("a", &value), ("b", &value), ("c", &value), ("d", &value)]);
        assert_eq!(difference(&Records::new(), &wanted).len(), 2);
        let many: Records = (0..300).map(|n| (format!("k{n}"), Arc::from("v"))).collect();
        assert_eq!(difference(&Records::new(), &many).len(), 3);
    }

    proptest! {
        #[test]
        fn the_difference_makes_them_equal(
            stored in proptest::collection::btree_map("[a-e]{1,2}", "[0-2]", 0..12),
            wanted in proptest::collection::btree_map("[a-e]{1,2}", "[0-2]", 0..12),
        ) {
            let convert = |map: &BTreeMap<String, String>| -> Records {
                map.iter().map(|(key, value)| (key.clone(), Arc::from(value.as_str()))).collect()
            };
            let (mut stored, wanted) = (convert(&stored), convert(&wanted));
            for txn in difference(&stored, &wanted) {
                for change in txn.changes {
                    match change {
                        kvstore::Change::Put { key, value, .. } => {
                            stored.insert(key, String::from_utf8(value).unwrap().into());
                        }
                        kvstore::Change::Delete { key } => prop_assert!(stored.remove(&key).is_some()),
                        kvstore::Change::DeletePrefix { .. } => prop_assert!(false),
                    }
                }
            }
            prop_assert_eq!(stored, wanted);
        }
    }
}
