//! Which flows end by time, and which makes room: a hand that moves over the slabs.

use std::net::IpAddr;

use vpn_core::TunnelId;

use super::{Conn, ConnId, ConnTable, Phase, RecordMut, Removed, Stamp};

/// Slab entries examined for an eviction before a new flow is refused. Bounds the worst insert.
const EVICTION_SCAN: usize = 64;

/// An evicted entry must have been silent this long, in milliseconds.
const EVICTION_MIN_IDLE: u32 = 1_000;

impl ConnTable {
    /// Moves the hand over up to `steps` entries, removes those that have expired and shows the
    /// tunnels and destinations of the others to `lives`.
    #[inline]
    pub fn sweep(
        &mut self,
        now: Stamp,
        steps: usize,
        removed: &mut Vec<Removed>,
        mut lives: impl FnMut(TunnelId, IpAddr),
    ) {
        for _ in 0..steps.min(self.slots()) {
            let Some((id, idle, phase)) = self.next_by_hand(now) else {
                continue;
            };
            if idle >= self.timeouts.of(phase) {
                removed.extend(self.remove(id));
            } else {
                match self.record(id) {
                    Some(RecordMut::V4(record)) => lives(record.tunnel(), record.device().dst()),
                    Some(RecordMut::V6(record)) => lives(record.tunnel(), record.device().dst()),
                    None => {}
                }
            }
        }
    }

    /// The entry in this slot of [`slots`](Self::slots), if it is taken.
    pub fn in_slot(&self, slot: usize) -> Option<ConnId> {
        let id = self.id_of(slot)?;
        self.brief(id).map(|_| id)
    }

    /// Slots the sweep has to visit for one full round. As they become more, one that was visited
    /// may be met again under another number, and none is left out.
    pub fn slots(&self) -> usize {
        self.v4.len() as usize + self.v6.len() as usize
    }

    /// Every flow.
    pub fn iter(&self) -> impl Iterator<Item = Conn> {
        (0..self.slots()).filter_map(|slot| self.get(self.id_of(slot)?))
    }

    /// The slots of IPv4 come first.
    fn id_of(&self, slot: usize) -> Option<ConnId> {
        let slot = u32::try_from(slot).ok()?;
        match slot.checked_sub(self.v4.len()) {
            None => Some(ConnId(slot)),
            Some(index) => (index < self.v6.len()).then_some(ConnId(index | ConnId::V6)),
        }
    }

    /// When it was last seen, and its phase; `None` if the place is free.
    fn brief(&self, id: ConnId) -> Option<(Stamp, Phase)> {
        match id.of_v4() {
            Some(index) => {
                let record = self.v4.get(index)?;
                Some((record.last_seen(), record.phase()?))
            }
            None => {
                let record = self.v6.get(id.of_v6()?)?;
                Some((record.last_seen(), record.phase()?))
            }
        }
    }

    /// Moves the hand by one: what is there, for how long it was silent, and its phase.
    fn next_by_hand(&mut self, now: Stamp) -> Option<(ConnId, Stamp, Phase)> {
        self.hand = if self.hand + 1 < self.slots() {
            self.hand + 1
        } else {
            0
        };
        let id = self.id_of(self.hand)?;
        let (last_seen, phase) = self.brief(id)?;
        Some((id, now.wrapping_sub(last_seen), phase))
    }

    /// The stalest of the next few entries that may be evicted.
    pub(super) fn eviction_victim(&mut self, now: Stamp) -> Option<ConnId> {
        let mut best: Option<(u32, ConnId)> = None;
        for _ in 0..EVICTION_SCAN.min(self.slots()) {
            let Some((id, idle, phase)) = self.next_by_hand(now) else {
                continue;
            };
            let expired = idle >= self.timeouts.of(phase);
            if (expired || (phase.may_be_evicted() && idle >= EVICTION_MIN_IDLE))
                && best.is_none_or(|(stalest, _)| idle > stalest)
            {
                best = Some((idle, id));
            }
        }
        best.map(|(_, id)| id)
    }
}
