//! One async lock for each name, inside this process, first come first served.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// Locks by name. A name costs memory only while somebody holds or awaits its lock.
#[derive(Debug, Default)]
pub(crate) struct KeyLocks {
    names: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

/// Held until dropped.
pub(crate) struct KeyGuard {
    guard: Option<OwnedMutexGuard<()>>,
    _claim: Claim,
}

/// Somebody's interest in a name, from before the wait until after the release.
struct Claim {
    names: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
    name: String,
    lock: Option<Arc<tokio::sync::Mutex<()>>>,
}

impl KeyLocks {
    pub(crate) async fn lock(&self, name: &str) -> KeyGuard {
        let lock = {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            names.entry(name.to_owned()).or_default().clone()
        };
        let claim = Claim { names: self.names.clone(), name: name.to_owned(), lock: Some(lock.clone()) };
        KeyGuard { guard: Some(lock.lock_owned().await), _claim: claim }
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        // Before the claim, which then sees whether anybody else still wants the name.
        self.guard.take();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock.take();
        if names.get(&self.name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            names.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holder_at_a_time_and_nothing_left_behind() {
        let locks = Arc::new(KeyLocks::default());
        let inside = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (locks, inside) = (locks.clone(), inside.clone());
            tasks.spawn(async move {
                let _guard = locks.lock("name").await;
                assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        tasks.join_all().await;
        assert!(locks.names.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_wait_given_up_leaves_nothing_behind() {
        let locks = KeyLocks::default();
        let held = locks.lock("name").await;
        assert!(futures::FutureExt::now_or_never(locks.lock("name")).is_none());
        drop(held);
        assert!(locks.names.lock().unwrap().is_empty());
    }
}
