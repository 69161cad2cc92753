//! The link against a small hub with real sessions, on invented time.

mod anything;
mod believed;
mod carriers;
mod life;

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
