use super::*;
use crate::memory;

fn options() -> Options {
    Options { ttl: Duration::from_secs(30), ..Options::default() }
}

async fn value(backend: &Arc<dyn Backend>, key: &str) -> Option<Vec<u8>> {
    backend.get(key).await.expect("get").map(|entry| entry.value)
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !done().await {
        assert!(Instant::now() < deadline, "waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn keys_live_as_long_as_the_session() {
    let (backend, _power) = memory::open();
    let session = Session::start(backend.clone(), options());
    session.publish("k", "v").await.expect("publish");
    tokio::time::sleep(options().ttl * 10).await;
    assert_eq!(value(&backend, "k").await, Some(b"v".to_vec()));
    drop(session);
    tokio::time::sleep(options().ttl * 2).await;
    assert_eq!(value(&backend, "k").await, None);
}

#[tokio::test(start_paused = true)]
async fn closing_deletes_at_once() {
    let (backend, _power) = memory::open();
    let session = Session::start(backend.clone(), options());
    session.publish("k", "v").await.expect("publish");
    session.close().await.expect("close");
    assert_eq!(value(&backend, "k").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_replaced_and_its_keys_written_again() {
    let (backend, power) = memory::open();
    // Without the check that would find it out in the end.
    let never = Duration::from_secs(24 * 3600);
    let session = Session::start(backend.clone(), Options { check_every: never, ..options() });
    for n in 0..300 {
        session.publish(&format!("k/{n}"), "v").await.expect("publish");
    }
    let before = session.health().borrow().lease;
    power.off();
    tokio::time::sleep(options().ttl * 3).await;
    power.on();
    until("a new lease", async || {
        let health = session.health().borrow().clone();
        health.lease.is_some() && health.lease != before && health.pending == 0
    })
    .await;
    // Time for the old lease to take with it what it still had.
    tokio::time::sleep(options().ttl / 2).await;
    assert_eq!(backend.list("k/").await.expect("list").entries.len(), 300);
    let after = session.health().borrow().clone();
    assert_eq!((after.owned, after.trouble), (300, None));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_missed_is_done_when_it_is_back() {
    let (backend, power) = memory::open();
    let session = Session::start(backend.clone(), options());
    session.publish("old", "v").await.expect("publish");
    power.off();
    assert!(session.publish("new", "v").await.expect_err("store is away").is_retryable());
    assert!(session.withdraw("old").await.expect_err("store is away").is_retryable());
    assert_eq!(session.health().borrow().pending, 2);
    power.on();
    until("caught up", async || session.health().borrow().pending == 0).await;
    assert_eq!((value(&backend, "old").await, value(&backend, "new").await), (None, Some(b"v".to_vec())));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_late_is_waited_for() {
    let (backend, power) = memory::open();
    power.off();
    let session = Session::start(backend.clone(), options());
    assert!(matches!(session.publish("k", "v").await, Err(Error::TimedOut { .. })));
    power.on();
    until("written", async || value(&backend, "k").await.is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn others_cannot_take_a_key_away() {
    let (backend, _power) = memory::open();
    let session = Session::start(backend.clone(), options());
    session.publish("k", "v").await.expect("publish");
    session.publish("l", "v").await.expect("publish");
    // Noticed by somebody who follows:
    backend.delete("k").await.expect("delete");
    session.defend(&Update::Delete { key: "k".to_owned() });
    until("written again", async || value(&backend, "k").await.is_some()).await;
    // Noticed by nobody:
    backend.delete("k").await.expect("delete");
    backend.put("l", b"theirs".to_vec(), None).await.expect("put");
    tokio::time::sleep(options().check_every * 2).await;
    assert_eq!((value(&backend, "k").await, value(&backend, "l").await), (Some(b"v".to_vec()), Some(b"v".to_vec())));
}

#[tokio::test(start_paused = true)]
async fn where_one_key_went_all_are_looked_at() {
    let (backend, _power) = memory::open();
    let session = Session::start(backend.clone(), options());
    session.publish("k", "v").await.expect("publish");
    session.publish("l", "v").await.expect("publish");
    // Of the two only one is followed.
    let since = tokio::time::Instant::now();
    backend.delete("l").await.expect("delete");
    backend.delete("k").await.expect("delete");
    session.defend(&Update::Delete { key: "k".to_owned() });
    until("written again", async || value(&backend, "l").await.is_some()).await;
    assert!(since.elapsed() < options().check_every);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_makes_keys_our_own_only_if_it_happens() {
    let (backend, _power) = memory::open();
    let session = Session::start(backend.clone(), options());
    let absent = || Txn::new().when(crate::Condition::Absent { key: "master".to_owned() }).put("master", "1", None);
    let ours = |name: &str| [(name.to_owned(), b"1".to_vec())];
    let first = session.commit_owning(absent(), &ours("a")).await.expect("commit");
    assert!(matches!(first, Outcome::Committed { .. }));
    let second = session.commit_owning(absent(), &ours("b")).await.expect("commit");
    assert!(matches!(second, Outcome::Refused { .. }));
    assert!(session.owns("a") && !session.owns("b"));
    assert_eq!(value(&backend, "b").await, None);
    assert!(backend.get("a").await.expect("get").expect("there").lease.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_refused_at_once() {
    let (backend, _power) = memory::open();
    let session = Session::start(backend.clone(), options());
    assert!(matches!(session.publish("", "v").await, Err(Error::Invalid { .. })));
    assert!(matches!(session.withdraw("").await, Err(Error::Invalid { .. })));
    assert!(matches!(session.publish_later("k", vec![0; MAX_BYTES]), Err(Error::Invalid { .. })));
    session.publish("k", "v").await.expect("the others are written");
}

#[tokio::test(start_paused = true)]
async fn guarded_keys_wait_for_a_word_under_each_lease() {
    let (backend, _) = crate::memory::open();
    let session = Session::start(backend.clone(), Options { guarded: &["mine/"], ..options() });
    session.publish("free/1", "a").await.unwrap();
    session.publish("mine/1", "a").await.unwrap();
    assert!(backend.get("mine/1").await.unwrap().is_none());
    assert_eq!(session.health().borrow().pending, 1);
    let first = session.doubts().unwrap();
    session.confirm(first);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(backend.get("mine/1").await.unwrap().is_some());
    assert_eq!(session.doubts(), None);
    // Under another lease nothing is known again, and what was said of the former does not count.
    backend.revoke(first).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    session.confirm(first);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(backend.get("free/1").await.unwrap().is_some() && backend.get("mine/1").await.unwrap().is_none());
    session.confirm(session.doubts().unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(backend.get("mine/1").await.unwrap().is_some());
}
