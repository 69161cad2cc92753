//! Decides everything about one peer: its session, its paths, attempts, and what of its messages is
//! believed. Pure: time is an argument, and what is to be sent comes out as a value.
//!
//! ```text
//!            record          demand or introduction      session           challenge answered
//!  registered ────▶ announced ────────▶ connecting ─────────▶ relayed ◀──────────────────▶ direct
//!                                          ▲                    │  session gone, still wanted │
//!                                          └───────── lost ◀────┴─────────────────────────────┘
//! ```
//!
//! * A peer is made by [`Peer::new`] out of a [`Routed`]: only the table of addresses makes one of
//!   these, so packets for the peer find it before the first attempt.
//! * An attempt introduces us and starts a handshake by every way that may work; it is repeated after
//!   2, 4, 8, 16 and 32 s with jitter, then every 32 s. That ends with a session or with a
//!   [stop](Peer::stop), with nothing else.
//! * Which way packets take is for [`Paths`] to say.

mod attempt;
mod messages;
mod stage;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ipnet::IpNet;
use vpn_core::{DropReason, PeerId};

use self::attempt::Attempts;
pub use self::stage::Stage;
use super::keys::{Keys, sender_index};
use super::path::{PathConfig, PathEvent, PathOut, PathStatus, Paths};
use super::record::SignedRecord;
use super::way::{Carrier, HubId, Policy, Way};
use super::wire::{Inner, Plain as _, Tag, ToPeer, control};
use crate::session::{Opened, Session, TICK, Ticked};
use crate::wg_quick::PublicKey;

/// Session names kept per peer: gotatun keeps eight sessions and two handshakes.
const INDICES: usize = 16;

/// Messages that wait to be sent for one peer: what one call can bring about, many times over.
/// Beyond it the newest is dropped: all of them are repeated.
const MAX_OUT: usize = 256;

/// How often a message that wants an answer is repeated.
const REPEATS: u8 = 5;

/// After how long.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// A session is renewed at this age while nothing is sent, by the side with the smaller key: in place
/// of the third keepalive after the one before. So an idle side sends four messages in that time, two
/// of them the handshake's, and never more in 100 s. Below WireGuard's REKEY_AFTER_TIME of 120 s
/// (whitepaper §6.1).
const RENEW_AFTER: Duration = Duration::from_secs(101);

/// Where a keepalive is due, from this age on: before the next one the session would be too old.
const RENEW_EARLY: Duration = Duration::from_secs(86);

/// And at this age by the other side, should the first one fail to: before the session dies at
/// 180 s (REJECT_AFTER_TIME).
const RENEW_LATE: Duration = Duration::from_secs(150);

/// Candidates that a handshake is tried by where there is no relay: those the peer prefers.
const BLIND_WAYS: usize = 4;

/// Says that packets for the peer in this place find it. Made by the table of addresses alone.
#[derive(Debug)]
pub struct Routed {
    pub(super) peer: PeerId,
}

/// What may be done with one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerRules {
    /// Which ways.
    pub policy: Policy,
    /// Networks behind it that are believed, if its record claims them or a part of them.
    pub routes: Vec<IpNet>,
}

/// Settings of every peer.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Times of paths.
    pub path: PathConfig,
    /// After how long without packets a peer is let go. Default 10 min.
    pub idle_after: Duration,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            path: PathConfig::default(),
            idle_after: Duration::from_secs(600),
        }
    }
}

/// What is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub enum PeerOut {
    /// Our own record, ahead of a handshake.
    Introduce(HubId),
    /// This datagram, by this way.
    Datagram(Way, Vec<u8>),
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// Packets go another way, or cannot go.
    Path(PathEvent),
    /// Packets that were held can be sealed now.
    Ready,
    /// The peer says that this is new about it; not yet believed.
    Record(Box<SignedRecord>),
    /// It was let go, by us or by itself: nothing is wrong.
    Gone,
}

/// What a datagram came to.
#[derive(Debug)]
pub enum Arrival {
    /// An IP packet, not yet checked; the bytes behind it are padding.
    Packet(BytesMut),
    /// Behind the header a super-packet that is to be completed so.
    Super(vpn_core::Offload, BytesMut),
    /// It was for the protocol.
    Handled,
    /// It was dropped.
    Dropped(DropReason),
}

/// What was done with one peer so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCounters {
    /// Attempts to connect.
    pub attempts: u64,
    /// Attempts after the first of each time.
    pub retries: u64,
    /// Sessions that came to be.
    pub sessions: u64,
    /// Packets and bytes sent directly.
    pub tx_direct: [u64; 2],
    /// Packets and bytes sent by a relay.
    pub tx_relayed: [u64; 2],
    /// Packets and bytes that came directly.
    pub rx_direct: [u64; 2],
    /// Packets and bytes that came by a relay.
    pub rx_relayed: [u64; 2],
    /// How often a direct way was given up for a relay.
    pub fallbacks: u64,
    /// How often a direct way was taken.
    pub direct: u64,
}

/// Something that is repeated until it is answered.
#[derive(Debug)]
struct Repeat {
    at: Instant,
    left: u8,
}

/// One peer.
#[derive(Debug)]
pub struct Peer {
    id: PeerId,
    /// Whether our key is the smaller one: settles who begins where both could.
    first: bool,
    rules: PeerRules,
    idle_after: Duration,
    record: Option<SignedRecord>,
    session: Option<(PublicKey, Box<dyn Session>)>,
    /// Session names that were given to the peer, oldest first, and that the owner of the index of
    /// all names has not been told yet.
    names: VecDeque<u32>,
    new_names: Vec<u32>,
    old_names: Vec<u32>,
    paths: Paths,
    relays: Vec<(HubId, Carrier)>,
    /// Super-packets reach it by streams alone.
    takes_whole: bool,
    attempts: Attempts,
    was_ready: bool,
    next_tick: Option<Instant>,
    renew_at: Option<Instant>,
    /// The direct way that worked last.
    last_direct: Option<Way>,
    /// Where it may be reached directly, as its record says.
    candidates: Vec<SocketAddr>,
    last_packet: Option<Instant>,
    /// Our own record, and whether the peer has said that it has it.
    telling: Option<(SignedRecord, Repeat)>,
    own: SignedRecord,
    out: VecDeque<PeerOut>,
    events: VecDeque<PeerEvent>,
    counters: PeerCounters,
}

impl Peer {
    /// A peer that packets find already.
    pub fn new(
        routed: Routed,
        rules: PeerRules,
        config: &PeerConfig,
        own: SignedRecord,
        seed: u64,
    ) -> Self {
        let id = routed.peer;
        Self {
            id,
            first: own.record().peer < id,
            paths: Paths::new(config.path.clone(), rules.policy, seed),
            rules,
            idle_after: config.idle_after,
            record: None,
            session: None,
            names: VecDeque::new(),
            new_names: Vec::new(),
            old_names: Vec::new(),
            relays: Vec::new(),
            takes_whole: false,
            attempts: Attempts::new(seed),
            was_ready: false,
            next_tick: None,
            renew_at: None,
            last_direct: None,
            candidates: Vec::new(),
            last_packet: None,
            telling: None,
            own,
            out: VecDeque::new(),
            events: VecDeque::new(),
            counters: PeerCounters::default(),
        }
    }

    /// Who it is.
    pub const fn id(&self) -> PeerId {
        self.id
    }

    /// Its short name.
    pub fn tag(&self) -> Tag {
        Tag::from(self.id)
    }

    /// The newest record that is believed.
    pub const fn record(&self) -> Option<&SignedRecord> {
        self.record.as_ref()
    }

    /// What may be done with it.
    pub const fn rules(&self) -> &PeerRules {
        &self.rules
    }

    /// Believes a record: newer than the one before, of this peer, and allowed by whoever knows the
    /// addresses. Another session key begins another session.
    /// `candidates` are those of its candidates that may be tried.
    pub fn set_record(
        &mut self,
        record: SignedRecord,
        candidates: &[SocketAddr],
        keys: &dyn Keys,
        now: Instant,
    ) {
        let newer = self
            .record
            .as_ref()
            .is_none_or(|known| record.replaces(known));
        if record.record().peer != self.id || !newer || self.rules.policy == Policy::Deny {
            return;
        }
        let key = record.record().session;
        if self.session.as_ref().is_none_or(|(known, _)| *known != key) {
            self.session = Some((key, keys.session(key)));
            self.forget_names();
            self.after_session(now);
        }
        if self.rules.policy != Policy::RelayOnly {
            self.paths.set_candidates(candidates, now);
            candidates.clone_into(&mut self.candidates);
        }
        self.record = Some(record);
    }

    /// The hubs by which it can be reached, preferred first.
    pub fn set_relays(&mut self, relays: &[(HubId, Carrier)], now: Instant) {
        if self.relays == relays {
            return;
        }
        let by_streams = self.is_reached_by_streams();
        relays.clone_into(&mut self.relays);
        if by_streams != self.is_reached_by_streams() && self.is_ready() {
            self.tell(now);
        }
        self.paths.set_relays(relays, now);
        if self.attempts.are_wanted() && !self.is_ready() && !relays.is_empty() {
            self.attempts.hurry(now);
        }
    }

    /// Whether whatever comes to us by a relay comes by a stream.
    fn is_reached_by_streams(&self) -> bool {
        let streams = |(_, carrier): &(HubId, Carrier)| *carrier == Carrier::Tls;
        !self.relays.is_empty() && self.relays.iter().all(streams)
    }

    /// Whether super-packets that go by a stream reach it whole.
    pub const fn takes_whole(&self) -> bool {
        self.takes_whole
    }

    /// Our own record is another one.
    pub fn set_own(&mut self, own: SignedRecord, now: Instant) {
        self.own = own;
        if self.is_ready() {
            self.tell(now);
        }
    }

    /// Somebody wants to send. The first call starts an attempt; further ones change nothing.
    pub fn demand(&mut self, now: Instant) {
        if self.rules.policy == Policy::Deny {
            return;
        }
        self.last_packet = Some(now);
        if !self.is_ready() {
            self.attempts.want(now);
        }
    }

    /// Whether packets can be sealed and have a way.
    #[inline]
    pub fn way(&self) -> Option<Way> {
        if self.was_ready {
            self.paths.current()
        } else {
            None
        }
    }

    /// Whether there is a session that the peer has proven.
    pub fn is_ready(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|(_, session)| session.is_ready())
    }

    /// Whether it can be forgotten: nobody wants it, and there is no session.
    pub fn is_idle(&self) -> bool {
        !self.attempts.are_wanted() && !self.was_ready
    }

    /// Seals a packet, appending the datagram to `out`. `false` while there is no session.
    #[inline]
    pub fn seal(&mut self, plain: BytesMut, out: &mut Vec<u8>) -> bool {
        self.session
            .as_mut()
            .is_some_and(|(_, session)| session.seal(plain, out))
    }

    /// Packets of users were sent: so many, with so many bytes. Once per batch and peer.
    pub fn sent(&mut self, way: Way, packets: u64, bytes: u64, now: Instant) {
        let counter = match way.is_direct() {
            true => &mut self.counters.tx_direct,
            false => &mut self.counters.tx_relayed,
        };
        counter[0] += packets;
        counter[1] += bytes;
        self.last_packet = Some(now);
        self.paths.sent(now);
        self.paths.transmitted(way, now);
    }

    /// A datagram came that the table of session names, or the gate before handshakes, gave to this
    /// peer.
    pub fn datagram(&mut self, way: Way, datagram: BytesMut, unix: u64, now: Instant) -> Arrival {
        let relay_only = self.rules.policy == Policy::RelayOnly;
        if self.rules.policy == Policy::Deny || (relay_only && way.is_direct()) {
            return Arrival::Dropped(DropReason::AddressNotAllowed);
        }
        let bytes = datagram.len() as u64;
        let Some((_, session)) = &mut self.session else {
            return Arrival::Dropped(DropReason::NoSession);
        };
        let opened = session.open(datagram);
        match opened {
            Opened::Rejected(reason) => return Arrival::Dropped(reason),
            Opened::Nothing => return Arrival::Handled,
            Opened::Packet(_) | Opened::Keepalive | Opened::Reply(_) => {}
        }
        let arrival = match opened {
            Opened::Packet(plain) => match control::inner(&plain) {
                Inner::Packet => {
                    self.count_received(way, bytes, now);
                    Arrival::Packet(plain)
                }
                Inner::Super(offload) => {
                    self.count_received(way, bytes, now);
                    Arrival::Super(offload, plain)
                }
                Inner::Control => {
                    self.after_datagram(way, now);
                    return self.control(way, &plain, unix, now);
                }
                Inner::Unknown => Arrival::Dropped(DropReason::Malformed),
            },
            Opened::Reply(reply) => {
                self.send(way, reply.to_vec(), now);
                Arrival::Handled
            }
            _ => Arrival::Handled,
        };
        self.after_datagram(way, now);
        arrival
    }

    fn count_received(&mut self, way: Way, bytes: u64, now: Instant) {
        let counter = match way.is_direct() {
            true => &mut self.counters.rx_direct,
            false => &mut self.counters.rx_relayed,
        };
        counter[0] += 1;
        counter[1] += bytes;
        self.last_packet = Some(now);
    }

    /// What follows from anything authentic.
    #[inline]
    fn after_datagram(&mut self, way: Way, now: Instant) {
        if !self.was_ready {
            self.after_session(now);
        }
        self.paths.heard(way, now);
    }

    /// Compares the session's state with what was known of it.
    fn after_session(&mut self, now: Instant) {
        let ready = self.is_ready();
        if self.session.is_some() {
            self.next_tick.get_or_insert(now + TICK);
        }
        if ready == self.was_ready {
            return;
        }
        self.was_ready = ready;
        if ready {
            self.counters.sessions += 1;
            self.attempts.succeeded(now);
            self.last_packet.get_or_insert(now);
            self.plan_renewal(now);
            self.paths.session_ready(now);
            self.events.push_back(PeerEvent::Ready);
            self.tell(now);
        } else {
            self.renew_at = None;
            self.telling = None;
            self.paths.session_lost(now);
            if self.is_wanted(now) {
                self.attempts.want(now);
            }
        }
        self.forward_path_events();
    }

    /// Somebody sent or received lately.
    fn is_wanted(&self, now: Instant) -> bool {
        self.last_packet
            .is_some_and(|at| now.saturating_duration_since(at) < self.idle_after)
    }

    fn plan_renewal(&mut self, now: Instant) {
        let after = if self.first { RENEW_AFTER } else { RENEW_LATE };
        let age = self
            .session
            .as_ref()
            .and_then(|(_, session)| session.handshake_age());
        self.renew_at = Some(now + after.saturating_sub(age.unwrap_or_default()));
    }

    /// Puts a datagram into the queue, noting the session's name if it begins one.
    fn send(&mut self, way: Way, datagram: Vec<u8>, now: Instant) {
        if let Some(name) = sender_index(&datagram)
            && !self.names.contains(&name)
        {
            if self.names.len() >= INDICES
                && let Some(old) = self.names.pop_front()
            {
                self.old_names.push(old);
            }
            self.names.push_back(name);
            self.new_names.push(name);
        }
        self.paths.transmitted(way, now);
        if self.out.len() < MAX_OUT {
            self.out.push_back(PeerOut::Datagram(way, datagram));
        }
    }

    fn send_sealed(&mut self, way: Way, plain: &[u8], now: Instant) {
        let mut sealed = Vec::new();
        if self.seal(BytesMut::from(plain), &mut sealed) {
            self.send(way, sealed, now);
        } else {
            self.after_session(now);
        }
    }

    /// Sends to the peer by the way that packets take, or else by a relay.
    fn send_control(&mut self, message: &ToPeer, now: Instant) {
        let relay = self.relays.first().map(|(hub, _)| Way::Relay(*hub));
        if let Some(way) = self.paths.current().or(relay) {
            self.send_sealed(way, &message.to_plain(), now);
        }
    }

    /// Handshakes by every way that may work: relays, the way that worked last, and without either
    /// the candidates.
    fn attempt(&mut self, now: Instant) {
        let Some((_, session)) = &mut self.session else {
            return;
        };
        let Some(init) = session.initiate(true) else {
            return;
        };
        self.counters.attempts += 1;
        let mut ways: Vec<Way> = self
            .relays
            .iter()
            .map(|(hub, _)| Way::Relay(*hub))
            .collect();
        if self.may_go_directly() {
            ways.extend(self.last_direct);
            if self.relays.is_empty() {
                let candidates = self.candidates.iter().take(BLIND_WAYS);
                ways.extend(candidates.map(|at| Way::Direct(*at)));
            }
        }
        for way in ways {
            if let Way::Relay(hub) = way {
                self.out.push_back(PeerOut::Introduce(hub));
            }
            self.send(way, init.to_vec(), now);
        }
        self.after_session(now);
    }

    fn may_go_directly(&self) -> bool {
        self.rules.policy != Policy::RelayOnly
    }

    /// Renews the session while it works, by the way in use.
    fn renew(&mut self, now: Instant) {
        self.renew_at = Some(now + REPEAT_AFTER * 5);
        let age = self
            .session
            .as_ref()
            .and_then(|(_, session)| session.handshake_age());
        let after = if self.first { RENEW_AFTER } else { RENEW_LATE };
        if age.is_some_and(|age| age < after) {
            self.plan_renewal(now);
            return;
        }
        let Some(way) = self.paths.current() else {
            return;
        };
        if let Some((_, session)) = &mut self.session
            && let Some(init) = session.initiate(true)
        {
            self.send(way, init.to_vec(), now);
        }
    }

    /// The network below is another one: what was proven is not any more, and is asked again.
    pub fn network_changed(&mut self, now: Instant) {
        self.paths.network_changed(now);
        if self.attempts.are_wanted() {
            self.attempts.hurry(now);
        }
        self.forward_path_events();
    }

    /// Ends session and attempts; the peer is told. A later demand starts anew.
    pub fn stop(&mut self, now: Instant) {
        if self.is_ready() {
            self.send_control(&ToPeer::Bye, now);
        }
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        self.attempts.stop();
        self.last_packet = None;
        if let Some((_, session)) = &mut self.session {
            session.forget();
        }
        self.forget_names();
        self.after_session(now);
        self.next_tick = None;
        self.events.push_back(PeerEvent::Gone);
    }

    fn forget_names(&mut self) {
        self.old_names.extend(self.names.drain(..));
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        let telling = self.telling.as_ref().map(|(_, repeat)| repeat.at);
        [
            self.paths.next_timeout(),
            self.attempts.due(),
            self.next_tick,
            self.renew_at,
            telling,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_tick.is_some_and(|at| at <= now) {
            self.tick(now);
        }
        if self.attempts.take_due(now) {
            self.counters.retries += u64::from(self.attempts.is_retry());
            self.attempt(now);
        }
        if self.renew_at.is_some_and(|at| at <= now) {
            self.renew(now);
        }
        self.repeat(now);
        self.paths.handle_timeout(now);
        self.forward_path_events();
        if self.was_ready && !self.is_wanted(now) {
            self.stop(now);
        }
    }

    fn tick(&mut self, now: Instant) {
        self.next_tick = Some(now + TICK);
        let Some((_, session)) = &mut self.session else {
            self.next_tick = None;
            return;
        };
        match session.tick() {
            Ticked::Send(datagram) => {
                let relay = self.relays.first().map(|(hub, _)| Way::Relay(*hub));
                if let Some(way) = self.paths.current().or(relay) {
                    self.send(way, datagram.to_vec(), now);
                }
            }
            Ticked::Expired => self.forget_names(),
            Ticked::Idle => {}
        }
        if !self.attempts.are_wanted() && !self.was_ready && !self.is_ready() {
            // Nothing that could fire is left: the next handshake message starts it again.
            let age = self
                .session
                .as_ref()
                .and_then(|(_, session)| session.handshake_age());
            if age.is_none() {
                self.next_tick = None;
            }
        }
        self.after_session(now);
    }

    fn forward_path_events(&mut self) {
        while let Some(event) = self.paths.poll_event() {
            let PathEvent::Moved { from, to, .. } = &event;
            let (was, is) = (
                from.is_some_and(Way::is_direct),
                to.is_some_and(Way::is_direct),
            );
            if is {
                self.last_direct = *to;
            }
            self.counters.direct += u64::from(is && !was);
            self.counters.fallbacks += u64::from(was && !is);
            self.events.push_back(PeerEvent::Path(event));
        }
    }

    /// What is to be sent next.
    pub fn poll(&mut self, now: Instant) -> Option<PeerOut> {
        while let Some(out) = self.paths.poll() {
            match out {
                PathOut::Probe { way, nonce, urgent } => {
                    let probe = ToPeer::Probe { nonce, urgent };
                    self.send_sealed(way, &probe.to_plain(), now);
                }
                PathOut::Pong {
                    way,
                    nonce,
                    observed,
                } => {
                    let pong = ToPeer::Pong { nonce, observed };
                    self.send_sealed(way, &pong.to_plain(), now);
                }
                PathOut::Keepalive { way } => self.keep_alive(way, now),
            }
        }
        self.out.pop_front()
    }

    /// Keeps a way open. A session that is to be renewed soon is renewed now: that is as good as a
    /// keepalive, and one packet less.
    fn keep_alive(&mut self, way: Way, now: Instant) {
        let age = self
            .session
            .as_ref()
            .and_then(|(_, session)| session.handshake_age());
        let is_old = self.first && age.is_some_and(|age| age >= RENEW_EARLY);
        if is_old
            && let Some((_, session)) = &mut self.session
            && let Some(init) = session.initiate(true)
        {
            self.send(way, init.to_vec(), now);
        } else {
            self.send_sealed(way, &[], now);
        }
    }

    /// What is to be told next.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        self.forward_path_events();
        self.events.pop_front()
    }

    /// Names of sessions since the last call: those that came, and those that went.
    pub fn take_names(&mut self) -> (Vec<u32>, Vec<u32>) {
        (
            std::mem::take(&mut self.new_names),
            std::mem::take(&mut self.old_names),
        )
    }

    /// Whether [`take_names`](Self::take_names) has any.
    #[inline]
    pub fn has_names(&self) -> bool {
        !(self.new_names.is_empty() && self.old_names.is_empty())
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        if self.was_ready {
            return match self.paths.current() {
                Some(Way::Direct(_)) => Stage::Direct,
                Some(Way::Relay(_)) => Stage::Relayed,
                None => Stage::Lost,
            };
        }
        match (&self.record, self.attempts.are_wanted()) {
            (None, _) => Stage::Registered,
            (Some(_), false) => Stage::Announced,
            (Some(_), true) if self.counters.sessions > 0 => Stage::Lost,
            (Some(_), true) => Stage::Connecting,
        }
    }

    /// How its paths stand.
    pub fn path_status(&self) -> PathStatus {
        self.paths.status()
    }

    /// What was done so far.
    pub const fn counters(&self) -> PeerCounters {
        self.counters
    }
}

#[cfg(test)]
mod tests;
