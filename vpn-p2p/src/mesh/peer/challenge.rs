//! Decides which numbers challenges bear: such as nobody can name who did not get them.
//!
//! A peer could otherwise answer what it never received, and so have packets sent to whomever it named
//! as its candidate (RFC 9000 §8.2 demands the same of QUIC's path challenges).

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

/// Challenges that may be answered still: those of all ways within a few seconds.
const OPEN: usize = 128;

/// The numbers of one peer's challenges, as they are sent and as we count them.
#[derive(Debug, Default)]
pub(super) struct Challenges {
    /// Keyed with a secret of its own, and good enough for numbers that are guessed a few times.
    secret: RandomState,
    open: VecDeque<(u32, u32)>,
}

impl Challenges {
    /// What is sent for the challenge that we count so.
    pub(super) fn veil(&mut self, number: u32) -> u32 {
        let veiled = (self.secret.hash_one(number) >> 32) as u32;
        if self.open.len() >= OPEN {
            self.open.pop_front();
        }
        self.open.push_back((veiled, number));
        veiled
    }

    /// Which challenge was answered; `None`: none of ours, or long ago.
    pub(super) fn unveil(&self, veiled: u32) -> Option<u32> {
        let open = self.open.iter().rev();
        open.filter(|(sent, _)| *sent == veiled)
            .map(|(_, number)| *number)
            .next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_known_again_and_does_not_count_up() {
        let (mut ours, mut others) = (Challenges::default(), Challenges::default());
        let sent: Vec<u32> = (0..OPEN as u32).map(|number| ours.veil(number)).collect();
        for (number, veiled) in (0..).zip(&sent) {
            assert_eq!(ours.unveil(*veiled), Some(number));
        }
        let in_a_row = sent
            .windows(2)
            .filter(|pair| pair[1] == pair[0].wrapping_add(1));
        assert!(in_a_row.count() < 3, "{sent:?}");
        assert_ne!(others.veil(0), sent[0], "each has a secret of its own");
        assert_eq!(
            (0..100)
                .filter(|guess| ours.unveil(*guess).is_some())
                .count(),
            0
        );
        ours.veil(999);
        assert_eq!(ours.unveil(sent[0]), None, "forgotten");
    }
}
