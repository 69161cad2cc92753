//! `multi-region run`: the pieces put together.
//!
//! The order is what keeps it tight: everything is read and checked first; then the device is
//! made and the tunnels are prepared, which leaves nothing behind if it fails; then the capture,
//! which drops everything until rules and tunnels are there. On the way out it is undone in the
//! reverse order.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vpn_core::{InterfacePlan, RuleSource, StateWatch, TransportState, TunnelId, TunnelTransport};
use vpn_p2p::wireguard::{WireGuardOptions, WireGuardTransport};
use vpn_routing::RouterConfig;
use vpn_routing::engine::{Engine, EngineHandle};
use vpn_routing::owner::LinuxOwners;
use vpn_routing::rules::{CompiledRules, FeedStatus, RuleCache, RuleFeed, Target};

use crate::config::OnExit;
use crate::control::Listener;
use crate::error::{Error, system};
use crate::plan::Loaded;
use crate::report::Reporter;
use crate::system::SystemState;
use crate::view;

/// How long `ready` waits for tunnels that neither came up nor failed.
const FIRST_TRY: Duration = Duration::from_secs(6);

/// How long a stopping engine may take before it is left behind.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two looks whether the engine has heard of what its tunnels said.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Runs until SIGINT or SIGTERM.
pub(crate) async fn run(path: &Path) -> Result<(), Error> {
    // From here on a signal waits until there is something to undo, and is then obeyed.
    let mut stop = StopSignals::new()?;
    let loaded = Loaded::read(path)?;
    let source = loaded.open_rules().await?;
    for (name, file) in &loaded.tunnels {
        for warning in &file.warnings {
            let file = loaded.config.tunnel[name].wireguard.display();
            tracing::warn!(tunnel = %name, "{file}: {warning}");
        }
    }
    let control = Listener::bind(&loaded.config.control.socket).await?;
    let mut system_state = SystemState::new(&loaded.config)?;
    let prepared = prepare(&loaded, &system_state)?;
    let configured = loaded.config.on_exit;
    if let Err(error) = system_state.engage().await {
        if let Err(undo) = system_state.undo(configured).await {
            tracing::error!("{}", crate::error::chain(&undo));
        }
        return Err(error);
    }
    let served = serve(
        &loaded,
        prepared,
        source,
        &mut system_state,
        control,
        &mut stop,
    )
    .await;
    // `open` is for those who stop the daemon. Where it fails, apps stay blocked.
    let on_exit = if served.is_ok() {
        configured
    } else {
        OnExit::Block
    };
    let undone = system_state.undo(on_exit).await;
    served.and(undone)
}

/// What is put together before the system is touched.
struct Prepared {
    engine: Engine,
    tunnels: Vec<StateWatch>,
    rules: RuleCache,
}

/// The engine with its tunnels, which begin to connect once this task waits for something.
fn prepare(loaded: &Loaded, system_state: &SystemState) -> Result<Prepared, Error> {
    let (device, underlay) = (system_state.device(), system_state.underlay());
    let owners =
        LinuxOwners::new(device.index()).map_err(system("cannot ask the kernel for owners"))?;
    let config = RouterConfig {
        resolvers: vec![loaded.config.dns.resolver],
        steered: underlay.servers().to_vec(),
        ..RouterConfig::default()
    };
    let rules = RuleCache::new();
    let mut engine = Engine::new(device.clone(), Arc::new(owners), rules.clone(), config);
    let mut tunnels = Vec::new();
    for (name, file) in &loaded.tunnels {
        let options = WireGuardOptions::default();
        let transport =
            WireGuardTransport::new(file.clone(), underlay.clone(), options).map_err(|cause| {
                Error::Tunnel {
                    tunnel: name.clone(),
                    cause,
                }
            })?;
        tunnels.push(transport.state());
        engine.add_tunnel(name, Arc::new(transport))?;
    }
    Ok(Prepared {
        engine,
        tunnels,
        rules,
    })
}

/// From the capture to the signal.
async fn serve(
    loaded: &Loaded,
    prepared: Prepared,
    source: Arc<dyn RuleSource>,
    system_state: &mut SystemState,
    control: Listener,
    stop: &mut StopSignals,
) -> Result<(), Error> {
    let Prepared {
        engine,
        tunnels,
        rules,
    } = prepared;
    let shutdown = CancellationToken::new();
    let (feed_status, feed) = start_rules(loaded, source, rules, &shutdown);
    let handle = engine.handle();
    let mut plan = handle.plan();
    let mut task = tokio::spawn(engine.run());
    let reporter = Reporter {
        engine: handle.clone(),
        interface: system_state.device().name().to_string(),
        rules: feed_status.clone(),
    };
    let control = tokio::spawn(control.serve(reporter, shutdown.clone()));
    let first_try = tokio::time::timeout(FIRST_TRY, all_tried(tunnels, feed_status, &handle));
    tokio::pin!(first_try);
    let mut ready = false;
    let ended = loop {
        tokio::select! {
            () = stop.received() => break None,
            ended = &mut task => break Some(ended),
            Ok(()) = plan.changed() => {
                let wanted = plan.borrow_and_update().clone();
                system_state.apply(&wanted).await;
            }
            tried = &mut first_try, if !ready => {
                // What the tunnels were assigned is in force before anybody is told.
                if let Ok(Some(wanted)) = tried {
                    system_state.apply(&wanted).await;
                }
                // This line is the interface: callers wait for it.
                view::print("ready\n");
                ready = true;
            }
        }
    };
    let result = match ended {
        None => {
            let stopped = async {
                handle.stop().await;
                // It ends by the handle; a panic in it ended it as well.
                let _ = (&mut task).await;
            };
            if tokio::time::timeout(STOP_TIMEOUT, stopped).await.is_err() {
                tracing::error!("the engine did not stop in time");
                task.abort();
            }
            Ok(())
        }
        // Nobody else can tell it to stop.
        Some(Ok(Ok(_))) => Ok(()),
        Some(Ok(Err(error))) => Err(error.into()),
        Some(Err(join)) => Err(system("the engine's task ended")(join)),
    };
    shutdown.cancel();
    // Both end by the token; a panic in one ended it as well.
    let _ = feed.await;
    let _ = control.await;
    result
}

/// Waits until rules are in force and each tunnel came up or failed once, and the engine knows:
/// what the interface has to look like then.
async fn all_tried(
    tunnels: Vec<StateWatch>,
    mut rules: watch::Receiver<FeedStatus>,
    engine: &EngineHandle,
) -> Option<InterfacePlan> {
    // A feed that has ended will not load rules any more; the time limit says ready then.
    if rules
        .wait_for(|feed| !feed.generation.is_cold())
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
    for mut tunnel in tunnels {
        while tunnel.next().await == TransportState::Connecting {}
    }
    loop {
        let status = engine.status().await.ok()?;
        if status
            .tunnels
            .iter()
            .all(|tunnel| tunnel.state != TransportState::Connecting)
        {
            return Some(status.plan);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Feeds the cache from the rules file.
fn start_rules(
    loaded: &Loaded,
    source: Arc<dyn RuleSource>,
    cache: RuleCache,
    shutdown: &CancellationToken,
) -> (watch::Receiver<FeedStatus>, JoinHandle<()>) {
    let ids: BTreeMap<String, TunnelId> = loaded
        .tunnels
        .keys()
        .filter_map(|n| Some((n.clone(), loaded.id_of(n)?)))
        .collect();
    let default: Target = loaded.default_target();
    let compile = Arc::new(move |snapshot: &_| {
        CompiledRules::compile(snapshot, &|name: &str| ids.get(name).copied(), default)
    });
    let feed = RuleFeed::new(source, cache, compile);
    let status = feed.status();
    (status, tokio::spawn(feed.run(shutdown.clone())))
}

struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> Result<Self, Error> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(Error::Runtime)?,
            terminate: signal(SignalKind::terminate()).map_err(Error::Runtime)?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
