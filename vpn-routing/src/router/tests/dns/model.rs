//! Any order of queries, answers, rules and pauses against a naive oracle, which keeps a list of
//! everything and searches it.
//!
//! An answer is delivered if and only if its query waits, on its flow, in its tunnel, and its name is
//! not blocked by now; a query is sent to the tunnel its newest rule names; a destination is decided by what was said of it.

use std::time::Duration;

use proptest::prelude::*;
use vpn_core::{FlowKey, Owner, Verdict};

use super::*;

const NAMES: [&str; 3] = ["a.example", "b.example", "c.example"];
/// Two names have one address.
const SITES: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.1"];
const TUNNELS: [&str; 2] = ["uk", "fr"];
const SOCKETS: u16 = 3;

#[derive(Clone, Debug)]
enum Step {
    /// Socket, id, name.
    Ask(u16, u16, usize),
    /// Tunnel, socket, id, name, TTL.
    Answer(usize, u16, u16, usize, u32),
    /// User, name, and a tunnel or block.
    Rule(u32, usize, usize),
    Pause(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (socket, id, name) = (0..SOCKETS, 0..2u16, 0..NAMES.len());
    let ttl = prop::sample::select(vec![1u32, 120]);
    let asked = (socket.clone(), id.clone(), name.clone());
    prop_oneof![
        4 => asked.prop_map(|(s, i, n)| Step::Ask(s, i, n)),
        6 => (0..2usize, socket, id, name.clone(), ttl)
            .prop_map(|(t, s, i, n, ttl)| Step::Answer(t, s, i, n, ttl)),
        1 => (0..2u32, name, 0..3usize).prop_map(|(u, n, to)| Step::Rule(u, n, to)),
        2 => prop::sample::select(vec![1u64, 4, 10, 61]).prop_map(Step::Pause),
    ]
}

#[derive(Default)]
struct Oracle {
    seconds: u64,
    /// User, name, target; the newest last.
    rules: Vec<(u32, usize, usize)>,
    /// Tunnel of each socket's flow.
    through: [Option<usize>; SOCKETS as usize],
    /// Socket, id, name, since when.
    waiting: Vec<(u16, u16, usize, u64)>,
    /// Tunnel, name, until when.
    said: Vec<(usize, usize, u64)>,
}

/// One user has two sockets.
fn user(socket: u16) -> u32 {
    u32::from(socket / 2)
}

impl Oracle {
    /// Where the newest rule that `matches` sends a user; a user's own tunnel without one.
    fn target(&self, user: u32, matches: impl Fn(usize, usize) -> bool) -> usize {
        let mut rules = self.rules.iter().rev();
        let rule = rules.find(|&&(of, name, to)| of == user && matches(name, to));
        rule.map_or(user as usize, |rule| rule.2)
    }

    fn asked(&mut self, socket: u16, id: u16, name: usize) -> usize {
        let to = self.target(user(socket), |of, _| of == name);
        if to < TUNNELS.len() {
            let before = self.through[usize::from(socket)].replace(to);
            let moved = before != Some(to);
            self.waiting
                .retain(|w| w.0 != socket || !moved && (w.1, w.2) != (id, name));
            self.waiting.push((socket, id, name, self.seconds));
        }
        to
    }

    fn answered(&mut self, tunnel: usize, socket: u16, id: u16, name: usize, ttl: u32) -> bool {
        let now = self.seconds;
        let waits =
            |w: &(u16, u16, usize, u64)| (w.0, w.1, w.2) == (socket, id, name) && now < w.3 + 10;
        if self.through[usize::from(socket)] != Some(tunnel) || !self.waiting.iter().any(waits) {
            return false;
        }
        let blocked = self.target(user(socket), |of, _| of == name) == TUNNELS.len();
        self.waiting.retain(|w| !waits(w));
        self.said.retain(|said| (said.0, said.1) != (tunnel, name));
        self.said.push((tunnel, name, now + u64::from(ttl.max(60))));
        !blocked
    }

    fn decided(&self, user: u32, site: &str) -> usize {
        self.target(user, |name, to| {
            self.said.iter().any(|&(tunnel, said, until)| {
                let counts = to == tunnel || to == TUNNELS.len();
                counts && said == name && SITES[said] == site && self.seconds < until
            })
        })
    }
}

fn run(steps: Vec<Step>) {
    let mut world = two_regions();
    let mut oracle = Oracle::default();
    for step in steps {
        match step {
            Step::Ask(socket, id, name) => {
                let question = query(id, NAMES[name], A);
                ask(
                    &mut world,
                    1001 + user(socket),
                    1 + socket,
                    VIRTUAL,
                    &question,
                );
                let to = oracle.asked(socket, id, name);
                for (tunnel, name) in TUNNELS.iter().enumerate() {
                    assert_eq!(world.sent(name).len(), usize::from(tunnel == to));
                }
            }
            Step::Answer(tunnel, socket, id, name, ttl) => {
                let says = [Says::Address(NAMES[name], SITES[name], ttl)];
                let message = answer(id, NAMES[name], A, &says);
                reply(&mut world, TUNNELS[tunnel], 1 + socket, &message);
                let passes = oracle.answered(tunnel, socket, id, name, ttl);
                assert_eq!(world.delivered().len(), usize::from(passes));
            }
            Step::Rule(user, name, to) => {
                let action = TUNNELS.get(to).unwrap_or(&"block");
                world.rule_for_domain(1001 + user, NAMES[name], action);
                oracle.rules.push((user, name, to));
            }
            Step::Pause(seconds) => {
                world.advance(Duration::from_secs(seconds));
                oracle.seconds += seconds;
            }
        }
        for (user, site) in [(0, SITES[0]), (0, SITES[1]), (1, SITES[0]), (1, SITES[1])] {
            let owner = Owner::user(1001 + user);
            let flow = FlowKey::new(Protocol::TCP, (addr(APP), 9), (addr(site), 443));
            let told = world.router.explain(Some(&owner), flow).verdict;
            let expected = match TUNNELS.get(oracle.decided(user, site)) {
                Some(tunnel) => Verdict::Tunnel(world.id(tunnel)),
                None => Verdict::Drop(DropReason::BlockedByRule),
            };
            assert_eq!(told, expected, "user {user} to {site}");
        }
    }
}

proptest! {
    #[test]
    fn every_order_of_queries_and_answers_agrees_with_the_oracle(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        run(steps);
    }
}
