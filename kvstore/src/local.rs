//! A store inside this process: transactions, watches, leases and locks over any kind of tables. What the tables are
//! made of, and how a write becomes durable, is theirs (`embedded`, `memory`).
//!
//! There is one writer at a time. It applies a batch of works in order, lets the tables keep the result as a whole, and
//! only then tells the watchers and answers the callers.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::error::Ended;
use crate::key_locks::KeyLocks;
use crate::{
    Backend, Change, Entry, Error, Event, Events, Lease, LeaseId, Listing, Lock, Operation, Outcome, Revision, Status,
    Txn,
};

mod history;
mod leases;

pub(crate) use history::History;
use leases::Leases;

/// Why tables did not do something.
#[derive(Debug)]
pub(crate) enum Fault {
    /// They cannot be reached at present.
    #[cfg_attr(not(any(test, feature = "testing")), allow(dead_code, reason = "a file is always in reach"))]
    Away(crate::Cause),
    /// Their medium failed.
    Medium(crate::Cause),
}

impl Fault {
    pub(crate) fn medium(cause: impl std::error::Error + Send + Sync + 'static) -> Fault {
        Fault::Medium(Arc::new(cause))
    }

    fn error(&self, operation: Operation, key: &str) -> Error {
        let key = key.to_owned();
        match self {
            Fault::Away(source) => Error::Unavailable { operation, key, source: source.clone() },
            Fault::Medium(source) => Error::Storage { operation, key, source: source.clone() },
        }
    }
}

/// What a write sees and changes before it is kept.
pub(crate) trait Draft {
    fn get(&self, key: &str) -> Result<Option<Entry>, Fault>;
    /// All entries below a prefix, at most `limit`, in key order.
    fn below(&self, prefix: &str, limit: usize) -> Result<Vec<Entry>, Fault>;
    /// The keys bound to a lease.
    fn leased(&self, lease: LeaseId) -> Result<Vec<String>, Fault>;
    fn revision(&self) -> Revision;
    fn put(&mut self, entry: &Entry) -> Result<(), Fault>;
    fn remove(&mut self, key: &str) -> Result<(), Fault>;
    fn set_revision(&mut self, revision: Revision) -> Result<(), Fault>;
}

/// Changes a draft; called once for each write.
pub(crate) type Scribble<'a> = &'a mut dyn FnMut(&mut dyn Draft) -> Result<(), Fault>;

/// Where entries are kept.
pub(crate) trait Tables: Send + Sync + fmt::Debug + 'static {
    fn get(&self, key: &str) -> Result<Option<Entry>, Fault>;
    fn list(&self, prefix: &str) -> Result<Listing, Fault>;
    /// Keeps what `scribble` does to the draft, durably and as a whole, or keeps nothing and fails.
    fn write(&self, scribble: Scribble<'_>) -> Result<(), Fault>;
    /// The last revision kept.
    fn revision(&self) -> Result<Revision, Fault>;
    /// One line about them for `status`, and whether they work.
    fn describe(&self) -> (String, bool);
}

/// Something for the writer to do.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Commit(Txn),
    /// Delete the keys of a lease that is being ended.
    End(LeaseId),
}

impl Work {
    fn subject(&self) -> (Operation, String) {
        match self {
            Work::Commit(txn) => (Operation::Commit, txn.subject().to_owned()),
            Work::End(lease) => (Operation::Revoke, lease.to_string()),
        }
    }
}

/// Tables with what every in-process store needs around them.
#[derive(Debug)]
pub(crate) struct Local<T> {
    pub(crate) tables: T,
    pub(crate) history: Arc<History>,
    leases: Leases,
    writer: Mutex<()>,
}

impl<T: Tables> Local<T> {
    pub(crate) fn new(tables: T, revision: Revision) -> Local<T> {
        Local { tables, history: Arc::new(History::new(revision)), leases: Leases::default(), writer: Mutex::new(()) }
    }

    /// Does all works in order and answers each. If the tables cannot keep the batch, none of it happened and each
    /// answer says so.
    pub(crate) fn apply(&self, works: &[Work]) -> Vec<Result<Outcome, Error>> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answers = Vec::new();
        let mut batches = Vec::new();
        let kept = self.tables.write(&mut |draft| {
            (answers, batches) = (Vec::new(), Vec::new());
            for work in works {
                let mut events = Vec::new();
                answers.push(self.step(draft, work, &mut events)?);
                if !events.is_empty() {
                    batches.push(events);
                }
            }
            Ok(())
        });
        match kept {
            Ok(()) => {
                self.history.publish(batches);
                for work in works {
                    if let Work::End(lease) = work {
                        self.leases.forget(*lease);
                    }
                }
                answers
            }
            Err(fault) => {
                self.catch_up();
                let answer = |work: &Work| {
                    let (operation, key) = work.subject();
                    Err(fault.error(operation, &key))
                };
                works.iter().map(answer).collect()
            }
        }
    }

    /// After a failed write nobody knows whether it was kept. If it was, watchers must list again.
    fn catch_up(&self) {
        if let Ok(revision) = self.tables.revision()
            && revision != self.history.revision()
        {
            self.history.restart(revision);
        }
    }

    fn step(
        &self,
        draft: &mut dyn Draft,
        work: &Work,
        events: &mut Vec<Event>,
    ) -> Result<Result<Outcome, Error>, Fault> {
        match work {
            Work::Commit(txn) => self.transact(draft, txn, events),
            Work::End(lease) => {
                let revision = draft.revision() + 1;
                for key in draft.leased(*lease)? {
                    remove(draft, key, revision, events)?;
                }
                finish(draft, revision, events).map(Ok)
            }
        }
    }

    fn transact(
        &self,
        draft: &mut dyn Draft,
        txn: &Txn,
        events: &mut Vec<Event>,
    ) -> Result<Result<Outcome, Error>, Fault> {
        for change in &txn.changes {
            if let Change::Put { lease: Some(lease), .. } = change
                && !self.leases.is_alive(*lease)
            {
                return Ok(Err(Error::LeaseNotFound { operation: Operation::Commit, lease: *lease }));
            }
        }
        let mut found = Vec::with_capacity(txn.conditions.len());
        for condition in &txn.conditions {
            found.push(match condition {
                crate::Condition::Empty { prefix } => draft.below(prefix, 1)?.pop(),
                keyed => draft.get(keyed.subject())?,
            });
        }
        if txn.conditions.iter().zip(&found).any(|(condition, entry)| !condition.holds(entry.as_ref())) {
            return Ok(Ok(Outcome::Refused { found }));
        }
        let revision = draft.revision() + 1;
        for change in &txn.changes {
            make(draft, change, revision, events)?;
        }
        finish(draft, revision, events).map(Ok)
    }
}

fn make(draft: &mut dyn Draft, change: &Change, revision: Revision, events: &mut Vec<Event>) -> Result<(), Fault> {
    match change {
        Change::Put { key, value, lease } => {
            let created = draft.get(key)?.map_or(revision, |before| before.created);
            let entry = Entry { key: key.clone(), value: value.clone(), revision, created, lease: *lease };
            draft.put(&entry)?;
            events.push(Event::Put(entry));
        }
        Change::Delete { key } => {
            if draft.get(key)?.is_some() {
                remove(draft, key.clone(), revision, events)?;
            }
        }
        Change::DeletePrefix { prefix } => {
            for entry in draft.below(prefix, usize::MAX)? {
                remove(draft, entry.key, revision, events)?;
            }
        }
    }
    Ok(())
}

fn remove(draft: &mut dyn Draft, key: String, revision: Revision, events: &mut Vec<Event>) -> Result<(), Fault> {
    draft.remove(&key)?;
    events.push(Event::Delete { key, revision });
    Ok(())
}

fn finish(draft: &mut dyn Draft, revision: Revision, events: &[Event]) -> Result<Outcome, Fault> {
    if events.is_empty() {
        return Ok(Outcome::Committed { revision: revision - 1, deleted: 0 });
    }
    draft.set_revision(revision)?;
    let deleted = events.iter().filter(|event| matches!(event, Event::Delete { .. })).count();
    Ok(Outcome::Committed { revision, deleted: deleted as u64 })
}

/// A work and who waits for it.
pub(crate) struct Request {
    pub(crate) work: Work,
    pub(crate) answer: oneshot::Sender<Result<Outcome, Error>>,
}

/// How works reach the one writer.
pub(crate) enum Writer {
    /// In the caller's task.
    #[cfg_attr(not(any(test, feature = "testing")), allow(dead_code, reason = "for stores in memory"))]
    Inline,
    /// In a thread of its own, which batches what is queued; it ends when the sender is gone.
    Thread { requests: Option<mpsc::Sender<Request>>, thread: Option<std::thread::JoinHandle<()>> },
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Writer::Thread { requests, thread } = self {
            requests.take();
            // Waited for, so that the file is closed when the store is gone. A panic in there was answered already.
            if let Some(Err(_)) = thread.take().map(std::thread::JoinHandle::join) {
                tracing::error!("the store's writer thread panicked");
            }
        }
    }
}

/// [`Backend`] over local tables.
pub(crate) struct LocalBackend<T> {
    local: Arc<Local<T>>,
    locks: KeyLocks,
    writer: Arc<Writer>,
    expiry: tokio::task::JoinHandle<()>,
}

impl<T: Tables> fmt::Debug for LocalBackend<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalBackend").field("tables", &self.local.tables).finish_non_exhaustive()
    }
}

impl<T> Drop for LocalBackend<T> {
    fn drop(&mut self) {
        self.expiry.abort();
    }
}

impl<T: Tables> LocalBackend<T> {
    /// Must be called within a tokio runtime: leases expire in a task of it.
    pub(crate) fn new(local: Arc<Local<T>>, writer: Writer) -> LocalBackend<T> {
        let writer = Arc::new(writer);
        let expiry = tokio::spawn(expire(Arc::downgrade(&local), Arc::downgrade(&writer)));
        LocalBackend { local, locks: KeyLocks::default(), writer, expiry }
    }
}

async fn submit<T: Tables>(local: &Local<T>, writer: &Writer, work: Work) -> Result<Outcome, Error> {
    let (operation, key) = work.subject();
    let ended = || Error::Unavailable { operation, key: key.clone(), source: Arc::new(Ended("the writer")) };
    match writer {
        Writer::Inline => local.apply(&[work]).pop().unwrap_or_else(|| Err(ended())),
        Writer::Thread { requests: None, .. } => Err(ended()),
        Writer::Thread { requests: Some(requests), .. } => {
            let (answer, waiting) = oneshot::channel();
            requests.send(Request { work, answer }).await.map_err(|_| ended())?;
            waiting.await.map_err(|_| ended())?
        }
    }
}

/// How long to wait before another attempt to delete the keys of an expired lease.
const EXPIRY_RETRY: Duration = Duration::from_secs(1);

async fn expire<T: Tables>(local: std::sync::Weak<Local<T>>, writer: std::sync::Weak<Writer>) {
    loop {
        let Some((strong, pen)) = local.upgrade().zip(writer.upgrade()) else { return };
        let next = strong.leases.next_deadline();
        let changed = strong.leases.changed();
        for lease in strong.leases.end_expired(EXPIRY_RETRY) {
            if let Err(error) = submit(&strong, &pen, Work::End(lease)).await {
                tracing::warn!(%lease, error = error.chain(), "keys of an expired lease stay for now");
            }
        }
        drop((strong, pen));
        match next {
            Some(deadline) => drop(tokio::time::timeout_at(deadline, changed.notified()).await),
            None => changed.notified().await,
        }
    }
}

#[async_trait]
impl<T: Tables> Backend for LocalBackend<T> {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.local.tables.get(key).map_err(|fault| fault.error(Operation::Get, key))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.local.tables.list(prefix).map_err(|fault| fault.error(Operation::List, prefix))
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        txn.check()?;
        submit(&self.local, &self.writer, Work::Commit(txn)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Events, Error> {
        self.local.tables.revision().map_err(|fault| fault.error(Operation::Watch, prefix))?;
        self.local.history.watch(prefix, from)
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.local.tables.revision().map_err(|fault| fault.error(Operation::Grant, ""))?;
        Ok(self.local.leases.grant(ttl))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.local.tables.revision().map_err(|fault| fault.error(Operation::KeepAlive, &lease.to_string()))?;
        self.local.leases.keep_alive(lease)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        if self.local.leases.end(lease, EXPIRY_RETRY) {
            submit(&self.local, &self.writer, Work::End(lease)).await?;
        }
        Ok(())
    }

    async fn lock(&self, name: &str, wait: Duration) -> Result<Lock, Error> {
        match tokio::time::timeout(wait, self.locks.lock(name)).await {
            Ok(guard) => Ok(Lock::new(name, None, Arc::new(AtomicBool::new(false)), Box::new(guard))),
            Err(_) => Err(Error::LockBusy { name: name.to_owned(), waited: wait }),
        }
    }

    async fn status(&self) -> Status {
        let (text, healthy) = self.local.tables.describe();
        Status { healthy, text, revision: self.local.tables.revision().ok() }
    }
}
