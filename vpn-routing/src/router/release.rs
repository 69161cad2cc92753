//! Held packets go on: their owner became known, their tunnel came up, or the rules changed.

use std::time::Instant;

use vpn_core::{DropReason, Owner, OwnerAnswer, OwnerDetail, OwnerQuery, TunnelId};

use super::dns::Asking;
use super::hold::{Awaits, Held};
use super::outbound::{Known, may_start_a_flow};
use super::resolve::Way;
use super::{Event, Router};
use crate::conn::Stamp;

impl Router {
    /// An owner became known: its flow's packets go on.
    pub(super) fn owner_answer(&mut self, now: Instant, query: OwnerQuery, answer: OwnerAnswer) {
        let owner = match answer {
            OwnerAnswer::Known(owner) => Some(owner),
            OwnerAnswer::Pending => return,
            OwnerAnswer::Unknown => None,
        };
        match self.hold.answered(&query) {
            Ok(Some(held)) => self.release(self.stamp(now), held, Some(query.detail), owner),
            Ok(None) => {}
            Err(again) => self.events.push_back(Event::ResolveOwner(again)),
        }
    }

    /// A tunnel came up: the packets that wait for it go on.
    pub(super) fn release_held_for(&mut self, now: Instant, tunnel: TunnelId) {
        let held = self.hold.take_waiting_for_tunnel(tunnel);
        self.release_all(now, held);
    }

    /// The ways of flows changed: packets that wait for a tunnel that is not theirs any more go on.
    pub(super) fn release_redirected(&mut self, now: Instant) {
        let stamp = self.stamp(now);
        let waiting = self.hold.waiting_for_tunnel();
        let elsewhere = waiting.filter(|(held, tunnel, owner)| {
            // The first packet is the one that waits; the others follow it.
            let first = held.packets.first().map(|(_, packet)| packet);
            let parsed = first.and_then(|packet| packet.parse().ok());
            let asking = first
                .zip(parsed.as_ref())
                .map(|(packet, p)| Asking::new(p, packet));
            let asked = asking.as_ref().and_then(Asking::name);
            let decision = self.decision(stamp, *owner, &held.flow, asked);
            self.resolve(&decision, &held.flow, *owner) != Way::Through(*tunnel)
        });
        let flows: Vec<_> = elsewhere.map(|(held, ..)| held.flow).collect();
        let held = flows.iter().filter_map(|flow| self.hold.take(flow));
        let held = held.collect();
        self.release_all(now, held);
    }

    fn release_all(&mut self, now: Instant, all: Vec<Held>) {
        let stamp = self.stamp(now);
        for mut held in all {
            let Awaits::Tunnel(_, owner) = &mut held.awaits else {
                continue;
            };
            let owner = owner.take();
            self.release(stamp, held, None, owner);
        }
    }

    /// Routes what was held, each packet as of the time it came: the answer counts for the first
    /// and for those that followed too closely for the port to have changed hands.
    fn release(
        &mut self,
        now: Stamp,
        held: Held,
        asked: Option<OwnerDetail>,
        owner: Option<Owner>,
    ) {
        let flow = held.flow;
        let (mut before, mut same) = (None, true);
        for (came, packet) in held.packets {
            let Ok(parsed) = packet.parse() else {
                self.count_drop(None, DropReason::Malformed, 1);
                continue;
            };
            let close = before.is_none_or(|before| !self.is_stale(came, before));
            same &= close || !may_start_a_flow(parsed.message);
            before = Some(came);
            // The first of them may have to wait for something else: the rest follows it.
            if self.hold.contains(&parsed.flow) {
                if !self.hold.append(came, &parsed.flow, &packet) {
                    let tunnel = self.hold.tunnel_of(&parsed.flow);
                    self.count_drop(tunnel, DropReason::HoldFull, 1);
                }
                continue;
            }
            // Once the first has gone to another router, so do the others.
            if let Some(worker) = self.had_by(&parsed, &packet) {
                self.hand_on((now, came), worker, &parsed, packet, Known::NotAsked);
                continue;
            }
            let known = match same {
                true => Known::Answer(asked, owner.clone()),
                false => Known::NotAsked,
            };
            let outcome = self.decide(came, &Asking::new(&parsed, &packet), known);
            self.act(now, came, &parsed, packet, outcome);
        }
        self.let_go(&flow);
    }

    /// Whether a port may have changed hands between two packets.
    pub(super) fn is_stale(&self, now: Stamp, before: Stamp) -> bool {
        now.wrapping_sub(before) >= self.recheck
    }

    pub(super) fn drop_held(&mut self, held: Held, reason: DropReason) {
        let tunnel = match held.awaits {
            Awaits::Tunnel(tunnel, _) => Some(tunnel),
            Awaits::Owner(_) => None,
        };
        self.count_drop(tunnel, reason, held.packets.len() as u64);
        self.let_go(&held.flow);
    }
}
