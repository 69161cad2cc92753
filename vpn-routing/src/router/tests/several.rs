//! Several routers that share a device, one step at a time: what is between them.

use std::time::Instant;

use vpn_core::packet::{Packet, PacketBatch};
use vpn_core::{Assigned, DropReason, RuleSnapshot, TransportState, TunnelId};

use super::world::{SITE, tcp, udp};
use crate::router::{Egress, Handed, Router, RouterConfig, Update, WorkerId};
use crate::rules::{CompiledRules, RuleCache, Target};

const APP: (&str, u16) = ("10.5.0.2", 4000);
const OTHER: WorkerId = WorkerId::new(1);

struct Two {
    routers: Vec<Router>,
    now: Instant,
}

/// One tunnel, of the second router; everything goes there.
fn two() -> Two {
    let now = Instant::now();
    let mut two = Two {
        routers: Router::several(&RouterConfig::default(), now, 2),
        now,
    };
    let assigned = Assigned {
        addresses: vec!["10.5.0.2/32".parse().unwrap()],
        mtu: 1420,
        ..Assigned::default()
    };
    for router in &mut two.routers {
        let id = router.add_tunnel_of(OTHER, "fr").unwrap();
        let up = TransportState::Up(assigned.clone().into());
        router.handle_update(now, Update::Tunnel(id, up));
    }
    two.default(Target::Tunnel(TunnelId::new(0)), &[0, 1]);
    two
}

impl Two {
    fn default(&mut self, target: Target, of: &[usize]) {
        let cache = RuleCache::new();
        let none = |_: &str| None;
        let rules = CompiledRules::compile(&RuleSnapshot::default(), &none, target);
        cache.swap(rules.unwrap());
        for &place in of {
            self.routers[place].handle_update(self.now, Update::Rules(cache.current()));
        }
    }

    fn send(&mut self, place: usize, bytes: &[u8]) {
        let mut batch = PacketBatch::new(1, 1600);
        batch.push(Packet::from_slice(bytes)).unwrap();
        self.routers[place].handle_device(self.now, &mut batch);
    }

    /// What a router hands over, as far as there is room.
    fn handed(&mut self, from: usize, room: usize) -> Vec<Handed> {
        let mut taken = Vec::new();
        self.routers[from].hand_over(|handed| {
            if taken.len() == room {
                return Some(handed);
            }
            taken.push(handed);
            None
        });
        self.check();
        taken
    }

    fn give(&mut self, all: Vec<Handed>) {
        for handed in all {
            self.routers[handed.to().index()].handle_handed(self.now, handed);
        }
        self.check();
    }

    fn out(&mut self) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        let tunnel = Egress::Tunnel(TunnelId::new(0));
        let _ = self.routers[1].transmit::<()>(tunnel, |queue, _| {
            taken.extend(queue.packets().iter().map(|p| p.bytes().to_vec()));
            queue.clear();
            Ok(taken.len())
        });
        taken
    }

    fn check(&self) {
        assert!(self.routers.iter().all(|r| r.accounts().balance()));
    }

    fn drops(&self, place: usize, reason: DropReason) -> u64 {
        self.routers[place].accounts().drops.get(reason)
    }
}

#[test]
fn what_finds_no_room_is_a_counted_drop_and_leaves_nothing_behind() {
    let mut two = two();
    for n in 0..10 {
        two.send(0, &udp(APP, (SITE, 53), &[n]));
    }
    assert_eq!(two.routers[0].claimed(), 1, "one flow, on its way");
    assert!(two.handed(0, 0).is_empty());
    assert_eq!(two.drops(0, DropReason::QueueFull), 10);
    assert_eq!(two.routers[0].claimed(), 0, "which did not get there");
    for n in 0..10 {
        two.send(0, &udp(APP, (SITE, 53), &[n]));
    }
    let handed = two.handed(0, 4);
    assert_eq!(handed.len(), 4);
    assert_eq!(two.drops(0, DropReason::QueueFull), 16);
    two.give(handed);
    let sent: Vec<u8> = two.out().iter().map(|p| *p.last().unwrap()).collect();
    assert_eq!(sent, [0, 1, 2, 3]);
    assert_eq!(two.routers[0].claimed(), 1);
}

/// What comes while the first packet is on its way goes behind it.
#[test]
fn a_flow_is_elsewhere_from_its_first_packet_on() {
    let mut two = two();
    two.send(0, &tcp(APP, (SITE, 80), "S"));
    let first = two.handed(0, 9);
    two.send(0, &tcp(APP, (SITE, 80), "A"));
    let second = two.handed(0, 9);
    two.give(first);
    two.give(second);
    assert_eq!(two.out().len(), 2);
    assert_eq!((two.routers[0].has(), two.routers[1].has()), (0, 1));
}

/// A worker that has other rules drops what it is given; the flow is nobody's then.
#[test]
fn what_is_not_taken_is_nobodys() {
    let mut two = two();
    two.default(Target::Block(DropReason::BlockedByDefault), &[1]);
    two.send(0, &tcp(APP, (SITE, 80), "S"));
    let handed = two.handed(0, 9);
    two.give(handed);
    assert_eq!(two.drops(1, DropReason::BlockedByDefault), 1);
    assert_eq!(two.routers[0].claimed(), 0);
}

/// Routers that name each other, which rules that change one after the other can do for a moment.
#[test]
fn a_packet_is_handed_on_twice_at_most() {
    let mut two = two();
    // The second takes the first for the tunnel's worker: never in fact.
    two.routers[1]
        .tunnels
        .get_mut(TunnelId::new(0))
        .unwrap()
        .elsewhere = Some(WorkerId::LEAD);
    two.send(0, &tcp(APP, (SITE, 80), "S"));
    for (from, handed) in [(0, 1), (1, 1), (0, 0)] {
        let packets = two.handed(from, 9);
        assert_eq!(packets.len(), handed, "{from}");
        two.give(packets);
    }
    assert_eq!(two.drops(0, DropReason::Elsewhere), 1);
    assert_eq!(two.routers[0].claimed(), 0);
}

/// A worker that stops counts what it was given.
#[test]
fn what_is_on_its_way_to_a_worker_that_stops_is_counted() {
    let mut two = two();
    two.send(0, &tcp(APP, (SITE, 80), "S"));
    for handed in two.handed(0, 9) {
        two.routers[1].drop_handed(handed);
    }
    two.check();
    assert_eq!(two.drops(1, DropReason::Closed), 1);
}
