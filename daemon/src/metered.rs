//! A store that counts: how often each operation was asked for, how often it failed, and how long it took.
//!
//! It changes nothing about the store it wraps.

use async_trait::async_trait;
use kvstore::{Backend, Entry, Error, Events, Lease, LeaseId, Listing, Lock, Outcome, Revision, Status, Txn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The operations, in the order of the counters.
pub const OPERATIONS: [&str; 8] = ["get", "list", "commit", "watch", "grant", "keep_alive", "revoke", "lock"];

#[derive(Debug, Default)]
pub struct Counter {
    pub count: AtomicU64,
    pub errors: AtomicU64,
    /// Sum of all durations.
    pub micros: AtomicU64,
}

/// One counter for each of `OPERATIONS`.
pub type Counters = Arc<[Counter; OPERATIONS.len()]>;

#[derive(Debug)]
pub struct Metered {
    inner: Arc<dyn Backend>,
    counters: Counters,
}

impl Metered {
    pub fn wrap(inner: Arc<dyn Backend>) -> (Arc<dyn Backend>, Counters) {
        let counters = Counters::default();
        (Arc::new(Metered { inner, counters: Arc::clone(&counters) }), counters)
    }

    async fn count<T>(&self, operation: usize, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let begin = Instant::now();
        let outcome = call.await;
        if let Some(counter) = self.counters.get(operation) {
            counter.count.fetch_add(1, Ordering::Relaxed);
            counter.errors.fetch_add(u64::from(outcome.is_err()), Ordering::Relaxed);
            let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
            counter.micros.fetch_add(micros, Ordering::Relaxed);
        }
        outcome
    }
}

#[async_trait]
impl Backend for Metered {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.count(0, self.inner.get(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.count(1, self.inner.list(prefix)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        self.count(2, self.inner.commit(txn)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Events, Error> {
        self.count(3, self.inner.watch(prefix, from)).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.count(4, self.inner.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.count(5, self.inner.keep_alive(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.count(6, self.inner.revoke(lease)).await
    }

    async fn lock(&self, name: &str, wait: Duration) -> Result<Lock, Error> {
        self.count(7, self.inner.lock(name, wait)).await
    }

    async fn status(&self) -> Status {
        self.inner.status().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_and_failures_are_counted() {
        let (inner, power) = kvstore::memory::open();
        let (store, counters) = Metered::wrap(inner);
        store.put("cilium/a", b"1".to_vec(), None).await.unwrap();
        power.off();
        assert!(store.get("cilium/a").await.is_err());
        let numbers =
            |n: usize| (counters[n].count.load(Ordering::Relaxed), counters[n].errors.load(Ordering::Relaxed));
        assert_eq!((numbers(0), numbers(2)), ((1, 1), (1, 0)));
    }
}
