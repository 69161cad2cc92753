//! Decides what of a batch comes first, and gathers what is to be sent. No socket.
//!
//! What is relayed comes first, sealed messages of sessions next: both cost about as much as their
//! length. Then handshakes, which cost a signature or a multiplication on a curve each: of every batch
//! as many as the budget has, so that no flood of them keeps the rest waiting for long.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;

use crate::mesh::hub::{Hub, Origin, Relayed};
use crate::mesh::wire::Tag;
use crate::mesh::wire::frame::{HEADER, RELAY_HEADER, is_frame};

/// What handshakes of one batch may cost: four Joins or initiations, or 64 Hellos. About half a
/// millisecond.
pub(super) const BUDGET: usize = 64;

/// What a Join or an initiation costs, where a Hello costs 1.
const DEAR: usize = 16;

/// Handshakes that wait for the next batch's budget.
pub(super) const WAITING: usize = 256;

/// Longest handshake that may wait: a Join with its record.
const LONGEST: usize = 1200;

/// Datagrams on their way to one address, of `segment` bytes each but the last.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) to: SocketAddr,
    pub(super) segment: usize,
    pub(super) bytes: BytesMut,
}

/// The work of one task.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// To be relayed to UDP.
    pub(super) forwards: Vec<Forward>,
    /// To be relayed to clients of TLS.
    pub(super) streams: Vec<(u64, BytesMut)>,
    /// Said by the hub.
    pub(super) said: Vec<(Origin, Vec<u8>)>,
    /// Handshakes thrown away.
    pub(super) crowded: u64,
    sealed: Vec<(Origin, BytesMut)>,
    handshakes: VecDeque<(Origin, BytesMut)>,
}

impl Work {
    /// Whether handshakes wait.
    pub(super) fn waits(&self) -> bool {
        !self.handshakes.is_empty()
    }

    /// Datagrams of `stride` bytes each but the last came from there: relays what is to be relayed, and
    /// keeps the rest for [`finish`](Self::finish).
    pub(super) fn take(
        &mut self,
        hub: &mut Hub,
        from: Origin,
        stride: usize,
        mut bytes: BytesMut,
        now: Instant,
        unix: u64,
    ) {
        while !bytes.is_empty() {
            let length = stride.min(bytes.len());
            let Some(tag) = sealed_for(&bytes[..length]) else {
                let datagram = bytes.split_to(length);
                if datagram.starts_with(&[0x80]) {
                    self.introduce(hub, from, datagram, now, unix);
                } else {
                    self.keep(from, datagram);
                }
                continue;
            };
            let count = run(&bytes, stride);
            let run = bytes.split_to(bytes.len().min(count * stride));
            self.relay(hub, from, tag, stride, run, now);
        }
    }

    fn relay(
        &mut self,
        hub: &mut Hub,
        from: Origin,
        tag: Tag,
        stride: usize,
        mut run: BytesMut,
        now: Instant,
    ) {
        let count = run.len().div_ceil(stride);
        let Relayed::To { origin, tag } = hub.relay(from, tag, run.len(), count, now) else {
            return;
        };
        for datagram in run.chunks_mut(stride) {
            datagram[HEADER..RELAY_HEADER].copy_from_slice(&tag.0);
        }
        match origin {
            Origin::Udp(to) => self.forwards.push(Forward {
                to,
                segment: stride.min(run.len()),
                bytes: run,
            }),
            Origin::Tls(connection) => {
                while !run.is_empty() {
                    let datagram = run.split_to(stride.min(run.len()));
                    self.streams.push((connection, datagram));
                }
            }
        }
    }

    /// To be relayed, with something in it that the hub has to look at. In its place among the others:
    /// who is introduced is about to send a handshake, which means nothing before.
    fn introduce(
        &mut self,
        hub: &mut Hub,
        from: Origin,
        datagram: BytesMut,
        now: Instant,
        unix: u64,
    ) {
        hub.datagram(from, datagram, now, unix);
        while let Some((to, datagram)) = hub.poll() {
            let bytes = BytesMut::from(&datagram[..]);
            match to {
                Origin::Udp(to) => self.forwards.push(Forward {
                    to,
                    segment: bytes.len(),
                    bytes,
                }),
                Origin::Tls(connection) => self.streams.push((connection, bytes)),
            }
        }
    }

    fn keep(&mut self, from: Origin, datagram: BytesMut) {
        match cost(&datagram) {
            None => self.sealed.push((from, datagram)),
            Some(_) if self.handshakes.len() >= WAITING || datagram.len() > LONGEST => {
                self.crowded += 1;
            }
            // A copy of its own size: the buffer it came in is far larger.
            Some(_) => self
                .handshakes
                .push_back((from, BytesMut::from(&datagram[..]))),
        }
    }

    /// Does the rest of a batch, as far as the budget goes.
    pub(super) fn finish(&mut self, hub: &mut Hub, now: Instant, unix: u64) {
        for (from, datagram) in self.sealed.drain(..) {
            hub.datagram(from, datagram, now, unix);
        }
        let mut left = BUDGET;
        while let Some((from, datagram)) = self.handshakes.pop_front() {
            left = left.saturating_sub(cost(&datagram).unwrap_or(1));
            hub.datagram(from, datagram, now, unix);
            if left == 0 {
                break;
            }
        }
        self.said.extend(std::iter::from_fn(|| hub.poll()));
    }
}

/// To whom a datagram is to be relayed whose content is sealed.
#[inline]
fn sealed_for(datagram: &[u8]) -> Option<Tag> {
    match datagram {
        [0x80, 1, _, 0, rest @ ..] => {
            let (tag, content) = rest.split_first_chunk()?;
            let sealed = !content.is_empty() && !is_frame(content);
            sealed.then_some(Tag(*tag))
        }
        _ => None,
    }
}

/// How many of the first datagrams are to be relayed to whom the first one is for.
#[inline]
fn run(bytes: &[u8], stride: usize) -> usize {
    let mut datagrams = bytes.chunks(stride);
    let Some(first) = datagrams.next() else {
        return 0;
    };
    let head = &first[..RELAY_HEADER.min(first.len())];
    let alike = |datagram: &&[u8]| datagram.starts_with(head) && sealed_for(datagram).is_some();
    1 + datagrams.take_while(alike).count()
}

/// What it costs to answer; `None`: it is no handshake.
fn cost(datagram: &[u8]) -> Option<usize> {
    match datagram.first() {
        // Hello.
        Some(0x81) => Some(1),
        // Join; WireGuard's initiation, response, cookie.
        Some(0x83 | 1..=3) => Some(DEAR),
        _ => None,
    }
}
