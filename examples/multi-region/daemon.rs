//! `multi-region run`: the pieces put together.
//!
//! The order is what keeps it tight: everything is read and checked first; then the device is
//! made and the tunnels are prepared, which leaves nothing behind if it fails; then the capture,
//! which drops everything until rules and tunnels are there. On the way out it is undone in the
//! reverse order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use vpn_core::{InterfacePlan, StateWatch, TransportState};
use vpn_examples::signals::{Signals, Told};
use vpn_routing::RouterConfig;
use vpn_routing::engine::{Engine, EngineHandle, Lane};
use vpn_routing::owner::LinuxOwners;
use vpn_routing::rules::{FeedStatus, RuleCache};
use vpn_tun::watch::Ours;
use vpn_tun::{DirectConfig, LinuxTun};

use crate::asked::Asked;
use crate::config::OnExit;
use crate::direct;
use crate::error::{Error, system};
use crate::host;
use crate::kept::{Feed, Kept};
use crate::network::{self, Follower};
use crate::plan::Loaded;
use crate::policy::Policy;
use crate::reload::Reload;
use crate::report::Reporter;
use crate::system::SystemState;
use crate::view;

/// How long `ready` waits for tunnels that neither came up nor failed.
const FIRST_TRY: Duration = Duration::from_secs(6);

/// How long a stopping engine may take before it is left behind.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How often what is ours is compared with what others made of it.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Cannot be: tasks are few, and started before they are stopped.
const NO_TASK: &str = "cannot start a task";

/// Between two looks whether the engine has heard of what its tunnels said.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Runs until SIGINT or SIGTERM.
pub(crate) async fn run(path: &Path) -> Result<(), Error> {
    // From here on a signal waits until there is something to undo, and is then obeyed.
    let mut stop = Signals::new().map_err(Error::Runtime)?;
    let loaded = Loaded::read(path)?;
    let kept = Kept::new(loaded.config.breaker.config());
    let (source, direct_asked_by) = loaded.open_rules(&kept).await?;
    for (name, provider) in &loaded.tunnels {
        for warning in provider.warnings() {
            tracing::warn!(tunnel = %name, "{warning}");
        }
    }
    let asked = Asked::bind(&loaded).await?;
    let mut system_state = SystemState::new(&loaded.config).await?;
    let mut prepared = prepare(&loaded, &system_state, &kept)?;
    let mut engaged = system_state.engage().await;
    if let (Ok(()), Some(asked_by)) = (&engaged, direct_asked_by) {
        engaged = open_direct(&mut prepared, system_state.direct(), &asked_by).await;
    }
    if let Err(error) = engaged {
        // What was opened goes first: it closes when the engine is dropped.
        drop(prepared);
        if let Err(undo) = system_state.undo(loaded.config.on_exit).await {
            tracing::error!("{}", crate::error::chain(&undo));
        }
        return Err(error);
    }
    let policy = prepared.policy.clone();
    let (compile, moved) = (policy.compile(), move || policy.look_at_interfaces());
    let feed = kept.feed(source, prepared.rules.clone(), compile, moved);
    let feed = feed.map_err(system(NO_TASK))?;
    let reload = Reload::new(
        path.to_owned(),
        &loaded,
        prepared.engine.handle(),
        &system_state,
        prepared.policy.clone(),
        Arc::clone(&feed.recompile),
        kept.clone(),
    );
    let served = serve(
        prepared,
        feed,
        &reload,
        &kept,
        &mut system_state,
        asked,
        &mut stop,
    )
    .await;
    kept.stop().await;
    // `open` is for those who stop the daemon. Where it fails, apps stay blocked.
    let on_exit = match &served {
        Ok(()) => reload.on_exit().await,
        Err(_) => OnExit::Block,
    };
    let undone = system_state.undo(on_exit).await;
    served.and(undone)
}

/// What is put together before the system is touched.
struct Prepared {
    engine: Engine,
    tunnels: Vec<StateWatch>,
    rules: RuleCache,
    policy: Policy,
    /// The database of rules, if there is one.
    database: Option<PathBuf>,
    /// Which interfaces are the daemon's own.
    ours: Ours,
}

/// The engine with its tunnels, which begin to connect once this task waits for something.
fn prepare(loaded: &Loaded, system_state: &SystemState, kept: &Kept) -> Result<Prepared, Error> {
    let (device, underlay) = (system_state.device(), system_state.underlay());
    let lane = |queue: &Arc<LinuxTun>| {
        let owners = LinuxOwners::new(queue.index());
        let owners = owners.map_err(system("cannot ask the kernel for owners"))?;
        Ok(Lane {
            device: queue.clone(),
            owners: Arc::new(owners),
        })
    };
    let lanes = system_state.queues().iter().map(lane);
    let lanes = lanes.collect::<Result<_, Error>>()?;
    let config = RouterConfig {
        steered: underlay.servers(),
        ..loaded.config.router()
    };
    let rules = RuleCache::new();
    let mut engine = Engine::with_workers(lanes, rules.clone(), config)?;
    let mut known = loaded.known();
    let ours = network::ours(device.name(), &loaded.config);
    engine.set_host_networks(host::networks(&known.interfaces, &*ours));
    known.tunnels.clear();
    known.direct = None;
    let mut tunnels = Vec::new();
    for (name, provider) in &loaded.tunnels {
        let said = &loaded.config.tunnel[name];
        let transport = provider.start(
            name,
            said,
            underlay,
            system_state.capture(),
            system_state.journal(),
            kept,
        )?;
        let transport = kept.tunnel(name, transport);
        tunnels.push(transport.state());
        let id = engine.add_tunnel(name, transport)?;
        known.tunnels.insert(name.clone(), id);
        engine.set_tunnel_options(id, said.options());
        engine.set_route_policy(id, said.route_policy());
    }
    let ids = engine.set_groups(loaded.groups(&known.tunnels));
    let ids = ids.map_err(system("cannot make the groups"))?;
    known.groups = loaded.config.group.keys().cloned().zip(ids).collect();
    Ok(Prepared {
        engine,
        tunnels,
        rules,
        policy: Policy::new(known),
        database: loaded.config.rules.clone(),
        ours,
    })
}

/// Opens the way past the tunnels, before the engine runs.
async fn open_direct(
    prepared: &mut Prepared,
    config: DirectConfig,
    asked_by: &str,
) -> Result<(), Error> {
    let transport = direct::open(config, asked_by).await?;
    let id = prepared.engine.add_tunnel(direct::NAME, transport)?;
    prepared.engine.set_tunnel_options(id, direct::options());
    prepared.policy.change(|known| known.direct = Some(id));
    Ok(())
}

/// From the capture to the signal.
async fn serve(
    prepared: Prepared,
    feed: Feed,
    reload: &Reload,
    kept: &Kept,
    system_state: &mut SystemState,
    asked: Asked,
    stop: &mut Signals,
) -> Result<(), Error> {
    let Prepared {
        engine,
        tunnels,
        rules,
        policy,
        database,
        ours,
    } = prepared;
    let handle = engine.handle();
    let mut plan = handle.plan();
    let mut task = tokio::spawn(engine.run());
    let mut follower = Follower::start(
        ours,
        handle.clone(),
        policy.clone(),
        Arc::clone(&feed.recompile),
        Arc::clone(system_state.underlay()),
        kept,
    )
    .await
    .map_err(system(NO_TASK))?;
    let reporter = Reporter {
        engine: handle.clone(),
        interface: system_state.device().name().to_string(),
        feed: feed.status.clone(),
        rules,
        reload: reload.clone(),
        policy,
        database,
        journal: system_state.journal().clone(),
        kept: kept.clone(),
    };
    asked.serve(&reporter, kept).map_err(system(NO_TASK))?;
    let opener = reload.clone();
    kept.task("direct", move |stop| {
        let opener = opener.clone();
        async move {
            let opened = stop.run_until_cancelled(opener.open_when_asked()).await;
            opened.unwrap_or(Ok(()))
        }
    })
    .map_err(system(NO_TASK))?;
    let first_try = tokio::time::timeout(FIRST_TRY, all_tried(tunnels, feed.status, &handle));
    tokio::pin!(first_try);
    let mut ready = false;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reloading = JoinSet::new();
    let ended = loop {
        tokio::select! {
            told = stop.told() => match told {
                Told::Stop => break None,
                Told::Reload => {
                    let reload = reload.clone();
                    reloading.spawn(async move { reload.by_signal().await });
                }
            },
            Some(_) = reloading.join_next() => {}
            ended = &mut task => break Some(ended),
            Ok(()) = plan.changed() => {
                let wanted = plan.borrow_and_update().clone();
                system_state.apply(&wanted).await;
            }
            notice = follower.next() => {
                let wanted = plan.borrow().clone();
                system_state.follow_dns(&wanted).await;
                follower.follow(notice).await;
            }
            _ = looks.tick(), if ready => system_state.look().await,
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
    match ended {
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
    }
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
