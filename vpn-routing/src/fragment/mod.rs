//! Which flow a fragment belongs to: fragments but the first have no ports and follow it. Pure.
//!
//! The first fragment of a datagram has the transport header. It finds its flow like any packet and
//! leaves here what became of it, under the datagram's addresses and identification; the others do
//! the same. Those that come before their first wait for it, a short time and in bounds:
//!
//! * [`FragmentLimits::datagrams`] at the same time, a quarter of them of one source, so that one
//!   sender cannot take the whole table;
//! * [`FragmentLimits::bytes`] of waiting fragments in all, and one datagram's worth (65,535) each;
//! * [`FragmentLimits::patience`] for each datagram.
//!
//! At a bound a fragment is dropped, and its datagram with it: nobody can put it together any more.
//!
//! On the wire two apps become one sender. Where two of their datagrams would then have the same
//! identification at the same time, the later one gets another (RFC 6864 §5.3).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use vpn_core::packet::Packet;
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
    order: VecDeque<(Stamp, Datagram)>,
    sources: HashMap<IpAddr, usize, RandomState>,
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
            order: VecDeque::new(),
            sources: HashMap::default(),
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
    pub(crate) fn later(&mut self, now: Stamp, datagram: Datagram, packet: &Packet) -> Later<W> {
        let room = self.bytes + packet.len() <= self.limits.bytes;
        let Some(entry) = self.entry(now, datagram) else {
            return Later::Drop(DropReason::Fragment);
        };
        match entry.fate {
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
                Later::Wait
            }
        }
    }

    /// The first fragment went this way: those that waited for it.
    pub(crate) fn follow(&mut self, now: Stamp, datagram: Datagram, way: W) -> Vec<Packet> {
        self.decided(now, datagram, Fate::Follows(way))
    }

    /// The first fragment was dropped: those that waited for it share its fate.
    pub(crate) fn give_up(
        &mut self,
        now: Stamp,
        datagram: Datagram,
        reason: DropReason,
    ) -> Vec<Packet> {
        self.decided(now, datagram, Fate::Dropped(reason))
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
        if let Some(entry) = self.entry(now, datagram) {
            entry.wire = Some(wire);
            self.wires.insert(wire, datagram);
        }
        wire.id
    }

    /// Takes out one datagram that took too long, with what still waits of it.
    pub(crate) fn expired(&mut self, now: Stamp) -> Option<(Option<TunnelId>, Vec<Packet>)> {
        let patience = self.limits.patience.as_millis() as Stamp;
        let &(since, datagram) = self.order.front()?;
        if now.wrapping_sub(since) < patience {
            return None;
        }
        self.order.pop_front();
        Some((datagram.from, self.remove(&datagram)))
    }

    /// Forgets what became of first fragments: rules changed since. Their others wait in vain.
    pub(crate) fn forget_ways(&mut self) {
        for entry in self.entries.values_mut() {
            if matches!(entry.fate, Fate::Follows(_)) {
                entry.fate = Fate::Dropped(DropReason::Fragment);
            }
        }
    }

    fn decided(&mut self, now: Stamp, datagram: Datagram, fate: Fate<W>) -> Vec<Packet> {
        let Some(entry) = self.entry(now, datagram) else {
            return Vec::new();
        };
        entry.fate = fate;
        let (waiting, bytes) = (std::mem::take(&mut entry.waiting), entry.bytes);
        entry.bytes = 0;
        self.packets -= waiting.len() as u64;
        self.bytes -= bytes;
        waiting
    }

    /// The entry of a datagram, made if there is room for it.
    fn entry(&mut self, now: Stamp, datagram: Datagram) -> Option<&mut Entry<W>> {
        if !self.entries.contains_key(&datagram) {
            let of_source = self.sources.get(&datagram.src).copied().unwrap_or(0);
            let most = (self.limits.datagrams / SOURCE_SHARE).max(1);
            if self.entries.len() >= self.limits.datagrams || of_source >= most {
                return None;
            }
            *self.sources.entry(datagram.src).or_default() += 1;
            self.order.push_back((now, datagram));
            self.entries.insert(
                datagram,
                Entry {
                    fate: Fate::Waiting,
                    waiting: Vec::new(),
                    bytes: 0,
                    wire: None,
                },
            );
        }
        self.entries.get_mut(&datagram)
    }

    fn remove(&mut self, datagram: &Datagram) -> Vec<Packet> {
        let Some(entry) = self.entries.remove(datagram) else {
            return Vec::new();
        };
        if let Some(count) = self.sources.get_mut(&datagram.src) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&datagram.src);
            }
        }
        if let Some(wire) = entry.wire
            && self.wires.get(&wire) == Some(datagram)
        {
            self.wires.remove(&wire);
        }
        self.packets -= entry.waiting.len() as u64;
        self.bytes -= entry.bytes;
        entry.waiting
    }
}

#[cfg(test)]
mod tests;
