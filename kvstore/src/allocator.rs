//! Small numbers for keys, agreed between all nodes: two nodes that ask for the same key get the same number, and no
//! number stands for two keys. The keys in the store are Cilium's:
//!
//! ```text
//! <base>/id/<number>            = key       "master": no lease, stays while any node uses it
//! <base>/value/<key>/<node>     = number    "slave": under the node's lease, says that this node uses it
//! ```
//!
//! Each step is one transaction whose conditions are all that a lock would protect, so that there is no moment at which
//! a node can die and leave something half-done, and no lock to lose:
//!
//! | a node … | happens only if |
//! |---|---|
//! | joins a number in use | the master is as it was read |
//! | takes up an unused master | it is as it was read, and the key has no slave |
//! | makes a new master | the number is free, and the key has no slave |
//! | deletes an unused master (`gc`) | it is as it was read two passes ago, and nobody can have joined since |
//!
//! What one node knows of all masters (its cache) only suggests what to try. A `/` in a key is escaped in the path of its
//! slaves (see `keys`), so that no key's slaves are below another's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::key_locks::KeyLocks;
use crate::session::Session;
use crate::{Backend, Condition, Entry, Error, Operation, Outcome, Txn, keys};

mod follow;
mod gc;
mod ids;

pub use gc::Collected;
use ids::Ids;

/// How a new number is chosen among the free ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// At random: nodes rarely try the same, and a number that was freed is not soon used again.
    Random,
    /// The lowest.
    Lowest,
}

/// What is allocated, and by whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the keys are, without a trailing `/`.
    pub base: String,
    /// This node's name among the slaves; unique in the cluster.
    pub node: String,
    pub range: RangeInclusive<u32>,
    pub choice: Choice,
    /// How long [`Allocator::allocate`] waits until the masters have been listed once.
    pub wait: Duration,
    /// How long a master must have been without slaves before it is deleted.
    pub grace: Duration,
    /// What an earlier life of this node knew: used for a key only as long as the masters could never be listed.
    pub remembered: BTreeMap<String, u32>,
    pub follow: crate::watch::Options,
}

impl Options {
    /// The usual: random numbers, five seconds of waiting, a minute's grace.
    pub fn new(base: &str, node: &str, range: RangeInclusive<u32>) -> Options {
        Options {
            base: base.to_owned(),
            node: node.to_owned(),
            range,
            choice: Choice::Random,
            wait: Duration::from_secs(5),
            grace: Duration::from_secs(60),
            remembered: BTreeMap::new(),
            follow: crate::watch::Options::default(),
        }
    }

    fn masters(&self) -> String {
        format!("{}/id/", self.base)
    }

    fn slaves(&self) -> String {
        format!("{}/value/", self.base)
    }

    fn master(&self, id: u32) -> String {
        format!("{}/id/{id}", self.base)
    }

    fn slaves_of(&self, key: &str) -> String {
        format!("{}/value/{}/", self.base, keys::escape(key))
    }

    fn slave(&self, key: &str) -> String {
        self.slaves_of(key) + &keys::escape(&self.node)
    }
}

/// A number for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    pub id: u32,
    /// The store is away: the number is the one last known for this key, and this node's use of it is told to the others
    /// when the store is back. Should the number then stand for something else, [`IdEvent::Conflict`] tells.
    pub provisional: bool,
}

/// What giving back a key did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Others on this node still use it.
    Kept,
    /// That was this node's last use.
    Last,
    /// It was not in use.
    Unknown,
}

/// What happens to the numbers, on any node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdEvent {
    /// Contact was lost; what is known may be stale until `Synced`.
    Reset,
    /// The number stands for this key.
    Put { id: u32, key: String },
    /// The number stands for nothing any more.
    Delete { id: u32, key: String },
    /// All numbers have been told.
    Synced,
    /// The number that this node used for the key stands for another one now (the store forgot us, or was restored from
    /// a backup). The key is no longer allocated here: every user must allocate it again.
    Conflict { id: u32, key: String },
}

/// A node's view on one range of numbers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Allocator {
    inner: Arc<Inner>,
    progress: Arc<crate::watch::Progress>,
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
    session: Session,
    options: Options,
    turns: KeyLocks,
    ids: Mutex<Ids>,
    /// Whether the masters have been listed once.
    listed: watch::Sender<bool>,
    /// Whether they are being followed now.
    in_contact: AtomicBool,
    candidates: tokio::sync::Mutex<gc::Candidates>,
}

/// Attempts against other nodes before giving up, and the pause after the first (doubled each time).
const ATTEMPTS: u32 = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// Free numbers tried in one attempt, each of which another node may have taken a moment ago.
const TRIES: u32 = 64;
/// Slaves that contradict their master and are cleared away in one attempt.
const CLEARED: usize = 32;

/// A number on its way to whoever asked; given back if that one is gone.
struct Handover {
    inner: Arc<Inner>,
    key: Option<String>,
}

impl Drop for Handover {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let inner = self.inner.clone();
            tokio::spawn(async move { inner.release(&key).await });
        }
    }
}

impl Allocator {
    /// Begins to follow the masters; the store need not answer yet. Must be called within a tokio runtime.
    pub fn start(backend: Arc<dyn Backend>, session: Session, options: Options) -> Allocator {
        let inner = Arc::new(Inner {
            backend,
            session,
            options,
            turns: KeyLocks::default(),
            ids: Mutex::default(),
            listed: watch::channel(false).0,
            in_contact: AtomicBool::new(false),
            candidates: tokio::sync::Mutex::default(),
        });
        let feed = crate::watch::follow(inner.backend.clone(), inner.options.masters(), inner.options.follow);
        let progress = feed.progress();
        let task = tokio::spawn(follow::follow(inner.clone(), feed));
        Allocator { inner, progress, _task: Arc::new(Task(task)) }
    }

    /// The number of a key, which counts as one more use on this node. If the key has none in the whole cluster, a new
    /// one is chosen: `preferred` if that is free. A caller that stops waiting has not allocated anything.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if no number is free; [`Error::Unavailable`] or [`Error::TimedOut`] if the store does not answer
    /// and no number is known for the key; [`Error::Contended`] if other nodes came first too often.
    pub async fn allocate(&self, key: &str, preferred: Option<u32>) -> Result<Allocation, Error> {
        let (inner, key) = (self.inner.clone(), key.to_owned());
        let (hand, taken) = oneshot::channel();
        tokio::spawn(async move {
            let result = inner.allocate(&key, preferred).await;
            let handover = result.map(|allocation| (allocation, Handover { inner: inner.clone(), key: Some(key) }));
            // If nobody takes it, it comes back and is dropped, which releases it.
            drop(hand.send(handover));
        });
        let ended = |_| Error::Unavailable {
            operation: Operation::Commit,
            key: self.inner.options.base.clone(),
            source: Arc::new(crate::error::Ended("the allocator")),
        };
        let (allocation, mut handover) = taken.await.map_err(ended)??;
        handover.key = None;
        Ok(allocation)
    }

    /// Gives back one use of a key. The store is told in the background if it does not answer now.
    pub async fn release(&self, key: &str) -> Release {
        let (inner, key) = (self.inner.clone(), key.to_owned());
        // In a task of its own: half a release would keep the number for ever.
        tokio::spawn(async move { inner.release(&key).await }).await.unwrap_or(Release::Unknown)
    }

    /// The number of a key as last heard from the store; the lowest if there are several.
    pub fn id_of(&self, key: &str) -> Option<u32> {
        let ids = self.inner.ids();
        ids.used(key).or_else(|| ids.masters_of(key).next())
    }

    /// How far the following of the masters is.
    pub fn progress(&self) -> Arc<crate::watch::Progress> {
        self.progress.clone()
    }

    /// What a number stands for, as last heard from the store.
    pub fn key_of(&self, id: u32) -> Option<String> {
        self.inner.ids().key_of(id).map(str::to_owned)
    }

    /// All numbers that are known, with their keys.
    pub fn list(&self) -> Vec<(u32, String)> {
        self.inner.ids().list()
    }

    /// What this node uses: key, number, number of uses.
    pub fn in_use(&self) -> Vec<(String, u32, u32)> {
        self.inner.ids().in_use()
    }

    /// All that is known now, and then every change, in batches. The reader must keep up: what it does not take is kept
    /// for it.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Vec<IdEvent>> {
        self.inner.ids().subscribe(*self.inner.listed.borrow())
    }

    /// Deletes masters that no node has used since the last pass, and at least for the grace time. To be called now and
    /// then, by one node or by several.
    pub async fn gc(&self) -> Result<Collected, Error> {
        gc::pass(&self.inner).await
    }
}

impl Inner {
    fn ids(&self) -> MutexGuard<'_, Ids> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn allocate(&self, key: &str, preferred: Option<u32>) -> Result<Allocation, Error> {
        if key.is_empty() {
            let reason = "an empty key has no number";
            return Err(Error::Invalid { operation: Operation::Commit, key: String::new(), reason });
        }
        let _turn = self.turns.lock(key).await;
        if let Some(id) = self.ids().use_again(key) {
            return Ok(Allocation { id, provisional: false });
        }
        // Without contact a known key need not wait for the store to not answer. At start it may be about to.
        if !self.in_contact.load(Ordering::Relaxed)
            && *self.listed.borrow()
            && let Some(id) = self.known(key)
        {
            return self.promise(key, id);
        }
        match (self.compete(key, preferred).await, self.known(key)) {
            (Ok(id), _) => {
                self.ids().use_first(key, id);
                Ok(Allocation { id, provisional: false })
            }
            (Err(error), Some(id)) if error.is_unavailable() => self.promise(key, id),
            (Err(error), _) => Err(error),
        }
    }

    /// The number that a key had when the store was last heard of.
    fn known(&self, key: &str) -> Option<u32> {
        let in_range = |id: &u32| self.options.range.contains(id);
        let remembered = || self.options.remembered.get(key).copied().filter(|_| !*self.listed.borrow());
        self.ids().masters_of(key).find(in_range).or_else(remembered).filter(in_range)
    }

    /// Uses a number without asking the store, which learns of it later.
    fn promise(&self, key: &str, id: u32) -> Result<Allocation, Error> {
        self.session.publish_later(&self.options.slave(key), id.to_string())?;
        self.ids().use_first(key, id);
        tracing::info!(id, key, "the store is away, using the number last known");
        Ok(Allocation { id, provisional: true })
    }

    /// Tries until an attempt is not crossed by other nodes.
    async fn compete(&self, key: &str, preferred: Option<u32>) -> Result<u32, Error> {
        let mut listed = self.listed.subscribe();
        // A master that is not known yet would be passed over for a new number.
        if tokio::time::timeout(self.options.wait, listed.wait_for(|listed| *listed)).await.is_err() {
            let (operation, key) = (Operation::List, self.options.masters());
            return Err(Error::TimedOut { operation, key, after: self.options.wait });
        }
        for n in 0..ATTEMPTS {
            match self.attempt(key, preferred).await {
                Ok(Some(id)) => return Ok(id),
                Ok(None) | Err(Error::LeaseNotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            let pause = FIRST_PAUSE.saturating_mul(1 << n).min(LAST_PAUSE);
            tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        }
        Err(Error::Contended { base: self.options.base.clone(), key: key.to_owned(), attempts: ATTEMPTS })
    }

    async fn attempt(&self, key: &str, preferred: Option<u32>) -> Result<Option<u32>, Error> {
        let slaves = self.backend.list(&self.options.slaves_of(key)).await?.entries;
        let used: BTreeSet<u32> = slaves.iter().filter_map(|slave| self.number(&slave.value)).collect();
        for id in used {
            match self.join(key, id).await? {
                Joined::Yes => return Ok(Some(id)),
                Joined::Crossed => return Ok(None),
                Joined::OtherKey => {}
            }
        }
        let unused = self.unused(key, &slaves);
        let known: Vec<u32> = self.ids().masters_of(key).filter(|id| self.options.range.contains(id)).collect();
        for id in known {
            match self.backend.get(&self.options.master(id)).await? {
                Some(master) if master.value == key.as_bytes() => {
                    let txn = unused.clone().when(unchanged(&master));
                    return Ok(self.commit(txn, key, id).await?.is_none().then_some(id));
                }
                // The cache is behind.
                _ => self.ids().forget(id),
            }
        }
        self.create(key, preferred, &unused).await
    }

    fn number(&self, text: &[u8]) -> Option<u32> {
        ids::number(std::str::from_utf8(text).ok()?).filter(|id| self.options.range.contains(id))
    }

    /// Joins the users of a number.
    async fn join(&self, key: &str, id: u32) -> Result<Joined, Error> {
        let path = self.options.master(id);
        let txn = match self.backend.get(&path).await? {
            Some(master) if master.value == key.as_bytes() => Txn::new().when(unchanged(&master)),
            Some(_) => return Ok(Joined::OtherKey),
            // Somebody deleted it although it is in use.
            None => Txn::new().when(Condition::Absent { key: path.clone() }).put(path, key, None),
        };
        Ok(if self.commit(txn, key, id).await?.is_none() { Joined::Yes } else { Joined::Crossed })
    }

    /// The condition that nobody uses the key. Slaves that contradict their master do not count, and are deleted.
    fn unused(&self, key: &str, contradicting: &[Entry]) -> Txn {
        if contradicting.is_empty() {
            return Txn::new().when(Condition::Empty { prefix: self.options.slaves_of(key) });
        }
        let own = self.options.slave(key);
        contradicting.iter().take(CLEARED).fold(Txn::new(), |txn, slave| {
            let txn = txn.when(unchanged(slave));
            // Our own is overwritten.
            if slave.key == own { txn } else { txn.delete(&slave.key) }
        })
    }

    async fn create(&self, key: &str, preferred: Option<u32>, unused: &Txn) -> Result<Option<u32>, Error> {
        let mut preferred = preferred.filter(|id| self.options.range.contains(id));
        for _ in 0..TRIES {
            let wish = preferred.take();
            let free = self.ids().free(&self.options.range, self.options.choice, wish);
            let Some(id) = free else {
                let (first, last) = (*self.options.range.start(), *self.options.range.end());
                return Err(Error::Exhausted { base: self.options.base.clone(), first, last });
            };
            let path = self.options.master(id);
            let mut txn = Txn::new().when(Condition::Absent { key: path.clone() }).put(path, key, None);
            txn.conditions.extend(unused.conditions.iter().cloned());
            txn.changes.extend(unused.changes.iter().cloned());
            let Some(found) = self.commit(txn, key, id).await? else { return Ok(Some(id)) };
            match found.into_iter().next().flatten() {
                // Taken by a key that the feed has not told us of yet.
                Some(master) => self.ids().put(id, String::from_utf8_lossy(&master.value).into_owned()),
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Commits a transaction together with our slave. Returns what was found if a condition did not hold.
    async fn commit(&self, txn: Txn, key: &str, id: u32) -> Result<Option<Vec<Option<Entry>>>, Error> {
        let slave = (self.options.slave(key), id.to_string().into_bytes());
        match self.session.commit_owning(txn, &[slave]).await? {
            Outcome::Committed { .. } => {
                self.ids().put(id, key.to_owned());
                Ok(None)
            }
            Outcome::Refused { found } => Ok(Some(found)),
        }
    }

    async fn release(&self, key: &str) -> Release {
        let _turn = self.turns.lock(key).await;
        let release = self.ids().release(key);
        if release == Release::Last
            && let Err(error) = self.session.withdraw(&self.options.slave(key)).await
        {
            tracing::debug!(key, error = error.chain(), "the store hears later that a key is unused here");
        }
        release
    }
}

enum Joined {
    Yes,
    /// The number stands for another key: the slave that led here is wrong.
    OtherKey,
    /// Something changed meanwhile.
    Crossed,
}

fn unchanged(entry: &Entry) -> Condition {
    Condition::Revision { key: entry.key.clone(), revision: entry.revision }
}

#[cfg(test)]
mod tests;
