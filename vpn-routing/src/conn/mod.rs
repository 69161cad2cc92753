//! The connection table: both directions of every flow, bounded, with a compiled decision each.
//!
//! A flow has two keys. The *device key* is the flow as the application's socket has it; the
//! *wire key* is the flow as the tunnel carries it, after translation. Outbound packets are found
//! by the device key; inbound packets by tunnel and reversed wire key, so that an answer counts
//! only when it comes back through the tunnel that owns the flow. Two tunnels that assigned the
//! identical address have equal wire keys and are still told apart.
//!
//! Entries live in a slab; two hash tables hold slab indices. Expiry is an incremental sweep: a
//! hand moves over the slab a few entries per batch, so no packet pays for a full scan. At the cap
//! a bounded search along the hand evicts the stalest entry that may go (half-open, closing or
//! connectionless and silent); if there is none the new flow is refused. An owner over its quota is
//! refused, so one app cannot push out another's flows.

mod timeouts;

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use vpn_core::packet::{Message, Rewrite, TcpMarks};
use vpn_core::{FlowKey, Generation, RuleId, TunnelId};

use crate::nat::MappingId;

pub use timeouts::{Phase, Timeouts};

/// Milliseconds since the router was made; wraps after 49 days, longer than any flow may idle.
pub type Stamp = u32;

/// Slab entries examined for an eviction before a new flow is refused. Bounds the worst insert.
const EVICTION_SCAN: usize = 64;

/// An evicted entry must have been silent this long, in milliseconds.
const EVICTION_MIN_IDLE: u32 = 1_000;

/// Where an entry is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId(u32);

/// Which application a flow is counted under; given by the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerSlot(pub u32);

/// Where the bytes of a flow are counted; given by the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UsageSlot(pub u32);

/// Who began a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// An application of this host, or one behind it.
    #[default]
    Device,
    /// Somebody behind the tunnel: an inbound rule admitted it.
    Tunnel,
}

/// What the answers on a flow are good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsFlow {
    /// They are no DNS in UDP.
    #[default]
    No,
    /// Queries to a resolver the application chose: answers pass, and what was asked for is
    /// learned.
    Chosen,
    /// Queries that were steered: an answer passes if it was asked for.
    Steered,
}

/// The translations of one flow, compiled when it is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Outbound source, and the inbound destination that undoes it.
    pub source: Option<(Rewrite, Rewrite)>,
    /// Outbound destination (DNS steering), and the inbound source that undoes it.
    pub destination: Option<(Rewrite, Rewrite)>,
}

/// One flow.
///
/// In order of use: what finds and admits an outbound packet is in the first cache line, what
/// translates a source in the second.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Conn {
    /// As the application's socket has it.
    pub device: FlowKey,
    /// When a packet of either direction was last seen.
    pub last_seen: Stamp,
    /// When an outbound packet was last seen: the owner may have changed since.
    pub last_outbound: Stamp,
    /// The rules its decision was made under.
    pub generation: Generation,
    /// Through which tunnel.
    pub tunnel: TunnelId,
    /// Where in its life the flow is.
    pub phase: Phase,
    /// Whether a packet of it came through its tunnel.
    pub answered: bool,
    /// Whether its datagrams are DNS queries.
    pub dns: DnsFlow,
    /// Who began it.
    pub origin: Origin,
    /// What leads from one key to the other.
    pub translation: Translation,
    /// Where the sender of outbound segments stands, for a RST that it believes; of TCP only.
    pub marks: TcpMarks,
    /// As the tunnel carries it, outbound.
    pub wire: FlowKey,
    /// The rule that decided; `None` for the default action.
    pub rule: Option<RuleId>,
    /// Which socket of the owner; 0 where that is not known.
    pub socket: u64,
    /// Whose flow.
    pub owner: OwnerSlot,
    /// Where its bytes are counted.
    pub usage: UsageSlot,
    /// The endpoint-independent mapping it counts in, where its protocol has them.
    pub mapping: Option<MappingId>,
}

impl Conn {
    /// A packet went out.
    #[inline]
    pub fn saw_outbound(&mut self, now: Stamp, message: Message) {
        self.last_seen = now;
        self.last_outbound = now;
        self.phase = self.phase.after(message, false);
    }

    /// An answer came in.
    #[inline]
    pub fn saw_inbound(&mut self, now: Stamp, message: Message) {
        self.last_seen = now;
        self.answered = true;
        self.phase = self.phase.after(message, true);
    }
}

/// Why a flow was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// The table is full, and no entry near the hand may be evicted.
    Full,
    /// The wire key is taken by another flow of the same tunnel.
    WireTaken,
}

/// A place in the slab: tag and first fields of the flow in one cache line. An `Option` would keep
/// its tag in whatever field has the most unused values, which is in the last line.
#[derive(Debug, Default)]
#[repr(u8, align(64))]
#[allow(
    clippy::large_enum_variant,
    reason = "a free place is there to be taken: a box would only add a hop"
)]
enum Slot {
    #[default]
    Free,
    Taken(Conn),
}

impl Slot {
    #[inline]
    const fn conn(&self) -> Option<&Conn> {
        match self {
            Self::Taken(conn) => Some(conn),
            Self::Free => None,
        }
    }

    #[inline]
    const fn conn_mut(&mut self) -> Option<&mut Conn> {
        match self {
            Self::Taken(conn) => Some(conn),
            Self::Free => None,
        }
    }

    fn take(&mut self) -> Option<Conn> {
        match std::mem::take(self) {
            Self::Taken(conn) => Some(conn),
            Self::Free => None,
        }
    }
}

/// A removed entry: its owner's count is the caller's to correct.
pub type Removed = Conn;

/// The table.
#[derive(Debug)]
pub struct ConnTable {
    slab: Vec<Slot>,
    free: Vec<u32>,
    by_device: HashTable<u32>,
    by_wire: HashTable<u32>,
    hasher: RandomState,
    max: usize,
    hand: usize,
    timeouts: Timeouts,
}

impl ConnTable {
    /// An empty table for up to `max` flows. Memory grows with use, up to the cap.
    pub fn new(max: usize, timeouts: Timeouts) -> Self {
        Self {
            slab: Vec::new(),
            free: Vec::new(),
            by_device: HashTable::new(),
            by_wire: HashTable::new(),
            hasher: RandomState::default(),
            max: max.clamp(1, u32::MAX as usize - 1),
            hand: 0,
            timeouts,
        }
    }

    /// How many flows.
    pub fn len(&self) -> usize {
        self.by_device.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_device.is_empty()
    }

    /// Whether a new flow needs the place of another.
    pub fn is_full(&self) -> bool {
        self.len() >= self.max
    }

    /// The flow with this device key.
    #[inline]
    pub fn find_outbound(&self, device: &FlowKey) -> Option<ConnId> {
        let slab = &self.slab;
        self.by_device
            .find(self.hash_device(device), |&i| {
                entry(slab, i).is_some_and(|c| c.device == *device)
            })
            .map(|&i| ConnId(i))
    }

    /// The flow of `tunnel` that an inbound packet with this key answers.
    #[inline]
    pub fn find_inbound(&self, tunnel: TunnelId, received: &FlowKey) -> Option<ConnId> {
        self.find_wire(tunnel, &received.reversed())
    }

    /// The flow of `tunnel` with this (outbound) wire key.
    #[inline]
    pub fn find_wire(&self, tunnel: TunnelId, wire: &FlowKey) -> Option<ConnId> {
        let slab = &self.slab;
        self.by_wire
            .find(self.hash_wire(tunnel, wire), |&i| {
                entry(slab, i).is_some_and(|c| c.wire == *wire && c.tunnel == tunnel)
            })
            .map(|&i| ConnId(i))
    }

    /// An entry.
    #[inline]
    pub fn get(&self, id: ConnId) -> Option<&Conn> {
        entry(&self.slab, id.0)
    }

    /// An entry, to be changed. Its keys and tunnel must stay as they are.
    #[inline]
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.slab.get_mut(id.0 as usize)?.conn_mut()
    }

    /// Enters a flow; an entry with the same device key is replaced.
    ///
    /// Returns the entry and those that had to go for it.
    ///
    /// # Errors
    ///
    /// [`InsertError::WireTaken`] if another flow of the tunnel has this wire key, and
    /// [`InsertError::Full`] at the cap; the table is then as before.
    pub fn insert(
        &mut self,
        conn: Conn,
        now: Stamp,
        removed: &mut Vec<Removed>,
    ) -> Result<ConnId, InsertError> {
        let same = self.find_outbound(&conn.device);
        match self.find_wire(conn.tunnel, &conn.wire) {
            Some(other) if Some(other) != same => return Err(InsertError::WireTaken),
            _ => {}
        }
        if let Some(old) = same {
            removed.extend(self.remove(old));
        } else if self.len() >= self.max {
            let victim = self.eviction_victim(now).ok_or(InsertError::Full)?;
            removed.extend(self.remove(victim));
        }
        let (device_hash, wire_hash) = (
            self.hash_device(&conn.device),
            self.hash_wire(conn.tunnel, &conn.wire),
        );
        let index = match self.free.pop() {
            Some(index) => {
                self.slab[index as usize] = Slot::Taken(conn);
                index
            }
            None => {
                // Doubled as usual, but never beyond the cap: entries are what memory goes to.
                if self.slab.len() == self.slab.capacity() {
                    let double = self.slab.len().max(EVICTION_SCAN);
                    let more = double.min(self.max.saturating_sub(self.slab.len())).max(1);
                    self.slab.reserve_exact(more);
                }
                self.slab.push(Slot::Taken(conn));
                (self.slab.len() - 1) as u32
            }
        };
        let (slab, hasher) = (&self.slab, &self.hasher);
        self.by_device.insert_unique(device_hash, index, |&i| {
            entry(slab, i).map_or(0, |c| hasher.hash_one(c.device))
        });
        self.by_wire.insert_unique(wire_hash, index, |&i| {
            entry(slab, i).map_or(0, |c| hasher.hash_one((c.tunnel, c.wire)))
        });
        Ok(ConnId(index))
    }

    /// Removes an entry.
    pub fn remove(&mut self, id: ConnId) -> Option<Removed> {
        let conn = self.slab.get_mut(id.0 as usize)?.take()?;
        let (device_hash, wire_hash) = (
            self.hash_device(&conn.device),
            self.hash_wire(conn.tunnel, &conn.wire),
        );
        for (table, hash) in [
            (&mut self.by_device, device_hash),
            (&mut self.by_wire, wire_hash),
        ] {
            if let Ok(found) = table.find_entry(hash, |&i| i == id.0) {
                found.remove();
            }
        }
        self.free.push(id.0);
        Some(conn)
    }

    /// Removes every entry that `gone` says.
    pub fn remove_where(&mut self, removed: &mut Vec<Removed>, gone: impl Fn(&Conn) -> bool) {
        for index in 0..self.slab.len() as u32 {
            if entry(&self.slab, index).is_some_and(&gone) {
                removed.extend(self.remove(ConnId(index)));
            }
        }
    }

    /// Moves the hand over up to `steps` entries, removes those that have expired and shows the
    /// others to `lives`.
    #[inline]
    pub fn sweep(
        &mut self,
        now: Stamp,
        steps: usize,
        removed: &mut Vec<Removed>,
        mut lives: impl FnMut(&Conn),
    ) {
        for _ in 0..steps.min(self.slab.len()) {
            self.hand = if self.hand + 1 < self.slab.len() {
                self.hand + 1
            } else {
                0
            };
            let Some(conn) = self.slab[self.hand].conn() else {
                continue;
            };
            if now.wrapping_sub(conn.last_seen) >= self.timeouts.of(conn.phase) {
                removed.extend(self.remove(ConnId(self.hand as u32)));
            } else {
                lives(conn);
            }
        }
    }

    /// The entry in this slot of [`slots`](Self::slots), if it is taken.
    pub fn in_slot(&self, slot: usize) -> Option<ConnId> {
        let index = u32::try_from(slot).ok()?;
        entry(&self.slab, index).map(|_| ConnId(index))
    }

    /// Slots the sweep has to visit for one full round.
    pub fn slots(&self) -> usize {
        self.slab.len()
    }

    /// Every flow.
    pub fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.slab.iter().filter_map(Slot::conn)
    }

    /// The stalest of the next few entries that may be evicted.
    fn eviction_victim(&mut self, now: Stamp) -> Option<ConnId> {
        let mut best: Option<(u32, usize)> = None;
        for _ in 0..EVICTION_SCAN.min(self.slab.len()) {
            self.hand = if self.hand + 1 < self.slab.len() {
                self.hand + 1
            } else {
                0
            };
            let Some(conn) = self.slab[self.hand].conn() else {
                continue;
            };
            let idle = now.wrapping_sub(conn.last_seen);
            let expired = idle >= self.timeouts.of(conn.phase);
            if (expired || (conn.phase.may_be_evicted() && idle >= EVICTION_MIN_IDLE))
                && best.is_none_or(|(stalest, _)| idle > stalest)
            {
                best = Some((idle, self.hand));
            }
        }
        best.map(|(_, index)| ConnId(index as u32))
    }

    #[inline]
    fn hash_device(&self, key: &FlowKey) -> u64 {
        self.hasher.hash_one(*key)
    }

    #[inline]
    fn hash_wire(&self, tunnel: TunnelId, key: &FlowKey) -> u64 {
        self.hasher.hash_one((tunnel, *key))
    }
}

#[inline]
fn entry(slab: &[Slot], index: u32) -> Option<&Conn> {
    slab.get(index as usize)?.conn()
}

#[cfg(test)]
mod tests;
