//! `multi-region run`: the pieces put together.
//!
//! The order is what keeps it tight: everything is read and checked first; then the device is
//! made, then the capture, which drops everything until rules and tunnels are there; only then
//! tunnels connect. On the way out it is undone in the reverse order.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vpn_core::{InterfacePlan, RuleSource, StateWatch, TransportState, TunnelId, TunnelTransport};
use vpn_p2p::wireguard::{WireGuardOptions, WireGuardTransport};
use vpn_routing::RouterConfig;
use vpn_routing::engine::{Engine, EngineError, EngineHandle};
use vpn_routing::owner::LinuxOwners;
use vpn_routing::router::Status;
use vpn_routing::rules::{CompiledRules, FeedStatus, RuleCache, RuleFeed, Target};
use vpn_tun::{
    Applier, CaptureConfig, DnsApply, InterfaceName, Journal, LinuxTun, MarkedUnderlay, OnExit,
    SystemDns, TunConfig,
};

use crate::config::{self, ApplyDns};
use crate::control::{Listener, Request};
use crate::error::{Error, chain};
use crate::plan::Loaded;
use crate::report;

/// How long `ready` waits for tunnels that neither came up nor failed.
const FIRST_TRY: Duration = Duration::from_secs(6);

/// How long a stopping engine may take before it is left behind.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

fn system<E>(what: &'static str) -> impl FnOnce(E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |cause| Error::System { what, cause: Box::new(cause) }
}

/// Runs until SIGINT or SIGTERM.
pub(crate) async fn run(path: &Path) -> Result<(), Error> {
    let loaded = Loaded::read(path).await?;
    for (name, file) in &loaded.tunnels {
        for warning in &file.warnings {
            tracing::warn!(tunnel = %name, "{}: {warning}", loaded.config.tunnel[name].wireguard.display());
        }
    }
    let mut stop = StopSignals::new()?;
    let control = Listener::bind(&loaded.config.control.socket).await?;
    let mut system_state = SystemState::set_up(&loaded.config).await?;
    let served = serve(&loaded, &mut system_state, &control, &mut stop).await;
    let undone = system_state.undo(loaded.config.on_exit).await;
    served.and(undone)
}

/// What the daemon changed on this machine.
struct SystemState {
    device: Arc<LinuxTun>,
    applier: Applier,
    dns: SystemDns,
    underlay: Arc<MarkedUnderlay>,
}

impl SystemState {
    /// Makes the device and engages the capture: from here on nothing goes direct.
    async fn set_up(config: &config::Config) -> Result<Self, Error> {
        let name = config.interface.name.as_str();
        let device_error = |cause: Box<dyn std::error::Error + Send + Sync>| Error::Device {
            name: name.to_owned(),
            cause,
        };
        let checked = InterfaceName::new(name).map_err(|e| device_error(e.into()))?;
        let journal = Journal::open(&config.journal).map_err(system("cannot open the journal"))?;
        // Read before resolv.conf may be changed: these are the resolvers of the uplink.
        SystemDns::recover(&journal)
            .map_err(system("cannot restore resolv.conf of a former run"))?;
        let dns = SystemDns::new(dns_apply(config.dns.apply), &config.dns.path)
            .with_journal(journal.clone());
        let capture = CaptureConfig::default();
        let underlay = MarkedUnderlay::new(capture.mark).resolv_conf(&config.dns.path);
        let device = LinuxTun::create(TunConfig::named(checked))
            .map_err(|e| device_error(e.into()))?;
        let mut applier = Applier::new(device.name(), Some(capture))
            .map_err(system("cannot prepare the capture"))?
            .with_journal(journal);
        if let Err(error) = applier.engage().await {
            // Nothing of ours runs yet, so nothing needs protection.
            if let Err(undo) = applier.disengage(OnExit::Open).await {
                tracing::error!("cannot undo the capture: {}", chain(&undo));
            }
            return Err(system("cannot engage the capture")(error));
        }
        Ok(Self { device: Arc::new(device), applier, dns, underlay: Arc::new(underlay) })
    }

    async fn undo(&mut self, on_exit: config::OnExit) -> Result<(), Error> {
        let restored = self.dns.restore().map_err(system("cannot restore resolv.conf"));
        let on_exit = match on_exit {
            config::OnExit::Block => OnExit::Block,
            config::OnExit::Open => OnExit::Open,
        };
        self.applier.disengage(on_exit).await.map_err(system("cannot undo the capture"))?;
        restored.map(drop)
    }
}

const fn dns_apply(apply: ApplyDns) -> DnsApply {
    match apply {
        ApplyDns::Auto => DnsApply::Auto,
        ApplyDns::Resolved => DnsApply::Resolved,
        ApplyDns::ResolvConf => DnsApply::ResolvConf,
        ApplyDns::None => DnsApply::None,
    }
}

/// From the capture to the signal.
async fn serve(
    loaded: &Loaded,
    system_state: &mut SystemState,
    control: &Listener,
    stop: &mut StopSignals,
) -> Result<(), Error> {
    let shutdown = CancellationToken::new();
    let (rules, feed_status, feed) = start_rules(loaded, &shutdown);
    let started = start_engine(loaded, system_state, rules, feed_status.clone());
    let Running { handle, mut task, mut untried } = match started {
        Ok(running) => running,
        Err(error) => {
            shutdown.cancel();
            let _ = feed.await;
            return Err(error);
        }
    };
    let mut plan = handle.plan();
    let name = system_state.device.name().to_string();
    let first_try = tokio::time::sleep(FIRST_TRY);
    tokio::pin!(first_try);
    let mut ready = false;
    let result = loop {
        tokio::select! {
            () = stop.received() => break Ok(()),
            ended = &mut task => {
                shutdown.cancel();
                let _ = feed.await;
                return match ended {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(error.into()),
                    Err(join) => Err(system("the engine's task ended")(join)),
                };
            }
            changed = plan.changed() => {
                if changed.is_ok() {
                    let wanted = plan.borrow_and_update().clone();
                    apply(system_state, &wanted).await;
                }
            }
            () = untried.all_tried(), if !ready => ready = say_ready(),
            () = &mut first_try, if !ready => ready = say_ready(),
            Some((request, reply)) = control.accept() => {
                reply.send(&answer(&handle, &request, &name, &feed_status).await).await;
            }
            else => {}
        }
    };
    handle.stop().await;
    if tokio::time::timeout(STOP_TIMEOUT, &mut task).await.is_err() {
        tracing::error!("the engine did not stop in time");
        task.abort();
    }
    shutdown.cancel();
    let _ = feed.await;
    result
}

#[expect(clippy::print_stdout, reason = "this line is the interface: callers wait for it")]
fn say_ready() -> bool {
    println!("ready");
    true
}

/// Brings the system in line with the plan. A failure leaves the capture as it is: what cannot be
/// addressed is not reachable, and nothing goes direct.
async fn apply(system_state: &mut SystemState, plan: &InterfacePlan) {
    if let Err(error) = system_state.applier.apply(plan).await {
        tracing::error!("the interface is not as planned: {}", chain(&error));
    }
    if plan.mtu != 0 {
        system_state.device.mtu_changed(plan.mtu);
    }
    if let Err(error) = system_state.dns.apply(&plan.dns) {
        tracing::error!("DNS is not as planned: {}", chain(&error));
    }
}

/// Feeds the cache from the rules file.
fn start_rules(
    loaded: &Loaded,
    shutdown: &CancellationToken,
) -> (RuleCache, watch::Receiver<FeedStatus>, JoinHandle<()>) {
    let cache = RuleCache::new();
    let ids: BTreeMap<String, TunnelId> =
        loaded.tunnels.keys().filter_map(|n| Some((n.clone(), loaded.id_of(n)?))).collect();
    let default: Target = loaded.default_target();
    let source: Arc<dyn RuleSource> = loaded.rules.clone();
    let feed = RuleFeed::new(
        source,
        cache.clone(),
        Arc::new(move |snapshot| {
            CompiledRules::compile(snapshot, &|name| ids.get(name).copied(), default)
        }),
    );
    let status = feed.status();
    (cache, status, tokio::spawn(feed.run(shutdown.clone())))
}

/// A running engine and its tunnels.
struct Running {
    handle: EngineHandle,
    task: JoinHandle<Result<Status, EngineError>>,
    untried: Untried,
}

/// Tunnels that were neither up nor down yet, and whether rules were loaded.
struct Untried {
    tunnels: Vec<StateWatch>,
    rules: watch::Receiver<FeedStatus>,
}

impl Untried {
    /// Waits until rules are in force and each tunnel came up or failed once. Cancel-safe.
    async fn all_tried(&mut self) {
        // A feed that has ended will not load rules any more; the time limit says ready then.
        if self.rules.wait_for(|feed| !feed.generation.is_cold()).await.is_err() {
            std::future::pending().await
        }
        while let Some(watch) = self.tunnels.last_mut() {
            match watch.next().await {
                TransportState::Connecting => {}
                _ => drop(self.tunnels.pop()),
            }
        }
    }
}

fn start_engine(
    loaded: &Loaded,
    system_state: &SystemState,
    rules: RuleCache,
    feed: watch::Receiver<FeedStatus>,
) -> Result<Running, Error> {
    let owners = LinuxOwners::new(system_state.device.index())
        .map_err(system("cannot ask the kernel for owners"))?;
    let config = RouterConfig {
        resolvers: vec![loaded.config.dns.resolver],
        steered: system_state.underlay.servers().to_vec(),
        ..RouterConfig::default()
    };
    let mut engine =
        Engine::new(system_state.device.clone(), Arc::new(owners), rules, config);
    let mut tunnels = Vec::new();
    for (name, file) in &loaded.tunnels {
        let transport = WireGuardTransport::new(
            file.clone(),
            system_state.underlay.clone(),
            WireGuardOptions::default(),
        )
        .map_err(system("cannot start a tunnel"))?;
        tunnels.push(transport.state());
        engine.add_tunnel(name, Arc::new(transport))?;
    }
    let handle = engine.handle();
    Ok(Running { handle, task: tokio::spawn(engine.run()), untried: Untried { tunnels, rules: feed } })
}

async fn answer(
    engine: &EngineHandle,
    request: &Request,
    interface: &str,
    rules: &watch::Receiver<FeedStatus>,
) -> Value {
    let answer = match request {
        Request::Status => {
            let rules = rules.borrow().clone();
            engine.status().await.map(|status| report::status(&status, interface, &rules))
        }
        Request::Explain { uid, exe, dst, proto } => {
            report::explain(engine, *uid, exe.clone(), *dst, *proto).await
        }
    };
    answer.unwrap_or_else(|gone| serde_json::json!({ "error": gone.to_string() }))
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
