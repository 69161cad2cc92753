//! Decides what becomes of each packet: lost, doubled, damaged, late. No lock, no clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::packet::Packet;

/// A reordered packet is overtaken by up to this many that come after it.
const REORDER_DISTANCE: u64 = 3;

/// What goes wrong, in each direction alike. Probabilities are from 0 to 1; all are 0 by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Probability that a packet is lost.
    pub loss: f64,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Probability that one bit of a packet is flipped.
    pub corrupt: f64,
    /// Probability that a packet is overtaken by those of the same moment.
    pub reorder: f64,
    /// How long every packet takes.
    pub delay: Duration,
    /// Added to the delay, evenly from 0 to this.
    pub jitter: Duration,
    /// With `true` every packet is lost.
    pub partition: bool,
}

/// Packets on their way in one direction, and the chances that decide about them.
#[derive(Debug)]
pub(super) struct Lane {
    random: u64,
    next: u64,
    /// Packets lost so far.
    pub(super) lost: u64,
    /// By when they are due, and in which order.
    pub(super) held: BTreeMap<(Instant, u64), Packet>,
}

impl Lane {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: seed,
            next: 0,
            lost: 0,
            held: BTreeMap::new(),
        }
    }

    /// SplitMix64: small, and the same on every machine.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, probability: f64) -> bool {
        // Drawn always, so that one setting does not shift the fate of later packets.
        ((self.draw() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// Decides about a packet: it is lost, or held until it is due.
    pub(super) fn admit(&mut self, mut packet: Packet, now: Instant, faults: &Faults) {
        let lost = self.chance(faults.loss) || faults.partition;
        let twice = self.chance(faults.duplicate);
        let corrupt = self.chance(faults.corrupt);
        let late = self.chance(faults.reorder);
        let (bit, jitter) = (self.draw(), self.draw());
        if lost {
            self.lost += 1;
            return;
        }
        if corrupt && !packet.is_empty() {
            let at = (bit >> 3) as usize % packet.len();
            packet.bytes_mut()[at] ^= 1 << (bit & 7);
        }
        let span = faults.jitter.as_nanos() as u64;
        let jitter = Duration::from_nanos(jitter % span.saturating_add(1).max(1));
        let due = now + faults.delay + jitter;
        if twice {
            let copy = packet.shrunk();
            self.hold(due, false, copy);
        }
        self.hold(due, late, packet);
    }

    fn hold(&mut self, due: Instant, late: bool, packet: Packet) {
        self.next += 2;
        // Odd numbers are free for those that are overtaken.
        let order = self.next + if late { 2 * REORDER_DISTANCE + 1 } else { 0 };
        self.held.insert((due, order), packet);
    }

    /// The next packet that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<((Instant, u64), Packet)> {
        let first = self.held.first_entry()?;
        (first.key().0 <= now).then(|| first.remove_entry())
    }
}
