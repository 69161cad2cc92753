//! Decides when a peer is approached: 2, 4, 8, 16 and 32 s after each attempt that came to nothing,
//! with jitter, then every 32 s, for as long as somebody wants it.

use std::time::{Duration, Instant};

use vpn_resilience::{Backoff, BackoffConfig, Jitter, Next};

const RETRY: BackoffConfig = BackoffConfig {
    base: Duration::from_secs(2),
    factor: 2,
    cap: Duration::from_secs(32),
    jitter: Jitter::Equal,
    max_attempts: None,
    max_elapsed: None,
    stable_after: Duration::from_secs(30),
};

/// The intent to have a session, and its schedule.
#[derive(Debug)]
pub(super) struct Attempts {
    /// When the next one is due, while somebody wants a session.
    due: Option<Instant>,
    backoff: Backoff,
    made: u32,
}

impl Attempts {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            due: None,
            backoff: Backoff::new(RETRY, seed),
            made: 0,
        }
    }

    /// Somebody wants a session: one is due now, unless that is known.
    pub(super) fn want(&mut self, now: Instant) {
        if self.due.is_none() {
            self.made = 0;
            self.due = Some(now);
        }
    }

    /// Circumstances changed for the better: what failed before says nothing.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.backoff.reset();
        self.due = Some(now);
    }

    /// There is a session.
    pub(super) fn succeeded(&mut self, now: Instant) {
        self.due = None;
        self.backoff.succeeded(now);
    }

    /// Nobody wants one any more.
    pub(super) const fn stop(&mut self) {
        self.due = None;
    }

    pub(super) const fn are_wanted(&self) -> bool {
        self.due.is_some()
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether the one that was just taken is not the first.
    pub(super) const fn is_retry(&self) -> bool {
        self.made > 1
    }

    /// Takes the one that is due, and plans the next in case it comes to nothing.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|at| at > now) {
            return false;
        }
        self.made = self.made.saturating_add(1);
        self.due = Some(match self.backoff.failed(now) {
            Next::At(at) => at,
            // It never gives up: no limit is set.
            Next::GiveUp(_) => now + RETRY.cap,
        });
        true
    }
}
