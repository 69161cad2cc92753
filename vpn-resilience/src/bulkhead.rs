//! Decides who may work at the same time, who waits, and whom there is no use in letting wait.
//!
//! A slow part must not take all that others need: so many work, so many wait in line, and nobody
//! waits longer than is of use. What is too much is refused at once: the caller can go elsewhere,
//! and work that would come too late is never begun.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::counters::counters;
use crate::time::later;

/// Bounds of a [`Bulkhead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkheadConfig {
    /// How many work at the same time; 0 counts as 1. Default 16.
    pub most: usize,
    /// How many wait besides. Default 64.
    pub waiting: usize,
    /// How long one waits at most. Default 1 s.
    pub patience: Duration,
}

impl Default for BulkheadConfig {
    fn default() -> Self {
        Self {
            most: 16,
            waiting: 64,
            patience: Duration::from_secs(1),
        }
    }
}

/// Why it was refused. Less load helps, or a larger bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Shed {
    /// As many wait as may.
    #[error("overloaded: too many wait")]
    Full,
    /// It waited as long as is of use.
    #[error("overloaded: no turn came in time")]
    TooLate,
}

/// Leave to work. Give it back with [`Bulkhead::leave`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "give the place back with `leave`"]
pub struct Place(());

/// A place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What entering comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// Work may begin.
    Entered(Place),
    /// Wait for [`Bulkhead::poll_turn`] to say what becomes of this ticket.
    Waits(Ticket),
}

counters! {
    /// Who came and what became of them: `asked` is the sum of `entered`, `full`, `too_late`, `gone`
    /// and those who wait now.
    pub struct BulkheadCounters {
        /// Who wanted to work.
        asked,
        /// Who did, at once or after waiting.
        entered,
        /// Refused because too many waited.
        full,
        /// Refused because their turn did not come in time.
        too_late,
        /// Who went away while waiting.
        gone,
    }
}

/// A bulkhead, as a status report shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BulkheadStatus {
    /// Who works now.
    pub working: usize,
    /// Who waits now.
    pub waiting: usize,
    /// Who came and what became of them.
    pub counters: BulkheadCounters,
}

/// A bound for what happens at the same time.
///
/// ```
/// use std::time::Instant;
/// use vpn_resilience::{Bulkhead, BulkheadConfig, Entry, Shed};
///
/// let now = Instant::now();
/// let config = BulkheadConfig { most: 1, waiting: 1, ..BulkheadConfig::default() };
/// let mut bulkhead = Bulkhead::new(config);
/// let Ok(Entry::Entered(place)) = bulkhead.enter(now) else { panic!("it is empty") };
/// let Ok(Entry::Waits(ticket)) = bulkhead.enter(now) else { panic!("one is working") };
/// assert_eq!(bulkhead.enter(now), Err(Shed::Full));
/// bulkhead.leave(place, now);
/// assert!(matches!(bulkhead.poll_turn(), Some((t, Ok(_))) if t == ticket));
/// ```
#[derive(Debug)]
pub struct Bulkhead {
    config: BulkheadConfig,
    working: usize,
    /// In the order they came, each with when it is too late.
    line: VecDeque<(Ticket, Instant)>,
    turns: VecDeque<(Ticket, Result<Place, Shed>)>,
    next: u64,
    counters: BulkheadCounters,
}

impl Bulkhead {
    /// Nobody works yet.
    pub const fn new(config: BulkheadConfig) -> Self {
        Self {
            config,
            working: 0,
            line: VecDeque::new(),
            turns: VecDeque::new(),
            next: 0,
            counters: BulkheadCounters::ZERO,
        }
    }

    /// Somebody wants to work. Who waits is not overtaken.
    ///
    /// # Errors
    ///
    /// [`Shed::Full`] if as many wait as may.
    pub fn enter(&mut self, now: Instant) -> Result<Entry, Shed> {
        self.counters.asked += 1;
        self.advance(now);
        if self.line.is_empty() && self.working < self.config.most.max(1) {
            return Ok(Entry::Entered(self.begin()));
        }
        if self.line.len() >= self.config.waiting {
            self.counters.full += 1;
            return Err(Shed::Full);
        }
        self.next += 1;
        let ticket = Ticket(self.next);
        self.line
            .push_back((ticket, later(now, self.config.patience)));
        Ok(Entry::Waits(ticket))
    }

    /// Somebody has done its work.
    pub fn leave(&mut self, place: Place, now: Instant) {
        let Place(()) = place;
        self.working = self.working.saturating_sub(1);
        self.advance(now);
    }

    /// Somebody who waits does not want to any more. If its turn had come, it is the next one's.
    pub fn give_up(&mut self, ticket: Ticket, now: Instant) {
        if let Some(at) = self.line.iter().position(|(t, _)| *t == ticket) {
            self.line.remove(at);
            self.counters.gone += 1;
        } else if let Some(at) = self.turns.iter().position(|(t, _)| *t == ticket)
            && let Some((_, Ok(place))) = self.turns.remove(at)
        {
            self.leave(place, now);
        }
    }

    /// The next one who waited and does not have to any more: it may work, or its time is over.
    /// Ask until there is none after each call that takes the time.
    pub fn poll_turn(&mut self) -> Option<(Ticket, Result<Place, Shed>)> {
        self.turns.pop_front()
    }

    /// When the first in line has waited too long.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.line.front().map(|(_, late)| *late)
    }

    /// Sends away who waited too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// How long one waits at most.
    #[cfg(feature = "tokio")]
    pub(crate) const fn patience(&self) -> Duration {
        self.config.patience
    }

    /// All there is to report of it.
    pub fn status(&self) -> BulkheadStatus {
        BulkheadStatus {
            working: self.working,
            waiting: self.line.len(),
            counters: self.counters,
        }
    }

    fn begin(&mut self) -> Place {
        self.working += 1;
        self.counters.entered += 1;
        Place(())
    }

    fn advance(&mut self, now: Instant) {
        while let Some((ticket, late)) = self.line.front().copied() {
            let turn = if late <= now {
                self.counters.too_late += 1;
                Err(Shed::TooLate)
            } else if self.working < self.config.most.max(1) {
                Ok(self.begin())
            } else {
                return;
            };
            self.line.pop_front();
            self.turns.push_back((ticket, turn));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One is inside, and one waits.
    fn full(now: Instant) -> (Bulkhead, Place, Ticket) {
        let mut bulkhead = Bulkhead::new(BulkheadConfig {
            most: 1,
            ..BulkheadConfig::default()
        });
        let Ok(Entry::Entered(place)) = bulkhead.enter(now) else {
            panic!()
        };
        let Ok(Entry::Waits(ticket)) = bulkhead.enter(now) else {
            panic!()
        };
        (bulkhead, place, ticket)
    }

    #[test]
    fn whose_time_is_over_never_begins() {
        let start = Instant::now();
        let (mut bulkhead, place, ticket) = full(start);
        let late = bulkhead.next_timeout().unwrap();
        assert_eq!(late, start + Duration::from_secs(1));
        bulkhead.leave(place, late);
        assert_eq!(bulkhead.poll_turn(), Some((ticket, Err(Shed::TooLate))));
        assert_eq!(bulkhead.status().working, 0);
    }

    #[test]
    fn a_turn_that_nobody_wants_is_the_next_ones() {
        let start = Instant::now();
        let (mut bulkhead, place, first) = full(start);
        let Ok(Entry::Waits(second)) = bulkhead.enter(start) else {
            panic!()
        };
        bulkhead.leave(place, start);
        bulkhead.give_up(first, start);
        assert!(matches!(bulkhead.poll_turn(), Some((t, Ok(_))) if t == second));
    }

    proptest! {
        /// Beside a list: bounds hold, turns come in the order of arrival, nobody is lost.
        #[test]
        fn any_history(
            steps in proptest::collection::vec((0u8..5, 0usize..4, 0u64..400), 0..300),
            most in 0usize..4, waiting in 0usize..5,
        ) {
            let config = BulkheadConfig { most, waiting, ..BulkheadConfig::default() };
            let (mut bulkhead, mut now) = (Bulkhead::new(config), Instant::now());
            let (mut inside, mut line): (Vec<Place>, Vec<(Ticket, Instant)>) = Default::default();
            for (what, which, wait) in steps {
                match what {
                    0 | 1 => match bulkhead.enter(now) {
                        Ok(Entry::Entered(place)) => inside.push(place),
                        Ok(Entry::Waits(ticket)) => line.push((ticket, now)),
                        Err(shed) => prop_assert_eq!(shed, Shed::Full),
                    },
                    2 if which < inside.len() => bulkhead.leave(inside.remove(which), now),
                    3 if which < line.len() => bulkhead.give_up(line.remove(which).0, now),
                    _ => {
                        now += Duration::from_millis(wait);
                        bulkhead.handle_timeout(now);
                    }
                }
                while let Some((ticket, turn)) = bulkhead.poll_turn() {
                    let (first, came) = line.remove(0);
                    prop_assert_eq!(first, ticket);
                    match turn {
                        Ok(place) => inside.push(place),
                        Err(_) => prop_assert!(now - came >= config.patience),
                    }
                }
                let status = bulkhead.status();
                prop_assert!(inside.len() <= most.max(1) && line.len() <= waiting);
                prop_assert_eq!((status.working, status.waiting), (inside.len(), line.len()));
                prop_assert!(line.is_empty() || inside.len() == most.max(1));
                let c = status.counters;
                let known = c.entered + c.full + c.too_late + c.gone + line.len() as u64;
                prop_assert_eq!(c.asked, known);
            }
        }
    }
}
