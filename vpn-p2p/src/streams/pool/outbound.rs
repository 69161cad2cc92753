//! Decides which stream a packet takes, and what happens where there is no room.

use std::time::Instant;

use vpn_core::{DropReason, Offload, Packet};

use super::stream::{Flying, Phase, Stream};
use super::{Pool, Standing, Waiting};
use crate::streams::budget::{compact, weight};
use crate::streams::config::{Contents, OPAQUE_PREFIX, Overflow};
use crate::streams::frame::{Control, Encoded, MAX_PACKET, StreamId};
use crate::streams::lanes::Lane;

/// Packets on one stream that the peer has not acknowledged: bounds what is remembered of them. At
/// 1,400 bytes each they are 11 MB, a hundred milliseconds of a gigabit.
const MAX_IN_FLIGHT: usize = 8192;

/// Buffers kept for who sends: half a megabyte at most. None is kept past a clean-up.
const SPARE: usize = 8;

/// What became of a packet that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Offer {
    /// It waits for its stream.
    Taken,
    /// It was dropped; counting that is the caller's.
    Dropped(DropReason),
    /// There is no room for it now: it stays with the caller.
    Full,
}

/// What a packet has to keep its order with; `None`: it is not what it should be.
#[inline]
fn lane(contents: Contents, packet: &Packet) -> Option<Lane> {
    match contents {
        Contents::Ip => {
            let cut = packet.offload.gso.is_none_or(|gso| gso.size > 0);
            let parsed = packet.parse().ok().filter(|_| cut)?;
            Some(Lane::of(&parsed.flow))
        }
        Contents::Opaque => {
            let whole = packet.offload == Offload::default() && !packet.is_empty();
            let bytes = packet.bytes();
            whole.then(|| Lane::of_prefix(&bytes[..bytes.len().min(OPAQUE_PREFIX)]))
        }
    }
}

impl Pool {
    /// Takes a packet for the peer. What remains in `packet` after [`Offer::Taken`] is a buffer to
    /// use again.
    ///
    /// Never waits. While no stream is open nothing is taken.
    pub fn offer(&mut self, now: Instant, packet: &mut Packet) -> Offer {
        if self.closed {
            return Offer::Dropped(DropReason::Closed);
        }
        if packet.len() > MAX_PACKET {
            return Offer::Dropped(DropReason::TooBig);
        }
        let Some(lane) = lane(self.config.contents, packet) else {
            return Offer::Dropped(DropReason::Malformed);
        };
        self.wanted_at = now;
        let kept = self.lanes.stream(lane).and_then(|id| self.find(id));
        let Some(at) = kept.or_else(|| self.least_costly()) else {
            return match self.standing {
                Standing::Down(_) => Offer::Dropped(DropReason::NoSession),
                _ => Offer::Full,
            };
        };
        self.refused = None;
        match self.make_room(at, weight(packet)) {
            Offer::Taken => {}
            Offer::Full => {
                self.refused = Some((self.streams[at].id, weight(packet)));
                return Offer::Full;
            }
            dropped @ Offer::Dropped(_) => return dropped,
        }
        self.counters.taken.add(packet.len());
        let packet = compact(packet);
        self.waiting_bytes += weight(&packet);
        self.enqueue(now, at, Waiting { packet, lane });
        Offer::Taken
    }

    /// Makes room for a packet, as the policy says; `Taken` if there is.
    fn make_room(&mut self, at: usize, bytes: usize) -> Offer {
        let most = self.config.packet_buffer_size;
        while self.streams[at].queue.len() >= most
            || self.waiting_bytes + bytes > self.config.peer_buffer_bytes
        {
            match self.config.overflow {
                Overflow::PushBack => return Offer::Full,
                Overflow::DropNew => return Offer::Dropped(DropReason::QueueFull),
                Overflow::DropOld => {
                    let stream = &mut self.streams[at];
                    let Some(oldest) = stream.queue.pop_front() else {
                        return Offer::Dropped(DropReason::QueueFull);
                    };
                    stream.queued_bytes -= oldest.packet.len() as u64;
                    self.lanes.remove(oldest.lane);
                    self.unqueue(&oldest);
                    self.counters.drops.count(DropReason::QueueFull);
                }
            }
        }
        // Nobody would tell this peer's caller when another peer leaves room, so it does not wait.
        if !self.budget.take(bytes) {
            return Offer::Dropped(DropReason::QueueFull);
        }
        Offer::Taken
    }

    /// It does not wait any more.
    pub(super) fn unqueue(&mut self, waiting: &Waiting) {
        let bytes = weight(&waiting.packet);
        self.waiting_bytes -= bytes;
        self.budget.give(bytes);
    }

    /// Appends to the stream's queue, whatever its length.
    fn enqueue(&mut self, now: Instant, at: usize, waiting: Waiting) {
        let stream = &mut self.streams[at];
        if stream.is_empty() {
            stream.progress = now;
        }
        stream.used = now;
        stream.queued_bytes += waiting.packet.len() as u64;
        self.lanes.add(waiting.lane, stream.id);
        stream.queue.push_back(waiting);
        let due = stream.progress + self.config.stall_after;
        self.signal(at);
        self.arm(due);
    }

    /// The first stream that is not busy, one that is to be replaced after the others; else the least costly
    /// one.
    fn least_costly(&self) -> Option<usize> {
        let (scoring, most) = (&self.config.scoring, self.config.packet_buffer_size);
        let open = |stream: &Stream| stream.is_data() && stream.phase == Phase::Open;
        let (mut best, mut stale) = (None, None);
        for (at, stream) in self.streams.iter().enumerate().filter(|(_, s)| open(s)) {
            if !stream.is_busy(scoring, most) {
                if !stream.is_stale {
                    return Some(at);
                }
                stale.get_or_insert(at);
            }
            let cost = stream.cost(scoring);
            if best.is_none_or(|(_, least)| cost < least) {
                best = Some((at, cost));
            }
        }
        stale.or(best.map(|(at, _)| at))
    }

    /// After packets were offered: whether one stream more is worth it. That is so when every one was
    /// busy for a while; one that is idle is reason enough to have no more.
    pub fn weigh(&mut self, now: Instant) {
        let (scoring, most) = (&self.config.scoring, self.config.packet_buffer_size);
        let mut open = self.streams.iter().filter(|s| s.is_data());
        let busy = open.all(|s| s.phase == Phase::Open && s.is_busy(scoring, most));
        let most = self.config.max_streams_per_peer;
        if !busy || !self.opens || self.wanted >= most || self.is_missing() {
            self.busy_since = None;
            return;
        }
        let since = *self.busy_since.get_or_insert(now);
        let due = since + self.config.scale_up_after;
        if now < due {
            self.arm(due);
        } else {
            self.wanted += 1;
            self.busy_since = None;
            self.open_what_is_wanted(now);
        }
    }

    /// What waited for streams that ended goes by one that is open, in its order.
    pub(super) fn reroute(&mut self, now: Instant) {
        while let Some(waiting) = self.backlog.pop_front() {
            let kept = self.lanes.stream(waiting.lane).and_then(|id| self.find(id));
            let Some(at) = kept.or_else(|| self.least_costly()) else {
                self.backlog.push_front(waiting);
                return;
            };
            self.enqueue(now, at, waiting);
        }
    }

    /// Appends frames to be written to this stream, up to about `most` bytes; returns how many bytes.
    /// 0: there is nothing, and [`take_ready`](Self::take_ready) will tell when there is.
    pub fn next_write(
        &mut self,
        now: Instant,
        id: StreamId,
        most: usize,
        out: &mut Vec<Encoded>,
    ) -> usize {
        let Some(at) = self.find(id) else {
            return 0;
        };
        let stream = &mut self.streams[at];
        let mut bytes = 0;
        let mut push = |frame: Encoded, bytes: &mut usize| {
            *bytes += frame.bytes().len();
            out.push(frame);
        };
        for control in stream.control.drain(..) {
            push(Encoded::control(control), &mut bytes);
        }
        let writes = stream.phase == Phase::Open && !stream.queue.is_empty();
        let waits = |at: Instant| at <= now || writes || bytes > 0;
        if stream.ack_due || stream.ack_at.is_some_and(waits) {
            (stream.ack_at, stream.ack_due) = (None, false);
            (stream.told, stream.told_bytes) = (stream.received, stream.received_bytes);
            let ack = Control::Ack {
                packets: stream.told,
                bytes: stream.told_bytes,
            };
            push(Encoded::control(ack), &mut bytes);
        }
        if stream.phase == Phase::Open {
            let mut given = 0;
            while bytes < most && stream.in_flight.len() < MAX_IN_FLIGHT {
                let Some(waiting) = stream.queue.pop_front() else {
                    break;
                };
                let length = waiting.packet.len();
                stream.in_flight.push_back(Flying {
                    lane: waiting.lane,
                    bytes: length as u32,
                });
                stream.queued_bytes -= length as u64;
                stream.in_flight_bytes += length as u64;
                given += weight(&waiting.packet);
                push(Encoded::packet(waiting.packet), &mut bytes);
            }
            self.waiting_bytes -= given;
            self.budget.give(given);
        }
        self.streams[at].signalled = bytes > 0;
        bytes
    }

    /// Buffers that were written; what is too much is freed.
    pub(in crate::streams) fn give_back(&mut self, spent: &mut Vec<Packet>) {
        let room = SPARE.saturating_sub(self.spare.len());
        spent.truncate(room);
        self.spare.append(spent);
    }

    /// A buffer that was written, in place of the one of a packet that was taken.
    pub(in crate::streams) fn spare(&mut self) -> Option<Packet> {
        self.spare.pop()
    }

    /// Whether the packet that found no room last may find it now; without one, whether any would.
    pub fn has_room(&self) -> bool {
        // Then it is dropped, which needs none.
        if self.closed || matches!(self.standing, Standing::Down(_)) {
            return true;
        }
        let Some((id, bytes)) = self.refused else {
            return self.standing == Standing::Up;
        };
        let room = self.waiting_bytes + bytes <= self.config.peer_buffer_bytes;
        let keeps = |stream: &&Stream| !matches!(stream.phase, Phase::Parting { .. });
        match self.find(id).map(|at| &self.streams[at]).filter(keeps) {
            Some(stream) => room && stream.queue.len() < self.config.packet_buffer_size,
            None => room && self.standing == Standing::Up,
        }
    }
}
