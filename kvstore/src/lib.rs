//! The store behind everything that outlives a process or is shared between nodes: one trait, two backends (a file of
//! this node; etcd for a cluster), and on top of any backend list+watch, a session and the allocation of numbers.
//! It moves bytes under keys and knows neither identities nor endpoints.
//!
//! | module | owns |
//! |---|---|
//! | `config` | `--kvstore` and `--kvstore-opt` -> [`Config`] |
//! | `embedded` | the file: crash-safe, one process, group commit |
//! | `etcd` | the cluster: failover, time-outs, TLS, users |
//! | `memory` | for tests (feature `testing`) |
//! | `watch` | list + watch without gaps: [`watch::follow`] |
//! | `session` | keys that live as long as this node does: [`session::Session`] |
//! | `allocator` | numbers for keys, agreed between nodes: [`allocator::Allocator`] |
//! | `keys` | the whole key layout |

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

pub mod allocator;
pub mod config;
pub mod embedded;
mod error;
pub mod etcd;
mod key_locks;
pub mod keys;
mod local;
mod lock;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub mod session;
mod txn;
pub mod watch;

pub use config::{Config, ConfigError, EtcdConfig};
pub use error::{Cause, Error, Operation};
pub use lock::Lock;
pub use txn::{Change, Condition, MAX_BYTES, MAX_KEY, MAX_STEPS, Outcome, Txn};

/// A point in the store's history: every change of any key makes a higher one. The first change is at least 1.
pub type Revision = u64;

/// The name of a lease, made by the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({:x})", self.0)
    }
}

/// A granted lease. Keys put with it vanish when it is revoked, or when it was not kept alive for `ttl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    /// What the store granted, which may be more than what was asked for.
    pub ttl: Duration,
}

/// One key as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    /// Last written at.
    pub revision: Revision,
    /// First written at, since it was last absent.
    pub created: Revision,
    pub lease: Option<LeaseId>,
}

/// All keys with one prefix, in key order, as they stood together at `revision`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub entries: Vec<Entry>,
    pub revision: Revision,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Put(Entry),
    Delete { key: String, revision: Revision },
}

impl Event {
    pub fn key(&self) -> &str {
        match self {
            Event::Put(entry) => &entry.key,
            Event::Delete { key, .. } => key,
        }
    }

    pub fn revision(&self) -> Revision {
        match self {
            Event::Put(entry) => entry.revision,
            Event::Delete { revision, .. } => *revision,
        }
    }
}

/// Events in batches, in the order of their revisions; the changes of one revision are never split over two batches.
/// It ends with an error, and after an error.
pub type Events = BoxStream<'static, Result<Vec<Event>, Error>>;

/// How a write ended that was to happen only if the key was in a certain state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Done, at this revision.
    Done(Revision),
    /// Not done: this is what was there instead.
    Conflict(Option<Entry>),
}

/// How the store is, in words for `status` and in a bit for decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Reads and writes work now.
    pub healthy: bool,
    /// One line: kind, place, how many servers answer, quorum, or what is wrong.
    pub text: String,
    /// The store's revision, if it could be asked.
    pub revision: Option<Revision>,
}

/// A key-value store with revisions, watches, leases and locks. All methods return within the backend's time-out (for
/// each thousand entries of a list); after [`Error::Unavailable`] or [`Error::TimedOut`] it is unknown whether a write happened.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug + 'static {
    /// Reads one key.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error>;

    /// Reads all keys that start with `prefix`.
    async fn list(&self, prefix: &str) -> Result<Listing, Error>;

    /// Makes all changes of a transaction if all its conditions hold. They are durable when this returns.
    async fn commit(&self, txn: Txn) -> Result<Outcome, Error>;

    /// Follows the changes of all keys that start with `prefix`, beginning with those of revision `from`. The error
    /// [`Error::Compacted`] (at once, or as the stream's last item) says that part of that history is gone.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Events, Error>;

    /// Asks for a lease that lives at least `ttl` without [`keep_alive`](Backend::keep_alive).
    async fn grant(&self, ttl: Duration) -> Result<Lease, Error>;

    /// Lets the lease live another full term.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error>;

    /// Ends the lease and deletes its keys. A lease that is already gone is no error.
    async fn revoke(&self, lease: LeaseId) -> Result<(), Error>;

    /// Takes the lock of this name, waiting at most `wait` for others to release it. Where the store is shared, the lock
    /// is a leased key under `name`, and [`Lock::condition`] lets a transaction insist on still holding it.
    async fn lock(&self, name: &str, wait: Duration) -> Result<Lock, Error>;

    /// Asks the store how it is. Never fails: what fails is in the text.
    async fn status(&self) -> Status;

    /// Writes a key, whatever was there.
    async fn put(&self, key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> Result<Revision, Error> {
        match self.commit(Txn::new().put(key, value, lease)).await? {
            Outcome::Committed { revision, .. } => Ok(revision),
            Outcome::Refused { .. } => Ok(0), // no condition, no refusal
        }
    }

    /// Writes a key that must not exist yet.
    async fn create_only(&self, key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> Result<Attempt, Error> {
        let absent = Condition::Absent { key: key.to_owned() };
        Ok(attempt(self.commit(Txn::new().when(absent).put(key, value, lease)).await?))
    }

    /// Writes a key that must have been written last at `expected`; 0 means that it must not exist.
    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Revision,
        value: Vec<u8>,
        lease: Option<LeaseId>,
    ) -> Result<Attempt, Error> {
        Ok(attempt(self.commit(Txn::new().when(at(key, expected)).put(key, value, lease)).await?))
    }

    /// Deletes a key; false if there was none.
    async fn delete(&self, key: &str) -> Result<bool, Error> {
        Ok(deleted(self.commit(Txn::new().delete(key)).await?) > 0)
    }

    /// Deletes a key that must have been written last at `expected`.
    async fn compare_and_delete(&self, key: &str, expected: Revision) -> Result<Attempt, Error> {
        Ok(attempt(self.commit(Txn::new().when(at(key, expected)).delete(key)).await?))
    }

    /// Deletes all keys that start with `prefix` and returns how many those were.
    async fn delete_prefix(&self, prefix: &str) -> Result<u64, Error> {
        Ok(deleted(self.commit(Txn::new().delete_prefix(prefix)).await?))
    }
}

fn at(key: &str, expected: Revision) -> Condition {
    match expected {
        0 => Condition::Absent { key: key.to_owned() },
        revision => Condition::Revision { key: key.to_owned(), revision },
    }
}

fn attempt(outcome: Outcome) -> Attempt {
    match outcome {
        Outcome::Committed { revision, .. } => Attempt::Done(revision),
        Outcome::Refused { mut found } => Attempt::Conflict(found.pop().flatten()),
    }
}

fn deleted(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Committed { deleted, .. } => deleted,
        Outcome::Refused { .. } => 0, // no condition, no refusal
    }
}

/// A store, and what had to be done to open it.
#[derive(Clone, Debug)]
pub struct Connection {
    pub backend: Arc<dyn Backend>,
    pub opened: Opened,
}

/// In what state a store was found; everything but `Ready` is worth a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    Ready,
    /// The file was not readable as a store; it was renamed, whole, and an empty one begun.
    SetAside {
        moved_to: PathBuf,
        reason: String,
    },
}

/// Opens the store that the configuration names. An etcd need not answer yet: its calls fail until it does.
pub async fn connect(config: Config) -> Result<Connection, Error> {
    match config {
        Config::Embedded { path } => embedded::open(&path).await,
        Config::Etcd(config) => Ok(Connection { backend: Arc::new(etcd::Etcd::new(config)?), opened: Opened::Ready }),
        #[cfg(any(test, feature = "testing"))]
        Config::Memory => Ok(Connection { backend: memory::open().0, opened: Opened::Ready }),
    }
}
