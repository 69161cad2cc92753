//! One router, or several that share a device, behind the verbs of one: packets from the device
//! come to any of them, as queues have it, and go over at once.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::time::Instant;

use foldhash::quality::FixedState;
use vpn_core::packet::{Packet, PacketBatch};
use vpn_core::{
    DropCounters, Generation, GroupId, OwnerAnswer, OwnerQuery, TransportState, TunnelId,
};

use crate::group::{GroupConfig, GroupError};
use crate::router::{
    Accounts, Egress, Event, FlowStatus, Router, RouterConfig, Status, Update, WorkerId,
};

pub(super) struct Crew {
    pub(super) routers: Vec<Router>,
    tunnels: Vec<usize>,
    /// With the place of the router they are from.
    events: VecDeque<(usize, Event)>,
}

impl Crew {
    pub(super) fn new(config: RouterConfig, now: Instant, count: u8) -> Self {
        let routers = match count {
            1 => vec![Router::new(config, now)],
            _ => Router::several(&config, now, count),
        };
        Self {
            routers,
            tunnels: Vec::new(),
            events: VecDeque::new(),
        }
    }

    pub(super) fn add_tunnel(&mut self, name: &str) -> Option<TunnelId> {
        let place = self.tunnels.len() % self.routers.len();
        self.tunnels.push(place);
        let of = WorkerId::new(place as u8);
        let add = |router: &mut Router| router.add_tunnel_of(of, name);
        self.routers.iter_mut().map(add).last()?
    }

    pub(super) fn remove_tunnel(&mut self, now: Instant, tunnel: TunnelId) {
        for place in 0..self.routers.len() {
            self.routers[place].remove_tunnel(now, tunnel);
            self.tell_groups(now);
        }
        self.deliver(now);
    }

    pub(super) fn set_groups(
        &mut self,
        now: Instant,
        groups: Vec<GroupConfig>,
    ) -> Result<Vec<GroupId>, GroupError> {
        let ids = self.routers[0].set_groups(now, groups);
        self.tell_groups(now);
        self.deliver(now);
        ids
    }

    pub(super) fn group_named(&self, name: &str) -> Option<GroupId> {
        let ids: Vec<_> = self.routers.iter().map(|r| r.group_named(name)).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        ids[0]
    }

    pub(super) fn handle_update(&mut self, now: Instant, update: Update) {
        match update {
            Update::Owner(..) => unreachable!("each has a resolver of its own: see `answer`"),
            Update::RoundTrip(tunnel, measured) => {
                self.routers[0].handle_update(now, Update::RoundTrip(tunnel, measured));
                self.tell_groups(now);
            }
            Update::Rules(rules) => {
                for router in &mut self.routers {
                    router.handle_update(now, Update::Rules(rules.clone()));
                }
            }
            Update::Tunnel(tunnel, state) => {
                let count = self.routers.len();
                for turn in 0..count {
                    // The lead says of a tunnel that is down where to go before others hear of it.
                    let place = match state {
                        TransportState::Up(_) => count - 1 - turn,
                        _ => turn,
                    };
                    let update = Update::Tunnel(tunnel, state.clone());
                    self.routers[place].handle_update(now, update);
                    self.tell_groups(now);
                }
            }
            Update::Groups(_) => unreachable!("they tell each other"),
        }
        self.deliver(now);
    }

    /// Answers the router in place `asker` alone: two may have asked the same at different times.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        asker: usize,
        query: OwnerQuery,
        answer: OwnerAnswer,
    ) {
        self.routers[asker].handle_update(now, Update::Owner(query, answer));
        self.deliver(now);
    }

    /// Each packet to some router, always the same for one flow.
    pub(super) fn handle_device(&mut self, now: Instant, batch: &mut PacketBatch) {
        let count = self.routers.len();
        if count == 1 {
            return self.routers[0].handle_device(now, batch);
        }
        let mut one = PacketBatch::new(1, 65_535);
        for packet in batch.drain() {
            let place = place_of(&packet, count);
            one.push(packet).unwrap();
            self.routers[place].handle_device(now, &mut one);
            self.deliver(now);
        }
    }

    pub(super) fn handle_tunnel(
        &mut self,
        now: Instant,
        tunnel: TunnelId,
        batch: &mut PacketBatch,
    ) {
        self.routers[self.tunnels[tunnel.index()]].handle_tunnel(now, tunnel, batch);
        self.deliver(now);
    }

    pub(super) fn next_timeout(&self) -> Instant {
        self.routers.iter().map(Router::next_timeout).min().unwrap()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for place in 0..self.routers.len() {
            if now >= self.routers[place].next_timeout() {
                self.routers[place].handle_timeout(now);
            }
            self.tell_groups(now);
        }
        self.deliver(now);
    }

    /// With the place of the router it is from.
    pub(super) fn next_event(&mut self) -> Option<(usize, Event)> {
        self.collect();
        self.events.pop_front()
    }

    pub(super) fn is_asked(&mut self, asker: usize, query: &OwnerQuery) -> bool {
        self.collect();
        let mut events = self.events.iter();
        events.any(|(from, e)| *from == asker && matches!(e, Event::ResolveOwner(q) if q == query))
    }

    pub(super) fn ready(&self) -> impl Iterator<Item = Egress> + '_ {
        self.routers.iter().flat_map(Router::ready)
    }

    pub(super) fn transmit<X>(
        &mut self,
        target: Egress,
        send: impl FnOnce(&mut PacketBatch, &mut DropCounters) -> Result<usize, X>,
    ) -> Result<usize, X> {
        let place = match target {
            Egress::Tunnel(tunnel) => self.tunnels[tunnel.index()],
            Egress::Device => {
                let has = |router: &Router| router.ready().any(|ready| ready == target);
                self.routers.iter().position(has).unwrap_or(0)
            }
        };
        self.routers[place].transmit(target, send)
    }

    pub(super) fn generation(&self) -> Generation {
        self.routers[0].generation()
    }

    pub(super) fn flows(&self, limit: usize) -> Vec<FlowStatus> {
        let all = self.routers.iter().flat_map(|r| r.flows(limit));
        all.take(limit).collect()
    }

    pub(super) fn status(&self) -> Status {
        let all = self.routers.iter().map(Router::status);
        Status::of_all(all.collect()).unwrap()
    }

    pub(super) fn accounts(&self) -> Accounts {
        for router in &self.routers {
            assert!(router.accounts().balance(), "{:?}", router.accounts());
        }
        if self.routers.len() > 1 {
            let had: usize = self.routers.iter().map(Router::has).sum();
            assert_eq!(self.routers[0].claimed(), had);
        }
        self.status().accounts
    }

    /// What is handed over arrives.
    fn deliver(&mut self, now: Instant) {
        // From who sees it to who has it, and to who has its new tunnel.
        for _ in 0..=3 {
            let mut handed = Vec::new();
            for router in &mut self.routers {
                router.hand_over(|packet| {
                    handed.push(packet);
                    None
                });
            }
            if handed.is_empty() {
                return;
            }
            for packet in handed {
                self.routers[packet.to().index()].handle_handed(now, packet);
            }
        }
        panic!("packets go round");
    }

    /// What the first says of groups is known to all before anything else.
    fn tell_groups(&mut self, now: Instant) {
        self.collect();
        let (told, others) = std::mem::take(&mut self.events)
            .into_iter()
            .partition(|(_, event)| matches!(event, Event::Groups(_)));
        self.events = others;
        let told: VecDeque<(usize, Event)> = told;
        for (_, event) in told {
            let Event::Groups(view) = event else { continue };
            for router in &mut self.routers[1..] {
                router.handle_update(now, Update::Groups(view.clone()));
            }
        }
    }

    fn collect(&mut self) {
        for (place, router) in self.routers.iter_mut().enumerate() {
            while let Some(event) = router.next_event() {
                self.events.push_back((place, event));
            }
        }
    }
}

/// By addresses, as the kernel does with fragments: those of a flow must not pass its other packets,
/// which is what they may where the kernel looks at ports as well.
fn place_of(packet: &Packet, count: usize) -> usize {
    let ends = packet.parse().map(|p| (p.flow.src(), p.flow.dst()));
    FixedState::with_seed(7).hash_one(ends.ok()) as usize % count
}
