//! Two peers against each other over a relay and a direct cable that come and go: whatever happens in
//! whatever order, nothing is believed before it is proven, and who wants a session gets one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::mesh::identity::Identity;
use crate::mesh::keys::NoiseKeys;
use crate::mesh::record::Record;
use crate::mesh::testing::{Clock, FakeKeys};
use crate::mesh::wire::Plain as _;

const HUB: HubId = HubId(0);
/// Length of a packet of a user; no message has it.
const PACKET: usize = 300;
const UNIX: u64 = 1_700_000_000;

/// What connects them.
#[derive(Clone, Copy, Debug)]
struct Cables {
    relay: bool,
    /// From the first to the second, and back.
    direct: [bool; 2],
    /// Of a hundred datagrams so many are lost, by every way.
    loss: u32,
}

struct Pair {
    clock: Clock,
    keys: [Box<dyn Keys>; 2],
    peers: [Peer; 2],
    wire: VecDeque<(usize, Way, Vec<u8>)>,
    cables: Cables,
    random: u64,
    /// Whether the one's datagrams ever reached the other directly, by sender.
    arrived_directly: [bool; 2],
    received: [usize; 2],
    /// Packets of users that the cables lost.
    lost: usize,
    sent: [usize; 2],
}

fn at(place: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1 + place as u8], 4000))
}

impl Pair {
    fn new() -> Self {
        let clock = Clock::default();
        let keys = [1, 2].map(|number| {
            let keys: Box<dyn Keys> = Box::new(FakeKeys::new(number, clock.clone()));
            keys
        });
        Self::with_keys(clock, keys)
    }

    fn with_keys(clock: Clock, keys: [Box<dyn Keys>; 2]) -> Self {
        let people = [1_u8, 2].map(|number| Identity::from_bytes(&[number; 32]));
        let records = [0, 1].map(|place| {
            let record = Record {
                peer: people[place].id(),
                name: String::new(),
                session: keys[place].public(),
                addresses: Vec::new(),
                routes: Vec::new(),
                candidates: vec![at(place)],
                sequence: 1,
                expires: u64::MAX,
            };
            record.sign(&people[place])
        });
        let now = clock.now();
        let peers = [0, 1].map(|place| {
            let other = &records[1 - place];
            let routed = Routed {
                peer: other.record().peer,
            };
            let config = PeerConfig::default();
            let own = records[place].clone();
            let mut peer = Peer::new(routed, PeerRules::default(), &config, own, place as u64);
            assert_eq!(peer.stage(), Stage::Registered);
            peer.set_record(other.clone(), &[at(1 - place)], &*keys[place], now);
            assert_eq!(peer.stage(), Stage::Announced);
            peer.set_relays(&[(HUB, Carrier::Udp)], now);
            peer
        });
        Self {
            clock,
            keys,
            peers,
            wire: VecDeque::new(),
            cables: Cables {
                relay: true,
                direct: [true; 2],
                loss: 0,
            },
            random: 1,
            arrived_directly: [false; 2],
            received: [0; 2],
            lost: 0,
            sent: [0; 2],
        }
    }

    fn is_lost(&mut self) -> bool {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((self.random >> 33) % 100) < u64::from(self.cables.loss)
    }

    fn deliver(&mut self) {
        let now = self.clock.now();
        loop {
            for place in 0..2 {
                while let Some(out) = self.peers[place].poll(now) {
                    if let PeerOut::Datagram(way, datagram) = out {
                        self.wire.push_back((place, way, datagram));
                    }
                }
                while self.peers[place].poll_event().is_some() {}
            }
            let Some((from, way, datagram)) = self.wire.pop_front() else {
                return;
            };
            self.sent[from] += 1;
            let (open, seen) = match way {
                Way::Relay(hub) => (self.cables.relay, Way::Relay(hub)),
                Way::Direct(to) => (
                    self.cables.direct[from] && to == at(1 - from),
                    Way::Direct(at(from)),
                ),
            };
            if !open || self.is_lost() {
                self.lost += usize::from(datagram.len() == PACKET + 32);
                continue;
            }
            self.arrived_directly[from] |= seen.is_direct();
            let datagram = BytesMut::from(&datagram[..]);
            if let Arrival::Packet(_) = self.peers[1 - from].datagram(seen, datagram, UNIX, now) {
                self.received[1 - from] += 1;
            }
        }
    }

    fn check(&self) {
        for (place, peer) in self.peers.iter().enumerate() {
            if peer.stage() == Stage::Direct {
                assert!(
                    self.arrived_directly[place],
                    "direct, and nothing ever arrived so"
                );
            }
            if peer.attempts.are_wanted() && !peer.is_ready() {
                assert!(
                    peer.next_timeout().is_some(),
                    "wanted, and never tried again"
                );
            }
        }
    }

    fn run(&mut self, time: Duration) {
        /// More wake-ups than that at one moment, and time would stand still.
        const AT_ONCE: usize = 20;
        let end = self.clock.now() + time;
        let mut times = 0;
        self.deliver();
        loop {
            let next = self.peers.iter().filter_map(Peer::next_timeout).min();
            let Some(next) = next.filter(|at| *at <= end) else {
                break;
            };
            times = if next > self.clock.now() {
                0
            } else {
                times + 1
            };
            assert!(times < AT_ONCE, "due again and again");
            self.clock.set(next);
            let now = self.clock.now();
            for peer in &mut self.peers {
                if peer.next_timeout().is_some_and(|at| at <= now) {
                    peer.handle_timeout(now);
                    while peer.poll_event().is_some() {}
                }
            }
            self.deliver();
            self.check();
        }
        self.clock.set(end);
    }

    /// A packet of a user; `false` if it could not be sent.
    fn send(&mut self, from: usize) -> bool {
        let now = self.clock.now();
        let peer = &mut self.peers[from];
        let Some(way) = peer.way() else {
            peer.demand(now);
            return false;
        };
        let mut out = Vec::new();
        if !peer.seal(BytesMut::from(&[0x45; PACKET][..]), &mut out) {
            peer.demand(now);
            return false;
        }
        peer.sent(way, 1, PACKET as u64, now);
        self.wire.push_back((from, way, out));
        self.deliver();
        true
    }

    fn connect(&mut self) {
        let now = self.clock.now();
        self.peers[0].demand(now);
        self.run(Duration::from_secs(3));
        assert_eq!(self.peers.each_ref().map(Peer::stage), [Stage::Direct; 2]);
    }
}

/// L-11: what connects two peers comes to an end once they are connected.
#[test]
fn relayed_first_then_direct_then_quiet() {
    let mut pair = Pair::new();
    pair.connect();
    assert_eq!(pair.peers[0].counters().attempts, 1);
    // What is left of connecting is over after a while; then 100 s are at most four packets each way.
    pair.run(Duration::from_secs(30));
    for round in 0..5 {
        let before = pair.sent;
        pair.run(Duration::from_secs(100));
        let sent = [0, 1].map(|side| pair.sent[side] - before[side]);
        assert!(
            sent.iter().all(|sent| (1..=4).contains(sent)),
            "{sent:?} in 100 s, round {round}"
        );
        assert_eq!(
            pair.peers.each_ref().map(Peer::stage),
            [Stage::Direct; 2],
            "round {round}"
        );
    }
}

#[test]
fn nobody_wants_an_idle_peer_for_ever() {
    let mut pair = Pair::new();
    pair.connect();
    pair.run(Duration::from_secs(700));
    assert_eq!(
        pair.peers.each_ref().map(Peer::stage),
        [Stage::Announced; 2]
    );
    let before = pair.sent;
    pair.run(Duration::from_secs(3600));
    assert_eq!(pair.sent, before, "gone is silent");
    pair.connect();
}

/// L-12, and the design: each direction is judged by what the other side reports.
#[test]
fn a_way_that_is_dead_in_one_direction_is_left_by_who_sends_there_only() {
    let mut pair = Pair::new();
    pair.connect();
    pair.cables.direct[0] = false;
    let mut got = 0;
    for _ in 0..40 {
        let before = pair.received;
        pair.send(0);
        pair.send(1);
        got += pair.received[1] - before[1];
        pair.run(Duration::from_millis(100));
    }
    assert!(got >= 20, "{got} of 40: at most 2 s are lost");
    assert_eq!(pair.peers[0].stage(), Stage::Relayed);
    assert_eq!(pair.peers[1].stage(), Stage::Direct, "its direction works");
}

/// L-12: who did not get a challenge cannot answer it: packets go nowhere that was not proven.
#[test]
fn answers_that_are_guessed_prove_nothing() {
    let mut pair = Pair::new();
    pair.cables.direct = [false, true];
    pair.peers[0].demand(pair.clock.now());
    for _ in 0..60 {
        let now = pair.clock.now();
        for nonce in 0..40 {
            let pong = ToPeer::Pong {
                nonce,
                observed: None,
            };
            pair.peers[1].send_sealed(Way::Relay(HUB), &pong.to_plain(), now);
        }
        pair.run(Duration::from_millis(50));
        assert_ne!(pair.peers[0].stage(), Stage::Direct);
    }
    assert_eq!(pair.peers[0].stage(), Stage::Relayed);
}

#[test]
fn attempts_are_repeated_with_growing_pauses_until_there_is_a_session_or_a_stop() {
    let mut pair = Pair::new();
    pair.cables.relay = false;
    pair.cables.direct = [false; 2];
    let now = pair.clock.now();
    pair.peers[0].demand(now);
    let mut times = Vec::new();
    for _ in 0..300 {
        let before = pair.peers[0].counters().attempts;
        pair.run(Duration::from_secs(1));
        if pair.peers[0].counters().attempts > before {
            times.push(pair.clock.elapsed().as_secs());
        }
    }
    let pauses: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (pause, limit) in pauses.iter().zip([2, 4, 8, 16, 32, 32, 32, 32]) {
        assert!((limit / 2..=limit + 1).contains(pause), "{pauses:?}");
    }
    assert!(times.len() >= 9, "it never gives up: {times:?}");
    pair.cables.relay = true;
    pair.run(Duration::from_secs(33));
    assert!(pair.peers[0].is_ready());
    pair.peers[0].stop(pair.clock.now());
    pair.run(Duration::from_secs(1));
    assert!(!pair.peers.iter().any(Peer::is_ready));
    assert_eq!(pair.peers[0].next_timeout(), None);
}

/// A session key that changes: the old session serves until packets go by the new one.
#[test]
fn a_record_of_another_session_key_begins_another_session() {
    let mut pair = Pair::new();
    pair.connect();
    let other = FakeKeys::new(3, pair.clock.clone());
    let person = Identity::from_bytes(&[2; 32]);
    let record = Record {
        session: other.public(),
        sequence: 2,
        ..pair.peers[0].record().unwrap().record().clone()
    };
    let now = pair.clock.now();
    let signed = record.sign(&person);
    let keys = &*pair.keys[0];
    pair.peers[0].set_record(signed.clone(), &[at(1)], keys, now);
    let mut fresh = Peer::new(
        Routed {
            peer: pair.peers[1].id(),
        },
        PeerRules::default(),
        &PeerConfig::default(),
        signed,
        9,
    );
    fresh.set_record(
        pair.peers[1].record().unwrap().clone(),
        &[at(0)],
        &other,
        now,
    );
    fresh.set_relays(&[(HUB, Carrier::Udp)], now);
    pair.peers[1] = fresh;
    pair.keys[1] = Box::new(other);
    pair.send(0);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.peers.each_ref().map(Peer::stage), [Stage::Direct; 2]);
}

/// L-20: keys change under traffic and loss, by either side, with real cryptography: what is lost is
/// what the cables lost.
#[test]
fn changing_keys_loses_nothing_beyond_what_the_network_loses() {
    let keys = [(); 2].map(|()| {
        let key = crate::wg_quick::PrivateKey::generate().unwrap();
        let keys: Box<dyn Keys> = Box::new(NoiseKeys::new(&key));
        keys
    });
    let mut pair = Pair::with_keys(Clock::default(), keys);
    pair.connect();
    pair.cables.loss = 20;
    let (mut sent, mut renewed) = (0, 0);
    for round in 0..60 {
        let now = pair.clock.now();
        let side = round % 2;
        let way = pair.peers[side].way().unwrap();
        if let Some(init) = pair.peers[side].session.as_mut().unwrap().1.initiate(true) {
            pair.peers[side].send(way, init.to_vec(), now);
            renewed += 1;
        }
        for _ in 0..10 {
            for from in 0..2 {
                sent += usize::from(pair.send(from));
            }
        }
        pair.run(Duration::from_millis(50));
    }
    let received: usize = pair.received.iter().sum();
    assert_eq!((sent, renewed), (60 * 20, 60));
    assert!(
        pair.lost > 100,
        "{} lost: the cables are too good",
        pair.lost
    );
    assert_eq!(received + pair.lost, sent);
}

#[derive(Clone, Debug)]
enum Event {
    Demand(usize),
    Send(usize, u8),
    Cables(bool, bool, bool, u32),
    Relays(usize, bool),
    Network(usize),
    Stop(usize),
    Garbage(usize, bool, Vec<u8>),
    Run(u32),
}

fn event() -> impl Strategy<Value = Event> {
    let side = 0_usize..2;
    prop_oneof![
        2 => side.clone().prop_map(Event::Demand),
        6 => (side.clone(), 1_u8..10).prop_map(|(from, count)| Event::Send(from, count)),
        3 => (any::<bool>(), any::<bool>(), any::<bool>(), 0_u32..40)
            .prop_map(|(relay, there, back, loss)| Event::Cables(relay, there, back, loss)),
        1 => (side.clone(), any::<bool>()).prop_map(|(at, on)| Event::Relays(at, on)),
        1 => side.clone().prop_map(Event::Network),
        1 => side.clone().prop_map(Event::Stop),
        1 => (side, any::<bool>(), prop::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(at, direct, bytes)| Event::Garbage(at, direct, bytes)),
        8 => (1_u32..20_000).prop_map(Event::Run),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_happens_who_wants_a_session_gets_one_in_the_end(
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut pair = Pair::new();
        for event in events {
            let now = pair.clock.now();
            match event {
                Event::Demand(at) => pair.peers[at].demand(now),
                Event::Send(from, count) => {
                    for _ in 0..count {
                        pair.send(from);
                    }
                }
                Event::Cables(relay, there, back, loss) => {
                    pair.cables = Cables { relay, direct: [there, back], loss };
                }
                Event::Relays(at, on) => {
                    let relays = [(HUB, Carrier::Udp)];
                    pair.peers[at].set_relays(if on { &relays } else { &[] }, now);
                }
                Event::Network(at) => pair.peers[at].network_changed(now),
                Event::Stop(at) => pair.peers[at].stop(now),
                Event::Garbage(to, direct, bytes) => {
                    let way = if direct { Way::Direct(at(1 - to)) } else { Way::Relay(HUB) };
                    let before = pair.peers[to].stage();
                    let arrival = pair.peers[to].datagram(way, BytesMut::from(&bytes[..]), UNIX, now);
                    prop_assert!(!matches!(arrival, Arrival::Packet(_) | Arrival::Super(..)));
                    prop_assert_eq!(before, pair.peers[to].stage());
                }
                Event::Run(ms) => pair.run(Duration::from_millis(u64::from(ms))),
            }
            pair.deliver();
            pair.check();
        }
        // Once everything works, both are connected, and directly, for as long as somebody wants it.
        pair.cables = Cables { relay: true, direct: [true; 2], loss: 0 };
        let now = pair.clock.now();
        for peer in &mut pair.peers {
            peer.set_relays(&[(HUB, Carrier::Udp)], now);
        }
        let mut delivered = 0;
        for _ in 0..2000 {
            let before = pair.received[1];
            pair.send(0);
            pair.send(1);
            delivered += pair.received[1] - before;
            pair.run(Duration::from_millis(100));
        }
        prop_assert!(delivered >= 1000, "{} of 2000", delivered);
        prop_assert_eq!(pair.peers.each_ref().map(Peer::stage), [Stage::Direct; 2]);
    }
}

/// Each record is a signature to check: more than one a second is not looked at, and not answered, so
/// that its peer says it again.
#[test]
fn records_are_looked_at_once_a_second() {
    let mut pair = Pair::new();
    pair.connect();
    pair.run(Duration::from_secs(5));
    let identity = Identity::from_bytes(&[2; 32]);
    let mut record = pair.peers[0].record().unwrap().record().clone();
    let (mut looked_at, mut last) = (0, 0);
    for n in 0..1000_u64 {
        let now = pair.clock.now();
        record.sequence = 10 + n;
        let plain = ToPeer::Record {
            record: record.clone().sign(&identity).to_bytes(),
            whole: false,
        };
        let plain = plain.to_plain();
        pair.peers[0].control(Way::Relay(HUB), &plain, UNIX, now);
        while let Some(event) = pair.peers[0].poll_event() {
            if let PeerEvent::Record(record) = event {
                looked_at += 1;
                last = record.record().sequence;
            }
        }
        pair.run(Duration::from_millis(10));
    }
    assert!((10..=13).contains(&looked_at), "{looked_at} in 10 s");
    assert!(last > 900, "the newest of each second: {last}");
}
