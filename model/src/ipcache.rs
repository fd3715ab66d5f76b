//! Which address, or prefix, has which identity: a table of which snapshots share what did not change, and which knows
//! whether anybody has an identity.

use crate::desired::IpcacheEntry;
use crate::{Identity, IdentityMap, SharedMap};
use ipnetwork::IpNetwork;

/// In the order of the prefixes.
#[derive(Clone, Default)]
pub struct Ipcache {
    entries: SharedMap<IpNetwork, IpcacheEntry>,
    /// How many of the entries have each identity.
    carriers: IdentityMap<u32>,
}

impl Ipcache {
    pub fn get(&self, prefix: &IpNetwork) -> Option<&IpcacheEntry> {
        self.entries.get(prefix)
    }

    pub fn contains_key(&self, prefix: &IpNetwork) -> bool {
        self.entries.contains_key(prefix)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// In the order of the prefixes.
    pub fn iter(&self) -> impl Iterator<Item = (&IpNetwork, &IpcacheEntry)> {
        self.entries.iter()
    }

    pub fn keys(&self) -> impl Iterator<Item = &IpNetwork> {
        self.entries.keys()
    }

    pub fn values(&self) -> impl Iterator<Item = &IpcacheEntry> {
        self.entries.values()
    }

    /// Whether an entry has the identity.
    pub fn mentions(&self, identity: Identity) -> bool {
        self.carriers.contains_key(&identity)
    }

    /// What was there before.
    pub fn insert(&mut self, prefix: IpNetwork, entry: IpcacheEntry) -> Option<IpcacheEntry> {
        let before = self.entries.insert(prefix, entry);
        if before.is_none_or(|before| before.identity != entry.identity) {
            let count = self.carriers.get(&entry.identity).copied().unwrap_or_default();
            self.carriers.insert(entry.identity, count + 1);
            before.into_iter().for_each(|before| self.lose(before.identity));
        }
        before
    }

    /// What was there.
    pub fn remove(&mut self, prefix: &IpNetwork) -> Option<IpcacheEntry> {
        let before = self.entries.remove(prefix);
        before.into_iter().for_each(|before| self.lose(before.identity));
        before
    }

    pub fn retain(&mut self, mut stays: impl FnMut(&IpNetwork, &IpcacheEntry) -> bool) {
        let gone: Vec<IpNetwork> =
            self.iter().filter(|(prefix, entry)| !stays(prefix, entry)).map(|(p, _)| *p).collect();
        for prefix in gone {
            self.remove(&prefix);
        }
    }

    /// Whether both are one object: then they are equal.
    pub fn is_same(&self, other: &Ipcache) -> bool {
        self.entries.is_same(&other.entries)
    }

    /// Visits every prefix on which the two differ, in order: what is here, and what is in `other`. Costs about as much as
    /// there are differences where one was made from the other.
    pub fn differences(
        &self,
        other: &Ipcache,
        visit: impl FnMut(&IpNetwork, Option<&IpcacheEntry>, Option<&IpcacheEntry>),
    ) {
        self.entries.differences(&other.entries, visit);
    }

    fn lose(&mut self, identity: Identity) {
        match self.carriers.get(&identity).copied() {
            Some(count) if count > 1 => self.carriers.insert(identity, count - 1),
            _ => self.carriers.remove(&identity),
        };
    }
}

/// Who has an identity follows from the entries.
impl PartialEq for Ipcache {
    fn eq(&self, other: &Ipcache) -> bool {
        self.entries == other.entries
    }
}

impl std::fmt::Debug for Ipcache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.entries.fmt(f)
    }
}

impl FromIterator<(IpNetwork, IpcacheEntry)> for Ipcache {
    fn from_iter<I: IntoIterator<Item = (IpNetwork, IpcacheEntry)>>(items: I) -> Ipcache {
        let mut ipcache = Ipcache::default();
        ipcache.extend(items);
        ipcache
    }
}

impl Extend<(IpNetwork, IpcacheEntry)> for Ipcache {
    fn extend<I: IntoIterator<Item = (IpNetwork, IpcacheEntry)>>(&mut self, items: I) {
        for (prefix, entry) in items {
            self.insert(prefix, entry);
        }
    }
}

impl<'a> IntoIterator for &'a Ipcache {
    type Item = (&'a IpNetwork, &'a IpcacheEntry);
    type IntoIter = crate::shared_map::Iter<'a, IpNetwork, IpcacheEntry>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    proptest! {
        #[test]
        fn it_knows_who_is_there(steps in vec((0u8..20, any::<Option<u8>>()), 0..200)) {
            let (mut ipcache, mut expected) = (Ipcache::default(), BTreeMap::new());
            for (host, identity) in steps {
                let prefix = IpNetwork::from(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)));
                let entry = |number: u8| IpcacheEntry { identity: Identity(u32::from(number % 8)), endpoint: None };
                match identity.map(entry) {
                    Some(entry) => prop_assert_eq!(ipcache.insert(prefix, entry), expected.insert(prefix, entry)),
                    None => prop_assert_eq!(ipcache.remove(&prefix), expected.remove(&prefix)),
                }
                for number in 0..9 {
                    let there = expected.values().any(|entry| entry.identity == Identity(number));
                    prop_assert_eq!(ipcache.mentions(Identity(number)), there);
                }
            }
            prop_assert!(ipcache.iter().eq(expected.iter()));
        }
    }
}
