//! Two path managers and the network between them, on virtual time.

mod change;
mod choice;
mod quiet;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::*;

pub(super) const HUB: HubId = HubId(0);
const RELAY: Way = Way::Relay(HUB);

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One end: where it is, and what it did.
struct End {
    paths: Paths,
    /// Its address on each network; the same index is the same network.
    at: Vec<SocketAddr>,
    moves: Vec<(Duration, Option<Way>, Why)>,
    /// Messages sent by direct ways and by the relay.
    direct: usize,
    relayed: usize,
    /// Challenges among those sent directly.
    probes: usize,
    /// Packets of users that arrived.
    got: Vec<Duration>,
}

#[derive(Clone, Copy)]
enum Load {
    Out(PathOut),
    User,
}

/// What a direction of a network does.
#[derive(Clone, Copy)]
struct Line {
    up: bool,
    delay: Duration,
    /// Of 1000.
    loss: u64,
}

struct Pair {
    start: Instant,
    now: Instant,
    ends: [End; 2],
    /// By sender and network; the last is the relay.
    lines: [Vec<Line>; 2],
    flying: BTreeMap<(Instant, u64), (usize, usize, SocketAddr, Load)>,
    count: u64,
    random: u64,
}

impl Pair {
    /// With a direct network for each of these delays, and a relay with 20 ms.
    fn new(delays: &[u64], policy: Policy) -> Self {
        let start = Instant::now();
        let end = |side: usize| End {
            paths: Paths::new(PathConfig::default(), policy, side as u64),
            at: (0..delays.len())
                .map(|net| SocketAddr::from(([192, 0, 2 + net as u8, 1 + side as u8], 7)))
                .collect(),
            moves: Vec::new(),
            direct: 0,
            relayed: 0,
            probes: 0,
            got: Vec::new(),
        };
        let line = |delay: &u64| Line {
            up: true,
            delay: ms(*delay),
            loss: 0,
        };
        let lines: Vec<Line> = delays.iter().chain(&[20]).map(line).collect();
        let mut pair = Self {
            start,
            now: start,
            ends: [end(0), end(1)],
            lines: [lines.clone(), lines],
            flying: BTreeMap::new(),
            count: 0,
            random: 1,
        };
        for side in 0..2 {
            let candidates = pair.ends[1 - side].at.clone();
            let paths = &mut pair.ends[side].paths;
            paths.set_relays(&[(HUB, Carrier::Udp)], start);
            paths.set_candidates(&candidates, start);
            paths.session_ready(start);
            pair.drain(side);
        }
        pair
    }

    fn relay(&self) -> usize {
        self.lines[0].len() - 1
    }

    fn send(&mut self, side: usize, way: Way, load: Load) {
        let (net, to) = match way {
            Way::Relay(_) => (self.relay(), None),
            Way::Direct(to) => {
                let net = self.ends[1 - side].at.iter().position(|at| *at == to);
                let Some(net) = net else { return };
                (net, Some(to))
            }
        };
        let from = to.map_or(([0, 0, 0, 0], 0).into(), |_| self.ends[side].at[net]);
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(99);
        let line = self.lines[side][net];
        if line.up && (self.random >> 33) % 1000 >= line.loss {
            self.count += 1;
            let key = (self.now + line.delay, self.count);
            self.flying.insert(key, (1 - side, net, from, load));
        }
    }

    fn drain(&mut self, side: usize) {
        while let Some(out) = self.ends[side].paths.poll() {
            if out.way().is_direct() {
                self.ends[side].direct += 1;
                self.ends[side].probes += usize::from(matches!(out, PathOut::Probe { .. }));
            } else {
                self.ends[side].relayed += 1;
            }
            self.send(side, out.way(), Load::Out(out));
        }
        let at = self.now - self.start;
        while let Some(PathEvent::Moved { to, why, .. }) = self.ends[side].paths.poll_event() {
            self.ends[side].moves.push((at, to, why));
        }
    }

    fn user(&mut self, side: usize) {
        self.ends[side].paths.sent(self.now);
        if let Some(way) = self.ends[side].paths.current() {
            self.send(side, way, Load::User);
        }
        self.drain(side);
    }

    /// Lets this much time pass; each side sends a packet every `every`.
    fn run(&mut self, time: Duration, every: [Option<Duration>; 2]) {
        let end = self.now + time;
        let mut next = every.map(|every| every.map(|_| self.now));
        loop {
            let timers = self.ends.iter().map(|end| end.paths.next_timeout());
            let flying = self.flying.keys().next().map(|key| key.0);
            let due = timers.chain(next).chain([flying]).flatten().min();
            let Some(due) = due.filter(|at| *at < end) else {
                break;
            };
            self.now = self.now.max(due);
            if flying == Some(due) {
                let (_, (side, net, from, load)) = self.flying.pop_first().unwrap();
                self.arrive(side, net, from, load);
                continue;
            }
            for side in 0..2 {
                if next[side].is_some_and(|at| at <= self.now) {
                    self.user(side);
                    next[side] = every[side].map(|every| self.now + every);
                }
                let paths = &mut self.ends[side].paths;
                if paths.next_timeout().is_some_and(|at| at <= self.now) {
                    paths.handle_timeout(self.now);
                    assert!(paths.next_timeout().is_none_or(|at| at > self.now));
                    self.drain(side);
                }
            }
        }
        self.now = end;
    }

    fn arrive(&mut self, side: usize, net: usize, from: SocketAddr, load: Load) {
        let way = if net == self.relay() {
            RELAY
        } else {
            Way::Direct(from)
        };
        let (now, since) = (self.now, self.now - self.start);
        let end = &mut self.ends[side];
        end.paths.heard(way, now);
        match load {
            Load::User => end.got.push(since),
            Load::Out(PathOut::Keepalive { .. }) => {}
            Load::Out(PathOut::Probe { nonce, urgent, .. }) => {
                end.paths.probe_arrived(way, nonce, urgent, now);
            }
            Load::Out(PathOut::Pong {
                nonce, observed, ..
            }) => {
                end.paths.pong_arrived(nonce, observed, now);
            }
        }
        self.drain(side);
    }

    fn way(&self, side: usize) -> Option<Way> {
        self.ends[side].paths.current()
    }

    fn is_direct(&self, side: usize) -> bool {
        self.way(side).is_some_and(Way::is_direct)
    }

    fn cut(&mut self, side: usize, net: usize) {
        self.lines[side][net].up = false;
    }

    /// Longest time without a packet at `side`, from `from` on.
    fn gap(&self, side: usize, from: Duration) -> Duration {
        let got = self.ends[side].got.iter().filter(|at| **at >= from);
        let mut last = from;
        let mut gap = Duration::ZERO;
        for at in got.chain([&(self.now - self.start)]) {
            gap = gap.max(*at - last);
            last = *at;
        }
        gap
    }
}

const IDLE: [Option<Duration>; 2] = [None, None];
const BUSY: [Option<Duration>; 2] = [Some(ms_const(10)), Some(ms_const(10))];

const fn ms_const(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
