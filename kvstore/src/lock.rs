//! A held lock, whichever backend made it. How it is taken and given back is the backend's.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Condition;

/// A lock that is held until this is dropped. On a shared store it is bound to a lease: if that is lost (the store was
/// away for too long), so is the lock.
pub struct Lock {
    name: String,
    condition: Option<Condition>,
    lost: Arc<AtomicBool>,
    // Gives the lock back when dropped.
    _keeper: Box<dyn Any + Send + Sync>,
}

impl Lock {
    pub(crate) fn new(
        name: &str,
        condition: Option<Condition>,
        lost: Arc<AtomicBool>,
        keeper: Box<dyn Any + Send + Sync>,
    ) -> Lock {
        Lock { name: name.to_owned(), condition, lost, _keeper: keeper }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a transaction must insist on so that it only happens while this lock is held. `None` where the lock cannot
    /// be lost (in one process).
    pub fn condition(&self) -> Option<Condition> {
        self.condition.clone()
    }

    /// Whether the store is known to have taken the lock away.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lock").field("name", &self.name).field("lost", &self.is_lost()).finish_non_exhaustive()
    }
}
