use std::collections::BTreeMap;

use super::*;
use crate::memory::{self, Power};
use crate::session;

const BASE: &str = "ids/v1";

struct Node {
    allocator: Allocator,
    session: Session,
}

fn node_with(backend: &Arc<dyn Backend>, name: &str, options: Options) -> Node {
    let ttl = Duration::from_secs(30);
    let session = Session::start(backend.clone(), session::Options { ttl, ..session::Options::default() });
    let allocator = Allocator::start(backend.clone(), session.clone(), Options { node: name.to_owned(), ..options });
    Node { allocator, session }
}

fn options() -> Options {
    Options::new(BASE, "", 256..=65_535)
}

fn node(backend: &Arc<dyn Backend>, name: &str) -> Node {
    node_with(backend, name, options())
}

impl Node {
    async fn id(&self, key: &str) -> u32 {
        let allocation = self.allocator.allocate(key, None).await.expect("allocate");
        assert!(!allocation.provisional);
        allocation.id
    }
}

async fn keys_of(backend: &Arc<dyn Backend>) -> BTreeMap<String, String> {
    let entries = backend.list(BASE).await.expect("list").entries;
    let text = |entry: Entry| (entry.key, String::from_utf8(entry.value).expect("text"));
    entries.into_iter().map(text).collect()
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(300);
    while !done().await {
        assert!(tokio::time::Instant::now() < deadline, "waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_keys_in_the_store() {
    let (backend, _power) = memory::open();
    let a = node(&backend, "10.0.0.1");
    let id = a.allocator.allocate("container:id=app1;", Some(777)).await.expect("allocate").id;
    assert_eq!(id, 777);
    let expected = [
        ("ids/v1/id/777".to_owned(), "container:id=app1;".to_owned()),
        ("ids/v1/value/container:id=app1;/10.0.0.1".to_owned(), "777".to_owned()),
    ];
    assert_eq!(keys_of(&backend).await, BTreeMap::from(expected));
    let lease = async |key: &str| backend.get(key).await.expect("get").expect("there").lease;
    assert!(lease("ids/v1/id/777").await.is_none());
    assert!(lease("ids/v1/value/container:id=app1;/10.0.0.1").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn uses_are_counted() {
    let (backend, _power) = memory::open();
    let a = node(&backend, "a");
    let id = a.id("k").await;
    assert_eq!(a.id("k").await, id);
    assert_eq!(a.allocator.in_use(), [("k".to_owned(), id, 2)]);
    assert_eq!(a.allocator.release("k").await, Release::Kept);
    assert_eq!(keys_of(&backend).await.len(), 2);
    assert_eq!(a.allocator.release("k").await, Release::Last);
    assert_eq!(keys_of(&backend).await.into_values().collect::<Vec<_>>(), ["k"], "the master stays");
    assert_eq!(a.allocator.release("k").await, Release::Unknown);
    assert_eq!(a.id("k").await, id, "an unused master is taken up again");
}

#[tokio::test(start_paused = true)]
async fn many_nodes_agree() {
    let (backend, _power) = memory::open();
    for choice in [Choice::Random, Choice::Lowest] {
        let options = Options { choice, base: format!("{BASE}/{choice:?}"), ..options() };
        let nodes: Vec<Node> = (0..10).map(|n| node_with(&backend, &format!("n{n}"), options.clone())).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for node in &nodes {
            for key in 0..10 {
                let allocator = node.allocator.clone();
                tasks.spawn(async move {
                    (key, allocator.allocate(&format!("key/{key}"), None).await.expect("allocate").id)
                });
            }
        }
        let mut ids: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for (key, id) in tasks.join_all().await {
            ids.entry(key).or_default().insert(id);
        }
        assert!(ids.values().all(|ids| ids.len() == 1), "one number for each key: {ids:?}");
        assert_eq!(ids.values().flatten().collect::<BTreeSet<_>>().len(), 10, "one key for each number");
    }
}

#[tokio::test(start_paused = true)]
async fn one_key_does_not_hide_behind_another() {
    let (backend, _power) = memory::open();
    let (a, b) = (node(&backend, "a"), node(&backend, "b"));
    let long = a.id("k/x").await;
    let short = b.id("k").await;
    assert_ne!(long, short);
    assert_eq!(b.id("k/x").await, long);
    assert_ne!(b.id("k%2Fx").await, long);
    assert!(matches!(a.allocator.allocate("", None).await, Err(Error::Invalid { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_full_range_is_an_error() {
    let (backend, _power) = memory::open();
    let a = node_with(&backend, "a", Options { range: 5..=6, ..options() });
    assert_eq!(BTreeSet::from([a.id("k1").await, a.id("k2").await]), BTreeSet::from([5, 6]));
    let full = a.allocator.allocate("k3", None).await;
    assert!(matches!(full, Err(Error::Exhausted { first: 5, last: 6, .. })), "{full:?}");
}

#[tokio::test(start_paused = true)]
async fn numbers_survive_a_restart() {
    let (backend, _power) = memory::open();
    let a = node(&backend, "a");
    let id = a.id("k").await;
    drop(a);
    // Longer than the lease lives: no slave is left.
    until("the slave is gone", async || keys_of(&backend).await.len() == 1).await;
    assert_eq!(node(&backend, "a").id("k").await, id);
}

#[tokio::test(start_paused = true)]
async fn gc_takes_two_passes_and_a_grace() {
    let (backend, _power) = memory::open();
    let a = node_with(&backend, "a", Options { grace: Duration::from_secs(60), ..options() });
    let (used, unused) = (a.id("used").await, a.id("unused").await);
    a.allocator.release("unused").await;
    let first = a.allocator.gc().await.expect("gc");
    assert_eq!((first.seen, first.waiting, first.deleted), (2, 1, vec![]));
    assert_eq!(a.allocator.gc().await.expect("gc").deleted, [], "the grace has not passed");
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(a.allocator.gc().await.expect("gc").deleted, [unused]);
    assert_eq!(
        keys_of(&backend).await.into_keys().collect::<Vec<_>>(),
        [format!("{BASE}/id/{used}"), format!("{BASE}/value/used/a")]
    );
}

#[tokio::test(start_paused = true)]
async fn gc_spares_what_is_taken_up_between_passes() {
    let (backend, _power) = memory::open();
    let (a, b) = (node(&backend, "a"), node(&backend, "b"));
    let id = a.id("k").await;
    a.allocator.release("k").await;
    a.allocator.gc().await.expect("gc");
    assert_eq!(b.id("k").await, id);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(a.allocator.gc().await.expect("gc").deleted, []);
}

#[tokio::test(start_paused = true)]
async fn gc_deletes_a_second_master_of_a_key_in_use() {
    let (backend, _power) = memory::open();
    let a = node(&backend, "a");
    let id = a.id("k").await;
    backend.put(&format!("{BASE}/id/300"), b"k".to_vec(), None).await.expect("put");
    backend.put(&format!("{BASE}/id/70000"), b"k".to_vec(), None).await.expect("put");
    a.allocator.gc().await.expect("gc");
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(a.allocator.gc().await.expect("gc").deleted, [300], "and nothing out of our range");
    assert_eq!(a.allocator.key_of(id).as_deref(), Some("k"));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_master_in_use_is_written_again() {
    let (backend, power) = memory::open();
    let a = node(&backend, "a");
    let id = a.id("k").await;
    let master = format!("{BASE}/id/{id}");
    until("known", async || a.allocator.key_of(id).is_some()).await;
    backend.delete(&master).await.expect("delete");
    until("mended", async || backend.get(&master).await.expect("get").is_some()).await;
    // Deleted while nobody was looking.
    backend.delete(&master).await.expect("delete");
    power.compact();
    until("mended again", async || backend.get(&master).await.expect("get").is_some()).await;
    assert_eq!(a.id("k").await, id);
}

#[tokio::test(start_paused = true)]
async fn a_number_lost_to_another_key_is_told() {
    let (backend, _power) = memory::open();
    let a = node(&backend, "a");
    let mut events = a.allocator.subscribe();
    let id = a.id("k").await;
    backend.put(&format!("{BASE}/id/{id}"), b"other".to_vec(), None).await.expect("put");
    until("the conflict is told", async || {
        let mut told = std::iter::from_fn(|| events.try_recv().ok()).flatten();
        told.any(|event| event == IdEvent::Conflict { id, key: "k".to_owned() })
    })
    .await;
    assert_ne!(a.id("k").await, id);
}

#[tokio::test(start_paused = true)]
async fn a_slave_that_contradicts_its_master_is_cleared_away() {
    let (backend, _power) = memory::open();
    backend.put(&format!("{BASE}/id/300"), b"other".to_vec(), None).await.expect("put");
    backend.put(&format!("{BASE}/value/k/dead"), b"300".to_vec(), None).await.expect("put");
    backend.put(&format!("{BASE}/value/k/a"), b"nonsense".to_vec(), None).await.expect("put");
    let a = node(&backend, "a");
    let id = a.id("k").await;
    assert_ne!(id, 300);
    let keys = keys_of(&backend).await;
    assert_eq!(keys.get(&format!("{BASE}/value/k/a")), Some(&id.to_string()));
    assert!(!keys.contains_key(&format!("{BASE}/value/k/dead")));
}

#[tokio::test(start_paused = true)]
async fn a_slave_without_master_brings_it_back() {
    let (backend, _power) = memory::open();
    backend.put(&format!("{BASE}/value/k/b"), b"300".to_vec(), None).await.expect("put");
    assert_eq!(node(&backend, "a").id("k").await, 300);
    assert_eq!(keys_of(&backend).await.get(&format!("{BASE}/id/300")).map(String::as_str), Some("k"));
}

async fn outage(power: &Power) {
    power.off();
    tokio::time::sleep(Duration::from_secs(200)).await;
}

#[tokio::test(start_paused = true)]
async fn known_keys_are_served_while_the_store_is_away() {
    let (backend, power) = memory::open();
    let (a, b) = (node(&backend, "a"), node(&backend, "b"));
    let (mine, theirs) = (a.id("mine").await, b.id("theirs").await);
    until("heard of", async || a.allocator.id_of("theirs").is_some()).await;
    outage(&power).await;
    assert_eq!(a.id("mine").await, mine);
    let allocation = a.allocator.allocate("theirs", None).await.expect("known");
    assert_eq!(allocation, Allocation { id: theirs, provisional: true });
    assert!(a.allocator.allocate("new", None).await.expect_err("not known").is_unavailable());
    power.on();
    // All leases were lost meanwhile; everything comes back, also what was only promised.
    until("slaves are back", async || keys_of(&backend).await.len() == 5).await;
    until("settled", async || a.session.health().borrow().pending == 0).await;
    a.id("new").await;
}

#[tokio::test(start_paused = true)]
async fn readers_hear_of_other_nodes() {
    let (backend, _power) = memory::open();
    let (a, b) = (node(&backend, "a"), node(&backend, "b"));
    let mut events = a.allocator.subscribe();
    let id = b.id("k").await;
    let mut heard = Vec::new();
    until("heard of", async || {
        heard.extend(std::iter::from_fn(|| events.try_recv().ok()).flatten());
        heard.contains(&IdEvent::Put { id, key: "k".to_owned() }) && heard.contains(&IdEvent::Synced)
    })
    .await;
    let mut late = a.allocator.subscribe();
    let known = late.recv().await.expect("what is known");
    assert_eq!(known, [IdEvent::Reset, IdEvent::Put { id, key: "k".to_owned() }, IdEvent::Synced]);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_has_allocated_nothing() {
    let (backend, _power) = memory::open();
    let a = node(&backend, "a");
    a.id("warm").await;
    let mut finished = 0;
    for polls in 0..40 {
        let allocator = a.allocator.clone();
        let mut allocation = Box::pin(async move { allocator.allocate("k", None).await });
        let mut done = false;
        for _ in 0..polls {
            done = futures::FutureExt::now_or_never(&mut allocation).is_some();
            if done {
                a.allocator.release("k").await;
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(allocation);
        finished += u32::from(done);
        until("given back", async || a.allocator.in_use().len() == 1 && !a.session.owns(&format!("{BASE}/value/k/a")))
            .await;
    }
    assert!((1..39).contains(&finished), "both ends were met: {finished}");
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_life_knew_serves_until_the_store_answers() {
    let (backend, power) = memory::open();
    let theirs = node(&backend, "b").id("theirs").await;
    let remembered = BTreeMap::from([("theirs".to_owned(), theirs), ("gone".to_owned(), theirs + 1)]);
    power.off();
    let a = node_with(&backend, "a", Options { remembered, ..options() });
    let allocation = a.allocator.allocate("theirs", None).await.expect("remembered");
    assert_eq!(allocation, Allocation { id: theirs, provisional: true });
    assert!(a.allocator.allocate("new", None).await.expect_err("not known").is_unavailable());
    power.on();
    let slave = format!("{BASE}/value/theirs/a");
    until("told", async || backend.get(&slave).await.ok().flatten().is_some()).await;
    until("listed", async || a.allocator.key_of(theirs).is_some()).await;
    // The store is the truth from here on.
    power.off();
    assert!(a.allocator.allocate("gone", None).await.expect_err("not in the store").is_unavailable());
}
