//! What is counted about peers: streams, paths, directory.

use std::time::Duration;

use super::families::*;
use super::{Measured, Visit, show};
use crate::verdict::DropCounters;

/// The streams to one peer. `taken = delivered + Σ drops + waiting + in flight + uncertain`, in packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// The peer, as the integrator names it.
    pub peer: String,
    /// Streams that carry packets.
    pub streams: u64,
    /// Streams that are being opened.
    pub opening: u64,
    /// How often what happened to streams, by the event's name.
    pub events: Vec<(&'static str, u64)>,
    /// Packets and bytes taken.
    pub taken: [u64; 2],
    /// Packets and bytes of which the peer said that they came.
    pub delivered: [u64; 2],
    /// Packets and bytes that came.
    pub received: [u64; 2],
    /// Packets that were taken and then dropped.
    pub drops: DropCounters,
    /// Packets that wait for a stream.
    pub waiting: u64,
    /// Packets on streams.
    pub in_flight: u64,
    /// Packets on streams that ended.
    pub uncertain: u64,
    /// Bytes that wait.
    pub waiting_bytes: u64,
    /// How often the peer was taken for gone.
    pub silences: u64,
    /// To the peer and back.
    pub round_trip: Option<Duration>,
}

impl Measured for Pool {
    fn visit(&self, visit: &mut Visit<'_>) {
        let peer = self.peer.as_str();
        for (state, count) in [("open", self.streams), ("opening", self.opening)] {
            show(visit, &POOL_STREAMS, &[peer, state], count as f64);
        }
        for &(event, count) in &self.events {
            show(visit, &POOL_STREAM_EVENTS, &[peer, event], count as f64);
        }
        let traffic = [
            ("taken", self.taken),
            ("delivered", self.delivered),
            ("received", self.received),
        ];
        for (what, [packets, bytes]) in traffic {
            show(visit, &POOL_PACKETS, &[peer, what], packets as f64);
            show(visit, &POOL_BYTES, &[peer, what], bytes as f64);
        }
        for (reason, packets) in self.drops.iter() {
            show(visit, &POOL_DROPPED, &[peer, reason.name()], packets as f64);
        }
        let pending = [
            ("waiting", self.waiting),
            ("in_flight", self.in_flight),
            ("uncertain", self.uncertain),
        ];
        for (place, packets) in pending {
            show(visit, &POOL_PENDING, &[peer, place], packets as f64);
        }
        show(
            visit,
            &POOL_WAITING_BYTES,
            &[peer],
            self.waiting_bytes as f64,
        );
        show(visit, &POOL_SILENCES, &[peer], self.silences as f64);
        if let Some(time) = self.round_trip {
            show(visit, &POOL_ROUND_TRIP, &[peer], time.as_secs_f64());
        }
    }
}

/// One way to a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// The peer, as the integrator names it.
    pub peer: String,
    /// The way: what kind it is, not its addresses.
    pub path: String,
    /// Whether packets take it.
    pub in_use: bool,
    /// Packets and bytes sent by it.
    pub tx: [u64; 2],
    /// Packets and bytes that came by it.
    pub rx: [u64; 2],
    /// To the peer and back.
    pub round_trip: Option<Duration>,
}

impl Measured for Path {
    fn visit(&self, visit: &mut Visit<'_>) {
        let (peer, path) = (self.peer.as_str(), self.path.as_str());
        let in_use = f64::from(u8::from(self.in_use));
        show(visit, &PATH_IN_USE, &[peer, path], in_use);
        for (way, [packets, bytes]) in [("tx", self.tx), ("rx", self.rx)] {
            show(visit, &PATH_PACKETS, &[peer, path, way], packets as f64);
            show(visit, &PATH_BYTES, &[peer, path, way], bytes as f64);
        }
        if let Some(time) = self.round_trip {
            show(visit, &PATH_ROUND_TRIP, &[peer, path], time.as_secs_f64());
        }
    }
}

/// The directory of peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Records that are known.
    pub records: u64,
    /// Questions that were answered.
    pub answered: u64,
    /// Questions about somebody who is not there.
    pub unknown: u64,
    /// Questions that failed.
    pub failed: u64,
    /// Records of our own that were taken.
    pub published: u64,
    /// Records of our own that were refused, or not taken by anybody.
    pub refused: u64,
}

impl Measured for Directory {
    fn visit(&self, visit: &mut Visit<'_>) {
        show(visit, &DIRECTORY_RECORDS, &[], self.records as f64);
        let questions = [
            ("answered", self.answered),
            ("unknown", self.unknown),
            ("failed", self.failed),
        ];
        for (outcome, count) in questions {
            show(visit, &DIRECTORY_QUESTIONS, &[outcome], count as f64);
        }
        for (outcome, count) in [("taken", self.published), ("refused", self.refused)] {
            show(visit, &DIRECTORY_PUBLISHED, &[outcome], count as f64);
        }
    }
}
