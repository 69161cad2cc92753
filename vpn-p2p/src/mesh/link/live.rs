//! Decides how a link stays up: what is asked when, what silence means, and what a Stranger costs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::{LinkConfig, LinkTimes, TRIES};
use super::greet::Greeted;
use super::join::Registering;
use super::repeat::Repeat;
use super::upgrade::Upgrade;
use super::{Link, Stage};
use crate::mesh::keys::Keys;
use crate::mesh::way::Carrier;
use crate::mesh::wire::{Frame, ToHub};

/// How many of them are empty messages, which cost the least and say the least.
const EMPTY: usize = 2;

/// Pause between questions when there is a reason to doubt (another network, a Stranger): many round
/// trips of most networks.
const DOUBT: Duration = Duration::from_millis(400);

/// The number of a Pong that answers nothing: the hub sees a change.
const UNASKED: u32 = 0;

/// A Stranger is believed so often: it needs no proof, so it must cost little.
const STRANGER_EVERY: Duration = Duration::from_secs(1);

/// A question that waits for its answer.
#[derive(Debug)]
struct Pinging {
    /// Number and time of each that was sent.
    sent: Vec<(u32, Instant)>,
    /// When the next is sent, or the hub is gone.
    next: Instant,
    pause: Duration,
    /// How many more may be empty messages.
    empty: usize,
}

/// A link that is up.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) via: Carrier,
    pub(super) to: SocketAddr,
    /// When anything was last sent to the hub.
    sent: Instant,
    /// When it last answered a question.
    measured: Instant,
    /// Since when we relay without hearing anything.
    unheard: Option<Instant>,
    ping: Option<Pinging>,
    registering: Option<Registering>,
    register_due: bool,
    /// A Hello because of a Stranger: its nonce.
    hello: Option<u64>,
    stranger_from: Instant,
    /// The answer to it: used if the question is not answered.
    again: Option<Box<Greeted>>,
    pub(super) upgrade: Option<Upgrade>,
}

impl std::fmt::Debug for Greeted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Greeted({:?} {})", self.via, self.to)
    }
}

impl Live {
    pub(super) fn new(via: Carrier, to: SocketAddr, config: &LinkConfig, now: Instant) -> Self {
        Self {
            via,
            to,
            sent: now,
            measured: now,
            unheard: None,
            ping: None,
            registering: None,
            register_due: false,
            hello: None,
            stranger_from: now,
            again: None,
            upgrade: (via == Carrier::Tls && config.udp)
                .then(|| Upgrade::later(now, &config.times)),
        }
    }

    /// The hub is reached otherwise from now on.
    pub(super) fn moved(&mut self, via: Carrier, to: SocketAddr, now: Instant) {
        (self.via, self.to) = (via, to);
        (self.sent, self.measured, self.unheard) = (now, now, None);
        (self.ping, self.hello, self.again, self.upgrade) = (None, None, None, None);
    }

    pub(super) const fn register_anew(&mut self) {
        self.register_due = true;
    }

    /// Whether this answers the registration that is under way.
    pub(super) fn registered(&mut self, id: u32) -> bool {
        let is_answer = self.registering.is_some_and(|it| it.id == id);
        if is_answer {
            self.registering = None;
        }
        is_answer
    }

    /// The nonce a Welcome by this carrier has to have.
    pub(super) fn expects(&self, via: Carrier) -> Option<u64> {
        let upgrade = self.upgrade.as_ref().and_then(Upgrade::nonce);
        match via {
            Carrier::Udp if self.via == Carrier::Tls => upgrade,
            _ if via == self.via => self.hello,
            _ => None,
        }
    }

    /// Something was sent that keeps mappings open, and the hub has just answered.
    pub(super) const fn kept(&mut self, now: Instant) {
        (self.sent, self.measured) = (now, now);
    }

    #[inline]
    pub(super) fn relayed(&mut self, now: Instant) {
        self.sent = now;
        self.unheard.get_or_insert(now);
    }

    #[inline]
    pub(super) const fn heard(&mut self) {
        self.unheard = None;
    }

    /// Reason to doubt: it is asked now, and quickly again.
    fn doubt(&mut self, now: Instant) {
        if self.ping.as_ref().is_none_or(|ping| ping.pause > DOUBT) {
            self.ping = Some(Pinging {
                sent: Vec::new(),
                next: now,
                pause: DOUBT,
                empty: 0,
            });
        }
    }

    pub(super) fn network_changed(&mut self, now: Instant) {
        self.doubt(now);
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.at_once(now);
        }
    }

    /// When the hub is asked next, without reason to doubt.
    fn question(&self, times: &LinkTimes) -> Instant {
        let idle = self.sent + times.keepalive;
        let measure = self.measured + times.measure;
        let silent = self.unheard.map(|since| since + times.silent);
        [Some(idle), Some(measure), silent]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(idle)
    }

    pub(super) fn next(&self, times: &LinkTimes) -> Option<Instant> {
        let ping = match &self.ping {
            Some(ping) => ping.next,
            None => self.question(times),
        };
        [
            Some(ping),
            self.registering.and_then(|it| it.repeat.next()),
            self.upgrade.as_ref().map(Upgrade::next),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl Link {
    pub(super) fn advance_live(&mut self, now: Instant) {
        self.register_changes(now);
        self.ask_again(now);
        self.advance_upgrade(now);
        self.ask_finds(now);
    }

    /// The question whether the hub is there.
    fn ask_again(&mut self, now: Instant) {
        let number = self.number();
        let Stage::Up(live) = &mut self.stage else {
            return;
        };
        let times = &self.config.times;
        if live.ping.is_none() && now >= live.question(times) {
            let idle = now >= live.sent + times.keepalive;
            live.ping = Some(Pinging {
                sent: Vec::new(),
                next: now,
                pause: times.unanswered,
                empty: if idle { EMPTY } else { 0 },
            });
        }
        let Some(ping) = &mut live.ping else {
            return;
        };
        if now < ping.next {
            return;
        }
        if !ping.sent.is_empty()
            && let Some(again) = live.again.take()
        {
            // It answers Hellos, but the session is nothing to it.
            self.forgotten(&again, now);
            return;
        }
        if ping.sent.len() >= TRIES as usize {
            self.fail("the hub does not answer any more", now);
            return;
        }
        ping.sent.push((number, now));
        ping.next = now + ping.pause;
        let empty = ping.empty > 0;
        ping.empty = ping.empty.saturating_sub(1);
        live.sent = now;
        let (via, to) = (live.via, live.to);
        let sent = if empty {
            self.seal_bytes(&[], via, to)
        } else {
            self.seal(&ToHub::Ping { nonce: number }, via, to)
        };
        if !sent {
            self.fail("the session with the hub is gone", now);
        }
    }

    /// What is new about us.
    fn register_changes(&mut self, now: Instant) {
        let number = self.number();
        let Stage::Up(live) = &mut self.stage else {
            return;
        };
        if std::mem::take(&mut live.register_due) {
            live.registering = Some(Registering {
                id: number,
                repeat: Repeat::new(now),
            });
        }
        let Some(registering) = &mut live.registering else {
            return;
        };
        let due = registering.repeat.take(now);
        let over = registering.repeat.next().is_none();
        let (id, via, to) = (registering.id, live.via, live.to);
        if due && over {
            // Eight seconds. The link may be there all the same: it is asked.
            live.registering = None;
            live.register_due = true;
            live.doubt(now);
        }
        if due {
            live.sent = now;
            self.register(id, via, to);
        }
    }

    fn ask_finds(&mut self, now: Instant) {
        let Stage::Up(live) = &self.stage else {
            return;
        };
        let (via, to) = (live.via, live.to);
        for (id, what) in self.finds.due(now) {
            self.seal(&ToHub::Find { id, what }, via, to);
            if let Stage::Up(live) = &mut self.stage {
                live.sent = now;
            }
        }
    }

    /// An empty message: the answer to one of ours.
    pub(super) fn answered_empty(&mut self, via: Carrier, now: Instant) {
        let Stage::Up(live) = &mut self.stage else {
            return;
        };
        // A doubt is about how the hub sees us, which only its Pong says.
        let asked = live.ping.as_ref().filter(|ping| ping.pause > DOUBT);
        let Some(ping) = asked.filter(|_| live.via == via) else {
            return;
        };
        if let [(_, sent)] = ping.sent[..] {
            self.rtt = Some(now.saturating_duration_since(sent));
        }
        live.measured = now;
        live.ping = None;
    }

    /// The hub answered a question, or says unasked that it sees us elsewhere.
    pub(super) fn pong(
        &mut self,
        via: Carrier,
        nonce: u32,
        observed: Option<SocketAddr>,
        now: Instant,
    ) {
        let Stage::Up(live) = &mut self.stage else {
            return;
        };
        let sent = live.ping.as_ref().and_then(|ping| {
            let found = ping.sent.iter().find(|(number, _)| *number == nonce);
            found.map(|(_, at)| *at)
        });
        let Some(sent) = sent else {
            if nonce == UNASKED && (live.via, via) == (Carrier::Udp, Carrier::Udp) {
                self.seen_at(observed);
            }
            return;
        };
        self.rtt = Some(now.saturating_duration_since(sent));
        live.measured = now;
        live.ping = None;
        live.hello = None;
        live.again = None;
        if live.via == Carrier::Udp && via == Carrier::Udp {
            self.seen_at(observed);
        }
    }

    /// The hub says it does not know us. A hint: believed only if it repeats what we sent, and once
    /// a second.
    pub(super) fn stranger(&mut self, echo: [u8; 8], now: Instant) {
        if !self.echoes.0.contains(&echo) {
            self.counters.strangers_ignored += 1;
            return;
        }
        let nonce = self.draw();
        let live = match &mut self.stage {
            Stage::Up(live) => live,
            Stage::Joining(joining) if now >= joining.since() + STRANGER_EVERY => {
                self.fail("the hub does not know us after we joined", now);
                return;
            }
            _ => return,
        };
        if now < live.stranger_from {
            return;
        }
        live.stranger_from = now + STRANGER_EVERY;
        live.doubt(now);
        live.hello = Some(nonce);
        let (via, to) = (live.via, live.to);
        self.counters.hellos += 1;
        self.send(via, to, Frame::Hello { nonce }.to_bytes());
    }

    /// A hub that we are members of answered a Hello.
    pub(super) fn greeted_again(&mut self, greeted: Greeted, keys: &dyn Keys, now: Instant) {
        let same = self
            .held
            .as_ref()
            .is_some_and(|held| held.key == greeted.hub.record().session);
        let Stage::Up(live) = &mut self.stage else {
            return;
        };
        if !same {
            self.leave("the hub was started again", now);
            self.join(&greeted, keys, now);
        } else if live.via != greeted.via {
            self.udp_is_back(&greeted, now);
        } else {
            live.hello = None;
            live.again = Some(Box::new(greeted));
        }
    }

    /// It answers Hellos, but our session is nothing to it any more.
    fn forgotten(&mut self, greeted: &Greeted, now: Instant) {
        let held = self.held.take();
        self.leave("the hub forgot us", now);
        if let Some(mut held) = held {
            held.session.forget();
            self.join_with(held, greeted, now);
        }
    }
}
