//! What the hot paths cost in instructions. `instructions` lists cases with how many operations each
//! does; `instructions CASE` does them, inside of a function whose name a profiler can look for:
//!
//! ```sh
//! valgrind --tool=callgrind --toggle-collect='*instructions_are_counted_here*' instructions CASE
//! ```
//!
//! Counts hardly depend on the machine and not on its load, so a rise is a change of the code, of
//! the compiler or of a library. They say nothing about caches: `cargo bench` does.
#![allow(clippy::print_stdout, reason = "it reports on standard output")]

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use vpn_benches::world::{Established, app, compile, data, remote};
use vpn_core::testing::build;
use vpn_core::{Action, FlowKey, Owner, OwnerMatch, Parsed, Protocol, Rule, RuleId, RuleMatch};
use vpn_core::{Generation, TunnelId};
use vpn_resilience::{Breaker, BreakerConfig, HealthConfig, Monitor, RateConfig, RateLimit};
use vpn_routing::rules::{CompiledRules, RuleCache};

/// Operations of most cases.
const TIMES: u64 = 2048;

/// Established flows: their entries do not fit in the first cache.
const FLOWS: u32 = 4096;

/// Bytes of payload of a super-packet.
const LARGE: usize = 60_000;

/// First user with a rule.
const FIRST_UID: u32 = 1000;

/// A case: its name, how many operations it does, and what does them.
type Case = (&'static str, u64, fn(u64));

const CASES: &[Case] = &[
    ("parse, TCP over IPv4", TIMES, |n| parse(n, &data(0))),
    ("parse, TCP over IPv6", TIMES, |n| {
        let packet = build::tcp("[fd00::2]:1024", "[2001:db8::1]:443", 16, 1, &[0; 64]);
        parse(n, &packet);
    }),
    ("established flow, out", TIMES, |n| {
        let mut world = Established::new(FLOWS);
        world.route(TIMES);
        world.route_inside(n, instructions_are_counted_here);
        assert_eq!(world.dropped(), 0, "every packet was forwarded");
    }),
    ("established flow, in", TIMES, |n| {
        let mut world = Established::new(FLOWS);
        world.answer_inside(TIMES, |work| work());
        world.answer_inside(n, instructions_are_counted_here);
        assert_eq!(world.dropped(), 0, "every packet was forwarded");
    }),
    ("established flow, out, 60,000 bytes whole", 64, |n| {
        let world = Established::with_room(64, 65, LARGE + 128);
        let mut world = world.with_super_packets(LARGE);
        world.route(n);
        world.route_inside(n, instructions_are_counted_here);
        assert_eq!(world.dropped(), 0, "every packet was forwarded");
    }),
    ("first packet of a flow", 1024, |n| {
        let mut world = Established::with_room(1024, 4096, 256);
        world.begin_inside(n as u32, instructions_are_counted_here);
    }),
    ("rule of a user, 1,000 rules", TIMES, |n| decide(n, 1000)),
    ("rule of a user, 10,000 rules", TIMES, |n| decide(n, 10_000)),
    ("a decision that is known", TIMES, known),
    ("a breaker's permit and its success", TIMES, permit),
    ("a token of a rate limit", TIMES, token),
    ("a sign of life of a peer", TIMES, sign_of_life),
];

/// What is counted is called from here, and nothing else is.
#[inline(never)]
fn instructions_are_counted_here(work: &mut dyn FnMut()) {
    work();
    // Not a tail call: leaving this function ends the count.
    black_box(());
}

fn parse(n: u64, packet: &[u8]) {
    instructions_are_counted_here(&mut || {
        for _ in 0..n {
            let _ = black_box(Parsed::from_bytes(black_box(packet)));
        }
    });
}

fn rules(count: u32) -> CompiledRules {
    let rule = |i: u32| {
        let matches = RuleMatch {
            owner: Some(OwnerMatch::Uid(FIRST_UID + i)),
            ..RuleMatch::default()
        };
        let to = Action::Tunnel("t".to_owned());
        Rule::new(RuleId(u64::from(i)), matches, to)
    };
    compile((0..count).map(rule).collect(), TunnelId::new(0))
}

fn decide(n: u64, count: u32) {
    let rules = rules(count);
    let flow = FlowKey::new(Protocol::TCP, app(0), remote(0));
    let owners: Vec<Owner> = (0..256)
        .map(|i| Owner::user(FIRST_UID + i * 7 % count))
        .collect();
    instructions_are_counted_here(&mut || {
        for i in 0..n as usize {
            black_box(rules.decide(Some(&owners[i % owners.len()]), black_box(&flow)));
        }
    });
}

/// What a packet of a known flow pays for rules.
fn known(n: u64) {
    let cache = RuleCache::new();
    cache.swap(rules(1000));
    let (entry, current): (Generation, Generation) = (cache.generation(), cache.generation());
    instructions_are_counted_here(&mut || {
        for _ in 0..n {
            black_box(black_box(entry) == black_box(current));
        }
    });
}

fn permit(n: u64) {
    let (mut breaker, now) = (Breaker::new(BreakerConfig::default()), Instant::now());
    instructions_are_counted_here(&mut || {
        for _ in 0..n {
            if let Ok(permit) = breaker.acquire(black_box(now)) {
                breaker.succeeded(permit);
            }
        }
    });
}

fn token(n: u64) {
    let config = RateConfig {
        per_second: 1_000_000_000,
        burst: n,
    };
    let (mut limit, mut now) = (RateLimit::new(config), Instant::now());
    instructions_are_counted_here(&mut || {
        for _ in 0..n {
            now += Duration::from_nanos(100);
            assert!(limit.take(1, black_box(now)).is_ok());
        }
    });
}

fn sign_of_life(n: u64) {
    let mut now = Instant::now();
    let mut monitor = Monitor::new(HealthConfig::default(), now);
    monitor.heard(now);
    instructions_are_counted_here(&mut || {
        for _ in 0..n {
            now += Duration::from_nanos(100);
            monitor.heard(black_box(now));
        }
    });
}

fn main() -> ExitCode {
    match std::env::args().nth(1) {
        None => {
            for (name, operations, _) in CASES {
                println!("{operations} {name}");
            }
            ExitCode::SUCCESS
        }
        Some(wanted) => match CASES.iter().find(|(name, ..)| *name == wanted) {
            Some((_, operations, run)) => {
                run(*operations);
                ExitCode::SUCCESS
            }
            None => {
                eprintln!("there is no case {wanted:?}");
                ExitCode::FAILURE
            }
        },
    }
}
