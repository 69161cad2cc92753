//! Packets that wait for an owner or a tunnel, in order, bounded in number, bytes and time, all
//! together and by shares (see `quota`).
//!
//! Questions about owners have no number, so an answer that comes after its flow gave up could be
//! taken for the answer to a newer question, when another program may have the port. Therefore a
//! flow that gave up is remembered as *unanswered*, and is asked about again only once that answer
//! is in.

use std::collections::BTreeMap;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use vpn_core::packet::Packet;
use vpn_core::{DropReason, FlowKey, Owner, OwnerDetail, OwnerQuery, TunnelId};

use super::config::HoldLimits;
use super::quota::Quotas;
use crate::conn::Stamp;

/// How many times longer than its flow an unanswered question is remembered. Later than that an
/// answer is lost, not late: resolvers answer every question or are gone.
const UNANSWERED_FACTOR: Stamp = 20;

/// What a flow waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Awaits {
    /// Its owner, in this detail.
    Owner(OwnerDetail),
    /// Its tunnel; the owner is known by now.
    Tunnel(TunnelId, Option<Owner>),
}

impl Awaits {
    const fn kind(&self) -> usize {
        matches!(self, Self::Tunnel(..)) as usize
    }
}

/// The waiting packets of one flow.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) flow: FlowKey,
    pub(super) awaits: Awaits,
    /// With the time each came: its port may have changed hands between two of them.
    pub(super) packets: Vec<(Stamp, Packet)>,
    deadline: Stamp,
    /// Place in the order of waiting.
    turn: u64,
}

/// What became of a packet that has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// It waits, and the question has to be asked.
    Ask,
    /// It waits, and there is nothing to ask, or not yet.
    Wait,
    /// A bound is reached.
    Full,
}

#[derive(Debug)]
pub(super) struct Hold {
    flows: HashMap<FlowKey, Held, RandomState>,
    /// Who waits for an owner, and who for a tunnel. All of a kind are equally patient, so the
    /// first of each is the first to give up.
    order: [BTreeMap<u64, FlowKey>; 2],
    turn: u64,
    /// Questions whose flow gave up before the answer, and since when.
    unanswered: HashMap<OwnerQuery, Stamp, RandomState>,
    packets: u64,
    quotas: Quotas,
    limits: HoldLimits,
}

impl Hold {
    pub(super) fn new(limits: HoldLimits) -> Self {
        Self {
            flows: HashMap::default(),
            order: [BTreeMap::new(), BTreeMap::new()],
            turn: 0,
            unanswered: HashMap::default(),
            packets: 0,
            quotas: Quotas::new(limits),
            limits,
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = &FlowKey> {
        self.flows.keys()
    }

    pub(super) const fn packets(&self) -> u64 {
        self.packets
    }

    #[inline]
    pub(super) fn contains(&self, flow: &FlowKey) -> bool {
        self.flows.contains_key(flow)
    }

    /// The tunnel that a flow waits for, if it is one.
    pub(super) fn tunnel_of(&self, flow: &FlowKey) -> Option<TunnelId> {
        match self.flows.get(flow)?.awaits {
            Awaits::Tunnel(tunnel, _) => Some(tunnel),
            Awaits::Owner(_) => None,
        }
    }

    /// Appends a packet to a flow that waits already. `false` if a bound is reached.
    pub(super) fn append(&mut self, came: Stamp, flow: &FlowKey, packet: &Packet) -> bool {
        let Some(held) = self.flows.get_mut(flow) else {
            return false;
        };
        if held.packets.len() >= self.limits.flow_packets
            || !self.quotas.take_bytes(&held.awaits, packet.len())
        {
            return false;
        }
        self.packets += 1;
        held.packets.push((came, packet.shrunk()));
        true
    }

    /// Lets a flow wait, from `now` on, with a packet that came at `came`.
    pub(super) fn begin(
        &mut self,
        now: Stamp,
        came: Stamp,
        flow: FlowKey,
        awaits: Awaits,
        packet: &Packet,
    ) -> Begun {
        let unanswered = self.unanswered.len();
        if self.limits.flow_packets == 0
            || !self.quotas.take_flow(&awaits, packet.len(), unanswered)
        {
            return Begun::Full;
        }
        let begun = match awaits {
            Awaits::Owner(detail)
                if !self.unanswered.contains_key(&OwnerQuery { flow, detail }) =>
            {
                Begun::Ask
            }
            _ => Begun::Wait,
        };
        let patience = match awaits {
            Awaits::Owner(_) => self.limits.owner,
            Awaits::Tunnel(..) => self.limits.connecting,
        };
        let deadline = now.wrapping_add(patience.as_millis() as Stamp);
        self.turn += 1;
        self.packets += 1;
        self.order[awaits.kind()].insert(self.turn, flow);
        let packets = vec![(came, packet.shrunk())];
        let turn = self.turn;
        self.flows.insert(
            flow,
            Held {
                flow,
                awaits,
                packets,
                deadline,
                turn,
            },
        );
        begun
    }

    /// The answer to a question came in. What waits for it goes on, if it was asked for it.
    ///
    /// `Err` asks for the question to be repeated: this was the answer to an older one.
    pub(super) fn answered(&mut self, query: &OwnerQuery) -> Result<Option<Held>, OwnerQuery> {
        let awaited = self
            .flows
            .get(&query.flow)
            .is_some_and(|held| held.awaits == Awaits::Owner(query.detail));
        if self.unanswered.remove(query).is_some() {
            return if awaited { Err(*query) } else { Ok(None) };
        }
        Ok(if awaited {
            self.take(&query.flow)
        } else {
            None
        })
    }

    /// Takes a flow's packets out.
    pub(super) fn take(&mut self, flow: &FlowKey) -> Option<Held> {
        let held = self.flows.remove(flow)?;
        self.order[held.awaits.kind()].remove(&held.turn);
        self.packets -= held.packets.len() as u64;
        let bytes = held.packets.iter().map(|(_, p)| p.len()).sum();
        self.quotas.give_back(&held.awaits, bytes);
        Some(held)
    }

    /// The flows that wait for a tunnel, with their owners, longest waiting first.
    pub(super) fn waiting_for_tunnel(
        &self,
    ) -> impl Iterator<Item = (&Held, TunnelId, Option<&Owner>)> {
        let waiting = self.order[1].values();
        let held = waiting.filter_map(|flow| self.flows.get(flow));
        held.filter_map(|held| match &held.awaits {
            Awaits::Tunnel(tunnel, owner) => Some((held, *tunnel, owner.as_ref())),
            Awaits::Owner(_) => None,
        })
    }

    /// Takes out what waits for this tunnel, longest waiting first.
    pub(super) fn take_waiting_for_tunnel(&mut self, tunnel: TunnelId) -> Vec<Held> {
        let waiting = self.waiting_for_tunnel();
        let chosen: Vec<FlowKey> = waiting
            .filter(|(_, awaited, _)| *awaited == tunnel)
            .map(|(held, ..)| held.flow)
            .collect();
        chosen.iter().filter_map(|flow| self.take(flow)).collect()
    }

    /// Takes out one flow whose deadline has passed, and why that is a drop.
    pub(super) fn take_expired(&mut self, now: Stamp) -> Option<(Held, DropReason)> {
        let flow = *self
            .firsts()
            .find(|held| now.wrapping_sub(held.deadline) < Stamp::MAX / 2)
            .map(|held| &held.flow)?;
        let held = self.take(&flow)?;
        let reason = match held.awaits {
            Awaits::Owner(detail) => {
                self.unanswered.insert(OwnerQuery { flow, detail }, now);
                DropReason::OwnerTimeout
            }
            Awaits::Tunnel(..) => DropReason::TunnelConnecting,
        };
        Some((held, reason))
    }

    /// Forgets questions that will not be answered any more.
    pub(super) fn sweep(&mut self, now: Stamp) {
        let patience = self.limits.owner.as_millis() as Stamp;
        let most = patience.saturating_mul(UNANSWERED_FACTOR);
        self.unanswered
            .retain(|_, since| now.wrapping_sub(*since) < most);
    }

    /// When the next flow's deadline passes.
    pub(super) fn next_deadline(&self) -> Option<Stamp> {
        // The nearer of two, also where stamps wrap.
        self.firsts().map(|held| held.deadline).reduce(|a, b| {
            if b.wrapping_sub(a) < Stamp::MAX / 2 {
                a
            } else {
                b
            }
        })
    }

    fn firsts(&self) -> impl Iterator<Item = &Held> {
        let first = |order: &BTreeMap<u64, FlowKey>| order.values().next().copied();
        let firsts = [first(&self.order[0]), first(&self.order[1])];
        firsts
            .into_iter()
            .flatten()
            .filter_map(|flow| self.flows.get(&flow))
    }
}
