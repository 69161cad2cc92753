//! Decides by which way packets go to one peer: the relay first, a direct way once it is proven, and
//! the relay again when that dies. Pure: no sockets, no clock.
//!
//! A way is believed in only after a challenge that *we* sent by it was answered. The answer may come
//! by any way, the relay too: it proves that our datagrams get through, and says nothing about the
//! way back, which the peer judges with challenges of its own. So a way that is dead in one direction
//! is left by the one side that it is dead for, however much arrives by it from the other.
//!
//! ```text
//!            answered                     3 unanswered
//! relay ───────────────▶ direct way ─────────────────────▶ relay, challenges to every candidate
//!   ▲  challenges at 0, 0.3, 0.8, 1.8, 4, 8, 16, 32 s …     │
//!   └── held back for 1, 2, 4 … 60 s if it died in use ◀────┘
//! ```
//!
//! # Who is asked when
//!
//! - The way in use, while packets of users go by it: once a second. An unanswered one is followed by
//!   urgent ones, which the peer answers by the relay as well; three in a row end the way. A way that
//!   is known to lose many needs up to five, closer together, in the same time.
//! - The way in use, idle: nothing but keepalives, unless nothing is heard from the peer for longer
//!   than its keepalives are apart.
//! - Candidates, while none of them is in use: in rounds, as long as somebody has packets for the
//!   other. Both sides ask at the same time, so each opens its own NAT for the other.
//! - An address that no candidate names, and from which an authentic datagram came (a NAT that maps
//!   each destination differently, or one that forgot): at once.
//!
//! # The driver's contract
//!
//! After any call but [`sent`](Paths::sent), drain [`poll`](Paths::poll) and
//! [`poll_event`](Paths::poll_event), and ask for [`next_timeout`](Paths::next_timeout); after `sent`
//! only the latter. Call [`heard`](Paths::heard) for a datagram before what it held.

mod choose;
mod config;
mod judge;
mod rounds;
mod status;
mod track;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use config::PathConfig;
pub use status::{PathEvent, PathOut, PathStatus, Why};

use super::way::{Carrier, HubId, Policy, Way};
use rounds::Rounds;
use track::Track;

/// Messages waiting to be polled; more than one round and its answers are never needed.
const MAX_OUT: usize = 64;

/// Events waiting to be polled; who does not ask for them loses the oldest.
const MAX_EVENTS: usize = 16;

/// The pause after the first probe that a datagram from an unproven address brought about; doubles
/// up to [`TRIGGER_MAX`], for who sends to us by a way that is dead for us.
const TRIGGER: Duration = Duration::from_millis(300);

/// How often new candidates begin the rounds anew, at most. Who names others again and again makes us
/// send to them, whoever they are: by this, four rounds in that time.
const RESTART_EVERY: Duration = Duration::from_secs(3);

/// See [`TRIGGER`].
const TRIGGER_MAX: Duration = Duration::from_secs(300);

/// The ways to one peer.
#[derive(Debug)]
pub struct Paths {
    config: PathConfig,
    policy: Policy,
    ready: bool,
    /// Relays in the order of preference, then direct ways.
    tracks: Vec<Track>,
    /// The candidates of the peer's newest record.
    named: Vec<SocketAddr>,
    /// When they began the rounds anew.
    renamed: Option<Instant>,
    current: Option<Way>,
    since: Option<Instant>,
    why: Why,
    rounds: Rounds,
    /// When a packet of a user was last sent by the way in use.
    last_sent: Option<Instant>,
    /// When packets began to go, as far as the next probe cares.
    burst: Option<Instant>,
    /// The next packet begins a burst.
    burst_over: bool,
    /// When somebody last wanted something of the other.
    active: Option<Instant>,
    nonce: u32,
    out: VecDeque<PathOut>,
    events: VecDeque<PathEvent>,
}

impl Paths {
    /// Nothing is known yet. The seed spreads the rounds of many peers.
    pub fn new(config: PathConfig, policy: Policy, seed: u64) -> Self {
        Self {
            config,
            policy,
            ready: false,
            tracks: Vec::new(),
            named: Vec::new(),
            renamed: None,
            current: None,
            since: None,
            why: Why::Unknown,
            rounds: Rounds::new(seed),
            last_sent: None,
            burst: None,
            burst_over: true,
            active: None,
            // Any number will do; a small one is short on the wire.
            nonce: 0,
            out: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// By which relays the peer can be reached, preferred first; empty: by none.
    pub fn set_relays(&mut self, relays: &[(HubId, Carrier)], now: Instant) {
        let mut tracks = Vec::with_capacity(self.tracks.len() + relays.len());
        for &(hub, carrier) in relays {
            let way = Way::Relay(hub);
            let known = self.tracks.iter().position(|track| track.way == way);
            let mut track = match known {
                Some(at) => self.tracks.swap_remove(at),
                None if tracks.iter().any(|track: &Track| track.way == way) => continue,
                None => Track::new(way, now),
            };
            track.named = true;
            if track.carrier.replace(carrier) != Some(carrier) {
                // Another carrier is another way: what was measured is of the one before.
                track.rtt = None;
                track.held_until = None;
            }
            tracks.push(track);
        }
        self.tracks.retain(|track| track.way.is_direct());
        tracks.append(&mut self.tracks);
        self.tracks = tracks;
        let why = match self.current {
            Some(Way::Relay(_)) => Why::RelayGone,
            _ => Why::Relay,
        };
        self.choose(now, why);
        if self.current.is_none() && self.is_active(now) {
            self.start_rounds(now);
        }
    }

    /// Where the peer may be found, as its newest record says. The caller leaves out what it will
    /// not send to. Ways that are not named any more stay only while they are proven.
    pub fn set_candidates(&mut self, candidates: &[SocketAddr], now: Instant) {
        if !self.allows_direct() || self.named == candidates {
            return;
        }
        candidates.clone_into(&mut self.named);
        for track in self.tracks.iter_mut().filter(|track| track.way.is_direct()) {
            track.named = false;
        }
        let mut is_new = false;
        for &candidate in candidates.iter().take(self.config.max_ways) {
            let ip = candidate.ip();
            if ip.is_unspecified() || ip.is_multicast() || candidate.port() == 0 {
                continue;
            }
            let way = Way::Direct(candidate);
            if self.track(way).is_none() {
                is_new |= self.add(way, now);
            }
            if let Some(track) = self.track_mut(way) {
                track.named = true;
            }
        }
        let current = self.current;
        self.tracks
            .retain(|track| track.named || track.proof.is_some() || current == Some(track.way));
        let again = self.renamed.is_none_or(|at| now >= at + RESTART_EVERY);
        // Otherwise the next round asks them.
        if is_new && self.is_active(now) && again {
            self.renamed = Some(now);
            self.start_rounds(now);
        }
    }

    /// There is a session: probing may begin.
    pub fn session_ready(&mut self, now: Instant) {
        if self.ready || self.policy == Policy::Deny {
            return;
        }
        self.ready = true;
        self.active = Some(now);
        self.start_rounds(now);
    }

    /// The session is gone: nothing is proven any more.
    pub fn session_lost(&mut self, now: Instant) {
        self.ready = false;
        self.rounds.stop();
        self.out.clear();
        for track in &mut self.tracks {
            track.died();
        }
        self.choose(now, Why::SessionLost);
    }

    /// An authentic datagram came by this way, whatever it held.
    pub fn heard(&mut self, way: Way, now: Instant) {
        if let Some(track) = self.track_mut(way) {
            track.heard = Some(now);
            if track.tried() == 0 {
                track.one_sided = false;
            }
            if track.proof.is_some() {
                return;
            }
        } else if !way.is_direct() || !self.allows_direct() || !self.add(way, now) {
            return;
        }
        if way.is_direct() {
            self.triggered(way, now);
        }
    }

    /// The peer asks whether this way works for it.
    pub fn probe_arrived(&mut self, way: Way, nonce: u32, urgent: bool, now: Instant) {
        if !self.ready || way.is_direct() && !self.allows_direct() {
            // An answer by a direct way would tell where we are.
            return;
        }
        self.heard(way, now);
        let observed = match way {
            Way::Direct(from) => Some(from),
            Way::Relay(_) => {
                // It has packets for us: now is the time to look for a direct way together.
                self.active = self.active.max(Some(now));
                self.wake_rounds(now);
                None
            }
        };
        self.pong(way, nonce, observed, now);
        if urgent {
            let other = match way {
                Way::Direct(_) => self.relays().next(),
                Way::Relay(_) => self.current,
            };
            if let Some(other) = other.filter(|other| *other != way) {
                self.pong(other, nonce, observed, now);
            }
        }
    }

    /// The peer got the probe with this number: the way it went by works in our direction.
    /// `observed` is for the caller to make a candidate of.
    pub fn pong_arrived(&mut self, nonce: u32, _observed: Option<SocketAddr>, now: Instant) {
        self.answered(nonce, now);
    }

    /// A packet of a user was sent by [`current`](Self::current), or is held because there is none.
    /// Cheap: called once per batch.
    #[inline]
    pub fn sent(&mut self, now: Instant) {
        self.last_sent = Some(now);
        if self.burst_over {
            self.burst_over = false;
            self.burst = Some(now);
            self.active = Some(now);
            self.wake_rounds(now);
        }
    }

    /// Packets wait, for there is no way: one is looked for, unless that is under way.
    pub fn wanted(&mut self, now: Instant) {
        self.active = Some(now);
        self.wake_rounds(now);
    }

    /// Anything at all was sent by this way, handshakes too: its keepalive is due later.
    pub fn transmitted(&mut self, way: Way, now: Instant) {
        if let Some(track) = self.track_mut(way) {
            track.transmitted = Some(now);
        }
    }

    /// This node has another network: every way is asked at once, and none is held back for what it
    /// did before.
    pub fn network_changed(&mut self, now: Instant) {
        for track in self.tracks.iter_mut().filter(|track| track.way.is_direct()) {
            track.forgive();
            track.rtt = None;
        }
        if !self.ready {
            return;
        }
        self.active = Some(now);
        self.check(now);
        self.start_rounds(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        if !self.ready {
            return None;
        }
        let deadlines = self.tracks.iter().filter_map(Track::deadline).min();
        let in_use = self.in_use_due().map(|(at, _)| at);
        [deadlines, in_use, self.rounds.next(), self.hold_ends()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.ready {
            return;
        }
        self.judge(now);
        self.end_holds(now);
        self.round_if_due(now);
        self.ask_in_use(now);
    }

    /// What is to be sealed and sent.
    pub fn poll(&mut self) -> Option<PathOut> {
        self.out.pop_front()
    }

    /// By which way packets go; none: they are to be held.
    #[inline]
    pub const fn current(&self) -> Option<Way> {
        self.current
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    /// How it stands.
    pub fn status(&self) -> PathStatus {
        let track = self.current.and_then(|way| self.track(way));
        PathStatus {
            way: self.current,
            carrier: track.and_then(|track| track.carrier),
            rtt: track.and_then(|track| track.rtt),
            loss: track.map_or(0.0, Track::loss),
            since: self.since,
            why: self.reason(),
        }
    }

    /// Why packets go by the way they go: without a direct way, why there is none.
    fn reason(&self) -> Why {
        if self.current.is_some_and(Way::is_direct) || self.tracks.is_empty() {
            return self.why;
        }
        if !self.allows_direct() {
            return Why::Policy;
        }
        let direct = || self.tracks.iter().filter(|track| track.way.is_direct());
        if direct().next().is_none() {
            Why::NoCandidates
        } else if self.why == Why::Silent && self.rounds.is_early() {
            Why::Silent
        } else if direct().any(|track| track.held_until.is_some() && track.proof.is_some()) {
            Why::HeldBack
        } else if !self.ready {
            self.why
        } else if self.rounds.is_early() {
            Why::Trying
        } else {
            Why::Unanswered
        }
    }

    const fn allows_direct(&self) -> bool {
        matches!(self.policy, Policy::Allow | Policy::DirectOnly)
    }

    fn is_active(&self, now: Instant) -> bool {
        let last = self.active.max(self.last_sent);
        last.is_some_and(|at| now.saturating_duration_since(at) <= self.config.idle)
    }

    fn track(&self, way: Way) -> Option<&Track> {
        self.tracks.iter().find(|track| track.way == way)
    }

    fn track_mut(&mut self, way: Way) -> Option<&mut Track> {
        self.tracks.iter_mut().find(|track| track.way == way)
    }

    fn relays(&self) -> impl Iterator<Item = Way> {
        let ways = self.tracks.iter().map(|track| track.way);
        ways.filter(|way| !way.is_direct())
    }

    /// Adds a direct way, in place of the least promising where there are too many.
    fn add(&mut self, way: Way, now: Instant) -> bool {
        let direct = || self.tracks.iter().filter(|track| track.way.is_direct());
        if direct().count() >= self.config.max_ways {
            let victim = direct()
                .filter(|track| Some(track.way) != self.current)
                .min_by_key(|track| (track.proof.is_some(), track.named, track.added))
                .map(|track| track.way);
            let Some(victim) = victim else {
                return false;
            };
            self.tracks.retain(|track| track.way != victim);
        }
        self.tracks.push(Track::new(way, now));
        true
    }

    fn pong(&mut self, way: Way, nonce: u32, observed: Option<SocketAddr>, now: Instant) {
        if self.out.len() < MAX_OUT {
            self.out.push_back(PathOut::Pong {
                way,
                nonce,
                observed,
            });
            self.transmitted(way, now);
        }
    }

    fn tell(&mut self, event: PathEvent) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}
