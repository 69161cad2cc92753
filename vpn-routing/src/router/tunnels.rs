//! The tunnels of a router: name, state, queue and counters of each.

use std::net::IpAddr;
use std::sync::Arc;

use vpn_core::packet::PacketBatch;
use vpn_core::{Assigned, Family, TransportState, TunnelId};

use super::demand::Demand;
use super::options::TunnelOptions;
use super::shard::WorkerId;
use super::status::TunnelCounters;

#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) name: String,
    pub(super) state: TransportState,
    /// What it was last assigned; kept while it is down.
    pub(super) assigned: Option<Arc<Assigned>>,
    /// Largest packet it carries; the largest there is while that is not known.
    pub(super) mtu: u16,
    /// What that was, while not all who have to be told are.
    pub(super) was_wider: Option<u16>,
    pub(super) queue: PacketBatch,
    pub(super) counters: TunnelCounters,
    pub(super) demand: Demand,
    pub(super) options: TunnelOptions,
    /// The other router that has it, of several.
    pub(super) elsewhere: Option<WorkerId>,
}

impl Tunnel {
    /// Whether it takes packets.
    pub(super) const fn carries(&self) -> bool {
        matches!(self.state, TransportState::Up(_))
    }

    /// The tunnel's own address of a family: what its peer expects as source.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        let assigned = self.assigned.as_ref()?;
        assigned
            .addresses
            .iter()
            .map(|net| net.addr())
            .find(|&a| Family::of(a) == family)
    }

    /// The tunnel's preferred resolver of a family.
    pub(super) fn resolver(&self, family: Family) -> Option<IpAddr> {
        self.assigned
            .as_ref()?
            .dns
            .iter()
            .copied()
            .find(|&a| Family::of(a) == family)
    }
}

/// Slots by id; a removed tunnel's id is never given again, and leaves the room of a pointer.
#[derive(Debug)]
pub(super) struct Tunnels {
    slots: Vec<Option<Box<Tunnel>>>,
    /// Those with packets queued: a batch does not pay for tunnels it has nothing for.
    queued: Vec<TunnelId>,
}

impl Tunnels {
    pub(super) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            queued: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, name: &str, queue: PacketBatch) -> Option<TunnelId> {
        let id = TunnelId::new(u16::try_from(self.slots.len()).ok()?);
        let tunnel = Tunnel {
            name: name.to_owned(),
            state: TransportState::Connecting,
            assigned: None,
            mtu: u16::MAX,
            was_wider: None,
            queue,
            counters: TunnelCounters::default(),
            demand: Demand::default(),
            options: TunnelOptions::default(),
            elsewhere: None,
        };
        self.slots.push(Some(Box::new(tunnel)));
        Some(id)
    }

    pub(super) fn remove(&mut self, id: TunnelId) -> Option<Tunnel> {
        self.unlist(id);
        self.slots.get_mut(id.index())?.take().map(|tunnel| *tunnel)
    }

    #[inline]
    pub(super) fn get(&self, id: TunnelId) -> Option<&Tunnel> {
        self.slots.get(id.index())?.as_deref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: TunnelId) -> Option<&mut Tunnel> {
        self.slots.get_mut(id.index())?.as_deref_mut()
    }

    pub(super) fn named(&self, name: &str) -> Option<TunnelId> {
        self.iter().find(|(_, t)| t.name == name).map(|(id, _)| id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TunnelId, &Tunnel)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(i, slot)| Some((TunnelId::new(i as u16), slot.as_deref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (TunnelId, &mut Tunnel)> {
        let slots = self.slots.iter_mut().enumerate();
        slots.filter_map(|(i, slot)| Some((TunnelId::new(i as u16), slot.as_deref_mut()?)))
    }

    pub(super) fn with_queued(&self) -> impl Iterator<Item = TunnelId> + '_ {
        self.queued.iter().copied()
    }

    /// A tunnel's queue is not empty any more.
    pub(super) fn list(&mut self, id: TunnelId) {
        self.queued.push(id);
    }

    /// A tunnel's queue is empty now.
    pub(super) fn unlist(&mut self, id: TunnelId) {
        self.queued.retain(|&listed| listed != id);
    }

    /// The widest tunnel's MTU. What is too large for a narrower one is fragmented, or its sender
    /// is told.
    pub(super) fn largest_mtu(&self) -> Option<u16> {
        self.iter()
            .filter_map(|(_, t)| t.assigned.as_ref())
            .map(|a| a.mtu)
            .filter(|&m| m > 0)
            .max()
    }
}
