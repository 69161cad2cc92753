//! Any bytes from anywhere: frames, records and messages are read or refused; a hub answers an address
//! that has not proven itself with no more than it sent, and nobody but a member, or the hub's own list,
//! ends its membership: no other hub, whatever it says.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use vpn_p2p::mesh::hub::{Admitted, Hub, HubConfig, Neighbour, Origin};
use vpn_p2p::mesh::record::{Record, SignedRecord};
use vpn_p2p::mesh::testing::{Clock, FakeKeys};
use vpn_p2p::mesh::wire::frame::{carry_header, is_frame, relay_header};
use vpn_p2p::mesh::wire::{
    Asked, Between, Frame, Plain, Tag, ToHub, ToMember, ToPeer, Token, What, control,
};
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
    /// Sealed by another hub: any bytes; somebody of its own, to the member or to nobody.
    Between(&'a [u8]),
    Introduce(u8, bool, u8, u8),
    Ask(u64, [u8; 4], u8),
    /// Carried by another hub: from somebody of its own to the member, or from and to whomever.
    Carry(bool, [u8; 8], [u8; 8], u8, &'a [u8]),
    /// The hub is told of another list: whether the member is on it, and its address.
    Readmit(bool, bool, u8),
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

/// Who has a session with the hub: the member, or another hub.
struct Node {
    identity: Identity,
    record: Record,
    session: Box<dyn Session>,
    at: Origin,
}

struct World {
    hub: Hub,
    clock: Clock,
    member: Node,
    other: Node,
    /// It said Bye, was silent, its record is over, or the list has another one.
    may_be_gone: bool,
    /// The list named it, the last time.
    was_listed: bool,
}

/// The other hub's, and not among those of strangers.
const OTHER: ([u8; 4], u16) = ([198, 51, 100, 9], 9);

fn config() -> HubConfig {
    HubConfig {
        token: Some(Token(TOKEN.to_owned().into())),
        networks: vec!["10.77.0.0/16".parse().unwrap()],
        neighbours: vec![Neighbour::new(Identity::from_bytes(&[3; 32]).id())],
        max_hops: 4,
        ..HubConfig::default()
    }
}

fn record_of(identity: &Identity, keys: &FakeKeys, clock: &Clock, addresses: &[[u8; 4]]) -> Record {
    Record {
        peer: identity.id(),
        name: String::new(),
        session: keys.public(),
        addresses: addresses.iter().map(|it| (*it).into()).collect(),
        routes: Vec::new(),
        candidates: Vec::new(),
        sequence: 1,
        expires: clock.unix() + 80_000,
    }
}

impl Node {
    /// Joins the hub: everything but the registration.
    fn new(hub: &mut Hub, clock: &Clock, number: u8, at: Origin, addresses: &[[u8; 4]]) -> Self {
        let identity = Identity::from_bytes(&[number; 32]);
        let keys = FakeKeys::new(number.into(), clock.clone());
        let record = record_of(&identity, &keys, clock, addresses);
        let mut session = keys.session(hub.record().record().session);
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
        Self {
            identity,
            record,
            session,
            at,
        }
    }

    /// Says it to the hub, sealed; what that answers is opened.
    fn sealed(&mut self, hub: &mut Hub, clock: &Clock, plain: &[u8]) {
        let mut out = Vec::new();
        if self.session.seal(BytesMut::from(plain), &mut out) {
            hub.datagram(self.at, BytesMut::from(&out[..]), clock.now(), clock.unix());
        }
        while let Some((to, answer)) = hub.poll() {
            if to == self.at && !is_frame(&answer) {
                let _ = self.session.open(BytesMut::from(&answer[..]));
            }
        }
    }

    fn register(&mut self, hub: &mut Hub, clock: &Clock) {
        let register = ToHub::Register {
            id: 1,
            token: Some(Token(TOKEN.to_owned().into())),
            record: self.record.clone().sign(&self.identity).to_bytes(),
        };
        self.sealed(hub, clock, &register.to_plain());
    }
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
        let keys = Box::new(FakeKeys::new(1, clock.clone()));
        let mut hub = Hub::new(config(), &hub_identity, keys, clock.now(), clock.unix()).unwrap();
        let mut member = Node::new(&mut hub, &clock, 2, origin(0), &[[10, 77, 0, 2]]);
        let mut other = Node::new(&mut hub, &clock, 3, Origin::Udp(OTHER.into()), &[]);
        member.register(&mut hub, &clock);
        other.register(&mut hub, &clock);
        assert!(hub.is_member(member.at) && hub.is_member(other.at));
        Self {
            hub,
            clock,
            member,
            other,
            may_be_gone: false,
            was_listed: false,
        }
    }

    /// The member says it, sealed.
    fn sealed(&mut self, plain: &[u8]) {
        self.member.sealed(&mut self.hub, &self.clock, plain);
    }

    /// The other hub says it, sealed.
    fn between(&mut self, message: Between) {
        let plain = ToHub::Between(message).to_plain();
        self.other.sealed(&mut self.hub, &self.clock, &plain);
    }

    /// From somebody who has proven nothing.
    fn say(&mut self, place: u8, datagram: &[u8]) {
        let from = origin(place);
        let (now, unix) = (self.clock.now(), self.clock.unix());
        self.hub.datagram(from, BytesMut::from(datagram), now, unix);
        while let Some((to, answer)) = self.hub.poll() {
            // What the member's address sends may go on to the other hub.
            let carried = from == self.member.at && to == self.other.at;
            assert!(carried || to == from && answer.len() <= datagram.len());
        }
    }

    fn step(&mut self, step: Step<'_>) {
        match step {
            Step::Bytes(place, bytes) => {
                read(bytes);
                self.say(place, bytes);
            }
            Step::Join(place, own, at, bytes) => {
                let member = &self.member;
                let mut record = member.record.clone().sign(&member.identity).to_bytes();
                let at = usize::from(at) % record.len();
                record[at] ^= 1;
                let record = if own { &record } else { bytes };
                let cookie = [at as u8; 16];
                self.say(place, &Frame::Join { cookie, record }.to_bytes());
            }
            Step::Relay(place, itself, tag, content) => {
                let tag = if itself {
                    Tag::from(self.member.identity.id())
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
                let member = &mut self.member;
                let before = member.record.clone();
                member.record.sequence = sequence;
                member.record.addresses = vec![address.into()];
                if !known {
                    member.record.expires = sequence;
                    self.may_be_gone = true;
                }
                member.register(&mut self.hub, &self.clock);
                member.record.expires = before.expires;
                // As a member that was refused goes on with what it had.
                if !known {
                    member.record = before;
                }
            }
            Step::Between(plain) => self.other.sealed(&mut self.hub, &self.clock, plain),
            Step::Introduce(number, to_member, hops, hubs) => {
                // Its own, or somebody with the member's address, or the member.
                let identity = Identity::from_bytes(&[number % 8; 32]);
                let keys = FakeKeys::new(number.into(), self.clock.clone());
                let address = [10, 77, 0, number % 4];
                let who = record_of(&identity, &keys, &self.clock, &[address]);
                let to = match to_member {
                    true => Tag::from(self.member.identity.id()).0,
                    false => [number; 8],
                };
                self.between(Between::Introduce {
                    to,
                    record: who.sign(&identity).to_bytes(),
                    hops,
                    hubs,
                });
            }
            Step::Ask(number, address, hops) => self.between(Between::Find {
                asked: Asked {
                    hub: [9; 8],
                    number,
                },
                what: What::Address(address.into()),
                hops,
                visited: Vec::new(),
            }),
            Step::Carry(known, to, from, hops, content) => {
                let (to, from) = match known {
                    true => (
                        Tag::from(self.member.identity.id()),
                        Tag::from(Identity::from_bytes(&[5; 32]).id()),
                    ),
                    false => (Tag(to), Tag(from)),
                };
                let datagram = [&carry_header(to, from, hops)[..], content].concat();
                let (now, unix) = (self.clock.now(), self.clock.unix());
                let at = self.other.at;
                self.hub
                    .datagram(at, BytesMut::from(&datagram[..]), now, unix);
                while self.hub.poll().is_some() {}
            }
            Step::Readmit(listed, by_token, address) => {
                let mut next = config();
                if listed {
                    let addresses = vec![[10, 77, 0, address].into()];
                    let key = self.member.identity.id();
                    next.members = vec![Admitted::new(key, addresses)];
                }
                if !by_token {
                    next.token = None;
                }
                let was_here = self.hub.is_member(self.member.at);
                let gone = self.hub.readmit(&next).unwrap();
                while self.hub.poll().is_some() {}
                let is_here = self.hub.is_member(self.member.at);
                assert!(listed || by_token || !is_here);
                assert!(gone > 0 || is_here == was_here);
                // By the same token as before: nobody has to go.
                self.may_be_gone |= listed || !by_token || self.was_listed;
                self.was_listed = listed;
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
        assert!(world.may_be_gone || world.hub.is_member(world.member.at));
    }
});
