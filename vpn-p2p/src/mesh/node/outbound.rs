//! A batch's way out: member, runs of equal datagrams, socket or stream.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use vpn_core::packet::{Packet, PacketBatch};
use vpn_core::{DropCounters, DropReason, Offload};

use super::shared::{Core, Shared};
use super::streams::{COPIED, FRAMES};
use crate::mesh::member::{Outlet, Slot, Wire, plain_packets};
use crate::mesh::way::{HubId, Way};
use crate::wireguard::socket::{Flushed, Run};
use crate::wireguard::sockets::Sockets;

thread_local! {
    /// Shared by all transports a worker drives, so that a waiting transport holds no buffer.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

struct Scratch {
    run: Run,
    plain: BytesMut,
    datagram: Vec<u8>,
    frames: Frames,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            run: Run::default(),
            plain: BytesMut::new(),
            datagram: Vec::new(),
            frames: Frames {
                hub: None,
                batch: PacketBatch::new(FRAMES, COPIED),
                packets: Vec::new(),
            },
        }
    }
}

/// Sealed frames for the stream to one hub, and which packet each is of.
struct Frames {
    hub: Option<HubId>,
    batch: PacketBatch,
    packets: Vec<u32>,
}

/// What is counted per peer and way once a batch is over.
#[derive(Clone, Copy)]
struct Tally {
    slot: Slot,
    way: Way,
    packets: u64,
    bytes: u64,
}

struct Outbound<'a> {
    shared: &'a Arc<Shared>,
    core: &'a mut Core,
    sockets: &'a Sockets,
    run: &'a mut Run,
    frames: &'a mut Frames,
    drops: &'a mut DropCounters,
    /// Place in the batch of the packet being sealed.
    packet: u32,
    /// Packets of this call that the system refused: counted as drops, so not as sent.
    refused: usize,
    last_refused: Option<u32>,
    tally: Option<Tally>,
    mtu: u16,
    now: Instant,
}

impl Shared {
    /// Sends from the front of the batch; returns how many of its packets went.
    pub(super) fn send_batch(
        self: &Arc<Self>,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> usize {
        let Some(sockets) = self.sockets() else {
            return 0;
        };
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch {
                run,
                plain,
                datagram,
                frames,
            } = scratch;
            run.clear();
            frames.clear();
            let now = Instant::now();
            let mut guard = self.core();
            if !self.unblock(&mut guard, &sockets) {
                return 0;
            }
            let mut out = Outbound {
                shared: self,
                core: &mut guard,
                sockets: &sockets,
                run,
                frames,
                drops,
                packet: 0,
                refused: 0,
                last_refused: None,
                tally: None,
                mtu: self.mtu(),
                now,
            };
            let (mut taken, mut sent) = (0, 0);
            for (place, packet) in (0..).zip(batch.packets_mut()) {
                out.packet = place;
                match out.packet(packet, plain, datagram) {
                    Ok(()) => sent += 1,
                    Err(reason) => out.drops.count(reason),
                }
                taken += 1;
                if !out.core.blocked.is_empty() {
                    break;
                }
            }
            out.flush();
            out.flush_frames();
            out.count(None);
            let sent = sent - out.refused.min(sent);
            let blocked = !guard.blocked.is_empty();
            self.finish(guard, now);
            if blocked {
                self.stalled.notify_one();
            }
            batch.recycle_front(taken);
            sent
        })
    }
}

impl Frames {
    fn clear(&mut self) {
        self.hub = None;
        self.batch.clear();
        self.packets.clear();
    }
}

impl Outbound<'_> {
    fn packet(
        &mut self,
        packet: &mut Packet,
        plain: &mut BytesMut,
        datagram: &mut Vec<u8>,
    ) -> Result<(), DropReason> {
        let (slot, way, wire) = match self.core.member.outlet(packet, self.now) {
            Outlet::Open(slot, way, wire) => (slot, way, wire),
            Outlet::Held => {
                // What waited may go by this: ahead of whatever comes next.
                self.flush();
                self.flush_frames();
                self.shared.transmit_all(self.core, self.now);
                return Ok(());
            }
            Outlet::Drop(reason) => return Err(reason),
        };
        let (segments, bytes) = (packet.segments() as u64, packet.len() as u64);
        let whole = matches!(wire, Wire::Stream(_, _, true));
        let mut sealed = Ok(());
        plain_packets(packet, self.mtu, whole, plain, |plain| {
            if sealed.is_err() {
                // Part of a packet is no use.
                return;
            }
            let one = match wire {
                Wire::Direct(to) | Wire::Relay(to, _) => self.datagram(slot, &wire, to, plain),
                Wire::Stream(hub, ..) => {
                    datagram.clear();
                    if self.core.member.seal(slot, &wire, plain, datagram) {
                        self.frame(hub, datagram);
                        Ok(())
                    } else {
                        Err(DropReason::NoSession)
                    }
                }
            };
            sealed = one;
        })?;
        sealed?;
        self.count(Some((slot, way, segments, bytes)));
        Ok(())
    }

    /// Seals into the run, sending the run first where it does not fit.
    fn datagram(
        &mut self,
        slot: Slot,
        wire: &Wire,
        to: std::net::SocketAddr,
        plain: BytesMut,
    ) -> Result<(), DropReason> {
        let front = match wire {
            Wire::Relay(_, header) => header.len(),
            _ => 0,
        };
        let len = front + plain.len() + SEAL_OVERHEAD;
        let segments = self
            .sockets
            .to(to)
            .map_or(1, |socket| socket.max_segments());
        if !self.run.takes(to, len, segments) {
            self.flush();
        }
        if !self
            .core
            .member
            .seal(slot, wire, plain, &mut self.run.bytes)
        {
            return Err(DropReason::NoSession);
        }
        self.run.appended(to, len, self.packet);
        Ok(())
    }

    /// Adds a frame to those for the stream, sending them first where it does not fit.
    fn frame(&mut self, hub: HubId, frame: &[u8]) {
        if self.frames.hub.is_some_and(|other| other != hub) || self.frames.batch.is_full() {
            self.flush_frames();
        }
        self.frames.hub = Some(hub);
        self.frames.packets.push(self.packet);
        self.frames.batch.push_with(|buffer| {
            buffer.extend_from_slice(frame);
            Some(Offload::default())
        });
    }

    /// Gives the frames to their stream. What it has no room for is lost.
    fn flush_frames(&mut self) {
        let Some(hub) = self.frames.hub else {
            return;
        };
        let sent = self.shared.streams.send_all(hub, &mut self.frames.batch);
        for place in sent..self.frames.packets.len() {
            self.refuse(self.frames.packets[place], DropReason::QueueFull);
        }
        self.frames.clear();
    }

    /// A packet of this call was not sent, or a part of it.
    fn refuse(&mut self, packet: u32, reason: DropReason) {
        if self.last_refused.replace(packet) != Some(packet) {
            self.refused += 1;
            self.drops.count(reason);
        }
    }

    /// Sends the run, or keeps it for later: behind what is kept already, to stay in order.
    fn flush(&mut self) {
        if self.run.to().is_none() {
            return;
        }
        let run = std::mem::take(self.run);
        if !self.core.blocked.is_empty() {
            self.core.blocked.push_back(run);
            return;
        }
        match self.sockets.flush(&run) {
            Flushed::Blocked => {
                self.core.blocked.push_back(run);
                return;
            }
            Flushed::Sent => {}
            Flushed::Refused(which, error) => {
                let reason = match quinn_udp::is_msg_size_err(&error) {
                    true => DropReason::TooBig,
                    false => DropReason::Refused,
                };
                if let (DropReason::TooBig, Some(to)) = (reason, run.to()) {
                    self.core.widths.too_big(to);
                    self.core.widths_due = true;
                    self.shared.work.notify_one();
                }
                for packet in which.iter().filter_map(|datagram| run.packet(*datagram)) {
                    self.refuse(packet, reason);
                }
            }
        }
        *self.run = run;
        self.run.clear();
    }

    /// Adds a packet to its peer's account, or closes the account.
    fn count(&mut self, packet: Option<(Slot, Way, u64, u64)>) {
        let same = |tally: &Tally| {
            packet.is_some_and(|(slot, way, ..)| (slot, way) == (tally.slot, tally.way))
        };
        if let Some(tally) = self.tally.take_if(|tally| !same(tally)) {
            let Tally {
                slot,
                way,
                packets,
                bytes,
            } = tally;
            self.core.member.sent(slot, way, packets, bytes, self.now);
        }
        if let Some((slot, way, segments, bytes)) = packet {
            let tally = self.tally.get_or_insert(Tally {
                slot,
                way,
                packets: 0,
                bytes: 0,
            });
            tally.packets += segments;
            tally.bytes += bytes;
        }
    }
}

/// Bytes that sealing adds: data header and tag (whitepaper §5.4.6).
const SEAL_OVERHEAD: usize = 32;
