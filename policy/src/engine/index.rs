//! Which of many selectors can match a label set at all, found without asking each.

use crate::peer::PeerSelector;
use crate::selector::{Anchor, Selector};
use ipnetwork::IpNetwork;
use model::Labels;
use std::collections::BTreeMap;

/// The number of what is looked for: a selector or a rule.
pub(super) type Number = u32;

/// Numbers by what a label set must have for them to come into question.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By key and value of a label.
    labels: BTreeMap<String, BTreeMap<String, Vec<Number>>>,
    keys: BTreeMap<String, Vec<Number>>,
    prefixes: BTreeMap<IpNetwork, Vec<Number>>,
    /// How many prefixes of each family and length there are, IPv4 first: only those are looked for.
    lengths: BTreeMap<(bool, u8), usize>,
    anybody: Vec<Number>,
}

impl Index {
    /// Takes in a selector. What is returned takes it out again.
    pub(super) fn insert(&mut self, number: Number, selector: &Selector) -> Vec<Anchor> {
        // The way that fewest go, so that fewest are asked in vain.
        let ways =
            selector.anchors().into_iter().min_by_key(|ways| ways.iter().map(|way| self.crowd(way)).sum::<usize>());
        let ways = ways.unwrap_or_else(|| vec![Anchor::Anybody]);
        ways.iter().for_each(|way| self.add(way, number));
        ways
    }

    pub(super) fn insert_peers(&mut self, number: Number, selector: &PeerSelector) -> Vec<Anchor> {
        let way = match selector {
            PeerSelector::Labels(selector) => return self.insert(number, selector),
            PeerSelector::Cidr { cidr, .. } if cidr.prefix() > 0 => Anchor::Prefix(crate::masked(*cidr)),
            PeerSelector::Cidr { .. } | PeerSelector::Entity(_) => Anchor::Anybody,
        };
        self.add(&way, number);
        vec![way]
    }

    pub(super) fn remove(&mut self, number: Number, ways: &[Anchor]) {
        for way in ways {
            self.take_out(way, number);
        }
    }

    /// Everything that may match these labels, which stand for this prefix; in order, each once.
    pub(super) fn candidates(&self, labels: &Labels, prefix: Option<IpNetwork>) -> Vec<Number> {
        let mut found = self.anybody.clone();
        for label in labels.iter() {
            found.extend(self.labels.get(&label.key).and_then(|values| values.get(&label.value)).into_iter().flatten());
            found.extend(self.keys.get(&label.key).into_iter().flatten());
        }
        for (v4, length) in self.lengths.keys() {
            let outer = prefix.filter(|prefix| prefix.is_ipv4() == *v4 && *length <= prefix.prefix());
            let outer = outer.and_then(|prefix| IpNetwork::new(prefix.ip(), *length).ok()).map(crate::masked);
            found.extend(outer.and_then(|outer| self.prefixes.get(&outer)).into_iter().flatten());
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn crowd(&self, way: &Anchor) -> usize {
        let crowd = match way {
            Anchor::Label(key, value) => self.labels.get(key).and_then(|values| values.get(value)),
            Anchor::Key(key) => self.keys.get(key),
            Anchor::Prefix(prefix) => self.prefixes.get(prefix),
            Anchor::Anybody => Some(&self.anybody),
        };
        crowd.map_or(0, Vec::len)
    }

    fn add(&mut self, way: &Anchor, number: Number) {
        match way {
            Anchor::Label(key, value) => {
                self.labels.entry(key.clone()).or_default().entry(value.clone()).or_default().push(number);
            }
            Anchor::Key(key) => self.keys.entry(key.clone()).or_default().push(number),
            Anchor::Prefix(prefix) => {
                self.prefixes.entry(*prefix).or_default().push(number);
                *self.lengths.entry((prefix.is_ipv4(), prefix.prefix())).or_default() += 1;
            }
            Anchor::Anybody => self.anybody.push(number),
        }
    }

    fn take_out(&mut self, way: &Anchor, number: Number) {
        match way {
            Anchor::Label(key, value) => {
                let Some(values) = self.labels.get_mut(key) else { return };
                drop_from(values, value, number);
                if values.is_empty() {
                    self.labels.remove(key);
                }
            }
            Anchor::Key(key) => drop_from(&mut self.keys, key, number),
            Anchor::Prefix(prefix) => {
                drop_from(&mut self.prefixes, prefix, number);
                let length = (prefix.is_ipv4(), prefix.prefix());
                if let Some(count) = self.lengths.get_mut(&length) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        self.lengths.remove(&length);
                    }
                }
            }
            Anchor::Anybody => drop_one(&mut self.anybody, number),
        }
    }
}

fn drop_from<K: Ord + Clone>(table: &mut BTreeMap<K, Vec<Number>>, key: &K, number: Number) {
    let Some(numbers) = table.get_mut(key) else { return };
    drop_one(numbers, number);
    if numbers.is_empty() {
        table.remove(key);
    }
}

fn drop_one(numbers: &mut Vec<Number>, number: Number) {
    if let Some(at) = numbers.iter().position(|held| *held == number) {
        numbers.swap_remove(at);
    }
}
