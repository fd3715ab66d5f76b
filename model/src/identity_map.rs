//! A map from identities to values of which a clone costs nothing and shares all that neither side changes afterwards;
//! two that share parts are compared at the cost of what differs.
//!
//! It is what lets a snapshot hold a hundred policies of ten thousand peers each: a change of one peer copies a path of
//! a few short nodes, and whoever compares two snapshots skips what they have in common by its address.

use crate::Identity;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

/// How many bits of a number each level of the tree tells apart.
const BITS: u32 = 3;
const FANOUT: u32 = 1 << BITS;
/// With so many levels every number has a place.
const MOST_LEVELS: u32 = u32::BITS.div_ceil(BITS);

/// In the order of the numbers.
#[derive(Clone)]
pub struct IdentityMap<V> {
    /// `None`: it is empty.
    root: Option<Arc<Node<V>>>,
    /// Height of the tree; grows with the largest number that was ever in it.
    levels: u32,
    len: usize,
}

/// A set of identities with the same properties.
pub type IdentitySet = IdentityMap<()>;

#[derive(Clone)]
enum Node<V> {
    Inner(Sparse<Arc<Node<V>>>),
    Leaf(Sparse<V>),
}

/// At most `FANOUT` items, each with a place of its own.
#[derive(Clone)]
struct Sparse<T> {
    /// Which places are taken.
    mask: u32,
    /// The items of those, in their order.
    items: Vec<T>,
}

impl<T> Sparse<T> {
    const EMPTY: Sparse<T> = Sparse { mask: 0, items: Vec::new() };

    fn rank(&self, place: u32) -> usize {
        (self.mask & ((1 << place) - 1)).count_ones() as usize
    }

    fn has(&self, place: u32) -> bool {
        self.mask & 1 << place != 0
    }

    fn get(&self, place: u32) -> Option<&T> {
        if self.has(place) { self.items.get(self.rank(place)) } else { None }
    }

    fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let rank = self.rank(place);
        if self.has(place) { self.items.get_mut(rank) } else { None }
    }

    fn insert(&mut self, place: u32, item: T) -> Option<T> {
        let rank = self.rank(place);
        if self.has(place) {
            return self.items.get_mut(rank).map(|held| std::mem::replace(held, item));
        }
        self.mask |= 1 << place;
        self.items.insert(rank, item);
        None
    }

    fn remove(&mut self, place: u32) -> Option<T> {
        if !self.has(place) {
            return None;
        }
        let rank = self.rank(place);
        self.mask &= !(1 << place);
        Some(self.items.remove(rank))
    }
}

/// The place of a number among the children of a node of this level; leaves are level 1.
fn place(number: u32, level: u32) -> u32 {
    number >> (BITS * (level - 1)) & (FANOUT - 1)
}

/// Whether a tree of so many levels has a place for the number.
fn fits(number: u32, levels: u32) -> bool {
    levels >= MOST_LEVELS || number >> (BITS * levels) == 0
}

impl<V> Node<V> {
    fn empty(level: u32) -> Node<V> {
        if level == 1 { Node::Leaf(Sparse::EMPTY) } else { Node::Inner(Sparse::EMPTY) }
    }

    fn is_empty(&self) -> bool {
        match self {
            Node::Inner(children) => children.mask == 0,
            Node::Leaf(values) => values.mask == 0,
        }
    }
}

impl<V: Clone> Node<V> {
    fn insert(self: &mut Arc<Self>, level: u32, number: u32, value: V) -> Option<V> {
        let at = place(number, level);
        match Arc::make_mut(self) {
            Node::Leaf(values) => values.insert(at, value),
            Node::Inner(children) => {
                if let Some(child) = children.get_mut(at) {
                    return child.insert(level - 1, number, value);
                }
                let mut child = Arc::new(Node::empty(level - 1));
                let before = child.insert(level - 1, number, value);
                children.insert(at, child);
                before
            }
        }
    }

    /// Only called where the number is: nothing is copied for one that is not.
    fn remove(self: &mut Arc<Self>, level: u32, number: u32) -> Option<V> {
        let at = place(number, level);
        match Arc::make_mut(self) {
            Node::Leaf(values) => values.remove(at),
            Node::Inner(children) => {
                let child = children.get_mut(at)?;
                let value = child.remove(level - 1, number);
                if child.is_empty() {
                    children.remove(at);
                }
                value
            }
        }
    }
}

impl<V> Default for IdentityMap<V> {
    fn default() -> IdentityMap<V> {
        IdentityMap { root: None, levels: 0, len: 0 }
    }
}

impl<V> IdentityMap<V> {
    pub fn new() -> IdentityMap<V> {
        IdentityMap::default()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, identity: &Identity) -> Option<&V> {
        let mut node = self.root.as_deref().filter(|_| fits(identity.0, self.levels))?;
        let mut level = self.levels;
        loop {
            let at = place(identity.0, level);
            match node {
                Node::Leaf(values) => return values.get(at),
                Node::Inner(children) => node = children.get(at)?,
            }
            level -= 1;
        }
    }

    pub fn contains_key(&self, identity: &Identity) -> bool {
        self.get(identity).is_some()
    }

    /// In the order of the numbers.
    pub fn iter(&self) -> Iter<'_, V> {
        let root = self.root.as_deref().map(|node| (node, self.levels, 0, 0));
        Iter { stack: root.into_iter().collect() }
    }

    pub fn keys(&self) -> impl Iterator<Item = Identity> + '_ {
        self.iter().map(|(identity, _)| identity)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> + '_ {
        self.iter().map(|(_, value)| value)
    }

    /// Whether both are one object: then they are equal.
    pub fn is_same(&self, other: &IdentityMap<V>) -> bool {
        match (&self.root, &other.root) {
            (None, None) => true,
            (Some(a), Some(b)) => self.levels == other.levels && Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl<V: Clone> IdentityMap<V> {
    /// What was there before.
    pub fn insert(&mut self, identity: Identity, value: V) -> Option<V> {
        if self.root.is_none() {
            self.levels = self.levels.max(1);
        }
        while !fits(identity.0, self.levels) {
            self.levels += 1;
            self.root = self.root.take().map(|node| Arc::new(Node::Inner(Sparse { mask: 1, items: vec![node] })));
        }
        let levels = self.levels;
        let root = self.root.get_or_insert_with(|| Arc::new(Node::empty(levels)));
        let before = root.insert(levels, identity.0, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// What was there.
    pub fn remove(&mut self, identity: &Identity) -> Option<V> {
        if !self.contains_key(identity) {
            return None;
        }
        let value = self.root.as_mut()?.remove(self.levels, identity.0);
        self.len -= usize::from(value.is_some());
        if self.len == 0 {
            self.root = None;
        }
        value
    }
}

/// What is told of a number on which two maps differ: what the one has and what the other has.
type Visit<'f, V> = dyn FnMut(Identity, Option<&V>, Option<&V>) -> ControlFlow<()> + 'f;

impl<V: PartialEq> IdentityMap<V> {
    /// Visits every number on which the two differ: what is here, and what is in `other`. Costs about as much as there
    /// are differences where one was made from the other.
    pub fn differences(&self, other: &IdentityMap<V>, mut visit: impl FnMut(Identity, Option<&V>, Option<&V>)) {
        let _ = self.compare(other, &mut |identity, here, there| {
            visit(identity, here, there);
            ControlFlow::Continue(())
        });
    }

    fn compare(&self, other: &IdentityMap<V>, visit: &mut Visit<'_, V>) -> ControlFlow<()> {
        compare(self.root.as_ref().map(|n| (n, self.levels)), other.root.as_ref().map(|n| (n, other.levels)), 0, visit)
    }
}

/// A node and its level.
type At<'n, V> = Option<(&'n Arc<Node<V>>, u32)>;

/// `prefix`: what all numbers below have in common. Of two nodes of unlike levels the lower is at place 0 of what would
/// be above it.
fn compare<V: PartialEq>(a: At<'_, V>, b: At<'_, V>, prefix: u32, visit: &mut Visit<'_, V>) -> ControlFlow<()> {
    let level = match (a, b) {
        (None, None) => return ControlFlow::Continue(()),
        (Some((x, n)), Some((y, m))) if n == m && Arc::ptr_eq(x, y) => return ControlFlow::Continue(()),
        (a, b) => a.map_or(0, |(_, n)| n).max(b.map_or(0, |(_, n)| n)),
    };
    for at in 0..FANOUT {
        let below = prefix << BITS | at;
        if level == 1 {
            let (x, y) = (value(a, at), value(b, at));
            if x != y {
                visit(Identity(below), x, y)?;
            }
        } else {
            compare(child(a, level, at), child(b, level, at), below, visit)?;
        }
    }
    ControlFlow::Continue(())
}

fn value<V>(node: At<'_, V>, at: u32) -> Option<&V> {
    match node.map(|(node, _)| &**node) {
        Some(Node::Leaf(values)) => values.get(at),
        _ => None,
    }
}

fn child<V>(node: At<'_, V>, level: u32, at: u32) -> At<'_, V> {
    match node {
        Some((node, own)) if own == level => match &**node {
            Node::Inner(children) => children.get(at).map(|child| (child, level - 1)),
            Node::Leaf(_) => None,
        },
        lower => lower.filter(|_| at == 0),
    }
}

impl<V: PartialEq> PartialEq for IdentityMap<V> {
    fn eq(&self, other: &IdentityMap<V>) -> bool {
        self.len == other.len && self.compare(other, &mut |_, _, _| ControlFlow::Break(())).is_continue()
    }
}

impl<V: Eq> Eq for IdentityMap<V> {}

impl<V: fmt::Debug> fmt::Debug for IdentityMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<V: Clone> FromIterator<(Identity, V)> for IdentityMap<V> {
    fn from_iter<I: IntoIterator<Item = (Identity, V)>>(items: I) -> IdentityMap<V> {
        let mut map = IdentityMap::default();
        map.extend(items);
        map
    }
}

impl<V: Clone> Extend<(Identity, V)> for IdentityMap<V> {
    fn extend<I: IntoIterator<Item = (Identity, V)>>(&mut self, items: I) {
        for (identity, value) in items {
            self.insert(identity, value);
        }
    }
}

/// Panics where the identity is not there, as other maps do.
impl<V> std::ops::Index<&Identity> for IdentityMap<V> {
    type Output = V;

    fn index(&self, identity: &Identity) -> &V {
        self.get(identity).expect("whoever indexes a map knows that the key is there")
    }
}

impl<'a, V> IntoIterator for &'a IdentityMap<V> {
    type Item = (Identity, &'a V);
    type IntoIter = Iter<'a, V>;

    fn into_iter(self) -> Iter<'a, V> {
        self.iter()
    }
}

/// Node, its level, the next place in it, and what all numbers below have in common.
type Step<'a, V> = (&'a Node<V>, u32, u32, u32);

pub struct Iter<'a, V> {
    stack: Vec<Step<'a, V>>,
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (Identity, &'a V);

    fn next(&mut self) -> Option<(Identity, &'a V)> {
        loop {
            let (node, level, next, prefix) = self.stack.last_mut()?;
            let mask = match node {
                Node::Inner(children) => children.mask,
                Node::Leaf(values) => values.mask,
            };
            let left = if *next < FANOUT { mask >> *next << *next } else { 0 };
            if left == 0 {
                self.stack.pop();
                continue;
            }
            let at = left.trailing_zeros();
            *next = at + 1;
            let below = *prefix << BITS | at;
            match node {
                Node::Leaf(values) => return values.get(at).map(|value| (Identity(below), value)),
                Node::Inner(children) => {
                    let (level, child) = (*level - 1, children.get(at)?);
                    self.stack.push((child, level, 0, below));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn number() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..70, 256u32..700, (1u32 << 24)..(1 << 24) + 70, any::<u32>()]
    }

    fn model(map: &IdentityMap<u8>) -> BTreeMap<Identity, u8> {
        map.iter().map(|(identity, value)| (identity, *value)).collect()
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_map(steps in vec((number(), any::<Option<u8>>()), 0..200)) {
            let (mut map, mut expected) = (IdentityMap::new(), BTreeMap::new());
            for (number, value) in steps {
                let identity = Identity(number);
                match value {
                    Some(value) => prop_assert_eq!(map.insert(identity, value), expected.insert(identity, value)),
                    None => prop_assert_eq!(map.remove(&identity), expected.remove(&identity)),
                }
                prop_assert_eq!(map.get(&identity), expected.get(&identity));
                prop_assert_eq!(map.len(), expected.len());
            }
            prop_assert!(map.iter().map(|(identity, value)| (identity, *value)).eq(expected));
        }

        #[test]
        fn a_clone_stays_as_it_was_and_the_differences_are_all(
            first in vec((number(), any::<u8>()), 0..100),
            second in vec((number(), any::<Option<u8>>()), 0..100),
        ) {
            let before: IdentityMap<u8> = first.iter().map(|(n, v)| (Identity(*n), *v)).collect();
            let snapshot = model(&before);
            let mut after = before.clone();
            for (number, value) in second {
                match value {
                    Some(value) => drop(after.insert(Identity(number), value)),
                    None => drop(after.remove(&Identity(number))),
                }
            }
            prop_assert_eq!(model(&before), snapshot.clone());
            let mut patched = snapshot;
            before.differences(&after, |identity, here, there| {
                assert_ne!(here, there);
                assert_eq!(here, before.get(&identity));
                match there {
                    Some(value) => drop(patched.insert(identity, *value)),
                    None => drop(patched.remove(&identity)),
                }
            });
            prop_assert_eq!(&patched, &model(&after));
            prop_assert_eq!(before == after, model(&before) == model(&after));
        }
    }

    #[test]
    fn maps_of_unlike_height_are_compared_by_what_is_in_them() {
        let low: IdentityMap<u8> = [(Identity(3), 1)].into_iter().collect();
        let mut high = low.clone();
        high.insert(Identity(u32::MAX), 2);
        assert_ne!(low, high);
        high.remove(&Identity(u32::MAX));
        assert_eq!(low, high);
        assert_eq!(high, low);
        assert!(!low.is_same(&high));
    }
}
