//! The recent changes of an in-process store, and the streams that follow them. A follower that falls behind what is
//! kept is told so and lists again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use tokio::sync::watch;

use crate::error::Ended;
use crate::{Error, Event, Events, Operation, Revision};

/// Most changes kept, and most bytes of keys and values in them: enough for a follower that pauses, little enough to
/// forget.
const MAX_EVENTS: usize = 8_192;
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The last changes, by revision.
#[derive(Debug)]
pub(crate) struct History {
    past: Mutex<Past>,
    // Tells followers that there is news; the number is the epoch, see `interrupt`.
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct Past {
    /// Each of one revision, oldest first.
    batches: VecDeque<Arc<Vec<Event>>>,
    events: usize,
    bytes: usize,
    /// The first revision from which nothing is missing.
    floor: Revision,
    last: Revision,
}

impl History {
    /// Begins after `revision`.
    pub(crate) fn new(revision: Revision) -> History {
        let past = Past { batches: VecDeque::new(), events: 0, bytes: 0, floor: revision + 1, last: revision };
        History { past: Mutex::new(past), news: watch::channel(0).0 }
    }

    /// The last revision published.
    pub(crate) fn revision(&self) -> Revision {
        self.past().last
    }

    /// Adds batches; all events of one are of the same revision, and later batches of higher ones.
    pub(crate) fn publish(&self, batches: Vec<Vec<Event>>) {
        if batches.is_empty() {
            return;
        }
        let mut past = self.past();
        for batch in batches {
            past.push(batch);
        }
        drop(past);
        self.news.send_modify(|_| ());
    }

    /// Forgets everything and goes on after `revision`: every follower must list again.
    pub(crate) fn restart(&self, revision: Revision) {
        let mut past = self.past();
        *past = Past { batches: VecDeque::new(), events: 0, bytes: 0, floor: revision + 1, last: revision };
        drop(past);
        self.interrupt();
    }

    /// Ends every stream there is.
    pub(crate) fn interrupt(&self) {
        self.news.send_modify(|epoch| *epoch += 1);
    }

    /// The changes below `prefix` from `from` on.
    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, from: Revision) -> Result<Events, Error> {
        let follower = Follower {
            history: Arc::downgrade(self),
            news: self.news.subscribe(),
            epoch: *self.news.borrow(),
            prefix: prefix.to_owned(),
            next: from.max(1),
        };
        let past = self.past();
        // From beyond the next revision: this is not the store that the caller knew.
        if follower.next < past.floor || follower.next > past.last + 1 {
            return Err(follower.compacted());
        }
        drop(past);
        Ok(futures::stream::unfold(Some(follower), follow).boxed())
    }

    fn past(&self) -> std::sync::MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Past {
    fn push(&mut self, batch: Vec<Event>) {
        let Some(revision) = batch.first().map(Event::revision) else { return };
        self.last = revision;
        self.events += batch.len();
        self.bytes += bytes(&batch);
        self.batches.push_back(Arc::new(batch));
        while self.events > MAX_EVENTS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.events -= oldest.len();
            self.bytes -= bytes(&oldest);
            self.floor = oldest.first().map_or(self.floor, |event| event.revision() + 1);
        }
    }
}

fn bytes(batch: &[Event]) -> usize {
    let size = |event: &Event| match event {
        Event::Put(entry) => entry.key.len() + entry.value.len(),
        Event::Delete { key, .. } => key.len(),
    };
    batch.iter().map(size).sum()
}

struct Follower {
    history: std::sync::Weak<History>,
    news: watch::Receiver<u64>,
    epoch: u64,
    prefix: String,
    next: Revision,
}

impl Follower {
    fn compacted(&self) -> Error {
        Error::Compacted { prefix: self.prefix.clone(), from: self.next }
    }

    fn ended(&self) -> Error {
        Error::Unavailable {
            operation: Operation::Watch,
            key: self.prefix.clone(),
            source: Arc::new(Ended("the store")),
        }
    }

    /// What is new below the prefix; empty if there is nothing yet.
    fn take(&mut self) -> Result<Vec<Event>, Error> {
        let history = self.history.upgrade().ok_or_else(|| self.ended())?;
        if *self.news.borrow_and_update() != self.epoch {
            return Err(self.ended());
        }
        let past = history.past();
        if self.next < past.floor {
            return Err(self.compacted());
        }
        let fresh = past.batches.partition_point(|batch| batch.first().is_some_and(|e| e.revision() < self.next));
        let wanted = past.batches.iter().skip(fresh).flat_map(|batch| batch.iter());
        let events = wanted.filter(|event| event.key().starts_with(&self.prefix)).cloned().collect();
        self.next = past.last + 1;
        Ok(events)
    }
}

async fn follow(follower: Option<Follower>) -> Option<(Result<Vec<Event>, Error>, Option<Follower>)> {
    let mut follower = follower?;
    loop {
        match follower.take() {
            Ok(events) if events.is_empty() => {
                if follower.news.changed().await.is_err() {
                    return Some((Err(follower.ended()), None));
                }
            }
            Ok(events) => return Some((Ok(events), Some(follower))),
            Err(error) => return Some((Err(error), None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delete(key: &str, revision: Revision) -> Vec<Event> {
        vec![Event::Delete { key: key.to_owned(), revision }]
    }

    #[tokio::test]
    async fn a_follower_gets_what_is_below_its_prefix() {
        let history = Arc::new(History::new(4));
        let mut events = history.watch("a/", 5).expect("next revision");
        history.publish(vec![delete("a/1", 5), delete("b/1", 6), delete("a/2", 7)]);
        let batch = events.next().await.expect("a batch").expect("no error");
        assert_eq!(batch.iter().map(|e| (e.key(), e.revision())).collect::<Vec<_>>(), [("a/1", 5), ("a/2", 7)]);
    }

    #[tokio::test]
    async fn old_history_goes_and_says_so() {
        let history = Arc::new(History::new(0));
        let mut slow = history.watch("", 1).expect("from the beginning");
        for revision in 1..=(MAX_EVENTS as u64 + 10) {
            history.publish(vec![delete("k", revision)]);
        }
        assert!(matches!(slow.next().await, Some(Err(Error::Compacted { from: 1, .. }))));
        assert!(slow.next().await.is_none());
        assert!(matches!(history.watch("", 10).err(), Some(Error::Compacted { .. })));
        assert!(history.watch("", 11).is_ok());
        assert!(matches!(history.watch("", MAX_EVENTS as u64 + 12).err(), Some(Error::Compacted { .. })));
    }

    #[tokio::test]
    async fn streams_end_with_the_store() {
        let history = Arc::new(History::new(0));
        let mut events = history.watch("", 1).expect("from the beginning");
        drop(history);
        assert!(matches!(events.next().await, Some(Err(Error::Unavailable { .. }))));
    }
}
