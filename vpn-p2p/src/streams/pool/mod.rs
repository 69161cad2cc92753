//! Decides everything about the streams to one peer: which stream a packet takes, when streams are
//! opened, replaced and closed, what was lost. No task, no socket, no clock.
//!
//! # Order
//!
//! A [lane](super::lanes) stays on its stream as long as anything of it is on the way, so within a
//! stream's life the order of bytes is the order of packets. When a stream ends, what waits for it
//! goes by others at once, and what was written to it may still come out at the other end, late. So
//! `Stop` goes ahead on every stream that is used from then on: before the first packet that was
//! moved arrives, the peer takes nothing more from the old stream. It answers how many packets it
//! took, which says exactly how many were lost. Nothing is sent twice.
//!
//! # Driver's contract
//!
//! After every call: write what [`take_ready`](Pool::take_ready) names, by
//! [`next_write`](Pool::next_write); do what [`take_action`](Pool::take_action) says; and call
//! [`handle_timeout`](Pool::handle_timeout) when [`poll_timeout`](Pool::poll_timeout) says so. Frames
//! of one stream are given in their order.

mod ending;
mod inbound;
mod measure;
mod network;
mod opening;
mod outbound;
mod status;
mod stream;
mod timing;

use std::collections::VecDeque;
use std::time::Instant;

use vpn_core::{DownCause, DropReason, Packet};
use vpn_resilience::{Backoff, Breaker};

use super::budget::Budget;
use super::config::{ConfigError, PoolConfig};
use super::fault::Fault;
use super::frame::{Control, Session, StreamId};
use super::lanes::{Lane, Lanes};
use super::probe::Probe;
pub use outbound::Offer;
pub use status::{PoolCounters, PoolStatus, Traffic};
use stream::{Phase, Stream};

/// Where the pool stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No stream is open yet, or again.
    Connecting,
    /// The peer answered, and a stream is open.
    Up,
    /// No stream is open, and the last attempt failed.
    Down(DownCause),
}

/// What the driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a stream, and report [`opened`](Pool::opened) or [`ended`](Pool::ended).
    Open(StreamId),
    /// Close it, at once and without writing more. It is not to be reported.
    Close(StreamId),
}

/// A packet that waits.
#[derive(Debug)]
struct Waiting {
    packet: Packet,
    lane: Lane,
}

/// A stream that ended with packets on it of which the peer has not said what became of them.
#[derive(Clone, Copy, Debug)]
struct Unsettled {
    id: StreamId,
    acked: u64,
    in_flight: u64,
}

/// Ended streams of which the peer may still say what it took: this many, and at least four for each
/// stream of ours there may be, so that all of either end may end at once. Each is settled within a
/// round trip of the next stream; beyond, the oldest is counted as lost.
const UNSETTLED: usize = 64;

/// Ended streams of which it is remembered how much was taken, for each that may be unsettled: the peer
/// asks about each at most once per stream that it has, right after it ended.
const REMEMBERED: usize = 4;

/// Answers that wait for a stream to be written, for each stream that may be unsettled: beyond, the
/// peer does not read them.
const ANSWERS: usize = 8;

/// The streams to one peer.
#[derive(Debug)]
pub struct Pool {
    config: PoolConfig,
    /// Whether streams can be opened from here; else they are only accepted.
    opens: bool,
    session: Session,
    peer: Option<Session>,
    streams: Vec<Stream>,
    next_number: u64,
    /// Streams for packets there should be: grows with the load, shrinks when it is gone.
    wanted: usize,
    lanes: Lanes,
    /// Of streams that ended, while there is none to go by.
    backlog: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// The stream that had no room for a packet, and what that needs.
    refused: Option<(StreamId, usize)>,
    budget: Budget,
    /// Written, and to be used again.
    spare: Vec<Packet>,
    inbound: VecDeque<Packet>,
    inbound_bytes: usize,
    unsettled: Vec<Unsettled>,
    remembered: VecDeque<(StreamId, u64)>,
    breaker: Breaker,
    backoff: Backoff,
    retry_at: Option<Instant>,
    probe: Probe,
    probe_retry_at: Option<Instant>,
    busy_since: Option<Instant>,
    next_cleanup: Instant,
    /// When somebody last had something for the peer, or made the pool.
    wanted_at: Instant,
    standing: Standing,
    actions: VecDeque<Action>,
    ready: Vec<StreamId>,
    armed: Option<Instant>,
    attention: bool,
    closed: bool,
    counters: PoolCounters,
}

impl Pool {
    /// A pool without streams. With `opens` it opens them, the warm ones at once; without, it waits
    /// for those of the peer. `session` is drawn anew for every pool.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn new(
        config: PoolConfig,
        opens: bool,
        session: Session,
        budget: Budget,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let config = config.in_time();
        let mut pool = Self {
            opens,
            session,
            peer: None,
            streams: Vec::new(),
            next_number: 0,
            wanted: config.warm_streams,
            lanes: Lanes::new(),
            backlog: VecDeque::new(),
            waiting_bytes: 0,
            refused: None,
            budget,
            spare: Vec::new(),
            inbound: VecDeque::new(),
            inbound_bytes: 0,
            unsettled: Vec::new(),
            remembered: VecDeque::new(),
            breaker: Breaker::new(config.breaker),
            backoff: Backoff::new(config.backoff, config.seed),
            retry_at: None,
            probe: Probe::new(config.probe, now),
            probe_retry_at: None,
            busy_since: None,
            next_cleanup: now + config.cleanup_interval,
            wanted_at: now,
            standing: Standing::Connecting,
            actions: VecDeque::new(),
            ready: Vec::new(),
            armed: None,
            attention: true,
            closed: false,
            counters: PoolCounters::default(),
            config,
        };
        pool.open_what_is_wanted(now);
        Ok(pool)
    }

    /// Where it stands.
    pub const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The next thing to do.
    pub fn take_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Streams that have something to write and had nothing before, each once.
    pub fn take_ready(&mut self, ready: &mut Vec<StreamId>) {
        ready.append(&mut self.ready);
    }

    /// Whether there are actions, or an earlier wake-up, since this was asked last.
    pub fn take_attention(&mut self) -> bool {
        std::mem::take(&mut self.attention) || !self.actions.is_empty()
    }

    /// How long an accepted stream may take to greet.
    pub(super) const fn patience(&self) -> std::time::Duration {
        self.config.open_timeout
    }

    /// Whether packets that came wait to be taken.
    pub fn has_inbound(&self) -> bool {
        !self.inbound.is_empty()
    }

    /// The round trip to the peer, smoothed, once it was measured.
    pub fn round_trip(&self) -> Option<std::time::Duration> {
        self.probe.round_trip()
    }

    /// Whether nothing was offered, sent or received for so long.
    pub fn is_idle(&self, now: Instant, limit: std::time::Duration) -> bool {
        let since = |used| now.saturating_duration_since(used) >= limit;
        let mut data = self.streams.iter().filter(|s| s.is_data());
        // A peer that is down has no streams, and a breaker that is not to be forgotten.
        let unwanted = self.backlog.is_empty() && since(self.wanted_at);
        unwanted && data.all(|s| s.is_empty() && since(s.used))
    }

    /// Ends everything. What waits is dropped and counted; what is on the way counts as lost.
    pub fn close(&mut self) {
        self.closed = true;
        while let Some(stream) = self.streams.pop() {
            self.actions.push_back(Action::Close(stream.id));
            let Stream {
                queue, in_flight, ..
            } = stream;
            self.backlog.extend(queue);
            let lost = in_flight.len() as u64;
            self.counters.drops.add(DropReason::StreamLost, lost);
        }
        self.drop_backlog(DropReason::Closed);
        for unsettled in std::mem::take(&mut self.unsettled) {
            let lost = unsettled.in_flight;
            self.counters.drops.add(DropReason::StreamLost, lost);
        }
        let untaken = self.inbound.len() as u64;
        self.counters.inbound_drops.add(DropReason::Closed, untaken);
        self.inbound.clear();
        self.inbound_bytes = 0;
    }

    /// Ended streams that may be unsettled.
    fn most_unsettled(&self) -> usize {
        UNSETTLED.max(4 * self.config.max_streams_per_peer)
    }

    fn find(&self, id: StreamId) -> Option<usize> {
        self.streams.iter().position(|stream| stream.id == id)
    }

    /// It has something to write.
    fn signal(&mut self, at: usize) {
        let stream = &mut self.streams[at];
        if !stream.signalled {
            stream.signalled = true;
            self.ready.push(stream.id);
        }
    }

    fn tell(&mut self, at: usize, control: Control) {
        self.streams[at].control.push_back(control);
        self.signal(at);
    }

    /// Something is due at this time.
    fn arm(&mut self, at: Instant) {
        if self.armed.is_none_or(|armed| at < armed) {
            self.armed = Some(at);
            self.attention = true;
        }
    }

    fn count_open(&self) -> usize {
        let open = |stream: &&Stream| stream.is_data() && stream.phase == Phase::Open;
        self.streams.iter().filter(open).count()
    }

    /// Up with an open stream; without one, what the last attempt said.
    fn stand(&mut self, cause: Option<&Fault>) {
        let standing = match cause {
            _ if self.count_open() > 0 => Standing::Up,
            Some(Fault::Io(error)) => Standing::Down(DownCause::Network(error.clone())),
            // Another version or another program: it may be replaced, so it is tried on.
            Some(fault @ (Fault::Frame(_) | Fault::Protocol(_))) => {
                Standing::Down(DownCause::Network(fault.to_string()))
            }
            Some(_) => Standing::Down(DownCause::NoAnswer),
            None if self.standing == Standing::Up => Standing::Connecting,
            None => return,
        };
        if self.standing == standing {
            return;
        }
        let down = matches!(standing, Standing::Down(_));
        self.standing = standing;
        self.attention = true;
        if down {
            self.drop_backlog(DropReason::NoSession);
        }
    }

    fn drop_backlog(&mut self, reason: DropReason) {
        for waiting in std::mem::take(&mut self.backlog) {
            self.unqueue(&waiting);
            self.counters.drops.count(reason);
        }
    }
}
