//! Every state that can be reached, and every call in it, beside a naive breaker.
//!
//! The naive one keeps a log of all permits and reads everything from it. Time goes in ticks, and
//! how long ago something was matters up to `reset_after` only, so there are finitely many states:
//! all of them are visited, for all small thresholds.

use std::collections::{HashSet, VecDeque};

use super::*;

const TICK: Duration = Duration::from_secs(1);
/// `reset_after`, in ticks.
const RESET: u64 = 3;
/// Permits whose holders may still report; further ones are lost at once.
const HELD: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    Out,
    Succeeded,
    Failed,
    Cancelled,
    GivenUp,
}

#[derive(Clone, Copy, Debug)]
struct Given {
    era: u32,
    tick: u64,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Where {
    Closed,
    Open { since: u64 },
    HalfOpen,
}

/// The breaker as its documentation has it, without a thought for cost.
#[derive(Clone, Debug)]
struct Naive {
    config: BreakerConfig,
    at: Where,
    era: u32,
    given: Vec<Given>,
    /// Outcomes of this era that count, in the order of their reports.
    log: Vec<Fate>,
    seen: Transitions,
}

impl Naive {
    fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            at: Where::Closed,
            era: 0,
            given: Vec::new(),
            log: Vec::new(),
            seen: Transitions::default(),
        }
    }

    fn go(&mut self, at: Where) {
        match at {
            Where::Closed => self.seen.closed += 1,
            Where::Open { .. } => self.seen.opened += 1,
            Where::HalfOpen => self.seen.half_opened += 1,
        }
        self.at = at;
        self.era += 1;
        self.log.clear();
    }

    fn count(&self, fate: Fate) -> u32 {
        let of_era = |g: &&Given| g.era == self.era && g.fate == fate;
        self.given.iter().filter(of_era).count() as u32
    }

    /// Failures since the last success.
    fn in_a_row(&self) -> u32 {
        let outcomes = self.log.iter().rev().filter(|f| **f != Fate::Cancelled);
        outcomes.take_while(|f| **f == Fate::Failed).count() as u32
    }

    /// The number of the permit, or the tick at which to ask again.
    fn acquire(&mut self, tick: u64) -> Result<usize, u64> {
        if let Where::Open { since } = self.at {
            if tick < since + RESET {
                return Err(since + RESET);
            }
            self.go(Where::HalfOpen);
        }
        if self.at == Where::HalfOpen && self.count(Fate::Out) >= self.config.probes {
            let of_era = self.given.iter().filter(|g| g.era == self.era);
            let last = of_era.map(|g| g.tick).max().unwrap();
            if tick < last + RESET {
                return Err(last + RESET);
            }
            for given in &mut self.given {
                if given.era == self.era && given.fate == Fate::Out {
                    given.fate = Fate::GivenUp;
                }
            }
        }
        let (era, fate) = (self.era, Fate::Out);
        self.given.push(Given { era, tick, fate });
        Ok(self.given.len() - 1)
    }

    fn report(&mut self, permit: usize, fate: Fate, tick: u64) {
        let given = &mut self.given[permit];
        if given.era != self.era || given.fate != Fate::Out {
            return;
        }
        given.fate = fate;
        self.log.push(fate);
        match self.at {
            Where::Closed if self.in_a_row() >= self.config.failure_threshold => {
                self.go(Where::Open { since: tick });
            }
            Where::HalfOpen if fate == Fate::Failed => self.go(Where::Open { since: tick }),
            Where::HalfOpen if self.count(Fate::Succeeded) >= self.config.success_threshold => {
                self.go(Where::Closed);
            }
            _ => {}
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Acquire,
    Report(usize, Fate),
    Wait,
}

#[derive(Clone, Debug)]
struct World {
    start: Instant,
    tick: u64,
    breaker: Breaker,
    naive: Naive,
    /// What holders of permits have: the phase, and the naive number.
    held: Vec<(u64, usize)>,
}

impl World {
    fn now(&self) -> Instant {
        self.start + TICK * self.tick as u32
    }

    fn make(&mut self, call: Call) {
        match call {
            Call::Wait => self.tick += 1,
            Call::Acquire => {
                let real = self.breaker.acquire(self.now());
                match (real, self.naive.acquire(self.tick)) {
                    (Ok(permit), Ok(number)) => self.held.push((permit.phase, number)),
                    (Err(refused), Err(at)) => {
                        assert_eq!(refused.retry_at, self.start + TICK * at as u32);
                    }
                    (real, naive) => panic!("{real:?}, by the book {naive:?}"),
                }
                self.held.truncate(HELD);
            }
            Call::Report(which, fate) => {
                let (phase, number) = self.held.remove(which);
                let (permit, now) = (Permit { phase }, self.now());
                match fate {
                    Fate::Succeeded => self.breaker.succeeded(permit),
                    Fate::Failed => self.breaker.failed(permit, now),
                    _ => self.breaker.cancelled(permit),
                }
                self.naive.report(number, fate, self.tick);
            }
        }
    }

    fn check(&self) {
        let state = match self.naive.at {
            Where::Closed => BreakerState::Closed,
            Where::HalfOpen => BreakerState::HalfOpen,
            Where::Open { since } => BreakerState::Open {
                until: self.start + TICK * (since + RESET) as u32,
            },
        };
        assert_eq!(self.breaker.state(), state);
        assert_eq!(self.breaker.transitions(), self.naive.seen);
        self.half_open_admits_exactly_its_probes();
        self.closes_again();
    }

    fn half_open_admits_exactly_its_probes(&self) {
        let mut world = self.clone();
        if world.breaker.acquire(world.now()).is_err() || self.naive.at == Where::Closed {
            return;
        }
        while world.breaker.acquire(world.now()).is_ok() {}
        let Inner::HalfOpen { in_flight, .. } = world.breaker.inner else {
            panic!("an admitted probe leaves {:?}", world.breaker.inner);
        };
        assert_eq!(in_flight, self.breaker.config.probes);
    }

    /// From wherever it is: who asks again when told to, and succeeds, closes it.
    fn closes_again(&self) {
        let mut world = self.clone();
        for _ in 0..self.breaker.config.success_threshold {
            world.tick += RESET;
            let permit = world.breaker.acquire(world.now()).unwrap();
            world.breaker.succeeded(permit);
        }
        assert_eq!(world.breaker.state(), BreakerState::Closed);
    }

    /// What decides about the future: times relative to now, and no further back than matters.
    fn key(&self) -> impl std::hash::Hash + Eq + use<> {
        let inner = match self.breaker.inner {
            Inner::Closed { failures } => (0, u64::from(failures), 0, 0),
            Inner::Open { until } => {
                let left = until.saturating_duration_since(self.now());
                (1, left.as_secs(), 0, 0)
            }
            Inner::HalfOpen {
                in_flight,
                successes,
                last_probe,
            } => {
                let age = (self.now() - last_probe).as_secs().min(RESET);
                (2, age, in_flight, successes)
            }
        };
        let fates: Vec<_> = self
            .held
            .iter()
            .map(|(phase, number)| {
                let given = self.naive.given[*number];
                let counts = given.era == self.naive.era && given.fate == Fate::Out;
                (*phase == self.breaker.phase, counts)
            })
            .collect();
        let naive = match self.naive.at {
            Where::Closed => (0, self.naive.in_a_row(), 0),
            Where::Open { since } => (1, (since + RESET).saturating_sub(self.tick) as u32, 0),
            Where::HalfOpen => (
                2,
                self.naive.count(Fate::Succeeded),
                self.naive.count(Fate::Out),
            ),
        };
        (inner, naive, fates)
    }
}

/// Visits all of it; how many states there are.
fn visit(config: BreakerConfig) -> usize {
    let first = World {
        start: Instant::now(),
        tick: 0,
        breaker: Breaker::new(config),
        naive: Naive::new(config),
        held: Vec::new(),
    };
    let mut seen = HashSet::from([first.key()]);
    let mut queue = VecDeque::from([first]);
    while let Some(world) = queue.pop_front() {
        world.check();
        let reports = (0..world.held.len()).flat_map(|which| {
            [Fate::Succeeded, Fate::Failed, Fate::Cancelled].map(|fate| Call::Report(which, fate))
        });
        for call in [Call::Acquire, Call::Wait].into_iter().chain(reports) {
            let mut next = world.clone();
            next.make(call);
            if seen.insert(next.key()) {
                queue.push_back(next);
            } else {
                // Known, but by another way: it has to be the same thing.
                next.check();
            }
        }
    }
    seen.len()
}

#[test]
fn every_history_of_small_breakers() {
    let mut states = 0;
    for failure_threshold in 1..=3 {
        for success_threshold in 1..=3 {
            for probes in 1..=3 {
                states += visit(BreakerConfig {
                    failure_threshold,
                    reset_after: TICK * RESET as u32,
                    success_threshold,
                    probes,
                });
            }
        }
    }
    println!("{states} states of 27 breakers");
    assert!(states > 1000, "{states} states are too few to be all");
}
