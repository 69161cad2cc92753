//! A hub: where nodes register, find each other, learn how they are seen from outside, and are relayed
//! while they have no direct way. It reads no traffic: what it relays is sealed between its members.
//!
//! | Module | What it decides, or touches |
//! |---|---|
//! | [`Hub`] | everything, without a socket |
//! | `cookie` | whether who writes from an address receives there |
//! | `claims` | whose an address is |
//! | `sessions` | which session a datagram is for |
//! | `readmit` | who stays when the list of members is another one |
//! | `watch` | who is told about changes |
//! | `neighbours` | what hubs do for each other |
//! | [`HubServer`] | a hub with its sockets and tasks |
//!
//! # Before an address is proven
//!
//! A Hello costs one code over an address and one answer that is not longer; nothing is remembered. A
//! Join is looked at only with the cookie of that answer, and a handshake only where somebody joined or
//! is a member. So who forges source addresses makes the hub compute codes, and nothing else.
//!
//! # Who is where
//!
//! A session is found by the name that its datagrams bear, never by where they come from. A member
//! that is heard from elsewhere, with something only it can have sealed, is there from then on: so a
//! change of NAT mappings costs nothing. From UDP to TLS and back it goes by registering or by a Ping,
//! which who joined asks where a Welcome reached it; what else comes by the one says nothing about
//! whether the other leads back.
//!
//! A datagram to be relayed has no proof in it. It is taken from addresses where members are, so who
//! forges such an address can send what the receiver throws away, charged to that member.
//!
//! # Contract
//!
//! After every call: send what [`poll`](Hub::poll) has, until it has nothing; call
//! [`handle_timeout`](Hub::handle_timeout) when [`next_timeout`](Hub::next_timeout) says so.

mod claims;
mod config;
mod control;
mod cookie;
mod frames;
mod measure;
mod neighbours;
mod presence;
mod readmit;
mod register;
mod relay;
mod serve;
mod sessions;
mod status;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use vpn_core::PeerId;

pub use config::{Admitted, HubConfig, HubError, Limits};
pub use neighbours::{
    Carried, MAX_HOPS, MAX_NEIGHBOURS, Neighbour, NeighbourLimits, NeighbourStatus,
};
pub use relay::Relayed;
pub use serve::{HubServer, Listen, ServeError, ServerStatus, TlsLimits};
pub use status::{HubStatus, MemberStatus};

use super::identity::Identity;
pub use super::limit::Rate;

use super::keys::{Admission, Keys, data_index, sender_index};
use super::limit::{Bucket, Sources};
use super::record::SignedRecord;
use super::wire::Tag;
use super::wire::frame::is_frame;
use crate::session::Opened;
use claims::Claims;
use config::List;
use cookie::Cookies;
use neighbours::Neighbours;
use presence::Turn;
use sessions::{SessionId, Sessions};
use watch::Watch;

/// How often sessions keep time and silent members are looked for. Here it is never the hub that
/// begins a handshake, so a second is often enough.
const BEAT: Duration = Duration::from_secs(1);

/// Longest datagram, but for those that are relayed: a record with what is around it fits.
const MAX_CONTROL: usize = 2048;

/// Where a datagram comes from, or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// A UDP address.
    Udp(SocketAddr),
    /// The streams of one client over TLS, by the number its shell gave them: none is used twice.
    Tls(u64),
}

type Origins<V> = HashMap<Origin, V>;

impl Origin {
    /// Whether a member that is heard at one is at the other from then on.
    const fn is_like(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Udp(_), Self::Udp(_)) | (Self::Tls(_), Self::Tls(_))
        )
    }

    const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Udp(address) => Some(address),
            Self::Tls(_) => None,
        }
    }

    /// An address that stands for it where one is needed: of a stream one that no datagram comes from
    /// (RFC 4291 §2.5.3).
    fn stand_in(self) -> SocketAddr {
        match self {
            Self::Udp(address) => address,
            Self::Tls(connection) => {
                let bits = (0xfd00 << 112) | u128::from(connection);
                SocketAddr::from((Ipv6Addr::from(bits), 0))
            }
        }
    }
}

/// A member, here or away.
#[derive(Debug)]
struct Member {
    record: SignedRecord,
    /// While it is here: its session, and where.
    here: Option<(SessionId, Origin)>,
    heard: Instant,
    listed: bool,
    reaches_all: bool,
    /// New records, whatever session they come by.
    registrations: Bucket,
    /// Its questions that other hubs are asked.
    questions: Bucket,
    relay_bytes: Bucket,
    relay_packets: Bucket,
    relayed: u64,
}

/// Everything a hub decides.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    list: List,
    identity: Identity,
    record: SignedRecord,
    record_bytes: Vec<u8>,
    keys: Box<dyn Keys>,
    cookies: Cookies,
    joins: Sources,
    strangers: Sources,
    sessions: Sessions,
    /// By the beginning of their keys, of which there is one of each.
    members: HashMap<Tag, Member>,
    /// Which member is there.
    places: Origins<Tag>,
    claims: Claims,
    watch: Watch,
    neighbours: Neighbours,
    out: VecDeque<(Origin, Vec<u8>)>,
    next_beat: Instant,
    turn: Turn,
    status: HubStatus,
}

impl Hub {
    /// A hub without members. `unix` is the time in seconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// [`HubError`].
    pub fn new(
        config: HubConfig,
        identity: &Identity,
        keys: Box<dyn Keys>,
        now: Instant,
        unix: u64,
    ) -> Result<Self, HubError> {
        let record = frames::hub_record(&config, identity, &*keys, unix);
        let neighbours = Neighbours::new(&config, identity.id(), now)?;
        let mut hub = Self {
            list: List::new(&config)?,
            identity: identity.clone(),
            record_bytes: record.to_bytes(),
            record,
            keys,
            cookies: Cookies::new(now)?,
            joins: Sources::new(config.limits.joins, now),
            strangers: Sources::new(config.limits.strangers, now),
            sessions: Sessions::default(),
            members: HashMap::new(),
            places: HashMap::new(),
            claims: Claims::default(),
            watch: Watch::default(),
            neighbours,
            out: VecDeque::new(),
            next_beat: now + BEAT,
            turn: Turn::default(),
            status: HubStatus::default(),
            config,
        };
        hub.join_neighbours(now);
        Ok(hub)
    }

    /// Who it is.
    pub fn id(&self) -> PeerId {
        self.identity.id()
    }

    /// What it says about itself.
    pub const fn record(&self) -> &SignedRecord {
        &self.record
    }

    /// A datagram came. Any bytes are met; what is to be relayed may come here as well as to
    /// [`relay`](Self::relay), and is then found in [`poll`](Self::poll).
    pub fn datagram(&mut self, from: Origin, datagram: BytesMut, now: Instant, unix: u64) {
        if is_frame(&datagram) {
            self.frame(from, datagram, now, unix);
            return;
        }
        if datagram.len() > MAX_CONTROL {
            self.status.malformed += 1;
            return;
        }
        let mut name = data_index(&datagram);
        let mut id = name.and_then(|name| self.sessions.by_name(name));
        let echo = echo(&datagram);
        let mut datagram = match id {
            Some(_) => datagram,
            None => match self.datagram_of_hub(from, datagram, now, unix) {
                Some(datagram) => datagram,
                None => return,
            },
        };
        if name.is_none() {
            // Whoever can be asked to compute must be where answers arrive.
            if !self.is_known(from) {
                self.stranger(from, echo, now);
                return;
            }
            match self.keys.admit(from.stand_in(), datagram) {
                Admission::Initiation(key, initiation) => {
                    id = self.with_key(from, key);
                    datagram = initiation;
                }
                Admission::ForIndex(index, rest) => {
                    name = Some(index);
                    id = self.sessions.by_name(index);
                    datagram = rest;
                }
                Admission::Reply(cookie) => {
                    self.out.push_back((from, cookie.into()));
                    return;
                }
                Admission::Rejected => {
                    self.status.not_authentic += 1;
                    return;
                }
            }
        }
        let Some(held) = id.and_then(|id| self.sessions.get_mut(id)) else {
            self.stranger(from, echo, now);
            return;
        };
        let Some(id) = id else { return };
        match held.session.open(datagram) {
            Opened::Packet(plain) => {
                self.heard(id, from, now);
                self.control(id, from, &plain, now, unix);
            }
            Opened::Keepalive => {
                if self.heard(id, from, now) {
                    self.seal(id, from, BytesMut::new());
                }
            }
            Opened::Reply(reply) => {
                if let Some(ours) = sender_index(&reply) {
                    self.sessions.name(id, ours);
                }
                self.out.push_back((from, reply.into()));
            }
            Opened::Nothing => {}
            // The name was good, so a member that does not know that its session ended is told.
            Opened::Rejected(vpn_core::DropReason::NoSession) if name.is_some() => {
                self.stranger(from, echo, now);
            }
            Opened::Rejected(_) => self.status.not_authentic += 1,
        }
    }

    /// The next thing to send, and where.
    pub fn poll(&mut self) -> Option<(Origin, Vec<u8>)> {
        self.out.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, if nothing else comes first.
    pub fn next_timeout(&self) -> Option<Instant> {
        let others = !self.config.neighbours.is_empty();
        let beats = others || self.sessions.len() > 0 || !self.members.is_empty();
        let beat = beats.then_some(self.turn.at.unwrap_or(self.next_beat));
        let neighbours = self.next_of_neighbours();
        [beat, self.watch.next(), neighbours]
            .into_iter()
            .flatten()
            .min()
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant, unix: u64) {
        self.repeat_changes(now);
        self.time_of_neighbours(now, unix);
        if now >= self.next_beat {
            self.next_beat = now + BEAT;
            self.sessions.age(self.config.limits.provisional_time, now);
            self.begin_turn();
            self.look_at_neighbours(now, unix);
            if self.renew_record(unix) {
                self.tell_record(now);
            }
        }
        self.go_on(now, unix);
    }

    /// Seals and queues.
    fn seal(&mut self, id: SessionId, to: Origin, plain: BytesMut) {
        let mut out = Vec::new();
        if let Some(held) = self.sessions.get_mut(id)
            && held.session.seal(plain, &mut out)
        {
            self.out.push_back((to, out));
        }
    }
}

/// Of a datagram what a hint repeats: the eight bytes behind the first four.
fn echo(datagram: &[u8]) -> Option<[u8; 8]> {
    datagram.get(4..)?.first_chunk().copied()
}
