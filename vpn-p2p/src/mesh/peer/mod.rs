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
mod challenge;
mod messages;
mod outbox;
mod session;
mod stage;
mod words;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use vpn_core::PeerId;

use self::attempt::Attempts;
use self::challenge::Challenges;
pub use self::stage::Stage;
pub use self::words::{Arrival, PeerConfig, PeerCounters, PeerEvent, PeerOut, PeerRules};
use super::keys::Keys;
use super::limit::{Bucket, Rate};
use super::path::{PathEvent, PathStatus, Paths};
use super::record::SignedRecord;
use super::way::{Carrier, HubId, Policy, Way};
use super::wire::{Tag, ToPeer};
use crate::session::Session;
use crate::wg_quick::PublicKey;

/// Session names kept per peer: gotatun keeps eight sessions and two handshakes.
const INDICES: usize = 16;

/// Messages that wait to be sent for one peer: what one call can bring about, many times over.
/// Beyond it the newest is dropped: all of them are repeated.
const MAX_OUT: usize = 256;

/// After how long a message that wants an answer is repeated, the first time; then twice as long, for
/// as long as there is a session.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// Records of one peer that are looked at: each is a signature to check, and may begin rounds of
/// challenges. One that is beyond is not answered, so its peer repeats it.
const RECORDS: Rate = Rate::new(1, 3);

/// The longest pause between two of them.
const REPEAT_LONGEST: Duration = Duration::from_secs(32);

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

/// Something that is repeated until it is answered.
#[derive(Debug)]
struct Repeat {
    at: Instant,
    made: u8,
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
    challenges: Challenges,
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
    /// Records that are looked at.
    records: Option<Bucket>,
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
            challenges: Challenges::default(),
            attempts: Attempts::new(seed),
            was_ready: false,
            next_tick: None,
            renew_at: None,
            last_direct: None,
            candidates: Vec::new(),
            last_packet: None,
            telling: None,
            own,
            records: None,
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

    /// Its record is not believed any more; without one there is no session.
    pub fn forget_record(&mut self, now: Instant) {
        self.record = None;
        self.session = None;
        self.candidates.clear();
        self.last_direct = None;
        self.paths.set_candidates(&[], now);
        self.forget_names();
        self.after_session(now);
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
        } else if self.paths.current().is_none() {
            self.paths.wanted(now);
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
