//! Decides which of many keys may be tried: a breaker for each, of which only so many are kept.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::{
    Breaker, BreakerConfig, BreakerCounters, BreakerEvent, BreakerState, Permit, Refused,
    Transitions, Window,
};
use crate::counters::counters;
use crate::time::later;

/// Breakers kept by default: one for each peer of a large mesh, 0.3 MB when all are in use.
pub const MAX_BREAKERS: usize = 1024;

/// Bounds of [`Breakers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Breakers kept at most; 0 counts as 1. One more, and the closed one that was used least
    /// recently is forgotten; if none is closed, the one of all. Default [`MAX_BREAKERS`].
    pub most: usize,
    /// A breaker that nobody asked for so long is forgotten, whatever its state, but not before
    /// [`BreakerConfig::reset_after`]. Default 10 minutes.
    pub idle_after: Duration,
}

impl Default for BreakerLimits {
    fn default() -> Self {
        Self {
            most: MAX_BREAKERS,
            idle_after: Duration::from_secs(600),
        }
    }
}

counters! {
    /// How often breakers came and went. `created - evicted - idle - removed` are there.
    pub struct RegistryCounters {
        /// Breakers made, with the first attempt for a key.
        created,
        /// Forgotten to make room for another key.
        evicted,
        /// Forgotten because nobody asked for them.
        idle,
        /// Forgotten because they were told to.
        removed,
        /// Outcomes reported for a key whose breaker is gone: they changed nothing.
        unknown,
    }
}

/// Many breakers, as a status report shows them. Sums are over all there ever were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryStatus {
    /// Breakers that are closed.
    pub closed: usize,
    /// That are open.
    pub open: usize,
    /// That are half-open.
    pub half_open: usize,
    /// How often breakers changed their states.
    pub transitions: Transitions,
    /// How often what was asked and reported.
    pub permits: BreakerCounters,
    /// How often breakers came and went.
    pub counters: RegistryCounters,
}

#[derive(Debug)]
struct Entry {
    breaker: Breaker,
    used: Instant,
    place: Place,
}

/// Those in front are forgotten first: closed before others, then by when they were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    guards: bool,
    stamp: u64,
}

/// A breaker for each key: peer, endpoint, source of rules.
///
/// ```
/// use std::time::Instant;
/// use vpn_resilience::{BreakerConfig, Breakers};
///
/// let mut breakers = Breakers::new(BreakerConfig::default());
/// let now = Instant::now();
/// for _ in 0..5 {
///     let permit = breakers.acquire(&"brussels", now)?;
///     breakers.failed(&"brussels", permit, now);
/// }
/// assert!(breakers.acquire(&"brussels", now).is_err());
/// assert!(breakers.acquire(&"amsterdam", now).is_ok());
/// # Ok::<(), vpn_resilience::Refused>(())
/// ```
#[derive(Debug)]
pub struct Breakers<K> {
    config: BreakerConfig,
    window: Option<Window>,
    limits: BreakerLimits,
    entries: HashMap<K, Entry>,
    order: BTreeMap<Place, K>,
    stamp: u64,
    /// Of those that are gone.
    transitions: Transitions,
    permits: BreakerCounters,
    counters: RegistryCounters,
}

impl<K: Clone + Eq + Hash> Breakers<K> {
    /// No breakers yet. Each will be made with this configuration.
    pub fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            window: None,
            limits: BreakerLimits::default(),
            entries: HashMap::new(),
            order: BTreeMap::new(),
            stamp: 0,
            transitions: Transitions::ZERO,
            permits: BreakerCounters::ZERO,
            counters: RegistryCounters::ZERO,
        }
    }

    /// Other bounds than the default ones.
    #[must_use]
    pub fn limits(mut self, limits: BreakerLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Each with a [window](Breaker::window). Default: none has one.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.window = Some(window);
        self
    }

    /// Leave to make one attempt for a key. Its breaker is made if there is none.
    ///
    /// # Errors
    ///
    /// As [`Breaker::acquire`].
    pub fn acquire(&mut self, key: &K, now: Instant) -> Result<Permit, Refused> {
        if !self.entries.contains_key(key) {
            self.insert(key, now);
        }
        self.with(key, Some(now), |breaker| breaker.acquire(now))
            .unwrap_or(Err(Refused { retry_at: now }))
    }

    /// The attempt succeeded.
    pub fn succeeded(&mut self, key: &K, permit: Permit) {
        self.with(key, None, |breaker| breaker.succeeded(permit));
    }

    /// The attempt failed.
    pub fn failed(&mut self, key: &K, permit: Permit, now: Instant) {
        self.with(key, Some(now), |breaker| breaker.failed(permit, now));
    }

    /// The attempt was not made, or its outcome says nothing.
    pub fn cancelled(&mut self, key: &K, permit: Permit) {
        self.with(key, None, |breaker| breaker.cancelled(permit));
    }

    /// The next change of a key's breaker that nobody has taken yet. Ask after each call for it.
    pub fn poll_event(&mut self, key: &K) -> Option<BreakerEvent> {
        self.entries.get_mut(key)?.breaker.poll_event()
    }

    /// A key's breaker, if there is one.
    pub fn get(&self, key: &K) -> Option<&Breaker> {
        self.entries.get(key).map(|entry| &entry.breaker)
    }

    /// Forgets a key: for when what failed is another one now.
    pub fn remove(&mut self, key: &K) {
        self.counters.removed += u64::from(self.forget(key));
    }

    /// How many breakers there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// When the next breaker is idle; call [`handle_timeout`](Self::handle_timeout) then.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.oldest().map(|(_, due)| due).min()
    }

    /// Forgets breakers that are idle.
    pub fn handle_timeout(&mut self, now: Instant) {
        loop {
            let due = self.oldest().find(|(_, due)| *due <= now);
            let Some(key) = due.map(|(key, _)| key.clone()) else {
                return;
            };
            self.counters.idle += u64::from(self.forget(&key));
        }
    }

    /// All there is to report of them. Looks at each.
    pub fn status(&self) -> RegistryStatus {
        let mut status = RegistryStatus {
            transitions: self.transitions,
            permits: self.permits,
            counters: self.counters,
            ..RegistryStatus::default()
        };
        for Entry { breaker, .. } in self.entries.values() {
            *match breaker.state() {
                BreakerState::Closed => &mut status.closed,
                BreakerState::Open { .. } => &mut status.open,
                BreakerState::HalfOpen => &mut status.half_open,
            } += 1;
            status.transitions.merge(&breaker.transitions());
            status.permits.merge(&breaker.counters());
        }
        status
    }

    /// The least recently used of those that guard something and of those that do not, and when
    /// each is idle.
    fn oldest(&self) -> impl Iterator<Item = (&K, Instant)> {
        let idle_after = self.limits.idle_after.max(self.config.reset_after);
        let first = |guards| {
            let from = Place { guards, stamp: 0 };
            self.order.range(from..).next().map(|(_, key)| key)
        };
        let found = [first(false), first(true)].into_iter().flatten();
        found.filter_map(move |key| {
            let used = self.entries.get(key)?.used;
            Some((key, later(used, idle_after)))
        })
    }

    fn insert(&mut self, key: &K, now: Instant) {
        while self.entries.len() >= self.limits.most.max(1) {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            self.counters.evicted += u64::from(self.forget(&oldest));
        }
        self.counters.created += 1;
        self.stamp += 1;
        let place = Place {
            guards: false,
            stamp: self.stamp,
        };
        let mut breaker = Breaker::new(self.config);
        // A permit of the key's last breaker must not be taken for one of this.
        breaker.phase = self.counters.created << 32;
        if let Some(window) = self.window {
            breaker = breaker.window(window);
        }
        let used = now;
        self.order.insert(place, key.clone());
        self.entries.insert(
            key.clone(),
            Entry {
                breaker,
                used,
                place,
            },
        );
    }

    /// Calls a key's breaker, and puts it where it belongs then.
    fn with<T>(
        &mut self,
        key: &K,
        now: Option<Instant>,
        call: impl FnOnce(&mut Breaker) -> T,
    ) -> Option<T> {
        let Some(entry) = self.entries.get_mut(key) else {
            self.counters.unknown += 1;
            return None;
        };
        let result = call(&mut entry.breaker);
        let mut place = Place {
            guards: entry.breaker.state() != BreakerState::Closed,
            ..entry.place
        };
        if let Some(now) = now {
            self.stamp += 1;
            place.stamp = self.stamp;
            entry.used = now;
        }
        if place != entry.place
            && let Some(key) = self.order.remove(&entry.place)
        {
            self.order.insert(place, key);
            entry.place = place;
        }
        Some(result)
    }

    /// Whether there was something to forget.
    fn forget(&mut self, key: &K) -> bool {
        let Some(entry) = self.entries.remove(key) else {
            return false;
        };
        self.order.remove(&entry.place);
        self.transitions.merge(&entry.breaker.transitions());
        self.permits.merge(&entry.breaker.counters());
        true
    }
}
