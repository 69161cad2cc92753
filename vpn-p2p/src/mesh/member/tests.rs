//! A hub and members with real sessions on a network without NATs: whatever is sent arrives.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use vpn_core::testing::build;
use vpn_core::{DropReason, Packet, PeerId};

use super::*;
use crate::mesh::Way;
use crate::mesh::hub::{Admitted, Hub, HubConfig, Origin, Relayed};
use crate::mesh::keys::NoiseKeys;
use crate::mesh::link::LinkConfig;
use crate::mesh::peer::Stage;
use crate::mesh::wire::frame::{RELAY_HEADER, is_frame, relay_header};
use crate::wg_quick::PrivateKey;

const UNIX: u64 = 1_700_000_000;

fn hub_at() -> SocketAddr {
    "198.51.100.1:51820".parse().unwrap()
}

/// What goes from where to where.
type OnTheWay = (SocketAddr, SocketAddr, Vec<u8>);

struct World {
    hub: Option<Hub>,
    members: Vec<(SocketAddr, Member)>,
    wire: VecDeque<OnTheWay>,
    now: Instant,
    /// Members that no datagram reaches directly, as if behind NATs that do not let it in.
    closed: Vec<SocketAddr>,
    /// What came out for the router, by member.
    received: HashMap<usize, Vec<Vec<u8>>>,
    drops: Vec<DropReason>,
    relayed: usize,
}

fn keys() -> Box<NoiseKeys> {
    Box::new(NoiseKeys::new(&PrivateKey::generate().unwrap()))
}

fn address(member: usize) -> IpAddr {
    format!("10.77.0.{}", member + 2).parse().unwrap()
}

impl World {
    fn new(count: usize, change: impl Fn(usize, &mut MemberConfig)) -> Self {
        let now = Instant::now();
        let hub = Identity::generate().unwrap();
        let people: Vec<Identity> = (0..count).map(|_| Identity::generate().unwrap()).collect();
        let config = HubConfig {
            members: (people.iter().enumerate())
                .map(|(place, who)| Admitted::new(who.id(), vec![address(place)]))
                .collect(),
            ..HubConfig::default()
        };
        let mut members = Vec::new();
        for (place, who) in people.iter().enumerate() {
            let mut config = MemberConfig {
                name: format!("m{place}"),
                addresses: vec![format!("{}/24", address(place)).parse().unwrap()],
                hubs: vec![LinkConfig::new(hub.id(), HubId(0))],
                seed: Some(place as u64),
                ..MemberConfig::default()
            };
            change(place, &mut config);
            let mut member = Member::new(config, who.clone(), keys(), now, UNIX);
            let at: SocketAddr = format!("198.51.100.{}:4000", place + 10).parse().unwrap();
            member.set_endpoints(HubId(0), vec![hub_at()], now);
            member.set_local(vec![at], now, UNIX);
            members.push((at, member));
        }
        Self {
            hub: Some(Hub::new(config, &hub, keys(), now, UNIX).unwrap()),
            members,
            wire: VecDeque::new(),
            now,
            closed: Vec::new(),
            received: HashMap::new(),
            drops: Vec::new(),
            relayed: 0,
        }
    }

    /// Delivers until nothing is on the way.
    fn deliver(&mut self) {
        loop {
            for (at, member) in &mut self.members {
                while let Some(transmit) = member.poll(self.now, UNIX) {
                    if let Transmit::Udp(to, bytes) | Transmit::Packet(to, bytes) = transmit {
                        self.wire.push_back((*at, to, bytes));
                    }
                }
            }
            if let Some(hub) = &mut self.hub {
                while let Some((to, bytes)) = hub.poll() {
                    if let Origin::Udp(to) = to {
                        self.wire.push_back((hub_at(), to, bytes));
                    }
                }
            }
            let Some((from, to, bytes)) = self.wire.pop_front() else {
                return;
            };
            if to == hub_at() {
                self.at_hub(from, bytes);
            } else if let Some(place) = self.members.iter().position(|(at, _)| *at == to) {
                if from != hub_at() && (self.closed.contains(&to) || self.closed.contains(&from)) {
                    continue;
                }
                let bytes = BytesMut::from(&bytes[..]);
                match self.members[place].1.udp(from, bytes, self.now, UNIX) {
                    Arrived::Packet(_, packet) => {
                        self.received
                            .entry(place)
                            .or_default()
                            .push(packet.to_vec());
                    }
                    Arrived::Dropped(reason) => self.drops.push(reason),
                    _ => {}
                }
            }
        }
    }

    fn at_hub(&mut self, from: SocketAddr, bytes: Vec<u8>) {
        let Some(hub) = &mut self.hub else { return };
        let relay = is_frame(&bytes) && bytes[0] == relay_header(Tag([0; 8]), 0)[0];
        let tag = relay.then(|| Tag(*bytes[4..].first_chunk().unwrap()));
        match tag {
            Some(tag) if !is_frame(&bytes[RELAY_HEADER..]) => {
                let origin = Origin::Udp(from);
                if let Relayed::To {
                    origin: Origin::Udp(to),
                    tag,
                } = hub.relay(origin, tag, bytes.len(), 1, self.now)
                {
                    self.relayed += 1;
                    let frame = [&relay_header(tag, 0)[..], &bytes[RELAY_HEADER..]].concat();
                    self.wire.push_back((hub_at(), to, frame));
                }
            }
            _ => hub.datagram(
                Origin::Udp(from),
                BytesMut::from(&bytes[..]),
                self.now,
                UNIX,
            ),
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.deliver();
        loop {
            let hub = self.hub.as_ref().and_then(Hub::next_timeout);
            let members = self
                .members
                .iter()
                .filter_map(|(_, member)| member.next_timeout())
                .min();
            let Some(next) = [hub, members]
                .into_iter()
                .flatten()
                .min()
                .filter(|at| *at <= end)
            else {
                break;
            };
            assert!(next >= self.now || next + Duration::from_secs(1) > self.now);
            self.now = self.now.max(next);
            if let Some(hub) = &mut self.hub {
                hub.handle_timeout(self.now, UNIX);
            }
            for (_, member) in &mut self.members {
                if member.next_timeout().is_some_and(|at| at <= self.now) {
                    member.handle_timeout(self.now, UNIX);
                    let next = member.next_timeout();
                    assert!(next.is_none_or(|at| at > self.now), "due again at once");
                }
            }
            self.deliver();
        }
        self.now = end;
    }

    /// One packet; what it came to.
    fn send(&mut self, from: usize, to: usize, text: &[u8]) -> Outlet {
        let packet = packet(from, to, text);
        let (at, member) = &mut self.members[from];
        let outlet = member.outlet(&packet, self.now);
        if let Outlet::Open(slot, way, wire) = outlet {
            let mut out = Vec::new();
            assert!(member.seal(slot, &wire, BytesMut::from(packet.bytes()), &mut out));
            member.sent(slot, way, 1, packet.len() as u64, self.now);
            match wire {
                Wire::Direct(to) | Wire::Relay(to, _) => self.wire.push_back((*at, to, out)),
                Wire::Stream(..) => unreachable!(),
            }
        }
        self.deliver();
        outlet
    }

    fn got(&mut self, place: usize) -> Vec<Vec<u8>> {
        self.received.remove(&place).unwrap_or_default()
    }

    fn stage(&self, place: usize, of: usize) -> Option<Stage> {
        let status = self.members[place].1.status(self.now);
        let id = self.members[of].1.id();
        status
            .peers
            .iter()
            .find(|peer| peer.peer == id)
            .map(|peer| peer.stage)
    }
}

fn packet(from: usize, to: usize, text: &[u8]) -> Packet {
    let (from, to) = (
        SocketAddr::new(address(from), 7),
        SocketAddr::new(address(to), 9),
    );
    Packet::from_slice(&build::udp(from, to, text))
}

#[test]
fn the_first_packet_arrives_and_the_next_go_directly() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    assert!(
        world
            .members
            .iter()
            .all(|(_, member)| member.is_connected())
    );
    assert_eq!(world.send(0, 1, b"first"), Outlet::Held);
    world.run(Duration::from_millis(1));
    assert_eq!(world.got(1), [packet(0, 1, b"first").bytes()]);
    world.run(Duration::from_secs(1));
    assert_eq!(world.stage(0, 1), Some(Stage::Direct));
    assert_eq!(world.stage(1, 0), Some(Stage::Direct));
    let relayed = world.relayed;
    for n in 0..10u8 {
        assert!(matches!(
            world.send(0, 1, &[n]),
            Outlet::Open(_, Way::Direct(_), _)
        ));
        assert!(matches!(
            world.send(1, 0, &[n]),
            Outlet::Open(_, Way::Direct(_), _)
        ));
    }
    assert_eq!((world.got(0).len(), world.got(1).len()), (10, 10));
    assert_eq!(world.relayed, relayed, "nothing of it by the hub");
}

#[test]
fn where_nothing_gets_in_directly_the_relay_carries_everything() {
    let mut world = World::new(3, |_, _| {});
    world.closed = vec![world.members[1].0];
    world.run(Duration::from_millis(100));
    for n in 0..50u8 {
        world.send(0, 1, &[n]);
        world.send(2, 1, &[n]);
        world.run(Duration::from_millis(200));
    }
    assert_eq!(world.got(1).len(), 100);
    assert_eq!(world.stage(0, 1), Some(Stage::Relayed));
    assert_eq!(world.stage(1, 2), Some(Stage::Relayed));
}

#[test]
fn direct_paths_live_on_without_the_hub_and_fall_back_where_it_is() {
    let mut world = World::new(3, |_, _| {});
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"1");
    world.send(0, 2, b"1");
    world.run(Duration::from_secs(2));
    assert_eq!(world.got(1).len(), 1);
    // One way is cut, traffic goes on: at most 2 s are lost.
    world.closed = vec![world.members[2].0];
    for n in 0..60u8 {
        world.send(0, 2, &[n]);
        world.run(Duration::from_millis(100));
    }
    let got = world.got(2).len();
    assert!(got >= 1 + 60 - 20, "{got} of 61");
    assert_eq!(world.stage(0, 2), Some(Stage::Relayed));
    world.hub = None;
    for n in 0..100u8 {
        world.send(0, 1, &[n]);
        world.run(Duration::from_millis(100));
    }
    assert_eq!(world.got(1).len(), 100);
    assert_eq!(world.stage(0, 1), Some(Stage::Direct));
}

/// L-21, S-14: the source inside is compared with what its sender may have.
#[test]
fn nobody_sends_from_an_address_that_is_not_its_own() {
    let mut world = World::new(3, |_, _| {});
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"hello");
    world.run(Duration::from_secs(1));
    world.got(1);
    // 0 sends as 2.
    let forged = packet(2, 1, b"forged");
    let (at, member) = &mut world.members[0];
    let Outlet::Open(slot, _, wire) = member.outlet(&packet(0, 1, b""), world.now) else {
        panic!("not connected");
    };
    let mut out = Vec::new();
    assert!(member.seal(slot, &wire, BytesMut::from(forged.bytes()), &mut out));
    let Wire::Direct(to) = wire else {
        panic!("not direct");
    };
    world.wire.push_back((*at, to, out.clone()));
    world.wire.push_back((*at, to, out));
    world.deliver();
    assert!(world.got(1).is_empty());
    // The second one is a replay.
    assert_eq!(
        world.drops,
        [DropReason::AddressNotAllowed, DropReason::NotAuthentic]
    );
}

/// L-29: somebody was asked for again and again, whoever it was.
#[test]
fn nobody_is_asked_for_once_and_waiting_packets_are_counted() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    for _ in 0..10 {
        assert_eq!(world.send(0, 99, b"?"), Outlet::Held);
    }
    world.run(Duration::from_secs(1));
    let status = world.members[0].1.status(world.now);
    assert_eq!(status.drops.get(DropReason::NoSession), 10);
    assert_eq!(world.members[0].1.lookups.nobody, 1);
}

/// The hub names somebody for an address that the configuration gives to another key: what waits for the
/// address is not sealed to that one.
#[test]
fn what_waits_for_an_address_goes_to_nobody_who_was_refused_it() {
    let mut world = World::new(2, |place, config| {
        if place == 0 {
            config.peers = vec![KnownPeer {
                peer: PeerId([9; 32]),
                addresses: vec![address(1)],
                rules: PeerRules::default(),
            }];
        }
    });
    world.run(Duration::from_millis(100));
    assert_eq!(world.send(0, 1, b"for another"), Outlet::Held);
    world.run(Duration::from_secs(5));
    assert!(world.got(1).is_empty());
    let member = &world.members[0].1;
    assert_eq!(member.status(world.now).drops.get(DropReason::NoSession), 1);
    assert!(member.holding.is_empty());
}

/// A hub's word is good for a day, whatever the record says.
#[test]
fn nobody_is_vouched_for_longer_than_a_day() {
    let mut world = World::new(1, |_, _| {});
    let blank = world.members[0].1.own_record().record().clone();
    let who = Identity::generate().unwrap();
    let record = crate::mesh::record::Record {
        peer: who.id(),
        addresses: vec![address(7)],
        expires: UNIX + 1_000_000,
        ..blank
    };
    let (member, now) = (&mut world.members[0].1, world.now);
    let slot = member.believe(record.sign(&who), now, UNIX).unwrap();
    assert_eq!(member.entry(slot).unwrap().vouched, UNIX + 86_400);
}

#[test]
fn a_denied_peer_gets_nothing() {
    let mut world = World::new(2, |place, config| {
        if place == 1 {
            config.default_rules.policy = crate::mesh::Policy::Deny;
        }
    });
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"let me in");
    world.run(Duration::from_secs(10));
    assert!(world.got(1).is_empty());
    // What waited for it does not wait for ever, and is counted.
    let member = &world.members[0].1;
    assert_eq!(member.status(world.now).drops.get(DropReason::NoSession), 1);
    assert!(member.holding.is_empty());
    assert_ne!(world.stage(0, 1), Some(Stage::Direct));
    assert_ne!(world.stage(0, 1), Some(Stage::Relayed));
}

/// A peer that goes says so; a later packet connects again.
#[test]
fn who_goes_and_comes_back_is_found_again() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"1");
    world.run(Duration::from_secs(1));
    let id: PeerId = world.members[1].1.id();
    let slot = world.members[0].1.slot_of(id).unwrap();
    let now = world.now;
    world.members[0].1.entry_mut(slot).unwrap().peer.stop(now);
    world.run(Duration::from_secs(1));
    assert_eq!(world.stage(1, 0), Some(Stage::Announced));
    assert_eq!(world.send(1, 0, b"back"), Outlet::Held);
    world.run(Duration::from_millis(50));
    assert_eq!(world.got(0), [packet(1, 0, b"back").bytes()]);
}

/// Anybody can send in the hub's name that a peer is not there: it costs a question a second, and no
/// packet.
#[test]
fn a_forged_word_that_a_peer_is_gone_changes_nothing() {
    let mut world = World::new(2, |_, _| {});
    world.closed = vec![world.members[1].0];
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"1");
    world.run(Duration::from_secs(1));
    world.got(1);
    let tag = Tag::from(world.members[1].1.id());
    let forged = crate::mesh::wire::Frame::Absent { tag }.to_bytes();
    let at = world.members[0].0;
    for n in 0..50u8 {
        world.wire.push_back((hub_at(), at, forged.clone()));
        assert!(matches!(
            world.send(0, 1, &[n]),
            Outlet::Open(_, Way::Relay(_), _)
        ));
        world.run(Duration::from_millis(20));
    }
    assert_eq!(world.got(1).len(), 50);
    let finds = world.hub.as_ref().unwrap().status().finds;
    assert!(finds <= 1 + 2, "{finds} questions");
}

/// What only looks as if it came from the hub makes nobody a peer.
#[test]
fn a_forged_introduction_is_not_believed() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    let stranger = Identity::generate().unwrap();
    let record = crate::mesh::record::Record {
        peer: stranger.id(),
        addresses: vec![address(1)],
        ..world.members[1].1.own_record().record().clone()
    };
    let record = record.sign(&stranger).to_bytes();
    let introduce = crate::mesh::wire::Frame::Introduce { record: &record }.to_bytes();
    let datagram = &introduce[..];
    let (tag, hops) = (Tag::from(stranger.id()), 0);
    let forged = crate::mesh::wire::Frame::Relay {
        tag,
        hops,
        datagram,
    }
    .to_bytes();
    world.wire.push_back((hub_at(), world.members[0].0, forged));
    world.deliver();
    assert_eq!(world.drops, [DropReason::NotAuthentic]);
    assert!(world.members[0].1.status(world.now).peers.is_empty());
    assert_eq!(world.send(0, 1, b"1"), Outlet::Held);
    world.run(Duration::from_millis(10));
    assert_eq!(world.got(1).len(), 1);
}

/// A peer may say what is new about it, but not that it has another one's session key.
#[test]
fn nobody_takes_anothers_handshakes_by_claiming_its_session_key() {
    let mut world = World::new(3, |_, _| {});
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"1");
    world.run(Duration::from_secs(1));
    let victim = world.members[2].1.own_record().record().session;
    let thief = world.members[1].1.identity.clone();
    let mut record = world.members[1].1.own_record().record().clone();
    record.session = victim;
    record.sequence += 1;
    let now = world.now;
    let slot = world.members[0].1.slot_of(thief.id()).unwrap();
    world.members[0].1.claimed(slot, record.sign(&thief), now);
    world.run(Duration::from_secs(1));
    assert_ne!(world.members[0].1.by_session.get(&victim), Some(&slot));
    world.send(2, 0, b"2");
    world.run(Duration::from_millis(10));
    assert_eq!(world.got(0), [packet(2, 0, b"2").bytes()]);
}

/// A record that is over ends the peer, and frees what it had.
#[test]
fn who_is_no_member_any_more_is_no_peer_any_more() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"1");
    world.run(Duration::from_secs(1));
    let now = world.now;
    let soon = UNIX + RECORD_LIFETIME.as_secs() - 1;
    world.members[0].1.look_at_ages(now, soon);
    assert_eq!(world.stage(0, 1), Some(Stage::Direct));
    world.members[0].1.look_at_ages(now, soon + 1);
    world.run(Duration::from_millis(100));
    assert_eq!(world.stage(0, 1), Some(Stage::Registered));
    assert_eq!(world.members[0].1.addresses.peer(address(1)), None);
    // The same when no hub vouches for it.
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"1");
    world.run(Duration::from_secs(1));
    let slot = world.members[0].1.slot_of(world.members[1].1.id()).unwrap();
    world.members[0].1.entry_mut(slot).unwrap().vouched = UNIX;
    let now = world.now;
    world.members[0].1.look_at_ages(now, UNIX);
    world.run(Duration::from_millis(100));
    assert_eq!(world.stage(0, 1), Some(Stage::Direct), "the hub still does");
    world.members[0].1.entry_mut(slot).unwrap().vouched = UNIX;
    let now = world.now;
    world.members[0]
        .1
        .check_with(slot, HubId(0), What::Tag([9; 8]), Check::Member, now);
    world.run(Duration::from_millis(100));
    assert_eq!(
        world.stage(0, 1),
        Some(Stage::Registered),
        "it does not know it"
    );
}

/// Who makes keys makes claims, as many as it likes; what is remembered of them is not as many.
#[test]
fn claims_without_number_are_refused_and_not_all_remembered() {
    let mut world = World::new(1, |_, _| {});
    let blank = world.members[0].1.own_record().record().clone();
    let (now, own) = (world.now, address(0));
    for number in 0..1100_u32 {
        let mut secret = [7; 32];
        secret[..4].copy_from_slice(&number.to_be_bytes());
        let claimant = Identity::from_bytes(&secret);
        let record = crate::mesh::record::Record {
            addresses: vec![own],
            ..blank.clone()
        };
        world.members[0]
            .1
            .believe(record.sign(&claimant), now, UNIX);
    }
    assert_eq!(world.members[0].1.conflicts.len(), 1024);
    assert_eq!(world.members[0].1.addresses.peer(own), None);
}

/// A NAT that shows another address all the time: hubs, and everybody who knows us, hear of it now and
/// then.
#[test]
fn what_changes_all_the_time_is_signed_every_few_seconds() {
    let mut world = World::new(1, |_, _| {});
    world.run(Duration::from_secs(20));
    let sequence = |world: &World| world.members[0].1.own_record().record().sequence;
    let (mut signed, mut before) = (0, sequence(&world));
    let local = |n: u16| vec![SocketAddr::from(([198, 51, 100, 10], 5000 + n))];
    for n in 0..300 {
        let now = world.now;
        world.members[0].1.set_local(local(n), now, UNIX);
        world.run(Duration::from_millis(100));
        signed += u32::from(sequence(&world) != before);
        before = sequence(&world);
    }
    assert!((10..=16).contains(&signed), "{signed} in 30 s");
    world.run(Duration::from_secs(4));
    let record = world.members[0].1.own_record().record().clone();
    assert!(record.candidates.contains(&local(299)[0]), "the last one");
    let hub = world.hub.as_ref().unwrap().members(world.now);
    assert_eq!(hub[0].record.record(), &record);
}

/// Who forges a hub's address can name every peer there is.
#[test]
fn hints_that_peers_are_gone_cost_ten_questions_a_second_in_all() {
    const COUNT: usize = 60;
    let mut world = World::new(COUNT, |_, _| {});
    world.run(Duration::from_secs(1));
    for to in 1..COUNT {
        world.send(0, to, b"hello");
    }
    world.run(Duration::from_secs(60));
    let finds = |world: &World| world.hub.as_ref().unwrap().status().finds;
    let before = finds(&world);
    for _ in 0..50 {
        for to in 1..COUNT {
            let tag = Tag::from(world.members[to].1.id());
            let hint = Frame::Absent { tag }.to_bytes();
            let (now, bytes) = (world.now, BytesMut::from(&hint[..]));
            world.members[0].1.udp(hub_at(), bytes, now, UNIX);
        }
        world.run(Duration::from_millis(100));
    }
    let asked = finds(&world) - before;
    assert!((50..=60).contains(&asked), "{asked} in 5 s");
}

/// An authentic datagram from inside of the mesh came by a tunnel: a way there would lead into itself.
#[test]
fn a_way_is_never_inside_of_the_mesh() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_secs(1));
    world.send(0, 1, b"hello");
    world.run(Duration::from_secs(5));
    let packet = packet(0, 1, b"more");
    for (from, passes) in [("10.77.0.9:4000", false), ("203.0.113.9:4000", true)] {
        let sender = &mut world.members[0].1;
        let Outlet::Open(slot, _, wire) = sender.outlet(&packet, world.now) else {
            panic!("no way");
        };
        let mut out = Vec::new();
        assert!(sender.seal(slot, &wire, BytesMut::from(packet.bytes()), &mut out));
        let bytes = BytesMut::from(&out[..]);
        let from = from.parse().unwrap();
        let arrived = world.members[1].1.udp(from, bytes, world.now, UNIX);
        assert_eq!(
            matches!(arrived, Arrived::Packet(..)),
            passes,
            "{arrived:?}"
        );
        let mut to = Vec::new();
        while let Some(out) = world.members[1].1.poll(world.now, UNIX) {
            if let Transmit::Udp(at, _) = out {
                to.push(at);
            }
        }
        assert_eq!(to.contains(&from), passes, "{to:?}");
    }
}

/// What waited is as large as any packet may be now, and counts as sent when it was.
#[test]
fn what_waited_is_sent_if_it_fits_and_counted_as_what_it_came_to() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_secs(1));
    world.members[0].1.set_mtu(600);
    for text in [&[0; 700][..], b"small"] {
        assert_eq!(world.send(0, 1, text), Outlet::Held);
    }
    world.run(Duration::from_secs(1));
    assert_eq!(world.got(1), [packet(0, 1, b"small").bytes()]);
    let status = world.members[0].1.status(world.now);
    assert_eq!(status.drops.get(DropReason::TooBig), 1);
    assert_eq!(status.drops.total(), 1);
    let counters = status.peers[0].counters;
    assert_eq!(counters.tx_relayed[0] + counters.tx_direct[0], 1);
}
