//! Following the masters: keeps what this node knows up to date, tells its readers, and mends a master in use that
//! somebody deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::ids::number;
use super::{IdEvent, Inner};
use crate::watch::{Feed, Update};
use crate::{Condition, Error, Outcome, Txn};

/// Pause before another attempt to mend.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn follow(inner: Arc<Inner>, mut feed: Feed) {
    let mut broken: BTreeMap<u32, String> = BTreeMap::new();
    loop {
        let updates = if broken.is_empty() {
            feed.next().await
        } else {
            tokio::time::timeout(PAUSE, feed.next()).await.unwrap_or(Some(Vec::new()))
        };
        let Some(updates) = updates else { return };
        broken.extend(take(&inner, updates));
        mend_all(&inner, &mut broken).await;
    }
}

/// Takes over a batch; returns what this node uses and the batch contradicts.
fn take(inner: &Inner, updates: Vec<Update>) -> Vec<(u32, String)> {
    let base = inner.options.masters();
    let mut ids = inner.ids();
    let mut events = Vec::new();
    let mut changed = false;
    for update in updates {
        match update {
            Update::Reset => {
                inner.in_contact.store(false, Ordering::Relaxed);
                events.push(IdEvent::Reset);
            }
            Update::Synced { .. } => {
                inner.in_contact.store(true, Ordering::Relaxed);
                inner.listed.send_replace(true);
                events.push(IdEvent::Synced);
                changed = true;
            }
            Update::Put(entry) => {
                let id = entry.key.strip_prefix(&base).and_then(number);
                let (Some(id), Ok(key)) = (id, String::from_utf8(entry.value)) else {
                    tracing::warn!(key = entry.key, "not a number and its key, ignored");
                    continue;
                };
                changed = true;
                events.push(IdEvent::Put { id, key: key.clone() });
                ids.put(id, key);
            }
            Update::Delete { key } => {
                let Some(id) = key.strip_prefix(&base).and_then(number) else { continue };
                changed = true;
                if let Some(key) = ids.take(id) {
                    events.push(IdEvent::Delete { id, key });
                }
            }
        }
    }
    ids.tell(&events);
    if changed { ids.unsupported() } else { Vec::new() }
}

async fn mend_all(inner: &Inner, broken: &mut BTreeMap<u32, String>) {
    for (id, key) in std::mem::take(broken) {
        match mend(inner, id, &key).await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(id, key, error = error.chain(), "a number in use is gone from the store, trying again");
                broken.insert(id, key);
            }
        }
    }
}

/// Writes a master again, unless its number now stands for another key.
async fn mend(inner: &Inner, id: u32, key: &str) -> Result<(), Error> {
    // With the turn nobody on this node allocates or releases the key meanwhile.
    let _turn = inner.turns.lock(key).await;
    if inner.ids().used(key) != Some(id) {
        return Ok(());
    }
    let path = inner.options.master(id);
    let txn = Txn::new().when(Condition::Absent { key: path.clone() }).put(path, key, None);
    let found = match inner.backend.commit(txn).await? {
        Outcome::Committed { .. } => {
            tracing::warn!(id, key, "a number in use was deleted, wrote it again");
            inner.ids().put(id, key.to_owned());
            return Ok(());
        }
        Outcome::Refused { found } => found.into_iter().next().flatten(),
    };
    let Some(master) = found else { return Ok(()) }; // cannot be: it was refused because it is there
    let there = String::from_utf8_lossy(&master.value).into_owned();
    let ours = there == key;
    inner.ids().put(id, there);
    if !ours {
        tracing::error!(id, key, "the number that we use stands for another key now, giving it up");
        inner.ids().abandon(key);
        inner.ids().tell(&[IdEvent::Conflict { id, key: key.to_owned() }]);
        // If it does not work now, the session goes on trying.
        let _withdrawn = inner.session.withdraw(&inner.options.slave(key)).await;
    }
    Ok(())
}
