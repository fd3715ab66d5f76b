//! A set of keys and JSON texts that somebody else keeps equal, written object by object: only what changed is encoded
//! anew. What the texts say is the business of `records.rs` and `shared.rs`.

use ipnetwork::IpNetwork;
use model::EndpointId;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What entries are about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Object {
    Node,
    Policy,
    Endpoint(EndpointId),
    Address(IpAddr),
    Pool(String),
    Network(String),
    Prefix(IpNetwork),
}

pub(crate) type Entries = Vec<(String, Arc<str>)>;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Arc<BTreeMap<String, Arc<str>>>,
    keys: BTreeMap<Object, Vec<String>>,
    /// Whether the entries changed since `take_changed`.
    changed: bool,
}

impl Ledger {
    pub(crate) fn entries(&self) -> &Arc<BTreeMap<String, Arc<str>>> {
        &self.entries
    }

    /// Starts with entries that no object has written: they stay until one writes their keys.
    pub(crate) fn restore(&mut self, entries: BTreeMap<String, Arc<str>>) {
        self.entries = Arc::new(entries);
        self.changed = true;
    }

    /// Writes all objects that changed; one without entries is gone. The gone ones come first, since a key may pass
    /// from one object to another.
    pub(crate) fn write(&mut self, changes: Vec<(Object, Entries)>) {
        for (object, entries) in &changes {
            let old = self.keys.remove(object).unwrap_or_default();
            let stays = |key: &String| entries.iter().any(|(new, _)| new == key);
            old.iter().filter(|key| !stays(key)).for_each(|key| self.remove(key));
        }
        for (object, entries) in changes {
            if entries.is_empty() {
                continue;
            }
            self.keys.insert(object, entries.iter().map(|(key, _)| key.clone()).collect());
            for (key, text) in entries {
                if self.entries.get(&key) != Some(&text) {
                    self.changed = true;
                    Arc::make_mut(&mut self.entries).insert(key, text);
                }
            }
        }
    }

    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn remove(&mut self, key: &str) {
        if self.entries.contains_key(key) {
            self.changed = true;
            Arc::make_mut(&mut self.entries).remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(pairs: &[(&str, &str)]) -> Entries {
        pairs.iter().map(|(key, text)| ((*key).to_owned(), Arc::from(*text))).collect()
    }

    fn keys(ledger: &Ledger) -> Vec<&str> {
        ledger.entries().keys().map(String::as_str).collect()
    }

    #[test]
    fn a_key_may_pass_from_one_object_to_another() {
        let mut ledger = Ledger::default();
        let (old, new) = (Object::Endpoint(EndpointId(2)), Object::Endpoint(EndpointId(1)));
        ledger.write(vec![(old.clone(), entries(&[("ip", "2"), ("ep2", "")]))]);
        ledger.write(vec![(new, entries(&[("ip", "1"), ("ep1", "")])), (old, Vec::new())]);
        assert_eq!(keys(&ledger), ["ep1", "ip"]);
        assert_eq!(&*ledger.entries()["ip"], "1");
    }

    #[test]
    fn writing_the_same_again_is_no_change() {
        let mut ledger = Ledger::default();
        ledger.write(vec![(Object::Node, entries(&[("a", "1")]))]);
        assert!(ledger.take_changed());
        let before = ledger.entries().clone();
        ledger.write(vec![(Object::Node, entries(&[("a", "1")]))]);
        assert!(!ledger.take_changed());
        assert!(Arc::ptr_eq(&before, ledger.entries()));
    }

    #[test]
    fn restored_entries_stay_until_written() {
        let mut ledger = Ledger::default();
        ledger.restore(entries(&[("a", "1"), ("b", "1")]).into_iter().collect());
        ledger.write(vec![(Object::Node, entries(&[("a", "2")]))]);
        assert_eq!(keys(&ledger), ["a", "b"]);
        assert_eq!(&*ledger.entries()["a"], "2");
    }
}
