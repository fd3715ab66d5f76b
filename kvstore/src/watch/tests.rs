use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::memory;

/// A reader that believes everything it is told.
#[derive(Default)]
struct Reader {
    seen: BTreeMap<String, Vec<u8>>,
    synced: bool,
    resets: u32,
}

impl Reader {
    fn take(&mut self, updates: Vec<Update>) {
        for update in updates {
            match update {
                Update::Reset => {
                    self.synced = false;
                    self.resets += 1;
                }
                Update::Synced { .. } => self.synced = true,
                Update::Put(entry) => drop(self.seen.insert(entry.key, entry.value)),
                Update::Delete { key } => assert!(self.seen.remove(&key).is_some(), "{key} was never told"),
            }
        }
    }

    async fn until(&mut self, feed: &mut Feed, what: &str, done: impl Fn(&Reader) -> bool) {
        while !done(self) {
            let next = tokio::time::timeout(Duration::from_secs(60), feed.next()).await;
            self.take(next.unwrap_or_else(|_| panic!("waiting for: {what}")).expect("the feed is endless"));
        }
    }
}

async fn put(backend: &Arc<dyn Backend>, key: &str, value: &str) {
    backend.put(key, value.into(), None).await.expect("put");
}

#[tokio::test(start_paused = true)]
async fn tells_what_is_there_then_what_changes() {
    let (backend, _power) = memory::open();
    put(&backend, "a/1", "one").await;
    put(&backend, "b/1", "other").await;
    let mut feed = follow(backend.clone(), "a/", Options::default());
    let mut reader = Reader::default();
    reader.until(&mut feed, "synced", |reader| reader.synced).await;
    assert_eq!(reader.seen.keys().collect::<Vec<_>>(), ["a/1"]);
    put(&backend, "a/2", "two").await;
    backend.delete("a/1").await.expect("delete");
    reader.until(&mut feed, "the change", |reader| reader.seen.keys().eq(["a/2"])).await;
    assert_eq!(reader.resets, 1);
}

#[tokio::test(start_paused = true)]
async fn what_went_during_an_outage_is_told_after_it() {
    let (backend, power) = memory::open();
    put(&backend, "a/1", "one").await;
    put(&backend, "a/2", "two").await;
    let mut feed = follow(backend.clone(), "a/", Options::default());
    let mut reader = Reader::default();
    reader.until(&mut feed, "synced", |reader| reader.synced).await;
    power.off();
    reader.until(&mut feed, "reset", |reader| !reader.synced).await;
    assert_eq!(reader.seen.len(), 2, "an outage deletes nothing");
    power.on();
    backend.delete("a/1").await.expect("delete");
    power.compact();
    put(&backend, "a/3", "three").await;
    reader.until(&mut feed, "healed", |reader| reader.synced && reader.seen.keys().eq(["a/2", "a/3"])).await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_feed_still_compares() {
    let (backend, _power) = memory::open();
    let mut feed = follow(backend.clone(), "a/", Options::default());
    let mut reader = Reader::default();
    reader.until(&mut feed, "synced", |reader| reader.synced).await;
    tokio::time::sleep(Options::default().compare_every * 3).await;
    put(&backend, "a/1", "one").await;
    reader.until(&mut feed, "the change", |reader| reader.seen.len() == 1).await;
    assert_eq!(reader.resets, 1, "comparing is no reset");
}

#[test]
fn a_reused_revision_is_noticed_by_its_value() {
    let entry = |value: &str| Entry { key: "k".into(), value: value.into(), revision: 7, created: 7, lease: None };
    let mut known = Known::default();
    assert_eq!(known.sweep(Listing { entries: vec![entry("a")], revision: 7 }).len(), 1);
    assert_eq!(known.sweep(Listing { entries: vec![entry("a")], revision: 7 }).len(), 0);
    assert_eq!(known.sweep(Listing { entries: vec![entry("b")], revision: 7 }), [Update::Put(entry("b"))]);
    assert_eq!(known.sweep(Listing { entries: vec![], revision: 3 }), [Update::Delete { key: "k".into() }]);
    assert_eq!(known.revision, 3, "a store that went back is followed from where it is");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to store and connection, in the end the reader knows what the store holds.
    #[test]
    fn a_reader_ends_up_right(steps in prop::collection::vec((0_u8..8, 0_u8..4), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let (backend, power) = memory::open();
            let mut feed = follow(backend.clone(), "a/", Options::default());
            let mut reader = Reader::default();
            for (n, (step, key)) in steps.into_iter().enumerate() {
                let key = format!("a/{key}");
                match step {
                    0..=2 => drop(backend.put(&key, vec![n as u8], None).await),
                    3 => drop(backend.delete(&key).await),
                    4 => power.off(),
                    5 => power.on(),
                    6 => power.compact(),
                    _ => tokio::time::sleep(Duration::from_millis(130)).await,
                }
                while let Ok(Some(updates)) = tokio::time::timeout(Duration::ZERO, feed.next()).await {
                    reader.take(updates);
                }
            }
            power.on();
            let there = backend.list("a/").await.expect("list").entries;
            let there: BTreeMap<_, _> = there.into_iter().map(|entry| (entry.key, entry.value)).collect();
            reader.until(&mut feed, "agreement", |reader| reader.synced && reader.seen == there).await;
        });
    }
}
