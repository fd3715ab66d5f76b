//! The store of a cluster: etcd 3.4 or later, spoken to through `etcd-client`. Which server is asked, and for how long,
//! is `servers`'; following changes is `stream`'s; locks are `lock`'s. Every call ends within the configured time-out.
//! Revisions and leases are etcd's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, GetResponse, KeyValue, PutOptions, ResponseHeader, TxnOp,
    TxnOpResponse, TxnResponse,
};

use crate::{
    Backend, Change, Condition, Entry, Error, EtcdConfig, Events, Lease, LeaseId, Listing, Lock, Operation, Outcome,
    Revision, Status, Txn, keys,
};

mod lock;
mod reply;
mod servers;
mod stream;

use servers::{Repeat, Servers};

/// Entries asked for at once by a list: at first, and at most. etcd (3.4) goes through its whole index of what is left for
/// each page, however few entries that has: two hundred thousand by the thousand take it seconds, by more it is nothing.
const PAGE: usize = 1000;
const LARGEST_PAGE: usize = 20_000;
/// What pages of many entries are to come to, bytes, going by those before.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// How often a list begins anew because its revision was compacted away between two pages.
const LIST_ATTEMPTS: u32 = 3;
/// The most one answer may hold, bytes. Of what would hold more a smaller page is asked for: one value is never as large.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// An etcd cluster.
#[derive(Clone, Debug)]
pub struct Etcd {
    servers: Arc<Servers>,
    // The cluster that answered last; 0 if none did.
    cluster: Arc<AtomicU64>,
}

impl Etcd {
    /// Prepares to talk to a cluster; it need not answer yet.
    ///
    /// # Errors
    /// [`Error::Storage`] if a certificate or key file cannot be read.
    pub fn new(config: EtcdConfig) -> Result<Etcd, Error> {
        Ok(Etcd { servers: Arc::new(Servers::new(config)?), cluster: Arc::default() })
    }

    async fn range(
        &self,
        operation: Operation,
        key: &str,
        from: Vec<u8>,
        options: GetOptions,
    ) -> Result<GetResponse, Error> {
        self.servers
            .call(operation, key, Repeat::Freely, |client: Client| {
                let (from, options) = (from.clone(), options.clone());
                async move { client.kv_client().max_decoding_message_size(MAX_ANSWER).get(from, Some(options)).await }
            })
            .await
    }

    /// The store's revision now, and whether this is another cluster than the one that answered before. Also renews the
    /// token of a user, which a watch cannot do.
    async fn position(&self, operation: Operation, key: &str) -> Result<(Revision, bool), Error> {
        let options = GetOptions::new().with_keys_only().with_limit(1);
        let answer = self.range(operation, key, keys::PROBE.into(), options).await?;
        Ok((revision(answer.header()), self.note_cluster(answer.header())))
    }

    fn note_cluster(&self, header: Option<&ResponseHeader>) -> bool {
        let Some(now) = header.map(ResponseHeader::cluster_id) else { return false };
        let before = self.cluster.swap(now, Ordering::Relaxed);
        let changed = before != 0 && before != now;
        if changed {
            tracing::warn!(before = format!("{before:x}"), now = format!("{now:x}"), "another etcd cluster answers");
        }
        changed
    }

    async fn pages(&self, prefix: &str) -> Result<Listing, Error> {
        let (mut from, end) = bounds(prefix);
        let mut listing = Listing::default();
        let (mut size, mut largest) = (PAGE, LARGEST_PAGE);
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(size as i64);
            if listing.revision > 0 {
                options = options.with_revision(listing.revision as i64);
            }
            let answer = self.range(Operation::List, prefix, from.clone(), options).await;
            let mut answer = match answer {
                // Perhaps more than an answer may hold: values larger than those before.
                Err(Error::Server { .. }) if size > 1 => {
                    size = (size / 8).max(1);
                    largest = size;
                    continue;
                }
                answer => answer?,
            };
            if listing.revision == 0 {
                listing.revision = revision(answer.header());
                self.note_cluster(answer.header());
            }
            let (page, more) = (answer.take_kvs(), answer.more());
            let last = page.last().map(|kv| kv.key().to_vec());
            let bytes: usize = page.iter().map(|kv| kv.key().len() + kv.value().len()).sum();
            let fitting = PAGE_BYTES.saturating_mul(page.len()) / bytes.max(1);
            // Not at once: the first entries may be smaller than the rest.
            size = fitting.max(PAGE).min(4 * size).min(largest);
            listing.entries.extend(page.into_iter().filter_map(entry));
            match last {
                Some(mut last) if more => {
                    last.push(0);
                    from = last;
                }
                _ => return Ok(listing),
            }
        }
    }
}

#[async_trait]
impl Backend for Etcd {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        if key.is_empty() {
            return Ok(None);
        }
        let mut answer = self.range(Operation::Get, key, key.into(), GetOptions::new()).await?;
        Ok(answer.take_kvs().pop().and_then(entry))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let mut attempt = 1;
        loop {
            match self.pages(prefix).await {
                Err(Error::Compacted { .. }) if attempt < LIST_ATTEMPTS => attempt += 1,
                done => return done,
            }
        }
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        txn.check()?;
        let repeat = if txn.is_repeatable() { Repeat::Freely } else { Repeat::IfNotSent };
        let wire = encode(&txn);
        let answer = self
            .servers
            .call(Operation::Commit, txn.subject(), repeat, |mut client: Client| {
                let wire = wire.clone();
                async move { client.txn(wire).await }
            })
            .await;
        match answer {
            Ok(answer) => Ok(outcome(&answer, txn.conditions.len())),
            // etcd does not say which of the leases it was; there is rarely more than one.
            Err(Error::LeaseNotFound { operation, lease }) => {
                let named = txn.changes.iter().find_map(|change| match change {
                    Change::Put { lease, .. } => *lease,
                    _ => None,
                });
                Err(Error::LeaseNotFound { operation, lease: named.unwrap_or(lease) })
            }
            Err(error) => Err(error),
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Events, Error> {
        stream::watch(self, prefix, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, Error> {
        // etcd counts in whole seconds.
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        // A grant that is repeated leaves a lease behind that nobody renews: it goes by itself.
        let call = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        let answer = self.servers.call(Operation::Grant, "", Repeat::Freely, call).await?;
        Ok(Lease { id: LeaseId(answer.id()), ttl: Duration::from_secs(answer.ttl().unsigned_abs()) })
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        let call = |mut client: Client| async move { client.lease_keep_alive(lease.0).await.map(drop) };
        let answer = self.servers.call(Operation::KeepAlive, &lease.to_string(), Repeat::Freely, call).await;
        answer.map_err(|error| name_lease(error, lease))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let call = |mut client: Client| async move { client.lease_revoke(lease.0).await.map(drop) };
        match self.servers.call(Operation::Revoke, &lease.to_string(), Repeat::Freely, call).await {
            Err(Error::LeaseNotFound { .. }) => Ok(()),
            other => other,
        }
    }

    async fn lock(&self, name: &str, wait: Duration) -> Result<Lock, Error> {
        lock::lock(self, name, wait).await
    }

    async fn status(&self) -> Status {
        let (quorum, servers) = tokio::join!(self.position(Operation::Get, keys::PROBE), self.servers.status());
        let (healthy, revision, quorum) = match quorum {
            Ok((revision, _)) => (true, Some(revision), "has-quorum=true".to_owned()),
            Err(error) => (false, None, format!("has-quorum=false ({})", error.chain())),
        };
        let up = servers.iter().filter(|server| server.up).count();
        let each = servers.iter().map(|server| server.text.as_str()).collect::<Vec<_>>().join("; ");
        let text = format!("etcd: {up}/{} connected, {quorum}: {each}", servers.len());
        Status { healthy, text, revision }
    }
}

fn name_lease(error: Error, lease: LeaseId) -> Error {
    match error {
        Error::LeaseNotFound { operation, .. } => Error::LeaseNotFound { operation, lease },
        other => other,
    }
}

fn revision(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(0, |header| header.revision().unsigned_abs())
}

/// First and end key of a prefix, as etcd wants them: the end is the prefix with its last byte raised.
fn bounds(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    if prefix.is_empty() {
        return (vec![0], vec![0]);
    }
    let mut end = prefix.as_bytes().to_vec();
    // The last byte of UTF-8 text is never 255.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (prefix.into(), end)
}

/// A key that is not text is nobody's whom we know.
fn entry(kv: KeyValue) -> Option<Entry> {
    let (revision, created) = (kv.mod_revision().unsigned_abs(), kv.create_revision().unsigned_abs());
    let lease = Some(kv.lease()).filter(|lease| *lease != 0).map(LeaseId);
    let (key, value) = kv.into_key_value();
    let key = String::from_utf8(key).ok()?;
    Some(Entry { key, value, revision, created, lease })
}

fn encode(txn: &Txn) -> etcd_client::Txn {
    let conditions: Vec<Compare> = txn.conditions.iter().map(compare).collect();
    let looks: Vec<TxnOp> = txn.conditions.iter().map(look).collect();
    let changes: Vec<TxnOp> = txn.changes.iter().map(change).collect();
    let wire = etcd_client::Txn::new();
    let wire = if conditions.is_empty() { wire } else { wire.when(conditions) };
    let wire = if changes.is_empty() { wire } else { wire.and_then(changes) };
    if looks.is_empty() { wire } else { wire.or_else(looks) }
}

fn compare(condition: &Condition) -> Compare {
    match condition {
        Condition::Absent { key } => Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
        Condition::Revision { key, revision } => {
            Compare::mod_revision(key.as_str(), CompareOp::Equal, revision.cast_signed())
        }
        Condition::Created { key, revision } => {
            Compare::create_revision(key.as_str(), CompareOp::Equal, revision.cast_signed())
        }
        // Holds for all keys of the range, of which there must be none: an empty range counts as one absent key.
        Condition::Empty { prefix } => {
            let (from, end) = bounds(prefix);
            Compare::create_revision(from, CompareOp::Equal, 0).with_range(end)
        }
    }
}

fn look(condition: &Condition) -> TxnOp {
    match condition {
        Condition::Empty { prefix } => {
            let (from, end) = bounds(prefix);
            TxnOp::get(from, Some(GetOptions::new().with_range(end).with_limit(1)))
        }
        keyed => TxnOp::get(keyed.subject(), None),
    }
}

fn change(change: &Change) -> TxnOp {
    match change {
        Change::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_str(), value.as_slice(), options)
        }
        Change::Delete { key } => TxnOp::delete(key.as_str(), None),
        Change::DeletePrefix { prefix } => {
            let (from, end) = bounds(prefix);
            TxnOp::delete(from, Some(DeleteOptions::new().with_range(end)))
        }
    }
}

fn outcome(answer: &TxnResponse, conditions: usize) -> Outcome {
    let steps = answer.op_responses();
    if answer.succeeded() {
        let deleted = steps.iter().map(|step| match step {
            TxnOpResponse::Delete(delete) => delete.deleted().unsigned_abs(),
            _ => 0,
        });
        return Outcome::Committed { revision: revision(answer.header()), deleted: deleted.sum() };
    }
    let mut found: Vec<Option<Entry>> = steps
        .into_iter()
        .map(|step| match step {
            TxnOpResponse::Get(mut get) => get.take_kvs().pop().and_then(entry),
            _ => None,
        })
        .collect();
    found.resize(conditions, None);
    Outcome::Refused { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_a_prefix() {
        assert_eq!(bounds("a/"), (b"a/".to_vec(), b"a0".to_vec()));
        assert_eq!(bounds(""), (vec![0], vec![0]));
        assert_eq!(bounds("é"), ("é".into(), vec![0xc3, 0xaa]));
        assert_eq!(bounds("\u{10ffff}").1, [0xf4, 0x8f, 0xbf, 0xc0]);
    }
}
