//! What is known of one stream.

use std::collections::VecDeque;
use std::time::Instant;

use vpn_resilience::Permit;

use super::Waiting;
use crate::streams::config::Scoring;
use crate::streams::frame::{Control, Purpose, Session, StreamId};
use crate::streams::lanes::Lane;

/// Where a stream stands. Times are those until which the next step has to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is being opened, or greeted.
    Opening { until: Instant },
    /// It carries.
    Open,
    /// It is to end: what waits stays, until what is on the way has arrived.
    Draining { until: Instant },
    /// We said that nothing follows.
    Parting { until: Instant },
}

/// A packet that was handed to the stream, and of which the peer has not said that it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flying {
    pub(super) lane: Lane,
    pub(super) bytes: u32,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) purpose: Purpose,
    pub(super) phase: Phase,
    /// The attempt, until its outcome is known; none, if the breaker had none for a stream of questions.
    pub(super) permit: Option<Permit>,
    /// Whose it is; known once it was greeted.
    pub(super) peer: Option<Session>,
    pub(super) control: VecDeque<Control>,
    pub(super) queue: VecDeque<Waiting>,
    pub(super) queued_bytes: u64,
    pub(super) in_flight: VecDeque<Flying>,
    pub(super) in_flight_bytes: u64,
    /// Packets and bytes of which the peer said that they came.
    pub(super) acked: u64,
    pub(super) acked_bytes: u64,
    /// Packets and bytes that came.
    pub(super) received: u64,
    pub(super) received_bytes: u64,
    /// As many of them the peer knows of.
    pub(super) told: u64,
    pub(super) told_bytes: u64,
    /// When it is told of the others; `Some` only if there are any, and it is not due.
    pub(super) ack_at: Option<Instant>,
    /// It is told with what is written next.
    pub(super) ack_due: bool,
    /// The peer said that nothing follows.
    pub(super) peer_done: bool,
    /// When it was opened, or carried from.
    pub(super) since: Instant,
    /// When the peer last acknowledged something, or the first packet began to wait for that.
    pub(super) progress: Instant,
    /// When a packet was last sent or received.
    pub(super) used: Instant,
    /// It is known to have something to write.
    pub(super) signalled: bool,
    /// There is a better way now than that which it goes.
    pub(super) is_stale: bool,
}

impl Stream {
    pub(super) fn new(id: StreamId, purpose: Purpose, phase: Phase, now: Instant) -> Self {
        Self {
            id,
            purpose,
            phase,
            permit: None,
            peer: None,
            control: VecDeque::new(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            acked: 0,
            acked_bytes: 0,
            received: 0,
            received_bytes: 0,
            told: 0,
            told_bytes: 0,
            ack_at: None,
            ack_due: false,
            peer_done: false,
            since: now,
            progress: now,
            used: now,
            signalled: false,
            is_stale: false,
        }
    }

    pub(super) const fn number(&self) -> u64 {
        self.id.number()
    }

    pub(super) fn is_data(&self) -> bool {
        self.purpose == Purpose::Data
    }

    /// Whether nothing waits for it or is on it.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty()
    }

    /// What it would cost the next connection to use it.
    pub(super) fn cost(&self, scoring: &Scoring) -> u64 {
        let queued = self.queued_bytes * u64::from(scoring.queued_weight);
        queued + self.in_flight_bytes * u64::from(scoring.in_flight_weight)
    }

    /// Whether one more connection would suffer. `most` packets may wait for it.
    pub(super) fn is_busy(&self, scoring: &Scoring, most: usize) -> bool {
        self.cost(scoring) >= scoring.busy_at || self.queue.len() * 2 >= most.max(2)
    }
}
