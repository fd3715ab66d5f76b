//! Has the kernel hurry while programs are attached.
//!
//! Attaching to a tcx hook waits for a grace period of RCU with the lock of all networking held: two or three ticks,
//! 8 to 16 ms each at 250 Hz, twice for each endpoint. Expedited it takes 0.2 ms. The switch for that is one of the whole
//! kernel, so it is on for no longer than the system calls take, and back as it was after that. Where it cannot be
//! turned, attaching is slow and otherwise the same.

use std::fs;

const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// While it lives, grace periods are short.
#[derive(Debug)]
pub struct Expedited {
    /// We turned it on.
    ours: bool,
}

impl Expedited {
    pub fn begin() -> Expedited {
        let off = fs::read_to_string(SWITCH).is_ok_and(|text| text.trim() == "0");
        Expedited { ours: off && fs::write(SWITCH, "1").is_ok() }
    }
}

impl Drop for Expedited {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::write(SWITCH, "0")
        {
            tracing::warn!(%error, "{SWITCH} stays on; it does no harm");
        }
    }
}
