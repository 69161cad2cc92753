//! What is known of one way: probes under way, answers, loss, round trip, proof. Decides when a
//! probe counts as unanswered, not what follows.

use std::time::{Duration, Instant};

use super::PathConfig;
use crate::mesh::way::{Carrier, Way};

/// Probes remembered per way; an answer to an older one says nothing new.
const PROBES: usize = 8;

/// An answer that is later than this says nothing about the way as it is now.
const LATE: Duration = Duration::from_secs(5);

/// A new measurement counts for one part in this many (RFC 6298 §2: alpha is 1/8).
const GAIN: u32 = 8;

/// Fewer results than this say nothing about loss.
const FEW: u32 = 8;

#[derive(Clone, Copy, Debug)]
struct Probe {
    nonce: u32,
    at: Instant,
    deadline: Instant,
    missed: bool,
}

/// One way to the peer.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) way: Way,
    /// Named by the peer's record or by the hub; otherwise learnt from a datagram.
    pub(super) named: bool,
    /// Of a relay.
    pub(super) carrier: Option<Carrier>,
    pub(super) added: Instant,
    /// When the newest probe was sent that was answered. None: not proven, or not any more.
    pub(super) proof: Option<Instant>,
    pub(super) rtt: Option<Duration>,
    pub(super) heard: Option<Instant>,
    pub(super) transmitted: Option<Instant>,
    pub(super) probed: Option<Instant>,
    /// The peer sends nothing by this way but answers.
    pub(super) one_sided: bool,
    /// Deaths in use since it was last stable.
    pub(super) deaths: u32,
    /// Not to be used before.
    pub(super) held_until: Option<Instant>,
    /// When datagrams heard by it may bring about the next probe, and the pause after that.
    pub(super) trigger: Option<(Instant, Duration)>,
    probes: Vec<Probe>,
    /// The last results, newest lowest; a set bit is an unanswered probe.
    history: u32,
    results: u32,
}

impl Track {
    pub(super) fn new(way: Way, now: Instant) -> Self {
        Self {
            way,
            named: false,
            carrier: None,
            added: now,
            proof: None,
            rtt: None,
            heard: None,
            transmitted: None,
            probed: None,
            one_sided: false,
            deaths: 0,
            held_until: None,
            trigger: None,
            probes: Vec::new(),
            history: 0,
            results: 0,
        }
    }

    /// A probe with this number goes by it.
    pub(super) fn asked(&mut self, nonce: u32, now: Instant, config: &PathConfig) {
        self.probes
            .retain(|probe| now.saturating_duration_since(probe.at) < LATE);
        if self.probes.len() >= PROBES {
            self.probes.remove(0);
        }
        self.probes.push(Probe {
            nonce,
            at: now,
            deadline: now + config.timeout(self.rtt),
            missed: false,
        });
        self.probed = Some(now);
        self.transmitted = Some(now);
    }

    /// An answer with this number came; whether it is this way's.
    pub(super) fn answered(&mut self, nonce: u32, now: Instant) -> bool {
        let Some(at) = self.probes.iter().position(|probe| probe.nonce == nonce) else {
            return false;
        };
        let probe = self.probes[at];
        self.probes.drain(..=at);
        let measured = now.saturating_duration_since(probe.at);
        if measured >= LATE {
            return true;
        }
        if probe.missed {
            // It was late, not lost.
            self.history &= self.history.wrapping_sub(1);
        } else {
            self.note(false);
        }
        self.rtt = Some(match self.rtt {
            Some(before) => (before * (GAIN - 1) + measured) / GAIN,
            None => measured,
        });
        self.proof = self.proof.max(Some(probe.at));
        self.trigger = None;
        true
    }

    /// Notes probes whose time is over; whether there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut missed = 0;
        for probe in &mut self.probes {
            if !probe.missed && probe.deadline <= now {
                probe.missed = true;
                missed += 1;
            }
        }
        for _ in 0..missed {
            self.note(true);
        }
        missed > 0
    }

    fn note(&mut self, missed: bool) {
        self.history = self.history << 1 | u32::from(missed);
        self.results = (self.results + 1).min(u32::BITS);
    }

    /// Probes unanswered since the newest answered one.
    pub(super) fn missed(&self) -> u32 {
        self.probes.iter().filter(|probe| probe.missed).count() as u32
    }

    /// Probes sent since the newest answered one.
    pub(super) fn tried(&self) -> u32 {
        self.probes.len() as u32
    }

    /// When the first of those was sent.
    pub(super) fn first_tried(&self) -> Option<Instant> {
        self.probes.first().map(|probe| probe.at)
    }

    /// When the next probe's time is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waiting = self.probes.iter().filter(|probe| !probe.missed);
        waiting.map(|probe| probe.deadline).min()
    }

    /// Forgets probes under way: their answers say nothing any more.
    pub(super) fn forget_probes(&mut self) {
        self.probes.clear();
    }

    /// It died: nothing is proven any more.
    pub(super) fn died(&mut self) {
        self.proof = None;
        self.forget_probes();
    }

    /// It died in use, and has to wait before it is used again.
    pub(super) fn hold(&mut self, now: Instant, config: &PathConfig) {
        let pause = config.hold.saturating_mul(1 << self.deaths.min(16));
        self.held_until = Some(now + pause.min(config.hold_max));
        self.deaths = self.deaths.saturating_add(1);
    }

    /// Its past is forgiven.
    pub(super) fn forgive(&mut self) {
        self.deaths = 0;
        self.held_until = None;
    }

    pub(super) fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// The part of the last 32 probes that stayed unanswered.
    pub(super) fn loss(&self) -> f32 {
        let share = self.history.count_ones() as f32 / self.results.max(1) as f32;
        share.min(1.0)
    }

    /// [`loss`](Self::loss), if enough is known to judge by it.
    pub(super) fn known_loss(&self) -> f32 {
        if self.results < FEW { 0.0 } else { self.loss() }
    }
}
