//! The connection table: both directions of every flow, bounded, with a compiled decision each.
//!
//! A flow has two keys. The *device key* is the flow as the application's socket has it; the
//! *wire key* is the flow as the tunnel carries it, after translation. Outbound packets are found
//! by the device key; inbound packets by tunnel and reversed wire key, so that an answer counts
//! only when it comes back through the tunnel that owns the flow. Two tunnels that assigned the
//! identical address have equal wire keys and are still told apart.
//!
//! Entries live in slabs, one per family: a flow of IPv4 is one cache line, one of IPv6 is two, and
//! what a packet needs of it is in the first. Two hash tables hold places in the slabs, five bytes
//! each. Nothing that is in memory moves when flows become more. Expiry is an incremental sweep: a
//! hand moves over the slabs a few entries per second, so no packet pays for a full scan. At the cap
//! a bounded search along the hand evicts the stalest entry that may go (half-open, closing or
//! connectionless and silent); if there is none the new flow is refused. An owner over its quota is
//! refused, so one app cannot push out another's flows.

mod expiry;
mod flow;
mod record;
mod slab;
mod timeouts;

use std::hash::{BuildHasher, Hash, Hasher};
use std::hint::black_box;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use vpn_core::{Family, FlowKey, TunnelId};

use record::V6;
use slab::Slab;

pub use flow::{Conn, DnsFlow, Origin, OwnerSlot, Socket, UsageSlot};
pub(crate) use record::{Addresses, Record, State, V4};
pub use timeouts::{Phase, Timeouts};

/// Milliseconds since the router was made; wraps after 49 days, longer than any flow may idle.
pub type Stamp = u32;

/// Flows that the indices have room for from the start. Beyond it they grow as hash tables do, at
/// once and for milliseconds.
const ROOM: usize = 1 << 20;

/// Entries fetched at once.
pub(crate) const FETCHED: usize = 32;

/// Where an entry is in the table: a place among those of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId(u32);

impl ConnId {
    /// Set in the places of IPv6.
    const V6: u32 = 1 << 31;

    #[inline(always)]
    const fn of_v4(self) -> Option<u32> {
        if self.0 < Self::V6 {
            Some(self.0)
        } else {
            None
        }
    }

    #[inline(always)]
    const fn of_v6(self) -> Option<u32> {
        self.0.checked_sub(Self::V6)
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

/// A removed entry: its owner's count is the caller's to correct.
pub type Removed = Conn;

/// The table.
#[derive(Debug)]
pub struct ConnTable {
    v4: Slab<V4>,
    v6: Slab<V6>,
    /// Places of both families: see [`ConnId`].
    by_device: HashTable<u32>,
    by_wire: HashTable<u32>,
    hasher: RandomState,
    max: usize,
    hand: usize,
    timeouts: Timeouts,
}

/// An entry where it is, of either family.
pub(crate) enum RecordMut<'a> {
    V4(&'a mut Record<V4>),
    V6(&'a mut Record<V6>),
}

impl ConnTable {
    /// An empty table for up to `max` flows. The indices have room for that many from the start,
    /// up to a million; the flows themselves take memory as they come.
    pub fn new(max: usize, timeouts: Timeouts) -> Self {
        let max = max.clamp(1, ConnId::V6 as usize - 1);
        let room = max.min(ROOM);
        // A fifth is left free, or removed entries would fill the index up and have it made anew.
        let index = || HashTable::with_capacity(room + room / 4);
        Self {
            v4: Slab::new(max),
            v6: Slab::new(max),
            by_device: index(),
            by_wire: index(),
            hasher: RandomState::default(),
            max,
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

    /// The hash of a key, for [`find_device`](Self::find_device) and [`find_hashed`](Self::find_hashed).
    #[inline(always)]
    #[allow(
        clippy::manual_hash_one,
        reason = "that is not always inlined, and costs every packet a call"
    )]
    pub(crate) fn hash(&self, key: &FlowKey) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        key.hash(&mut hasher);
        hasher.finish()
    }

    /// The flow with this device key.
    #[inline(always)]
    pub fn find_outbound(&self, device: &FlowKey) -> Option<ConnId> {
        self.find_device(self.hash(device), device)
    }

    /// The flow of `tunnel` that an inbound packet with this key answers.
    #[inline(always)]
    pub fn find_inbound(&self, tunnel: TunnelId, received: &FlowKey) -> Option<ConnId> {
        self.find_wire(tunnel, &received.reversed())
    }

    /// The flow of `tunnel` with this (outbound) wire key.
    #[inline(always)]
    pub fn find_wire(&self, tunnel: TunnelId, wire: &FlowKey) -> Option<ConnId> {
        self.find_hashed(self.hash(wire), tunnel, wire)
    }

    /// As [`find_outbound`](Self::find_outbound), with the key's hash.
    #[inline(always)]
    pub(crate) fn find_device(&self, hash: u64, device: &FlowKey) -> Option<ConnId> {
        let found = match device.family() {
            Family::V4 => self.by_device.find(hash, |&place| {
                let record = ConnId(place).of_v4().and_then(|index| self.v4.get(index));
                record.is_some_and(|record| record.is_device(device))
            }),
            Family::V6 => self.by_device.find(hash, |&place| {
                let record = ConnId(place).of_v6().and_then(|index| self.v6.get(index));
                record.is_some_and(|record| record.is_device(device))
            }),
        };
        found.map(|&place| ConnId(place))
    }

    /// As [`find_wire`](Self::find_wire), with the key's hash.
    #[inline(always)]
    pub(crate) fn find_hashed(
        &self,
        hash: u64,
        tunnel: TunnelId,
        wire: &FlowKey,
    ) -> Option<ConnId> {
        let hash = in_tunnel(hash, tunnel);
        let found = match wire.family() {
            Family::V4 => self.by_wire.find(hash, |&place| {
                let record = ConnId(place).of_v4().and_then(|index| self.v4.get(index));
                record.is_some_and(|record| record.is_wire(tunnel, wire))
            }),
            Family::V6 => self.by_wire.find(hash, |&place| {
                let record = ConnId(place).of_v6().and_then(|index| self.v6.get(index));
                record.is_some_and(|record| record.is_wire(tunnel, wire))
            }),
        };
        found.map(|&place| ConnId(place))
    }

    /// Has the entries of device keys with these hashes loaded, as far as the index tells, all at
    /// once: who asks for one of them later does not wait.
    pub(crate) fn fetch_devices(&self, hashes: impl Iterator<Item = u64>) {
        self.fetch(&self.by_device, hashes);
    }

    /// The same for wire keys in a tunnel.
    pub(crate) fn fetch_wires(&self, tunnel: TunnelId, hashes: impl Iterator<Item = u64>) {
        self.fetch(&self.by_wire, hashes.map(|hash| in_tunnel(hash, tunnel)));
    }

    fn fetch(&self, index: &HashTable<u32>, hashes: impl Iterator<Item = u64>) {
        let mut list = [0; FETCHED];
        let mut found = 0;
        for (at, hash) in list.iter_mut().zip(hashes) {
            *at = hash;
            found += 1;
        }
        let mut places = [0; FETCHED];
        // The first place under a hash is the right one, nearly always. No entry is touched here:
        // so nothing waits for one, and the processor looks far ahead.
        for (place, &hash) in places.iter_mut().zip(&list[..found]) {
            *place = index.find(hash, |_| true).copied().unwrap_or(0);
        }
        let loaded = places[..found].iter().fold(0, |sum, &place| {
            let id = ConnId(place);
            let state = match id.of_v4() {
                Some(index) => self.v4.get(index).map(Record::state),
                None => id.of_v6().and_then(|i| self.v6.get(i)).map(Record::state),
            };
            sum ^ state.map_or(0, State::bits)
        });
        black_box(loaded);
    }

    /// An entry.
    #[inline]
    pub fn get(&self, id: ConnId) -> Option<Conn> {
        match id.of_v4() {
            Some(index) => self.v4.get(index)?.conn(),
            None => self.v6.get(id.of_v6()?)?.conn(),
        }
    }

    /// As [`find_outbound`](Self::find_outbound), for a key that is known to be of IPv4.
    #[inline(always)]
    pub(crate) fn find_v4(&self, device: &FlowKey) -> Option<u32> {
        // A place of IPv6 is beyond all of IPv4.
        let is = |&place: &u32| self.v4.get(place).is_some_and(|r| r.is_device(device));
        self.by_device.find(self.hash(device), is).copied()
    }

    /// As [`find_wire`](Self::find_wire), for a key that is known to be of IPv4.
    #[inline(always)]
    pub(crate) fn find_wire_v4(&self, tunnel: TunnelId, wire: &FlowKey) -> Option<u32> {
        let is = |&place: &u32| self.v4.get(place).is_some_and(|r| r.is_wire(tunnel, wire));
        let hash = in_tunnel(self.hash(wire), tunnel);
        self.by_wire.find(hash, is).copied()
    }

    /// An entry of IPv4 where it is.
    #[inline(always)]
    pub(crate) fn v4(&mut self, place: u32) -> Option<&mut Record<V4>> {
        self.v4.get_mut(place)
    }

    /// An entry where it is.
    #[inline(always)]
    pub(crate) fn record(&mut self, id: ConnId) -> Option<RecordMut<'_>> {
        Some(match id.of_v4() {
            Some(index) => RecordMut::V4(self.v4.get_mut(index)?),
            None => RecordMut::V6(self.v6.get_mut(id.of_v6()?)?),
        })
    }

    /// Changes an entry and returns what `change` does; its keys and tunnel stay as they are.
    pub fn change<T>(&mut self, id: ConnId, change: impl FnOnce(&mut Conn) -> T) -> Option<T> {
        let mut conn = self.get(id)?;
        let result = change(&mut conn);
        match self.record(id)? {
            RecordMut::V4(record) => record.change(&conn),
            RecordMut::V6(record) => record.change(&conn),
        }
        Some(result)
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
        let (device_hash, wire_hash) = (self.hash(&conn.device), self.hash(&conn.wire));
        let same = self.find_device(device_hash, &conn.device);
        match self.find_hashed(wire_hash, conn.tunnel, &conn.wire) {
            Some(other) if Some(other) != same => return Err(InsertError::WireTaken),
            _ => {}
        }
        if let Some(old) = same {
            removed.extend(self.remove(old));
        } else if self.len() >= self.max {
            let victim = self.eviction_victim(now).ok_or(InsertError::Full)?;
            removed.extend(self.remove(victim));
        }
        let id = match conn.device.family() {
            Family::V4 => ConnId(self.v4.insert(&conn)),
            Family::V6 => ConnId(self.v6.insert(&conn) | ConnId::V6),
        };
        let keys = Keys {
            v4: &self.v4,
            v6: &self.v6,
            hasher: &self.hasher,
        };
        let wire_hash = in_tunnel(wire_hash, conn.tunnel);
        self.by_device
            .insert_unique(device_hash, id.0, |&place| keys.device(ConnId(place)));
        self.by_wire
            .insert_unique(wire_hash, id.0, |&place| keys.wire(ConnId(place)));
        Ok(id)
    }

    /// Removes an entry.
    pub fn remove(&mut self, id: ConnId) -> Option<Removed> {
        let conn = match id.of_v4() {
            Some(index) => self.v4.remove(index)?,
            None => self.v6.remove(id.of_v6()?)?,
        };
        let device_hash = self.hash(&conn.device);
        let wire_hash = in_tunnel(self.hash(&conn.wire), conn.tunnel);
        for (table, hash) in [
            (&mut self.by_device, device_hash),
            (&mut self.by_wire, wire_hash),
        ] {
            if let Ok(found) = table.find_entry(hash, |&place| place == id.0) {
                found.remove();
            }
        }
        Some(conn)
    }

    /// Removes every entry that `gone` says.
    pub fn remove_where(&mut self, removed: &mut Vec<Removed>, gone: impl Fn(&Conn) -> bool) {
        for slot in 0..self.slots() {
            if let Some(id) = self.in_slot(slot)
                && self.get(id).is_some_and(|conn| gone(&conn))
            {
                removed.extend(self.remove(id));
            }
        }
    }
}

/// The hash of a wire key in its tunnel: identical addresses of two tunnels are equal keys.
#[inline(always)]
const fn in_tunnel(hash: u64, tunnel: TunnelId) -> u64 {
    // The golden ratio: neighbours are far apart, in the high bits and in the low ones.
    hash.wrapping_add((tunnel.index() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Hashes of entries, for an index that is made anew.
struct Keys<'a> {
    v4: &'a Slab<V4>,
    v6: &'a Slab<V6>,
    hasher: &'a RandomState,
}

impl Keys<'_> {
    fn device(&self, id: ConnId) -> u64 {
        let key = match id.of_v4() {
            Some(index) => self.v4.get(index).map(Record::device),
            None => id.of_v6().and_then(|i| self.v6.get(i)).map(Record::device),
        };
        key.map_or(0, |key| self.hasher.hash_one(key))
    }

    fn wire(&self, id: ConnId) -> u64 {
        let found = match id.of_v4() {
            Some(index) => self.v4.get(index).map(|r| (r.tunnel(), r.wire())),
            None => {
                let record = id.of_v6().and_then(|i| self.v6.get(i));
                record.map(|r| (r.tunnel(), r.wire()))
            }
        };
        found.map_or(0, |(tunnel, key)| {
            in_tunnel(self.hasher.hash_one(key), tunnel)
        })
    }
}

#[cfg(test)]
mod tests;
