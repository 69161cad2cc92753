//! Rules in etcd, for many hosts at once: followed, so that a change is in force within milliseconds.
//!
//! Each key below the prefix has the text of a file of rules as its value, as `TomlRules` reads it; the
//! rules of all keys are in force together, those of later keys newer. An entry that makes no sense keeps
//! its last good rules and is told by [`trouble`](RuleSource::trouble); so is that etcd cannot be
//! reached, and the rules stay. Users and programs are looked up on each host; a rule for a user that
//! is not there is about nobody until it is.
//!
//! Until every entry could be read once, there are no rules at all and loading fails: nobody knows what the
//! one that could not would forbid.
//!
//! Whoever can write below the prefix decides what leaves by which tunnel, on every host: give etcd TLS
//! and users.
//!
//! ```no_run
//! use vpn_core::RuleSource;
//! use vpn_routing::source::{EtcdRules, EtcdRulesConfig};
//!
//! # async fn follow() -> Result<(), Box<dyn std::error::Error>> {
//! let config = EtcdRulesConfig::new(["etcd.example.org:2379"], "fleet/rules/")
//!     .tls(std::fs::read("ca.pem")?)
//!     .user("host", std::fs::read_to_string("password")?.trim());
//! let rules = EtcdRules::start(config)?;
//! println!("{} rules", rules.load().await?.rules.len());
//! // etcdctl put fleet/rules/50-browser < browser.toml
//! rules.changed().await;
//! # Ok(())
//! # }
//! ```

mod config;
mod follow;
mod load;
mod names;
mod past;
mod read;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use vpn_core::rule::RuleSourceError;
use vpn_core::{RuleId, RuleSnapshot, RuleSource};

pub use config::{EtcdRulesConfig, REQUEST};

use super::changes::Changes;
use table::Table;
use text::Users;

/// Rules in etcd. See the [crate documentation of sources](crate::source).
#[derive(Debug)]
pub struct EtcdRules {
    shared: Arc<Shared>,
    /// Which change the last `load` saw.
    loaded: AtomicU64,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Debug)]
struct Shared {
    config: EtcdRulesConfig,
    state: Mutex<State>,
    changes: Changes,
    users: Arc<Users>,
    /// Wakes who follows: there may be room for what was left out.
    room: tokio::sync::Notify,
    loaded: tokio::sync::watch::Sender<Loaded>,
}

/// What was there once, since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Loaded {
    #[default]
    Nothing,
    /// Not all of it could be read.
    Some,
    /// Rules are in force.
    All,
}

#[derive(Debug, Default)]
struct State {
    table: Table,
    /// Up to which revision of etcd this is; `None` if it has to be loaded.
    revision: Option<i64>,
    /// Which etcd it was.
    cluster: Option<u64>,
    /// It may be another one, or have another history, since the table was loaded.
    is_another: bool,
    /// Why etcd is not followed now.
    cut: Option<Arc<RuleSourceError>>,
}

impl State {
    /// What was missed is not known: everything has to be loaded, and whether this etcd is the one that was
    /// followed cannot be told any more.
    const fn lost(&mut self) {
        self.revision = None;
        self.is_another = true;
    }
}

/// What is wrong with a configuration of rules in etcd.
#[derive(Debug, thiserror::Error)]
#[error("etcd: {0}")]
pub struct EtcdRulesError(&'static str);

impl EtcdRules {
    /// Begins to follow; etcd need not be there yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The configuration makes no sense.
    pub fn start(config: EtcdRulesConfig) -> Result<Self, EtcdRulesError> {
        Self::start_with(config, Users::default())
    }

    fn start_with(config: EtcdRulesConfig, users: Users) -> Result<Self, EtcdRulesError> {
        if let Some(problem) = config.problem() {
            return Err(EtcdRulesError(problem));
        }
        let shared = Arc::new(Shared {
            config,
            state: Mutex::default(),
            changes: Changes::new(),
            users: Arc::new(users),
            room: tokio::sync::Notify::new(),
            loaded: tokio::sync::watch::Sender::default(),
        });
        let tasks = [
            tokio::spawn(follow::follow(Arc::clone(&shared))),
            tokio::spawn(read::read_again(Arc::clone(&shared))),
        ];
        Ok(Self {
            shared,
            loaded: AtomicU64::new(0),
            tasks,
        })
    }

    /// Where a rule is written: the key of its entry, and its place there, from 1.
    pub fn origin(&self, rule: RuleId) -> Option<(String, u32)> {
        let state = self.shared.state();
        let (key, place) = state.table.origin(rule)?;
        Some((key.to_owned(), place))
    }
}

impl Drop for EtcdRules {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ready(&self) -> bool {
        *self.loaded.borrow() == Loaded::All
    }

    /// Whether rules are in force: from when every entry could be read. Nobody knows what one that
    /// never could would forbid; later ones change nothing of what is in force.
    fn judge(&self, state: &State) {
        if state.revision.is_none() {
            return;
        }
        let is_whole = !state.table.is_full() && state.table.unknown().is_none();
        let now = match is_whole {
            true => Loaded::All,
            false => Loaded::Some,
        };
        self.loaded.send_if_modified(|before| {
            let is_more = now > *before;
            *before = now.max(*before);
            is_more
        });
    }

    /// The keys of rules that are in force, or were.
    fn known(&self) -> BTreeSet<String> {
        match self.is_ready() {
            true => self.state().table.keys().cloned().collect(),
            false => BTreeSet::new(),
        }
    }

    fn place(&self) -> String {
        format!("etcd at {}", self.config.endpoints().join(", "))
    }
}

#[async_trait]
impl RuleSource for EtcdRules {
    /// Asks nobody once everything was loaded; before, it waits for that as long as a request may take.
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        let mut loaded = self.shared.loaded.subscribe();
        let is_there = loaded.wait_for(|loaded| *loaded != Loaded::Nothing);
        // Fails only if the sender is gone, and `self` holds it.
        let _ = timeout(self.shared.config.within(), is_there).await;
        // Before reading: a change during the read counts as not loaded.
        self.loaded.store(self.shared.changes.seen(), SeqCst);
        let state = self.shared.state();
        if self.shared.is_ready() {
            return Ok(state.table.snapshot());
        }
        let cause = match (&state.cut, state.table.unknown()) {
            (Some(cut), _) => Arc::clone(cut).into(),
            (None, Some(unknown)) => unknown.into(),
            (None, None) => "it does not answer".into(),
        };
        let place = self.shared.place();
        Err(RuleSourceError::Unavailable { place, cause })
    }

    async fn changed(&self) {
        self.shared.changes.beyond(self.loaded.load(SeqCst)).await;
    }

    fn trouble(&self) -> Option<Arc<RuleSourceError>> {
        let state = self.shared.state();
        state.cut.clone().or_else(|| state.table.problem())
    }
}
