//! How long a peer takes to answer a handshake, smoothed. Pure: time is an argument.

use std::time::{Duration, Instant};

/// One new measurement counts for this part. Handshakes are minutes apart, so a smaller one
/// (RFC 6298 §2 has an eighth, for several a second) would remember a network long left.
const GAIN: u32 = 4;

/// The round trips of one peer's handshakes.
///
/// A response names the initiation it answers, so a repeated one is not taken for the first
/// (RFC 6298 §3 has to leave such measurements out).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip {
    asked: Option<(u32, Instant)>,
    smoothed: Option<Duration>,
}

impl RoundTrip {
    /// A handshake with this name of ours begins.
    pub(super) fn asked(&mut self, name: u32, now: Instant) {
        self.asked = Some((name, now));
    }

    /// It was answered.
    pub(super) fn answered(&mut self, name: u32, now: Instant) {
        let Some((asked, at)) = self.asked else {
            return;
        };
        if asked != name {
            return;
        }
        self.asked = None;
        let measured = now.saturating_duration_since(at);
        self.smoothed = Some(match self.smoothed {
            Some(before) => (before * (GAIN - 1) + measured) / GAIN,
            None => measured,
        });
    }

    pub(super) const fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_another_question_measures_nothing() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut trip = RoundTrip::default();
        trip.asked(1, at(0));
        trip.asked(2, at(5_000));
        trip.answered(1, at(5_010));
        assert_eq!(trip.smoothed(), None);
        trip.answered(2, at(5_040));
        assert_eq!(trip.smoothed(), Some(Duration::from_millis(40)));
        trip.answered(2, at(9_000));
        trip.asked(3, at(10_000));
        trip.answered(3, at(10_080));
        assert_eq!(trip.smoothed(), Some(Duration::from_millis(50)));
    }
}
