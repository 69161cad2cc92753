//! The hub against nodes with real sessions, and against who is none.

use std::net::IpAddr;

use super::*;
use crate::mesh::keys::NoiseKeys;
use crate::mesh::record::Record;
use crate::mesh::wire::frame::{COOKIE, HELLO, relay_header};
use crate::mesh::wire::{Frame, Plain as _, Refusal, ToHub, ToMember, Token, What};
use crate::session::Session;
use crate::wg_quick::{PrivateKey, PublicKey};

mod adversary;
mod members;
pub(super) mod neighbours;
mod readmit;
mod relaying;

pub(super) const UNIX: u64 = 1_800_000_000;

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn token(text: &str) -> Token {
    Token(zeroize::Zeroizing::new(text.to_owned()))
}

pub(super) fn udp(text: &str) -> Origin {
    Origin::Udp(text.parse().unwrap())
}

pub(super) fn noise() -> NoiseKeys {
    NoiseKeys::new(&PrivateKey::generate().unwrap())
}

/// A hub and the time.
pub(super) struct World {
    pub(super) hub: Hub,
    pub(super) now: Instant,
    identity: Identity,
}

impl World {
    pub(super) fn new(config: HubConfig) -> Self {
        let identity = Identity::generate().unwrap();
        let now = Instant::now();
        let hub = Hub::new(config, &identity, Box::new(noise()), now, UNIX).unwrap();
        Self { hub, now, identity }
    }

    /// One that admits by token, in 10.77.0.0/24.
    pub(super) fn open() -> Self {
        Self::new(open())
    }

    pub(super) fn send(&mut self, from: Origin, datagram: &[u8]) -> Vec<(Origin, Vec<u8>)> {
        self.hub
            .datagram(from, BytesMut::from(datagram), self.now, UNIX);
        self.out()
    }

    pub(super) fn out(&mut self) -> Vec<(Origin, Vec<u8>)> {
        std::iter::from_fn(|| self.hub.poll()).collect()
    }

    /// Time passes in seconds, and what the hub says meanwhile.
    pub(super) fn wait(&mut self, seconds: u64) -> Vec<(Origin, Vec<u8>)> {
        let mut said = Vec::new();
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            while self.hub.next_timeout().is_some_and(|at| at <= self.now) {
                self.hub.handle_timeout(self.now, UNIX);
                said.extend(self.out());
            }
        }
        said
    }

    /// The cookie for this place.
    pub(super) fn cookie(&mut self, from: Origin) -> [u8; COOKIE] {
        let answer = self.send(from, &Frame::Hello { nonce: 9 }.to_bytes());
        let [(to, answer)] = &answer[..] else {
            panic!("{answer:?}");
        };
        assert_eq!(*to, from);
        assert!(answer.len() <= HELLO);
        let Ok(Frame::Welcome {
            nonce: 9,
            cookie,
            observed,
            record,
        }) = Frame::read(answer)
        else {
            panic!("no welcome");
        };
        assert_eq!(observed, from.stand_in());
        let record = SignedRecord::from_bytes(record, UNIX).unwrap();
        assert_eq!(record.record().peer, self.identity.id());
        cookie
    }
}

pub(super) fn open() -> HubConfig {
    HubConfig {
        token: Some(token("open sesame")),
        networks: vec!["10.77.0.0/24".parse().unwrap()],
        ..HubConfig::default()
    }
}

/// A node, with its session to a hub.
pub(super) struct Node {
    pub(super) identity: Identity,
    pub(super) keys: NoiseKeys,
    pub(super) at: Origin,
    pub(super) session: Option<Box<dyn Session>>,
    pub(super) record: Record,
    questions: u32,
}

impl Node {
    pub(super) fn new(at: Origin, addresses: &[&str]) -> Self {
        let identity = Identity::generate().unwrap();
        let keys = noise();
        let record = Record {
            peer: identity.id(),
            name: String::new(),
            session: keys.public(),
            addresses: addresses.iter().map(|a| address(a)).collect(),
            routes: Vec::new(),
            candidates: Vec::new(),
            sequence: 1,
            expires: UNIX + 3600,
        };
        Self {
            identity,
            keys,
            at,
            session: None,
            record,
            questions: 0,
        }
    }

    pub(super) fn signed(&self) -> Vec<u8> {
        self.record.clone().sign(&self.identity).to_bytes()
    }

    pub(super) fn tag(&self) -> Tag {
        Tag::from(self.identity.id())
    }

    /// Hello, Join, handshake: everything but Register.
    pub(super) fn join(&mut self, world: &mut World) {
        let cookie = world.cookie(self.at);
        let record = self.signed();
        let join = Frame::Join {
            cookie,
            record: &record,
        };
        assert!(world.send(self.at, &join.to_bytes()).is_empty());
        let hub = world.hub.record().record().session;
        let mut session = self.keys.session(hub);
        let initiation = session.initiate(false).unwrap();
        let answer = world.send(self.at, &initiation);
        let [(to, response)] = &answer[..] else {
            panic!("no response: {answer:?}");
        };
        assert_eq!(*to, self.at);
        let Opened::Reply(keepalive) = session.open(BytesMut::from(&response[..])) else {
            panic!("no session");
        };
        world.send(self.at, &keepalive);
        self.session = Some(session);
    }

    pub(super) fn seal(&mut self, message: &ToHub) -> Vec<u8> {
        let mut plain = message.to_plain();
        plain.resize(plain.len().next_multiple_of(16), 0);
        self.seal_bytes(&plain)
    }

    fn seal_bytes(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let session = self.session.as_mut().unwrap();
        assert!(session.seal(BytesMut::from(plain), &mut out));
        out
    }

    /// What of these datagrams is for it, opened.
    pub(super) fn open(&mut self, said: &[(Origin, Vec<u8>)]) -> Vec<ToMember> {
        let mut opened = Vec::new();
        for (to, datagram) in said {
            if *to != self.at || is_frame(datagram) {
                continue;
            }
            let session = self.session.as_mut().unwrap();
            if let Opened::Packet(plain) = session.open(BytesMut::from(&datagram[..])) {
                opened.push(ToMember::from_plain(&plain).unwrap());
            }
        }
        opened
    }

    pub(super) fn ask(&mut self, world: &mut World, message: &ToHub) -> Vec<ToMember> {
        let sealed = self.seal(message);
        let said = world.send(self.at, &sealed);
        self.open(&said)
    }

    pub(super) fn register_with(
        &mut self,
        world: &mut World,
        token: Option<Token>,
    ) -> Result<bool, Refusal> {
        self.questions += 1;
        let id = self.questions;
        let record = self.signed();
        match &self.ask(world, &ToHub::Register { id, token, record })[..] {
            [
                ToMember::Registered {
                    id: answered,
                    isolated,
                    ..
                },
            ] if *answered == id => Ok(*isolated),
            [ToMember::Refused { id: answered, why }] if *answered == id => Err(why.clone()),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn register(&mut self, world: &mut World) -> Result<bool, Refusal> {
        self.register_with(world, Some(token("open sesame")))
    }

    /// A member at once.
    pub(super) fn member(world: &mut World, at: &str, addresses: &[&str]) -> Self {
        let mut node = Self::new(udp(at), addresses);
        node.join(world);
        assert_eq!(node.register(world), Ok(world.hub.config.isolation));
        node
    }

    pub(super) fn find(&mut self, world: &mut World, what: What) -> Option<(SignedRecord, bool)> {
        match self.ask(world, &ToHub::Find { id: 77, what }).remove(0) {
            ToMember::Found {
                id: 77,
                record,
                online,
            } => Some((SignedRecord::from_bytes(&record, UNIX).unwrap(), online)),
            ToMember::NotFound { id: 77 } => None,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn finds(&mut self, world: &mut World, what: &str) -> Option<PublicKey> {
        let found = self.find(world, What::Address(address(what)));
        found.map(|(record, _)| record.record().session)
    }

    pub(super) fn is_here(&mut self, world: &mut World) -> bool {
        let pong = self.ask(world, &ToHub::Ping { nonce: 3 });
        matches!(pong[..], [ToMember::Pong { nonce: 3, .. }])
    }

    pub(super) fn relay(&self, to: Tag, inner: &[u8]) -> Vec<u8> {
        [&relay_header(to, 0)[..], inner].concat()
    }
}
