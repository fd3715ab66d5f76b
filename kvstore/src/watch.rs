//! List + watch without gaps: whoever follows a prefix sees every key that is there, every change of it, and every key
//! that went, also across lost connections, compactions and a store that was restored from a backup.
//!
//! ```text
//!   list ──▶ Put of what is new or other, Delete of what is gone ──▶ Synced ──▶ watch from there ──┐
//!    ▲                                                                                             │
//!    └─────────────── Reset ◀── history gone, or the stream cannot be taken up again ◀─────────────┘
//! ```
//!
//! After a short interruption the watch goes on where it stopped. That cannot notice a store which lost writes and was
//! written to since; so a while later, and then now and again, everything is listed and compared.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::{Backend, Entry, Error, Event, Events, Listing, Revision};

/// What a follower learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Contact or history was lost: what is known may be stale until the next `Synced`. Nothing is to be deleted for
    /// this; what went meanwhile comes as `Delete`.
    Reset,
    /// A key was written (or is heard of for the first time).
    Put(Entry),
    /// A key is gone.
    Delete { key: String },
    /// Everything that the store held at this revision has been told.
    Synced { revision: Revision },
}

/// The rhythm of a follower.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pause before the first new attempt after a failure; doubled each time.
    pub first_retry: Duration,
    /// The longest such pause.
    pub last_retry: Duration,
    /// How often everything is compared, whatever happened.
    pub compare_every: Duration,
    /// Everything is also compared within this time (at random, as many nodes reconnect at once) after an interruption.
    pub compare_after: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            first_retry: Duration::from_millis(100),
            last_retry: Duration::from_secs(5),
            compare_every: Duration::from_secs(300),
            compare_after: Duration::from_secs(10),
        }
    }
}

/// Batches that may wait for a slow reader before the follower stops reading the store.
const QUEUE: usize = 16;
/// Most updates in a batch of a listing.
const BATCH: usize = 1024;

/// How far a follower is, for people.
#[derive(Debug)]
pub struct Progress {
    prefix: String,
    revision: AtomicU64,
    in_contact: AtomicBool,
}

impl Progress {
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The newest revision that was told.
    pub fn revision(&self) -> Revision {
        self.revision.load(Ordering::Relaxed)
    }

    /// Whether changes come as they happen.
    pub fn is_in_contact(&self) -> bool {
        self.in_contact.load(Ordering::Relaxed)
    }

    fn note(&self, updates: &[Update], revision: Revision) {
        self.revision.store(revision, Ordering::Relaxed);
        for update in updates {
            match update {
                Update::Reset => self.in_contact.store(false, Ordering::Relaxed),
                Update::Synced { .. } => self.in_contact.store(true, Ordering::Relaxed),
                Update::Put(_) | Update::Delete { .. } => {}
            }
        }
    }
}

/// The updates of one prefix, in batches. Endless: it reconnects by itself until it is dropped.
#[derive(Debug)]
pub struct Feed {
    progress: Arc<Progress>,
    updates: mpsc::Receiver<Vec<Update>>,
    task: tokio::task::JoinHandle<()>,
}

impl Feed {
    /// How far it is, from now on.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// The next updates; never empty. May be cancelled without losing any. `None` only when the runtime shuts down.
    pub async fn next(&mut self) -> Option<Vec<Update>> {
        self.updates.recv().await
    }
}

impl Stream for Feed {
    type Item = Vec<Update>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Vec<Update>>> {
        self.updates.poll_recv(context)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Follows all keys that start with `prefix`. Must be called within a tokio runtime.
pub fn follow(backend: Arc<dyn Backend>, prefix: impl Into<String>, options: Options) -> Feed {
    let (sender, updates) = mpsc::channel(QUEUE);
    let prefix = prefix.into();
    let (revision, in_contact) = (AtomicU64::new(0), AtomicBool::new(false));
    let progress = Arc::new(Progress { prefix: prefix.clone(), revision, in_contact });
    let follower = Follower { backend, prefix, options, sender, known: Known::default(), progress: progress.clone() };
    Feed { progress, updates, task: tokio::spawn(follower.run()) }
}

/// The reader is gone.
struct Unread;

struct Follower {
    backend: Arc<dyn Backend>,
    prefix: String,
    options: Options,
    sender: mpsc::Sender<Vec<Update>>,
    known: Known,
    progress: Arc<Progress>,
}

/// Why watching ended.
enum End {
    /// It is time to compare.
    Compare,
    Failed(Error),
    Unread,
}

impl Follower {
    async fn run(mut self) {
        // Its only end is that nobody reads any more.
        let _unread = self.rounds().await;
    }

    async fn rounds(&mut self) -> Result<(), Unread> {
        let mut failures = 0;
        // Whether the reader must be told that all is well again.
        let mut stale = true;
        let mut listed = false;
        let mut compare_at = Instant::now();
        self.send(vec![Update::Reset]).await?;
        loop {
            let attempt = if listed && Instant::now() < compare_at { Ok(()) } else { self.compare(&mut stale).await? };
            let attempt = match attempt {
                Ok(()) => {
                    if !listed || Instant::now() >= compare_at {
                        compare_at = Instant::now() + self.options.compare_every;
                    }
                    listed = true;
                    self.backend.watch(&self.prefix, self.known.revision + 1).await
                }
                Err(error) => Err(error),
            };
            let end = match attempt {
                Ok(events) => {
                    failures = 0;
                    if stale {
                        stale = false;
                        self.send(vec![Update::Synced { revision: self.known.revision }]).await?;
                    }
                    self.watch(events, compare_at).await
                }
                Err(error) => End::Failed(error),
            };
            match end {
                End::Compare => {}
                End::Unread => return Err(Unread),
                End::Failed(error) => {
                    tracing::debug!(prefix = self.prefix, error = error.chain(), "following is interrupted");
                    if !stale {
                        stale = true;
                        self.send(vec![Update::Reset]).await?;
                    }
                    if matches!(error, Error::Compacted { .. }) {
                        listed = false;
                    } else {
                        let soon = self.options.compare_after.mul_f64(rand::random());
                        compare_at = compare_at.min(Instant::now() + soon);
                    }
                    self.pause(failures).await?;
                    failures += 1;
                }
            }
        }
    }

    async fn pause(&self, failures: u32) -> Result<(), Unread> {
        let doubled = self.options.first_retry.saturating_mul(1 << failures.min(16));
        let pause = doubled.min(self.options.last_retry).mul_f64(0.5 + rand::random::<f64>() / 2.0);
        match tokio::time::timeout(pause, self.sender.closed()).await {
            Ok(()) => Err(Unread),
            Err(_) => Ok(()),
        }
    }

    /// Lists, and tells the differences to what is known.
    async fn compare(&mut self, stale: &mut bool) -> Result<Result<(), Error>, Unread> {
        let listing = match self.backend.list(&self.prefix).await {
            Ok(listing) => listing,
            Err(error) => return Ok(Err(error)),
        };
        let mut updates = self.known.sweep(listing);
        let revision = self.known.revision;
        if std::mem::take(stale) {
            updates.push(Update::Synced { revision });
        }
        let mut rest = updates.into_iter().peekable();
        while rest.peek().is_some() {
            self.send(rest.by_ref().take(BATCH).collect()).await?;
        }
        Ok(Ok(()))
    }

    async fn watch(&mut self, mut events: Events, until: Instant) -> End {
        loop {
            match tokio::time::timeout_at(until, events.next()).await {
                Err(_) => return End::Compare,
                Ok(None) => return End::Failed(self.ended()),
                Ok(Some(Err(error))) => return End::Failed(error),
                Ok(Some(Ok(batch))) => {
                    let updates: Vec<Update> = batch.into_iter().filter_map(|event| self.known.take(event)).collect();
                    if !updates.is_empty() && self.send(updates).await.is_err() {
                        return End::Unread;
                    }
                }
            }
        }
    }

    fn ended(&self) -> Error {
        Error::Unavailable {
            operation: crate::Operation::Watch,
            key: self.prefix.clone(),
            source: Arc::new(crate::error::Ended("the stream")),
        }
    }

    async fn send(&self, updates: Vec<Update>) -> Result<(), Unread> {
        self.progress.note(&updates, self.known.revision);
        self.sender.send(updates).await.map_err(|_| Unread)
    }
}

/// What the reader has been told.
#[derive(Default)]
struct Known {
    /// Of each key, the revision and a fingerprint of the value: a store restored from a backup may use a revision again.
    keys: BTreeMap<String, (Revision, u64)>,
    /// Everything up to here has been told.
    revision: Revision,
}

fn fingerprint(entry: &Entry) -> (Revision, u64) {
    let mut hasher = DefaultHasher::new();
    entry.value.hash(&mut hasher);
    (entry.revision, hasher.finish())
}

impl Known {
    /// Takes over a listing; returns what it changes.
    fn sweep(&mut self, listing: Listing) -> Vec<Update> {
        let mut before = std::mem::take(&mut self.keys);
        let mut updates = Vec::new();
        for entry in listing.entries {
            let print = fingerprint(&entry);
            if before.remove(&entry.key) != Some(print) {
                self.keys.insert(entry.key.clone(), print);
                updates.push(Update::Put(entry));
            } else {
                self.keys.insert(entry.key, print);
            }
        }
        updates.extend(before.into_keys().map(|key| Update::Delete { key }));
        self.revision = listing.revision;
        updates
    }

    fn take(&mut self, event: Event) -> Option<Update> {
        self.revision = self.revision.max(event.revision());
        match event {
            Event::Put(entry) => {
                self.keys.insert(entry.key.clone(), fingerprint(&entry));
                Some(Update::Put(entry))
            }
            // A key that came and went unseen between two listings was never told.
            Event::Delete { key, .. } => self.keys.remove(&key).map(|_| Update::Delete { key }),
        }
    }
}

#[cfg(test)]
mod tests;
