//! A fuse against Docker's endless loop. Engines of every version ask for a pool again, without pause or end, while
//! they dislike the one they got. The answers are such that they do not; should one do it all the same, it gets an
//! error, which ends the loop and tells the user what to do.

use crate::refusal::Refusal;
use api::ipam::{Family, PoolRequest};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// More than this many equal requests in a row, none followed by a network or a release, are a loop: many users at once
/// may each ask once before the first of them has a network.
const MANY: usize = 64;
/// A loop asks thousands of times within this; people do not.
const WINDOW: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(crate) struct Fuse {
    /// Of each family: when the present row of requests began and how long it is.
    rows: Mutex<[Option<(Instant, usize)>; 2]>,
}

impl Fuse {
    /// Counts a request that comes at `now`. Only those without a subnet can loop.
    pub(super) fn check(&self, request: &PoolRequest, now: Instant) -> Result<(), Refusal> {
        if request.subnet.is_some() {
            return Ok(());
        }
        let family = request.family;
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let row = &mut rows[usize::from(family == Family::Ipv6)];
        let (began, count) = match *row {
            Some((began, count)) if now.duration_since(began) <= WINDOW => (began, count + 1),
            _ => (now, 1),
        };
        *row = Some((began, count));
        match count > MANY {
            true => Err(Refusal::Fuse { family: super::family_name(family), count }),
            false => Ok(()),
        }
    }

    /// Somebody got what they asked for.
    pub(crate) fn reset(&self) {
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = [None, None];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node_pool(family: Family) -> PoolRequest {
        PoolRequest { family, subnet: None, range: None }
    }

    #[test]
    fn a_loop_ends_and_others_go_on() {
        let (fuse, now) = (Fuse::default(), Instant::now());
        for _ in 0..MANY {
            fuse.check(&node_pool(Family::Ipv4), now).unwrap();
        }
        assert!(matches!(fuse.check(&node_pool(Family::Ipv4), now), Err(Refusal::Fuse { .. })));
        fuse.check(&node_pool(Family::Ipv6), now).unwrap();
        let own = PoolRequest { subnet: Some("10.1.0.0/16".parse().unwrap()), ..node_pool(Family::Ipv4) };
        fuse.check(&own, now).unwrap();
        fuse.reset();
        fuse.check(&node_pool(Family::Ipv4), now).unwrap();
    }

    #[test]
    fn slow_repeats_are_no_loop() {
        let (fuse, mut now) = (Fuse::default(), Instant::now());
        for _ in 0..4 * MANY {
            fuse.check(&node_pool(Family::Ipv4), now).unwrap();
            now += WINDOW / 16;
        }
    }
}
