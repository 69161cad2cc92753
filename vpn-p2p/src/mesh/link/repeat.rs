//! Decides when a message that was not answered is sent again. Pure.

use std::time::{Duration, Instant};

/// After which times, counted from the first, a question is repeated: quickly at first, since one
/// lost packet is the usual reason.
pub(super) const STEPS: &[Duration] = &[
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1_500),
    Duration::from_secs(3),
    Duration::from_secs(5),
    Duration::from_secs(8),
];

/// One question and its repetitions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repeat {
    from: Instant,
    sent: usize,
    steps: &'static [Duration],
}

impl Repeat {
    /// A question that is due now.
    pub(super) const fn new(now: Instant) -> Self {
        Self::by(now, STEPS)
    }

    /// The same with other pauses.
    pub(super) const fn by(now: Instant, steps: &'static [Duration]) -> Self {
        Self {
            from: now,
            sent: 0,
            steps,
        }
    }

    /// When it is to be sent next; `None` after the last time.
    pub(super) fn next(&self) -> Option<Instant> {
        Some(self.from + *self.steps.get(self.sent)?)
    }

    /// Whether it is to be sent now, and notes that it was. Steps that were slept through count as one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let before = self.sent;
        while self.next().is_some_and(|at| now >= at) {
            self.sent += 1;
        }
        self.sent > before
    }

    /// How often it was sent, at most.
    pub(super) const fn sent(&self) -> usize {
        self.sent
    }

    /// Since when it is asked.
    pub(super) const fn since(&self) -> Instant {
        self.from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sent_at_once_then_with_growing_pauses_and_not_for_ever() {
        let start = Instant::now();
        let mut repeat = Repeat::new(start);
        let mut sent = Vec::new();
        for milliseconds in (0..20_000).step_by(100) {
            if repeat.take(start + Duration::from_millis(milliseconds)) {
                sent.push(milliseconds);
            }
        }
        assert_eq!(sent, [0, 300, 700, 1_500, 3_000, 5_000, 8_000]);
        assert_eq!(repeat.next(), None);
        let mut slept = Repeat::new(start);
        assert!(slept.take(start + Duration::from_secs(2)));
        assert!(!slept.take(start + Duration::from_secs(2)));
        assert_eq!(slept.next(), Some(start + Duration::from_secs(3)));
    }
}
