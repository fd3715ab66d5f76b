//! Keys that live as long as this node does. A session holds one lease, keeps it alive, and remembers the keys it owns;
//! when the lease is lost it takes a new one and writes all of them again. What could not be written or deleted because
//! the store was away is done when it is back.
//!
//! ```text
//!            grant                 keep_alive every ttl/3
//!   no lease ─────▶ leased: write what is pending ◀──┐
//!      ▲                │ lease not found            │ ok, or store away (the lease may outlive that)
//!      └────────────────┴────────────────────────────┘
//! ```
//!
//! Some keys tell of what others may have taken meanwhile ([`Options::guarded`]). They are written only after somebody has
//! compared, once for each lease that was taken: [`Session::doubts`] says that it is to be done, [`Session::confirm`] that
//! it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::error::Ended;
use crate::watch::Update;
use crate::{Backend, Error, LeaseId, MAX_BYTES, MAX_STEPS, Operation, Outcome, Txn};

/// The rhythm of a session.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the keys outlive this node's death, and an outage after which the store has forgotten us.
    pub ttl: Duration,
    /// How long a call waits for a lease that is being taken.
    pub wait: Duration,
    /// How often it is checked that the owned keys are still there.
    pub check_every: Duration,
    /// Pause after a failure.
    pub retry: Duration,
    /// What the keys begin with that are not written under a new lease before [`Session::confirm`].
    pub guarded: &'static [&'static str],
}

impl Default for Options {
    fn default() -> Options {
        Options {
            ttl: Duration::from_secs(15 * 60),
            wait: Duration::from_secs(5),
            check_every: Duration::from_secs(5 * 60),
            retry: Duration::from_secs(1),
            guarded: &[],
        }
    }
}

/// A refusal is repeated this many times less often than a failure: somebody has to do something about it.
const REFUSED: u32 = 30;

/// How a session is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The lease, if the store granted one and has not said that it is gone.
    pub lease: Option<LeaseId>,
    /// When the store last confirmed it.
    pub confirmed: Option<SystemTime>,
    /// How many keys this node owns.
    pub owned: usize,
    /// How many writes and deletions wait for the store.
    pub pending: usize,
    /// What went wrong last, until something goes right.
    pub trouble: Option<String>,
    /// The lease under which guarded keys may be written.
    pub vouched: Option<LeaseId>,
}

/// A node's presence in the store. Cheap to clone; ends when the last clone is dropped, and its keys `ttl` later.
#[derive(Clone, Debug)]
pub struct Session {
    inner: Arc<Inner>,
    _task: Arc<Task>,
}

#[derive(Debug)]
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Inner {
    backend: Arc<dyn Backend>,
    options: Options,
    book: Mutex<Book>,
    // One write at a time, so that they reach the store in the order in which they were asked for.
    pen: tokio::sync::Mutex<()>,
    // Wakes the task: something is pending, or the lease is gone.
    work: Notify,
    health: watch::Sender<Health>,
}

/// What should be in the store.
#[derive(Debug, Default)]
struct Book {
    lease: Option<LeaseId>,
    /// The lease under which guarded keys may be written.
    vouched: Option<LeaseId>,
    owned: BTreeMap<String, Owned>,
    /// Keys to be deleted.
    doomed: BTreeSet<String>,
    /// One of our keys went without us: all are to be looked at.
    doubted: bool,
}

#[derive(Debug)]
struct Owned {
    value: Vec<u8>,
    /// The lease under which the value is known to be written.
    written: Option<LeaseId>,
}

/// Keys and the values written, or `None` for those deleted.
type Page = Vec<(String, Option<Vec<u8>>)>;

impl Book {
    fn pending(&self) -> usize {
        self.owned.values().filter(|owned| owned.written.is_none() || owned.written != self.lease).count()
            + self.doomed.len()
    }
}

impl Session {
    /// Begins a session; the store need not answer yet. Must be called within a tokio runtime.
    pub fn start(backend: Arc<dyn Backend>, options: Options) -> Session {
        let inner = Arc::new(Inner {
            backend,
            options,
            book: Mutex::default(),
            pen: tokio::sync::Mutex::default(),
            work: Notify::new(),
            health: watch::channel(Health::default()).0,
        });
        let task = tokio::spawn(tend(inner.clone()));
        Session { inner, _task: Arc::new(Task(task)) }
    }

    /// Writes a key under the session's lease and keeps it there. On an error that is retryable the session goes on
    /// trying; the caller need not.
    pub async fn publish(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<(), Error> {
        let txn = Txn::new().put(key, value, None);
        txn.check()?;
        let Some(crate::Change::Put { key, value, .. }) = txn.changes.into_iter().next() else { return Ok(()) };
        {
            let mut book = self.inner.book();
            book.doomed.remove(&key);
            let lease = book.lease;
            let there = |owned: &Owned| owned.value == value && owned.written.is_some() && owned.written == lease;
            if book.owned.get(&key).is_some_and(there) {
                return Ok(());
            }
            book.owned.insert(key.clone(), Owned { value, written: None });
        }
        self.inner.flush_now(&key).await
    }

    /// Deletes a key and stops keeping it. On an error that is retryable the session goes on trying.
    pub async fn withdraw(&self, key: &str) -> Result<(), Error> {
        Txn::new().delete(key).check()?;
        {
            let mut book = self.inner.book();
            book.owned.remove(key);
            book.doomed.insert(key.to_owned());
        }
        self.inner.flush_now(key).await
    }

    /// Commits a transaction together with keys that become the session's own if it succeeds. Unlike
    /// [`publish`](Session::publish) this is not tried again.
    pub async fn commit_owning(&self, txn: Txn, keys: &[(String, Vec<u8>)]) -> Result<Outcome, Error> {
        let session = self.clone();
        let keys = keys.to_vec();
        // In a task of its own: whether the keys are ours must be noted even if the caller gives up.
        let done = tokio::spawn(async move { session.inner.commit_owning(txn, &keys).await });
        done.await.unwrap_or_else(|_| Err(Inner::ended()))
    }

    /// Like [`publish`](Session::publish), without waiting for the store.
    pub fn publish_later(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<(), Error> {
        let value = value.into();
        Txn::new().put(key, value.clone(), None).check()?;
        let mut book = self.inner.book();
        book.doomed.remove(key);
        book.owned.insert(key.to_owned(), Owned { value, written: None });
        drop(book);
        self.inner.work.notify_one();
        Ok(())
    }

    /// Undoes what others do to our keys: to be called with what a [`watch::Feed`](crate::watch::Feed) tells, by whoever
    /// follows a prefix with owned keys anyway. Where one is gone others may be, with our lease or with what the store
    /// held: all of them are looked at. Without it a key that somebody deleted is back only after
    /// [`Options::check_every`].
    pub fn defend(&self, update: &Update) {
        let mut book = self.inner.book();
        let owned = match update {
            Update::Delete { key } => book.owned.get_mut(key),
            Update::Put(entry) => book.owned.get_mut(&entry.key).filter(|owned| owned.value != entry.value),
            Update::Reset | Update::Synced { .. } => None,
        };
        if let Some(owned) = owned.filter(|owned| owned.written.is_some()) {
            owned.written = None;
            book.doubted |= matches!(update, Update::Delete { .. });
            drop(book);
            self.inner.work.notify_one();
        }
    }

    /// The lease under which guarded keys wait for [`confirm`](Session::confirm).
    pub fn doubts(&self) -> Option<LeaseId> {
        let book = self.inner.book();
        book.lease.filter(|lease| book.vouched != Some(*lease) && !self.inner.options.guarded.is_empty())
    }

    /// Lets guarded keys be written under this lease: what they tell was compared since it was taken.
    pub fn confirm(&self, lease: LeaseId) {
        self.inner.book().vouched = Some(lease);
        self.inner.work.notify_one();
    }

    /// Whether the session owns this key.
    pub fn owns(&self, key: &str) -> bool {
        self.inner.book().owned.contains_key(key)
    }

    /// How the session is, now and whenever it changes.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.health.subscribe()
    }

    /// Ends the session for good: all its keys are deleted now rather than when the lease runs out.
    pub async fn close(self) -> Result<(), Error> {
        let _pen = self.inner.pen.lock().await;
        let lease = {
            let mut book = self.inner.book();
            std::mem::take(&mut *book).lease
        };
        self._task.0.abort();
        match lease {
            Some(lease) => self.inner.backend.revoke(lease).await,
            None => Ok(()),
        }
    }
}

impl Inner {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended() -> Error {
        Error::Unavailable { operation: Operation::Commit, key: String::new(), source: Arc::new(Ended("the session")) }
    }

    fn report(&self, result: Result<(), &Error>, confirmed: bool) {
        let (lease, vouched, owned, pending) = {
            let book = self.book();
            (book.lease, book.vouched, book.owned.len(), book.pending())
        };
        self.health.send_modify(|health| {
            (health.lease, health.vouched, health.owned, health.pending) = (lease, vouched, owned, pending);
            health.trouble = result.err().map(Error::chain);
            if confirmed {
                health.confirmed = Some(SystemTime::now());
            }
        });
    }

    /// The lease, waiting for one that is being taken.
    async fn lease(&self) -> Result<LeaseId, Error> {
        let mut health = self.health.subscribe();
        let leased = async {
            loop {
                if let Some(lease) = self.book().lease {
                    return lease;
                }
                if health.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        tokio::time::timeout(self.options.wait, leased).await.map_err(|_| Error::TimedOut {
            operation: Operation::Grant,
            key: String::new(),
            after: self.options.wait,
        })
    }

    /// Forgets a lease that the store does not know (any more).
    fn lose(&self, lease: LeaseId) {
        let mut book = self.book();
        if book.lease == Some(lease) {
            tracing::warn!(%lease, keys = book.owned.len(), "the store has ended our lease, taking another");
            book.lease = None;
        }
        drop(book);
        self.work.notify_one();
    }

    /// Whether nothing remains to be done for a key.
    fn is_done(&self, key: &str) -> bool {
        let book = self.book();
        let written = |owned: &Owned| owned.written.is_some() && owned.written == book.lease;
        !book.doomed.contains(key) && book.owned.get(key).is_none_or(written)
    }

    async fn flush_now(&self, key: &str) -> Result<(), Error> {
        let lease = self.lease().await?;
        let result = self.flush(lease).await;
        self.report(result.as_ref().map(|_| ()), false);
        if result.is_err() {
            self.work.notify_one();
        }
        // Somebody else's key may be what failed.
        if self.is_done(key) { Ok(()) } else { result }
    }

    /// Writes and deletes all that is pending, in as few transactions as it takes. A key that the store refuses does
    /// not keep the others from being written.
    async fn flush(&self, lease: LeaseId) -> Result<(), Error> {
        let _pen = self.pen.lock().await;
        // It may have been replaced while we waited.
        let lease = self.book().lease.unwrap_or(lease);
        let (mut refused, mut steps, mut first) = (BTreeSet::new(), MAX_STEPS, Ok(()));
        loop {
            let (txn, keys) = self.next_page(lease, &refused, steps);
            if txn.changes.is_empty() {
                return first;
            }
            match self.backend.commit(txn).await {
                Ok(_) => self.note(lease, keys),
                Err(error @ Error::LeaseNotFound { .. }) => {
                    self.lose(lease);
                    return Err(error);
                }
                Err(error) if error.is_retryable() => return Err(error),
                Err(_) if keys.len() > 1 => steps = 1,
                Err(error) => {
                    refused.extend(keys.into_iter().map(|(key, _)| key));
                    first = first.and(Err(error));
                }
            }
        }
    }

    /// As much of what is pending as goes into one transaction, with the values that are in it.
    fn next_page(&self, lease: LeaseId, refused: &BTreeSet<String>, steps: usize) -> (Txn, Page) {
        let book = self.book();
        let (mut txn, mut keys, mut bytes) = (Txn::new(), Page::new(), 0);
        let gone = book.doomed.iter().map(|key| (key, None));
        let guarded = |key: &str| self.options.guarded.iter().any(|prefix| key.starts_with(prefix));
        let stale = book.owned.iter().filter(|(_, owned)| owned.written != Some(lease));
        let stale = stale.filter(|(key, _)| book.vouched == Some(lease) || !guarded(key));
        let fresh = stale.map(|(key, owned)| (key, Some(&owned.value)));
        for (key, value) in gone.chain(fresh).filter(|(key, _)| !refused.contains(*key)) {
            bytes += key.len() + value.map_or(0, Vec::len);
            if keys.len() == steps || (bytes > MAX_BYTES && !keys.is_empty()) {
                break;
            }
            txn = match value {
                Some(value) => txn.put(key, value.clone(), Some(lease)),
                None => txn.delete(key),
            };
            keys.push((key.clone(), value.cloned()));
        }
        (txn, keys)
    }

    fn note(&self, lease: LeaseId, keys: Page) {
        let mut book = self.book();
        for (key, value) in keys {
            match value {
                // Asked for again meanwhile: then it is owned, and must be written once more.
                None => drop(book.doomed.remove(&key)),
                Some(value) => {
                    if let Some(owned) = book.owned.get_mut(&key)
                        && owned.value == value
                    {
                        owned.written = Some(lease);
                    }
                }
            }
        }
    }

    async fn commit_owning(&self, mut txn: Txn, keys: &[(String, Vec<u8>)]) -> Result<Outcome, Error> {
        let lease = self.lease().await?;
        let _pen = self.pen.lock().await;
        let lease = self.book().lease.unwrap_or(lease);
        for (key, value) in keys {
            txn = txn.put(key, value.clone(), Some(lease));
        }
        let result = self.backend.commit(txn).await;
        match &result {
            Ok(Outcome::Committed { .. }) => {
                let mut book = self.book();
                for (key, value) in keys {
                    book.doomed.remove(key);
                    book.owned.insert(key.clone(), Owned { value: value.clone(), written: Some(lease) });
                }
            }
            Ok(Outcome::Refused { .. }) => {}
            Err(Error::LeaseNotFound { .. }) => self.lose(lease),
            // It may have happened: the keys must not stay without an owner.
            Err(error) if error.is_retryable() => {
                let mut book = self.book();
                for (key, _) in keys {
                    if !book.owned.contains_key(key) {
                        book.doomed.insert(key.clone());
                    }
                }
                self.work.notify_one();
            }
            Err(_) => {}
        }
        self.report(result.as_ref().map(|_| ()), false);
        result
    }

    /// Looks whether the owned keys are as they should be; marks those that are not.
    async fn check(&self) -> Result<(), Error> {
        let keys: Vec<String> = self.book().owned.keys().cloned().collect();
        for key in keys {
            let entry = self.backend.get(&key).await?;
            let mut book = self.book();
            let lease = book.lease;
            if let Some(owned) = book.owned.get_mut(&key)
                && owned.written.is_some()
                && entry.is_none_or(|entry| entry.value != owned.value || entry.lease != lease)
            {
                tracing::warn!(key, "somebody changed a key of ours, writing it again");
                owned.written = None;
            }
        }
        Ok(())
    }

    async fn round(&self, next_check: &mut Instant) -> Result<(), Error> {
        let held = self.book().lease;
        let lease = match held {
            Some(lease) => match self.backend.keep_alive(lease).await {
                Ok(()) => lease,
                Err(error) => {
                    if matches!(error, Error::LeaseNotFound { .. }) {
                        self.lose(lease);
                    }
                    return Err(error);
                }
            },
            None => {
                let lease = self.backend.grant(self.options.ttl).await?.id;
                self.book().lease = Some(lease);
                lease
            }
        };
        self.report(Ok(()), true);
        let doubted = std::mem::take(&mut self.book().doubted);
        if doubted || Instant::now() >= *next_check {
            if let Err(error) = self.check().await {
                self.book().doubted |= doubted;
                return Err(error);
            }
            *next_check = Instant::now() + self.options.check_every;
        }
        self.flush(lease).await
    }
}

/// Keeps the lease alive and catches up with what is pending.
async fn tend(inner: Arc<Inner>) {
    let mut next_check = Instant::now() + inner.options.check_every;
    loop {
        let result = inner.round(&mut next_check).await;
        inner.report(result.as_ref().map(|_| ()), result.is_ok());
        let calm = inner.options.ttl / 3;
        let until_check = next_check.saturating_duration_since(Instant::now());
        match &result {
            // A word that comes while we work is not lost: the permit is kept.
            Ok(()) => drop(tokio::time::timeout(calm.min(until_check), inner.work.notified()).await),
            // A lost lease is replaced soon.
            Err(Error::LeaseNotFound { .. }) => tokio::time::sleep(inner.options.retry / 10).await,
            Err(error) if error.is_retryable() => {
                tracing::debug!(error = error.chain(), "the session waits for the store");
                tokio::time::sleep(inner.options.retry.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            }
            Err(error) => {
                tracing::warn!(error = error.chain(), "the store refuses what the session asks for");
                let pause = (inner.options.retry * REFUSED).min(calm);
                drop(tokio::time::timeout(pause, inner.work.notified()).await);
            }
        }
    }
}

#[cfg(test)]
mod tests;
