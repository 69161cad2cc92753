//! Decides what of a batch comes first, and gathers what is to be sent. No socket.
//!
//! What is relayed comes first, sealed messages of sessions next: both cost about as much as their
//! length. Then handshakes, which cost a signature or a multiplication on a curve each: of every batch
//! as many as the budget has, so that no flood of them keeps the rest waiting for long.
//!
//! What has not the length of its kind is nothing, and does not wait. Handshakes wait in two queues:
//! those of who shows to be where they come from (a member, a cookie), and those of everybody. Each has
//! its part of the budget and of the room, so that who can only send, from whatever addresses, takes
//! nothing from who receives as well.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::BytesMut;

use super::between::{self, Heading, heading};
use crate::mesh::hub::{Carried, Hub, Origin, Relayed};
use crate::mesh::wire::Tag;
use crate::mesh::wire::frame::{COOKIE, HEADER, HELLO, RELAY_HEADER, VERSION};

/// What handshakes of one batch may cost: four Joins or initiations, or 64 Hellos. About half a
/// millisecond.
pub(super) const BUDGET: usize = 64;

/// What of it is for who shows to be there, if it is wanted.
const PROVEN: usize = BUDGET / 4 * 3;

/// What a Join or an initiation costs, where a Hello costs 1.
const DEAR: usize = 16;

/// Handshakes that wait for the next batch's budget, in each of both queues: a hundred nodes that join
/// at once, with what follows.
pub(super) const WAITING: usize = 256;

/// Those of one address, or one /64: half of the room.
const OF_ONE: usize = WAITING / 2;

/// Longest handshake: a Join with its record.
const LONGEST: usize = 1200;

/// Lengths of WireGuard's messages: initiation, response, cookie, and data at least (whitepaper §5.4).
const INITIATION: usize = 148;
const RESPONSE: usize = 92;
const COOKIE_REPLY: usize = 64;
const DATA: usize = 32;

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
    proven: Queue,
    others: Queue,
    /// Whose Join waits: the handshake behind it is as good.
    joining: HashSet<Origin>,
}

/// Handshakes that wait, and of whom.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Origin, BytesMut)>,
    /// How many of them are whose; nobody who has none.
    of: HashMap<Origin, usize>,
}

impl Queue {
    /// Whether there is room for one more from there.
    fn has_room(&self, from: Origin) -> bool {
        let of_one = self.of.get(&source(from)).copied().unwrap_or(0);
        self.waiting.len() < WAITING && of_one < OF_ONE
    }

    fn push(&mut self, from: Origin, datagram: BytesMut) {
        *self.of.entry(source(from)).or_default() += 1;
        self.waiting.push_back((from, datagram));
    }

    fn pop(&mut self) -> Option<(Origin, BytesMut)> {
        let (from, datagram) = self.waiting.pop_front()?;
        if let Entry::Occupied(mut of_one) = self.of.entry(source(from)) {
            *of_one.get_mut() -= 1;
            if *of_one.get() == 0 {
                of_one.remove();
            }
        }
        Some((from, datagram))
    }
}

/// What a datagram is that is not relayed, by its first bytes and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Of a session.
    Sealed,
    Hello,
    Join,
    /// WireGuard's.
    Handshake,
    Nothing,
}

impl Work {
    /// Whether handshakes wait.
    pub(super) fn waits(&self) -> bool {
        !(self.proven.waiting.is_empty() && self.others.waiting.is_empty())
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
            let Some(heading) = heading(&bytes[..length]) else {
                let datagram = bytes.split_to(length);
                // A hub's introductions go in its session, ahead of handshakes that do not.
                let plain = || matches!(kind(&datagram), Kind::Sealed | Kind::Nothing);
                let hubs = || plain() && hub.is_neighbour(from);
                if datagram.starts_with(&[0x80]) || hubs() {
                    self.introduce(hub, from, datagram, now, unix);
                } else {
                    self.keep(hub, from, datagram, now);
                }
                continue;
            };
            let count = between::run(&bytes, stride, heading);
            let run = bytes.split_to(bytes.len().min(count * stride));
            match heading {
                Heading::To(tag) => self.relay(hub, from, tag, stride, run, now),
                Heading::Carried { .. } => self.carry(hub, from, heading, stride, run, now),
            }
        }
    }

    /// From another hub.
    fn carry(
        &mut self,
        hub: &mut Hub,
        from: Origin,
        heading: Heading,
        stride: usize,
        mut run: BytesMut,
        now: Instant,
    ) {
        let Heading::Carried {
            to,
            from: sender,
            hops,
        } = heading
        else {
            return;
        };
        let count = run.len().div_ceil(stride);
        match hub.carry(from, hops, to, sender, run.len(), count, now) {
            Carried::Dropped => {}
            Carried::On { origin, hops } => {
                between::fewer(&mut run, stride, hops);
                self.forward(origin, stride, run);
            }
            Carried::To { origin, tag } => {
                let (stride, run) = between::arrived(&run, stride, tag);
                self.forward(origin, stride, run);
            }
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
        match hub.relay(from, tag, run.len(), count, now) {
            Relayed::To { origin, tag } => {
                for datagram in run.chunks_mut(stride) {
                    datagram[HEADER..RELAY_HEADER].copy_from_slice(&tag.0);
                }
                self.forward(origin, stride, run);
            }
            Relayed::Beyond { origin, from, hops } => {
                let (stride, run) = between::departs(&run, stride, tag, from, hops);
                self.forward(origin, stride, run);
            }
            _ => {}
        }
    }

    /// Datagrams of `stride` bytes each but the last are to go there.
    fn forward(&mut self, origin: Origin, stride: usize, mut run: BytesMut) {
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

    fn keep(&mut self, hub: &mut Hub, from: Origin, datagram: BytesMut, now: Instant) {
        let kind = kind(&datagram);
        let proven = match kind {
            Kind::Sealed => return self.sealed.push((from, datagram)),
            Kind::Nothing => return hub.count_malformed(),
            Kind::Hello => hub.is_known(from),
            // Without the cookie of its address it is nothing, which costs one code to see.
            Kind::Join if !hub.is_cookie_good(from, &datagram, now) => return,
            Kind::Join => true,
            // A hub that we join answers, and is no member.
            Kind::Handshake => {
                let is_answer = matches!(datagram.first(), Some(2 | 3));
                hub.is_known(from)
                    || self.joining.contains(&from)
                    || (is_answer && hub.is_neighbour(from))
            }
        };
        let queue = match proven {
            true => &mut self.proven,
            false => &mut self.others,
        };
        if !queue.has_room(from) {
            self.crowded += 1;
            return;
        }
        if kind == Kind::Join {
            self.joining.insert(from);
        }
        // A copy of its own size: the buffer it came in is far larger.
        queue.push(from, BytesMut::from(&datagram[..]));
    }

    /// Does the rest of a batch, as far as the budget goes.
    pub(super) fn finish(&mut self, hub: &mut Hub, now: Instant, unix: u64) {
        for (from, datagram) in self.sealed.drain(..) {
            hub.datagram(from, datagram, now, unix);
        }
        // What one queue does not need is the other's.
        let wanted = self
            .others
            .waiting
            .iter()
            .map(|(_, datagram)| cost(datagram));
        let others = wanted.take(BUDGET).sum::<usize>().min(BUDGET - PROVEN);
        let mut left = BUDGET - others;
        while left > 0
            && let Some((from, datagram)) = self.proven.pop()
        {
            left = left.saturating_sub(cost(&datagram));
            self.joining.remove(&from);
            hub.datagram(from, datagram, now, unix);
        }
        left += others;
        while left > 0
            && let Some((from, datagram)) = self.others.pop()
        {
            left = left.saturating_sub(cost(&datagram));
            hub.datagram(from, datagram, now, unix);
        }
        self.said.extend(std::iter::from_fn(|| hub.poll()));
    }
}

/// What a datagram is that is not relayed.
fn kind(datagram: &[u8]) -> Kind {
    match (datagram, datagram.len()) {
        ([4, 0, 0, 0, ..], DATA..) => Kind::Sealed,
        ([0x81, VERSION, ..], HELLO) => Kind::Hello,
        ([0x83, VERSION, ..], length) if (HEADER + COOKIE..=LONGEST).contains(&length) => {
            Kind::Join
        }
        ([1, 0, 0, 0, ..], INITIATION)
        | ([2, 0, 0, 0, ..], RESPONSE)
        | ([3, 0, 0, 0, ..], COOKIE_REPLY) => Kind::Handshake,
        _ => Kind::Nothing,
    }
}

/// What it costs to answer.
fn cost(datagram: &[u8]) -> usize {
    match kind(datagram) {
        Kind::Join | Kind::Handshake => DEAR,
        Kind::Sealed | Kind::Hello | Kind::Nothing => 1,
    }
}

/// Whose handshakes count together.
fn source(from: Origin) -> Origin {
    let Origin::Udp(address) = from else {
        return from;
    };
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into()),
    };
    Origin::Udp(SocketAddr::new(ip, 0))
}
