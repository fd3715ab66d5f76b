//! Forgets flows that are over. The programs count an expired entry as none; collecting only makes room.
//!
//! Owns the walk and its pace. What is over is `maps::conntrack`'s.

use crate::clock;
use crate::maps::conntrack::{Age, FlowKey, is_service, served};
use crate::maps::{Maps, endpoints, runtime};
use crate::syscall::{Cursor, Map, test_run};
use crate::{NodeAddresses, Timeouts};
use bpf::abi;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Cilium's bounds and steps: walk more often when much was found, less often when little was.
const FIRST_INTERVAL: Duration = Duration::from_secs(5 * 60);
const LEAST_INTERVAL: Duration = Duration::from_secs(10);
const MOST_INTERVAL: Duration = Duration::from_secs(60 * 60);
const MUCH: f64 = 0.25;
const LITTLE: f64 = 0.05;
/// Entries that ended less than this ago stay: a late packet is just refreshing one of them, perhaps.
const SLACK: Duration = Duration::from_secs(5);
/// For each unit of work so many of rest: at most a fifth of one processor.
const REST: u32 = 4;

/// What one walk did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Walk {
    pub seen: usize,
    pub removed: usize,
}

impl Walk {
    /// The time to the next walk.
    fn interval(self, last: Duration) -> Duration {
        let ratio = if self.seen == 0 { 0.0 } else { self.removed as f64 / self.seen as f64 };
        let next = if ratio > MUCH {
            last.mul_f64(1.0 - ratio)
        } else if ratio < LITTLE {
            last.mul_f64(1.5)
        } else {
            last
        };
        next.clamp(LEAST_INTERVAL, MOST_INTERVAL)
    }
}

#[derive(Debug)]
pub struct Collector {
    maps: Arc<Maps>,
    clock: OwnedFd,
    timeouts: Timeouts,
    stop: Arc<AtomicBool>,
}

impl Collector {
    pub fn new(maps: Arc<Maps>, clock: OwnedFd, timeouts: Timeouts, stop: Arc<AtomicBool>) -> Collector {
        Collector { maps, clock, timeouts, stop }
    }

    /// Walks until it is stopped; wakes when its thread is unparked.
    pub fn run(self) {
        let mut interval = FIRST_INTERVAL;
        loop {
            let next = Instant::now() + interval;
            while Instant::now() < next {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
            }
            match self.walk() {
                Ok(walk) => {
                    tracing::debug!(walk.seen, walk.removed, "collected flows");
                    interval = walk.interval(interval);
                }
                Err(error) => tracing::warn!(%error, "flows could not be collected"),
            }
        }
    }

    /// One walk over all flows.
    pub fn walk(&self) -> io::Result<Walk> {
        let slots = endpoints::read(&self.maps).map_err(io::Error::other)?;
        let alive: BTreeSet<u16> = slots.keys().map(|id| id.0).collect();
        let mut walk = Walk::default();
        self.walk_map(&self.maps.ct4, &alive, &mut walk)?;
        self.walk_map(&self.maps.ct6, &alive, &mut walk)?;
        Ok(walk)
    }

    fn walk_map<K: FlowKey>(
        &self,
        map: &Map<K, abi::CtEntry>,
        alive: &BTreeSet<u16>,
        walk: &mut Walk,
    ) -> io::Result<()> {
        let slack = clock::ticks(SLACK);
        let own = runtime::read_snat_sources(&self.maps).map_err(io::Error::other)?;
        let mut cursor = Cursor::default();
        loop {
            let begun = Instant::now();
            let age = Age { timeouts: &self.timeouts, jiffies: test_run(self.clock.as_fd())? };
            let flow_over = |key: &K, entry: &abi::CtEntry| {
                let gone = entry.slot.iter().any(|slot| *slot != 0 && !alive.contains(slot));
                gone || age.is_over(key.ends().protocol(), entry, slack)
            };
            let over = |key: &K, entry: &abi::CtEntry| -> io::Result<bool> {
                if !is_service(entry) {
                    return Ok(flow_over(key, entry));
                }
                // It was written after its flow, and goes after it.
                match self.flow_of(key, entry, own)? {
                    Some(key) => Ok(map.get(&key)?.is_none_or(|flow| is_service(&flow) || flow_over(&key, &flow))),
                    None => Ok(true),
                }
            };
            let Some(batch) = map.next_batch(&mut cursor)? else { return Ok(()) };
            walk.seen += batch.keys.len();
            for (key, entry) in batch.keys.iter().zip(&batch.values) {
                if !over(key, entry)? {
                    continue;
                }
                // A packet may have come since the batch was read.
                if let Some(entry) = map.get(key)?
                    && over(key, &entry)?
                {
                    map.delete(key)?;
                    walk.removed += 1;
                }
            }
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            std::thread::park_timeout(begun.elapsed() * REST);
        }
    }
}

impl Collector {
    /// The flow that a service entry belongs to.
    fn flow_of<K: FlowKey>(&self, key: &K, entry: &abi::CtEntry, own: NodeAddresses) -> io::Result<Option<K>> {
        let [number, _] = entry.stamp;
        let backend = self.maps.services.backends.get(&(number % abi::LB_BACKENDS))?;
        Ok(backend.and_then(|backend| served(key, entry, &backend, own)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_what_was_found() {
        let minute = Duration::from_secs(60);
        assert_eq!(Walk { seen: 100, removed: 50 }.interval(minute), Duration::from_secs(30));
        assert_eq!(Walk { seen: 100, removed: 10 }.interval(minute), minute);
        assert_eq!(Walk { seen: 100, removed: 0 }.interval(minute), Duration::from_secs(90));
        assert_eq!(Walk { seen: 100, removed: 100 }.interval(minute), LEAST_INTERVAL);
        assert_eq!(Walk::default().interval(MOST_INTERVAL), MOST_INTERVAL);
    }
}
