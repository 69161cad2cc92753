//! Packets that wait: for an answer about their destination, or for a session. Pure.
//!
//! A peer that is being connected must hold up no other, so the queue is the mesh's and not the
//! router's. Bounded per destination and in all; the oldest go first, by age or by room.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use vpn_core::{DropCounters, DropReason, Packet};

/// Packets that wait for one destination: what a connection sends before it is answered, and then some.
pub(crate) const MAX_PACKETS: usize = 64;

/// Bytes that wait for one destination.
pub(crate) const MAX_BYTES: usize = 256 * 1024;

/// Bytes that wait for all destinations together.
pub(crate) const MAX_TOTAL: usize = 8 * 1024 * 1024;

/// How long a packet waits: as long as the router's own queue for a tunnel that connects.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(5);

/// What waits for one destination.
#[derive(Debug, Default)]
pub(crate) struct Held {
    packets: VecDeque<(Instant, Packet)>,
    bytes: usize,
}

/// What all destinations share.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    bytes: usize,
    pub(crate) drops: DropCounters,
}

#[cfg(test)]
impl Holding {
    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

impl Held {
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Takes a packet; drops the oldest of this destination where there is no room, and the new one
    /// where others have taken all there is.
    pub(crate) fn push(&mut self, packet: &Packet, now: Instant, all: &mut Holding) {
        let packet = packet.shrunk();
        let room = |held: &Self| {
            held.packets.len() < MAX_PACKETS && held.bytes + packet.len() <= MAX_BYTES
        };
        while !room(self) && !self.packets.is_empty() {
            self.pop(all);
            all.drops.count(DropReason::HoldFull);
        }
        if !room(self) || all.bytes + packet.len() > MAX_TOTAL {
            all.drops.count(DropReason::HoldFull);
            return;
        }
        self.bytes += packet.len();
        all.bytes += packet.len();
        self.packets.push_back((now, packet));
    }

    pub(crate) fn pop(&mut self, all: &mut Holding) -> Option<Packet> {
        let (_, packet) = self.packets.pop_front()?;
        self.bytes -= packet.len();
        all.bytes -= packet.len();
        Some(packet)
    }

    /// When the oldest has waited long enough.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.packets.front().map(|(since, _)| *since + MAX_AGE)
    }

    /// Drops what has waited too long.
    pub(crate) fn expire(&mut self, now: Instant, all: &mut Holding) {
        while self.next_timeout().is_some_and(|at| at <= now) {
            self.pop(all);
            all.drops.count(DropReason::NoSession);
        }
    }

    /// Drops everything, for this reason.
    pub(crate) fn drop_all(&mut self, reason: DropReason, all: &mut Holding) {
        while self.pop(all).is_some() {
            all.drops.count(reason);
        }
    }

    /// What waited, to go on waiting elsewhere.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.bytes += other.bytes;
        self.packets.append(&mut other.packets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(bytes: usize) -> Packet {
        Packet::from_slice(&vec![0x45; bytes])
    }

    #[test]
    fn the_oldest_make_room_and_everything_is_counted() {
        let (now, mut all, mut held) = (Instant::now(), Holding::default(), Held::default());
        for _ in 0..MAX_PACKETS + 3 {
            held.push(&packet(100), now, &mut all);
        }
        assert_eq!(held.packets.len(), MAX_PACKETS);
        assert_eq!(all.drops.get(DropReason::HoldFull), 3);
        held.push(&packet(MAX_BYTES + 1), now, &mut all);
        assert_eq!(all.drops.get(DropReason::HoldFull), 4 + MAX_PACKETS as u64);
        assert_eq!((all.bytes, held.bytes), (0, 0));
    }

    #[test]
    fn nobody_takes_all_the_room_for_ever_and_age_ends_it() {
        let (now, mut all) = (Instant::now(), Holding::default());
        let mut others: Vec<Held> = (0..40).map(|_| Held::default()).collect();
        for held in &mut others {
            held.push(&packet(MAX_BYTES), now, &mut all);
        }
        assert!(all.bytes <= MAX_TOTAL);
        assert!(all.drops.get(DropReason::HoldFull) > 0);
        for held in &mut others {
            held.expire(now + MAX_AGE, &mut all);
        }
        assert_eq!(all.bytes, 0);
        assert_eq!(all.drops.total(), 40);
    }
}
