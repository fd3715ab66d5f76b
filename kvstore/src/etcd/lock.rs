//! Locks between nodes: a queue of leased keys below the lock's name, in the order of their creation; the first one
//! holds it. Each lock has a lease of its own, so that giving it back, giving up, and dying all end the same way: the
//! lease ends, and the key with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Etcd;
use super::reply::{Kind, Reply};
use crate::{Attempt, Backend, Condition, Entry, Error, Event, Lease, Lock, Operation, Revision};

/// How long a lock outlives its holder's death.
const TTL: Duration = Duration::from_secs(25);
/// Pause before the queue is looked at again after following it failed.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn lock(etcd: &Etcd, name: &str, wait: Duration) -> Result<Lock, Error> {
    let deadline = Instant::now() + wait;
    let lease = etcd.grant(TTL).await?;
    let lost = Arc::new(AtomicBool::new(false));
    // From here on, whatever happens: when the keeper is dropped, the lease ends.
    let keeper = keep(etcd.clone(), lease, lost.clone());
    let key = format!("{name}/{}", lease.id);
    let created = match etcd.create_only(&key, Vec::new(), Some(lease.id)).await? {
        Attempt::Done(revision) => revision,
        Attempt::Conflict(_) => return Err(gone(name)), // lease names are unique
    };
    loop {
        match predecessor(etcd, name, &key, created).await {
            Ok(None) => {
                let condition = Condition::Created { key, revision: created };
                return Ok(Lock::new(name, Some(condition), lost, Box::new(keeper)));
            }
            Ok(Some((before, revision))) => {
                let passing = passed(etcd, &before, revision);
                if tokio::time::timeout_at(deadline, passing).await.is_err() {
                    return Err(Error::LockBusy { name: name.to_owned(), waited: wait });
                }
            }
            Err(error) if error.is_retryable() && Instant::now() + PAUSE < deadline => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

fn gone(name: &str) -> Error {
    Reply::new("etcd", "our place in the queue is gone").error(Kind::Broken, Operation::Lock, name)
}

/// Who is before us in the queue, if anybody, and when that was so.
async fn predecessor(
    etcd: &Etcd,
    name: &str,
    ours: &str,
    created: Revision,
) -> Result<Option<(Entry, Revision)>, Error> {
    let base = format!("{name}/");
    let queue = etcd.list(&base).await?;
    if !queue.entries.iter().any(|entry| entry.key == ours && entry.created == created) {
        return Err(gone(name));
    }
    // Another lock's name may continue this one's.
    let ahead = |entry: &Entry| entry.created < created && !entry.key[base.len()..].contains('/');
    let before = queue.entries.into_iter().filter(ahead).max_by_key(|entry| entry.created);
    Ok(before.map(|entry| (entry, queue.revision)))
}

/// Returns when the key is gone, or when that cannot be followed.
async fn passed(etcd: &Etcd, before: &Entry, revision: Revision) {
    let Ok(mut events) = etcd.watch(&before.key, revision + 1).await else {
        return tokio::time::sleep(PAUSE).await;
    };
    while let Some(batch) = events.next().await {
        let Ok(batch) = batch else { return tokio::time::sleep(PAUSE).await };
        if batch.iter().any(|event| matches!(event, Event::Delete { key, .. } if *key == before.key)) {
            return;
        }
    }
}

/// Keeps a lease alive until it is dropped, and then ends it.
fn keep(etcd: Etcd, lease: Lease, lost: Arc<AtomicBool>) -> oneshot::Sender<()> {
    let (keeper, mut dropped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut sure_until = Instant::now() + lease.ttl;
        while tokio::time::timeout(lease.ttl / 3, &mut dropped).await.is_err() {
            match etcd.keep_alive(lease.id).await {
                Ok(()) => sure_until = Instant::now() + lease.ttl,
                Err(Error::LeaseNotFound { .. }) => lost.store(true, Ordering::Release),
                Err(_) if Instant::now() >= sure_until => lost.store(true, Ordering::Release),
                Err(_) => {}
            }
        }
        // Without success the lease ends by itself.
        while etcd.revoke(lease.id).await.is_err() && Instant::now() < sure_until {
            tokio::time::sleep(PAUSE).await;
        }
    });
    keeper
}
