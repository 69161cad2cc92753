//! Virtual time, shared by all that takes part.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The time at which every world begins, in seconds since the Unix epoch.
const UNIX: u64 = 1_800_000_000;

/// A clock that goes on when it is told to. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    nanos: Arc<AtomicU64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            nanos: Arc::default(),
        }
    }
}

impl Clock {
    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    /// What time it is.
    pub fn now(&self) -> Instant {
        self.start + self.elapsed()
    }

    /// The same in seconds since the Unix epoch.
    pub fn unix(&self) -> u64 {
        UNIX + self.elapsed().as_secs()
    }

    /// Goes on to this time, or stays where it is if that is over.
    pub fn set(&self, now: Instant) {
        let nanos = now.saturating_duration_since(self.start).as_nanos();
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.nanos.fetch_max(nanos, Ordering::Relaxed);
    }
}
