//! A batch's way out: allowed destination, session, runs of equal datagrams, socket.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use vpn_core::packet::segment::{Segments, complete_checksum};
use vpn_core::packet::{Packet, PacketBatch};
use vpn_core::{DropCounters, DropReason, TransportState};

use super::core::{Core, Outgoing, Outlet};
use super::driver::Shared;
use super::socket::{Flushed, Run};
use super::sockets::Sockets;

/// Bytes that sealing adds: data header and tag (whitepaper §5.4.6).
const SEAL_OVERHEAD: usize = 32;

/// WireGuard pads to this many bytes, but not beyond the MTU (whitepaper §5.4.6).
const PADDING: usize = 16;

thread_local! {
    /// Shared by all transports a worker drives, so that a waiting transport holds no buffer.
    static SCRATCH: RefCell<(Run, BytesMut)> = RefCell::default();
}

/// What became of one packet of the batch.
enum Taken {
    Sealed,
    Dropped(DropReason),
    /// It stays with the caller.
    Not,
}

/// One call's view of the transport.
struct Outbound<'a> {
    core: &'a mut Core,
    sockets: &'a Sockets,
    drops: &'a mut DropCounters,
    run: &'a mut Run,
    /// One packet or segment before it is sealed. gotatun wants to own it, and drops it: each use
    /// splits off what it needs, and the next one gets the memory back.
    plain: &'a mut BytesMut,
    starts: Vec<Outgoing>,
    now: Instant,
    mtu: u16,
    down: bool,
    /// Place in the batch of the packet being sealed.
    packet: u32,
    /// Packets of this call of which the system refused a part: counted as drops, so not as sent.
    refused: usize,
    /// The newest of them: no packet counts twice.
    last_refused: Option<u32>,
}

impl Shared {
    /// Sends from the front of the batch; returns how many of its packets went.
    pub(super) fn send_batch(&self, batch: &mut PacketBatch, drops: &mut DropCounters) -> usize {
        if self.is_dormant() {
            self.wake();
            return 0;
        }
        SCRATCH.with_borrow_mut(|(run, plain)| {
            run.clear();
            let sockets = self.sockets().clone();
            let mut guard = self.core();
            let mut out = Outbound {
                core: &mut guard,
                sockets: &sockets,
                drops,
                run,
                plain,
                starts: Vec::new(),
                now: Instant::now(),
                mtu: self.mtu(),
                down: matches!(self.state.get(), TransportState::Down(_)),
                packet: 0,
                refused: 0,
                last_refused: None,
            };
            let (taken, sent) = out.batch(batch.packets_mut());
            let mut starts = out.starts;
            let stalled = !guard.blocked.is_empty();
            drop(guard);
            if stalled {
                self.stalled.notify_one();
            }
            // A start that was not sent shows as silence and is repeated.
            let _ = self.send_all(&mut starts);
            batch.recycle_front(taken);
            sent
        })
    }
}

/// Sends what a full socket left over; `false` if it is still full. Its packets counted as sent
/// when they were taken, so what is refused now is counted apart.
pub(super) fn unblock(core: &mut Core, sockets: &Sockets) -> bool {
    let Core { blocked, stats, .. } = core;
    sockets.unblock(blocked, |run, done| match done {
        Flushed::Refused(which, _) => stats.tx_lost += which.len() as u64,
        _ => stats.tx_bytes += run.bytes.len() as u64,
    })
}

impl Outbound<'_> {
    fn batch(&mut self, packets: &mut [Packet]) -> (usize, usize) {
        let (mut taken, mut sent) = (0, 0);
        if !unblock(self.core, self.sockets) {
            return (taken, sent);
        }
        for (place, packet) in (0..).zip(packets) {
            self.packet = place;
            match self.packet(packet) {
                Taken::Sealed => sent += 1,
                Taken::Dropped(reason) => self.drops.count(reason),
                Taken::Not => break,
            }
            taken += 1;
            if !self.core.blocked.is_empty() {
                break;
            }
        }
        self.flush();
        (taken, sent.saturating_sub(self.refused))
    }

    fn packet(&mut self, packet: &mut Packet) -> Taken {
        let (peer, to) =
            match self
                .core
                .outlet(packet.bytes(), self.down, self.now, &mut self.starts)
            {
                Outlet::Open(peer, to) => (peer, to),
                Outlet::Wait => return Taken::Not,
                Outlet::Drop(reason) => return Taken::Dropped(reason),
            };
        if packet.offload.gso.is_some() {
            return self.super_packet(packet, peer, to);
        }
        if packet.offload.partial_checksum && complete_checksum(packet).is_err() {
            return Taken::Dropped(DropReason::Unsupported);
        }
        if packet.len() > usize::from(self.mtu) {
            return Taken::Dropped(DropReason::TooBig);
        }
        self.plain.clear();
        self.plain.reserve(packet.len() + PADDING);
        self.plain.extend_from_slice(packet.bytes());
        if self.seal(peer, to) {
            Taken::Sealed
        } else {
            Taken::Dropped(DropReason::NoSession)
        }
    }

    /// Cuts a super-packet at the last moment. A socket that fills up in its middle gets the rest
    /// later: part of a packet cannot be given back.
    fn super_packet(&mut self, packet: &Packet, peer: usize, to: SocketAddr) -> Taken {
        let Ok(segments) = Segments::new(packet) else {
            return Taken::Dropped(DropReason::Unsupported);
        };
        if segments.longest() > usize::from(self.mtu) {
            return Taken::Dropped(DropReason::TooBig);
        }
        let mut sealed = false;
        for index in 0..segments.count() {
            self.plain.clear();
            self.plain.reserve(segments.longest() + PADDING);
            segments.append_to(index, self.plain);
            sealed |= self.seal(peer, to);
        }
        if sealed {
            Taken::Sealed
        } else {
            Taken::Dropped(DropReason::NoSession)
        }
    }

    /// Seals what is in `plain` into the run, sending the run first where it does not fit.
    fn seal(&mut self, peer: usize, to: SocketAddr) -> bool {
        let (mtu, bare) = (usize::from(self.mtu), self.plain.len());
        let padded = bare.next_multiple_of(PADDING).min(mtu).max(bare);
        self.plain.resize(padded, 0);
        let len = padded + SEAL_OVERHEAD;
        let segments = self.sockets.to(to).map_or(1, |s| s.max_segments());
        if !self.run.takes(to, len, segments) {
            self.flush();
        }
        let sealed = self.core.seal(peer, self.plain.split(), self.run, self.now);
        if sealed {
            self.run.appended(to, len, self.packet);
        }
        sealed
    }

    /// Sends the run, or keeps it for the next call: behind what is kept already, to stay in
    /// order.
    fn flush(&mut self) {
        if self.run.to().is_none() {
            return;
        }
        let mut run = std::mem::take(self.run);
        if self.core.blocked.is_empty() && self.send(&run) {
            run.clear();
            *self.run = run;
        } else {
            self.core.blocked.push_back(run);
        }
    }

    /// `false` if the socket is full.
    fn send(&mut self, run: &Run) -> bool {
        match self.sockets.flush(run) {
            Flushed::Blocked => return false,
            Flushed::Sent => self.core.stats.tx_bytes += run.bytes.len() as u64,
            Flushed::Refused(which, error) => {
                let reason = if quinn_udp::is_msg_size_err(&error) {
                    if let Some(to) = run.to() {
                        self.core.too_big(to);
                    }
                    DropReason::TooBig
                } else {
                    DropReason::Refused
                };
                for packet in which.iter().filter_map(|datagram| run.packet(*datagram)) {
                    if self.last_refused.replace(packet) != Some(packet) {
                        self.refused += 1;
                        self.drops.count(reason);
                    }
                }
            }
        }
        true
    }
}
