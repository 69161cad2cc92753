//! Decides when every candidate is asked: in rounds with growing pauses, while somebody has packets.

use std::time::{Duration, Instant};

use super::Paths;
use crate::mesh::way::Way;

/// Pauses between the first rounds: at 0, 0.3, 0.8, 1.8 and 4 s. The sides begin a round trip
/// through the relay apart; a NAT whose own side has not asked yet drops what comes too early.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(300),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2200),
];

/// The longest pause: shorter would be noise for pairs that can never be direct, longer late where
/// a NAT was restarted.
const PAUSE_MAX: Duration = Duration::from_secs(32);

/// Part of a pause by which chance makes it longer or shorter.
const JITTER: f64 = 0.1;

/// Rounds that are early: they end within two seconds, and go on when a first way was proven, so
/// that the best is found and not the first.
const EARLY: u32 = 4;

/// From this round on, answers are asked for by the relay too: for ways open in one direction only.
const URGENT: u32 = 2;

/// The rounds of one peer.
#[derive(Debug)]
pub(super) struct Rounds {
    next: Option<Instant>,
    started: Option<Instant>,
    done: u32,
    random: u64,
}

impl Rounds {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            next: None,
            started: None,
            done: 0,
            random: seed,
        }
    }

    pub(super) const fn next(&self) -> Option<Instant> {
        self.next
    }

    pub(super) const fn stop(&mut self) {
        self.next = None;
    }

    pub(super) const fn is_early(&self) -> bool {
        self.done < EARLY
    }

    fn start(&mut self, now: Instant) {
        self.next = Some(now);
        self.started = Some(now);
        self.done = 0;
    }

    /// One round is being done now.
    fn advance(&mut self, now: Instant) {
        let pause = match PAUSES.get(self.done as usize) {
            Some(pause) => *pause,
            // 4, 8, 16, 32, 32 …
            None => PAUSE_MAX.min(Duration::from_secs(4 << (self.done - EARLY).min(3))),
        };
        let spread = 1.0 - JITTER + 2.0 * JITTER * self.draw();
        self.next = Some(now + pause.mul_f64(spread));
        self.done = self.done.saturating_add(1);
    }

    /// From 0 to 1, by SplitMix64: spreading needs a good mix and no secrets.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    }
}

impl Paths {
    /// Begins the rounds anew, with one now.
    pub(super) fn start_rounds(&mut self, now: Instant) {
        if !self.ready || !self.tracks.iter().any(|track| track.way.is_direct()) {
            return;
        }
        for track in &mut self.tracks {
            track.trigger = None;
        }
        self.rounds.start(now);
        self.round_if_due(now);
    }

    /// Begins the rounds if they rest although a direct way is wanted.
    pub(super) fn wake_rounds(&mut self, now: Instant) {
        if self.rounds.next().is_none() && !self.current.is_some_and(Way::is_direct) {
            self.start_rounds(now);
        }
    }

    pub(super) fn round_if_due(&mut self, now: Instant) {
        if self.rounds.next().is_none_or(|at| now < at) {
            return;
        }
        let found = self.current.is_some_and(Way::is_direct);
        if found && !self.rounds.is_early() || !self.is_active(now) {
            self.rounds.stop();
            // The next packet wakes them.
            self.burst_over = true;
            return;
        }
        let wanted = |track: &&super::Track| {
            let measured = found && track.proof >= self.rounds.started;
            let relay_in_doubt = !track.way.is_direct() && track.held_until.is_some();
            let asked = track.way.is_direct() || relay_in_doubt;
            asked && self.current != Some(track.way) && !measured
        };
        let ways: Vec<Way> = self
            .tracks
            .iter()
            .filter(wanted)
            .map(|track| track.way)
            .collect();
        let urgent = self.rounds.done >= URGENT;
        self.rounds.advance(now);
        for way in ways {
            self.probe(way, urgent, now);
        }
    }
}
