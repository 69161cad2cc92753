//! Decides when a link over TLS tries UDP again, and when it changes back: only after the hub
//! answered a registration by UDP, in the session that is there.
//!
//! The hub goes along with that registration, whether its answer arrives or not: some networks let a
//! first answer in and nothing after it. So an attempt that ends without one ends with a Ping by TLS,
//! with which the hub is back there too.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::LinkTimes;
use super::greet::Greeted;
use super::repeat::Repeat;
use super::{Link, LinkEvent, Stage};
use crate::mesh::way::Carrier;
use crate::mesh::wire::ToHub;

/// When each question of an attempt is sent. Three: what is not answered then is blocked, or loses
/// so much that TLS is better.
const STEPS: &[Duration] = &[
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_millis(700),
];

/// How long one attempt waits, Hello and question together.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long the answer to a registration is waited for: meanwhile what is relayed to us goes by UDP,
/// and is lost if that leads nowhere.
const ANSWER: Duration = Duration::from_millis(1_500);

/// UDP, tried beside TLS.
#[derive(Debug)]
pub(super) struct Upgrade {
    at: Instant,
    attempt: Option<Attempt>,
}

#[derive(Debug)]
struct Attempt {
    nonce: u64,
    hello: Repeat,
    started: Instant,
    ends: Instant,
    /// The hub answered from here; what was asked there since.
    answered: Option<(SocketAddr, Repeat, Vec<u32>)>,
}

impl Upgrade {
    /// The first attempt is after the usual pause.
    pub(super) fn later(now: Instant, times: &LinkTimes) -> Self {
        Self {
            at: now + times.udp_retry,
            attempt: None,
        }
    }

    /// The network is another one.
    pub(super) fn at_once(&mut self, now: Instant) {
        self.at = now;
        self.attempt = None;
    }

    /// Of the Hellos that are out.
    pub(super) fn nonce(&self) -> Option<u64> {
        self.attempt.as_ref().map(|attempt| attempt.nonce)
    }

    pub(super) fn next(&self) -> Instant {
        let Some(attempt) = &self.attempt else {
            return self.at;
        };
        let repeat = match &attempt.answered {
            Some((_, repeat, _)) => repeat.next(),
            None => attempt.hello.next(),
        };
        repeat.map_or(attempt.ends, |at| at.min(attempt.ends))
    }
}

impl Link {
    pub(super) fn advance_upgrade(&mut self, now: Instant) {
        let (nonce, number) = (self.draw(), self.number());
        let Stage::Up(live) = &mut self.stage else {
            return;
        };
        let Some(upgrade) = &mut live.upgrade else {
            return;
        };
        let attempt = match &mut upgrade.attempt {
            Some(attempt) if now >= attempt.ends => {
                let asked = attempt.answered.take().is_some();
                upgrade.at = attempt.started + self.config.times.udp_retry;
                upgrade.attempt = None;
                if asked {
                    self.stay();
                }
                return;
            }
            Some(attempt) => attempt,
            None if now < upgrade.at => return,
            None => upgrade.attempt.insert(Attempt {
                nonce,
                hello: Repeat::by(now, STEPS),
                started: now,
                ends: now + PATIENCE,
                answered: None,
            }),
        };
        if let Some((to, repeat, asked)) = &mut attempt.answered {
            if repeat.take(now) {
                asked.push(number);
                let to = *to;
                self.register(number, Carrier::Udp, to);
            }
        } else if attempt.hello.take(now) {
            let nonce = attempt.nonce;
            self.hello_all(nonce);
        }
    }

    /// The hub answered a Hello by UDP.
    pub(super) fn udp_is_back(&mut self, greeted: &Greeted, now: Instant) {
        if let Stage::Up(live) = &mut self.stage
            && let Some(upgrade) = &mut live.upgrade
            && let Some(attempt) = &mut upgrade.attempt
            && attempt.answered.is_none()
        {
            attempt.ends = now + ANSWER;
            attempt.answered = Some((greeted.to, Repeat::by(now, STEPS), Vec::new()));
        }
    }

    /// Tells the hub that we are where we are, which may have gone elsewhere with a registration of ours.
    pub(super) fn stay(&mut self) {
        let nonce = self.number();
        if let Some((via, to)) = self.way() {
            self.seal(&ToHub::Ping { nonce }, via, to);
        }
    }

    /// Changes to UDP if this answers a registration by it.
    pub(super) fn returned(
        &mut self,
        via: Carrier,
        id: u32,
        observed: Option<SocketAddr>,
        now: Instant,
    ) -> bool {
        let Stage::Up(live) = &mut self.stage else {
            return false;
        };
        let answered = live
            .upgrade
            .as_ref()
            .and_then(|upgrade| upgrade.attempt.as_ref()?.answered.as_ref());
        let Some((to, _, asked)) = answered else {
            return false;
        };
        if via != Carrier::Udp || !asked.contains(&id) {
            return false;
        }
        let to = *to;
        live.moved(Carrier::Udp, to, now);
        self.tls_until = Some(now + self.config.times.linger);
        self.networks.learned(false);
        self.why.clear();
        self.counters.returns += 1;
        self.observed = observed.map(super::canonical);
        self.event(LinkEvent::Up {
            carrier: Carrier::Udp,
            observed: self.observed,
        });
        true
    }
}
