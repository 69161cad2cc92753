//! The link against a small hub with real sessions, on invented time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use proptest::prelude::*;
use vpn_core::PeerId;

use super::*;
use crate::mesh::identity::Identity;
use crate::mesh::keys::{Admission, NoiseKeys};
use crate::mesh::record::Record;
use crate::mesh::way::HubId;
use crate::mesh::wire::control::{Inner, Token, inner};
use crate::mesh::wire::frame::HEADER;
use crate::mesh::wire::frame::is_frame;
use crate::mesh::wire::{Plain, Refusal, ToMember};
use crate::session::Opened;
use crate::wg_quick::PrivateKey;

const UNIX: u64 = 1_000;
const MEMBER: &str = "198.51.100.7:4000";
const HUB: &str = "192.0.2.1:51820";
const HUB_V6: &str = "[2001:db8::1]:51820";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn keys() -> NoiseKeys {
    NoiseKeys::new(&PrivateKey::generate().unwrap())
}

fn record(identity: &Identity, session: PublicKey, sequence: u64) -> SignedRecord {
    Record {
        peer: PeerId([0; 32]),
        name: "a".into(),
        session,
        addresses: vec!["10.77.0.2".parse().unwrap()],
        routes: Vec::new(),
        candidates: Vec::new(),
        sequence,
        expires: UNIX + 3_600,
    }
    .sign(identity)
}

/// As much of a hub as one member needs.
struct TinyHub {
    identity: Identity,
    keys: NoiseKeys,
    signs_as: Option<Identity>,
    member: Option<SignedRecord>,
    session: Option<Box<dyn Session>>,
    registered: Vec<u64>,
    refuses: Option<Refusal>,
    heard: Vec<(Carrier, ToHub)>,
    strangers: usize,
    empties: usize,
}

impl TinyHub {
    fn new() -> Self {
        Self {
            identity: Identity::generate().unwrap(),
            keys: keys(),
            signs_as: None,
            member: None,
            session: None,
            registered: Vec::new(),
            refuses: None,
            heard: Vec::new(),
            strangers: 0,
            empties: 0,
        }
    }

    /// What a process forgets that ends.
    fn restart(&mut self) {
        self.keys = keys();
        self.forget();
    }

    fn forget(&mut self) {
        self.member = None;
        self.session = None;
    }

    fn seal(&mut self, message: &ToMember) -> Option<Vec<u8>> {
        let mut plain = message.to_plain();
        plain.resize(plain.len().next_multiple_of(PADDING), 0);
        let mut out = Vec::new();
        let session = self.session.as_mut()?;
        session
            .seal(BytesMut::from(&plain[..]), &mut out)
            .then_some(out)
    }

    fn take(&mut self, via: Carrier, bytes: &[u8]) -> Vec<Vec<u8>> {
        if is_frame(bytes) {
            return match Frame::read(bytes).unwrap() {
                Frame::Hello { nonce } => {
                    let signer = self.signs_as.as_ref().unwrap_or(&self.identity);
                    let mut hub = record(signer, self.keys.public(), 1).record().clone();
                    hub.addresses.clear();
                    vec![
                        Frame::Welcome {
                            nonce,
                            cookie: [7; 16],
                            observed: at(MEMBER),
                            record: &hub.sign(signer).to_bytes(),
                        }
                        .to_bytes(),
                    ]
                }
                Frame::Join { cookie, record } => {
                    assert_eq!(cookie, [7; 16]);
                    let record = SignedRecord::from_bytes(record, UNIX).unwrap();
                    if self.member.as_ref() != Some(&record) {
                        self.session = Some(self.keys.session(record.record().session));
                        self.member = Some(record);
                    }
                    Vec::new()
                }
                other => panic!("{other:?}"),
            };
        }
        let stranger = vec![
            Frame::Stranger {
                echo: *bytes[HEADER..].first_chunk().unwrap(),
            }
            .to_bytes(),
        ];
        let datagram = BytesMut::from(bytes);
        let datagram = match crate::mesh::keys::data_index(bytes) {
            Some(_) => datagram,
            None => match self.keys.admit(at(MEMBER), datagram) {
                Admission::Initiation(_, bytes) | Admission::ForIndex(_, bytes) => bytes,
                // Of an older session key.
                _ => return Vec::new(),
            },
        };
        let opened = self.session.as_mut().map(|it| it.open(datagram));
        match opened {
            None | Some(Opened::Rejected(_)) => {
                self.strangers += 1;
                stranger
            }
            Some(Opened::Reply(reply)) => vec![reply.to_vec()],
            Some(Opened::Packet(plain)) => {
                assert_eq!(inner(&plain), Inner::Control);
                let message = ToHub::from_plain(&plain).unwrap();
                self.heard.push((via, message.clone()));
                self.answer(message).into_iter().collect()
            }
            Some(Opened::Keepalive) => {
                self.empties += 1;
                let mut out = Vec::new();
                if let Some(session) = &mut self.session {
                    session.seal(BytesMut::new(), &mut out);
                }
                vec![out]
            }
            Some(_) => Vec::new(),
        }
    }

    fn answer(&mut self, message: ToHub) -> Option<Vec<u8>> {
        let answer = match message {
            ToHub::Register { id, record, .. } => {
                let record = SignedRecord::from_bytes(&record, UNIX).unwrap();
                match self.refuses.clone() {
                    Some(why) => ToMember::Refused { id, why },
                    None => {
                        self.registered.push(record.record().sequence);
                        ToMember::Registered {
                            id,
                            observed: Some(at(MEMBER)),
                            isolated: false,
                        }
                    }
                }
            }
            ToHub::Ping { nonce } => ToMember::Pong {
                nonce,
                observed: Some(at(MEMBER)),
            },
            ToHub::Find { id, .. } => ToMember::Found {
                id,
                record: self.member.as_ref()?.to_bytes(),
                online: true,
            },
            ToHub::Have { .. } | ToHub::Bye | ToHub::Between(_) => return None,
        };
        self.seal(&answer)
    }
}

/// A link, its hub, and what is between them.
struct World {
    link: Link,
    keys: NoiseKeys,
    identity: Identity,
    hub: TinyHub,
    now: Instant,
    started: Instant,
    udp: bool,
    tls: bool,
    /// Of what comes by UDP only the answers to Hellos arrive.
    deaf: bool,
    /// Percent of questions that are lost.
    lose: u64,
    count: u64,
    /// Answers under way.
    answers: Vec<(Instant, Carrier, Vec<u8>)>,
    events: Vec<(Duration, LinkEvent)>,
    sent: Vec<(Duration, Carrier, Vec<u8>)>,
    tls_opens: Vec<Duration>,
    tls_open: bool,
}

const ONE_WAY: Duration = Duration::from_millis(10);

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut LinkConfig)) -> Self {
        let (hub, now) = (TinyHub::new(), Instant::now());
        let mut config = LinkConfig::new(hub.identity.id(), HubId(0));
        change(&mut config);
        let (identity, keys) = (Identity::generate().unwrap(), keys());
        let mut link = Link::new(config, 5, now);
        link.set_endpoints(vec![at(HUB), at(HUB_V6)], now);
        link.set_record(record(&identity, keys.public(), 1), now);
        Self {
            link,
            keys,
            identity,
            hub,
            now,
            started: now,
            udp: true,
            tls: true,
            deaf: false,
            lose: 0,
            count: 0,
            answers: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
            tls_opens: Vec::new(),
            tls_open: false,
        }
    }

    fn elapsed(&self) -> Duration {
        self.now - self.started
    }

    /// Takes what the link wants, and gives the hub's answers a time.
    fn flush(&mut self) {
        while let Some(out) = self.link.poll() {
            let (via, to, bytes) = match out {
                LinkOut::Udp(to, bytes) => (Carrier::Udp, Some(to), bytes),
                LinkOut::Tls(bytes) => (Carrier::Tls, None, bytes),
                LinkOut::OpenTls(to) => {
                    assert_eq!(to.len(), 2);
                    self.tls_opens.push(self.elapsed());
                    self.tls_open = self.tls;
                    self.answers
                        .push((self.now + ONE_WAY, Carrier::Tls, Vec::new()));
                    continue;
                }
                LinkOut::CloseTls => {
                    self.tls_open = false;
                    continue;
                }
            };
            self.sent.push((self.elapsed(), via, bytes.clone()));
            self.count += 1;
            let passes = match via {
                Carrier::Udp => self.udp && to == Some(at(HUB)),
                Carrier::Tls => self.tls && self.tls_open,
            };
            if passes && (self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 100 >= self.lose {
                for answer in self.hub.take(via, &bytes) {
                    if self.deaf && via == Carrier::Udp && answer.first() != Some(&0x82) {
                        continue;
                    }
                    self.answers.push((self.now + ONE_WAY * 2, via, answer));
                }
            }
        }
        while let Some(event) = self.link.poll_event() {
            self.events.push((self.elapsed(), event));
        }
    }

    fn deliver(&mut self, via: Carrier, bytes: &[u8]) {
        if bytes.is_empty() {
            if self.tls_open {
                self.link.tls_opened(self.now);
            } else {
                self.link.tls_failed(self.now);
            }
            return;
        }
        let from = (via == Carrier::Udp).then(|| at(HUB));
        if is_frame(bytes) {
            let frame = Frame::read(bytes).unwrap();
            self.link
                .frame(via, from, &frame, &self.keys, self.now, UNIX);
        } else {
            let _ =
                self.link
                    .datagram(via, from, BytesMut::from(bytes), &self.keys, self.now, UNIX);
        }
    }

    /// Lets time pass, event by event.
    fn run(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        let mut steps = 0;
        loop {
            self.flush();
            let answer = self.answers.iter().map(|(at, ..)| *at).min();
            let next = [self.link.next_timeout(), answer]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next.filter(|at| *at <= end) else {
                break;
            };
            steps += 1;
            assert!(steps < 20_000, "it does not come to rest");
            self.now = self.now.max(next);
            let due: Vec<_> = {
                let now = self.now;
                let (due, later) = std::mem::take(&mut self.answers)
                    .into_iter()
                    .partition(|(at, ..)| *at <= now);
                self.answers = later;
                due
            };
            for (_, via, bytes) in due {
                self.deliver(via, &bytes);
            }
            self.link.handle_timeout(self.now);
            if let Some(next) = self.link.next_timeout() {
                assert!(next > self.now, "due again at once");
            }
        }
        self.now = end;
    }

    fn is_up(&self) -> bool {
        self.link.way().is_some()
    }

    fn downs(&self) -> usize {
        let down = |(_, event): &&(Duration, LinkEvent)| matches!(event, LinkEvent::Down { .. });
        self.events.iter().filter(down).count()
    }

    fn hellos(&self, via: Carrier) -> Vec<u64> {
        self.sent
            .iter()
            .filter(|(_, by, bytes)| *by == via && bytes.first() == Some(&0x81))
            .map(|(at, ..)| u64::try_from(at.as_millis()).unwrap())
            .collect()
    }

    fn new_record(&mut self, sequence: u64) {
        let record = record(&self.identity, self.keys.public(), sequence);
        self.link.set_record(record, self.now);
    }
}

#[test]
fn it_is_up_after_three_round_trips_and_knows_how_it_is_seen() {
    let mut world = World::new();
    world.run(0.07);
    let up = LinkEvent::Up {
        carrier: Carrier::Udp,
        observed: Some(at(MEMBER)),
    };
    assert_eq!(world.events, [(Duration::from_millis(60), up)]);
    assert_eq!(world.link.way(), Some((Carrier::Udp, at(HUB))));
    assert!(world.tls_opens.is_empty());
    let status = world.link.status();
    assert_eq!((status.state, status.why.as_str()), (LinkState::Up, ""));
    assert_eq!(status.rtt, Some(ONE_WAY * 2));
    assert_eq!(world.hub.registered, [1]);
    // Two Hellos (two endpoints), Join, initiation, registration.
    assert_eq!(world.sent.len(), 5);
}

#[test]
fn lost_datagrams_are_asked_for_again() {
    for lose in [10, 20, 30, 40] {
        let mut world = World::new();
        world.lose = lose;
        world.run(3.0);
        assert!(world.is_up(), "{lose} % are lost");
    }
}

#[test]
fn an_idle_link_is_kept_by_empty_messages_and_three_silences_end_it() {
    let mut world = World::new();
    world.run(110.0);
    assert_eq!(world.hub.empties, 3);
    assert_eq!(world.sent.len(), 5 + 3);
    assert_eq!(world.hub.heard.len(), 1, "the registration");
    (world.udp, world.tls) = (false, false);
    world.run(30.0);
    assert_eq!(world.downs(), 1);
    assert!(!world.is_up());
    world.udp = true;
    world.run(6.0);
    assert!(world.is_up());
}

#[test]
fn the_hub_says_unasked_that_it_sees_us_elsewhere() {
    let mut world = World::new();
    world.run(1.0);
    let observed = at("203.0.113.8:1");
    let told = ToMember::Pong {
        nonce: 0,
        observed: Some(observed),
    };
    let told = world.hub.seal(&told).unwrap();
    world.deliver(Carrier::Udp, &told);
    world.flush();
    assert_eq!(
        world.events.last().map(|it| &it.1),
        Some(&LinkEvent::Observed(observed))
    );
}

#[test]
fn relaying_into_silence_is_noticed_soon() {
    let mut world = World::new();
    world.run(30.0);
    (world.udp, world.tls) = (false, false);
    for _ in 0..50 {
        world.link.relayed(Tag([1; 8]), world.now);
        world.run(0.1);
    }
    assert_eq!(world.downs(), 1);
    // And what is heard counts.
    let mut world = World::new();
    world.run(30.0);
    let before = world.sent.len();
    for _ in 0..50 {
        world.link.relayed(Tag([1; 8]), world.now);
        world.link.relay_heard();
        world.run(0.1);
    }
    assert_eq!((world.downs(), world.sent.len()), (0, before));
}

#[test]
fn without_answer_it_is_tried_after_2_4_8_16_and_every_32_seconds_for_ever() {
    let mut world = World::new();
    (world.udp, world.tls) = (false, false);
    world.run(600.0);
    let hellos = world.hellos(Carrier::Udp);
    assert_eq!(&hellos[..6], [0, 0, 300, 300, 700, 700]);
    let mut rounds: Vec<u64> = hellos.clone();
    rounds.dedup_by(|next, first| *next - *first < 1_600);
    let pauses: Vec<u64> = rounds.windows(2).map(|it| it[1] - it[0]).collect();
    for (pause, full) in pauses.iter().zip([2, 4, 8, 16, 32, 32, 32]) {
        // A round without TLS takes two seconds, then half to all of the pause.
        let (least, most) = (2_000 + full * 500, 2_000 + full * 1_000);
        assert!((least..=most).contains(pause), "{pauses:?}");
    }
    assert!(rounds.len() > 15, "{rounds:?}");
    world.udp = true;
    world.run(34.0);
    assert!(world.is_up(), "it is never given up");
    assert_eq!(world.downs(), 0, "it was never up");
}

#[test]
fn tls_is_tried_after_a_second_and_udp_comes_back_without_a_gap() {
    let mut world = World::new();
    world.udp = false;
    world.run(1.2);
    assert_eq!(world.tls_opens, [Duration::from_secs(1)]);
    assert_eq!(world.link.way(), Some((Carrier::Tls, at(HUB))));
    let status = world.link.status();
    assert_eq!(status.why, "UDP is not answered");
    assert_eq!(status.observed, None);
    world.run(130.0);
    let hellos = world.hellos(Carrier::Udp);
    assert_eq!(hellos.len(), 3 * 3 * 2, "a minute apart: {hellos:?}");
    world.udp = true;
    world.run(70.0);
    assert_eq!(world.link.way(), Some((Carrier::Udp, at(HUB))));
    assert!(!world.tls_open, "closed after the change");
    assert_eq!(world.downs(), 0);
    assert_eq!(world.link.status().counters.returns, 1);
    assert_eq!(world.link.status().why, "");
}

/// A network that lets a first answer in and nothing after it.
#[test]
fn where_only_hellos_are_answered_by_udp_the_next_round_is_by_tls() {
    let mut world = World::new();
    world.deaf = true;
    world.run(8.5);
    assert_eq!(world.link.way(), Some((Carrier::Tls, at(HUB))));
    world.run(60.0);
    let by_tls = |it: &&(Carrier, ToHub)| matches!(it, (Carrier::Tls, ToHub::Ping { .. }));
    assert_eq!(
        world
            .hub
            .heard
            .last()
            .iter()
            .filter(|it| by_tls(it))
            .count(),
        1
    );
    assert_eq!(world.downs(), 0);
    world.deaf = false;
    world.run(60.0);
    assert_eq!(world.link.way(), Some((Carrier::Udp, at(HUB))));
}

#[test]
fn on_the_same_network_tls_is_tried_at_once_and_on_another_it_is_not() {
    let mut world = World::new();
    world.udp = false;
    world.run(10.0);
    world.link.tls_failed(world.now);
    world.tls_open = false;
    world.run(0.5);
    assert!(world.is_up(), "TLS was opened at once");
    world.udp = true;
    world.link.network_changed(world.now);
    world.run(1.0);
    assert_eq!(world.link.way(), Some((Carrier::Udp, at(HUB))));
}

#[test]
fn what_is_not_allowed_is_not_tried() {
    let mut world = World::with(|config| config.tls = false);
    world.udp = false;
    world.run(60.0);
    assert!(world.tls_opens.is_empty() && !world.is_up());
    let mut world = World::with(|config| config.udp = false);
    world.run(0.2);
    assert_eq!(world.link.way(), Some((Carrier::Tls, at(HUB))));
    world.run(200.0);
    assert!(world.hellos(Carrier::Udp).is_empty());
}

#[test]
fn another_key_is_not_believed_and_told() {
    let mut world = World::new();
    world.hub.signs_as = Some(Identity::generate().unwrap());
    world.run(60.0);
    assert!(world.hub.member.is_none(), "nothing was said to it");
    let status = world.link.status();
    assert!(status.why.contains("another key"), "{}", status.why);
    assert!(status.counters.disbelieved > 0);
}

#[test]
fn a_welcome_from_elsewhere_or_for_another_nonce_is_nothing() {
    let mut world = World::new();
    world.udp = false;
    world.flush();
    let hello = world.sent[0].2.clone();
    let welcome = world.hub.take(Carrier::Udp, &hello).remove(0);
    let frame = Frame::read(&welcome).unwrap();
    let elsewhere = Some(at("203.0.113.9:51820"));
    world.link.frame(
        Carrier::Udp,
        elsewhere,
        &frame,
        &world.keys,
        world.now,
        UNIX,
    );
    assert_eq!(world.link.status().state, LinkState::Greeting);
    let mut other = welcome.clone();
    other[HEADER] ^= 1;
    world.deliver(Carrier::Udp, &other);
    assert_eq!(world.link.status().state, LinkState::Greeting);
    world.deliver(Carrier::Tls, &welcome);
    assert_eq!(world.link.status().state, LinkState::Greeting);
    world.deliver(Carrier::Udp, &welcome);
    assert_eq!(world.link.status().state, LinkState::Joining);
}

#[test]
fn a_hub_that_was_started_again_is_joined_again_within_a_second() {
    let mut world = World::new();
    world.run(10.0);
    world.hub.restart();
    world.link.relayed(Tag([3; 8]), world.now);
    let stranger = Frame::Stranger { echo: [3; 8] }.to_bytes();
    world.deliver(Carrier::Udp, &stranger);
    world.run(0.2);
    assert!(world.is_up());
    assert_eq!(world.downs(), 1);
    assert_eq!(world.hub.registered, [1, 1]);
}

#[test]
fn a_hub_that_forgot_us_is_joined_again() {
    let mut world = World::new();
    world.run(10.0);
    world.hub.forget();
    world.run(60.0);
    assert!(world.is_up());
    assert_eq!(world.hub.registered, [1, 1]);
    let (down, up) = (&world.events[1], &world.events[2]);
    assert!(matches!(down.1, LinkEvent::Down { .. }), "{down:?}");
    assert!(up.0 - down.0 < Duration::from_secs(1), "{up:?}");
}

#[test]
fn strangers_cost_a_hello_a_second_at_most_and_only_if_they_repeat_what_we_sent() {
    let mut world = World::new();
    world.run(10.0);
    let before = world.sent.len();
    world.deliver(Carrier::Udp, &Frame::Stranger { echo: [9; 8] }.to_bytes());
    world.flush();
    assert_eq!(world.sent.len(), before);
    assert_eq!(world.link.status().counters.strangers_ignored, 1);
    let hellos = world.hellos(Carrier::Udp).len();
    for _ in 0..100 {
        world.link.relayed(Tag([3; 8]), world.now);
        world.link.relay_heard();
        world.deliver(Carrier::Udp, &Frame::Stranger { echo: [3; 8] }.to_bytes());
        world.run(0.1);
    }
    let more = world.hellos(Carrier::Udp).len() - hellos;
    assert!((9..=11).contains(&more), "{more}");
    assert!(world.is_up());
    assert_eq!(world.downs(), 0, "the question was answered each time");
}

#[test]
fn a_new_record_is_registered_at_once_and_until_it_is_taken() {
    let mut world = World::new();
    world.run(1.0);
    world.udp = false;
    world.tls = false;
    world.new_record(2);
    world.run(0.4);
    world.udp = true;
    world.run(0.5);
    assert_eq!(world.hub.registered, [1, 2]);
    world.new_record(2);
    world.run(5.0);
    assert_eq!(world.hub.registered, [1, 2], "the same is nothing new");
    let refusal = Refusal::Route("10.0.0.0/8".into());
    world.hub.refuses = Some(refusal.clone());
    world.new_record(3);
    world.run(1.0);
    assert!(world.is_up(), "it stays with what the hub knew before");
    assert_eq!(
        world.events.last().map(|it| &it.1),
        Some(&LinkEvent::Refused(refusal))
    );
}

#[test]
fn who_is_refused_is_told_and_tries_again_at_once_with_a_new_record() {
    let mut world = World::new();
    world.hub.refuses = Some(Refusal::Old(7));
    world.run(0.5);
    assert!(!world.is_up());
    assert_eq!(
        world.events.last().map(|it| &it.1),
        Some(&LinkEvent::Refused(Refusal::Old(7)))
    );
    world.hub.refuses = None;
    world.new_record(8);
    world.run(0.5);
    assert!(world.is_up());
    world.hub.refuses = Some(Refusal::NotAdmitted);
    world.new_record(9);
    world.run(0.5);
    assert!(!world.is_up());
    world.hub.refuses = None;
    world.run(5.0);
    assert!(world.is_up(), "it is tried again by itself");
}

#[test]
fn the_token_is_in_the_registration_only() {
    let token = Token("abc".to_owned().into());
    let mut world = World::with(|config| config.token = Some(token.clone()));
    world.run(0.5);
    let (_, first) = &world.hub.heard[0];
    assert!(matches!(first, ToHub::Register { token: Some(it), .. } if *it == token));
    let shows = |(_, _, bytes): &(_, _, Vec<u8>)| bytes.windows(3).any(|it| it == b"abc");
    assert!(!world.sent.iter().any(shows));
    assert!(!format!("{:?}", world.link).contains("abc"));
}

#[test]
fn who_is_looked_for_is_found_or_not_and_nobody_else_is_taken_for_it() {
    let mut world = World::new();
    let wanted = What::Address("10.77.0.2".parse().unwrap());
    world.link.find(1, wanted, world.now);
    world.run(0.5);
    let found = |world: &World, id| {
        let is = |(_, event): &(_, LinkEvent)| matches!(event, LinkEvent::Found { id: it, .. } if *it == id);
        world.events.iter().any(is)
    };
    assert!(found(&world, 1), "asked before it was up");
    world.lose = 50;
    world.link.find(2, wanted, world.now);
    world.run(2.0);
    assert!(found(&world, 2), "asked again");
    world.lose = 0;
    let other = What::Address("10.77.0.9".parse().unwrap());
    world.link.find(3, other, world.now);
    world.run(5.1);
    assert!(!found(&world, 3));
    assert!(
        world
            .events
            .iter()
            .any(|(_, it)| *it == LinkEvent::Unanswered { id: 3 })
    );
    for id in 10..=10 + u32::try_from(MAX_FINDS).unwrap() {
        world.link.find(id, other, world.now);
    }
    world.flush();
    let last = world.events.last().map(|it| it.1.clone());
    let over = 10 + u32::try_from(MAX_FINDS).unwrap();
    assert_eq!(last, Some(LinkEvent::Unanswered { id: over }));
}

#[test]
fn a_change_is_passed_on_and_acknowledged_but_no_forged_one() {
    let mut world = World::new();
    world.run(0.5);
    let peer = Identity::generate().unwrap();
    let new = record(&peer, world.keys.public(), 4);
    let mut forged = new.to_bytes();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    for bytes in [forged, new.to_bytes()] {
        let told = world
            .hub
            .seal(&ToMember::Changed { record: bytes })
            .unwrap();
        world.deliver(Carrier::Udp, &told);
        world.flush();
    }
    let changed = |(_, it): &&(_, LinkEvent)| matches!(it, LinkEvent::Changed(_));
    assert_eq!(world.events.iter().filter(changed).count(), 1);
    let have = ToHub::Have {
        peer: peer.id().0,
        sequence: 4,
    };
    assert_eq!(world.hub.heard.last(), Some(&(Carrier::Udp, have)));
}

#[test]
fn both_ends_say_goodbye() {
    let mut world = World::new();
    world.run(6.0);
    let bye = world.hub.seal(&ToMember::Bye).unwrap();
    world.deliver(Carrier::Udp, &bye);
    world.flush();
    assert_eq!(world.downs(), 1);
    assert!(!world.is_up());
    world.run(3.0);
    assert!(world.is_up(), "after a pause it is tried again");
    world.link.bye(world.now);
    world.run(600.0);
    assert_eq!(world.hub.heard.last(), Some(&(Carrier::Udp, ToHub::Bye)));
    assert_eq!(world.link.status().state, LinkState::Stopped);
    assert_eq!(world.link.next_timeout(), None);
    world.link.network_changed(world.now);
    world.new_record(5);
    assert_eq!(world.link.poll(), None);
}

#[test]
fn another_network_is_asked_at_once() {
    let mut world = World::new();
    (world.udp, world.tls) = (false, false);
    world.run(100.0);
    assert_eq!(world.link.status().state, LinkState::Waiting);
    world.udp = true;
    world.link.network_changed(world.now);
    world.run(0.1);
    assert!(world.is_up());
    world.run(30.0);
    let before = world.hub.heard.len();
    world.link.network_changed(world.now);
    world.run(0.1);
    assert_eq!(world.hub.heard.len(), before + 1, "a question");
    (world.udp, world.tls) = (false, true);
    world.link.network_changed(world.now);
    world.run(2.5);
    assert_eq!(world.link.way().map(|it| it.0), Some(Carrier::Tls));
}

#[test]
fn other_endpoints_are_asked_at_once_and_the_same_in_another_order_are_not() {
    let mut world = World::new();
    (world.udp, world.tls) = (false, false);
    world.run(300.0);
    assert_eq!(world.link.status().state, LinkState::Waiting);
    let before = world.sent.len();
    world
        .link
        .set_endpoints(vec![at(HUB_V6), at(HUB)], world.now);
    world.flush();
    assert_eq!(world.sent.len(), before);
    world
        .link
        .set_endpoints(vec![at("192.0.2.9:51820")], world.now);
    world.flush();
    assert_eq!(world.sent.len(), before + 1);
}

/// What may happen to a link.
#[derive(Clone, Debug)]
enum Happening {
    Pass(u16),
    Udp(bool),
    Tls(bool),
    TlsEnds,
    Restart,
    Forget,
    Refuse(bool),
    Network,
    Relay(u8, bool),
    Stranger(u8),
    Find(u32),
    Record,
    Endpoints(bool),
    Garbage(Vec<u8>),
    Bye,
    Lose(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => any::<u16>().prop_map(Happening::Pass),
        2 => any::<bool>().prop_map(Happening::Udp),
        2 => any::<bool>().prop_map(Happening::Tls),
        1 => Just(Happening::TlsEnds),
        1 => Just(Happening::Restart),
        1 => Just(Happening::Forget),
        1 => any::<bool>().prop_map(Happening::Refuse),
        1 => Just(Happening::Network),
        2 => any::<(u8, bool)>().prop_map(|(tag, heard)| Happening::Relay(tag, heard)),
        1 => any::<u8>().prop_map(Happening::Stranger),
        1 => any::<u32>().prop_map(Happening::Find),
        1 => Just(Happening::Record),
        1 => any::<bool>().prop_map(Happening::Endpoints),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Happening::Garbage),
        1 => Just(Happening::Bye),
        1 => (0u64..60).prop_map(Happening::Lose),
    ]
}

impl World {
    fn happens(&mut self, what: &Happening, sequence: u64) {
        match what {
            Happening::Pass(milliseconds) => self.run(f64::from(*milliseconds) / 1_000.0),
            Happening::Udp(works) => self.udp = *works,
            Happening::Tls(works) => self.tls = *works,
            Happening::TlsEnds => {
                self.tls_open = false;
                self.link.tls_failed(self.now);
            }
            Happening::Restart => self.hub.restart(),
            Happening::Forget => self.hub.forget(),
            Happening::Refuse(refuses) => {
                self.hub.refuses = refuses.then_some(Refusal::NotAdmitted);
            }
            Happening::Network => self.link.network_changed(self.now),
            Happening::Relay(tag, heard) => {
                self.link.relayed(Tag([*tag; 8]), self.now);
                if *heard {
                    self.link.relay_heard();
                }
            }
            Happening::Stranger(tag) => {
                let frame = Frame::Stranger { echo: [*tag; 8] }.to_bytes();
                self.deliver(Carrier::Udp, &frame);
            }
            Happening::Find(id) => {
                let what = What::Peer(self.identity.id().0);
                self.link.find(*id, what, self.now);
            }
            Happening::Record => self.new_record(sequence),
            Happening::Endpoints(first) => {
                let mut both = vec![at(HUB), at(HUB_V6)];
                both.rotate_left(usize::from(*first));
                self.link.set_endpoints(both, self.now);
            }
            Happening::Garbage(bytes) => {
                if !is_frame(bytes) && !bytes.is_empty() {
                    self.deliver(Carrier::Udp, bytes);
                }
            }
            Happening::Bye => {
                if let Some(bye) = self.hub.seal(&ToMember::Bye) {
                    self.deliver(Carrier::Udp, &bye);
                }
            }
            Happening::Lose(every) => self.lose = *every,
        }
        self.flush();
    }
}

/// A registration that was given up made the link due again in the same moment.
#[test]
fn a_record_the_hub_does_not_hear_of_leaves_it_at_rest() {
    let mut world = World::new();
    world.udp = false;
    world.run(1.07);
    world.tls = false;
    world.new_record(2);
    world.run(5.0);
    world.tls = true;
    world.run(10.0);
    assert_eq!(world.hub.registered.last(), Some(&2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happened in whichever order: once the hub can be reached, it is; by UDP if that works; and
    /// what is looked for is answered.
    #[test]
    fn it_always_comes_back(happenings in prop::collection::vec(happening(), 0..60), by_tls in any::<bool>()) {
        let mut world = World::new();
        for (at, what) in happenings.iter().enumerate() {
            world.happens(what, 2 + at as u64);
        }
        (world.udp, world.tls) = (!by_tls, true);
        world.hub.refuses = None;
        world.lose = 0;
        // What is up may be dead without knowing: 60 s until it is asked at the latest, 3 s until it is given
        // up, the longest pause and a round.
        world.run(60.0 + 3.0 + 34.0 + 10.0);
        let way = world.link.way().map(|it| it.0);
        prop_assert_eq!(way, Some(if by_tls { Carrier::Tls } else { Carrier::Udp }));
        let found = world.events.iter().filter(|(_, it)| matches!(it, LinkEvent::Found { .. } | LinkEvent::NotFound { .. } | LinkEvent::Unanswered { .. }));
        let asked: std::collections::BTreeSet<u32> = happenings.iter().filter_map(|it| match it {
            Happening::Find(id) => Some(*id),
            _ => None,
        }).collect();
        prop_assert!(found.count() >= asked.len());
        // Ups and downs alternate, but for a change of the carrier.
        let mut up = false;
        for (_, event) in &world.events {
            match event {
                LinkEvent::Up { .. } => up = true,
                LinkEvent::Down { .. } => {
                    prop_assert!(up);
                    up = false;
                }
                _ => {}
            }
        }
        // And it is no storm: what is sent in any second is bounded.
        let mut per_second = std::collections::BTreeMap::<u64, usize>::new();
        for (at, _, bytes) in &world.sent {
            if bytes.first() == Some(&0x81) {
                *per_second.entry(at.as_secs()).or_default() += 1;
            }
        }
        let changes = happenings.iter().filter(|it| !matches!(it, Happening::Pass(_))).count();
        prop_assert!(per_second.values().all(|count| *count <= 14 + 8 * changes));
    }
}
