//! Decides how often each of many may do something, and how often something is told. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Each of `K` may `BURST` times at once, and `PER_SECOND` times more each second.
#[derive(Debug)]
pub(super) struct Rate<K, const BURST: u32, const PER_SECOND: u32> {
    left: HashMap<K, (u32, Instant)>,
}

impl<K, const BURST: u32, const PER_SECOND: u32> Default for Rate<K, BURST, PER_SECOND> {
    fn default() -> Self {
        let left = HashMap::new();
        Self { left }
    }
}

impl<K: Eq + Hash, const BURST: u32, const PER_SECOND: u32> Rate<K, BURST, PER_SECOND> {
    /// Whether it may once more; that counts.
    pub(super) fn may(&mut self, who: K, now: Instant) -> bool {
        let (left, at) = self.left.entry(who).or_insert((BURST, now));
        let seconds = now.saturating_duration_since(*at).as_secs();
        let back = u32::try_from(seconds).unwrap_or(u32::MAX);
        if back > 0 {
            *left = left
                .saturating_add(back.saturating_mul(PER_SECOND))
                .min(BURST);
            *at = now;
        }
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }

    /// Forgets who did nothing for so long that it may everything again.
    pub(super) fn sweep(&mut self, now: Instant) {
        let full = u64::from(BURST.div_ceil(PER_SECOND));
        self.left
            .retain(|_, (_, at)| now.saturating_duration_since(*at).as_secs() < full);
    }
}

/// How often something is told at most that others can make happen.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Something that is told now and then.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    told: Option<Instant>,
    untold: u64,
}

impl Seldom {
    /// How often it was not told since the last time, if it is told now.
    pub(super) fn tell(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|at| now < at + TELL_AGAIN) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_burst_and_so_many_a_second_and_is_forgotten() {
        let mut rate: Rate<u8, 5, 2> = Rate::default();
        let now = Instant::now();
        assert!((0..5).all(|_| rate.may(1, now)));
        assert!(!rate.may(1, now));
        assert!(rate.may(2, now));
        let later = now + Duration::from_secs(1);
        assert!((0..2).all(|_| rate.may(1, later)));
        assert!(!rate.may(1, later));
        rate.sweep(later + Duration::from_secs(2));
        assert_eq!(rate.left.len(), 1);
        rate.sweep(later + Duration::from_secs(3));
        assert!(rate.left.is_empty());
    }

    #[test]
    fn what_others_make_happen_is_told_once_in_a_while() {
        let mut seldom = Seldom::default();
        let now = Instant::now();
        assert_eq!(seldom.tell(now), Some(0));
        assert!((0..1000).all(|_| seldom.tell(now).is_none()));
        assert_eq!(seldom.tell(now + TELL_AGAIN), Some(1000));
        assert_eq!(seldom.tell(now + TELL_AGAIN * 2), Some(0));
    }
}
