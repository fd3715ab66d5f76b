//! The contract of [`Backend`], one promise a test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use kvstore::allocator::{Allocator, Choice, Options as AllocatorOptions};
use kvstore::session::{Options as SessionOptions, Session};
use kvstore::watch::{Update, follow};
use kvstore::{Attempt, Backend, Condition, Entry, Error, Event, Events, LeaseId, MAX_BYTES, Outcome, Txn};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::world::{Kind, World, soon, until};

macro_rules! contract {
    ($($promise:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() { super::$promise(super::World::new(super::Kind::Memory).await).await })*
        }
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() { super::$promise(super::World::new(super::Kind::Embedded).await).await })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() { super::$promise(super::World::new(super::Kind::Etcd).await).await })*
        }
    };
}

contract!(
    what_is_put_is_read,
    revisions_rise,
    conditional_writes,
    prefixes_are_exact,
    transactions_are_whole,
    limits_are_the_same,
    watches_replay_and_go_on,
    watches_refuse_a_future,
    leases_take_their_keys_along,
    leases_expire,
    locks_exclude,
    locks_have_names,
    races_have_one_winner,
    long_lists_are_whole,
    followers_end_up_right,
    nodes_agree_on_numbers,
    the_status_is_well,
    random_work_gives_what_memory_gives,
);

async fn put(backend: &Arc<dyn Backend>, key: &str, value: &str) -> u64 {
    backend.put(key, value.into(), None).await.expect("put")
}

async fn keys(backend: &Arc<dyn Backend>, prefix: &str) -> Vec<String> {
    backend.list(prefix).await.expect("list").entries.into_iter().map(|entry| entry.key).collect()
}

async fn collect(events: &mut Events, count: usize) -> Vec<Event> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(soon("events", events.next()).await.expect("endless").expect("no error"));
    }
    all
}

async fn what_is_put_is_read(world: World) {
    let backend = &world.backend;
    assert_eq!(backend.get("k").await.expect("get"), None);
    for (key, value) in [("k", &b"v"[..]), ("empty", b""), ("ünï cödé/%2F\n", b"\0\xff\xfe"), ("k", b"again")] {
        let revision = backend.put(key, value.to_vec(), None).await.expect("put");
        let entry = backend.get(key).await.expect("get").expect("there");
        assert_eq!((entry.key.as_str(), entry.value.as_slice(), entry.revision), (key, value, revision));
        assert_eq!(entry.lease, None);
    }
    assert!(backend.delete("k").await.expect("delete"));
    assert!(!backend.delete("k").await.expect("delete"));
    assert_eq!(backend.get("k").await.expect("get"), None);
    assert_eq!(backend.get("").await.expect("get"), None);
}

async fn revisions_rise(world: World) {
    let backend = &world.backend;
    let first = put(backend, "a", "1").await;
    let second = put(backend, "b", "1").await;
    let third = put(backend, "a", "2").await;
    assert!(first < second && second < third);
    let entry = backend.get("a").await.expect("get").expect("there");
    assert_eq!((entry.created, entry.revision), (first, third));
    assert_eq!(backend.list("").await.expect("list").revision, third);
    backend.delete("nothing").await.expect("delete");
    assert_eq!(backend.list("").await.expect("list").revision, third, "nothing happened");
    backend.delete("a").await.expect("delete");
    let again = put(backend, "a", "3").await;
    assert!(again > third + 1);
    assert_eq!(backend.get("a").await.expect("get").expect("there").created, again);
}

async fn conditional_writes(world: World) {
    let backend = &world.backend;
    let Attempt::Done(first) = backend.create_only("k", b"1".to_vec(), None).await.expect("create") else {
        panic!("there is no such key yet")
    };
    let Attempt::Conflict(Some(there)) = backend.create_only("k", b"2".to_vec(), None).await.expect("create") else {
        panic!("the key exists")
    };
    assert_eq!((there.value.as_slice(), there.revision), (&b"1"[..], first));
    let swap =
        async |expected, value: &str| backend.compare_and_swap("k", expected, value.into(), None).await.expect("swap");
    let Attempt::Done(second) = swap(first, "2").await else { panic!("it was at {first}") };
    assert!(matches!(swap(first, "3").await, Attempt::Conflict(Some(entry)) if entry.revision == second));
    assert!(matches!(swap(0, "3").await, Attempt::Conflict(Some(_))));
    assert!(matches!(backend.compare_and_delete("k", first).await.expect("delete"), Attempt::Conflict(Some(_))));
    assert!(matches!(backend.compare_and_delete("k", second).await.expect("delete"), Attempt::Done(_)));
    assert!(matches!(swap(second, "3").await, Attempt::Conflict(None)));
    assert!(matches!(swap(0, "3").await, Attempt::Done(_)));
}

async fn prefixes_are_exact(world: World) {
    let backend = &world.backend;
    for key in ["a", "a/", "a/1", "a/2/x", "a0", "b", "é/1", "ê/1", "\u{10ffff}"] {
        put(backend, key, "v").await;
    }
    assert_eq!(keys(backend, "a/").await, ["a/", "a/1", "a/2/x"]);
    assert_eq!(keys(backend, "a").await, ["a", "a/", "a/1", "a/2/x", "a0"]);
    assert_eq!(keys(backend, "é").await, ["é/1"]);
    assert_eq!(keys(backend, "\u{10ffff}").await, ["\u{10ffff}"]);
    assert_eq!(keys(backend, "x").await, [""; 0]);
    assert_eq!(keys(backend, "").await.len(), 9);
    assert_eq!(backend.delete_prefix("a/").await.expect("delete"), 3);
    assert_eq!(backend.delete_prefix("a/").await.expect("delete"), 0);
    assert_eq!(keys(backend, "a").await, ["a", "a0"]);
    assert_eq!(backend.delete_prefix("").await.expect("delete"), 6);
}

async fn transactions_are_whole(world: World) {
    let backend = &world.backend;
    let a = put(backend, "a", "1").await;
    put(backend, "p/1", "1").await;
    put(backend, "p/2", "1").await;
    let empty = || Condition::Empty { prefix: "p/".to_owned() };
    let at = |revision| Condition::Revision { key: "a".to_owned(), revision };
    let txn = Txn::new().when(at(a)).when(empty()).put("a", "2", None).delete_prefix("p/");
    let Outcome::Refused { found } = backend.commit(txn).await.expect("commit") else { panic!("p/ is not empty") };
    let found: Vec<_> = found.iter().map(|entry| entry.as_ref().map(|entry| entry.key.as_str())).collect();
    assert_eq!(found, [Some("a"), Some("p/1")]);
    assert_eq!(backend.get("a").await.expect("get").expect("there").value, b"1");
    let txn = Txn::new().when(at(a)).put("a", "2", None).put("b", "2", None).delete_prefix("p/").delete("none");
    let Outcome::Committed { revision, deleted } = backend.commit(txn).await.expect("commit") else {
        panic!("it holds")
    };
    assert_eq!(deleted, 2);
    let revisions: BTreeSet<u64> =
        backend.list("").await.expect("list").entries.iter().map(|entry| entry.revision).collect();
    assert_eq!(revisions, BTreeSet::from([revision]), "all changes are one");
    let created = Condition::Created { key: "a".to_owned(), revision: a };
    assert!(matches!(backend.commit(Txn::new().when(created).when(empty())).await, Ok(Outcome::Committed { .. })));
    let absent = Condition::Absent { key: "a".to_owned() };
    assert!(matches!(backend.commit(Txn::new().when(absent)).await, Ok(Outcome::Refused { .. })));
    let everything = Condition::Empty { prefix: String::new() };
    assert!(matches!(backend.commit(Txn::new().when(everything)).await, Ok(Outcome::Refused { .. })));
}

async fn limits_are_the_same(world: World) {
    let backend = &world.backend;
    let big = vec![7; MAX_BYTES - 1];
    backend.put("k", big.clone(), None).await.expect("as much as is allowed");
    assert_eq!(backend.get("k").await.expect("get").expect("there").value, big);
    let refused = |result: Result<u64, Error>| assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
    refused(backend.put("k", vec![7; MAX_BYTES], None).await);
    refused(backend.put("", vec![], None).await);
    refused(backend.put(&"k".repeat(20_000), vec![], None).await);
    let full = (0..128).fold(Txn::new(), |txn, n| {
        txn.when(Condition::Absent { key: format!("n/{n}") }).put(format!("n/{n}"), "v", None)
    });
    assert!(matches!(backend.commit(full).await, Ok(Outcome::Committed { .. })));
    assert_eq!(keys(backend, "n/").await.len(), 128);
}

async fn watches_replay_and_go_on(world: World) {
    let backend = &world.backend;
    let first = put(backend, "w/a", "1").await;
    put(backend, "x/a", "1").await;
    let txn = Txn::new().put("w/b", "1", None).delete("w/a");
    let Outcome::Committed { revision: second, .. } = backend.commit(txn).await.expect("commit") else { panic!() };
    let mut events = backend.watch("w/", first).await.expect("watch");
    let third = put(backend, "w/c", "3").await;
    put(backend, "wx", "3").await;
    let fourth = put(backend, "w/c", "4").await;
    let seen = collect(&mut events, 5).await;
    let seen: Vec<_> =
        seen.iter().map(|event| (event.key(), event.revision(), matches!(event, Event::Put(_)))).collect();
    // Within one revision the order is not promised.
    let mut expected = vec![
        ("w/a", first, true),
        ("w/b", second, true),
        ("w/a", second, false),
        ("w/c", third, true),
        ("w/c", fourth, true),
    ];
    let mut sorted = seen.clone();
    sorted.sort();
    expected.sort();
    assert_eq!(sorted, expected);
    assert!(seen.is_sorted_by_key(|(_, revision, _)| *revision));
    let mut later = backend.watch("w/", fourth + 1).await.expect("watch");
    put(backend, "w/d", "5").await;
    assert_eq!(collect(&mut later, 1).await[0].key(), "w/d");
    assert_eq!(collect(&mut events, 1).await[0].key(), "w/d");
}

async fn watches_refuse_a_future(world: World) {
    let backend = &world.backend;
    let now = put(backend, "k", "1").await;
    assert!(backend.watch("k", now + 1).await.is_ok());
    assert!(
        matches!(backend.watch("k", now + 2).await.err(), Some(Error::Compacted { .. })),
        "the store went back in time"
    );
}

async fn leases_take_their_keys_along(world: World) {
    let backend = &world.backend;
    let lease = backend.grant(Duration::from_secs(60)).await.expect("grant");
    assert!(lease.ttl >= Duration::from_secs(60));
    let other = backend.grant(Duration::from_secs(60)).await.expect("grant").id;
    for key in ["l/stays", "l/moves", "l/goes", "l/goes too"] {
        backend.put(key, b"1".to_vec(), Some(lease.id)).await.expect("put");
    }
    assert_eq!(backend.get("l/goes").await.expect("get").expect("there").lease, Some(lease.id));
    put(backend, "l/stays", "2").await;
    backend.put("l/moves", b"2".to_vec(), Some(other)).await.expect("put");
    backend.keep_alive(lease.id).await.expect("keep alive");
    let before = backend.list("").await.expect("list").revision;
    let mut events = backend.watch("l/", before + 1).await.expect("watch");
    backend.revoke(lease.id).await.expect("revoke");
    assert_eq!(keys(backend, "l/").await, ["l/moves", "l/stays"]);
    let gone: BTreeSet<String> = collect(&mut events, 2).await.iter().map(|event| event.key().to_owned()).collect();
    assert_eq!(gone, BTreeSet::from(["l/goes".to_owned(), "l/goes too".to_owned()]));
    backend.revoke(lease.id).await.expect("twice is as good as once");
    let gone = |result: Result<(), Error>, id| {
        assert!(matches!(result, Err(Error::LeaseNotFound { lease, .. }) if lease == id), "{result:?}");
    };
    gone(backend.keep_alive(lease.id).await, lease.id);
    gone(backend.put("l/new", vec![], Some(lease.id)).await.map(drop), lease.id);
    gone(backend.put("l/new", vec![], Some(LeaseId(4711))).await.map(drop), LeaseId(4711));
    assert_eq!(backend.get("l/new").await.expect("get"), None);
}

async fn leases_expire(world: World) {
    let backend = &world.backend;
    let begin = tokio::time::Instant::now();
    let kept = backend.grant(Duration::from_secs(5)).await.expect("grant");
    let left = backend.grant(Duration::from_secs(1)).await.expect("grant");
    backend.put("kept", vec![], Some(kept.id)).await.expect("put");
    backend.put("left", vec![], Some(left.id)).await.expect("put");
    until("only what is renewed can be left", async || {
        backend.keep_alive(kept.id).await.expect("keep alive");
        begin.elapsed() > kept.ttl * 2 && backend.get("left").await.expect("get").is_none()
    })
    .await;
    assert!(backend.get("kept").await.expect("get").is_some());
    assert!(matches!(backend.keep_alive(left.id).await, Err(Error::LeaseNotFound { .. })));
}

async fn locks_exclude(world: World) {
    let inside = Arc::new(AtomicU32::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (backend, inside) = (world.other_node(), inside.clone());
        tasks.spawn(async move {
            let lock = backend.lock("locks/one", Duration::from_secs(60)).await.expect("lock");
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "nobody else is inside");
            let txn = Txn::new().put("counter", "x", None);
            let txn = lock.condition().into_iter().fold(txn, Txn::when);
            assert!(matches!(backend.commit(txn).await, Ok(Outcome::Committed { .. })));
            assert!(!lock.is_lost());
            inside.fetch_sub(1, Ordering::SeqCst);
        });
    }
    assert_eq!(soon("all to have had the lock", tasks.join_all()).await.len(), 12);
    let backend = &world.backend;
    until("no lock key is left", async || keys(backend, "locks/").await.is_empty()).await;
}

async fn locks_have_names(world: World) {
    let (here, there) = (&world.backend, world.other_node());
    let wait = Duration::from_millis(300);
    let held = here.lock("locks/a", wait).await.expect("lock");
    let busy = there.lock("locks/a", wait).await;
    assert!(matches!(&busy, Err(Error::LockBusy { name, .. }) if name == "locks/a"), "{busy:?}");
    let below = there.lock("locks/a/b", Duration::from_secs(60)).await.expect("another name");
    assert_eq!(below.name(), "locks/a/b");
    let condition = held.condition();
    drop(held);
    let next = there.lock("locks/a", Duration::from_secs(60)).await.expect("free again");
    if let Some(condition) = condition {
        until("the old lock opens nothing any more", async || {
            let txn = Txn::new().when(condition.clone()).put("k", "v", None);
            matches!(here.commit(txn).await, Ok(Outcome::Refused { .. }))
        })
        .await;
    }
    drop((next, below));
}

async fn races_have_one_winner(world: World) {
    const TASKS: u64 = 16;
    const ROUNDS: u64 = 10;
    put(&world.backend, "counter", "0").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let backend = world.other_node();
        tasks.spawn(async move {
            let mut won = 0;
            while won < ROUNDS {
                let entry = backend.get("counter").await.expect("get").expect("there");
                let count: u64 = std::str::from_utf8(&entry.value).expect("text").parse().expect("number");
                let next = (count + 1).to_string().into_bytes();
                let attempt = backend.compare_and_swap("counter", entry.revision, next, None).await.expect("swap");
                won += u64::from(matches!(attempt, Attempt::Done(_)));
            }
        });
    }
    soon("all rounds", tasks.join_all()).await;
    let end = world.backend.get("counter").await.expect("get").expect("there");
    assert_eq!(end.value, (TASKS * ROUNDS).to_string().as_bytes());
}

async fn long_lists_are_whole(world: World) {
    let backend = &world.backend;
    let all: Vec<String> = (0..2_500).map(|n| format!("long/{n:05}")).collect();
    for page in all.chunks(128) {
        let txn = page.iter().fold(Txn::new(), |txn, key| txn.put(key, key.as_bytes(), None));
        backend.commit(txn).await.expect("commit");
    }
    let listing = backend.list("long/").await.expect("list");
    assert_eq!(listing.entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>(), all);
    assert_eq!(listing.entries.iter().map(|entry| entry.revision).max(), Some(listing.revision));
    assert_eq!(backend.delete_prefix("long/").await.expect("delete"), 2_500);
}

/// What somebody knows who believes a feed.
async fn believe(feed: &mut kvstore::watch::Feed, seen: &mut BTreeMap<String, Vec<u8>>) -> bool {
    let mut synced = false;
    for update in soon("updates", feed.next()).await.expect("endless") {
        match update {
            Update::Put(entry) => drop(seen.insert(entry.key, entry.value)),
            Update::Delete { key } => assert!(seen.remove(&key).is_some(), "{key} was never told"),
            Update::Synced { .. } => synced = true,
            Update::Reset => {}
        }
    }
    synced
}

async fn followers_end_up_right(world: World) {
    put(&world.backend, "f/early", "1").await;
    let mut feed = follow(world.backend.clone(), "f/", kvstore::watch::Options::default());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let backend = world.other_node();
        writers.spawn(async move {
            for n in 0..100 {
                let key = format!("f/{}", (n * 7 + writer) % 20);
                if n % 3 == 0 {
                    backend.delete(&key).await.expect("delete");
                } else {
                    put(&backend, &key, &format!("{writer}/{n}")).await;
                }
            }
        });
    }
    soon("the writers", writers.join_all()).await;
    put(&world.backend, "f/last", "1").await;
    let mut seen = BTreeMap::new();
    while !seen.contains_key("f/last") {
        believe(&mut feed, &mut seen).await;
    }
    let there = world.backend.list("f/").await.expect("list").entries;
    assert_eq!(seen, there.into_iter().map(|entry| (entry.key, entry.value)).collect());
}

async fn nodes_agree_on_numbers(world: World) {
    for choice in [Choice::Random, Choice::Lowest] {
        let base = format!("ids/{choice:?}");
        let mut tasks = tokio::task::JoinSet::new();
        for node in 0..4 {
            let backend = world.other_node();
            let base = base.clone();
            tasks.spawn(async move {
                let session = Session::start(backend.clone(), SessionOptions::default());
                let options =
                    AllocatorOptions { choice, ..AllocatorOptions::new(&base, &format!("n{node}"), 256..=65_535) };
                let allocator = Allocator::start(backend, session, options);
                let mut ids = Vec::new();
                for key in 0..5 {
                    ids.push(allocator.allocate(&format!("key{key};"), None).await.expect("allocate").id);
                }
                // Alive until all have allocated: numbers are agreed on by those who use them.
                (ids, allocator)
            });
        }
        let all = soon("all nodes", tasks.join_all()).await;
        assert!(all.windows(2).all(|pair| pair[0].0 == pair[1].0), "{choice:?}: nodes disagree");
        assert_eq!(all[0].0.iter().collect::<BTreeSet<_>>().len(), 5);
        assert_eq!(keys(&world.backend, &format!("{base}/id/")).await.len(), 5);
        assert_eq!(keys(&world.backend, &format!("{base}/value/")).await.len(), 20);
    }
}

async fn the_status_is_well(world: World) {
    let now = put(&world.backend, "k", "v").await;
    let status = world.backend.status().await;
    assert!(status.healthy, "{status:?}");
    assert_eq!(status.revision, Some(now));
    let known = ["memory: 1 keys", "embedded: ", "etcd: 1/1 connected, has-quorum=true: http://127.0.0.1:"];
    assert!(known.iter().any(|start| status.text.starts_with(start)), "{}", status.text);
}

fn random_txn(random: &mut StdRng, leases: &[LeaseId], last: u64) -> Txn {
    let key = |random: &mut StdRng| format!("r/{}", random.random_range(0..6));
    let mut txn = Txn::new();
    for _ in 0..random.random_range(0..3) {
        txn = txn.when(match random.random_range(0..5) {
            0 => Condition::Absent { key: key(random) },
            1 => Condition::Empty { prefix: key(random) },
            2 => Condition::Empty { prefix: format!("r/{}/", random.random_range(0..6)) },
            3 => Condition::Created { key: key(random), revision: last.saturating_sub(random.random_range(0..4)) },
            _ => Condition::Revision { key: key(random), revision: last.saturating_sub(random.random_range(0..4)) },
        });
    }
    let mut touched = BTreeSet::new();
    for _ in 0..random.random_range(1..4) {
        let key = key(random);
        if !touched.insert(key.clone()) {
            continue;
        }
        txn = match random.random_range(0..8) {
            0 => txn.delete(key),
            1 => txn.delete_prefix(key),
            2 | 3 => txn.put(key, vec![random.random()], Some(leases[random.random_range(0..leases.len())])),
            _ => txn.put(key, vec![random.random()], None),
        };
    }
    txn
}

/// The same transaction for a store whose revisions and leases have other names.
fn translate(txn: &Txn, offset: u64, leases: &BTreeMap<LeaseId, LeaseId>) -> Txn {
    let mut other = txn.clone();
    for condition in &mut other.conditions {
        if let Condition::Revision { revision, .. } | Condition::Created { revision, .. } = condition {
            *revision += offset;
        }
    }
    for change in &mut other.changes {
        if let kvstore::Change::Put { lease: Some(lease), .. } = change {
            *lease = leases[lease];
        }
    }
    other
}

fn relative(entry: Entry, offset: u64, leases: &BTreeMap<LeaseId, LeaseId>) -> Entry {
    let lease = entry.lease.map(|lease| *leases.get(&lease).unwrap_or(&lease));
    Entry { revision: entry.revision - offset, created: entry.created - offset, lease, ..entry }
}

async fn random_work_gives_what_memory_gives(world: World) {
    let seed: u64 = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let (model, _power) = kvstore::memory::open();
    let real = &world.backend;
    let offset = put(real, "start", "x").await - put(&model, "start", "x").await;
    let (mut to_real, mut to_model) = (BTreeMap::new(), BTreeMap::new());
    for _ in 0..3 {
        let ids = (model.grant(Duration::from_secs(600)).await, real.grant(Duration::from_secs(600)).await);
        let (model_lease, real_lease) = (ids.0.expect("grant").id, ids.1.expect("grant").id);
        to_real.insert(model_lease, real_lease);
        to_model.insert(real_lease, model_lease);
    }
    let leases: Vec<LeaseId> = to_real.keys().copied().collect();
    let start = model.list("").await.expect("list").revision;
    let mut told = real.watch("r/", start + offset + 1).await.expect("watch");
    let mut last = start;
    for step in 0..300 {
        let txn = random_txn(&mut random, &leases, last);
        let expected = model.commit(txn.clone()).await.expect("model");
        let outcome = real.commit(translate(&txn, offset, &to_real)).await.expect("commit");
        let outcome = match outcome {
            Outcome::Committed { revision, deleted } => {
                last = revision - offset;
                Outcome::Committed { revision: last, deleted }
            }
            Outcome::Refused { found } => {
                let found = found.into_iter().map(|entry| entry.map(|entry| relative(entry, offset, &to_model)));
                Outcome::Refused { found: found.collect() }
            }
        };
        assert_eq!(outcome, expected, "seed {seed} step {step}: {txn:?}");
    }
    for lease in &leases[..2] {
        model.revoke(*lease).await.expect("revoke");
        real.revoke(to_real[lease]).await.expect("revoke");
    }
    let expected = model.list("r/").await.expect("list");
    let there = real.list("r/").await.expect("list").entries.into_iter();
    assert_eq!(
        there.map(|entry| relative(entry, offset, &to_model)).collect::<Vec<_>>(),
        expected.entries,
        "seed {seed}"
    );
    let mut history = model.watch("r/", start + 1).await.expect("watch");
    let sort = |mut events: Vec<(u64, String, Option<Vec<u8>>)>| {
        events.sort();
        events
    };
    let flat = |event: Event, offset: u64| match event {
        Event::Put(entry) => (entry.revision - offset, entry.key, Some(entry.value)),
        Event::Delete { key, revision } => (revision - offset, key, None),
    };
    let expected = soon("the model's history", history.next()).await.expect("endless").expect("no error");
    let seen = collect(&mut told, expected.len()).await;
    let expected = sort(expected.into_iter().map(|event| flat(event, 0)).collect());
    assert_eq!(sort(seen.into_iter().map(|event| flat(event, offset)).collect()), expected, "seed {seed}");
}
