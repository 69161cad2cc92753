//! Decides how a hub that answered is joined: our record, the handshake, the registration.

use std::net::SocketAddr;
use std::time::Instant;

use super::config::LinkTimes;
use super::greet::Greeted;
use super::live::Live;
use super::repeat::Repeat;
use super::{Link, LinkEvent, Stage};
use crate::mesh::way::Carrier;
use crate::mesh::wire::frame::COOKIE;
use crate::mesh::wire::{Frame, Refusal, ToHub};

/// A registration that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registering {
    pub(super) id: u32,
    pub(super) repeat: Repeat,
}

/// A hub that answered.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) via: Carrier,
    pub(super) to: SocketAddr,
    cookie: [u8; COOKIE],
    observed: Option<SocketAddr>,
    handshake: Repeat,
    registering: Option<Registering>,
}

impl Joining {
    pub(super) const fn new(greeted: &Greeted, now: Instant) -> Self {
        Self {
            via: greeted.via,
            to: greeted.to,
            cookie: greeted.cookie,
            observed: greeted.observed,
            handshake: Repeat::new(now),
            registering: None,
        }
    }

    /// The record is another one.
    pub(super) const fn register_anew(&mut self) {
        self.registering = None;
    }

    pub(super) const fn since(&self) -> Instant {
        self.handshake.since()
    }

    fn ends(&self, times: &LinkTimes) -> Instant {
        self.handshake.since() + times.join
    }

    pub(super) fn next(&self, times: &LinkTimes) -> Option<Instant> {
        let step = match &self.registering {
            Some(registering) => registering.repeat.next(),
            None => self.handshake.next(),
        };
        [Some(self.ends(times)), step].into_iter().flatten().min()
    }
}

impl Link {
    pub(super) fn advance_joining(&mut self, now: Instant) {
        let ready = self
            .held
            .as_ref()
            .is_some_and(|held| held.session.is_ready());
        let id = self.number();
        let Stage::Joining(joining) = &mut self.stage else {
            return;
        };
        if now >= joining.ends(&self.config.times) {
            let why = if joining.registering.is_some() {
                "the hub does not answer the registration"
            } else {
                "the hub answers, but no handshake with it completes"
            };
            // Some networks let a first answer in and nothing after it: a round by UDP ends here again.
            self.without_udp = joining.via == Carrier::Udp && self.config.tls;
            self.fail(why, now);
            return;
        }
        let (via, to, cookie) = (joining.via, joining.to, joining.cookie);
        if ready {
            let registering = joining.registering.get_or_insert(Registering {
                id,
                repeat: Repeat::new(now),
            });
            if registering.repeat.take(now) {
                let id = registering.id;
                self.register(id, via, to);
            }
        } else if joining.handshake.take(now) {
            let record = self.record.as_ref().map(super::SignedRecord::to_bytes);
            let initiation = self
                .held
                .as_mut()
                .and_then(|held| held.session.initiate(true));
            if let (Some(record), Some(initiation)) = (record, initiation) {
                let join = Frame::Join {
                    cookie,
                    record: &record,
                };
                self.send(via, to, join.to_bytes());
                self.send(via, to, initiation.to_vec());
            }
        }
    }

    /// Sends our record, sealed.
    pub(super) fn register(&mut self, id: u32, via: Carrier, to: SocketAddr) -> bool {
        let Some(record) = &self.record else {
            return false;
        };
        let message = ToHub::Register {
            id,
            token: self.config.token.clone(),
            record: record.to_bytes(),
        };
        self.seal(&message, via, to)
    }

    /// The hub took us.
    pub(super) fn registered(
        &mut self,
        via: Carrier,
        id: u32,
        observed: Option<SocketAddr>,
        isolated: bool,
        now: Instant,
    ) {
        if self.returned(via, id, observed, now) {
            return;
        }
        match &mut self.stage {
            Stage::Joining(joining) => {
                let Some(registering) = joining.registering.filter(|it| it.id == id) else {
                    return;
                };
                let (via, to) = (joining.via, joining.to);
                if registering.repeat.sent() == 1 {
                    self.rtt = Some(now.saturating_duration_since(registering.repeat.since()));
                }
                let observed = match via {
                    Carrier::Udp => observed.or(joining.observed).map(super::canonical),
                    Carrier::Tls => None,
                };
                self.stage = Stage::Up(Box::new(Live::new(via, to, &self.config, now)));
                self.since = now;
                self.refused = false;
                self.backoff.succeeded(now);
                self.networks.learned(via == Carrier::Tls);
                self.why = match via {
                    Carrier::Udp => String::new(),
                    Carrier::Tls if self.config.udp => "UDP is not answered".into(),
                    Carrier::Tls => "UDP is not allowed".into(),
                };
                match via {
                    Carrier::Udp => self.counters.up_udp += 1,
                    Carrier::Tls => self.counters.up_tls += 1,
                }
                self.observed = observed;
                self.event(LinkEvent::Up {
                    carrier: via,
                    observed,
                });
            }
            Stage::Up(live) => {
                if live.via != via {
                    // Of an attempt that was over: the hub went where it came from.
                    self.stay();
                    return;
                }
                if !live.registered(id) {
                    return;
                }
                if live.via == Carrier::Udp {
                    self.seen_at(observed);
                }
            }
            _ => return,
        }
        if self.isolated != isolated {
            self.isolated = isolated;
            self.event(LinkEvent::Isolated(isolated));
        }
    }

    /// The hub does not take us, or not what is new about us.
    pub(super) fn was_refused(&mut self, id: u32, why: Refusal, now: Instant) {
        let asked = match &mut self.stage {
            Stage::Joining(joining) => joining.registering.is_some_and(|it| it.id == id),
            Stage::Up(live) => live.registered(id),
            _ => false,
        };
        if !asked {
            return;
        }
        self.counters.refused += 1;
        self.why = why.to_string();
        // With what it knew of us before we stay; without being admitted we do not.
        let stays = matches!(self.stage, Stage::Up(_))
            && !matches!(why, Refusal::NotAdmitted | Refusal::Full(_));
        let text = why.to_string();
        self.event(LinkEvent::Refused(why));
        if !stays {
            self.leave(&text, now);
            self.refused = true;
            self.wait(now);
        }
    }

    /// How the hub sees our socket.
    pub(super) fn seen_at(&mut self, observed: Option<SocketAddr>) {
        let observed = observed.map(super::canonical);
        if let Some(address) = observed
            && self.observed != observed
        {
            self.observed = observed;
            self.event(LinkEvent::Observed(address));
        }
    }
}
