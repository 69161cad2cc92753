//! `libp2p-node run`: a node, and unless `enable` is false a TUN device and the router with one tunnel.
//!
//! What the host sends to the subnet comes to the device and goes to the tunnel; what comes from it is an
//! answer, or let in unless its port is among `unallowed_ports`. The interface and its routes go with the
//! process, however it ends.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vpn_core::{DropReason, TransportState, TunnelTransport};
use vpn_examples::control::Listener;
use vpn_examples::interface::Interface;
use vpn_examples::{chain, print};
use vpn_p2p::libp2p::{Libp2pTransport, Node};
use vpn_routing::RouterConfig;
use vpn_routing::engine::{Engine, EngineHandle};
use vpn_routing::rules::{CompiledRules, RuleCache, Target};
use vpn_tun::NetworkWatch;
use vpn_tun::watch::{Notice, Ours};

use crate::config::{Config, Ready, TUNNEL};
use crate::daemon::{Request, Signals};
use crate::directory::Leased;
use crate::error::{Error, system};
use crate::report::Report;

/// How long `ready` waits for somebody to be connected.
const FIRST_TRY: Duration = Duration::from_secs(6);

/// How long a stopping engine may take before it is left behind.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs until SIGINT or SIGTERM. A node that lost its address begins again with the one it has now.
pub(crate) async fn run(path: &Path) -> Result<(), Error> {
    let mut stop = Signals::new().map_err(Error::Runtime)?;
    let mut ready = Config::read(path)?;
    tokio::select! {
        // A resolver that has no answer yet may have one at the next start.
        found = ready.look_up() => found.map_err(|problem| {
            Error::Unanswered(format!("{}: node.bootstrap: {problem}", path.display()))
        })?,
        () = stop.received() => return Ok(()),
    }
    let mut is_first = true;
    let mut hold = None;
    loop {
        let mut leased = tokio::select! {
            leased = Leased::of(&ready) => leased?,
            () = stop.received() => return Ok(()),
        };
        if let Some(addresses) = leased.addresses() {
            tracing::info!(?addresses, "etcd leases");
            ready.has(&addresses);
        }
        let ended = live(path, &ready, &mut leased, &mut stop, is_first, &mut hold).await;
        match ended {
            // It goes on, and its next life takes over what this one has.
            Ok(Ended::AddressLost) => {
                tracing::warn!("the address is somebody else's now");
                if ready.config.vpn.enable && hold.is_none() {
                    hold = Some(held(&ready).await?);
                }
            }
            Ok(Ended::Stopped) => {
                leased.close().await;
                return Ok(());
            }
            Err(error) => {
                leased.close().await;
                return Err(error);
            }
        }
        is_first = false;
    }
}

/// An interface of a node without an address: what is for the VPN goes nowhere, and not out below.
async fn held(ready: &Ready) -> Result<Interface, Error> {
    let (name, vpn) = (&ready.config.node.interface, &ready.config.vpn);
    Interface::open(name, [], vpn.networks(), ready.tunnel.mtu).await
}

/// Why a node ended.
enum Ended {
    Stopped,
    AddressLost,
}

/// One life of a node, with the same addresses from its beginning to its end. `hold` is the interface as long
/// as there is no tunnel.
async fn live(
    path: &Path,
    ready: &Ready,
    leased: &mut Leased,
    stop: &mut Signals,
    is_first: bool,
    hold: &mut Option<Interface>,
) -> Result<Ended, Error> {
    let table = &ready.config.node;
    let socket = path.parent().unwrap_or(Path::new(".")).join(&table.control);
    let control = Listener::bind(&socket)
        .await
        .map_err(Error::control(&socket))?;
    let node = Node::start(ready.node.clone(), &ready.identity).map_err(system("the node"))?;
    let directory = leased.directory(ready, &node);
    node.announce(ready.own.clone(), ready.identity.clone(), directory.clone())
        .map_err(system("what the node says about itself"))?;
    // Without an address (its prefix has none left) there is no tunnel, until there is one.
    let has_tunnel = ready.config.vpn.enable && !ready.own.addresses.is_empty();
    // A tunnel listens to the directory itself.
    let meeting = match has_tunnel {
        true => None,
        false => leased.meet(&node),
    };
    let running = match has_tunnel {
        true => {
            let tunnel = ready.tunnel.clone();
            let tunnel = Libp2pTransport::start(node.clone(), directory, tunnel);
            // Of one name there is one.
            drop(hold.take());
            Some(Running::start(ready, tunnel.map_err(system("the tunnel"))?).await?)
        }
        false => {
            if ready.config.vpn.enable && hold.is_none() {
                *hold = Some(held(ready).await?);
            }
            None
        }
    };
    let tunnel = running.as_ref().map(|running| running.transport.clone());
    let shutdown = CancellationToken::new();
    let serving = {
        let (node, tunnel, name) = (node.clone(), tunnel.clone(), table.name.clone());
        let own: Vec<IpAddr> = ready.own.addresses.iter().map(IpNet::addr).collect();
        let (shutdown, etcd) = (shutdown.clone(), leased.etcd());
        let answer = move |Request::Status: Request| {
            let tunnel = tunnel.as_ref().map(|tunnel| tunnel.status());
            let mut report = Report::new(&name, &own, &node.status(), tunnel.as_ref());
            report.etcd = etcd();
            let said: Value = serde_json::to_value(report)
                .unwrap_or_else(|error| json!({ "error": error.to_string() }));
            async move { said }
        };
        tokio::spawn(async move { control.serve(answer, shutdown).await })
    };
    let mut why = Ended::Stopped;
    let over = async {
        if let Some(tunnel) = &tunnel {
            let mut state = tunnel.state();
            let tried = async { while state.next().await == TransportState::Connecting {} };
            let _ = tokio::time::timeout(FIRST_TRY, tried).await;
        }
        if is_first {
            // This line is the interface: callers wait for it.
            print("ready\n");
        }
        tokio::select! {
            () = stop.received() => {}
            () = leased.lost(ready) => why = Ended::AddressLost,
        }
    };
    let ended = match running {
        Some(running) => running.until(over).await,
        None => {
            over.await;
            Ok(())
        }
    };
    shutdown.cancel();
    if let Some(meeting) = meeting {
        meeting.abort();
    }
    let _ = serving.await;
    node.close().await;
    ended.map(|()| why)
}

/// A tunnel that runs.
struct Running {
    transport: Arc<Libp2pTransport>,
    interface: Interface,
    engine: EngineHandle,
    task: JoinHandle<Result<(), String>>,
    /// `None` where the network cannot be watched: what breaks is noticed later then.
    watch: Option<NetworkWatch>,
}

impl Running {
    async fn start(ready: &Ready, transport: Libp2pTransport) -> Result<Self, Error> {
        let interface = Interface::open(
            &ready.config.node.interface,
            ready.own.addresses.iter().copied(),
            ready.config.vpn.networks(),
            ready.tunnel.mtu,
        )
        .await?;
        let transport = Arc::new(transport);
        let rules = RuleCache::new();
        let mut engine = Engine::new(
            interface.device().clone(),
            Arc::new(vpn_core::owner::NoOwners),
            rules.clone(),
            RouterConfig {
                interface_mtu: Some(ready.tunnel.mtu),
                ..RouterConfig::default()
            },
        );
        let id = engine.add_tunnel(TUNNEL, transport.clone());
        let id = id.map_err(system("the tunnel"))?;
        let by_name = |name: &str| (name == TUNNEL).then_some(id);
        let blocked = Target::Block(DropReason::BlockedByDefault);
        let compiled = CompiledRules::compile(&ready.config.rules(), &by_name, blocked);
        rules.swap(compiled.map_err(system("the rules"))?);
        let handle = engine.handle();
        let task = tokio::spawn(async move {
            let ended = engine.run().await;
            ended.map(drop).map_err(|error| chain(&error))
        });
        let own = interface.name().to_owned();
        let ours: Ours = Arc::new(move |name: &str| name == own);
        let watch = NetworkWatch::start(ours).await;
        let watch = watch.inspect_err(|error| {
            tracing::warn!(error = chain(error), "the network below is not watched");
        });
        Ok(Self {
            transport,
            interface,
            engine: handle,
            task,
            watch: watch.ok(),
        })
    }

    /// Keeps it running until this is over; then ends it.
    async fn until(mut self, over: impl Future<Output = ()>) -> Result<(), Error> {
        let mut plan = self.engine.plan();
        plan.mark_changed();
        tokio::pin!(over);
        let ended = loop {
            tokio::select! {
                () = &mut over => break Ok(()),
                ended = &mut self.task => break match ended {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(system("the engine ended")(std::io::Error::other(error))),
                    Err(join) => Err(system("the engine's task ended")(join)),
                },
                Ok(()) = plan.changed() => {
                    let wanted = plan.borrow_and_update().clone();
                    self.interface.apply(wanted).await;
                }
                notice = next(&mut self.watch) => if let Notice::Network(event) = notice {
                    tracing::info!(%event, "the network below");
                    // An engine that has ended is noticed elsewhere.
                    let _ = self.engine.network_changed(event).await;
                },
            }
        };
        if !self.task.is_finished() {
            let stopped = async {
                self.engine.stop().await;
                // It ends by the handle; a panic in it ended it as well.
                let _ = (&mut self.task).await;
            };
            if tokio::time::timeout(STOP_TIMEOUT, stopped).await.is_err() {
                tracing::error!("the engine did not stop in time");
                self.task.abort();
            }
        }
        self.transport.close().await;
        ended
    }
}

async fn next(watch: &mut Option<NetworkWatch>) -> Notice {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}
