//! Any bytes from anywhere: frames, records and messages are read or refused; a hub answers an address
//! that has not proven itself with no more than it sent, and nobody but a member ends its membership.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use vpn_p2p::mesh::hub::{Hub, HubConfig, Origin};
use vpn_p2p::mesh::record::{Record, SignedRecord};
use vpn_p2p::mesh::testing::{Clock, FakeKeys};
use vpn_p2p::mesh::wire::frame::{is_frame, relay_header};
use vpn_p2p::mesh::wire::{Frame, Plain, Tag, ToHub, ToMember, ToPeer, Token, control};
use vpn_p2p::mesh::{Identity, Keys};
use vpn_p2p::session::{Opened, Session};

const TOKEN: &str = "word";

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// From the member's address, another, or a stream.
    Bytes(u8, &'a [u8]),
    /// The member's cookie with any record; where the flag says so, its own, changed at one place.
    Join(u8, bool, u16, &'a [u8]),
    /// To the member itself, or to whomever.
    Relay(u8, bool, [u8; 8], &'a [u8]),
    /// Sealed by the member.
    Sealed(&'a [u8]),
    /// The member's record with other addresses, sealed.
    Register(u64, [u8; 4], bool),
    Wait(u8),
    Closed(u8),
}

fn read(bytes: &[u8]) {
    if is_frame(bytes)
        && let Ok(frame) = Frame::read(bytes)
    {
        assert_eq!(Frame::read(&frame.to_bytes()), Ok(frame));
    }
    if let Ok(record) = SignedRecord::from_bytes(bytes, 0) {
        assert_eq!(SignedRecord::from_bytes(&record.to_bytes(), 0), Ok(record));
    }
    let _ = control::inner(bytes);
    let _ = (
        ToHub::from_plain(bytes),
        ToMember::from_plain(bytes),
        ToPeer::from_plain(bytes),
    );
}

struct World {
    hub: Hub,
    clock: Clock,
    identity: Identity,
    record: Record,
    session: Box<dyn Session>,
    at: Origin,
    /// It said Bye, was silent, or its record is over.
    may_be_gone: bool,
}

fn origin(place: u8) -> Origin {
    match place % 3 {
        0 => Origin::Udp(SocketAddr::from(([192, 0, 2, 1], 1))),
        1 => Origin::Udp(SocketAddr::from(([203, 0, 113, 6], 6))),
        _ => Origin::Tls(7),
    }
}

impl World {
    fn new() -> Self {
        let clock = Clock::default();
        let hub_identity = Identity::from_bytes(&[1; 32]);
        let config = HubConfig {
            token: Some(Token(TOKEN.to_owned().into())),
            networks: vec!["10.77.0.0/16".parse().unwrap()],
            ..HubConfig::default()
        };
        let keys = Box::new(FakeKeys::new(1, clock.clone()));
        let mut hub = Hub::new(config, &hub_identity, keys, clock.now(), clock.unix()).unwrap();
        let identity = Identity::from_bytes(&[2; 32]);
        let keys = FakeKeys::new(2, clock.clone());
        let record = Record {
            peer: identity.id(),
            name: String::new(),
            session: keys.public(),
            addresses: vec!["10.77.0.2".parse().unwrap()],
            routes: Vec::new(),
            candidates: Vec::new(),
            sequence: 1,
            expires: clock.unix() + 100_000,
        };
        let mut session = keys.session(hub.record().record().session);
        let at = origin(0);
        let mut say = |datagram: &[u8]| {
            hub.datagram(at, BytesMut::from(datagram), clock.now(), clock.unix());
            hub.poll().map(|(_, answer)| answer)
        };
        let welcome = say(&Frame::Hello { nonce: 1 }.to_bytes()).unwrap();
        let Ok(Frame::Welcome { cookie, .. }) = Frame::read(&welcome) else {
            panic!("no welcome");
        };
        let signed = record.clone().sign(&identity).to_bytes();
        let join = Frame::Join {
            cookie,
            record: &signed,
        };
        say(&join.to_bytes());
        let response = say(&session.initiate(false).unwrap()).unwrap();
        if let Opened::Reply(keepalive) = session.open(BytesMut::from(&response[..])) {
            say(&keepalive);
        }
        let mut world = Self {
            hub,
            clock,
            identity,
            record,
            session,
            at,
            may_be_gone: false,
        };
        world.register();
        assert!(world.hub.is_member(at));
        world
    }

    fn register(&mut self) {
        let register = ToHub::Register {
            id: 1,
            token: Some(Token(TOKEN.to_owned().into())),
            record: self.record.clone().sign(&self.identity).to_bytes(),
        };
        self.sealed(&register.to_plain());
    }

    fn sealed(&mut self, plain: &[u8]) {
        let mut out = Vec::new();
        if self.session.seal(BytesMut::from(plain), &mut out) {
            let (now, unix) = (self.clock.now(), self.clock.unix());
            self.hub
                .datagram(self.at, BytesMut::from(&out[..]), now, unix);
        }
        while let Some((to, answer)) = self.hub.poll() {
            if to == self.at && !is_frame(&answer) {
                let _ = self.session.open(BytesMut::from(&answer[..]));
            }
        }
    }

    /// From somebody who has proven nothing.
    fn say(&mut self, place: u8, datagram: &[u8]) {
        let from = origin(place);
        let (now, unix) = (self.clock.now(), self.clock.unix());
        self.hub.datagram(from, BytesMut::from(datagram), now, unix);
        while let Some((to, answer)) = self.hub.poll() {
            assert!(to == from && answer.len() <= datagram.len());
        }
    }

    fn step(&mut self, step: Step<'_>) {
        match step {
            Step::Bytes(place, bytes) => {
                read(bytes);
                self.say(place, bytes);
            }
            Step::Join(place, own, at, bytes) => {
                let mut record = self.record.clone().sign(&self.identity).to_bytes();
                let at = usize::from(at) % record.len();
                record[at] ^= 1;
                let record = if own { &record } else { bytes };
                let cookie = [at as u8; 16];
                self.say(place, &Frame::Join { cookie, record }.to_bytes());
            }
            Step::Relay(place, itself, tag, content) => {
                let tag = if itself {
                    Tag::from(self.identity.id())
                } else {
                    Tag(tag)
                };
                self.say(place, &[&relay_header(tag, 0)[..], content].concat());
            }
            Step::Sealed(plain) => {
                self.may_be_gone |= ToHub::from_plain(plain) == Some(ToHub::Bye);
                self.sealed(plain);
            }
            Step::Register(sequence, address, known) => {
                let before = self.record.clone();
                self.record.sequence = sequence;
                self.record.addresses = vec![address.into()];
                if !known {
                    self.record.expires = sequence;
                    self.may_be_gone = true;
                }
                self.register();
                self.record.expires = before.expires;
                // As a member that was refused goes on with what it had.
                if !known {
                    self.record = before;
                }
            }
            Step::Wait(seconds) => {
                let later = self.clock.now() + Duration::from_secs(seconds.into());
                self.clock.set(later);
                let unix = self.clock.unix();
                self.hub.handle_timeout(later, unix);
                // As the hub's limits have it, and sessions.
                self.may_be_gone |= self.clock.elapsed() >= Duration::from_secs(80);
                while self.hub.poll().is_some() {}
                self.sealed(&[]);
            }
            Step::Closed(connection) => {
                let now = self.clock.now();
                self.hub.closed(connection.into(), now);
            }
        }
    }
}

fuzz_target!(|steps: Vec<Step<'_>>| {
    let mut world = World::new();
    for step in steps.into_iter().take(64) {
        world.step(step);
        let status = world.hub.status();
        assert!(status.members <= 1 && status.provisional == 0, "{status:?}");
        assert!(world.may_be_gone || world.hub.is_member(world.at));
    }
});
