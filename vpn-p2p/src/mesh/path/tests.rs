//! Two path managers and the network between them, on virtual time.

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

#[test]
fn the_relay_serves_at_once_and_a_direct_way_once_it_is_proven() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    assert_eq!(pair.way(0), Some(RELAY));
    pair.run(ms(29), IDLE);
    assert_eq!(pair.way(0), Some(RELAY), "no answer yet");
    pair.run(ms(10), IDLE);
    assert!(pair.is_direct(0) && pair.is_direct(1));
    let status = pair.ends[0].paths.status();
    assert_eq!((status.rtt, status.why), (Some(ms(30)), Why::Proven));
    assert_eq!(status.loss, 0.0);
}

#[test]
fn the_fastest_way_wins_and_a_nearer_one_if_it_is_as_fast() {
    let mut pair = Pair::new(&[40, 4, 60], Policy::Allow);
    pair.run(ms(3000), IDLE);
    assert_eq!(pair.way(0), Some(Way::Direct(pair.ends[1].at[1])));
    assert_eq!(pair.ends[0].moves.len(), 2, "{:?}", pair.ends[0].moves);

    let mut paths = Paths::new(PathConfig::default(), Policy::Allow, 0);
    let now = Instant::now();
    let ways = ["192.0.2.1:1", "[2001:db8::1]:1", "10.0.0.1:1"];
    paths.set_candidates(&ways.map(|way| way.parse().unwrap()), now);
    paths.session_ready(now);
    let probes: Vec<PathOut> = std::iter::from_fn(|| paths.poll()).collect();
    for (at, out) in probes.iter().enumerate() {
        let PathOut::Probe { way, nonce, .. } = *out else {
            panic!("{out:?}")
        };
        paths.pong_arrived(nonce, None, now + ms(10 + at as u64));
        assert_eq!(paths.current(), Some(way), "as fast and nearer");
    }
}

#[test]
fn a_dead_way_is_left_within_two_seconds_and_returned_to() {
    // Whatever the round trip, and whenever it dies.
    for delay in [1, 20, 60, 110] {
        for late in [0, 250, 500, 750] {
            let mut pair = Pair::new(&[delay], Policy::Allow);
            pair.run(ms(5000 + late), BUSY);
            assert!(pair.is_direct(0) && pair.is_direct(1));
            let from = pair.now - pair.start;
            for side in 0..2 {
                pair.cut(side, 0);
            }
            pair.run(ms(10_000), BUSY);
            for side in 0..2 {
                assert_eq!(pair.way(side), Some(RELAY));
                let gap = pair.gap(side, from);
                assert!(gap <= ms(1950), "{delay} ms, {late} ms: {gap:?}");
            }
            for side in 0..2 {
                pair.lines[side][0].up = true;
            }
            pair.run(ms(10_000), BUSY);
            assert!(pair.is_direct(0) && pair.is_direct(1));
        }
    }
}

#[test]
fn a_way_dead_in_one_direction_is_left_by_the_side_it_is_dead_for() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(5000), BUSY);
    pair.cut(0, 0);
    let (before, from) = (pair.ends[0].probes, pair.now - pair.start);
    pair.run(ms(3000), BUSY);
    assert_eq!(pair.way(0), Some(RELAY));
    assert!(
        pair.is_direct(1),
        "the other direction is as good as before"
    );
    assert!(pair.gap(1, from) <= ms(1950));
    let (at, _, why) = *pair.ends[0].moves.last().unwrap();
    assert_eq!(why, Why::Silent);
    assert!(at - from <= ms(1950), "{at:?}");
    // Three probes of the way in use; then of the rounds four, one when it is held back no more, and
    // three that what still comes by it brought about.
    let probes = pair.ends[0].probes - before;
    assert!(probes <= 3 + 4 + 1 + 3, "{probes}");
    pair.run(ms(60_000), BUSY);
    assert!(pair.is_direct(1));
    assert_eq!(pair.ends[1].moves.len(), 2, "{:?}", pair.ends[1].moves);
    pair.lines[0][0].up = true;
    pair.run(ms(40_000), BUSY);
    assert!(pair.is_direct(0));
}

#[test]
fn a_second_direct_way_takes_over_if_it_still_answers() {
    let mut pair = Pair::new(&[5, 30], Policy::Allow);
    pair.run(ms(5000), BUSY);
    let second = Way::Direct(pair.ends[1].at[1]);
    pair.cut(0, 0);
    pair.cut(1, 0);
    pair.run(ms(3000), BUSY);
    assert_eq!(pair.way(0), Some(second));
    // Nor is the first one tried for nothing when both are dead.
    pair.cut(0, 1);
    pair.cut(1, 1);
    let from = pair.now - pair.start;
    pair.run(ms(3000), BUSY);
    assert_eq!(pair.way(0), Some(RELAY));
    assert!(pair.gap(1, from) <= ms(1950));
}

/// The second one answered a second ago, so it looks as good as new; but both end at the same place.
#[test]
fn two_ways_that_die_together_are_not_tried_one_after_the_other() {
    let mut pair = Pair::new(&[5, 300], Policy::Allow);
    pair.run(ms(2500), BUSY);
    let (from, relay) = (pair.now - pair.start, pair.relay());
    for side in 0..2 {
        (0..relay).for_each(|net| pair.cut(side, net));
    }
    pair.run(ms(3000), BUSY);
    assert_eq!(pair.way(0), Some(RELAY));
    assert_eq!(pair.ends[0].moves.len(), 3, "{:?}", pair.ends[0].moves);
    assert!(pair.gap(1, from) <= ms(1950));
}

#[test]
fn a_lossy_way_is_kept() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    for side in 0..2 {
        for line in &mut pair.lines[side] {
            line.loss = 200;
        }
    }
    pair.run(ms(600_000), BUSY);
    for side in 0..2 {
        let deaths = pair.ends[side]
            .moves
            .iter()
            .filter(|(_, _, why)| *why == Why::Silent);
        let deaths = deaths.count();
        assert!(deaths <= 4, "{deaths} in ten minutes");
        let loss = pair.ends[side].paths.status().loss;
        assert!((0.05..0.7).contains(&loss), "{loss}");
    }
}

#[test]
fn a_flapping_way_is_held_back_with_growing_pauses_but_never_for_ever() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    let mut direct = 0;
    for _ in 0..60 {
        for up in [true, false] {
            for side in 0..2 {
                pair.lines[side][0].up = up;
            }
            pair.run(ms(5000), BUSY);
        }
    }
    for (_, to, _) in &pair.ends[0].moves {
        direct += usize::from(to.is_some_and(Way::is_direct));
    }
    assert!((4..20).contains(&direct), "{direct} times in ten minutes");
    for side in 0..2 {
        pair.lines[side][0].up = true;
    }
    pair.run(ms(100_000), BUSY);
    assert!(pair.is_direct(0) && pair.is_direct(1));
}

/// L-11: an answer to every copy of a question was an exchange without end.
#[test]
fn an_idle_pair_is_quiet() {
    let mut pair = Pair::new(&[15, 30, 60], Policy::Allow);
    pair.run(ms(10_000), IDLE);
    let settled = pair.ends[0].direct;
    assert!(settled <= 40, "{settled}");
    for _ in 0..10 {
        let before = [0, 1].map(|side| pair.ends[side].direct + pair.ends[side].relayed);
        pair.run(ms(100_000), IDLE);
        for (side, before) in before.iter().enumerate() {
            let sent = pair.ends[side].direct + pair.ends[side].relayed - before;
            assert!(sent <= 3, "{sent}");
        }
    }
    assert!(pair.is_direct(0) && pair.is_direct(1));
    assert_eq!(pair.ends[0].moves.len(), 2);
}

#[test]
fn an_idle_pair_of_which_one_has_only_the_relay_is_quiet_too() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(1000), IDLE);
    pair.cut(0, 0);
    pair.run(ms(2000), BUSY);
    pair.run(ms(200_000), IDLE);
    assert!(
        pair.is_direct(1) && !pair.is_direct(0),
        "{:?}",
        pair.ends[1].moves
    );
    let before = [0, 1].map(|side| pair.ends[side].direct + pair.ends[side].relayed);
    pair.run(ms(1_000_000), IDLE);
    for (side, before) in before.iter().enumerate() {
        let sent = pair.ends[side].direct + pair.ends[side].relayed - before;
        // The side with the dead direction answers, by the dead way and by the relay.
        assert!(sent <= 70, "{side}: {sent}");
    }
    assert!(pair.is_direct(1));
}

#[test]
fn a_pair_that_can_not_be_direct_is_quiet_when_idle_and_tries_again_with_traffic() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.cut(0, 0);
    pair.cut(1, 0);
    pair.run(ms(120_000), IDLE);
    assert_eq!(pair.ends[0].paths.status().why, Why::Unanswered);
    let before = pair.ends[0].direct + pair.ends[0].relayed;
    pair.run(ms(1_000_000), IDLE);
    assert_eq!(pair.ends[0].direct + pair.ends[0].relayed, before);
    pair.lines[0][0].up = true;
    pair.lines[1][0].up = true;
    pair.user(0);
    pair.run(ms(3000), IDLE);
    assert!(
        pair.is_direct(0) && pair.is_direct(1),
        "one packet is enough"
    );
}

#[test]
fn an_idle_pair_whose_way_dies_falls_back_without_traffic() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(100_000), IDLE);
    pair.cut(0, 0);
    pair.cut(1, 0);
    pair.run(ms(43_000), IDLE);
    assert_eq!((pair.way(0), pair.way(1)), (Some(RELAY), Some(RELAY)));
}

#[test]
fn a_peer_that_moves_is_followed() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(5000), BUSY);
    // Its NAT forgot the mapping and made another one; no record says so yet.
    pair.ends[1].at[0] = "192.0.2.77:9".parse().unwrap();
    let from = pair.now - pair.start;
    pair.run(ms(4000), BUSY);
    assert_eq!(
        pair.way(0),
        Some(Way::Direct("192.0.2.77:9".parse().unwrap()))
    );
    assert!(pair.is_direct(1));
    assert!(pair.gap(1, from) <= ms(1950));

    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(100_000), IDLE);
    pair.ends[1].at[0] = "192.0.2.77:9".parse().unwrap();
    pair.run(ms(40_000), IDLE);
    assert_eq!(
        pair.way(0),
        Some(Way::Direct("192.0.2.77:9".parse().unwrap()))
    );
}

#[test]
fn without_a_relay_a_direct_way_serves_alone() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(5000), BUSY);
    for side in 0..2 {
        let now = pair.now;
        pair.ends[side].paths.set_relays(&[], now);
        pair.cut(side, 1);
    }
    pair.run(ms(5000), BUSY);
    assert!(
        pair.is_direct(0) && pair.is_direct(1),
        "the hub is gone, the way lives on"
    );
    pair.cut(0, 0);
    pair.cut(1, 0);
    pair.run(ms(3000), BUSY);
    assert_eq!(pair.way(0), None);
    pair.lines[0][0].up = true;
    pair.lines[1][0].up = true;
    pair.run(ms(5000), BUSY);
    assert!(
        pair.is_direct(0) && pair.is_direct(1),
        "nothing is held back where there is no other"
    );
}

#[test]
fn policies_are_kept() {
    let mut pair = Pair::new(&[15], Policy::RelayOnly);
    pair.run(ms(5000), BUSY);
    assert_eq!(pair.ends[0].direct, 0);
    assert_eq!(pair.way(0), Some(RELAY));
    assert_eq!(pair.ends[0].paths.status().why, Why::Policy);
    let now = pair.now;
    let paths = &mut pair.ends[0].paths;
    while paths.poll().is_some() {}
    paths.probe_arrived(Way::Direct("192.0.2.9:9".parse().unwrap()), 7, true, now);
    assert_eq!(paths.poll(), None, "no answer shows where we are");

    let mut pair = Pair::new(&[15], Policy::DirectOnly);
    assert_eq!(pair.way(0), None);
    pair.run(ms(5000), BUSY);
    assert!(pair.is_direct(0));
    pair.cut(0, 0);
    pair.run(ms(5000), BUSY);
    assert_eq!(pair.way(0), None);
    assert!(pair.is_direct(1));

    let mut pair = Pair::new(&[15], Policy::Deny);
    pair.run(ms(5000), BUSY);
    assert_eq!(
        (pair.way(0), pair.ends[0].relayed, pair.ends[0].direct),
        (None, 0, 0)
    );
}

#[test]
fn the_preferred_relay_serves_while_it_answers() {
    let now = Instant::now();
    let (first, second) = (HubId(3), HubId(1));
    let mut paths = Paths::new(PathConfig::default(), Policy::Allow, 0);
    paths.set_relays(&[(first, Carrier::Udp), (second, Carrier::Tls)], now);
    paths.session_ready(now);
    assert_eq!(paths.current(), Some(Way::Relay(first)));
    let mut at = now;
    while paths.current() == Some(Way::Relay(first)) && at < now + ms(5000) {
        paths.sent(at);
        paths.handle_timeout(at);
        at += ms(10);
    }
    assert_eq!(
        paths.current(),
        Some(Way::Relay(second)),
        "nothing answered"
    );
    assert!(at - now < ms(2500), "{:?}", at - now);
    assert_eq!(paths.status().carrier, Some(Carrier::Tls));
    paths.set_relays(&[(first, Carrier::Udp)], at);
    assert_eq!(paths.current(), Some(Way::Relay(first)), "better than none");
    paths.set_relays(&[], at);
    assert_eq!(paths.current(), None);
}

#[test]
fn a_lost_session_proves_nothing() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(5000), BUSY);
    let now = pair.now;
    pair.ends[0].paths.session_lost(now);
    assert_eq!(pair.way(0), Some(RELAY));
    assert_eq!(pair.ends[0].paths.next_timeout(), None);
    pair.ends[0].paths.session_ready(now);
    pair.drain(0);
    pair.run(ms(1000), BUSY);
    assert!(pair.is_direct(0));
}

#[test]
fn a_changed_network_is_tried_at_once() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(300_000), IDLE);
    pair.cut(0, 0);
    let now = pair.now;
    pair.ends[0].paths.network_changed(now);
    pair.drain(0);
    pair.run(ms(1500), IDLE);
    assert_eq!(pair.way(0), Some(RELAY));
}

#[test]
fn unknown_addresses_are_bounded_and_push_out_no_proven_way() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(5000), BUSY);
    let way = pair.way(0);
    let now = pair.now;
    let paths = &mut pair.ends[0].paths;
    let mut probes = 0;
    for host in 0..10_000_u32 {
        let from = SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + host), 9));
        paths.heard(Way::Direct(from), now);
        while paths.poll().is_some() {
            probes += 1;
        }
    }
    assert_eq!(paths.tracks.len(), 25, "24 and the relay");
    assert_eq!(paths.current(), way);
    assert!(paths.track(way.unwrap()).is_some());
    assert!(probes <= 10_000);
    let before = probes;
    for _ in 0..1000 {
        paths.heard(Way::Direct("10.0.39.15:9".parse().unwrap()), now);
        while paths.poll().is_some() {
            probes += 1;
        }
    }
    assert_eq!(
        probes, before,
        "one address is asked once, then with pauses"
    );
}

/// A peer whose records name other places each second makes us send to each of them: not more than a
/// few times, whatever it says.
#[test]
fn candidates_that_change_all_the_time_do_not_begin_rounds_all_the_time() {
    let (start, count) = (Instant::now(), 16_u16);
    let mut paths = Paths::new(PathConfig::default(), Policy::Allow, 1);
    paths.set_relays(&[(HUB, Carrier::Udp)], start);
    paths.session_ready(start);
    let mut probes = 0;
    for step in 0..600 {
        let now = start + ms(100 * step);
        paths.sent(now);
        if step % 10 == 0 {
            let places: Vec<SocketAddr> = (0..count)
                .map(|n| SocketAddr::from(([203, 0, 113, (step % 20) as u8], 1 + n)))
                .collect();
            // The same again is nothing new.
            for _ in 0..5 {
                paths.set_candidates(&places, now);
            }
        }
        if paths.next_timeout().is_some_and(|at| at <= now) {
            paths.handle_timeout(now);
        }
        while let Some(out) = paths.poll() {
            probes += u64::from(matches!(out, PathOut::Probe { way, .. } if way.is_direct()));
        }
    }
    let rounds = probes / u64::from(count);
    assert!((20..=4 * 20 + 1).contains(&rounds), "{rounds} in 60 s");
}
