//! Brings rules from a source into the cache: loads, compiles, swaps, waits for the next change.
//!
//! Touches no packet: whatever the source does, readers keep the rules in force. A source that
//! fails or hangs is reported through [`FeedStatus`] and tried again; its last good rules stay.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use vpn_core::{Generation, RuleSnapshot, RuleSource, metrics};

use super::cache::RuleCache;
use super::compile::CompiledRules;
use super::error::RuleError;

/// How often rules are loaded although nothing said that they changed, unless told otherwise.
pub const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// How long a load may take before it is given up and tried again.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(30);

/// First wait after a failed load; doubles up to [`REFRESH_EVERY`].
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Shortest time between two loads, so that a source that always says "changed" costs little.
const LOAD_GAP: Duration = Duration::from_millis(5);

/// Turns a snapshot into compiled rules: resolves names of tunnels and knows the default.
pub type Compile = Arc<dyn Fn(&RuleSnapshot) -> Result<CompiledRules, RuleError> + Send + Sync>;

/// How the source fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeedStatus {
    /// The generation of the last rules that were swapped in by this feed.
    pub generation: Generation,
    /// Why the last load failed, with all causes, or what is wrong with a part of the source;
    /// `None` if all is well.
    pub error: Option<String>,
    /// Rules that cannot be carried out and block what they match.
    pub problems: Vec<RuleError>,
}

impl FeedStatus {
    /// Adds to a snapshot how the source fares.
    pub fn measure(&self, into: &mut metrics::Snapshot) {
        let rules = into.rules.get_or_insert_default();
        rules.error = self.error.is_some();
        rules.problems = self.problems.len() as u64;
    }
}

/// A source, the cache it feeds, and how. Made by [`new`](Self::new), consumed by
/// [`run`](Self::run). A clone is the same feed: to run it again, should it have panicked.
#[derive(Clone)]
pub struct RuleFeed {
    source: Arc<dyn RuleSource>,
    cache: RuleCache,
    compile: Compile,
    refresh: Option<Duration>,
    again: Arc<Notify>,
    status: watch::Sender<FeedStatus>,
}

impl std::fmt::Debug for RuleFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuleFeed")
            .field("source", &self.source)
            .field("refresh", &self.refresh)
            .finish_non_exhaustive()
    }
}

/// Why a load brought no rules.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error(transparent)]
    Source(#[from] vpn_core::rule::RuleSourceError),
    #[error(transparent)]
    Rules(#[from] RuleError),
    #[error("the source did not answer in {} s; the last good rules stay", LOAD_DEADLINE.as_secs())]
    Hung,
    #[error("the rules could not be compiled: {0}")]
    Compile(#[from] tokio::task::JoinError),
}

impl RuleFeed {
    /// A feed that refreshes every [`REFRESH_EVERY`].
    pub fn new(source: Arc<dyn RuleSource>, cache: RuleCache, compile: Compile) -> Self {
        Self {
            source,
            cache,
            compile,
            refresh: Some(REFRESH_EVERY),
            again: Arc::new(Notify::new()),
            status: watch::Sender::new(FeedStatus::default()),
        }
    }

    /// How often to load although nothing said that rules changed; `None`: never. Default
    /// [`REFRESH_EVERY`]. Rules that are the same as before keep their generation.
    #[must_use]
    pub fn refresh_every(mut self, period: Option<Duration>) -> Self {
        self.refresh = period;
        self
    }

    /// How the source fares, now and later.
    pub fn status(&self) -> watch::Receiver<FeedStatus> {
        self.status.subscribe()
    }

    /// Notify it to have rules loaded and compiled anew: after tunnels were added or removed,
    /// since names may now mean something else.
    pub fn recompile(&self) -> Arc<Notify> {
        Arc::clone(&self.again)
    }

    /// Feeds the cache until `shutdown`; returns at once then, also in the middle of a load.
    pub async fn run(self, shutdown: CancellationToken) {
        // `biased`: a cancelled feed does not start another load.
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = self.feed() => {}
        }
    }

    async fn feed(&self) {
        let mut last: Option<RuleSnapshot> = None;
        let mut retry = RETRY_AFTER;
        let mut forced = true;
        loop {
            let started = Instant::now();
            let (failed, troubled) = match self.load(&mut last, forced).await {
                Ok(()) => (false, self.source.trouble()),
                Err(error) => {
                    self.report(&error);
                    (true, None)
                }
            };
            // What was asked for and failed is still wanted.
            forced = forced && failed;
            if let Some(trouble) = &troubled {
                self.report(&**trouble);
            }
            let failed = failed || troubled.is_some();
            let wait = if failed { Some(retry) } else { self.refresh };
            retry = if failed {
                (retry * 2).min(REFRESH_EVERY)
            } else {
                RETRY_AFTER
            };
            tokio::select! {
                () = self.source.changed() => {}
                () = self.again.notified() => forced = true,
                () = sleep(wait.unwrap_or(REFRESH_EVERY)), if wait.is_some() => {}
            }
            tokio::time::sleep_until(started + LOAD_GAP).await;
        }
    }

    async fn load(&self, last: &mut Option<RuleSnapshot>, forced: bool) -> Result<(), FeedError> {
        let snapshot = timeout(LOAD_DEADLINE, self.source.load())
            .await
            .map_err(|_| FeedError::Hung)??;
        let troubled = self.source.trouble().is_some();
        if !forced && last.as_ref() == Some(&snapshot) {
            self.status
                .send_if_modified(|s| !troubled && s.error.take().is_some());
            return Ok(());
        }
        // Many rules take milliseconds to compile: not on a worker that has packets to move.
        let compile = Arc::clone(&self.compile);
        let (snapshot, compiled) = tokio::task::spawn_blocking(move || {
            let compiled = compile(&snapshot);
            (snapshot, compiled)
        })
        .await?;
        let compiled = compiled?;
        let problems = compiled.problems().to_vec();
        for problem in &problems {
            tracing::warn!(%problem, "a rule cannot be carried out and blocks what it matches");
        }
        let generation = self.cache.swap(compiled);
        tracing::info!(
            generation = generation.0,
            rules = snapshot.rules.len(),
            "rules in force"
        );
        *last = Some(snapshot);
        self.status.send_modify(|status| {
            status.generation = generation;
            status.problems = problems;
            // What is wrong with a part of the source is still wrong.
            status.error = status.error.take().filter(|_| troubled);
        });
        Ok(())
    }

    fn report(&self, error: &dyn std::error::Error) {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        let new = self.status.send_if_modified(|status| {
            let new = status.error.as_ref() != Some(&text);
            status.error = Some(text.clone());
            new
        });
        // A source that stays broken is told once, not at every attempt.
        if new {
            tracing::warn!(error = %text, "rules cannot be loaded");
        }
    }
}

/// Feeds `cache` from `source` until `shutdown`: [`RuleFeed`] with its defaults.
pub async fn run_rule_source(
    source: Arc<dyn RuleSource>,
    cache: RuleCache,
    compile: Compile,
    shutdown: CancellationToken,
) {
    RuleFeed::new(source, cache, compile).run(shutdown).await;
}
