//! `mesh join`: a member. A TUN device, and the router with one tunnel, behind which is the mesh.
//!
//! What the host sends to addresses of the mesh comes to the device and goes to the tunnel; what
//! comes from it is an answer, or what `inbound` lets in, and `forward` to machines behind this one. The
//! interface and its routes go with the process, however it ends; with `routes`, forwarding is set and
//! the journal says what it was. Nothing else of the host is touched.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vpn_core::rule::{Action, Rule, RuleMatch};
use vpn_core::{DropReason, InboundRule, RuleId, RuleSnapshot, TransportState, TunnelTransport};
use vpn_examples::control::Listener;
use vpn_examples::file::FileError;
use vpn_examples::interface::Interface;
use vpn_examples::mesh::{Configured, Report};
use vpn_examples::{chain, print};
use vpn_p2p::mesh::link::LinkConfig;
use vpn_p2p::mesh::{HubEndpoint, HubId, Identity, MemberConfig, MeshTransport, NodeConfig};
use vpn_routing::RouterConfig;
use vpn_routing::engine::{Engine, EngineHandle};
use vpn_routing::rules::{CompiledRules, RuleCache, Target};
use vpn_tun::{CaptureConfig, Gateway, GatewayConfig, Journal, MarkedUnderlay};

use crate::config::{self, Member};
use crate::daemon::{Request, Signals};
use crate::error::{Error, system};
use crate::metrics;
use crate::network::Follower;

/// The tunnel's name in rules.
const TUNNEL: &str = "mesh";

/// How long `ready` waits for a hub.
const FIRST_TRY: Duration = Duration::from_secs(6);

/// How long a stopping engine may take before it is left behind.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs until SIGINT, SIGTERM or SIGHUP.
pub(crate) async fn run(path: &Path) -> Result<(), Error> {
    let mut stop = Signals::new().map_err(Error::Runtime)?;
    let config = Member::read(path)?;
    let identity = config.identity(path)?;
    let node = config.node(path)?;
    let control = Listener::bind(&config.control)
        .await
        .map_err(Error::control(&config.control))?;
    let inbound = config.inbound_rules(TUNNEL);
    let inbound = inbound.map_err(|problem| FileError::config(path, "inbound", problem))?;
    let journal = left_over(&config).await?;
    let mut running = Running::start(node, identity, &config.interface, inbound).await?;
    let shutdown = CancellationToken::new();
    if let Err(error) = running.open(&config, journal, shutdown.clone()).await {
        shutdown.cancel();
        running.end().await;
        return Err(error);
    }
    let serving = {
        let (transport, shutdown) = (running.transport.clone(), shutdown.clone());
        let engine = running.engine.clone();
        let asked = Arc::new(Asked {
            transport,
            engine,
            configured: Configured::from(&config),
        });
        let answer = move |request: Request| {
            let asked = asked.clone();
            async move { asked.answer(&request).await }
        };
        tokio::spawn(async move { control.serve(answer, shutdown).await })
    };
    let mut state = running.transport.state();
    let ready = async {
        let tried = async { while state.next().await == TransportState::Connecting {} };
        let _ = tokio::time::timeout(FIRST_TRY, tried).await;
        // This line is the interface: callers wait for it.
        print("ready\n");
        stop.received().await;
    };
    let ended = running.until(ready).await;
    shutdown.cancel();
    let _ = serving.await;
    ended
}

/// The journal, where there is something to write into it or to undo by it.
async fn left_over(config: &Member) -> Result<Option<Journal>, Error> {
    let forwards = !config.forwarded().is_empty();
    if !forwards && !config.journal.exists() {
        return Ok(None);
    }
    let journal = Journal::open(&config.journal).map_err(system("cannot open the journal"))?;
    let undone = Gateway::recover(&journal).await;
    for done in undone.map_err(system("something of a former run is not undone"))? {
        tracing::info!("left by a former run: {done}");
    }
    Ok(forwards.then_some(journal))
}

/// What answers at the control socket.
struct Asked {
    transport: Arc<MeshTransport>,
    engine: EngineHandle,
    configured: Configured,
}

impl Asked {
    async fn answer(&self, request: &Request) -> Value {
        match request {
            Request::Status => {
                // Where the engine is gone, the daemon is about to be.
                let routed = self.engine.status().await;
                let routed = routed
                    .map(|status| status.accounts.drops)
                    .unwrap_or_default();
                let status = self.transport.status();
                let report = Report::new(&status, &routed, &self.configured);
                serde_json::to_value(report)
                    .unwrap_or_else(|error| json!({ "error": error.to_string() }))
            }
            Request::Connect(key) => {
                self.transport.connect(key.0);
                json!({ "connecting": true })
            }
        }
    }
}

/// A member that runs.
pub(crate) struct Running {
    transport: Arc<MeshTransport>,
    interface: Interface,
    engine: EngineHandle,
    task: JoinHandle<Result<(), String>>,
    follower: Follower,
    gateway: Option<Gateway>,
}

impl Running {
    /// The hub's own member: it joins over loopback.
    pub(crate) async fn beside_hub(
        hub: &config::Hub,
        member: &config::AsMember,
        identity: &Identity,
        at: SocketAddr,
    ) -> Result<Self, Error> {
        let mut link = LinkConfig::new(identity.id(), HubId(0));
        link.tls = false;
        let own = MemberConfig {
            name: hub.name.clone(),
            addresses: member.addresses.clone(),
            hubs: vec![link],
            ..MemberConfig::default()
        };
        let endpoint = HubEndpoint {
            host: at.ip().to_string(),
            port: at.port(),
        };
        let node = NodeConfig::new(own, vec![endpoint]);
        let inbound = (hub.inbound_rules(TUNNEL))
            .map_err(std::io::Error::other)
            .map_err(system("member.inbound"))?;
        Self::start(node, identity.clone(), &member.interface, inbound).await
    }

    /// What may fail once it runs. Forwarding comes last: it outlives a process that fails.
    async fn open(
        &mut self,
        config: &Member,
        journal: Option<Journal>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let measured = (self.engine.clone(), self.transport.clone());
        let tell = move || {
            let (engine, transport) = measured.clone();
            async move { metrics::member(&engine, &transport, TUNNEL).await }
        };
        metrics::serve(config.metrics, Arc::new(tell), shutdown).await?;
        match journal {
            Some(journal) => self.forward(config.forwarded(), journal).await,
            None => Ok(()),
        }
    }

    /// Lets what is for these networks through to them, as far as the rules let it in.
    async fn forward(&mut self, networks: &[IpNet], journal: Journal) -> Result<(), Error> {
        let name = self.interface.device().name().clone();
        let config = GatewayConfig::new(name, networks.to_vec()).journal(journal);
        let gateway = Gateway::open(config).await;
        self.gateway = Some(gateway.map_err(system("cannot forward to `routes`"))?);
        Ok(())
    }

    async fn start(
        node: NodeConfig,
        identity: Identity,
        interface: &str,
        inbound: Vec<InboundRule>,
    ) -> Result<Self, Error> {
        let networks = networks(&node);
        let (mtu, addresses) = (node.mtu, node.member.addresses.clone());
        let interface = Interface::open(interface, addresses, networks.clone(), mtu).await?;
        let underlay = Arc::new(MarkedUnderlay::new(CaptureConfig::default().mark));
        let transport = MeshTransport::start(node, identity, underlay.clone());
        let transport = Arc::new(transport.map_err(system("the mesh"))?);
        let rules = RuleCache::new();
        let mut engine = Engine::new(
            interface.device().clone(),
            Arc::new(vpn_core::owner::NoOwners),
            rules.clone(),
            RouterConfig {
                interface_mtu: Some(mtu),
                ..RouterConfig::default()
            },
        );
        let id = engine.add_tunnel(TUNNEL, transport.clone());
        let id = id.map_err(system("the mesh's tunnel"))?;
        let by_name = |name: &str| (name == TUNNEL).then_some(id);
        let blocked = Target::Block(DropReason::BlockedByDefault);
        let compiled = CompiledRules::compile(&snapshot(&networks, inbound), &by_name, blocked);
        rules.swap(compiled.map_err(system("the rules of the mesh"))?);
        let handle = engine.handle();
        let task = tokio::spawn(async move {
            let ended = engine.run().await;
            ended.map(drop).map_err(|error| chain(&error))
        });
        let follower = Follower::start(interface.name(), handle.clone(), underlay).await;
        Ok(Self {
            transport,
            interface,
            engine: handle,
            task,
            follower,
            gateway: None,
        })
    }

    /// Keeps it running until this is over; then says goodbye and ends it.
    pub(crate) async fn until(mut self, over: impl Future<Output = ()>) -> Result<(), Error> {
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
                notice = self.follower.next() => self.follower.follow(notice).await,
            }
        };
        self.end().await;
        ended
    }

    /// Says goodbye and undoes what would outlive the process.
    async fn end(mut self) {
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
        if let Some(gateway) = self.gateway.take() {
            gateway.close().await;
        }
    }
}

/// Networks in which peers are, and those behind them.
fn networks(node: &NodeConfig) -> Vec<IpNet> {
    let member = &node.member;
    let own = member.addresses.iter().map(IpNet::trunc);
    let behind = member.peers.iter().flat_map(|peer| &peer.rules.routes);
    let mut all: Vec<IpNet> = own.chain(behind.copied()).collect();
    all.sort();
    all.dedup();
    all
}

/// To the mesh what is for it, and from it what is let in.
fn snapshot(networks: &[IpNet], inbound: Vec<InboundRule>) -> RuleSnapshot {
    let rule = |(net, id): (&IpNet, u32)| {
        let matches = RuleMatch {
            destination: Some(*net),
            ..RuleMatch::default()
        };
        Rule::new(
            RuleId::of_file(id),
            matches,
            Action::Tunnel(TUNNEL.to_owned()),
        )
    };
    RuleSnapshot {
        rules: networks.iter().zip(1..).map(rule).collect(),
        inbound,
        ..RuleSnapshot::default()
    }
}
