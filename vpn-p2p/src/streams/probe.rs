//! Decides when a peer is asked whether it is there, and when its silence says that it is not.
//!
//! Questions have a stream of their own: in the data they would have to be told from packets, and would
//! wait behind them.

use std::time::{Duration, Instant};

use super::config::ProbeConfig;
use super::frame::StreamId;

/// What the clock brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// This question is to be asked on this stream.
    Ask(StreamId, u64),
    /// The peer left too many questions unanswered.
    Silent,
}

#[derive(Debug)]
pub(super) struct Probe {
    config: ProbeConfig,
    stream: Option<StreamId>,
    number: u64,
    asked: Option<Instant>,
    next: Instant,
    failures: u32,
    round_trip: Option<Duration>,
    answered: u64,
}

impl Probe {
    pub(super) fn new(config: ProbeConfig, now: Instant) -> Self {
        Self {
            config,
            stream: None,
            number: 0,
            asked: None,
            next: now,
            failures: 0,
            round_trip: None,
            answered: 0,
        }
    }

    /// There is a stream for questions: the first is asked at once.
    pub(super) fn opened(&mut self, stream: StreamId, now: Instant) {
        self.stream = Some(stream);
        self.asked = None;
        self.next = now;
    }

    /// The stream is gone. Whether another one comes does not say that the peer is silent.
    pub(super) fn lost(&mut self, stream: StreamId) {
        if self.stream == Some(stream) {
            self.stream = None;
            self.asked = None;
            self.failures = 0;
        }
    }

    /// An answer. One to an older question comes too late to count.
    pub(super) fn answer(&mut self, number: u64, now: Instant) {
        let Some(asked) = self.asked.take_if(|_| number == self.number) else {
            return;
        };
        let took = now.saturating_duration_since(asked);
        // RFC 6298 §2.3, alpha = 1/8.
        self.round_trip = Some(match self.round_trip {
            Some(smoothed) => smoothed - smoothed / 8 + took / 8,
            None => took,
        });
        self.failures = 0;
        self.answered += 1;
        self.next = now + self.config.interval;
    }

    pub(super) fn timeout(&mut self, now: Instant) -> Due {
        let Some(stream) = self.stream else {
            return Due::Nothing;
        };
        if let Some(asked) = self.asked {
            if now < asked + self.config.timeout {
                return Due::Nothing;
            }
            self.asked = None;
            self.failures += 1;
            if self.failures >= self.config.failures.max(1) {
                self.failures = 0;
                return Due::Silent;
            }
            self.next = now;
        }
        if now < self.next {
            return Due::Nothing;
        }
        self.number += 1;
        self.asked = Some(now);
        Due::Ask(stream, self.number)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.stream?;
        Some(match self.asked {
            Some(asked) => asked + self.config.timeout,
            None => self.next,
        })
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Questions asked, and answered.
    pub(super) fn counts(&self) -> [u64; 2] {
        [self.number, self.answered]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_questions_without_an_answer_are_silence_and_an_answer_forgives() {
        let config = ProbeConfig::default();
        let mut now = Instant::now();
        let mut probe = Probe::new(config, now);
        assert_eq!(probe.timeout(now), Due::Nothing);
        let stream = StreamId::ours(7);
        probe.opened(stream, now);
        assert_eq!(probe.timeout(now), Due::Ask(stream, 1));
        now += config.timeout;
        assert_eq!(probe.timeout(now), Due::Ask(stream, 2));
        probe.answer(1, now);
        assert_eq!(probe.round_trip(), None);
        probe.answer(2, now + Duration::from_millis(30));
        assert_eq!(probe.round_trip(), Some(Duration::from_millis(30)));
        now += config.interval + Duration::from_millis(30);
        for number in 3..=5 {
            assert_eq!(probe.timeout(now), Due::Ask(stream, number));
            now = probe.poll_timeout().unwrap();
        }
        assert_eq!(probe.timeout(now), Due::Silent);
        assert_eq!(probe.counts(), [5, 1]);
    }
}
