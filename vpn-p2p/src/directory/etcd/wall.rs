//! Whether the clock of the system was set. Pure: time is an argument.
//!
//! A record is judged by the clock when it comes from etcd, and not again: what was refused by a clock that was
//! wrong has to be looked at anew.

use tokio::time::Instant;

/// A clock that is so many seconds away from where it should be was set. Less is drift, which shuts nobody out:
/// records live for minutes at least.
const SET: u64 = 60;

/// Where the clock was.
#[derive(Debug)]
pub(super) struct Wall {
    unix: u64,
    at: Instant,
}

impl Wall {
    pub(super) const fn new(unix: u64, at: Instant) -> Self {
        Self { unix, at }
    }

    /// Whether it was set since this was asked last. A sleep of the machine counts: clocks that only go
    /// forward stand still then.
    pub(super) fn was_set(&mut self, unix: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs();
        let expected = self.unix.saturating_add(passed);
        *self = Self::new(unix, now);
        expected.abs_diff(unix) > SET
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_that_passes_is_no_change_and_a_step_is_one_once() {
        let from = Instant::now();
        let after = |seconds| from + Duration::from_secs(seconds);
        let mut wall = Wall::new(1_000_000, from);
        assert!(!wall.was_set(1_000_005, after(5)));
        assert!(!wall.was_set(1_086_405, after(86_405)));
        // Out of 1970, and an hour ahead and back.
        for unix in [5, 2_000_000, 2_003_600, 2_000_000] {
            assert!(wall.was_set(unix, after(86_405)), "{unix}");
            assert!(!wall.was_set(unix + 10, after(86_415)), "{unix}");
            assert!(!wall.was_set(unix, after(86_405)), "a little back");
        }
    }
}
