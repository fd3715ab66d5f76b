//! When which node is probed: a table of due times, without a clock of its own.

use state::NodeName;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Most nodes that are probed at the same time.
const MAX_RUNNING: usize = 32;
/// How far apart nodes are begun with that become known together.
const STAGGER: Duration = Duration::from_millis(10);
/// When a node that failed is probed again, doubled each time up to the interval: it may just be starting.
const AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Schedule {
    base: Duration,
    due: BTreeMap<NodeName, Instant>,
    running: BTreeSet<NodeName>,
    /// Those of `due` that are not running, the next one first: a cluster has too many to go through them whenever
    /// something is heard of it.
    waiting: BTreeSet<(Instant, NodeName)>,
    /// How often those failed in a row that failed last.
    failures: BTreeMap<NodeName, u32>,
}

impl Schedule {
    pub fn new(base: Duration) -> Schedule {
        Schedule {
            base,
            due: BTreeMap::new(),
            running: BTreeSet::new(),
            waiting: BTreeSet::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Grows with the number of nodes, so that what one node gets asked by all others grows but little faster than that of a small cluster:
    /// by the logarithm, as Cilium's does.
    pub fn interval(&self) -> Duration {
        let nodes = u32::try_from(self.due.len().max(1)).unwrap_or(u32::MAX);
        self.base.mul_f64(f64::from(nodes).ln_1p())
    }

    /// These are the nodes from now on. New ones are due almost at once.
    pub fn set_nodes<'a>(&mut self, nodes: impl Iterator<Item = &'a NodeName>, now: Instant) {
        let mut before = std::mem::take(&mut self.due);
        let mut new = 0;
        for name in nodes {
            let due = before.remove(name).unwrap_or_else(|| {
                new += 1;
                now + STAGGER * (new - 1)
            });
            self.due.insert(name.clone(), due);
        }
        let due = &self.due;
        self.failures.retain(|name, _| due.contains_key(name));
        self.line_up();
    }

    /// There is news of a node.
    pub fn now(&mut self, name: &NodeName, now: Instant) {
        self.change(name, |_| now);
    }

    pub fn all_now(&mut self, now: Instant) {
        self.due.values_mut().for_each(|due| *due = now);
        self.line_up();
    }

    /// When `take` has something next, unless it has to wait for an answer first.
    pub fn next(&self) -> Option<Instant> {
        if self.running.len() >= MAX_RUNNING {
            return None;
        }
        self.waiting.first().map(|(due, _)| *due)
    }

    /// A node that is due; it counts as being probed until `done`.
    pub fn take(&mut self, now: Instant) -> Option<NodeName> {
        if self.next().is_none_or(|due| due > now) {
            return None;
        }
        let (_, name) = self.waiting.pop_first()?;
        self.running.insert(name.clone());
        let next = now + self.interval();
        self.change(&name, |_| next);
        Some(name)
    }

    /// A probe came to its end, `well` or not.
    pub fn done(&mut self, name: &NodeName, well: bool, now: Instant) {
        self.running.remove(name);
        if !self.due.contains_key(name) {
            return;
        }
        if well {
            self.failures.remove(name);
            return self.change(name, |due| due);
        }
        let failures = self.failures.entry(name.clone()).or_default();
        let again = now + AGAIN * 2u32.saturating_pow((*failures).min(16));
        *failures += 1;
        self.change(name, |due| due.min(again));
    }

    /// Gives a node another time, and its place in the line if it is not being probed.
    fn change(&mut self, name: &NodeName, change: impl FnOnce(Instant) -> Instant) {
        let Some(due) = self.due.get_mut(name) else { return };
        let mut place = (*due, name.clone());
        *due = change(*due);
        self.waiting.remove(&place);
        if !self.running.contains(name) {
            place.0 = *due;
            self.waiting.insert(place);
        }
    }

    fn line_up(&mut self) {
        let waiting = self.due.iter().filter(|(name, _)| !self.running.contains(*name));
        self.waiting = waiting.map(|(name, due)| (*due, name.clone())).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> NodeName {
        NodeName { cluster: "default".to_owned(), name: format!("n{number:04}") }
    }

    fn with(count: usize, now: Instant) -> Schedule {
        let mut schedule = Schedule::new(Duration::from_secs(60));
        schedule.set_nodes((0..count).map(name).collect::<Vec<_>>().iter(), now);
        schedule
    }

    #[test]
    fn the_interval_grows_with_the_cluster() {
        let now = Instant::now();
        let seconds = |count| with(count, now).interval().as_secs();
        assert_eq!([seconds(0), seconds(1), seconds(2), seconds(4), seconds(1000)], [41, 41, 65, 96, 414]);
    }

    #[test]
    fn each_node_has_its_turn_and_then_waits_for_the_next() {
        let now = Instant::now();
        let mut schedule = with(2, now);
        assert_eq!(schedule.take(now), Some(name(0)));
        assert_eq!((schedule.take(now), schedule.next()), (None, Some(now + STAGGER)));
        assert_eq!(schedule.take(now + STAGGER), Some(name(1)));
        assert_eq!(schedule.next(), None, "both are being probed");
        schedule.done(&name(0), true, now);
        assert_eq!(schedule.next(), Some(now + schedule.interval()));
        schedule.all_now(now);
        assert_eq!(schedule.take(now), Some(name(0)), "n0001 is still being probed");
        schedule.done(&name(1), true, now);
        assert_eq!(schedule.take(now), Some(name(1)));
    }

    #[test]
    fn nodes_come_and_go() {
        let now = Instant::now();
        let mut schedule = with(2, now);
        assert_eq!(schedule.take(now), Some(name(0)));
        schedule.set_nodes([name(1), name(2)].iter(), now);
        schedule.done(&name(0), true, now);
        assert_eq!(schedule.take(now + STAGGER), Some(name(2)));
        assert_eq!(schedule.take(now + STAGGER), Some(name(1)));
        assert_eq!(schedule.take(now + STAGGER), None);
    }

    #[test]
    fn a_node_that_fails_is_asked_again_soon_and_then_less_and_less() {
        let mut now = Instant::now();
        let mut schedule = with(1, now);
        let mut waited = Vec::new();
        for well in [false, false, false, false, false, false, true, false] {
            assert_eq!(schedule.take(now), Some(name(0)));
            schedule.done(&name(0), well, now);
            let next = schedule.next().unwrap();
            waited.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waited, [2, 4, 8, 16, 32, 41, 41, 2]);
        schedule.now(&name(0), now - Duration::from_secs(1));
        schedule.now(&name(9), now);
        assert_eq!((schedule.take(now), schedule.take(now)), (Some(name(0)), None));
    }

    #[test]
    fn there_is_a_bound_on_how_many_are_probed_at_once() {
        let now = Instant::now();
        let mut schedule = with(100, now);
        let later = now + STAGGER * 100;
        assert_eq!(std::iter::from_fn(|| schedule.take(later)).count(), MAX_RUNNING);
        assert_eq!(schedule.next(), None);
    }
}
