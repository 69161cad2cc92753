//! Decides how long a tunnel may take to come up, and to close.

use std::time::{Duration, Instant};

use vpn_core::{DownCause, TransportState};

use crate::decorate::guard::Guard;
use crate::time::later;
use crate::timeout::{Timeout, TimeoutConfig, TimeoutCounters};

/// How long closing may take, by default: enough for a message of farewell.
const CLOSE_WITHIN: Duration = Duration::from_millis(500);

/// Shows a tunnel as down that takes too long to come up, so that what waits for it goes elsewhere.
/// It may come up all the same, and is up then.
#[derive(Debug)]
pub struct TunnelTimeout {
    timeout: Timeout,
    connecting: Option<Instant>,
    expired: bool,
    close_within: Duration,
}

impl Default for TunnelTimeout {
    /// 10 s at first; then what was learned, from 2 s to 30 s.
    fn default() -> Self {
        Self::new(TimeoutConfig {
            initial: Duration::from_secs(10),
            least: Duration::from_secs(2),
            most: Duration::from_secs(30),
        })
    }
}

impl TunnelTimeout {
    /// A limit that has learned nothing yet.
    pub const fn new(config: TimeoutConfig) -> Self {
        Self {
            timeout: Timeout::new(config),
            connecting: None,
            expired: false,
            close_within: CLOSE_WITHIN,
        }
    }

    /// How long closing may take. Default 500 ms.
    #[must_use]
    pub const fn closes_within(mut self, limit: Duration) -> Self {
        self.close_within = limit;
        self
    }

    /// How long coming up may take now.
    pub fn limit(&self) -> Duration {
        self.timeout.limit()
    }

    /// How often it came up in time, and how often not.
    pub const fn counters(&self) -> TimeoutCounters {
        self.timeout.counters()
    }
}

impl Guard for TunnelTimeout {
    fn observe(&mut self, now: Instant, state: &TransportState) -> Option<DownCause> {
        if *state != TransportState::Connecting {
            let took = self
                .connecting
                .take()
                .map(|since| now.saturating_duration_since(since));
            if let (TransportState::Up(_), Some(took), false) = (state, took, self.expired) {
                self.timeout.answered(took);
            }
            self.expired = false;
            return None;
        }
        let since = *self.connecting.get_or_insert(now);
        if !self.expired && now >= later(since, self.timeout.limit()) {
            self.expired = true;
            self.timeout.expired();
        }
        self.expired.then_some(DownCause::NoAnswer)
    }

    fn next_timeout(&self) -> Option<Instant> {
        let since = self.connecting.filter(|_| !self.expired)?;
        Some(later(since, self.timeout.limit()))
    }

    fn close_within(&self) -> Option<Duration> {
        Some(self.close_within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn one_that_takes_too_long_is_down_until_it_is_up() {
        let start = Instant::now();
        let mut guard = TunnelTimeout::default();
        assert_eq!(guard.observe(start, &TransportState::Connecting), None);
        let late = guard.next_timeout().unwrap();
        assert_eq!(late, start + Duration::from_secs(10));
        let down = Some(DownCause::NoAnswer);
        assert_eq!(guard.observe(late, &TransportState::Connecting), down);
        assert_eq!(guard.next_timeout(), None);
        assert_eq!(guard.observe(late, &TransportState::Connecting), down);
        let up = TransportState::Up(Arc::default());
        assert_eq!(guard.observe(late + Duration::from_secs(1), &up), None);
        let counters = guard.counters();
        assert_eq!((counters.expired, counters.answered), (1, 0));
    }

    #[test]
    fn it_learns_how_long_coming_up_takes() {
        let mut now = Instant::now();
        let mut guard = TunnelTimeout::default();
        for _ in 0..20 {
            guard.observe(now, &TransportState::Connecting);
            now += Duration::from_secs(1);
            guard.observe(now, &TransportState::Up(Arc::default()));
        }
        assert_eq!(guard.limit(), Duration::from_secs(2));
    }
}
