//! Decides how much of something one of many may have: token buckets, and a table of them whose size
//! does not follow the number of who asks.

use std::time::Instant;

/// So much per second, and so much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How much comes back each second.
    pub per_second: u64,
    /// How much may be had at once.
    pub burst: u64,
}

impl Rate {
    /// A rate.
    pub const fn new(per_second: u64, burst: u64) -> Self {
        Self { per_second, burst }
    }
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug)]
pub(in crate::mesh) struct Bucket {
    /// In billionths, so that short pauses count.
    left: u128,
    at: Instant,
}

const UNIT: u128 = 1_000_000_000;

impl Bucket {
    pub(in crate::mesh) fn full(rate: Rate, now: Instant) -> Self {
        Self {
            left: u128::from(rate.burst) * UNIT,
            at: now,
        }
    }

    /// Takes so much, or nothing if there is less.
    pub(in crate::mesh) fn take(&mut self, rate: Rate, amount: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_nanos();
        self.at = self.at.max(now);
        let back = passed.saturating_mul(u128::from(rate.per_second));
        self.left = self
            .left
            .saturating_add(back)
            .min(u128::from(rate.burst) * UNIT);
        let wanted = u128::from(amount) * UNIT;
        if self.left < wanted {
            return false;
        }
        self.left -= wanted;
        true
    }
}

/// Buckets that sources share by chance: two busy ones meet with a probability of 1 in so many.
const SOURCES: usize = 4096;

/// A rate for each source, in a table of fixed size. Which sources share a bucket depends on a secret,
/// so nobody can choose to use up another's.
#[derive(Debug)]
pub(in crate::mesh) struct Sources {
    rate: Rate,
    buckets: Box<[Bucket]>,
}

impl Sources {
    pub(in crate::mesh) fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            buckets: vec![Bucket::full(rate, now); SOURCES].into_boxed_slice(),
        }
    }

    /// Takes one for the source with this hash.
    pub(in crate::mesh) fn take(&mut self, hash: u64, now: Instant) -> bool {
        self.buckets[hash as usize % SOURCES].take(self.rate, 1, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let rate = Rate::new(10, 5);
        let mut bucket = Bucket::full(rate, start);
        let mut taken = |at: Duration| bucket.take(rate, 1, start + at);
        assert_eq!((0..20).filter(|_| taken(Duration::ZERO)).count(), 5);
        let mut later = 0;
        for n in 1..=1000 {
            later += usize::from(taken(Duration::from_millis(n)));
        }
        assert_eq!(later, 10);
        assert!(
            !bucket.take(rate, 6, start + Duration::from_secs(100)),
            "more than its burst"
        );
        assert!(bucket.take(rate, 5, start + Duration::from_secs(100)));
    }

    #[test]
    fn one_source_uses_up_its_own() {
        let now = Instant::now();
        let mut sources = Sources::new(Rate::new(1, 2), now);
        assert!(sources.take(1, now) && sources.take(1, now) && !sources.take(1, now));
        assert!(sources.take(2, now));
    }
}
