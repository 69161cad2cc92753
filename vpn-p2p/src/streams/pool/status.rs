//! What a pool tells of itself.

use std::time::Duration;

use vpn_core::DropCounters;
use vpn_resilience::{BreakerState, Transitions};

use super::Pool;
use super::stream::Phase;

/// Packets, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets; a super-packet is one.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// What happened so far. `taken = delivered + Σ drops + waiting + in flight + uncertain`, in packets, at
/// any moment; the last three are in [`PoolStatus`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolCounters {
    /// Taken from the caller.
    pub taken: Traffic,
    /// Of which the peer said that they came. Bytes of the last packets of a stream that broke are not
    /// known, and not in it.
    pub delivered: Traffic,
    /// Came from the peer.
    pub received: Traffic,
    /// Taken, and then dropped.
    pub drops: DropCounters,
    /// Came, and then dropped.
    pub inbound_drops: DropCounters,
    /// Streams that were opened, and answered.
    pub opened: u64,
    /// Attempts that failed.
    pub open_failed: u64,
    /// Streams of the peer that were accepted.
    pub accepted: u64,
    /// Streams that carried and were lost or given up.
    pub broken: u64,
    /// Of them those on which nothing moved.
    pub stalled: u64,
    /// Idle streams that both ends parted with.
    pub retired: u64,
    /// How often the peer was taken for gone because it did not answer.
    pub silences: u64,
}

/// A pool at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolStatus {
    /// What happened so far.
    pub counters: PoolCounters,
    /// Streams that carry packets.
    pub streams: usize,
    /// Streams that are being opened.
    pub opening: usize,
    /// Packets that wait for a stream.
    pub waiting: u64,
    /// Bytes they take, with the room around them.
    pub waiting_bytes: usize,
    /// Packets on streams, of which the peer has not said that they came.
    pub in_flight: u64,
    /// Packets on streams that ended, of which the peer may still say so.
    pub uncertain: u64,
    /// Bytes that came and wait to be taken, with what keeps them.
    pub inbound_bytes: usize,
    /// The round trip, smoothed, once it was measured.
    pub round_trip: Option<Duration>,
    /// Questions whether the peer is there, and answers.
    pub probes: [u64; 2],
    /// The breaker of opening streams.
    pub breaker: BreakerState,
    /// How often it changed.
    pub breaker_transitions: Transitions,
    /// Attempts it admitted, and refused.
    pub breaker_permits: [u64; 2],
}

impl Pool {
    /// What it has done, and how it stands.
    pub fn status(&self) -> PoolStatus {
        let data = || self.streams.iter().filter(|stream| stream.is_data());
        let queued: usize = data().map(|stream| stream.queue.len()).sum();
        let in_flight: usize = data().map(|stream| stream.in_flight.len()).sum();
        let opening = |phase: &Phase| matches!(phase, Phase::Opening { .. });
        PoolStatus {
            counters: self.counters.clone(),
            streams: data().filter(|s| !opening(&s.phase)).count(),
            opening: data().filter(|s| opening(&s.phase)).count(),
            waiting: (queued + self.backlog.len()) as u64,
            waiting_bytes: self.waiting_bytes,
            in_flight: in_flight as u64,
            uncertain: self.unsettled.iter().map(|ended| ended.in_flight).sum(),
            inbound_bytes: self.inbound_bytes,
            round_trip: self.probe.round_trip(),
            probes: self.probe.counts(),
            breaker: self.breaker.state(),
            breaker_transitions: self.breaker.transitions(),
            breaker_permits: {
                let counters = self.breaker.counters();
                [counters.admitted, counters.refused]
            },
        }
    }
}
