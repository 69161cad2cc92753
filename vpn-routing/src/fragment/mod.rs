//! Which flow a fragment belongs to: fragments but the first have no ports and follow it. Pure.
//!
//! The first fragment of a datagram has the transport header. It finds its flow like any packet and
//! leaves here what became of it, under the datagram's addresses and identification; the others do
//! the same. Those that come before their first wait for it, a short time and in bounds:
//!
//! * [`FragmentLimits::datagrams`] at the same time, a quarter of them of one source: beyond, the
//!   oldest makes room, of that source or of the tunnel that has most, so that nobody can take the
//!   whole table;
//! * [`FragmentLimits::bytes`] of waiting fragments in all, and one datagram's worth (65,535) each:
//!   beyond, what waits of a tunnel that has more makes room, or else a fragment is dropped and its
//!   datagram with it, for nobody can put that together;
//! * [`FragmentLimits::patience`] for each datagram.
//!
//! A datagram whose bytes have all passed is forgotten at once: the bounds are about datagrams that
//! are under way, and its identification may come again. So it may where something was lost: a first
//! fragment begins another datagram (RFC 4963).
//!
//! On the wire two apps become one sender. Where two of their datagrams would then have the same
//! identification at the same time, the later one gets another (RFC 6864 §5.3).

mod shares;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use vpn_core::packet::{Fragment, HEADROOM, Packet, TAILROOM};
use vpn_core::{DropReason, Family, FlowKey, TunnelId};

use crate::conn::Stamp;
use shares::Shares;

/// Bytes of payload of one datagram: it has no more (RFC 791 §3.1).
const DATAGRAM_BYTES: u32 = 65_535;

/// What a fragment that waits costs besides its bytes: small ones are mostly that.
const BUFFER_BYTES: usize = HEADROOM + TAILROOM + size_of::<Packet>();

/// Identifications tried for a datagram that collides; after that it keeps its own.
const ID_TRIES: u32 = 64;

/// How much is remembered of datagrams that come in fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentLimits {
    /// Datagrams at the same time. Default 1,024.
    pub datagrams: usize,
    /// Bytes of fragments that wait for their first, buffers included. Default 512 KiB.
    pub bytes: usize,
    /// How long a datagram may take, from its first fragment seen. Default 15 s, the least that
    /// RFC 791 §3.2 recommends.
    pub patience: Duration,
}

impl Default for FragmentLimits {
    fn default() -> Self {
        Self {
            datagrams: 1024,
            bytes: 512 << 10,
            patience: Duration::from_secs(15),
        }
    }
}

/// One datagram, where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Datagram {
    /// The tunnel; `None` is the device.
    pub(crate) from: Option<TunnelId>,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// The protocol. 0 in IPv6, where it is not part of the identity (RFC 8200 §4.5).
    pub(crate) protocol: u8,
    pub(crate) id: u32,
}

impl Datagram {
    pub(crate) fn new(from: Option<TunnelId>, flow: &FlowKey, id: u32) -> Self {
        Self {
            from,
            src: flow.src(),
            dst: flow.dst(),
            protocol: match flow.family() {
                Family::V4 => flow.protocol().0,
                Family::V6 => 0,
            },
            id,
        }
    }
}

/// What became of a first fragment, and becomes of the others.
#[derive(Clone, Copy, Debug)]
enum Fate<W> {
    /// It was not seen yet.
    Waiting,
    Follows(W),
    Dropped(DropReason),
}

#[derive(Debug)]
struct Entry<W> {
    fate: Fate<W>,
    waiting: Vec<Packet>,
    /// What those cost.
    bytes: usize,
    /// The datagram it is on the wire, if that is known.
    wire: Option<Datagram>,
    /// Its place among all that began.
    began: u64,
    /// Bytes of payload seen, and how many there are, which its last fragment tells.
    seen: u32,
    whole: Option<u32>,
}

impl<W> Entry<W> {
    fn see(&mut self, piece: &Fragment) {
        self.seen = self.seen.saturating_add(piece.length.into());
        if !piece.more {
            self.whole = Some(u32::from(piece.offset) + u32::from(piece.length));
        }
    }

    fn is_complete(&self) -> bool {
        self.whole.is_some_and(|whole| self.seen >= whole)
    }
}

/// What a fragment that is not the first has to do.
#[derive(Debug)]
pub(crate) enum Later<W> {
    /// Go where the first went.
    Follow(W),
    /// Wait for the first: a copy is kept.
    Wait,
    Drop(DropReason),
}

/// Datagrams under way; `W` is the way of a datagram.
#[derive(Debug)]
pub(crate) struct Fragments<W> {
    entries: HashMap<Datagram, Entry<W>, RandomState>,
    /// In the order they began, so that the first is the first to expire.
    order: BTreeMap<u64, (Stamp, Datagram)>,
    shares: Shares,
    /// How many began.
    began: u64,
    /// Where datagrams came from that made room for others, and how many fragments of them waited.
    evicted: Vec<(Option<TunnelId>, u64)>,
    /// Which datagram has an identification on the wire.
    wires: HashMap<Datagram, Datagram, RandomState>,
    packets: u64,
    bytes: usize,
    limits: FragmentLimits,
}

impl<W: Copy> Fragments<W> {
    pub(crate) fn new(limits: FragmentLimits) -> Self {
        Self {
            entries: HashMap::default(),
            order: BTreeMap::new(),
            shares: Shares::default(),
            began: 0,
            evicted: Vec::new(),
            wires: HashMap::default(),
            packets: 0,
            bytes: 0,
            limits,
        }
    }

    /// Fragments that wait.
    pub(crate) const fn packets(&self) -> u64 {
        self.packets
    }

    /// A fragment that is not the first.
    pub(crate) fn later(
        &mut self,
        now: Stamp,
        datagram: Datagram,
        piece: &Fragment,
        packet: &Packet,
    ) -> Later<W> {
        let cost = packet.len() + BUFFER_BYTES;
        let waits = |entry: &Entry<W>| matches!(entry.fate, Fate::Waiting);
        let room =
            !self.entries.get(&datagram).is_none_or(waits) || self.room_for(datagram.from, cost);
        let entry = self.entry(now, datagram);
        entry.see(piece);
        let complete = entry.is_complete();
        let later = match entry.fate {
            Fate::Follows(way) => Later::Follow(way),
            Fate::Dropped(reason) => Later::Drop(reason),
            Fate::Waiting if !room || entry.seen > DATAGRAM_BYTES => {
                entry.fate = Fate::Dropped(DropReason::Fragment);
                Later::Drop(DropReason::Fragment)
            }
            Fate::Waiting => {
                entry.bytes += cost;
                entry.waiting.push(packet.shrunk());
                self.bytes += cost;
                self.shares.wait(datagram.from, cost);
                self.packets += 1;
                return Later::Wait;
            }
        };
        if complete {
            self.end(&datagram);
        }
        later
    }

    /// The first fragment went this way: those that waited for it.
    pub(crate) fn follow(
        &mut self,
        now: Stamp,
        datagram: Datagram,
        piece: &Fragment,
        way: W,
    ) -> Vec<Packet> {
        self.decided(now, datagram, piece, Fate::Follows(way))
    }

    /// The first fragment was dropped: those that waited for it share its fate.
    pub(crate) fn give_up(
        &mut self,
        now: Stamp,
        datagram: Datagram,
        piece: &Fragment,
        reason: DropReason,
    ) -> Vec<Packet> {
        self.decided(now, datagram, piece, Fate::Dropped(reason))
    }

    /// What follows a datagram's first fragment has no use any more.
    pub(crate) fn revoke(&mut self, datagram: &Datagram, reason: DropReason) {
        if let Some(entry) = self.entries.get_mut(datagram) {
            entry.fate = Fate::Dropped(reason);
        }
    }

    /// An identification for a datagram on the wire: its own, or another if a datagram of somebody
    /// else has that there.
    pub(crate) fn id_on_wire(&mut self, now: Stamp, datagram: Datagram, wanted: Datagram) -> u32 {
        let widest = if wanted.src.is_ipv4() {
            0xffff
        } else {
            u32::MAX
        };
        let tries = (0..ID_TRIES).map(|step| Datagram {
            // A large odd step: not the next one, which that sender will use next.
            id: wanted.id.wrapping_add(step.wrapping_mul(0x9e37_79b1)) & widest,
            ..wanted
        });
        let free = |wire: &Datagram| self.wires.get(wire).is_none_or(|by| *by == datagram);
        let mut tries = tries;
        let wire = tries.find(free).unwrap_or(wanted);
        self.first(now, datagram).wire = Some(wire);
        self.wires.insert(wire, datagram);
        wire.id
    }

    /// A datagram that took too long or made room: where it came from, and how many fragments of it
    /// waited.
    pub(crate) fn expired(&mut self, now: Stamp) -> Option<(Option<TunnelId>, u64)> {
        let gone = self.evicted.pop().or_else(|| {
            let patience = self.limits.patience.as_millis() as Stamp;
            let &(since, datagram) = self.order.first_key_value()?.1;
            let late = now.wrapping_sub(since) >= patience;
            late.then(|| (datagram.from, self.remove(&datagram)))
        })?;
        self.packets -= gone.1;
        Some(gone)
    }

    /// Forgets the ways of first fragments that are `gone`: their others wait in vain.
    pub(crate) fn forget_ways(&mut self, gone: impl Fn(&W) -> bool) {
        for entry in self.entries.values_mut() {
            if matches!(&entry.fate, Fate::Follows(way) if gone(way)) {
                entry.fate = Fate::Dropped(DropReason::Fragment);
            }
        }
    }

    fn decided(
        &mut self,
        now: Stamp,
        datagram: Datagram,
        piece: &Fragment,
        fate: Fate<W>,
    ) -> Vec<Packet> {
        let entry = self.first(now, datagram);
        entry.fate = fate;
        entry.see(piece);
        let complete = entry.is_complete();
        let (waiting, bytes) = (std::mem::take(&mut entry.waiting), entry.bytes);
        entry.bytes = 0;
        self.packets -= waiting.len() as u64;
        self.bytes -= bytes;
        self.shares.go_on(datagram.from, bytes);
        if complete {
            self.end(&datagram);
        }
        waiting
    }

    /// The entry of a datagram whose first fragment is here. If it had one, this is another
    /// datagram, and what is left of that one is of no use.
    fn first(&mut self, now: Stamp, datagram: Datagram) -> &mut Entry<W> {
        let entry = self.entries.get(&datagram);
        if entry.is_some_and(|entry| !matches!(entry.fate, Fate::Waiting)) {
            self.end(&datagram);
        }
        self.entry(now, datagram)
    }

    /// The entry of a datagram; one that is made takes the room of the oldest where there is none.
    fn entry(&mut self, now: Stamp, datagram: Datagram) -> &mut Entry<W> {
        if !self.entries.contains_key(&datagram) {
            let (count, most) = (self.entries.len(), self.limits.datagrams);
            let oldest = self.shares.in_the_way(&datagram, count, most);
            self.end_of(oldest);
            self.began += 1;
            self.order.insert(self.began, (now, datagram));
            self.shares.begin(&datagram, self.began);
        }
        let began = self.began;
        self.entries.entry(datagram).or_insert(Entry {
            fate: Fate::Waiting,
            waiting: Vec::new(),
            bytes: 0,
            wire: None,
            began,
            seen: 0,
            whole: None,
        })
    }

    /// Whether something may wait, at the cost of an origin that has more.
    fn room_for(&mut self, from: Option<TunnelId>, cost: usize) -> bool {
        while self.bytes + cost > self.limits.bytes {
            let Some(oldest) = self.shares.heavier_than(from, cost) else {
                return false;
            };
            self.end_of(Some(oldest));
        }
        true
    }

    fn end_of(&mut self, began: Option<u64>) {
        if let Some((_, datagram)) = began.and_then(|began| self.order.get(&began)).copied() {
            self.end(&datagram);
        }
    }

    /// Forgets a datagram; what waits of it is counted with the [`expired`](Self::expired).
    fn end(&mut self, datagram: &Datagram) {
        let waiting = self.remove(datagram);
        if waiting != 0 {
            self.evicted.push((datagram.from, waiting));
        }
    }

    /// Forgets a datagram. Returns how many fragments waited; `packets` still counts them.
    fn remove(&mut self, datagram: &Datagram) -> u64 {
        let Some(entry) = self.entries.remove(datagram) else {
            return 0;
        };
        self.order.remove(&entry.began);
        self.shares.end(datagram, entry.began, entry.bytes);
        if let Some(wire) = entry.wire
            && self.wires.get(&wire) == Some(datagram)
        {
            self.wires.remove(&wire);
        }
        self.bytes -= entry.bytes;
        entry.waiting.len() as u64
    }
}

#[cfg(test)]
mod tests;
