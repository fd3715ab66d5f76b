//! What only a cluster can suffer: dead, silent and restarted servers, compactions, and a store that goes back in time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kvstore::allocator::{Allocator, Options as AllocatorOptions};
use kvstore::session::{Options as SessionOptions, Session};
use kvstore::watch::{Feed, Options, Update, follow};
use kvstore::{Backend, Error, EtcdConfig, Outcome, Txn, etcd::Etcd};

use crate::cluster::{Server, config, etcdctl, free_port};
use crate::proxy::{Proxy, Wire};
use crate::world::{soon, until};

fn connect(addresses: Vec<String>, timeout: Duration) -> Arc<dyn Backend> {
    Arc::new(Etcd::new(EtcdConfig { timeout, ..config(addresses) }).expect("configuration"))
}

async fn put(backend: &Arc<dyn Backend>, key: &str, value: &str) -> u64 {
    backend.put(key, value.into(), None).await.expect("put")
}

fn hasty() -> Options {
    let compare_after = Duration::from_millis(500);
    Options {
        first_retry: Duration::from_millis(20),
        last_retry: Duration::from_millis(200),
        compare_after,
        ..Options::default()
    }
}

/// Somebody who believes a feed.
struct Reader {
    feed: Feed,
    seen: BTreeMap<String, Vec<u8>>,
    synced: bool,
}

impl Reader {
    fn new(backend: &Arc<dyn Backend>, prefix: &str) -> Reader {
        Reader { feed: follow(backend.clone(), prefix, hasty()), seen: BTreeMap::new(), synced: false }
    }

    async fn until(&mut self, what: &str, done: impl Fn(&Reader) -> bool) {
        while !done(self) {
            for update in soon(what, self.feed.next()).await.expect("endless") {
                match update {
                    Update::Reset => self.synced = false,
                    Update::Synced { .. } => self.synced = true,
                    Update::Put(entry) => drop(self.seen.insert(entry.key, entry.value)),
                    Update::Delete { key } => assert!(self.seen.remove(&key).is_some(), "{key} was never told"),
                }
            }
        }
    }

    fn knows(&self, keys: &[&str]) -> bool {
        self.synced && self.seen.keys().eq(keys)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_an_error_and_not_a_wait() {
    let store = connect(vec![format!("http://127.0.0.1:{}", free_port())], Duration::from_secs(1));
    let error = soon("an error", store.get("k")).await.expect_err("nobody is there");
    assert!(matches!(error, Error::Unavailable { .. }) && error.is_retryable(), "{error:?}");
    assert!(error.chain().contains("refused"), "{}", error.chain());
    assert!(soon("an error", store.put("k", vec![], None)).await.expect_err("nobody").is_unavailable());
    assert!(soon("an error", store.watch("k", 1)).await.err().expect("nobody").is_unavailable());
    assert!(soon("an error", store.grant(Duration::from_secs(9))).await.expect_err("nobody").is_unavailable());
    assert!(soon("an error", store.lock("k", Duration::from_secs(1))).await.expect_err("nobody").is_unavailable());
    let status = soon("a status", store.status()).await;
    assert!(!status.healthy && status.text.starts_with("etcd: 0/1 connected, has-quorum=false"), "{status:?}");
}

/// A list asks for so many entries at once as answers have room for by what it saw; large values may follow small ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_small_and_large_values_is_whole() {
    let server = Server::start().await;
    let store = connect(vec![server.address()], Duration::from_secs(10));
    for hundred in 0..60 {
        let txn =
            (0..100).fold(Txn::new(), |txn, n| txn.put(format!("k/a{:05}", hundred * 100 + n), &b"small"[..], None));
        store.commit(txn).await.expect("put");
    }
    // Together more than an answer may hold.
    let large = "x".repeat(1000 * 1000);
    for n in 0..40 {
        put(&store, &format!("k/b{n:02}"), &large).await;
    }
    let entries = store.list("k/").await.expect("list").entries;
    assert_eq!(entries.len(), 6_040);
    assert!(entries.is_sorted_by(|a, b| a.key < b.key));
    assert!(entries[6_000..].iter().all(|entry| entry.value.len() == large.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_does_not_hang_us() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    put(&server.connect(), "k", "v").await;
    let store = connect(vec![proxy.address()], Duration::from_millis(500));
    until("it answers", async || store.get("k").await.is_ok()).await;
    proxy.set(Wire::Silent);
    for _ in 0..2 {
        assert!(soon("an error", store.get("k")).await.expect_err("silent").is_unavailable());
        assert!(soon("an error", store.create_only("k", vec![], None)).await.expect_err("silent").is_unavailable());
    }
    assert!(!soon("a status", store.status()).await.healthy);
    // A second address helps, also for what may be sent only once: the silent one is not asked first any more.
    let store = connect(vec![proxy.address(), server.address()], Duration::from_secs(8));
    assert!(soon("an answer", store.get("k")).await.expect("the other one answers").is_some());
    assert!(soon("an answer", store.create_only("l", vec![], None)).await.is_ok());
    proxy.set(Wire::Whole);
    let store = connect(vec![proxy.address()], Duration::from_secs(5));
    until("it is whole again", async || store.get("k").await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_is_passed_over() {
    let server = Server::start().await;
    let dead = format!("http://127.0.0.1:{}", free_port());
    let store = connect(vec![dead.clone(), server.address()], Duration::from_secs(20));
    assert!(matches!(store.create_only("k", b"v".to_vec(), None).await, Ok(kvstore::Attempt::Done(_))));
    let status = store.status().await;
    assert!(status.healthy && status.text.starts_with("etcd: 1/2 connected, has-quorum=true"), "{status:?}");
    assert!(status.text.contains(&dead) && status.text.contains("(Leader)"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_outlives_its_leader() {
    let mut servers = Server::cluster(3).await;
    let store = connect(servers.iter().map(Server::address).collect(), Duration::from_secs(5));
    let mut reader = Reader::new(&store, "k/");
    put(&store, "k/1", "v").await;
    reader.until("the first key", |reader| reader.knows(&["k/1"])).await;
    let session =
        Session::start(store.clone(), SessionOptions { ttl: Duration::from_secs(10), ..SessionOptions::default() });
    session.publish("s/1", "v").await.expect("publish");
    let mut leader = None;
    for (n, server) in servers.iter().enumerate() {
        let status = server.raw().await.status().await.expect("status");
        if status.header().expect("header").member_id() == status.leader() {
            leader = Some(n);
        }
    }
    servers[leader.expect("somebody leads")].kill();
    until("writes work again", async || store.put("k/2", b"v".to_vec(), None).await.is_ok()).await;
    reader.until("the second key", |reader| reader.knows(&["k/1", "k/2"])).await;
    session.publish("s/2", "v").await.ok();
    until("the session goes on", async || session.health().borrow().pending == 0).await;
    assert_eq!(store.list("s/").await.expect("list").entries.len(), 2);
    let others: Vec<usize> = (0..3).filter(|n| Some(*n) != leader).collect();
    servers[others[0]].kill();
    until("there is no quorum", async || !store.status().await.healthy).await;
    let status = store.status().await;
    assert!(status.text.starts_with("etcd: ") && status.text.contains("has-quorum=false"), "{status:?}");
    servers[others[0]].spawn();
    until("there is one again", async || store.status().await.healthy).await;
    put(&store, "k/3", "v").await;
    reader.until("the third key", |reader| reader.knows(&["k/1", "k/2", "k/3"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_on_after_a_restart() {
    let mut server = Server::start().await;
    let store = server.connect();
    let session =
        Session::start(store.clone(), SessionOptions { ttl: Duration::from_secs(60), ..SessionOptions::default() });
    let allocator = Allocator::start(store.clone(), session.clone(), AllocatorOptions::new("ids", "n1", 256..=65_535));
    let id = allocator.allocate("k", None).await.expect("allocate").id;
    let mut reader = Reader::new(&store, "k/");
    put(&store, "k/1", "v").await;
    reader.until("the first key", |reader| reader.knows(&["k/1"])).await;
    server.kill();
    reader.until("the loss is told", |reader| !reader.synced).await;
    assert!(reader.seen.contains_key("k/1"), "nothing is deleted for it");
    assert_eq!(allocator.allocate("k", None).await.expect("known here").id, id);
    server.spawn();
    server.ready().await;
    store.delete("k/1").await.expect("delete");
    put(&store, "k/2", "v").await;
    reader.until("the second key", |reader| reader.knows(&["k/2"])).await;
    session.publish("s", "v").await.ok();
    until("the session goes on", async || session.health().borrow().pending == 0).await;
    assert_eq!(store.list("ids/").await.expect("list").entries.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_during_an_outage_hides_nothing() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let (near, far) = (connect(vec![proxy.address()], Duration::from_secs(10)), server.connect());
    put(&far, "k/stays", "1").await;
    put(&far, "k/goes", "1").await;
    let mut reader = Reader::new(&near, "k/");
    reader.until("the first keys", |reader| reader.knows(&["k/goes", "k/stays"])).await;
    proxy.set(Wire::Cut);
    reader.until("the loss is told", |reader| !reader.synced).await;
    far.delete("k/goes").await.expect("delete");
    put(&far, "k/brief", "1").await;
    far.delete("k/brief").await.expect("delete");
    let last = put(&far, "k/new", "1").await;
    server.raw().await.compact(last.cast_signed(), None).await.expect("compact");
    let mut gone = far.watch("k/", 1).await.expect("the stream says it");
    assert!(matches!(soon("the end", gone.next()).await, Some(Err(Error::Compacted { from: 1, .. }))));
    assert!(soon("the end", gone.next()).await.is_none());
    proxy.set(Wire::Whole);
    reader.until("what happened meanwhile", |reader| reader.knows(&["k/new", "k/stays"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_lost_during_an_outage_is_replaced() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let (near, far) = (connect(vec![proxy.address()], Duration::from_secs(10)), server.connect());
    let options =
        SessionOptions { ttl: Duration::from_secs(5), retry: Duration::from_millis(100), ..SessionOptions::default() };
    let session = Session::start(near.clone(), options);
    let allocator = Allocator::start(near, session.clone(), AllocatorOptions::new("ids", "n1", 256..=65_535));
    let id = allocator.allocate("k", None).await.expect("allocate").id;
    until("the key is there", async || session.publish("s/1", "v").await.is_ok()).await;
    proxy.set(Wire::Cut);
    until("the lease has lapsed", async || far.list("s/").await.expect("list").entries.is_empty()).await;
    assert!(session.publish("s/2", "v").await.is_err());
    proxy.set(Wire::Whole);
    until("the keys are back", async || far.list("s/").await.expect("list").entries.len() == 2).await;
    until("the number's user is back", async || far.list("ids/value/").await.expect("list").entries.len() == 1).await;
    assert_eq!(allocator.allocate("k", None).await.expect("allocate").id, id);
    assert_eq!(session.health().borrow().owned, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_lost_with_its_lease() {
    let server = Server::start().await;
    let (store, other) = (server.connect(), server.connect());
    let lock = store.lock("locks/a", Duration::from_secs(10)).await.expect("lock");
    let key = store.list("locks/").await.expect("list").entries.remove(0);
    let waiting = tokio::spawn(async move { other.lock("locks/a", Duration::from_secs(60)).await });
    until("somebody waits", async || store.list("locks/").await.expect("list").entries.len() == 2).await;
    store.revoke(key.lease.expect("leased")).await.expect("revoke");
    let next = soon("the next one", waiting).await.expect("task").expect("lock");
    let write = |lock: &kvstore::Lock| lock.condition().into_iter().fold(Txn::new().put("k", "v", None), Txn::when);
    assert!(matches!(store.commit(write(&lock)).await, Ok(Outcome::Refused { .. })), "it no longer opens anything");
    assert!(matches!(store.commit(write(&next)).await, Ok(Outcome::Committed { .. })));
    until("the holder learns of it", async || lock.is_lost()).await;
}

/// The hard case: the restored store has been written to, past the revision that followers know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_restored_from_a_backup_is_followed() {
    let mut server = Server::start().await;
    let proxy = Proxy::to(server.port).await;
    let (near, far) = (connect(vec![proxy.address()], Duration::from_secs(10)), server.connect());
    put(&far, "k/backed up", "old").await;
    put(&far, "k/deleted later", "1").await;
    let snapshot = server.folder.path().join("snapshot").display().to_string();
    etcdctl(&server, &["snapshot", "save", &snapshot]);
    far.delete("k/deleted later").await.expect("delete");
    put(&far, "k/backed up", "new").await;
    put(&far, "k/lost", "1").await;
    let mut reader = Reader::new(&near, "k/");
    reader.until("the first keys", |reader| reader.knows(&["k/backed up", "k/lost"])).await;
    proxy.set(Wire::Cut);
    reader.until("the loss is told", |reader| !reader.synced).await;
    server.kill();
    let data = server.data();
    std::fs::remove_dir_all(&data).expect("lose the data");
    restore(&server, &snapshot);
    server.spawn();
    server.ready().await;
    for n in 0..20 {
        put(&far, "elsewhere", &n.to_string()).await;
    }
    proxy.set(Wire::Whole);
    reader.until("the restored keys", |reader| reader.knows(&["k/backed up", "k/deleted later"])).await;
    reader.until("the restored value", |reader| reader.seen["k/backed up"] == b"old").await;
}

fn restore(server: &Server, snapshot: &str) {
    let data = server.data().display().to_string();
    let peer = server.initial_cluster();
    let url = peer.split_once('=').expect("name=url").1.to_owned();
    let args = ["--name", "m0", "--initial-cluster", &peer, "--initial-advertise-peer-urls", &url, "--data-dir", &data];
    etcdctl(server, &[&["snapshot", "restore", snapshot], &args[..]].concat());
}
