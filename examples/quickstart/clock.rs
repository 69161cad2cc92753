//! Reads the clock that all processes of a machine share.

use nix::time::ClockId;

/// Nanoseconds of `CLOCK_MONOTONIC`: comparable between processes, never set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nanos(pub(crate) u64);

impl Nanos {
    /// Now. The clock exists on every Linux; were it to fail, all times would be 0, equal.
    pub(crate) fn now() -> Self {
        let now = ClockId::CLOCK_MONOTONIC.now();
        let nanos = now.map_or(0, |t| {
            t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
        });
        Self(nanos)
    }

    /// Milliseconds since an earlier moment.
    pub(crate) fn millis_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e6
    }
}
