//! Decides whether an attempt may be made: a circuit breaker.
//!
//! ```text
//!      failure_threshold failures in a row, or too large a share of the window
//!   Closed ───────────────────────────────────────▶ Open
//!     ▲                                            │   ▲
//!     │ success_threshold        reset_after       │   │ one failed probe
//!     │ probes succeeded         has passed        ▼   │
//!     └──────────────────────────────────────── Half-open
//! ```
//!
//! Asking for a permit is what moves an open breaker to half-open, so there is no state in which
//! nobody asks and nothing ever changes. Each permit remembers the phase it was given in: an
//! answer that arrives after the breaker moved on is ignored, so old calls cannot close or open
//! it. Probes whose outcome is never reported are given up after `reset_after`.
//!
//! The breaker has no lock: whoever shares one puts a mutex around it, and holds that for the few
//! instructions of a call. Every state that can be reached, and every call in it, is compared with
//! a naive breaker in `model`.

pub mod registry;
mod report;
mod window;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::time::later;
pub use report::{BreakerCounters, BreakerEvent, BreakerStatus, OpenCause, Transitions};
use window::Rolling;
pub use window::{Recent, Window};

/// Events that nobody has taken yet; beyond, the oldest is forgotten, for the counters are exact
/// without it.
pub const MAX_EVENTS: usize = 8;

/// Thresholds of a [`Breaker`]. A zero counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it. Default 5.
    pub failure_threshold: u32,
    /// How long it stays open, and how long a probe may take. Default 60 s.
    pub reset_after: Duration,
    /// Successful probes that close it again. Default 2.
    pub success_threshold: u32,
    /// Probes under way at the same time while half-open. Default 1.
    pub probes: u32,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            reset_after: Duration::from_secs(60),
            success_threshold: 2,
            probes: 1,
        }
    }
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Attempts are made.
    Closed,
    /// No attempt is made before this time.
    Open {
        /// When the first probe is admitted.
        until: Instant,
    },
    /// A few probes find out whether it works again.
    HalfOpen,
}

impl BreakerState {
    /// The name used in status and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Leave to make one attempt. Report its outcome with it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "report the attempt's outcome, or give the permit back with `cancelled`"]
pub struct Permit {
    phase: u64,
}

/// The breaker admits no attempt now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many failures: no attempt is made for now")]
pub struct Refused {
    /// When to ask again: a probe is admitted then, or an overdue one given up.
    pub retry_at: Instant,
}

/// A circuit breaker.
///
/// ```
/// use std::time::{Duration, Instant};
/// use vpn_resilience::{Breaker, BreakerConfig};
///
/// let mut breaker = Breaker::new(BreakerConfig { failure_threshold: 1, ..Default::default() });
/// let now = Instant::now();
/// let permit = breaker.acquire(now)?;
/// breaker.failed(permit, now);
/// assert_eq!(breaker.acquire(now).unwrap_err().retry_at, now + Duration::from_secs(60));
/// assert!(breaker.acquire(now + Duration::from_secs(60)).is_ok());
/// # Ok::<(), vpn_resilience::Refused>(())
/// ```
#[derive(Clone, Debug)]
pub struct Breaker {
    config: BreakerConfig,
    inner: Inner,
    /// Grows with each change of state and each batch of abandoned probes.
    phase: u64,
    window: Option<Box<Rolling>>,
    transitions: Transitions,
    counters: BreakerCounters,
    events: VecDeque<BreakerEvent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Inner {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    HalfOpen {
        in_flight: u32,
        successes: u32,
        last_probe: Instant,
    },
}

impl Breaker {
    /// A closed breaker.
    pub const fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            inner: Inner::Closed { failures: 0 },
            phase: 0,
            window: None,
            transitions: Transitions::ZERO,
            counters: BreakerCounters::ZERO,
            events: VecDeque::new(),
        }
    }

    /// The same with a rolling window besides: whichever says so first opens it. Costs 200 bytes.
    /// Default: failures in a row alone.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.window = Some(Box::new(Rolling::new(window)));
        self
    }

    /// Leave to make one attempt.
    ///
    /// # Errors
    ///
    /// [`Refused`] while open, and while half-open with all probes under way.
    pub fn acquire(&mut self, now: Instant) -> Result<Permit, Refused> {
        if let Inner::Open { until } = self.inner {
            if now < until {
                return self.refuse(until);
            }
            self.transitions.half_opened += 1;
            self.enter(
                Inner::HalfOpen {
                    in_flight: 0,
                    successes: 0,
                    last_probe: now,
                },
                BreakerEvent::HalfOpened,
            );
        }
        match &mut self.inner {
            Inner::HalfOpen {
                in_flight,
                last_probe,
                ..
            } => {
                if *in_flight >= self.config.probes.max(1) {
                    let overdue = later(*last_probe, self.config.reset_after);
                    if now < overdue {
                        return self.refuse(overdue);
                    }
                    // Whoever held these permits is gone; what it reports later does not count.
                    self.phase += 1;
                    self.counters.abandoned += u64::from(*in_flight);
                    *in_flight = 0;
                }
                *in_flight += 1;
                *last_probe = now;
            }
            Inner::Closed { .. } => {
                if let Some(window) = &mut self.window {
                    window.roll(now);
                }
            }
            Inner::Open { .. } => {}
        }
        self.counters.admitted += 1;
        Ok(Permit { phase: self.phase })
    }

    /// The attempt succeeded. A window counts it where the breaker last heard the time.
    pub fn succeeded(&mut self, permit: Permit) {
        self.counters.succeeded += 1;
        if self.is_late(&permit) {
            return;
        }
        match &mut self.inner {
            Inner::Closed { failures } => {
                *failures = 0;
                if let Some(window) = &mut self.window {
                    window.succeeded();
                }
            }
            Inner::HalfOpen {
                in_flight,
                successes,
                ..
            } => {
                *in_flight = in_flight.saturating_sub(1);
                *successes += 1;
                if *successes >= self.config.success_threshold.max(1) {
                    self.transitions.closed += 1;
                    self.enter(Inner::Closed { failures: 0 }, BreakerEvent::Closed);
                }
            }
            Inner::Open { .. } => {}
        }
    }

    /// The attempt failed.
    pub fn failed(&mut self, permit: Permit, now: Instant) {
        self.counters.failed += 1;
        if self.is_late(&permit) {
            return;
        }
        let cause = match &mut self.inner {
            Inner::Closed { failures } => {
                *failures += 1;
                let in_a_row = *failures >= self.config.failure_threshold.max(1);
                let share = self
                    .window
                    .as_mut()
                    .and_then(|window| window.failed(now).then(|| window.recent()));
                match share {
                    _ if in_a_row => OpenCause::InARow(*failures),
                    Some(recent) => OpenCause::Share(recent),
                    None => return,
                }
            }
            Inner::HalfOpen { .. } => OpenCause::Probe,
            Inner::Open { .. } => return,
        };
        let until = later(now, self.config.reset_after);
        self.transitions.opened += 1;
        self.enter(Inner::Open { until }, BreakerEvent::Opened { until, cause });
    }

    /// The attempt was not made, or its outcome says nothing.
    pub fn cancelled(&mut self, permit: Permit) {
        self.counters.cancelled += 1;
        if self.is_late(&permit) {
            return;
        }
        if let Inner::HalfOpen { in_flight, .. } = &mut self.inner {
            *in_flight = in_flight.saturating_sub(1);
        }
    }

    /// Closes it and forgets all failures: for when the circumstances changed, such as a new network.
    /// Permits that are under way change nothing any more. Counters stay.
    pub fn reset(&mut self) {
        if self.is_closed() {
            self.phase += 1;
            self.inner = Inner::Closed { failures: 0 };
            if let Some(window) = &mut self.window {
                window.clear();
            }
        } else {
            self.transitions.closed += 1;
            self.enter(Inner::Closed { failures: 0 }, BreakerEvent::Closed);
        }
    }

    /// Where it stands. An open breaker whose time has passed is still open until asked.
    pub const fn state(&self) -> BreakerState {
        match self.inner {
            Inner::Closed { .. } => BreakerState::Closed,
            Inner::Open { until } => BreakerState::Open { until },
            Inner::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether every attempt is admitted.
    pub const fn is_closed(&self) -> bool {
        matches!(self.inner, Inner::Closed { .. })
    }

    /// The next change that nobody has taken yet. Up to [`MAX_EVENTS`] are kept; a call makes one
    /// at most, so who asks after each call misses none.
    pub fn poll_event(&mut self) -> Option<BreakerEvent> {
        self.events.pop_front()
    }

    /// How often it changed its state.
    pub const fn transitions(&self) -> Transitions {
        self.transitions
    }

    /// How often what was asked and reported.
    pub const fn counters(&self) -> BreakerCounters {
        self.counters
    }

    /// All there is to report of it.
    pub fn status(&self) -> BreakerStatus {
        BreakerStatus {
            state: self.state(),
            transitions: self.transitions,
            counters: self.counters,
            failures: match self.inner {
                Inner::Closed { failures } => failures,
                _ => 0,
            },
            recent: self.window.as_ref().map(|window| window.recent()),
        }
    }

    fn refuse(&mut self, retry_at: Instant) -> Result<Permit, Refused> {
        self.counters.refused += 1;
        Err(Refused { retry_at })
    }

    /// Whether a permit is of an earlier phase: then it changes nothing.
    const fn is_late(&mut self, permit: &Permit) -> bool {
        let late = permit.phase != self.phase;
        self.counters.late += late as u64;
        late
    }

    fn enter(&mut self, inner: Inner, event: BreakerEvent) {
        self.phase += 1;
        self.inner = inner;
        if let Some(window) = &mut self.window {
            window.clear();
        }
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}
