//! One router of several that share a device: each owns tunnels, and hands on what is not its own.
//!
//! A tunnel belongs to one router, which has all of its flows. Every router knows every tunnel, its
//! state and the rules, so each can say whose a packet is; a packet of a flow that is, or would be,
//! in another one's tunnel is handed over as it came, and that one decides by itself. What more
//! than one must know at once is shared behind locks that no packet of an established flow takes:
//! who has which flow ([`Directory`]), and the names of addresses.
//!
//! A packet is handed on twice at most: to who has its flow, and from there, if the flow has to
//! move, to who has its new tunnel. Where routers disagree longer, because one has not heard of a
//! change yet, the packet is dropped as [`Elsewhere`](DropReason::Elsewhere).

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use vpn_core::packet::{Message, Packet, Parsed, Quoted};
use vpn_core::{DropReason, FlowKey, TunnelId};

use super::budget::MemoryBudget;
use super::config::RouterConfig;
use super::directory::Directory;
use super::fragments::FragmentWay;
use super::outbound::Known;
use super::{Dns, Router};
use crate::conn::Stamp;
use crate::dns::Book;

/// How often one packet is handed on.
const MOST_HOPS: u8 = 2;

/// One of several routers, or the worker that drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(u8);

impl WorkerId {
    /// The one that decides about groups, and whose plan counts.
    pub const LEAD: Self = Self(0);

    /// From its place among all.
    pub const fn new(place: u8) -> Self {
        Self(place)
    }

    /// Its place among all.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {}", self.0)
    }
}

/// A packet from the device on its way to the router that has its flow or its tunnel.
#[derive(Debug)]
pub struct Handed {
    to: WorkerId,
    packet: Packet,
    /// When it came: all have the same epoch. Its port may have changed hands since.
    came: Stamp,
    /// Its flow, if that was nobody's before: so far it is given and not taken.
    given: Option<FlowKey>,
    /// What the one that gives it has found out about its owner.
    known: Known,
    hops: u8,
}

impl Handed {
    /// Who is to have it.
    pub const fn to(&self) -> WorkerId {
        self.to
    }
}

/// What a router knows of being one of several.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) me: WorkerId,
    directory: Arc<Directory>,
    /// Packets to be handed over: what one verb leaves, so a batch and what was held.
    out: VecDeque<Handed>,
    /// How often the packet at hand was handed on already.
    hops: u8,
    /// The flow of the packet at hand, if that goes to another router with it.
    given: Option<FlowKey>,
}

impl Shard {
    /// The other router that has a flow.
    fn holder(&self, flow: &FlowKey) -> Option<WorkerId> {
        self.directory.holder(flow).filter(|&of| of != self.me)
    }

    /// Whether another router has a flow of this key.
    pub(super) fn is_elsewhere(&self, flow: &FlowKey) -> bool {
        self.holder(flow).is_some()
    }
}

impl Router {
    /// Several routers that share one device. Tunnels, their states, rules and settings must be
    /// told to all of them in the same order, and groups to the [lead](WorkerId::LEAD) alone, which
    /// hears first of a tunnel that is down and last of one that is up; the bounds
    /// in `config` are each one's, but for the [budget of memory](MemoryBudget), which is shared
    /// out. Packets go from one to the other by [`hand_over`](Self::hand_over) and
    /// [`handle_handed`](Self::handle_handed).
    pub fn several(config: &RouterConfig, now: Instant, count: u8) -> Vec<Self> {
        let directory = Arc::new(Directory::new());
        let book = Arc::new(Mutex::new(Book::new(config.within_budget().dns)));
        let share = |budget: MemoryBudget| MemoryBudget {
            bytes: budget.bytes / usize::from(count.max(1)),
            ..budget
        };
        let config = RouterConfig {
            memory_budget: config.memory_budget.map(share),
            ..config.clone()
        };
        let one = |place| {
            let mut router = Self::new(config.clone(), now);
            router.dns = Dns::sharing(router.config.dns, Arc::clone(&book));
            router.groups.follow(place != WorkerId::LEAD.0);
            router.shard = Some(Box::new(Shard {
                me: WorkerId(place),
                directory: Arc::clone(&directory),
                out: VecDeque::new(),
                hops: 0,
                given: None,
            }));
            router
        };
        (0..count.max(1)).map(one).collect()
    }

    /// Adds a tunnel that belongs to `worker`; as [`add_tunnel`](Self::add_tunnel) if that is this
    /// one.
    pub fn add_tunnel_of(&mut self, worker: WorkerId, name: &str) -> Option<TunnelId> {
        let id = self.add_tunnel(name)?;
        let me = self.shard.as_ref().map(|shard| shard.me);
        if let Some(slot) = self.tunnels.get_mut(id) {
            slot.elsewhere = me.filter(|&me| me != worker).map(|_| worker);
        }
        Some(id)
    }

    /// Hands the packets that are another router's to `give`, in order, which returns one that
    /// finds no room: it is dropped as [`QueueFull`](DropReason::QueueFull). To be called after
    /// every verb that takes `now`.
    pub fn hand_over(&mut self, mut give: impl FnMut(Handed) -> Option<Handed>) {
        let Some(shard) = &mut self.shard else {
            return;
        };
        while let Some(handed) = shard.out.pop_front() {
            match give(handed) {
                None => self.accounts.handed_out += 1,
                Some(back) => {
                    if let Some(flow) = &back.given {
                        shard.directory.take_back(flow, back.to);
                    }
                    self.accounts.drops.count(DropReason::QueueFull);
                    self.spare.release(back.packet);
                }
            }
        }
    }

    /// Routes a packet from the device that another router handed over.
    pub fn handle_handed(&mut self, now: Instant, handed: Handed) {
        let stamp = self.stamp(now);
        self.accounts.handed_in += 1;
        self.set_hops(handed.hops);
        let given = handed.given;
        if let Some(free) = self.routed_anew(stamp, handed.came, handed.packet, handed.known) {
            self.spare.release(free);
        }
        self.set_hops(0);
        if let Some(flow) = given {
            self.let_go(&flow);
        }
    }

    /// A router stops: what was handed to it and not routed is dropped.
    pub fn drop_handed(&mut self, handed: Handed) {
        self.accounts.handed_in += 1;
        self.count_drop(None, DropReason::Closed, 1);
        self.spare.release(handed.packet);
    }

    fn set_hops(&mut self, hops: u8) {
        if let Some(shard) = &mut self.shard {
            shard.hops = hops;
        }
    }

    /// Packets that wait to be handed over.
    pub(super) fn to_hand_over(&self) -> u64 {
        self.shard.as_ref().map_or(0, |s| s.out.len() as u64)
    }

    /// The other router that has the flow of a packet from the device.
    pub(super) fn had_by(&self, parsed: &Parsed, packet: &Packet) -> Option<WorkerId> {
        let shard = self.shard.as_ref()?;
        let flow = match parsed.message {
            Message::IcmpError => Quoted::of(packet.bytes(), parsed)?.flow.reversed(),
            _ => parsed.flow,
        };
        shard.holder(&flow)
    }

    /// The other router that has a tunnel.
    pub(super) fn worker_of(&self, tunnel: TunnelId) -> Option<WorkerId> {
        self.tunnels.get(tunnel)?.elsewhere
    }

    /// Says that a flow is here: entered, or held. `false` if another router has it.
    pub(super) fn claim(&self, flow: FlowKey) -> bool {
        let shard = self.shard.as_ref();
        shard.is_none_or(|shard| shard.directory.claim(flow, shard.me))
    }

    /// Says that a flow is not here any more, unless it is: a flow in the table may wait as well.
    pub(super) fn let_go(&self, flow: &FlowKey) {
        if let Some(shard) = &self.shard
            && !self.hold.contains(flow)
            && self.conns.find_outbound(flow).is_none()
        {
            shard.directory.release(flow, shard.me);
        }
    }

    /// Whether this router decides about groups for others.
    pub(super) fn leads(&self) -> bool {
        let shard = self.shard.as_ref();
        shard.is_some_and(|shard| shard.me == WorkerId::LEAD)
    }

    /// A new flow is another router's: its packets go there from now on.
    pub(super) fn give(
        &mut self,
        times: (Stamp, Stamp),
        to: WorkerId,
        parsed: &Parsed,
        packet: Packet,
        known: Known,
    ) -> Option<Packet> {
        if self.may_hand_on()
            && let Some(shard) = &mut self.shard
        {
            shard.directory.give(parsed.flow, shard.me, to);
            shard.given = Some(parsed.flow);
        }
        self.hand_on(times, to, parsed, packet, known)
    }

    /// A packet is another router's, and those that follow it as well. Returns it if its buffer is
    /// free again. With the time, and the time it came.
    pub(super) fn hand_on(
        &mut self,
        (now, came): (Stamp, Stamp),
        to: WorkerId,
        parsed: &Parsed,
        packet: Packet,
        known: Known,
    ) -> Option<Packet> {
        let way = FragmentWay::Elsewhere(to, came);
        if self.may_hand_on() && parsed.first_fragment {
            let datagram = Self::datagram(None, parsed, &packet);
            let free = self.push_handed(came, to, packet, known);
            if let Some((datagram, piece)) = datagram {
                let waited = self.fragments.follow(now, datagram, &piece, way);
                self.expire_fragments(now);
                self.following.extend(waited.into_iter().map(|p| (way, p)));
                self.forward_following();
            }
            return free;
        }
        if !self.may_hand_on() && parsed.first_fragment {
            self.first_fragment_dropped(now, None, parsed, &packet, DropReason::Elsewhere);
        }
        self.push_handed(came, to, packet, known)
    }

    fn may_hand_on(&self) -> bool {
        let shard = self.shard.as_ref();
        shard.is_some_and(|shard| shard.hops < MOST_HOPS)
    }

    pub(super) fn push_handed(
        &mut self,
        came: Stamp,
        to: WorkerId,
        packet: Packet,
        known: Known,
    ) -> Option<Packet> {
        match &mut self.shard {
            Some(shard) if shard.hops < MOST_HOPS => {
                shard.out.push_back(Handed {
                    to,
                    packet,
                    came,
                    given: shard.given.take(),
                    known,
                    hops: shard.hops + 1,
                });
                None
            }
            _ => {
                self.count_drop(None, DropReason::Elsewhere, 1);
                Some(packet)
            }
        }
    }

    /// Flows that all routers together say they have.
    #[cfg(test)]
    pub(super) fn claimed(&self) -> usize {
        self.shard.as_ref().map_or(0, |s| s.directory.len())
    }

    /// Flows that this router has.
    #[cfg(test)]
    pub(super) fn has(&self) -> usize {
        let held = self.hold.keys();
        let only_held = |flow: &&FlowKey| self.conns.find_outbound(flow).is_none();
        self.conns.len() + held.filter(only_held).count()
    }
}
