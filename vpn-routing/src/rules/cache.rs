//! Holds the rules in force: one writer swaps them whole, readers never wait.
//!
//! The reference system replaced its map by "clear, then fill": readers saw it empty and let
//! traffic go direct on every change (N-20). Here compiled rules are immutable and one pointer is
//! exchanged. A reader keeps a cached copy and pays one atomic load to learn that it is current.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Cache};
use vpn_core::flow::FlowKey;
use vpn_core::{Generation, Owner};

use super::compile::CompiledRules;
use super::decide::Decision;

/// The rules in force. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub struct RuleCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rules: Arc<ArcSwap<CompiledRules>>,
    /// Held while the generation is counted up and the pointer is exchanged.
    writer: Mutex<()>,
    hits: AtomicU64,
    misses: AtomicU64,
    #[cfg(feature = "tokio")]
    generation: tokio::sync::watch::Sender<Generation>,
}

/// How often rules decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleStats {
    /// Flows that a rule decided.
    pub hits: u64,
    /// Flows that no rule decided: the default, or an unknown owner.
    pub misses: u64,
}

impl Default for RuleCache {
    fn default() -> Self {
        Self::new()
    }
}

impl RuleCache {
    /// A cold cache: everything is blocked until rules are swapped in.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            rules: Arc::new(ArcSwap::from_pointee(CompiledRules::cold())),
            writer: Mutex::new(()),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            #[cfg(feature = "tokio")]
            generation: tokio::sync::watch::Sender::new(Generation::COLD),
        }))
    }

    /// Puts other rules in force, whole, under the next generation, which is returned.
    pub fn swap(&self, mut rules: CompiledRules) -> Generation {
        let _writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.0.rules.load().generation().next();
        rules.set_generation(generation);
        self.0.rules.store(Arc::new(rules));
        #[cfg(feature = "tokio")]
        self.0.generation.send_replace(generation);
        generation
    }

    /// The rules in force. For status and explanations; workers use a [`reader`](Self::reader).
    pub fn current(&self) -> Arc<CompiledRules> {
        self.0.rules.load_full()
    }

    /// The number of the rules in force.
    pub fn generation(&self) -> Generation {
        self.0.rules.load().generation()
    }

    /// Whether no rules were ever swapped in.
    pub fn is_cold(&self) -> bool {
        self.generation().is_cold()
    }

    /// A handle for one worker.
    pub fn reader(&self) -> RuleReader {
        RuleReader {
            rules: Cache::new(Arc::clone(&self.0.rules)),
            cache: self.clone(),
            counted: RuleStats::default(),
        }
    }

    /// How often rules decided, as far as readers have [flushed](RuleReader::flush).
    pub fn stats(&self) -> RuleStats {
        RuleStats {
            hits: self.0.hits.load(Relaxed),
            misses: self.0.misses.load(Relaxed),
        }
    }

    /// Tells when other rules are in force; starts with the present generation as seen.
    #[cfg(feature = "tokio")]
    pub fn changes(&self) -> tokio::sync::watch::Receiver<Generation> {
        self.0.generation.subscribe()
    }
}

/// One worker's view of the rules: a cached pointer and counters of its own, flushed by
/// [`flush`](Self::flush) (say, once a second) and when dropped.
#[derive(Debug)]
pub struct RuleReader {
    rules: Cache<Arc<ArcSwap<CompiledRules>>, Arc<CompiledRules>>,
    cache: RuleCache,
    counted: RuleStats,
}

impl RuleReader {
    /// The rules in force now. Take them once per batch: what follows is then decided by one
    /// snapshot.
    #[inline]
    pub fn current(&mut self) -> &CompiledRules {
        self.rules.load()
    }

    /// Decides a flow by the rules in force, counts it, and says under which generation.
    pub fn decide(&mut self, owner: Option<&Owner>, flow: &FlowKey) -> (Generation, Decision) {
        let rules = self.rules.load();
        let decision = rules.decide(owner, flow);
        let generation = rules.generation();
        match decision.rule {
            Some(_) => self.counted.hits += 1,
            None => self.counted.misses += 1,
        }
        (generation, decision)
    }

    /// Adds this reader's counters to those of the cache.
    pub fn flush(&mut self) {
        let counted = std::mem::take(&mut self.counted);
        self.cache.0.hits.fetch_add(counted.hits, Relaxed);
        self.cache.0.misses.fetch_add(counted.misses, Relaxed);
    }
}

impl Drop for RuleReader {
    fn drop(&mut self) {
        self.flush();
    }
}
