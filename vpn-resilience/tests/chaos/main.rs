//! Chaos, on virtual time and from a seed: bad networks, cuts, flapping tunnels and dying ones, and
//! what the policies of this crate make of them. Each scenario says which share of calls succeeds and
//! how long recovery takes, at worst; a seed is one run, to the packet.
//!
//! `CHAOS_SEEDS` says how many seeds each scenario runs with (10; 100 in `.ci/run`, 1,000 in
//! `.ci/long`). With `--nocapture` the figures are told.
#![cfg(feature = "decorators")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests that tell what they saw"
)]

mod flapping;
mod network;
mod world;

use std::time::Duration;

use vpn_resilience::{BudgetConfig, HealthConfig};

use network::{GOOD, HIGH_LATENCY, Network, POOR, TERRIBLE};
use world::{Cut, KEEPALIVE, Outcome, Plan, run};

/// Seeds of each scenario without `CHAOS_SEEDS`.
const SEEDS: u64 = 10;

fn seeds() -> std::ops::Range<u64> {
    let wanted = std::env::var("CHAOS_SEEDS").ok();
    0..wanted.map_or(SEEDS, |text| text.parse().unwrap())
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What a scenario promises.
struct Promise {
    /// Share of calls that succeed, in each run, and over all runs.
    each: f64,
    all: f64,
    /// Deaths that are not: how many, over all runs, of a hundred runs.
    false_deaths: f64,
}

fn check(plan: Plan, promise: &Promise) -> Vec<Outcome> {
    let outcomes: Vec<Outcome> = seeds().map(|seed| run(plan, seed)).collect();
    let mut worst: f64 = 1.0;
    for (seed, outcome) in outcomes.iter().enumerate() {
        let share = outcome.delivered as f64 / outcome.calls as f64;
        worst = worst.min(share);
        assert!(outcome.balances(), "seed {seed}: {outcome:?}");
        assert!(share >= promise.each, "seed {seed}: {share}: {outcome:?}");
    }
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>() as f64;
    let (calls, delivered) = (sum(|o| o.calls), sum(|o| o.delivered));
    let (attempts, lost, sent) = (sum(|o| o.attempts), sum(|o| o.lost), sum(|o| o.sent()));
    let deaths = sum(|o| o.deaths.len() as u64);
    println!(
        "{}: {} seeds, {calls} calls, {:.3} % succeeded (worst run {:.1} %), {:.2} attempts each; \
         {:.1} % of packets lost; {deaths} deaths",
        plan.network.name,
        outcomes.len(),
        delivered / calls * 100.0,
        worst * 100.0,
        attempts / calls,
        lost / sent * 100.0,
    );
    assert!(delivered / calls >= promise.all);
    let expected = if plan.cut.is_some() {
        outcomes.len() as f64
    } else {
        0.0
    };
    let most = expected + (promise.false_deaths * outcomes.len() as f64 / 100.0).ceil();
    assert!(deaths >= expected && deaths <= most, "{deaths} deaths");
    outcomes
}

fn all_the_time(network: Network) -> Plan {
    Plan {
        budget: BudgetConfig::default(),
        questions: HealthConfig::default().questions,
        network,
        lasts: seconds(120),
        cut: None,
    }
}

#[test]
fn a_good_network() {
    let promise = Promise {
        each: 1.0,
        all: 1.0,
        false_deaths: 0.0,
    };
    check(all_the_time(GOOD), &promise);
}

/// Every fifth question stays without an answer.
#[test]
fn a_poor_network() {
    let promise = Promise {
        each: 0.97,
        all: 0.995,
        // Four questions in a row without an answer.
        false_deaths: 10.0,
    };
    check(all_the_time(POOR), &promise);
}

/// Every other question stays without an answer. A call needs two attempts then, and so large a budget:
/// with the usual one calls fail for want of retries, and the breaker opens now and then. And it takes
/// ten questions until silence says something: with the usual four a living peer is called dead every
/// three minutes.
#[test]
fn a_terrible_network() {
    let promise = Promise {
        each: 0.85,
        all: 0.95,
        false_deaths: 10.0,
    };
    let plan = Plan {
        budget: BudgetConfig {
            percent: 200,
            most: 20,
            ..BudgetConfig::default()
        },
        questions: 10,
        ..all_the_time(TERRIBLE)
    };
    check(plan, &promise);
}

/// A satellite, twice: nothing is taken for lost that is merely late.
#[test]
fn high_latency() {
    let promise = Promise {
        each: 1.0,
        all: 1.0,
        false_deaths: 0.0,
    };
    for outcome in check(all_the_time(HIGH_LATENCY), &promise) {
        let share = outcome.attempts as f64 / outcome.calls as f64;
        assert!(share < 1.15, "{share} attempts for each call");
    }
}

/// Cut off for a minute: found dead within three keepalives, alive again with the first question
/// after it, and calls succeed again once the breaker has let probes through.
#[test]
fn a_partition() {
    let cut = Cut {
        from: seconds(40),
        to: seconds(100),
    };
    let plan = Plan {
        lasts: seconds(220),
        cut: Some(cut),
        ..all_the_time(GOOD)
    };
    let promise = Promise {
        each: 0.5,
        all: 0.6,
        false_deaths: 0.0,
    };
    let (mut dead, mut alive, mut calls) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for outcome in check(plan, &promise) {
        let death = outcome.deaths[0] - cut.from;
        let back = outcome.recoveries[0] - cut.to;
        let call = outcome.first_success_after(cut.to).unwrap() - cut.to;
        assert!(death <= 3 * KEEPALIVE, "found dead after {death:?}");
        // One question a keepalive; one of them may be lost.
        assert!(back <= 3 * KEEPALIVE, "alive after {back:?}");
        // The breaker opened at the end of the cut at the latest, and two probes close it.
        assert!(call <= seconds(62), "a call succeeds after {call:?}");
        assert_eq!(outcome.breaker.opened, outcome.breaker.closed);
        assert!(outcome.breaker.opened > 0);
        dead = dead.max(death);
        alive = alive.max(back);
        calls = calls.max(call);
    }
    println!(
        "partition: at worst dead after {dead:?}, alive after {alive:?}, a call after {calls:?}"
    );
}

#[test]
fn a_seed_is_one_run() {
    let plan = Plan {
        cut: Some(Cut {
            from: seconds(20),
            to: seconds(40),
        }),
        ..all_the_time(POOR)
    };
    let first = run(plan, 1);
    assert_eq!(first, run(plan, 1), "the same seed, to the packet");
    assert_ne!(first, run(plan, 2));
}
