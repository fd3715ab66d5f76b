//! What one node knows: which number stands for which key anywhere, which of them it uses itself and how often, and who
//! wants to hear of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use tokio::sync::mpsc;

use super::{Choice, IdEvent, Release};

#[derive(Debug, Default)]
pub(super) struct Ids {
    masters: BTreeMap<u32, String>,
    by_key: BTreeMap<String, BTreeSet<u32>>,
    used: BTreeMap<String, Used>,
    readers: Vec<mpsc::UnboundedSender<Vec<IdEvent>>>,
}

#[derive(Debug)]
struct Used {
    id: u32,
    uses: u32,
}

/// Random numbers drawn before the range is searched through.
const DRAWS: u32 = 32;

/// Reads a number in the one spelling that is written.
pub(super) fn number(text: &str) -> Option<u32> {
    let id: u32 = text.parse().ok()?;
    (id.to_string() == text).then_some(id)
}

impl Ids {
    pub(super) fn put(&mut self, id: u32, key: String) {
        self.forget(id);
        self.by_key.entry(key.clone()).or_default().insert(id);
        self.masters.insert(id, key);
    }

    pub(super) fn forget(&mut self, id: u32) {
        self.take(id);
    }

    /// Forgets a number; returns what it stood for.
    pub(super) fn take(&mut self, id: u32) -> Option<String> {
        let key = self.masters.remove(&id)?;
        if let Some(ids) = self.by_key.get_mut(&key) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_key.remove(&key);
            }
        }
        Some(key)
    }

    pub(super) fn key_of(&self, id: u32) -> Option<&str> {
        self.masters.get(&id).map(String::as_str)
    }

    /// The numbers of a key, lowest first.
    pub(super) fn masters_of(&self, key: &str) -> impl Iterator<Item = u32> {
        self.by_key.get(key).into_iter().flatten().copied()
    }

    pub(super) fn list(&self) -> Vec<(u32, String)> {
        self.masters.iter().map(|(id, key)| (*id, key.clone())).collect()
    }

    pub(super) fn in_use(&self) -> Vec<(String, u32, u32)> {
        self.used.iter().map(|(key, used)| (key.clone(), used.id, used.uses)).collect()
    }

    /// The number this node uses for a key.
    pub(super) fn used(&self, key: &str) -> Option<u32> {
        self.used.get(key).map(|used| used.id)
    }

    pub(super) fn use_again(&mut self, key: &str) -> Option<u32> {
        let used = self.used.get_mut(key)?;
        used.uses += 1;
        Some(used.id)
    }

    pub(super) fn use_first(&mut self, key: &str, id: u32) {
        self.used.insert(key.to_owned(), Used { id, uses: 1 });
    }

    pub(super) fn release(&mut self, key: &str) -> Release {
        let Some(used) = self.used.get_mut(key) else { return Release::Unknown };
        used.uses -= 1;
        if used.uses > 0 {
            return Release::Kept;
        }
        self.used.remove(key);
        Release::Last
    }

    /// Ends all uses of a key at once.
    pub(super) fn abandon(&mut self, key: &str) {
        self.used.remove(key);
    }

    /// What this node uses although no master says so.
    pub(super) fn unsupported(&self) -> Vec<(u32, String)> {
        let broken = |(key, used): &(&String, &Used)| self.masters.get(&used.id) != Some(key);
        self.used.iter().filter(broken).map(|(key, used)| (used.id, key.clone())).collect()
    }

    /// A number that stands for nothing: the wished one if that is free.
    pub(super) fn free(&self, range: &RangeInclusive<u32>, choice: Choice, wish: Option<u32>) -> Option<u32> {
        // A number in use whose master is missing is about to get it back.
        let taken: BTreeSet<u32> = self.used.values().map(|used| used.id).collect();
        let is_free = |id: &u32| !self.masters.contains_key(id) && !taken.contains(id);
        if let Some(wish) = wish.filter(is_free) {
            return Some(wish);
        }
        let start = match choice {
            Choice::Lowest => *range.start(),
            Choice::Random => {
                let mut draws = (0..DRAWS).map(|_| rand::random_range(range.clone()));
                if let Some(id) = draws.find(is_free) {
                    return Some(id);
                }
                rand::random_range(range.clone())
            }
        };
        (start..=*range.end()).chain(*range.start()..start).find(is_free)
    }

    pub(super) fn subscribe(&mut self, listed: bool) -> mpsc::UnboundedReceiver<Vec<IdEvent>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut known = vec![IdEvent::Reset];
        known.extend(self.masters.iter().map(|(id, key)| IdEvent::Put { id: *id, key: key.clone() }));
        if listed {
            known.push(IdEvent::Synced);
        }
        // The receiver is in our hands.
        let _sent = sender.send(known);
        self.readers.push(sender);
        receiver
    }

    pub(super) fn tell(&mut self, events: &[IdEvent]) {
        if !events.is_empty() {
            self.readers.retain(|reader| reader.send(events.to_vec()).is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_numbers_are_found_to_the_last() {
        for choice in [Choice::Random, Choice::Lowest] {
            let mut ids = Ids::default();
            for n in 10..=20 {
                let id = ids.free(&(10..=20), choice, None).expect("one is free");
                assert!((10..=20).contains(&id) && ids.key_of(id).is_none());
                assert!(choice == Choice::Random || id == n);
                ids.put(id, format!("key {n}"));
            }
            assert_eq!(ids.free(&(10..=20), choice, Some(10)), None);
        }
    }

    #[test]
    fn wishes_come_first() {
        let mut ids = Ids::default();
        assert_eq!(ids.free(&(1..=9), Choice::Lowest, Some(7)), Some(7));
        ids.use_first("mine", 7);
        assert_eq!(ids.free(&(1..=9), Choice::Lowest, Some(7)), Some(1));
    }

    #[test]
    fn one_spelling_of_a_number() {
        assert_eq!(number("256"), Some(256));
        for text in ["", "0256", "+256", "-1", "256 ", "4294967296", "x"] {
            assert_eq!(number(text), None, "{text:?}");
        }
    }
}
