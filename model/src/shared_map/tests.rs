use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Few enough that keys are met again, and many enough for a tree of three levels.
fn key() -> impl Strategy<Value = u16> {
    prop_oneof![0u16..100, 0u16..5000]
}

/// A run of neighbours that come or go at once: what fills and empties whole nodes.
fn steps() -> impl Strategy<Value = Vec<(u16, u16, Option<u8>)>> {
    vec((key(), prop_oneof![Just(1u16), 1u16..150], any::<Option<u8>>()), 0..30)
}

fn apply(map: &mut SharedMap<u16, u8>, expected: &mut BTreeMap<u16, u8>, steps: Vec<(u16, u16, Option<u8>)>) {
    for (first, count, value) in steps {
        for key in first..first + count {
            match value {
                Some(value) => assert_eq!(map.insert(key, value), expected.insert(key, value)),
                None => assert_eq!(map.remove(&key), expected.remove(&key)),
            }
            assert_eq!(map.get(&key), expected.get(&key));
        }
    }
}

fn check(map: &SharedMap<u16, u8>, expected: &BTreeMap<u16, u8>) {
    assert_eq!(map.len(), expected.len());
    assert!(map.iter().eq(expected.iter()));
    if let Some(root) = &map.root {
        shape(root, true);
    }
}

/// No node is empty or too long, and all leaves are equally deep.
fn shape(node: &Node<u16, u8>, root: bool) -> usize {
    assert!((1..=MOST).contains(&node.len()));
    match node {
        Node::Leaf(_) => 0,
        Node::Inner(children) => {
            assert!(!root || children.len() > 1);
            let depths: Vec<usize> = children.iter().map(|(_, child)| shape(child, false)).collect();
            assert!(depths.windows(2).all(|pair| pair[0] == pair[1]));
            depths[0] + 1
        }
    }
}

proptest! {
    #[test]
    fn it_is_a_sorted_map(steps in steps()) {
        let (mut map, mut expected) = (SharedMap::new(), BTreeMap::new());
        apply(&mut map, &mut expected, steps);
        check(&map, &expected);
        map.retain(|key, _| key % 3 == 0);
        expected.retain(|key, _| key % 3 == 0);
        check(&map, &expected);
    }

    #[test]
    fn a_clone_stays_as_it_was_and_the_differences_are_all(first in steps(), second in steps()) {
        let (mut before, mut old) = (SharedMap::new(), BTreeMap::new());
        apply(&mut before, &mut old, first);
        let (mut after, mut new) = (before.clone(), old.clone());
        apply(&mut after, &mut new, second);
        check(&before, &old);
        check(&after, &new);
        let mut patched = old.clone();
        let mut last = None;
        before.differences(&after, |key, here, there| {
            assert!(here != there && here == before.get(key) && there == after.get(key) && last < Some(*key));
            last = Some(*key);
            match there {
                Some(value) => drop(patched.insert(*key, *value)),
                None => drop(patched.remove(key)),
            }
        });
        prop_assert_eq!(&patched, &new);
        prop_assert_eq!(before == after, old == new);
        // One that was made in another way, of other nodes.
        let anew: SharedMap<u16, u8> = new.into_iter().rev().collect();
        prop_assert!(after == anew);
        prop_assert!(anew == after);
    }
}

/// What makes it worth its while: how much is opened does not grow with the map.
#[test]
fn few_nodes_are_opened_for_few_differences() {
    struct Counted<'c>(u32, &'c std::cell::Cell<usize>);
    impl PartialEq for Counted<'_> {
        fn eq(&self, other: &Self) -> bool {
            self.1.set(self.1.get() + 1);
            self.0 == other.0
        }
    }
    impl Clone for Counted<'_> {
        fn clone(&self) -> Self {
            Counted(self.0, self.1)
        }
    }
    let compared = std::cell::Cell::new(0);
    let before: SharedMap<u32, Counted<'_>> = (0..100_000).map(|n| (n * 2, Counted(n, &compared))).collect();
    for changed in [1, 77_777, 199_999, 200_001] {
        let mut after = before.clone();
        after.insert(changed, Counted(0, &compared));
        let (mut seen, before_this) = (Vec::new(), compared.get());
        before.differences(&after, |key, _, _| seen.push(*key));
        assert_eq!(seen, [changed]);
        let compared = compared.get() - before_this;
        assert!(compared <= 4 * MOST, "{compared} values were compared for one difference");
    }
}
