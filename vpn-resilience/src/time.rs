//! Instants that cannot overflow.

use std::time::{Duration, Instant};

/// As good as never: what is asked for lies beyond what an [`Instant`] can say.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// `by` after `now`; a hundred years after it where that cannot be said.
pub(crate) fn later(now: Instant, by: Duration) -> Instant {
    now.checked_add(by)
        .or_else(|| now.checked_add(FAR))
        .unwrap_or(now)
}

/// The earlier of two wake-ups, of which either may be none.
pub(crate) fn sooner(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
