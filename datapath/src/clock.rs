//! The kernel's tick: the unit in which flows age.

use std::sync::OnceLock;
use std::time::Duration;

/// Length of a jiffy. The coarse clock advances by one at each tick, and its resolution says so.
pub fn tick() -> Duration {
    static TICK: OnceLock<Duration> = OnceLock::new();
    *TICK.get_or_init(|| {
        let resolution = nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from);
        // 250 Hz, the default of the kernel's configuration.
        resolution.ok().filter(|tick| !tick.is_zero()).unwrap_or(Duration::from_millis(4))
    })
}

/// A time in jiffies, rounded, at least one.
pub fn ticks(time: Duration) -> u32 {
    let tick = tick().as_nanos();
    u32::try_from((time.as_nanos() + tick / 2) / tick).unwrap_or(u32::MAX).max(1)
}

/// So many jiffies in seconds, rounded.
pub fn seconds(ticks: u32) -> u32 {
    let tick = tick().as_nanos();
    u32::try_from((u128::from(ticks) * tick + 500_000_000) / 1_000_000_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_a_usual_number_of_ticks() {
        assert!([100, 250, 300, 1000].contains(&ticks(Duration::from_secs(1))), "{}", ticks(Duration::from_secs(1)));
        assert_eq!(ticks(Duration::ZERO), 1);
        assert_eq!(seconds(ticks(Duration::from_secs(10_800))), 10_800);
    }
}
