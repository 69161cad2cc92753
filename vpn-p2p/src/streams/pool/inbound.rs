//! Decides what frames mean: packets for the user, and what the peer says about streams.

use std::time::{Duration, Instant};

use vpn_core::Packet;
use vpn_core::packet::PacketBatch;

use super::stream::Phase;
use super::{ANSWERS, Action, Pool};
use crate::streams::fault::Fault;
use crate::streams::frame::{Control, Frame, StreamId};

/// How long what came may go unacknowledged: long enough that a burst costs one answer, short beside
/// a round trip.
const ACK_DELAY: Duration = Duration::from_millis(5);

/// Unacknowledged bytes that are acknowledged at once, so that a busy stream's sender sees progress.
const ACK_BYTES: u64 = 512 * 1024;

/// Bytes that came and wait to be taken; beyond, streams are not read, and the peer's queues fill. Two
/// batches of ordinary packets, or some super-packets.
const INBOUND_BYTES: usize = 512 * 1024;

/// Received packets up to this length are copied into the batch's buffers, so that they do not keep a
/// whole read in memory. Larger ones are handed on as the parts of it that they are: copying a
/// super-packet costs as much as reading it, and what it keeps is at most eight times its size.
const COPIED: usize = 32 * 1024;

/// What a packet counts until it is taken: its bytes, and what the queue takes for it.
fn held(packet: &Packet) -> usize {
    size_of::<Packet>() + packet.len()
}

impl Pool {
    /// A frame came by this stream.
    ///
    /// # Errors
    ///
    /// [`Fault::Protocol`] if it makes no sense there: report the stream as [`ended`](Self::ended) by
    /// it. A stream that is not known (any more) takes nothing, without an error.
    pub fn received(&mut self, now: Instant, id: StreamId, frame: Frame) -> Result<(), Fault> {
        let Some(at) = self.find(id) else {
            return Ok(());
        };
        match frame {
            Frame::Packet(packet) => self.packet(now, at, packet),
            Frame::Control(control) => self.control(now, at, control),
        }
    }

    fn packet(&mut self, now: Instant, at: usize, packet: Packet) -> Result<(), Fault> {
        let stream = &mut self.streams[at];
        if !stream.is_data() || stream.peer.is_none() || stream.peer_done {
            return Err(Fault::Protocol("a packet where none may be"));
        }
        stream.used = now;
        stream.received += 1;
        stream.received_bytes += packet.len() as u64;
        self.counters.received.add(packet.len());
        self.inbound_bytes += held(&packet);
        self.inbound.push_back(packet);
        if stream.received_bytes - stream.told_bytes >= ACK_BYTES {
            (stream.ack_at, stream.ack_due) = (None, true);
            self.signal(at);
        } else if stream.ack_at.is_none() && !stream.ack_due {
            let due = now + ACK_DELAY;
            stream.ack_at = Some(due);
            self.arm(due);
        }
        Ok(())
    }

    fn control(&mut self, now: Instant, at: usize, control: Control) -> Result<(), Fault> {
        let most = ANSWERS * self.most_unsettled();
        let stream = &mut self.streams[at];
        let greeted = stream.peer.is_some();
        if stream.control.len() >= most {
            return Err(Fault::Protocol("it asks, and does not read the answers"));
        }
        match control {
            Control::Welcome { session } if !greeted => self.welcomed(now, at, session),
            _ if !greeted => return Err(Fault::Protocol("no greeting first")),
            Control::Hello { .. } | Control::Welcome { .. } => {
                return Err(Fault::Protocol("a second greeting"));
            }
            Control::Ack { packets, bytes } => return self.acked(now, at, packets, bytes),
            Control::Stop { stream } => self.stop(now, at, stream),
            Control::Stopped { stream, packets } => self.settle(stream, packets),
            Control::Bye if stream.peer_done => return Err(Fault::Protocol("said twice")),
            Control::Bye => {
                stream.peer_done = true;
                self.part(now, at);
            }
            Control::Ping { .. } | Control::Pong { .. } if stream.is_data() => {
                return Err(Fault::Protocol("a question in the data"));
            }
            Control::Ping { number } => self.tell(at, Control::Pong { number }),
            Control::Pong { number } => self.probe.answer(number, now),
        }
        Ok(())
    }

    /// The peer says how much came. It can only be more than it said before, and not more than was
    /// written.
    fn acked(&mut self, now: Instant, at: usize, packets: u64, bytes: u64) -> Result<(), Fault> {
        let stream = &mut self.streams[at];
        let more = packets.checked_sub(stream.acked);
        let Some(more) = more.filter(|&more| more <= stream.in_flight.len() as u64) else {
            return Err(Fault::Protocol("an acknowledgment of what was not sent"));
        };
        let mut arrived = 0;
        for flying in stream.in_flight.drain(..more as usize) {
            arrived += u64::from(flying.bytes);
            self.lanes.remove(flying.lane);
        }
        stream.in_flight_bytes -= arrived;
        stream.acked = packets;
        stream.acked_bytes += arrived;
        self.counters.delivered.packets += more;
        self.counters.delivered.bytes += arrived;
        if stream.acked_bytes != bytes {
            return Err(Fault::Protocol("packets arrived with another length"));
        }
        if more > 0 {
            stream.progress = now;
        }
        if !stream.queue.is_empty() && stream.phase == Phase::Open {
            // It may have been full of what is on the way.
            self.signal(at);
        }
        if matches!(self.streams[at].phase, Phase::Draining { .. }) {
            self.part(now, at);
        }
        Ok(())
    }

    /// The peer sends by other streams what it would have sent by this one: nothing more of it may
    /// come out. It is told how much did.
    fn stop(&mut self, now: Instant, at: usize, id: StreamId) {
        let asked_on = self.streams[at].id;
        let taken = match self.find(id) {
            Some(old) => {
                let taken = self.streams[old].received;
                self.actions.push_back(Action::Close(id));
                self.ended(now, id, &Fault::Replaced);
                taken
            }
            None => self.recall(id),
        };
        if let Some(at) = self.find(asked_on) {
            let (stream, packets) = (id, taken);
            self.tell(at, Control::Stopped { stream, packets });
        }
    }

    /// Moves packets that came into the batch, as far as there is room; returns how many.
    pub fn take(&mut self, batch: &mut PacketBatch) -> usize {
        self.take_if(batch, |_| true)
    }

    /// As [`take`](Self::take), and drops what is not `wanted`.
    pub(in crate::streams) fn take_if(
        &mut self,
        batch: &mut PacketBatch,
        mut wanted: impl FnMut(&Packet) -> bool,
    ) -> usize {
        let before = batch.len();
        while !batch.is_full() {
            let Some(packet) = self.inbound.pop_front() else {
                break;
            };
            self.inbound_bytes -= held(&packet);
            if !wanted(&packet) {
                continue;
            }
            if packet.len() <= COPIED.min(batch.pool_mut().largest_packet()) {
                batch.push_with(|buf| {
                    buf.extend_from_slice(packet.bytes());
                    Some(packet.offload)
                });
            } else {
                // There is room for it.
                let _ = batch.push(packet);
            }
        }
        batch.len() - before
    }

    /// Whether streams may be read.
    pub fn takes_more(&self) -> bool {
        self.inbound_bytes < INBOUND_BYTES
    }
}
