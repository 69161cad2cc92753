//! What a breaker tells: its counters, its events, where it stands.

use std::time::Instant;

use super::{BreakerState, Recent};
use crate::counters::counters;

counters! {
    /// How often the breaker changed its state. Counts changes, not calls.
    pub struct Transitions {
        /// Into open.
        opened,
        /// Into half-open.
        half_opened,
        /// Into closed.
        closed,
    }
}

counters! {
    /// How often what was asked and reported. Of the permits that were admitted,
    /// `admitted - succeeded - failed - cancelled` are under way or lost.
    pub struct BreakerCounters {
        /// Permits given.
        admitted,
        /// Permits refused.
        refused,
        /// Attempts that succeeded.
        succeeded,
        /// Attempts that failed.
        failed,
        /// Attempts that were not made, or said nothing.
        cancelled,
        /// Of these three, those that changed nothing because the breaker had moved on.
        late,
        /// Probes that were given up because nobody reported them.
        abandoned,
    }
}

/// A change of a breaker, in the order they happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerEvent {
    /// It opened.
    Opened {
        /// When the first probe is admitted.
        until: Instant,
        /// Why.
        cause: OpenCause,
    },
    /// It admits probes.
    HalfOpened,
    /// The probes succeeded, or it was [reset](super::Breaker::reset).
    Closed,
}

/// Why a breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenCause {
    /// So many attempts failed in a row.
    InARow(u32),
    /// Too many of the attempts in its window failed.
    Share(Recent),
    /// A probe failed.
    Probe,
}

/// One breaker, as a status report shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerStatus {
    /// Where it stands.
    pub state: BreakerState,
    /// How often it changed its state.
    pub transitions: Transitions,
    /// How often what was asked and reported.
    pub counters: BreakerCounters,
    /// Failures in a row, while it is closed.
    pub failures: u32,
    /// What is in its window, if it has one.
    pub recent: Option<Recent>,
}
