//! Decides what is made ready before it is needed: sessions, streams, names.
//!
//! The first packet to a peer should not wait for a handshake. Who is likely to be used is wanted;
//! what is wanted is made ready, a few at a time, again before it cools, and with growing pauses
//! where that fails.

use std::time::{Duration, Instant};

use crate::backoff::{Backoff, BackoffConfig, Next};
use crate::counters::counters;
use crate::time::later;

/// What is kept warm, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmConfig {
    /// How many are kept warm; one more, and what was wanted least recently is let go. 0 counts as
    /// 1. Default 32.
    pub most: usize,
    /// How many are made ready at the same time; 0 counts as 1. Default 2.
    pub at_once: usize,
    /// How long what is ready stays so. Default 60 s.
    pub lasts: Duration,
    /// How long making it ready may take; nobody who takes longer holds up others. Default 10 s.
    pub patience: Duration,
    /// Pauses where it fails. Default as [`BackoffConfig`].
    pub backoff: BackoffConfig,
}

impl Default for WarmConfig {
    fn default() -> Self {
        Self {
            most: 32,
            at_once: 2,
            lasts: Duration::from_secs(60),
            patience: Duration::from_secs(10),
            backoff: BackoffConfig::default(),
        }
    }
}

/// Something is being made ready. Tell what came of it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "tell whether it is ready"]
pub struct Warming(u64);

counters! {
    /// How often what was made ready.
    pub struct WarmCounters {
        /// Attempts to make something ready.
        begun,
        /// That succeeded.
        warmed,
        /// That failed.
        failed,
        /// That took too long.
        timed_out,
        /// What was let go to make room.
        evicted,
    }
}

/// What is kept warm, as a status report shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WarmStatus {
    /// What is wanted.
    pub wanted: usize,
    /// What is being made ready now.
    pub warming: usize,
    /// How often what was made ready.
    pub counters: WarmCounters,
}

#[derive(Debug)]
struct Entry<K> {
    key: K,
    wanted: u64,
    /// Which attempt is under way, and when it has taken too long.
    warming: Option<(u64, Instant)>,
    /// When it is to be made ready, again.
    due: Instant,
    warm_until: Option<Instant>,
    backoff: Backoff,
}

/// Keeps things warm.
///
/// ```
/// use std::time::{Duration, Instant};
/// use vpn_resilience::{WarmConfig, Warmer};
///
/// let now = Instant::now();
/// let mut warmer = Warmer::new(WarmConfig::default(), 42);
/// warmer.want("amsterdam", now);
/// let Some((peer, warming)) = warmer.poll(now) else { panic!("it is cold") };
/// warmer.warmed(warming, now + Duration::from_millis(80));
/// assert!(warmer.is_warm(&peer, now + Duration::from_secs(1)));
/// ```
#[derive(Debug)]
pub struct Warmer<K> {
    config: WarmConfig,
    // Few: looking at each is cheaper than an order.
    entries: Vec<Entry<K>>,
    serial: u64,
    seed: u64,
    counters: WarmCounters,
}

impl<K: Clone + Eq> Warmer<K> {
    /// Nothing is wanted yet. Pauses are drawn from `seed`.
    pub const fn new(config: WarmConfig, seed: u64) -> Self {
        Self {
            config,
            entries: Vec::new(),
            serial: 0,
            seed,
            counters: WarmCounters::ZERO,
        }
    }

    /// This is likely to be used.
    pub fn want(&mut self, key: K, now: Instant) {
        self.serial += 1;
        let wanted = self.serial;
        if let Some(entry) = self.entries.iter_mut().find(|e| e.key == key) {
            entry.wanted = wanted;
            return;
        }
        if self.entries.len() >= self.config.most.max(1) {
            let oldest = (0..self.entries.len()).min_by_key(|at| self.entries[*at].wanted);
            if let Some(oldest) = oldest {
                self.entries.swap_remove(oldest);
                self.counters.evicted += 1;
            }
        }
        self.entries.push(Entry {
            key,
            wanted,
            warming: None,
            due: now,
            warm_until: None,
            backoff: Backoff::new(self.config.backoff, self.seed.wrapping_add(wanted)),
        });
    }

    /// This is not likely to be used any more.
    pub fn forget(&mut self, key: &K) {
        self.entries.retain(|entry| entry.key != *key);
    }

    /// What to make ready now, if there is something. Ask until there is nothing.
    pub fn poll(&mut self, now: Instant) -> Option<(K, Warming)> {
        self.expire(now);
        let warming = self.entries.iter().filter(|e| e.warming.is_some()).count();
        if warming >= self.config.at_once.max(1) {
            return None;
        }
        let cold = self
            .entries
            .iter_mut()
            .filter(|e| e.warming.is_none() && e.due <= now);
        // The one that was wanted last is likeliest to be needed.
        let entry = cold.max_by_key(|entry| entry.wanted)?;
        self.serial += 1;
        entry.warming = Some((self.serial, later(now, self.config.patience)));
        self.counters.begun += 1;
        Some((entry.key.clone(), Warming(self.serial)))
    }

    /// It is ready. Of what nobody wants any more, or took too long, nothing is remembered.
    pub fn warmed(&mut self, warming: Warming, now: Instant) {
        let Some(entry) = end(&mut self.entries, &warming) else {
            return;
        };
        self.counters.warmed += 1;
        entry.backoff.succeeded(now);
        entry.warm_until = Some(later(now, self.config.lasts));
        // Again before it cools: making it ready takes its time.
        entry.due = later(now, self.config.lasts / 4 * 3);
    }

    /// It could not be made ready.
    pub fn failed(&mut self, warming: Warming, now: Instant) {
        if let Some(entry) = end(&mut self.entries, &warming) {
            self.counters.failed += 1;
            put_off(entry, now);
        }
    }

    /// Whether this is ready.
    pub fn is_warm(&self, key: &K, now: Instant) -> bool {
        let entry = self.entries.iter().find(|entry| entry.key == *key);
        entry.is_some_and(|entry| entry.warm_until.is_some_and(|until| now < until))
    }

    /// When to [`poll`](Self::poll) again; `None` while there is nothing to wait for but reports.
    pub fn next_timeout(&self) -> Option<Instant> {
        let full = self.entries.iter().filter(|e| e.warming.is_some()).count()
            >= self.config.at_once.max(1);
        let times = self.entries.iter().filter_map(|entry| match entry.warming {
            Some((_, late)) => Some(late),
            None => (!full).then_some(entry.due),
        });
        times.min()
    }

    /// All there is to report of it.
    pub fn status(&self) -> WarmStatus {
        WarmStatus {
            wanted: self.entries.len(),
            warming: self.entries.iter().filter(|e| e.warming.is_some()).count(),
            counters: self.counters,
        }
    }

    fn expire(&mut self, now: Instant) {
        for entry in &mut self.entries {
            if entry.warming.is_some_and(|(_, late)| late <= now) {
                entry.warming = None;
                self.counters.timed_out += 1;
                put_off(entry, now);
            }
        }
    }
}

/// Ends an attempt; whose it was.
fn end<'a, K>(entries: &'a mut [Entry<K>], warming: &Warming) -> Option<&'a mut Entry<K>> {
    let is_it = |entry: &&mut Entry<K>| entry.warming.is_some_and(|(n, _)| n == warming.0);
    let entry = entries.iter_mut().find(is_it)?;
    entry.warming = None;
    Some(entry)
}

/// Not before its pause is over; a back-off that gives up pauses as long as what is ready lasts.
fn put_off<K>(entry: &mut Entry<K>, now: Instant) {
    entry.due = match entry.backoff.failed(now) {
        Next::At(at) => at,
        Next::GiveUp(_) => {
            entry.backoff.reset();
            later(now, Duration::from_secs(60))
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_wanted_stays_warm_without_a_gap() {
        let start = Instant::now();
        let mut warmer = Warmer::new(WarmConfig::default(), 1);
        warmer.want(7, start);
        let takes = Duration::from_secs(2);
        let mut now = start;
        while now < start + Duration::from_secs(3600) {
            let (key, warming) = warmer.poll(now).expect("it is due");
            assert!(now == start || warmer.is_warm(&key, now + takes));
            warmer.warmed(warming, now + takes);
            now = warmer.next_timeout().unwrap();
        }
        // Each lasts three quarters of a minute.
        assert_eq!(warmer.status().counters.begun, 77);
    }

    #[test]
    fn one_that_never_ends_holds_up_no_other() {
        let start = Instant::now();
        let config = WarmConfig {
            at_once: 1,
            ..WarmConfig::default()
        };
        let mut warmer = Warmer::new(config, 1);
        warmer.want(1, start);
        let (_, stuck) = warmer.poll(start).unwrap();
        warmer.want(2, start);
        assert!(warmer.poll(start).is_none());
        let late = warmer.next_timeout().unwrap();
        assert_eq!(warmer.poll(late).map(|(key, _)| key), Some(2));
        warmer.warmed(stuck, late);
        assert!(!warmer.is_warm(&1, late));
        assert_eq!(warmer.status().counters.timed_out, 1);
    }

    proptest! {
        #[test]
        fn any_history(steps in proptest::collection::vec((0u8..6, 0u32..9), 0..300)) {
            let config = WarmConfig { most: 4, ..WarmConfig::default() };
            let (mut warmer, mut now) = (Warmer::new(config, 3), Instant::now());
            let mut under_way: Vec<Warming> = Vec::new();
            for (what, number) in steps {
                match what {
                    0 => warmer.want(number, now),
                    1 => warmer.forget(&number),
                    2 => {
                        while let Some((_, warming)) = warmer.poll(now) {
                            under_way.push(warming);
                        }
                        prop_assert!(warmer.next_timeout().is_none_or(|at| at > now));
                    }
                    3 => under_way.pop().into_iter().for_each(|w| warmer.warmed(w, now)),
                    4 => under_way.pop().into_iter().for_each(|w| warmer.failed(w, now)),
                    _ => now += Duration::from_secs(u64::from(number)),
                }
                let status = warmer.status();
                prop_assert!(status.wanted <= 4 && status.warming <= 2);
            }
        }
    }
}
