//! Decides what a round of Hellos does: whom it asks, by which carrier, and which answer it believes.

use std::net::SocketAddr;
use std::time::Instant;

use super::config::LinkConfig;
use super::join::Joining;
use super::repeat::Repeat;
use super::{Held, Link, LinkOut, Stage, Tls, canonical};
use crate::mesh::keys::Keys;
use crate::mesh::record::{RecordError, SignedRecord};
use crate::mesh::way::Carrier;
use crate::mesh::wire::Frame;
use crate::mesh::wire::frame::COOKIE;
use crate::session::TICK;

/// One round of Hellos.
#[derive(Debug)]
pub(super) struct Round {
    nonce: u64,
    started: Instant,
    udp: Option<Repeat>,
    /// Since the connection is open.
    tls: Option<Repeat>,
    tls_tried: bool,
    /// When a TLS connection that failed is tried again.
    tls_again: Option<Instant>,
    /// What was wrong with an answer, for who configured the hub.
    problem: Option<&'static str>,
}

impl Round {
    pub(super) const fn tls_opened(&mut self, now: Instant) {
        self.tls = Some(Repeat::new(now));
    }

    /// Until when it waits: longer while a TLS connection may still bring an answer.
    fn ends(&self, config: &LinkConfig, tls: Tls) -> Instant {
        let pending = tls != Tls::Closed || (config.tls && !self.tls_tried);
        self.started
            + if pending {
                config.times.tls_round
            } else {
                config.times.round
            }
    }

    /// A TLS connection failed: a hub that is being started again refuses it for a moment.
    pub(super) fn tls_failed(&mut self, config: &LinkConfig, now: Instant) {
        self.tls = None;
        self.tls_again = Some(now + config.times.unanswered);
    }

    /// When TLS is tried as well.
    fn tls_at(&self, config: &LinkConfig) -> Option<Instant> {
        match self.tls_tried {
            false => config.tls.then(|| self.started + config.times.tls_after),
            true => self.tls_again,
        }
    }

    pub(super) fn next(&self, config: &LinkConfig, tls: Tls) -> Option<Instant> {
        [
            Some(self.ends(config, tls)),
            self.tls_at(config),
            self.udp.and_then(|repeat| repeat.next()),
            self.tls.and_then(|repeat| repeat.next()),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// An answer that is believed.
pub(super) struct Greeted {
    pub(super) via: Carrier,
    pub(super) to: SocketAddr,
    pub(super) cookie: [u8; COOKIE],
    pub(super) observed: Option<SocketAddr>,
    pub(super) hub: SignedRecord,
}

impl Link {
    pub(super) fn start_round(&mut self, now: Instant) {
        self.close_tls();
        self.held = None;
        if self.endpoints.is_empty() || self.record.is_none() {
            self.stage = Stage::Idle;
            return;
        }
        self.counters.rounds += 1;
        let udp = self.config.udp && !std::mem::take(&mut self.without_udp);
        let mut round = Round {
            nonce: self.draw(),
            started: now,
            udp: udp.then(|| Repeat::new(now)),
            tls: None,
            tls_tried: false,
            tls_again: None,
            problem: None,
        };
        if self.config.tls && (self.networks.is_blocked() || !udp) {
            round.tls_tried = true;
            self.open_tls();
        }
        self.stage = Stage::Greeting(round);
        self.advance_round(now);
    }

    pub(super) fn advance_round(&mut self, now: Instant) {
        let tls = self.tls;
        let Stage::Greeting(round) = &mut self.stage else {
            return;
        };
        if now >= round.ends(&self.config, tls) {
            let why = round.problem.unwrap_or("no answer from the hub");
            self.fail(why, now);
            return;
        }
        let nonce = round.nonce;
        let by_udp = round.udp.as_mut().is_some_and(|repeat| repeat.take(now));
        let by_tls = round.tls.as_mut().is_some_and(|repeat| repeat.take(now));
        let open = round.tls_at(&self.config).is_some_and(|at| now >= at);
        round.tls_tried |= open;
        round.tls_again = round.tls_again.filter(|_| !open);
        if by_udp {
            self.hello_all(nonce);
        }
        if open {
            self.open_tls();
        }
        if by_tls && tls == Tls::Open {
            self.counters.hellos += 1;
            self.push(LinkOut::Tls(Frame::Hello { nonce }.to_bytes()));
        }
    }

    /// A Hello by UDP to every endpoint.
    pub(super) fn hello_all(&mut self, nonce: u64) {
        let hello = Frame::Hello { nonce }.to_bytes();
        for to in self.endpoints.clone() {
            self.counters.hellos += 1;
            self.send(Carrier::Udp, to, hello.clone());
        }
    }

    /// Believes a Welcome or not, and passes it to who waits for it.
    pub(super) fn welcome(
        &mut self,
        via: Carrier,
        from: Option<SocketAddr>,
        frame: &Frame<'_>,
        keys: &dyn Keys,
        now: Instant,
        unix: u64,
    ) {
        let Frame::Welcome {
            nonce,
            cookie,
            observed,
            record,
        } = *frame
        else {
            return;
        };
        let expected = match &self.stage {
            Stage::Greeting(round) => Some(round.nonce),
            Stage::Up(live) => live.expects(via),
            _ => None,
        };
        let to = match via {
            Carrier::Udp => from
                .map(canonical)
                .filter(|from| self.endpoints.contains(from)),
            Carrier::Tls if self.tls == Tls::Open => self.endpoints.first().copied(),
            Carrier::Tls => None,
        };
        let (Some(to), true) = (to, expected == Some(nonce)) else {
            // Late, twice, or forged.
            self.counters.disbelieved += 1;
            return;
        };
        let hub = match SignedRecord::from_bytes(record, unix) {
            Ok(hub) if hub.record().peer == self.config.hub => hub,
            other => {
                self.counters.disbelieved += 1;
                if let Stage::Greeting(round) = &mut self.stage {
                    round.problem = Some(match other {
                        Ok(_) => "who answers has another key than the configured hub",
                        Err(RecordError::Expired) => {
                            "the hub's record expired: compare the clocks of both"
                        }
                        Err(_) => "the hub's record is not believed",
                    });
                }
                return;
            }
        };
        let greeted = Greeted {
            via,
            to,
            cookie,
            observed: (via == Carrier::Udp).then_some(canonical(observed)),
            hub,
        };
        match &self.stage {
            Stage::Greeting(_) => self.join(&greeted, keys, now),
            Stage::Up(_) => self.greeted_again(greeted, keys, now),
            _ => {}
        }
    }

    /// Begins to join: a new session with the key the hub has now.
    pub(super) fn join(&mut self, greeted: &Greeted, keys: &dyn Keys, now: Instant) {
        let key = greeted.hub.record().session;
        let session = keys.session(key);
        self.join_with(Held { session, key }, greeted, now);
    }

    /// Begins to join with a session that has no handshake.
    pub(super) fn join_with(&mut self, held: Held, greeted: &Greeted, now: Instant) {
        if greeted.via == Carrier::Udp {
            self.close_tls();
        }
        self.held = Some(held);
        self.next_tick = now + TICK;
        self.stage = Stage::Joining(Joining::new(greeted, now));
        self.advance_joining(now);
    }
}
