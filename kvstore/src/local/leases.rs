//! Which leases of an in-process store live, and until when. Deleting the keys of a dead one is the writer's work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::{Error, Lease, LeaseId, Operation};

/// All leases that still have, or may have, keys.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    all: Mutex<BTreeMap<LeaseId, Term>>,
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Term {
    ttl: Duration,
    /// When it expires, or when the deletion of its keys is tried again.
    deadline: Instant,
    /// Its keys are being deleted: it can neither be renewed nor used.
    ending: bool,
}

impl Leases {
    pub(crate) fn grant(&self, ttl: Duration) -> Lease {
        let mut all = self.all();
        let id = loop {
            let id = LeaseId(rand::random::<i64>() & i64::MAX);
            if id.0 != 0 && !all.contains_key(&id) {
                break id;
            }
        };
        all.insert(id, Term { ttl, deadline: Instant::now() + ttl, ending: false });
        drop(all);
        self.changed.notify_one();
        Lease { id, ttl }
    }

    pub(crate) fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        let now = Instant::now();
        match self.all().get_mut(&lease) {
            Some(term) if !term.ending && term.deadline > now => {
                term.deadline = now + term.ttl;
                Ok(())
            }
            _ => Err(Error::LeaseNotFound { operation: Operation::KeepAlive, lease }),
        }
    }

    pub(crate) fn is_alive(&self, lease: LeaseId) -> bool {
        self.all().get(&lease).is_some_and(|term| !term.ending)
    }

    /// Begins to end a lease; false if it is not alive. Its keys are tried again after `retry` until it is forgotten.
    pub(crate) fn end(&self, lease: LeaseId, retry: Duration) -> bool {
        match self.all().get_mut(&lease) {
            Some(term) if !term.ending => {
                *term = Term { ttl: term.ttl, deadline: Instant::now() + retry, ending: true };
                true
            }
            _ => false,
        }
    }

    /// Begins to end, or to end again, every lease whose time has come.
    pub(crate) fn end_expired(&self, retry: Duration) -> Vec<LeaseId> {
        let now = Instant::now();
        let mut expired = Vec::new();
        for (id, term) in self.all().iter_mut().filter(|(_, term)| term.deadline <= now) {
            term.ending = true;
            term.deadline = now + retry;
            expired.push(*id);
        }
        expired
    }

    /// Its keys are gone.
    pub(crate) fn forget(&self, lease: LeaseId) {
        self.all().remove(&lease);
    }

    /// When the first of them expires.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.all().values().map(|term| term.deadline).min()
    }

    /// Notified when a lease was added, so that the next deadline may be earlier.
    pub(crate) fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<LeaseId, Term>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
