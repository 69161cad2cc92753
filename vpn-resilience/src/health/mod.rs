//! Decides whether a peer is alive, and when to ask it: silence, questions, answers.
//!
//! ```text
//!   heard        keepalive        2 × keepalive       3 × keepalive
//!     ├───────────── ? ──────┬────── ? ──────┬──────────────┤
//!   alive          asked   asked   asked   asked           dead
//! ```
//!
//! Everything authentic that comes is a sign of life, so a busy peer is never asked. A silent one is
//! asked after a keepalive, several times within two more, for questions get lost like everything
//! else; if none is answered it is dead three keepalives after its last sign of life, at the
//! latest. Questions go on then, one a keepalive, and the answer makes it alive again.
//!
//! Questions are for the peer's own control: a message of their own, never bytes among the data. And
//! they prove something only if the answer can be told from an old one, so they are numbered.

#[cfg(test)]
mod tests;
#[cfg(feature = "tokio")]
mod watch;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::counters::counters;
use crate::time::later;
use crate::timeout::{Timeout, TimeoutConfig};

#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
pub use watch::Watch;

/// Silence after which a peer is dead, in keepalives.
pub const DEAD_AFTER: u32 = 3;

/// The shortest silence that can be asked about: without any, whoever drives a monitor would do
/// nothing else.
pub const LEAST_KEEPALIVE: Duration = Duration::from_millis(1);

/// Questions whose answers are waited for; the oldest is given up then.
const MAX_OPEN: usize = 16;

/// Events that nobody has taken yet; beyond, the oldest is forgotten.
const MAX_EVENTS: usize = 8;

/// How a peer is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// Silence after which it is asked; [`DEAD_AFTER`] times as much, and it is dead. Default 25 s,
    /// within the 30 s for which the worst NATs remember a flow (RFC 4787 REQ-5 wants 2 minutes);
    /// shorter than [`LEAST_KEEPALIVE`] counts as that.
    pub keepalive: Duration,
    /// How often it is asked before it is dead; 0 counts as 1. Default 4: where a fifth of all
    /// packets is lost in each direction, a living one is called dead once in 60 times.
    pub questions: u32,
    /// Signs of life in a row, each an answer or at least half a pause between questions apart,
    /// that make a dead one alive; 0 counts as 1. Default 1.
    pub signs: u32,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_secs(25),
            questions: 4,
            signs: 1,
        }
    }
}

/// What is known of a peer's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Life {
    /// Nothing was heard yet.
    Unknown,
    /// It was heard of late.
    Alive,
    /// It is silent, and was asked.
    Silent,
    /// It did not answer.
    Dead,
}

impl Life {
    /// The name used in status and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alive => "alive",
            Self::Silent => "silent",
            Self::Dead => "dead",
        }
    }
}

/// A question for the peer. Whoever answers gives its number back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question(pub u64);

counters! {
    /// How often what happened to a peer that is watched.
    pub struct HealthCounters {
        /// Questions asked.
        questions,
        /// Answers to them.
        answers,
        /// Answers that nobody waited for: late, twice, or invented.
        unexpected,
        /// How often it was found dead.
        deaths,
        /// How often it was alive again.
        recoveries,
    }
}

/// A peer that is watched, as a status report shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthStatus {
    /// What is known of its life, and since when.
    pub life: Life,
    /// Since when it is so.
    pub since: Instant,
    /// When it was heard last.
    pub heard: Option<Instant>,
    /// How long an answer takes, smoothed.
    pub round_trip: Option<Duration>,
    /// How often what happened.
    pub counters: HealthCounters,
}

/// Watches one peer.
///
/// ```
/// use std::time::{Duration, Instant};
/// use vpn_resilience::{HealthConfig, Life, Monitor};
///
/// let start = Instant::now();
/// let mut monitor = Monitor::new(HealthConfig::default(), start);
/// monitor.heard(start);
/// // Nobody answers.
/// while monitor.life() != Life::Dead {
///     let now = monitor.next_timeout();
///     monitor.handle_timeout(now);
///     while let Some(question) = monitor.poll_question() {
///         assert!(question.0 < 10);
///     }
/// }
/// assert_eq!(monitor.status().since, start + 3 * Duration::from_secs(25));
/// ```
#[derive(Debug)]
pub struct Monitor {
    config: HealthConfig,
    life: Life,
    since: Instant,
    heard: Option<Instant>,
    /// From when silence is measured: the last sign of life, or the beginning.
    quiet_since: Instant,
    next_question: Instant,
    /// Signs of life of a dead peer, and when the last one counted.
    signs: (u32, Instant),
    open: VecDeque<(u64, Instant)>,
    asked: VecDeque<Question>,
    events: VecDeque<(Life, Instant)>,
    numbers: u64,
    round_trip: Timeout,
    counters: HealthCounters,
}

impl Monitor {
    /// Watches a peer from now on. It is asked at once.
    pub fn new(mut config: HealthConfig, now: Instant) -> Self {
        config.keepalive = config.keepalive.max(LEAST_KEEPALIVE);
        Self {
            config,
            life: Life::Unknown,
            since: now,
            heard: None,
            quiet_since: now,
            next_question: now,
            signs: (0, now),
            open: VecDeque::new(),
            asked: VecDeque::new(),
            events: VecDeque::new(),
            numbers: 0,
            round_trip: Timeout::new(TimeoutConfig::default()),
            counters: HealthCounters::ZERO,
        }
    }

    /// Something authentic came from it. Cheap: once per batch of packets.
    #[inline]
    pub fn heard(&mut self, now: Instant) {
        self.sign(now, false);
    }

    /// It answered a question. An answer that nobody waits for proves nothing, and is counted.
    pub fn answered(&mut self, question: Question, now: Instant) {
        let Some(at) = self.open.iter().position(|(n, _)| *n == question.0) else {
            self.counters.unexpected += 1;
            return;
        };
        self.counters.answers += 1;
        if let Some((_, asked)) = self.open.remove(at) {
            self.round_trip
                .answered(now.saturating_duration_since(asked));
        }
        self.sign(now, true);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout). Moves with every sign of life, so ask
    /// again before waiting.
    pub fn next_timeout(&self) -> Instant {
        match self.life {
            Life::Dead => self.next_question,
            _ => self.next_question.min(self.dead_at()),
        }
    }

    /// Asks, or finds it dead, as the time demands.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.life != Life::Dead && now >= self.dead_at() {
            self.counters.deaths += 1;
            self.open.clear();
            self.go(Life::Dead, now);
        }
        if now < self.next_question {
            return;
        }
        if self.life == Life::Alive {
            self.go(Life::Silent, now);
        }
        let pause = match self.life {
            Life::Dead if self.signs.0 == 0 => self.config.keepalive,
            _ => self.pause(),
        };
        self.next_question = later(now, pause);
        self.ask(now);
    }

    /// The next question to send. Ask until there is none after
    /// [`handle_timeout`](Self::handle_timeout).
    pub fn poll_question(&mut self) -> Option<Question> {
        self.asked.pop_front()
    }

    /// The next change that nobody has taken yet, and when it was.
    pub fn poll_event(&mut self) -> Option<(Life, Instant)> {
        self.events.pop_front()
    }

    /// What is known of its life.
    pub const fn life(&self) -> Life {
        self.life
    }

    /// All there is to report of it.
    pub const fn status(&self) -> HealthStatus {
        let round_trip = match self.round_trip.measured() {
            Some((smoothed, _)) => Some(smoothed),
            None => None,
        };
        HealthStatus {
            life: self.life,
            since: self.since,
            heard: self.heard,
            round_trip,
            counters: self.counters,
        }
    }

    /// Between two questions of those within two keepalives.
    fn pause(&self) -> Duration {
        let asking = self.config.keepalive.saturating_mul(DEAD_AFTER - 1);
        (asking / self.config.questions.max(1)).max(Duration::from_nanos(1))
    }

    fn dead_at(&self) -> Instant {
        later(
            self.quiet_since,
            self.config.keepalive.saturating_mul(DEAD_AFTER),
        )
    }

    #[inline]
    fn sign(&mut self, now: Instant, answer: bool) {
        self.heard = Some(now);
        self.quiet_since = now;
        if self.life == Life::Alive {
            self.next_question = later(now, self.config.keepalive);
            return;
        }
        self.come_back(now, answer);
    }

    #[cold]
    fn come_back(&mut self, now: Instant, answer: bool) {
        if self.life == Life::Dead {
            let (signs, last) = self.signs;
            if signs > 0 && !answer && now.saturating_duration_since(last) < self.pause() / 2 {
                return;
            }
            self.signs = (signs + 1, now);
            if signs + 1 < self.config.signs.max(1) {
                self.next_question = later(now, self.pause()).min(self.next_question);
                return;
            }
            self.counters.recoveries += 1;
        }
        self.next_question = later(now, self.config.keepalive);
        self.go(Life::Alive, now);
    }

    fn ask(&mut self, now: Instant) {
        // Signs have to follow one another.
        if now.saturating_duration_since(self.signs.1) > self.pause().saturating_mul(2) {
            self.signs.0 = 0;
        }
        self.numbers += 1;
        self.counters.questions += 1;
        if self.open.len() >= MAX_OPEN {
            self.open.pop_front();
        }
        self.open.push_back((self.numbers, now));
        // Nobody has to take them; only the newest is of use then.
        self.asked.clear();
        self.asked.push_back(Question(self.numbers));
    }

    fn go(&mut self, life: Life, now: Instant) {
        self.life = life;
        self.since = now;
        self.signs.0 = 0;
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back((life, now));
    }
}
