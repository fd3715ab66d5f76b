//! A sorted map of which copies share all that they have in common: a copy costs nothing, a change of one copies a few
//! short nodes, and two of which one was made from the other are compared at the cost of what differs.
//!
//! It is to any key what `IdentityMap` is to numbers; addresses are too far apart for that one.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Most entries of a leaf, and most children of a node.
const MOST: usize = 32;
/// One with fewer is put together with a neighbour where both find room.
const FEW: usize = MOST / 4;

/// In the order of the keys.
#[derive(Clone)]
pub struct SharedMap<K, V> {
    /// `None`: it is empty.
    root: Option<Arc<Node<K, V>>>,
    len: usize,
}

/// All leaves are equally deep.
#[derive(Clone)]
enum Node<K, V> {
    /// Each child with a key that is not larger than any below it and larger than all below the child before; of the first
    /// child nothing is said.
    Inner(Vec<(K, Arc<Node<K, V>>)>),
    Leaf(Vec<(K, V)>),
}

impl<K, V> Node<K, V> {
    fn len(&self) -> usize {
        match self {
            Node::Inner(children) => children.len(),
            Node::Leaf(entries) => entries.len(),
        }
    }

    fn height(&self) -> usize {
        match self {
            Node::Leaf(_) => 0,
            Node::Inner(children) => 1 + children.first().map_or(0, |(_, child)| child.height()),
        }
    }
}

/// The child that a key belongs to.
fn place<K: Borrow<Q>, Q: Ord + ?Sized, T>(children: &[(K, T)], key: &Q) -> usize {
    children.get(1..).unwrap_or_default().partition_point(|(first, _)| first.borrow() <= key)
}

fn search<K: Borrow<Q>, Q: Ord + ?Sized, V>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    entries.binary_search_by(|(held, _)| held.borrow().cmp(key))
}

/// Divides what has grown too long; returns the second half with its first key.
fn split<K: Clone, T>(items: &mut Vec<(K, T)>) -> Option<(K, Vec<(K, T)>)> {
    if items.len() <= MOST {
        return None;
    }
    let second = items.split_off(items.len() / 2);
    second.first().map(|(first, _)| first.clone()).map(|first| (first, second))
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    /// The former value, and the node that comes after this one from now on.
    #[allow(clippy::type_complexity)]
    fn insert(self: &mut Arc<Self>, key: K, value: V) -> (Option<V>, Option<(K, Arc<Self>)>) {
        match Arc::make_mut(self) {
            Node::Leaf(entries) => match search(entries, &key) {
                Ok(at) => (entries.get_mut(at).map(|(_, held)| std::mem::replace(held, value)), None),
                Err(at) => {
                    entries.insert(at, (key, value));
                    (None, split(entries).map(|(first, second)| (first, Arc::new(Node::Leaf(second)))))
                }
            },
            Node::Inner(children) => {
                let at = place(children, &key);
                let Some((_, child)) = children.get_mut(at) else { return (None, None) };
                let (before, next) = child.insert(key, value);
                if let Some(next) = next {
                    children.insert(at + 1, next);
                }
                (before, split(children).map(|(first, second)| (first, Arc::new(Node::Inner(second)))))
            }
        }
    }

    /// Only called where the key is: nothing is copied for one that is not.
    fn remove<Q: Ord + ?Sized>(self: &mut Arc<Self>, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match Arc::make_mut(self) {
            Node::Leaf(entries) => search(entries, key).ok().map(|at| entries.remove(at).1),
            Node::Inner(children) => {
                let at = place(children, key);
                let (_, child) = children.get_mut(at)?;
                let value = child.remove(key);
                if child.len() < FEW {
                    shorten(children, at);
                }
                value
            }
        }
    }
}

/// Puts a child that has become short together with one beside it, or takes it away if nothing is left of it.
fn shorten<K: Clone, V: Clone>(children: &mut Vec<(K, Arc<Node<K, V>>)>, at: usize) {
    let length = |at: usize| children.get(at).map(|(_, child)| child.len());
    let Some(own) = length(at) else { return };
    if own == 0 {
        children.remove(at);
        return;
    }
    let fits = |beside: &usize| length(*beside).is_some_and(|other| own + other <= MOST / 2);
    let Some(first) = at.checked_sub(1).filter(fits).or(Some(at).filter(|_| fits(&(at + 1)))) else { return };
    let (key, second) = children.remove(first + 1);
    if let Some((_, child)) = children.get_mut(first) {
        match (Arc::make_mut(child), &*second) {
            (Node::Leaf(entries), Node::Leaf(more)) => entries.extend_from_slice(more),
            (Node::Inner(below), Node::Inner(more)) => {
                // Of its first child nothing was said.
                let named = more.first().map(|(_, child)| (key, child.clone()));
                below.extend(named.into_iter().chain(more.iter().skip(1).cloned()));
            }
            // Children of one node are equally deep.
            _ => {}
        }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> SharedMap<K, V> {
        SharedMap { root: None, len: 0 }
    }
}

impl<K, V> SharedMap<K, V> {
    pub fn new() -> SharedMap<K, V> {
        SharedMap::default()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Inner(children) => node = &children.get(place(children, key))?.1,
                Node::Leaf(entries) => return entries.get(search(entries, key).ok()?).map(|(_, value)| value),
            }
        }
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// In the order of the keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { rest: self.root.as_ref().map(Rest::Node).into_iter().collect() }
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Whether both are one object: then they are equal.
    pub fn is_same(&self, other: &SharedMap<K, V>) -> bool {
        match (&self.root, &other.root) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// What was there before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let root = self.root.get_or_insert_with(|| Arc::new(Node::Leaf(Vec::new())));
        let (before, next) = root.insert(key, value);
        if let Some((first, second)) = next {
            let whole = std::mem::replace(root, Arc::new(Node::Leaf(Vec::new())));
            *root = Arc::new(Node::Inner(vec![(first.clone(), whole), (first, second)]));
        }
        self.len += usize::from(before.is_none());
        before
    }

    /// What was there.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if !self.contains_key(key) {
            return None;
        }
        let root = self.root.as_mut()?;
        let value = root.remove(key);
        while let Node::Inner(children) = &**root
            && let [(_, only)] = children.as_slice()
        {
            *root = only.clone();
        }
        self.len -= usize::from(value.is_some());
        if self.len == 0 {
            self.root = None;
        }
        value
    }

    pub fn retain(&mut self, mut stays: impl FnMut(&K, &V) -> bool) {
        let gone: Vec<K> = self.iter().filter(|(key, value)| !stays(key, value)).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| drop(self.remove(key)));
    }
}

/// What is told of a key on which two maps differ: what the one has and what the other has.
type Visit<'f, K, V> = dyn FnMut(&K, Option<&V>, Option<&V>) -> ControlFlow<()> + 'f;

impl<K: Ord, V: PartialEq> SharedMap<K, V> {
    /// Visits every key on which the two differ, in order: what is here, and what is in `other`. Costs about as much as
    /// there are differences where one was made from the other.
    pub fn differences(&self, other: &SharedMap<K, V>, mut visit: impl FnMut(&K, Option<&V>, Option<&V>)) {
        let _ = self.compare(other, &mut |key, here, there| {
            visit(key, here, there);
            ControlFlow::Continue(())
        });
    }

    fn compare(&self, other: &SharedMap<K, V>, visit: &mut Visit<'_, K, V>) -> ControlFlow<()> {
        let (mut a, mut b) = (self.iter(), other.iter());
        loop {
            match (a.rest.last(), b.rest.last()) {
                (None, None) => return ControlFlow::Continue(()),
                (Some(Rest::Node(x)), Some(Rest::Node(y))) if Arc::ptr_eq(x, y) => {
                    a.rest.pop();
                    b.rest.pop();
                }
                // Of two nodes the higher is opened: what they have in common below may be the other.
                (Some(Rest::Node(x)), Some(Rest::Node(y))) => match x.height().cmp(&y.height()) {
                    Ordering::Less => b.open(),
                    Ordering::Greater => a.open(),
                    Ordering::Equal => {
                        a.open();
                        b.open();
                    }
                },
                (Some(Rest::Node(_)), _) => a.open(),
                (_, Some(Rest::Node(_))) => b.open(),
                (x, y) => {
                    let (x, y) = (x.and_then(Rest::first), y.and_then(Rest::first));
                    let order = match (x, y) {
                        (Some((x, _)), Some((y, _))) => x.cmp(y),
                        (Some(_), None) => Ordering::Less,
                        (None, _) => Ordering::Greater,
                    };
                    let here = x.filter(|_| order.is_le());
                    let there = y.filter(|_| order.is_ge());
                    let (here, there) = (here.map(|(k, v)| (k, v)), there.map(|(k, v)| (k, v)));
                    if let Some((key, _)) = here.or(there)
                        && here.map(|(_, value)| value) != there.map(|(_, value)| value)
                    {
                        visit(key, here.map(|(_, value)| value), there.map(|(_, value)| value))?;
                    }
                    if order.is_le() {
                        a.next();
                    }
                    if order.is_ge() {
                        b.next();
                    }
                }
            }
        }
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &SharedMap<K, V>) -> bool {
        self.len == other.len && self.compare(other, &mut |_, _, _| ControlFlow::Break(())).is_continue()
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(items: I) -> SharedMap<K, V> {
        let mut map = SharedMap::default();
        map.extend(items);
        map
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, items: I) {
        for (key, value) in items {
            self.insert(key, value);
        }
    }
}

/// Panics where the key is not there, as other maps do.
impl<K: Ord, V> std::ops::Index<&K> for SharedMap<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("whoever indexes a map knows that the key is there")
    }
}

impl<'a, K, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

/// A part of what an iterator still has before it.
enum Rest<'a, K, V> {
    Node(&'a Arc<Node<K, V>>),
    Entries(std::slice::Iter<'a, (K, V)>),
}

impl<'a, K, V> Rest<'a, K, V> {
    /// The next entry of an opened leaf.
    fn first(&self) -> Option<&'a (K, V)> {
        match self {
            Rest::Node(_) => None,
            Rest::Entries(entries) => entries.as_slice().first(),
        }
    }
}

pub struct Iter<'a, K, V> {
    /// The nearest last. An opened leaf has entries left.
    rest: Vec<Rest<'a, K, V>>,
}

impl<K, V> Iter<'_, K, V> {
    /// Puts in place of the nearest node what is in it.
    fn open(&mut self) {
        match self.rest.pop() {
            Some(Rest::Node(node)) => match &**node {
                Node::Inner(children) => self.rest.extend(children.iter().rev().map(|(_, child)| Rest::Node(child))),
                Node::Leaf(entries) if entries.is_empty() => {}
                Node::Leaf(entries) => self.rest.push(Rest::Entries(entries.iter())),
            },
            other => self.rest.extend(other),
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<(&'a K, &'a V)> {
        while let Some(Rest::Node(_)) = self.rest.last() {
            self.open();
        }
        let Some(Rest::Entries(entries)) = self.rest.last_mut() else { return None };
        let next = entries.next();
        if entries.as_slice().is_empty() {
            self.rest.pop();
        }
        next.map(|(key, value)| (key, value))
    }
}

#[cfg(test)]
mod tests;
