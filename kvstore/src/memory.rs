//! A store that is gone with the process: for tests alone (feature `testing`). It can be switched off to play an outage.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::local::{Draft, Fault, History, Local, LocalBackend, Scribble, Tables, Writer};
use crate::{Backend, Entry, LeaseId, Listing, Revision};

/// Makes an empty store. Must be called within a tokio runtime.
pub fn open() -> (Arc<dyn Backend>, Power) {
    let on = Arc::new(AtomicBool::new(true));
    let tables = Memory { on: on.clone(), shelf: RwLock::default() };
    let local = Arc::new(Local::new(tables, 0));
    let power = Power { on, history: Arc::downgrade(&local.history) };
    (Arc::new(LocalBackend::new(local, Writer::Inline)), power)
}

/// Switches a memory store off and on: while it is off, all calls fail as unavailable, and streams end. Leases go on
/// ageing.
#[derive(Clone, Debug)]
pub struct Power {
    on: Arc<AtomicBool>,
    history: Weak<History>,
}

impl Power {
    pub fn off(&self) {
        self.on.store(false, Ordering::SeqCst);
        if let Some(history) = self.history.upgrade() {
            history.interrupt();
        }
    }

    pub fn on(&self) {
        self.on.store(true, Ordering::SeqCst);
    }

    /// Forgets the history, as a compaction does: whoever follows must list again.
    pub fn compact(&self) {
        if let Some(history) = self.history.upgrade() {
            history.restart(history.revision());
        }
    }
}

#[derive(Debug)]
struct Memory {
    on: Arc<AtomicBool>,
    shelf: RwLock<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    entries: BTreeMap<String, Entry>,
    revision: Revision,
}

#[derive(Debug, thiserror::Error)]
#[error("switched off")]
struct Off;

impl Memory {
    fn shelf(&self) -> Result<std::sync::RwLockReadGuard<'_, Shelf>, Fault> {
        if !self.on.load(Ordering::SeqCst) {
            return Err(Fault::Away(Arc::new(Off)));
        }
        Ok(self.shelf.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tables for Memory {
    fn get(&self, key: &str) -> Result<Option<Entry>, Fault> {
        Ok(self.shelf()?.entries.get(key).cloned())
    }

    fn list(&self, prefix: &str) -> Result<Listing, Fault> {
        let shelf = self.shelf()?;
        Ok(Listing { entries: shelf.below(prefix, usize::MAX)?, revision: shelf.revision })
    }

    fn write(&self, scribble: Scribble<'_>) -> Result<(), Fault> {
        drop(self.shelf()?);
        // A draft of this kind cannot fail half-way, so it is the shelf itself.
        scribble(&mut *self.shelf.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn revision(&self) -> Result<Revision, Fault> {
        Ok(self.shelf()?.revision)
    }

    fn describe(&self) -> (String, bool) {
        match self.shelf() {
            Ok(shelf) => (format!("memory: {} keys", shelf.entries.len()), true),
            Err(_) => ("memory: switched off".to_owned(), false),
        }
    }
}

impl Draft for Shelf {
    fn get(&self, key: &str) -> Result<Option<Entry>, Fault> {
        Ok(self.entries.get(key).cloned())
    }

    fn below(&self, prefix: &str, limit: usize) -> Result<Vec<Entry>, Fault> {
        let from = self.entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        Ok(from.take_while(|(key, _)| key.starts_with(prefix)).take(limit).map(|(_, e)| e.clone()).collect())
    }

    fn leased(&self, lease: LeaseId) -> Result<Vec<String>, Fault> {
        Ok(self.entries.values().filter(|e| e.lease == Some(lease)).map(|e| e.key.clone()).collect())
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn put(&mut self, entry: &Entry) -> Result<(), Fault> {
        self.entries.insert(entry.key.clone(), entry.clone());
        Ok(())
    }

    fn remove(&mut self, key: &str) -> Result<(), Fault> {
        self.entries.remove(key);
        Ok(())
    }

    fn set_revision(&mut self, revision: Revision) -> Result<(), Fault> {
        self.revision = revision;
        Ok(())
    }
}
