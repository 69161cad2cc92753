//! The engine with its rules: the part that is the same whether the world around it is real.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vpn_core::{
    Action, DropReason, OwnerMatch, OwnerResolver, Rule, RuleId, RuleMatch, RuleSnapshot,
    TunDevice, TunnelId, TunnelTransport,
};
use vpn_routing::RouterConfig;
use vpn_routing::engine::{Engine, EngineError, EngineHandle};
use vpn_routing::router::Status;
use vpn_routing::rules::{CompiledRules, RuleCache, RuleFeed, Target};
use vpn_routing::source::StaticRules;

use crate::clock::Nanos;
use crate::error::{Doing, StepError};

/// The regions; each is a provider and a tunnel of that name.
pub(crate) const REGIONS: [&str; 3] = ["uk", "fr", "us"];

/// The apps. At first the rule of each names the region at the same position.
pub(crate) const APPS: [&str; 3] = ["browser", "mail", "game"];

/// A running engine, and the rules it follows.
#[derive(Debug)]
pub(crate) struct Circuit {
    handle: EngineHandle,
    engine: JoinHandle<Result<Status, EngineError>>,
    source: Arc<StaticRules>,
    cache: RuleCache,
    rules: Vec<Rule>,
    stop_feed: CancellationToken,
}

impl Circuit {
    /// Starts an engine whose tunnels are the regions, with one rule per app: what runs this
    /// executable goes to that region. Everything else is blocked.
    pub(crate) async fn start(
        device: Arc<dyn TunDevice>,
        owners: Arc<dyn OwnerResolver>,
        tunnels: Vec<Arc<dyn TunnelTransport>>,
        executables: &[PathBuf],
    ) -> Result<Self, StepError> {
        let rules: Vec<Rule> = (1..)
            .zip(executables.iter().zip(REGIONS))
            .map(|(id, (executable, region))| {
                Rule::new(
                    RuleId(id),
                    RuleMatch {
                        owner: Some(OwnerMatch::Executable(executable.clone())),
                        ..RuleMatch::default()
                    },
                    Action::Tunnel(region.to_owned()),
                )
            })
            .collect();
        let source = Arc::new(StaticRules::new(rules.clone()));
        let cache = RuleCache::new();
        let mut engine = Engine::new(device, owners, cache.clone(), RouterConfig::default());
        let mut ids: Vec<(&str, TunnelId)> = Vec::new();
        for (region, transport) in REGIONS.into_iter().zip(tunnels) {
            ids.push((
                region,
                engine.add_tunnel(region, transport).doing("add a tunnel")?,
            ));
        }
        let compile = Arc::new(move |snapshot: &RuleSnapshot| {
            let tunnel = |name: &str| ids.iter().find(|(n, _)| *n == name).map(|(_, id)| *id);
            CompiledRules::compile(
                snapshot,
                &tunnel,
                Target::Block(DropReason::BlockedByDefault),
            )
        });
        let stop_feed = CancellationToken::new();
        let feed = RuleFeed::new(source.clone(), cache.clone(), compile);
        let mut loaded = cache.changes();
        tokio::spawn(feed.run(stop_feed.clone()));
        loaded
            .wait_for(|generation| !generation.is_cold())
            .await
            .doing("load the rules")?;
        Ok(Self {
            handle: engine.handle(),
            engine: tokio::spawn(engine.run()),
            source,
            cache,
            rules,
            stop_feed,
        })
    }

    /// The way to talk to the engine.
    pub(crate) const fn handle(&self) -> &EngineHandle {
        &self.handle
    }

    /// Changes the rule of an app while everything runs. Returns when it was given to the rule
    /// source, and when it was in force.
    pub(crate) async fn point(
        &mut self,
        app: usize,
        region: &str,
    ) -> Result<(Nanos, Nanos), StepError> {
        if let Some(rule) = self.rules.get_mut(app) {
            rule.action = Action::Tunnel(region.to_owned());
        }
        let before = self.cache.generation();
        let mut generation = self.cache.changes();
        let given = Nanos::now();
        self.source.set(self.rules.clone());
        generation
            .wait_for(|now| *now != before)
            .await
            .doing("wait for the new rules")?;
        Ok((given, Nanos::now()))
    }

    /// Ends the engine, with its device and its tunnels; its last report.
    pub(crate) async fn stop(mut self) -> Result<Status, StepError> {
        self.handle.stop().await;
        let ended = (&mut self.engine).await.doing("wait for the engine")?;
        ended.doing("run the engine")
    }
}

impl Drop for Circuit {
    fn drop(&mut self) {
        self.stop_feed.cancel();
        // For a stage that could not be set; after `stop` it has ended.
        self.engine.abort();
    }
}
