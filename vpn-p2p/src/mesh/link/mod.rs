//! The client of one hub, pure: says Hello, joins, keeps the link alive, comes back.
//!
//! ```text
//!            ┌───────────────── no answer ──────────────────┐
//!            ▼                                              │
//! Idle ─▶ Greeting ── Welcome ──▶ Joining ── Registered ──▶ Up
//!            ▲                       │                      │
//!            └──── Waiting ◀─────────┴── unanswered, Bye ───┘
//! ```
//!
//! * **Greeting**: a Hello to every endpoint, again after 0.3 and 0.7 s; after a second TLS as well. The first
//!   Welcome wins whose nonce is ours and whose record the pinned key signed.
//! * **Joining**: our record, then a handshake with the hub's session key, then, sealed, the
//!   registration. All of it from the socket that direct paths use, so the address the hub sees is
//!   that socket's.
//! * **Up**: an empty message when nothing was sent for a while. Three without an answer end it, and the
//!   next round begins at once. "You are a stranger" is a hint: it costs a question and a Hello.
//! * **Waiting**: 2, 4, 8, 16, 32 s, then every 32 s. It ends only with success or [`Link::bye`].
//!
//! Over TLS, UDP is tried every minute; the change back is made only after an answer came by it.
//!
//! **The driver's contract.** After every call that takes `now`: [`poll`](Link::poll) and
//! [`poll_event`](Link::poll_event) until they yield nothing, then sleep until
//! [`next_timeout`](Link::next_timeout). After [`LinkOut::OpenTls`] it answers with
//! [`tls_opened`](Link::tls_opened) or [`tls_failed`](Link::tls_failed), and says the latter also
//! when the connection ends later.

mod config;
mod find;
mod greet;
mod join;
mod live;
mod messages;
mod networks;
mod output;
mod repeat;
mod sending;
mod status;
#[cfg(test)]
mod tests;
mod upgrade;
#[cfg(test)]
mod with_hub;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use vpn_core::DropReason;
use vpn_resilience::{Backoff, Next};

use self::find::Finds;
use self::greet::Round;
use self::join::Joining;
use self::live::Live;
use self::networks::Networks;
use super::keys::Keys;
use super::record::SignedRecord;
use super::way::Carrier;
use super::wire::{Frame, Tag, ToHub, What};
use crate::session::{Session, TICK, Ticked};
use crate::wg_quick::PublicKey;

pub(in crate::mesh) use self::config::{KEEPALIVE, TRIES, UNANSWERED};
pub use self::config::{LinkConfig, LinkTimes, MAX_ENDPOINTS};
pub use self::find::MAX_FINDS;
pub use self::output::{LinkEvent, LinkOut};
pub use self::status::{LinkCounters, LinkState, LinkStatus};

/// How often the session's clock is looked at when no handshake is under way. Its ages are minutes.
const SLOW_TICK: Duration = Duration::from_secs(1);

/// Datagrams and events that wait for the driver. It fetches them after each call, so this many
/// are there only if it does not; the oldest are kept.
const MAX_QUEUED: usize = 4096;

/// Of how many datagrams of late a Stranger may be the answer.
const ECHOES: usize = 64;

/// WireGuard's messages are padded to a multiple of this (whitepaper §5.4.6).
const PADDING: usize = 16;

/// The TLS connection, as far as we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    Closed,
    Opening,
    Open,
}

#[derive(Debug)]
enum Stage {
    /// Nothing to go by.
    Idle,
    Greeting(Round),
    Joining(Joining),
    Up(Box<Live>),
    Waiting(Instant),
    Stopped,
}

/// A session, and with which key of the hub.
#[derive(Debug)]
struct Held {
    session: Box<dyn Session>,
    key: PublicKey,
}

/// The first bytes of what was sent of late.
#[derive(Debug, Default)]
struct Echoes(VecDeque<[u8; 8]>);

impl Echoes {
    fn note(&mut self, echo: [u8; 8]) {
        if self.0.back() == Some(&echo) {
            return;
        }
        if self.0.len() >= ECHOES {
            self.0.pop_front();
        }
        self.0.push_back(echo);
    }
}

/// The client of one hub. See the [module](self).
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    endpoints: Vec<SocketAddr>,
    record: Option<SignedRecord>,
    stage: Stage,
    held: Option<Held>,
    next_tick: Instant,
    tls: Tls,
    /// When the TLS connection is closed, after a change to UDP.
    tls_until: Option<Instant>,
    networks: Networks,
    /// The next round is by TLS alone.
    without_udp: bool,
    backoff: Backoff,
    finds: Finds,
    echoes: Echoes,
    random: u64,
    next_id: u32,
    rtt: Option<Duration>,
    observed: Option<SocketAddr>,
    isolated: bool,
    /// The last failure was the hub's refusal of our record.
    refused: bool,
    why: String,
    since: Instant,
    counters: LinkCounters,
    out: VecDeque<LinkOut>,
    events: VecDeque<LinkEvent>,
}

impl Link {
    /// A link that begins as soon as it has [endpoints](Self::set_endpoints) and a
    /// [record](Self::set_record). Nonces follow from the seed: take it from the system's random numbers.
    pub fn new(config: LinkConfig, seed: u64, now: Instant) -> Self {
        Self {
            backoff: Backoff::new(config.times.retry, seed),
            config,
            endpoints: Vec::new(),
            record: None,
            stage: Stage::Idle,
            held: None,
            next_tick: now,
            tls: Tls::Closed,
            tls_until: None,
            networks: Networks::default(),
            without_udp: false,
            finds: Finds::default(),
            echoes: Echoes::default(),
            random: seed,
            next_id: 0,
            rtt: None,
            observed: None,
            isolated: false,
            refused: false,
            why: String::new(),
            since: now,
            counters: LinkCounters::default(),
            out: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Where the hub is, as its name was resolved. Several are asked at the same time; more than
    /// [`MAX_ENDPOINTS`] are left out. One that is in use stays in use.
    pub fn set_endpoints(&mut self, endpoints: Vec<SocketAddr>, now: Instant) {
        let mut endpoints: Vec<SocketAddr> = endpoints.into_iter().map(canonical).collect();
        endpoints.truncate(MAX_ENDPOINTS);
        let known = |endpoint: &SocketAddr| self.endpoints.contains(endpoint);
        // Resolvers turn their answers around: that is nothing new.
        if endpoints.len() == self.endpoints.len() && endpoints.iter().all(known) {
            return;
        }
        self.endpoints = endpoints;
        if matches!(
            self.stage,
            Stage::Idle | Stage::Greeting(_) | Stage::Waiting(_)
        ) {
            self.start_round(now);
        }
    }

    /// Our own record. A new one is registered at once, and so on every reconnect; the caller gives
    /// a new one in time before it expires.
    pub fn set_record(&mut self, record: SignedRecord, now: Instant) {
        if self.record.as_ref() == Some(&record) {
            return;
        }
        self.record = Some(record);
        match &mut self.stage {
            Stage::Idle => self.start_round(now),
            Stage::Waiting(_) if self.refused => self.start_round(now),
            Stage::Joining(joining) => joining.register_anew(),
            Stage::Up(live) => live.register_anew(),
            _ => {}
        }
        self.refused = false;
        self.advance(now);
    }

    /// Takes a frame from the hub: [`Welcome`](Frame::Welcome) or [`Stranger`](Frame::Stranger).
    /// Others are not for the link. `from`: where a datagram came from; `unix`: seconds since the Unix epoch.
    pub fn frame(
        &mut self,
        via: Carrier,
        from: Option<SocketAddr>,
        frame: &Frame<'_>,
        keys: &dyn Keys,
        now: Instant,
        unix: u64,
    ) {
        match *frame {
            Frame::Welcome { .. } => self.welcome(via, from, frame, keys, now, unix),
            Frame::Stranger { echo } => self.stranger(echo, now),
            _ => {}
        }
        self.advance(now);
    }

    /// Takes a datagram of WireGuard that may be from the hub.
    ///
    /// # Errors
    ///
    /// Why it is nothing for us. A caller that does not know whose it is may try the next session.
    pub fn datagram(
        &mut self,
        via: Carrier,
        from: Option<SocketAddr>,
        datagram: BytesMut,
        keys: &dyn Keys,
        now: Instant,
        unix: u64,
    ) -> Result<(), DropReason> {
        let result = self.open(via, from, datagram, keys, now, unix);
        self.advance(now);
        result
    }

    /// Asks the hub who this is; answered by [`LinkEvent::Found`],
    /// [`LinkEvent::NotFound`] or [`LinkEvent::Unanswered`]. `id` is
    /// the caller's; one that is used again replaces the question. While the hub is away it waits.
    pub fn find(&mut self, id: u32, what: What, now: Instant) {
        if !self.finds.ask(id, what, now, self.config.times.find) {
            self.event(LinkEvent::Unanswered { id });
        }
        self.advance(now);
    }

    /// The TLS connection is there.
    pub fn tls_opened(&mut self, now: Instant) {
        if self.tls == Tls::Opening {
            self.tls = Tls::Open;
            if let Stage::Greeting(round) = &mut self.stage {
                round.tls_opened(now);
            }
        }
        self.advance(now);
    }

    /// The TLS connection did not come about, or ended.
    pub fn tls_failed(&mut self, now: Instant) {
        if self.tls == Tls::Closed {
            return;
        }
        self.tls = Tls::Closed;
        self.tls_until = None;
        let by_tls = match &self.stage {
            Stage::Joining(joining) => joining.via == Carrier::Tls,
            Stage::Up(live) => live.via == Carrier::Tls,
            _ => false,
        };
        if by_tls {
            self.fail("the TLS connection ended", now);
        } else if let Stage::Greeting(round) = &mut self.stage {
            round.tls_failed(&self.config, now);
        }
        self.advance(now);
    }

    /// Where frames for the hub's members go; `None` while we are none.
    #[inline]
    pub fn way(&self) -> Option<(Carrier, SocketAddr)> {
        match &self.stage {
            Stage::Up(live) => Some((live.via, live.to)),
            _ => None,
        }
    }

    /// Whether what came so may be from the hub.
    pub fn is_from_hub(&self, via: Carrier, from: Option<SocketAddr>) -> bool {
        match (via, from) {
            (Carrier::Tls, _) => self.tls == Tls::Open,
            (Carrier::Udp, Some(from)) => {
                let from = canonical(from);
                self.endpoints.contains(&from)
                    || matches!(&self.stage, Stage::Up(live) if live.to == from)
            }
            (Carrier::Udp, None) => false,
        }
    }

    /// A relay frame for this member was sent: it keeps the mapping open as a question does. Once per
    /// batch and peer.
    #[inline]
    pub fn relayed(&mut self, tag: Tag, now: Instant) {
        self.echoes.note(tag.0);
        if let Stage::Up(live) = &mut self.stage {
            live.relayed(now);
        }
    }

    /// A relay frame came from the hub. Not authentic by itself: it puts off the question whether
    /// the hub is there, but not for long.
    #[inline]
    pub fn relay_heard(&mut self) {
        if let Stage::Up(live) = &mut self.stage {
            live.heard();
        }
    }

    /// The network is another one: begins at once, with what was learnt on the old one forgotten. A
    /// link that is up asks whether it still is.
    pub fn network_changed(&mut self, now: Instant) {
        self.networks.left();
        self.without_udp = false;
        self.backoff.reset();
        match &mut self.stage {
            Stage::Up(live) => live.network_changed(now),
            Stage::Idle | Stage::Greeting(_) | Stage::Joining(_) | Stage::Waiting(_) => {
                self.start_round(now);
            }
            Stage::Stopped => {}
        }
        self.advance(now);
    }

    /// By which address our packets leave, as far as the system knows. Where UDP was not answered
    /// before, TLS is tried at once.
    pub fn leaves_by(&mut self, address: IpAddr, now: Instant) {
        if self.networks.is(address) && matches!(self.stage, Stage::Greeting(_)) {
            self.start_round(now);
            self.advance(now);
        }
    }

    /// Says goodbye and ends for good.
    pub fn bye(&mut self, now: Instant) {
        if let Stage::Up(live) = &self.stage {
            let (via, to) = (live.via, live.to);
            self.seal(&ToHub::Bye, via, to);
        }
        self.close_tls();
        self.held = None;
        self.since = now;
        self.why = "stopped".into();
        self.stage = Stage::Stopped;
        for id in self.finds.drain() {
            self.event(LinkEvent::Unanswered { id });
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called; `None`: not before another call.
    pub fn next_timeout(&self) -> Option<Instant> {
        let stage = match &self.stage {
            Stage::Idle | Stage::Stopped => None,
            Stage::Waiting(until) => Some(*until),
            Stage::Greeting(round) => round.next(&self.config, self.tls),
            Stage::Joining(joining) => joining.next(&self.config.times),
            Stage::Up(live) => live.next(&self.config.times),
        };
        let tick = self.held.as_ref().map(|_| self.next_tick);
        let finds = self.finds.next(matches!(self.stage, Stage::Up(_)));
        [stage, tick, finds, self.tls_until]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.held.is_some() && now >= self.next_tick {
            self.tick(now);
        }
        self.advance(now);
    }

    /// What is to be sent or done next.
    pub fn poll(&mut self) -> Option<LinkOut> {
        self.out.pop_front()
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    /// How it stands.
    pub fn status(&self) -> LinkStatus {
        let (state, way, retry_at) = match &self.stage {
            Stage::Idle => (LinkState::Idle, None, None),
            Stage::Greeting(_) => (LinkState::Greeting, None, None),
            Stage::Joining(joining) => (LinkState::Joining, Some((joining.via, joining.to)), None),
            Stage::Up(live) => (LinkState::Up, Some((live.via, live.to)), None),
            Stage::Waiting(until) => (LinkState::Waiting, None, Some(*until)),
            Stage::Stopped => (LinkState::Stopped, None, None),
        };
        LinkStatus {
            hub: self.config.hub,
            id: self.config.id,
            state,
            since: self.since,
            carrier: way.map(|(via, _)| via),
            endpoint: way.map_or_else(|| self.endpoints.first().copied(), |(_, to)| Some(to)),
            rtt: self.rtt,
            observed: self.observed,
            isolated: self.isolated,
            why: self.why.clone(),
            retry_at,
            counters: self.counters,
        }
    }

    /// What is due without the session's clock.
    fn advance(&mut self, now: Instant) {
        if self.tls_until.is_some_and(|until| now >= until) {
            self.close_tls();
        }
        match &self.stage {
            Stage::Waiting(until) if now >= *until => self.start_round(now),
            Stage::Greeting(_) => self.advance_round(now),
            Stage::Joining(_) => self.advance_joining(now),
            Stage::Up(_) => self.advance_live(now),
            _ => {}
        }
        for id in self.finds.overdue(now) {
            self.event(LinkEvent::Unanswered { id });
        }
    }

    fn tick(&mut self, now: Instant) {
        let busy = matches!(self.stage, Stage::Joining(_));
        self.next_tick = now + if busy { TICK } else { SLOW_TICK };
        let Some(held) = &mut self.held else {
            return;
        };
        match held.session.tick() {
            // Its keepalive answers data with nothing in it; the hub does not wait for one.
            Ticked::Send(datagram) if datagram.first() == Some(&4) => {}
            Ticked::Send(datagram) => self.send_here(datagram.to_vec()),
            Ticked::Expired if matches!(self.stage, Stage::Up(_)) => {
                self.fail("the session with the hub expired", now);
            }
            Ticked::Expired | Ticked::Idle => self.renew(),
        }
        // Not later than the keepalive in whose place it is.
        let age = self
            .held
            .as_ref()
            .and_then(|held| held.session.handshake_age());
        let renewal = age.and_then(|age| self.config.times.renew.checked_sub(age));
        if let Some(left) = renewal.filter(|left| !left.is_zero()) {
            self.next_tick = self.next_tick.min(now + left);
        }
    }

    /// Begins a handshake if the session of a link that is up became old.
    fn renew(&mut self) {
        let Some(held) = &mut self.held else {
            return;
        };
        let old = held
            .session
            .handshake_age()
            .is_some_and(|age| age >= self.config.times.renew);
        if matches!(self.stage, Stage::Up(_))
            && old
            && let Some(initiation) = held.session.initiate(false)
        {
            self.send_here(initiation.to_vec());
        }
    }

    /// What was under way came to nothing: the next round begins at once if we were up for a while.
    fn fail(&mut self, why: &str, now: Instant) {
        let was_up = matches!(self.stage, Stage::Up(_));
        // One that comes and goes is not asked more often than one that is away.
        let steady =
            now.saturating_duration_since(self.since) >= self.config.times.retry.stable_after;
        self.leave(why, now);
        if was_up && steady {
            self.backoff.reset();
            self.start_round(now);
        } else {
            self.wait(now);
        }
    }

    /// The next round is after a pause.
    fn wait(&mut self, now: Instant) {
        self.close_tls();
        self.stage = Stage::Waiting(match self.backoff.failed(now) {
            Next::At(at) => at,
            // Whatever bounds a caller's times have: it is never given up.
            Next::GiveUp(_) => now + self.config.times.retry.cap,
        });
    }

    /// Leaves what was: says so if we were up.
    fn leave(&mut self, why: &str, now: Instant) {
        why.clone_into(&mut self.why);
        if matches!(self.stage, Stage::Up(_)) {
            self.counters.down += 1;
            self.since = now;
            self.event(LinkEvent::Down { why: why.into() });
        }
        self.finds.pause();
        self.held = None;
        self.stage = Stage::Idle;
    }
}

/// IPv4 as IPv4: a socket of both families shows it as IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
