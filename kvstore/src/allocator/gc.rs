//! Deleting masters that no node uses. A master goes when two passes, at least the grace time apart, saw it without
//! slaves and not written in between; and the deletion itself happens only if nobody can have joined since.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{Inner, ids, unchanged};
use crate::{Condition, Entry, Error, Outcome, Revision, Txn, keys};

/// Masters seen without slaves: written last at, and seen first at.
pub(super) type Candidates = BTreeMap<u32, (Revision, Instant)>;

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Masters there were in our range.
    pub seen: usize,
    /// Those that no node uses and that have to wait.
    pub waiting: usize,
    /// Those that were deleted.
    pub deleted: Vec<u32>,
}

pub(super) async fn pass(inner: &Inner) -> Result<Collected, Error> {
    let mut candidates = inner.candidates.lock().await;
    let masters = inner.backend.list(&inner.options.masters()).await?.entries;
    // After the masters: a slave that is written in between is seen.
    let slaves = slaves(inner).await?;
    let mut next = Candidates::new();
    let mut collected = Collected::default();
    for master in masters {
        let Some((id, key)) = parse(inner, &master) else { continue };
        collected.seen += 1;
        let slaves = slaves.get(&keys::escape(&key)).map_or(&[][..], Vec::as_slice);
        if slaves.iter().any(|(used, _)| *used == Some(id)) || inner.ids().used(&key) == Some(id) {
            continue;
        }
        let since = match candidates.get(&id) {
            Some((revision, since)) if *revision == master.revision => *since,
            _ => {
                next.insert(id, (master.revision, Instant::now()));
                continue;
            }
        };
        if since.elapsed() >= inner.options.grace && delete(inner, &master, &key, slaves).await? {
            collected.deleted.push(id);
        } else {
            next.insert(id, (master.revision, since));
        }
    }
    collected.waiting = next.len();
    *candidates = next;
    Ok(collected)
}

fn parse(inner: &Inner, master: &Entry) -> Option<(u32, String)> {
    let id = ids::number(master.key.strip_prefix(&inner.options.masters())?)?;
    let key = String::from_utf8(master.value.clone()).ok()?;
    inner.options.range.contains(&id).then_some((id, key))
}

/// By escaped key: the numbers that slaves point to, and the slaves.
async fn slaves(inner: &Inner) -> Result<BTreeMap<String, Vec<(Option<u32>, Entry)>>, Error> {
    let base = inner.options.slaves();
    let mut slaves: BTreeMap<String, Vec<(Option<u32>, Entry)>> = BTreeMap::new();
    for slave in inner.backend.list(&base).await?.entries {
        let Some((key, _node)) = slave.key.strip_prefix(&base).and_then(|path| path.split_once('/')) else { continue };
        let id = std::str::from_utf8(&slave.value).ok().and_then(ids::number);
        slaves.entry(key.to_owned()).or_default().push((id, slave));
    }
    Ok(slaves)
}

/// Deletes a master that no slave points to. Where the key has slaves with another number, one of them is the witness:
/// while it is there, new users join its number and not this one.
async fn delete(inner: &Inner, master: &Entry, key: &str, slaves: &[(Option<u32>, Entry)]) -> Result<bool, Error> {
    let unused = match slaves.first() {
        Some((_, witness)) => unchanged(witness),
        None => Condition::Empty { prefix: inner.options.slaves_of(key) },
    };
    let txn = Txn::new().when(unchanged(master)).when(unused).delete(&master.key);
    Ok(matches!(inner.backend.commit(txn).await?, Outcome::Committed { .. }))
}
