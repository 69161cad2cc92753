//! What follows when a tunnel comes up, goes down or gets other addresses, and the plan for the
//! interface that results from all of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use vpn_core::packet::Packet;
use vpn_core::{Assigned, DropReason, InterfacePlan, TransportState, TunnelId};

use super::{Event, Router};
use crate::conn::{Conn, Origin};
use crate::group::Standing;

impl Router {
    pub(super) fn tunnel_state(&mut self, now: Instant, tunnel: TunnelId, state: TransportState) {
        let Some(slot) = self.tunnels.get_mut(tunnel) else {
            return;
        };
        if slot.state == TransportState::Closed {
            // Final: a state that was under way when the transport failed is not news.
            return;
        }
        let (before, after) = (Standing::of(&slot.state), Standing::of(&state));
        slot.state = state.clone();
        slot.demand.changed(now);
        let mut moved = before != after && self.stands(now, tunnel, after);
        match &state {
            TransportState::Up(assigned) => {
                self.tunnel_up(now, tunnel, Arc::clone(assigned));
                moved |= self.advertised(tunnel, &assigned.routes);
            }
            TransportState::Down(_) => {
                self.drop_queue(tunnel, DropReason::TunnelDown, |_| true);
            }
            _ => {}
        }
        // Before what waits for the tunnel is given up: some of it may have another way.
        if moved {
            self.ways_changed(now);
        }
        match state {
            TransportState::Down(_) => self.drop_held_for(tunnel, DropReason::TunnelDown),
            TransportState::Closed => self.tunnel_gone(now, tunnel, DropReason::Closed),
            _ => {}
        }
    }

    pub(super) fn tunnel_up(&mut self, now: Instant, tunnel: TunnelId, assigned: Arc<Assigned>) {
        let Some(slot) = self.tunnels.get_mut(tunnel) else {
            return;
        };
        let admission = self.allocator.admit(tunnel, &assigned.addresses);
        let assigned = match admission.refused.as_slice() {
            [] => assigned,
            // No packet may leave with an address that was not admitted.
            refused => {
                let mut kept = Assigned::clone(&assigned);
                kept.addresses
                    .retain(|net| refused.iter().all(|(no, _)| no != net));
                Arc::new(kept)
            }
        };
        let before = slot.assigned.replace(Arc::clone(&assigned));
        let was = slot.mtu;
        slot.mtu = match assigned.mtu {
            0 => u16::MAX,
            mtu => mtu,
        };
        // The first is no change.
        let narrower = slot.mtu < was && was != u16::MAX;
        let maps = slot.options.prefix_maps.clone();
        if !admission.conflicts.is_empty() {
            self.events
                .push_back(Event::Conflicts(tunnel, admission.conflicts));
        }
        if !admission.refused.is_empty() {
            self.events
                .push_back(Event::Refused(tunnel, admission.refused));
        }
        // Flows with an address the tunnel no longer has would leave with a wrong source, and
        // queries would go to a resolver that is not its any more.
        let translate = self.config.translate;
        let has = |addr: IpAddr| assigned.addresses.iter().any(|net| net.addr() == addr);
        let had = |addr| {
            let had = before.as_ref().map(|before| before.addresses.iter());
            had.is_some_and(|mut nets| nets.any(|net| net.addr() == addr))
        };
        // Machines behind this host have theirs, whatever the tunnel's is.
        let rules = Arc::clone(&self.rules);
        let behind = |addr| !had(addr) && rules.inbound().is_behind(tunnel, addr);
        let valid = |wire_source| !translate || has(wire_source) || behind(wire_source);
        self.dismiss_guests(now, |c| c.tunnel == tunnel && !valid(c.wire.src()));
        let dismissed = |c: &Conn| c.origin == Origin::Tunnel && c.phase.is_ended();
        self.conns.remove_where(&mut self.removed, |c| {
            let steered = maps.to_remote(c.device.dst()) != c.wire.dst();
            c.tunnel == tunnel
                && !dismissed(c)
                && (!valid(c.wire.src()) || steered && !assigned.dns.contains(&c.wire.dst()))
        });
        self.release_removed();
        // The same for packets that were translated and not taken yet.
        self.drop_queue(tunnel, DropReason::TunnelDown, |packet| {
            packet.parse().is_ok_and(|p| !valid(p.flow.src()))
        });
        // And for the rest of datagrams that are under way.
        let same = |b: &Assigned| b.addresses == assigned.addresses && b.dns == assigned.dns;
        if !before.as_deref().is_some_and(same) {
            self.fragments.forget_ways(|way| way.uses(tunnel));
        }
        self.update_plan();
        self.release_held_for(now, tunnel);
        if narrower {
            self.narrowed(now, tunnel, was);
        }
    }

    pub(super) fn tunnel_gone(&mut self, now: Instant, tunnel: TunnelId, reason: DropReason) {
        self.drop_queue(tunnel, reason, |_| true);
        self.drop_held_for(tunnel, reason);
        self.dismiss_guests(now, |c| c.tunnel == tunnel);
        // Those that were ended answer for their connections.
        self.conns.remove_where(&mut self.removed, |c| {
            c.tunnel == tunnel && !c.phase.is_ended()
        });
        self.release_removed();
    }

    pub(super) fn drop_held_for(&mut self, tunnel: TunnelId, reason: DropReason) {
        for held in self.hold.take_waiting_for_tunnel(tunnel) {
            self.drop_held(held, reason);
        }
    }

    /// Drops what a tunnel has not taken and `gone` says.
    pub(super) fn drop_queue(
        &mut self,
        tunnel: TunnelId,
        reason: DropReason,
        gone: impl Fn(&mut Packet) -> bool,
    ) {
        let Some(slot) = self.tunnels.get_mut(tunnel) else {
            return;
        };
        let mut list = Vec::with_capacity(slot.queue.len());
        slot.queue.swap_out(&mut list);
        for mut packet in list {
            let back = if gone(&mut packet) {
                Some(packet)
            } else {
                slot.queue.push(packet).err()
            };
            if let Some(packet) = back {
                slot.counters.drops.count(reason);
                slot.queue.recycle(packet);
            }
        }
        self.spare.refill_from(slot.queue.pool_mut());
        if slot.queue.is_empty() {
            self.tunnels.unlist(tunnel);
        }
    }

    /// Recomputes the plan, and tells the driver if it changed.
    pub(super) fn update_plan(&mut self) {
        let mut plan = InterfacePlan {
            addresses: self.allocator.plan_addresses(),
            dns: self.config.resolvers.iter().copied().collect(),
            mtu: match self.config.interface_mtu {
                Some(mtu) => mtu,
                None => self.tunnels.largest_mtu().unwrap_or(self.plan.mtu),
            },
            bypass: self.rules.bypass().to_vec(),
            ..InterfacePlan::default()
        };
        // The resolvers of tunnels are reached through the device like everything else; the
        // virtual one exists only there and needs a route of its own.
        plan.routes = plan.dns.iter().map(|&addr| addr.into()).collect();
        if plan != self.plan {
            self.plan = plan.clone();
            self.events.push_back(Event::Plan(plan));
        }
    }
}
