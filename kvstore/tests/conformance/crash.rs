//! Allocation of numbers by nodes that die: after each single operation on the store, whether or not the store did the
//! last one. Nobody may be led to a second number for a key, and nothing may stay for ever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kvstore::allocator::{Allocator, Options};
use kvstore::session::{self, Session};
use kvstore::{
    Backend, Entry, Error, Events, Lease, LeaseId, Listing, Lock, Operation, Outcome, Revision, Status, Txn,
};

use crate::world::{Kind, World, until};

/// Operations that the longest life below takes, and a few more.
const STEPS: i64 = 40;
/// The shortest that etcd grants.
const TTL: Duration = Duration::from_secs(2);

/// A way to the store that is cut after some operations.
#[derive(Debug)]
struct Mortal {
    inner: Arc<dyn Backend>,
    left: AtomicI64,
    /// Whether the store still does the operation of which the answer never comes.
    last_words: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("cut")]
struct Cut;

impl Mortal {
    async fn live<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left > 0 {
            return call.await;
        }
        if left == 0 && self.last_words {
            let _unheard = call.await;
        }
        Err(Error::Unavailable { operation: Operation::Commit, key: String::new(), source: Arc::new(Cut) })
    }

    fn is_alive(&self) -> bool {
        self.left.load(Ordering::SeqCst) > 0
    }
}

#[async_trait]
impl Backend for Mortal {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.live(self.inner.get(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.live(self.inner.list(prefix)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        self.live(self.inner.commit(txn)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Events, Error> {
        self.live(self.inner.watch(prefix, from)).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.live(self.inner.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.live(self.inner.keep_alive(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.live(self.inner.revoke(lease)).await
    }

    async fn lock(&self, name: &str, wait: Duration) -> Result<Lock, Error> {
        self.live(self.inner.lock(name, wait)).await
    }

    async fn status(&self) -> Status {
        self.inner.status().await
    }
}

fn node(backend: &Arc<dyn Backend>, base: &str, name: &str, wait: Duration) -> (Session, Allocator) {
    let options = session::Options { ttl: TTL, wait, retry: Duration::from_millis(50), ..session::Options::default() };
    let session = Session::start(backend.clone(), options);
    let options = Options { wait, grace: Duration::ZERO, ..Options::new(base, name, 256..=65_535) };
    (session.clone(), Allocator::start(backend.clone(), session, options))
}

/// What a node does until it is cut off: the number it last had for the key `k` and had not given back, if any.
async fn life(allocator: &Allocator) -> Result<Option<u32>, (Option<u32>, Error)> {
    let k = allocator.allocate("k", None).await.map_err(|error| (None, error))?;
    allocator.allocate("l", None).await.map_err(|error| (Some(k.id), error))?;
    allocator.release("l").await;
    allocator.gc().await.map_err(|error| (Some(k.id), error))?;
    allocator.gc().await.map_err(|error| (Some(k.id), error))?;
    let again = allocator.allocate("l", None).await.map_err(|error| (Some(k.id), error))?;
    assert_ne!(again.id, k.id);
    Ok(Some(k.id))
}

/// One death after `steps` operations; true if the node survived all that it had to do.
async fn die(world: Arc<World>, steps: i64, last_words: bool) -> bool {
    let base = format!("ids/{steps}/{last_words}");
    let mortal = Arc::new(Mortal { inner: world.other_node(), left: AtomicI64::new(steps), last_words });
    let through: Arc<dyn Backend> = mortal.clone();
    let (session, allocator) = node(&through, &base, "dead", Duration::from_millis(500));
    let had = match life(&allocator).await {
        Ok(had) => had,
        Err((had, _)) => had,
    };
    let survived = mortal.is_alive();
    // Dead before it could tidy up.
    mortal.left.store(-1, Ordering::SeqCst);
    drop((session, allocator));
    let what = format!("after {steps} operations, last words {last_words}");
    let backend = world.other_node();
    let (_session, heir) = node(&backend, &base, "heir", Duration::from_secs(60));
    let (_other_session, other) = node(&backend, &base, "other", Duration::from_secs(60));
    // While the dead one's lease lives, and both at once: one number, and the one that it may still be using.
    let (a, b) = tokio::join!(heir.allocate("k", None), other.allocate("k", None));
    let (a, b) = (a.expect("heir").id, b.expect("other").id);
    assert_eq!(a, b, "{what}: two numbers for one key");
    assert!(had.is_none_or(|had| had == a), "{what}: {had:?} was in use, {a} was given out");
    let mut numbers = BTreeSet::from([a]);
    for key in ["l", "m", "n"] {
        let id = heir.allocate(key, None).await.expect("allocate").id;
        assert!(numbers.insert(id), "{what}: {id} stands for two keys");
    }
    for key in ["k", "l", "m", "n"] {
        heir.release(key).await;
    }
    other.release("k").await;
    // Nothing stays, once the dead one's lease ran out.
    until("nothing is left", async || {
        other.gc().await.is_ok() && backend.list(&base).await.is_ok_and(|left| left.entries.is_empty())
    })
    .await;
    survived
}

async fn deaths(world: World) {
    let world = Arc::new(world);
    for last_words in [false, true] {
        let deaths = (0..STEPS).map(|steps| die(world.clone(), steps, last_words));
        let survived = futures::future::join_all(deaths).await;
        assert_eq!(
            (survived.first(), survived.last()),
            (Some(&false), Some(&true)),
            "not every step was the last once"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory() {
    deaths(World::new(Kind::Memory).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_etcd() {
    deaths(World::new(Kind::Etcd).await).await;
}
