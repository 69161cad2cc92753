//! Decides whether a tunnel that goes up and down is believed to be up.
//!
//! Each time up is an attempt: it failed if the tunnel goes down, and succeeded once it lasted for
//! `stable_after`. A tunnel that fails too often in a row is held down, as routers hold down routes
//! that flap (RFC 2439): whoever moves to another tunnel at each of its ups and downs loses more
//! than by staying away.

use std::time::{Duration, Instant};

use vpn_core::{DownCause, DropReason, NetworkEvent, Packet, TransportState};

use crate::breaker::{Breaker, BreakerConfig, BreakerEvent, BreakerStatus, Permit, Window};
use crate::decorate::guard::{Admission, Guard};
use crate::time::later;

/// How long a tunnel has to be up before that counts as a success, by default.
pub(crate) const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Holds down a tunnel that goes up and down.
#[derive(Debug)]
pub struct TunnelBreaker {
    breaker: Breaker,
    stable_after: Duration,
    up: Up,
}

/// What the tunnel is doing, as far as the breaker is concerned.
#[derive(Debug)]
enum Up {
    /// It is not up.
    No,
    /// It is up, which is an attempt, and when that succeeds.
    Attempt {
        permit: Permit,
        stable: Option<Instant>,
    },
    /// It is up and held down until then at least.
    Held { until: Instant },
}

/// A tunnel's breaker, as a status report shows it.
pub type TunnelBreakerStatus = BreakerStatus;

impl TunnelBreaker {
    /// A closed breaker: [`failure_threshold`](BreakerConfig::failure_threshold) losses in a row open
    /// it, for [`reset_after`](BreakerConfig::reset_after); then the tunnel has to last
    /// [`success_threshold`](BreakerConfig::success_threshold) times `stable_after`.
    pub const fn new(config: BreakerConfig) -> Self {
        Self {
            breaker: Breaker::new(config),
            stable_after: STABLE_AFTER,
            up: Up::No,
        }
    }

    /// With a [window](Breaker::window) besides. Default: none.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.breaker = self.breaker.window(window);
        self
    }

    /// How long the tunnel has to be up before that is a success. Default 10 s.
    #[must_use]
    pub const fn stable_after(mut self, stable_after: Duration) -> Self {
        self.stable_after = stable_after;
        self
    }

    /// All there is to report of it.
    pub fn status(&self) -> TunnelBreakerStatus {
        self.breaker.status()
    }

    /// As [`Breaker::poll_event`].
    pub fn poll_event(&mut self) -> Option<BreakerEvent> {
        self.breaker.poll_event()
    }

    fn attempt(&mut self, now: Instant) {
        self.up = match self.breaker.acquire(now) {
            Ok(permit) => Up::Attempt {
                permit,
                stable: Some(later(now, self.stable_after)),
            },
            Err(refused) => Up::Held {
                until: refused.retry_at,
            },
        };
    }

    /// It is up. Before, or still.
    fn goes_on(&mut self, now: Instant) {
        match std::mem::replace(&mut self.up, Up::No) {
            Up::No => self.attempt(now),
            Up::Held { until } if now >= until => self.attempt(now),
            Up::Attempt {
                permit,
                stable: Some(stable),
            } if now >= stable => {
                self.breaker.succeeded(permit);
                self.attempt(now);
                // Once it is closed, lasting longer says no more; its loss will.
                if let Up::Attempt { stable, .. } = &mut self.up
                    && self.breaker.is_closed()
                {
                    *stable = None;
                }
            }
            same => self.up = same,
        }
    }
}

impl Guard for TunnelBreaker {
    fn observe(&mut self, now: Instant, state: &TransportState) -> Option<DownCause> {
        if matches!(state, TransportState::Up(_)) {
            self.goes_on(now);
            return matches!(self.up, Up::Held { .. }).then_some(DownCause::HeldBack);
        }
        let was = std::mem::replace(&mut self.up, Up::No);
        if let Up::Attempt { permit, .. } = was {
            match state {
                // As it was told to.
                TransportState::Dormant | TransportState::Closed => self.breaker.cancelled(permit),
                _ => self.breaker.failed(permit, now),
            }
        }
        None
    }

    fn admit(&mut self, _now: Instant, _packets: &[Packet]) -> Admission {
        match self.up {
            Up::Held { .. } => Admission::Drop(DropReason::TunnelDown),
            _ => Admission::All,
        }
    }

    /// What happened on the last network says nothing about this one.
    fn network_changed(&mut self, event: NetworkEvent) {
        if !event.calls_for_reconnect() {
            return;
        }
        if let Up::Attempt { permit, .. } = std::mem::replace(&mut self.up, Up::No) {
            self.breaker.cancelled(permit);
        }
        self.breaker.reset();
    }

    fn next_timeout(&self) -> Option<Instant> {
        match self.up {
            Up::No => None,
            Up::Attempt { stable, .. } => stable,
            Up::Held { until } => Some(until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::BreakerState;
    use std::sync::Arc;

    fn up() -> TransportState {
        TransportState::Up(Arc::default())
    }

    const DOWN: TransportState = TransportState::Down(DownCause::NoAnswer);

    fn second(start: Instant, second: u64) -> Instant {
        start + Duration::from_secs(second)
    }

    #[test]
    fn one_that_flaps_is_held_down_until_it_lasts() {
        let start = Instant::now();
        let at = |seconds| second(start, seconds);
        let mut guard = TunnelBreaker::new(BreakerConfig::default());
        for flap in 0..5 {
            assert_eq!(guard.observe(at(2 * flap), &up()), None);
            assert_eq!(guard.observe(at(2 * flap + 1), &DOWN), None);
        }
        assert_eq!(guard.observe(at(10), &up()), Some(DownCause::HeldBack));
        let admission = guard.admit(at(10), &[]);
        assert_eq!(admission, Admission::Drop(DropReason::TunnelDown));
        // Down and up while it is held down says nothing.
        guard.observe(at(11), &DOWN);
        assert!(guard.observe(at(12), &up()).is_some());
        let until = guard.next_timeout().unwrap();
        assert_eq!(until, at(9 + 60));
        assert_eq!(guard.observe(until, &up()), None, "a probe");
        assert_eq!(guard.status().state, BreakerState::HalfOpen);
        for lasts in [10, 20] {
            let stable = guard.next_timeout().unwrap();
            assert_eq!(stable, until + Duration::from_secs(lasts));
            assert_eq!(guard.observe(stable, &up()), None);
        }
        assert_eq!(guard.status().state, BreakerState::Closed);
        assert_eq!(guard.next_timeout(), None, "an idle tunnel needs no timer");
    }

    #[test]
    fn one_that_is_lost_now_and_then_is_not() {
        let start = Instant::now();
        let mut guard = TunnelBreaker::new(BreakerConfig::default());
        for loss in 0..100 {
            let from = second(start, loss * 60);
            guard.observe(from, &up());
            assert_eq!(guard.observe(from + STABLE_AFTER, &up()), None);
            guard.observe(from + Duration::from_secs(30), &DOWN);
        }
        let status = guard.status();
        assert_eq!(
            (status.transitions.opened, status.counters.failed),
            (0, 100)
        );
    }

    #[test]
    fn another_network_is_another_chance() {
        let start = Instant::now();
        let mut guard = TunnelBreaker::new(BreakerConfig::default());
        for flap in 0..5 {
            guard.observe(second(start, flap), &up());
            guard.observe(second(start, flap), &DOWN);
        }
        assert!(guard.observe(second(start, 6), &up()).is_some());
        guard.network_changed(NetworkEvent::Lost);
        assert!(guard.observe(second(start, 7), &up()).is_some());
        guard.network_changed(NetworkEvent::Changed);
        assert_eq!(guard.observe(second(start, 8), &up()), None);
        assert_eq!(guard.status().transitions.closed, 1);
    }

    #[test]
    fn one_that_rests_or_is_closed_was_not_lost() {
        let start = Instant::now();
        let mut guard = TunnelBreaker::new(BreakerConfig::default());
        for rest in 0..10 {
            guard.observe(second(start, rest * 2), &up());
            guard.observe(second(start, rest * 2 + 1), &TransportState::Dormant);
        }
        let counters = guard.status().counters;
        assert_eq!((counters.failed, counters.cancelled), (0, 10));
    }
}
