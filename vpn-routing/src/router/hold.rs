//! Packets that wait for an owner or a tunnel, in order, bounded in number, bytes and time.

use std::collections::HashMap;

use vpn_core::packet::Packet;
use vpn_core::{DropReason, FlowKey, Owner, OwnerDetail, TunnelId};

use super::config::HoldLimits;
use crate::conn::Stamp;

/// What a flow waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Awaits {
    /// Its owner, in this detail.
    Owner(OwnerDetail),
    /// Its tunnel; the owner is known by now.
    Tunnel(TunnelId, Option<Owner>),
}

/// The waiting packets of one flow.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) awaits: Awaits,
    pub(super) packets: Vec<Packet>,
    deadline: Stamp,
}

#[derive(Debug)]
pub(super) struct Hold {
    flows: HashMap<FlowKey, Held>,
    bytes: usize,
    limits: HoldLimits,
}

impl Hold {
    pub(super) fn new(limits: HoldLimits) -> Self {
        Self { flows: HashMap::new(), bytes: 0, limits }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    pub(super) fn packets(&self) -> u64 {
        self.flows.values().map(|h| h.packets.len() as u64).sum()
    }

    pub(super) fn contains(&self, flow: &FlowKey) -> bool {
        self.flows.contains_key(flow)
    }

    /// Appends a packet to a flow that waits already. `false` if a bound is reached.
    pub(super) fn append(&mut self, flow: &FlowKey, packet: &Packet) -> bool {
        let Some(held) = self.flows.get_mut(flow) else { return false };
        if held.packets.len() >= self.limits.flow_packets
            || self.bytes + packet.len() > self.limits.bytes
        {
            return false;
        }
        self.bytes += packet.len();
        held.packets.push(packet.shrunk());
        true
    }

    /// Lets a flow wait. `false` if a bound is reached.
    pub(super) fn begin(
        &mut self,
        now: Stamp,
        flow: FlowKey,
        awaits: Awaits,
        packet: &Packet,
    ) -> bool {
        if self.flows.len() >= self.limits.flows || self.bytes + packet.len() > self.limits.bytes {
            return false;
        }
        let patience = match awaits {
            Awaits::Owner(_) => self.limits.owner,
            Awaits::Tunnel(..) => self.limits.connecting,
        };
        let deadline = now.wrapping_add(patience.as_millis() as Stamp);
        self.bytes += packet.len();
        self.flows.insert(flow, Held { awaits, packets: vec![packet.shrunk()], deadline });
        true
    }

    pub(super) fn get(&self, flow: &FlowKey) -> Option<&Held> {
        self.flows.get(flow)
    }

    /// Takes a flow's packets out.
    pub(super) fn take(&mut self, flow: &FlowKey) -> Option<Held> {
        let held = self.flows.remove(flow)?;
        self.bytes -= held.packets.iter().map(Packet::len).sum::<usize>();
        Some(held)
    }

    /// Takes out all that waits for a tunnel.
    pub(super) fn take_for_tunnel(&mut self, tunnel: TunnelId) -> Vec<Held> {
        let flows: Vec<FlowKey> = self
            .flows
            .iter()
            .filter(|(_, held)| matches!(held.awaits, Awaits::Tunnel(t, _) if t == tunnel))
            .map(|(&flow, _)| flow)
            .collect();
        flows.iter().filter_map(|flow| self.take(flow)).collect()
    }

    /// Takes out one flow whose deadline has passed, and why that is a drop.
    pub(super) fn take_expired(&mut self, now: Stamp) -> Option<(Held, DropReason)> {
        let expired = |held: &Held| now.wrapping_sub(held.deadline) < Stamp::MAX / 2;
        let flow = *self.flows.iter().find(|(_, held)| expired(held))?.0;
        let held = self.take(&flow)?;
        let reason = match held.awaits {
            Awaits::Owner(_) => DropReason::OwnerTimeout,
            Awaits::Tunnel(..) => DropReason::TunnelConnecting,
        };
        Some((held, reason))
    }

    /// When the next flow's deadline passes.
    pub(super) fn next_deadline(&self) -> Option<Stamp> {
        self.flows.values().map(|held| held.deadline).min()
    }
}
