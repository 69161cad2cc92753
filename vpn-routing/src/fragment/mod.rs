//! Which flow a fragment belongs to: fragments but the first have no ports and follow it. Pure.
//!
//! The first fragment of a datagram has the transport header. It finds its flow like any packet and
//! leaves here what became of it, under the datagram's addresses and identification; the others do
//! the same. Those that come before their first wait for it, a short time and in bounds:
//!
//! * [`FragmentLimits::datagrams`] at the same time, a quarter of them of one source, so that one
//!   sender cannot take the whole table: beyond, the oldest makes room;
//! * [`FragmentLimits::bytes`] of waiting fragments in all, and one datagram's worth (65,535) each:
//!   beyond, a fragment is dropped and its datagram with it, for nobody can put that together;
//! * [`FragmentLimits::patience`] for each datagram.
//!
//! A datagram whose bytes have all passed is forgotten at once: the bounds are about datagrams that
//! are under way, and its identification may come again.
//!
//! On the wire two apps become one sender. Where two of their datagrams would then have the same
//! identification at the same time, the later one gets another (RFC 6864 §5.3).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use vpn_core::packet::{Fragment, Packet};
use vpn_core::{DropReason, Family, FlowKey, TunnelId};

use crate::conn::Stamp;

/// Bytes of waiting fragments of one datagram: it has no more (RFC 791 §3.1).
const DATAGRAM_BYTES: usize = 65_535;

/// One source may have this share of all datagrams under way.
const SOURCE_SHARE: usize = 4;

/// Identifications tried for a datagram that collides; after that it keeps its own.
const ID_TRIES: u32 = 64;

/// How much is remembered of datagrams that come in fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentLimits {
    /// Datagrams at the same time. Default 1,024.
    pub datagrams: usize,
    /// Bytes of fragments that wait for their first. Default 512 KiB.
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
    /// Those of each source, in the same order.
    sources: HashMap<IpAddr, BTreeSet<u64>, RandomState>,
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
            sources: HashMap::default(),
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
        let room = self.bytes + packet.len() <= self.limits.bytes;
        let entry = self.entry(now, datagram);
        entry.see(piece);
        let complete = entry.is_complete();
        let later = match entry.fate {
            Fate::Follows(way) => Later::Follow(way),
            Fate::Dropped(reason) => Later::Drop(reason),
            Fate::Waiting if !room || entry.bytes + packet.len() > DATAGRAM_BYTES => {
                entry.fate = Fate::Dropped(DropReason::Fragment);
                Later::Drop(DropReason::Fragment)
            }
            Fate::Waiting => {
                entry.bytes += packet.len();
                entry.waiting.push(packet.shrunk());
                self.bytes += packet.len();
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
        self.entry(now, datagram).wire = Some(wire);
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

    /// Forgets what became of first fragments: rules changed since. Their others wait in vain.
    pub(crate) fn forget_ways(&mut self) {
        for entry in self.entries.values_mut() {
            if matches!(entry.fate, Fate::Follows(_)) {
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
        let entry = self.entry(now, datagram);
        entry.fate = fate;
        entry.see(piece);
        let complete = entry.is_complete();
        let (waiting, bytes) = (std::mem::take(&mut entry.waiting), entry.bytes);
        entry.bytes = 0;
        self.packets -= waiting.len() as u64;
        self.bytes -= bytes;
        if complete {
            self.end(&datagram);
        }
        waiting
    }

    /// The entry of a datagram; one that is made takes the room of the oldest where there is none.
    fn entry(&mut self, now: Stamp, datagram: Datagram) -> &mut Entry<W> {
        if !self.entries.contains_key(&datagram) {
            self.make_room(datagram.src);
            self.began += 1;
            self.order.insert(self.began, (now, datagram));
            let of_source = self.sources.entry(datagram.src).or_default();
            of_source.insert(self.began);
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

    fn make_room(&mut self, source: IpAddr) {
        let share = (self.limits.datagrams / SOURCE_SHARE).max(1);
        let of_source = self.sources.get(&source);
        let oldest = match of_source {
            Some(of_source) if of_source.len() >= share => of_source.first(),
            _ if self.entries.len() >= self.limits.datagrams => self.order.keys().next(),
            _ => None,
        };
        if let Some((_, datagram)) = oldest.and_then(|began| self.order.get(began)).copied() {
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
        if let Some(of_source) = self.sources.get_mut(&datagram.src) {
            of_source.remove(&entry.began);
            if of_source.is_empty() {
                self.sources.remove(&datagram.src);
            }
        }
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
