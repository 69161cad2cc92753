//! Any order of events: the router against a naive one.
//!
//! The router keeps decisions, queues and indices; the [oracle] keeps lists of what happened and
//! searches all of them for every answer: who held which port when, which rules are written, what
//! a tunnel was assigned, which names were given to an address. Both are driven by the same random
//! transitions. Every packet carries a number, so what comes out is matched with what went in.
//! Checked at each step:
//!
//! * a packet is in the tunnel that a rule names for somebody who held its port between its
//!   sending and its routing, groups and fallbacks included; a TCP connection that was answered
//!   stays where it was if its rule keeps it;
//! * its source is assigned to that tunnel now, its payload and checksums are right;
//! * packets of one flow are in order, none is doubled; fragments follow the first of them;
//! * no two flows look the same in one tunnel, and no two UDP sockets share an endpoint there;
//! * an answer is delivered through its own tunnel only, to the flow that asked; a DNS query is
//!   answered once, in time;
//! * an ICMP error quotes what was sent, as its reader knows it, in both directions;
//! * without anything to wait for, a packet that has a tunnel is there at once;
//! * accounts balance, and what is held and entered stays within bounds.
//!
//! `MODEL_TRANSITIONS` says how many are run (10,000; a million in `.ci/long`). A failure prints
//! its shortest order of transitions: it becomes a case in [`kept`].
//!
//! # Bugs put in on purpose
//!
//! `.ci/seeded-bugs` puts each of these into a copy of the tree and expects the model to fail: the
//! tunnel is not compared with the wire key; an answer is not looked for in the queries that wait;
//! a rule change is not noticed by flows in the table; a fallback is used though the tunnel is up;
//! flows are kept when a tunnel gets another address; held packets are released in reverse; the
//! port of another flow is given out twice; a port is not asked about again.

mod check;
mod kept;
mod oracle;
mod real;
mod transition;

use std::cell::Cell;
use std::sync::Mutex;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use check::Count;
use oracle::Oracle;
use real::Real;
use transition::{Transition, quarrel};

/// Transitions of one case: a router that begins empty, and a diary that is searched whole.
const LENGTH: usize = 100;

/// Transitions without `MODEL_TRANSITIONS`.
const TRANSITIONS: usize = 10_000;

thread_local! {
    /// Routers that share the device.
    static WORKERS: Cell<u8> = const { Cell::new(1) };
}

/// What was run, over all cases.
static COUNT: Mutex<Option<Count>> = Mutex::new(None);

impl StateMachineTest for Real {
    type SystemUnderTest = Self;
    type Reference = Oracle;

    fn init_test(oracle: &Oracle) -> Self {
        Self::new(oracle)
    }

    fn apply(mut real: Self, oracle: &Oracle, transition: Transition) -> Self {
        let mut count = COUNT.lock().unwrap_or_else(|e| e.into_inner());
        count.get_or_insert_default().add(transition.name());
        drop(count);
        real.run(oracle, &transition);
        real
    }

    fn teardown(mut real: Self, mut oracle: Oracle) {
        for _ in 0..3 {
            run(&mut oracle, &mut real, &Transition::Advance { ms: 60_000 });
        }
        real.check_end();
    }
}

fn run(oracle: &mut Oracle, real: &mut Real, transition: &Transition) {
    oracle.happened(transition);
    real.run(oracle, transition);
}

/// One order of transitions.
fn run_all(transitions: &[Transition]) {
    let mut oracle = Oracle::new();
    let mut real = Real::new(&oracle);
    for transition in transitions {
        run(&mut oracle, &mut real, transition);
    }
    Real::teardown(real, oracle);
}

/// N-7, N-26: nothing leads a packet where no rule does, or past one of its flow that waits.
#[test]
fn every_order_of_events_agrees_with_the_oracle() {
    every_order_agrees();
}

/// Two routers share the device, or three, and packets come to whichever their hash says.
#[test]
fn every_order_agrees_with_several_workers() {
    for workers in [2, 3] {
        WORKERS.set(workers);
        every_order_agrees();
    }
}

#[allow(clippy::print_stdout, reason = "says what was run")]
fn every_order_agrees() {
    let wanted = std::env::var("MODEL_TRANSITIONS").ok();
    let wanted = wanted.map_or(TRANSITIONS, |text| text.parse().unwrap());
    let config = Config {
        cases: wanted.div_ceil(LENGTH) as u32,
        // What failed becomes a case with a name.
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config.clone());
    let strategy = Oracle::sequential_strategy(LENGTH);
    let result = runner.run(&strategy, |(oracle, transitions, seen)| {
        Real::test_sequential(config.clone(), oracle, transitions, seen);
        Ok(())
    });
    let count = COUNT.lock().unwrap_or_else(|e| e.into_inner()).clone();
    let count = count.unwrap_or_default();
    println!("{} transitions: {}", count.total(), count.text());
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(count.total() >= wanted as u64);
}

proptest! {
    #[test]
    fn a_port_that_goes_from_hand_to_hand_is_never_its_former_owners(
        transitions in prop::collection::vec(quarrel(), 1..40)
    ) {
        let mut oracle = Oracle::new();
        oracle.slow = true;
        let mut real = Real::new(&oracle);
        for transition in &transitions {
            run(&mut oracle, &mut real, transition);
        }
    }
}
