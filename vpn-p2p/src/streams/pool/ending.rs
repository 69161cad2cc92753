//! Decides what follows from the end of a stream: what was lost, where the rest goes, how both ends
//! part without losing anything.

use std::time::Instant;

use vpn_core::DropReason;
use vpn_resilience::Next;

use super::stream::{Phase, Stream};
use super::{Action, Pool, REMEMBERED, Unsettled};
use crate::streams::fault::Fault;
use crate::streams::frame::{Control, StreamId};

impl Pool {
    /// The stream is no more: it could not be opened, failed, or was closed by the peer.
    pub fn ended(&mut self, now: Instant, id: StreamId, fault: &Fault) {
        let Some(at) = self.find(id) else {
            return;
        };
        let mut stream = self.streams.remove(at);
        if !stream.is_data() {
            // That it could be opened says that the peer is back; that it could not, nothing about packets.
            if let Some(permit) = stream.permit.take() {
                self.breaker.cancelled(permit);
            }
            self.probe.lost(id);
            self.open_what_is_wanted(now);
            return;
        }
        let lasted = now.saturating_duration_since(stream.since);
        if stream.id.is_ours() && stream.peer.is_some() && lasted < self.config.backoff.base {
            // Who greets and lets go at once would be called as fast as that goes.
            self.pause(now);
        }
        match stream.phase {
            Phase::Opening { .. } => self.not_opened(now, stream, fault),
            Phase::Parting { .. } if stream.peer_done && stream.is_empty() => {
                self.counters.retired += 1;
                self.stand(None);
            }
            _ => self.broke(now, stream, fault),
        }
        self.open_what_is_wanted(now);
    }

    fn not_opened(&mut self, now: Instant, stream: Stream, fault: &Fault) {
        self.counters.open_failed += 1;
        if let Some(permit) = stream.permit {
            self.breaker.failed(permit, now);
        }
        self.pause(now);
        self.stand(Some(fault));
    }

    /// The next stream is not opened at once.
    fn pause(&mut self, now: Instant) {
        self.retry_at = match self.backoff.failed(now) {
            Next::At(at) => Some(at),
            // A pool never gives up: its peer may be back any time.
            Next::GiveUp(_) => Some(now + self.config.backoff.cap),
        };
    }

    /// A stream that carried is gone.
    fn broke(&mut self, now: Instant, stream: Stream, fault: &Fault) {
        self.counters.broken += 1;
        if *fault == Fault::Stalled {
            self.counters.stalled += 1;
        }
        self.remember(stream.id, stream.received);
        let waiting = stream.queue.iter().map(|waiting| waiting.lane);
        for lane in stream.in_flight.iter().map(|f| f.lane).chain(waiting) {
            self.lanes.remove(lane);
        }
        if !stream.in_flight.is_empty() {
            self.disown(&stream);
        }
        self.backlog.extend(stream.queue);
        self.stand(None);
        if !self.opens && self.count_open() == 0 {
            // Who cannot open waits for the peer, and not for ever.
            let until = now + self.config.open_timeout;
            self.retry_at = Some(until);
            self.arm(until);
        }
        self.reroute(now);
    }

    /// What was written to it may still arrive, so that it is stopped before any other stream carries
    /// what it would have carried.
    fn disown(&mut self, stream: &Stream) {
        if self.unsettled.len() >= self.most_unsettled() {
            let oldest = self.unsettled.remove(0);
            self.lose(oldest.in_flight);
        }
        self.unsettled.push(Unsettled {
            id: stream.id,
            acked: stream.acked,
            in_flight: stream.in_flight.len() as u64,
        });
        for at in 0..self.streams.len() {
            // Also those that wait for their end: their queues may go elsewhere, but not before.
            if self.streams[at].is_data() && self.streams[at].peer.is_some() {
                self.tell(at, Control::Stop { stream: stream.id });
            }
        }
    }

    /// The peer says how much of a stream it took: now what was lost is known.
    pub(super) fn settle(&mut self, id: StreamId, taken: u64) {
        let Some(at) = self.unsettled.iter().position(|ended| ended.id == id) else {
            return;
        };
        let ended = self.unsettled.remove(at);
        let arrived = taken.saturating_sub(ended.acked).min(ended.in_flight);
        self.counters.delivered.packets += arrived;
        self.lose(ended.in_flight - arrived);
    }

    pub(super) fn lose(&mut self, packets: u64) {
        self.counters.drops.add(DropReason::StreamLost, packets);
    }

    fn remember(&mut self, id: StreamId, taken: u64) {
        if self.remembered.len() >= REMEMBERED * self.most_unsettled() {
            self.remembered.pop_front();
        }
        self.remembered.push_back((id, taken));
    }

    /// How much was taken of a stream that is gone; of one that never was nothing, and nothing will.
    pub(super) fn recall(&mut self, id: StreamId) -> u64 {
        let known = self.remembered.iter().find(|&&(known, _)| known == id);
        let taken = known.map(|&(_, taken)| taken);
        taken.unwrap_or_else(|| {
            self.remember(id, 0);
            0
        })
    }

    /// Replaces a stream that is of no use any more.
    pub(super) fn give_up(&mut self, now: Instant, id: StreamId, fault: &Fault) {
        self.actions.push_back(Action::Close(id));
        self.ended(now, id, fault);
    }

    /// Ends a stream without loss: nothing new is written; once all of it has arrived what waits goes
    /// by others, the peer is told, and does the same.
    pub(super) fn part(&mut self, now: Instant, at: usize) {
        let until = now + self.config.close_within;
        let stream = &mut self.streams[at];
        if stream.phase == Phase::Open {
            stream.phase = Phase::Draining { until };
            self.arm(until);
        }
        let stream = &mut self.streams[at];
        if matches!(stream.phase, Phase::Draining { .. }) && stream.in_flight.is_empty() {
            stream.phase = Phase::Parting { until };
            let queue = std::mem::take(&mut stream.queue);
            stream.queued_bytes = 0;
            for waiting in &queue {
                self.lanes.remove(waiting.lane);
            }
            self.backlog.extend(queue);
            self.arm(until);
            self.tell(at, Control::Bye);
            self.stand(None);
            self.reroute(now);
        }
        let stream = &self.streams[at];
        // Who opened it closes it: the other's farewell was read then, and nothing is cut off.
        if matches!(stream.phase, Phase::Parting { .. }) && stream.peer_done && stream.id.is_ours()
        {
            let id = stream.id;
            self.give_up(now, id, &Fault::Ended);
        }
    }
}
