//! The engine: drives a [`Router`] on tokio.
//!
//! One task owns the router, the device and the transports of one worker. It sleeps until
//! something is readable, moves one batch, and sends what became ready: no lock and no channel
//! lies on a packet's way. Everything is an argument of [`Engine::new`]; there is no global state,
//! so a process runs as many engines as it likes.
//!
//! [`Engine::run`] is a `Send` future: spawn it, or give it a thread with a current-thread runtime
//! of its own.

mod handle;

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use vpn_core::packet::PacketBatch;
use vpn_core::{
    DeviceError, DropCounters, InterfacePlan, OwnerAnswer, OwnerQuery, OwnerResolver, StateWatch,
    TransportError, TransportState, TunDevice, TunnelId, TunnelTransport,
};

use crate::router::{Egress, Event, Router, RouterConfig, Status, Update};
use crate::rules::RuleCache;
use handle::Command;
pub use handle::{EngineGone, EngineHandle};

/// How long a stopping engine waits for all its transports to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why an engine ended on its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The device failed or was closed by the system. The capture, if any, keeps failing closed;
    /// make a new device and a new engine.
    #[error("the device does not work any more")]
    Device(#[from] DeviceError),
    /// More tunnels than one engine can name.
    #[error("an engine has at most {} tunnels", TunnelId::MAX)]
    TooManyTunnels,
    /// A tunnel of this name is there already.
    #[error("there is a tunnel named {0} already")]
    DuplicateTunnel(String),
}

type Io = Pin<Box<dyn Future<Output = Ready> + Send>>;

/// Something an engine waits for.
enum Ready {
    DeviceReadable(Result<(), DeviceError>),
    DeviceWritable(Result<(), DeviceError>),
    TunnelReadable(TunnelId, Result<(), TransportError>),
    TunnelWritable(TunnelId, Result<(), TransportError>),
    TunnelState(TunnelId, StateWatch, TransportState),
    Owner(OwnerQuery, OwnerAnswer),
}

/// A router with its device, transports, owners and rules.
pub struct Engine {
    router: Router,
    device: Arc<dyn TunDevice>,
    owners: Arc<dyn OwnerResolver>,
    rules: RuleCache,
    rules_changed: watch::Receiver<vpn_core::Generation>,
    transports: Vec<Option<Arc<dyn TunnelTransport>>>,
    io: FuturesUnordered<Io>,
    /// Targets that took less than was queued and have not become writable yet.
    blocked: HashSet<Egress>,
    batch: PacketBatch,
    ready: Vec<Egress>,
    plan: watch::Sender<InterfacePlan>,
    commands: mpsc::Receiver<Command>,
    handle: EngineHandle,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("router", &self.router).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine without tunnels.
    pub fn new(
        device: Arc<dyn TunDevice>,
        owners: Arc<dyn OwnerResolver>,
        rules: RuleCache,
        config: RouterConfig,
    ) -> Self {
        let largest = config.largest_packet.max(device.capabilities().max_packet as usize);
        let config = RouterConfig { largest_packet: largest, ..config };
        let (plan, _) = watch::channel(InterfacePlan::default());
        let (handle, commands) = EngineHandle::new(plan.subscribe());
        Self {
            batch: PacketBatch::new(PacketBatch::DEFAULT_CAPACITY, largest),
            router: Router::new(config, Instant::now()),
            device,
            owners,
            rules_changed: rules.changes(),
            rules,
            transports: Vec::new(),
            io: FuturesUnordered::new(),
            blocked: HashSet::new(),
            ready: Vec::new(),
            plan,
            commands,
            handle,
        }
    }

    /// Adds a tunnel. Rules name it by `name`.
    ///
    /// # Errors
    ///
    /// [`EngineError::DuplicateTunnel`] and [`EngineError::TooManyTunnels`].
    pub fn add_tunnel(
        &mut self,
        name: &str,
        transport: Arc<dyn TunnelTransport>,
    ) -> Result<TunnelId, EngineError> {
        if self.router.tunnel_named(name).is_some() {
            return Err(EngineError::DuplicateTunnel(name.to_owned()));
        }
        let id = self.router.add_tunnel(name).ok_or(EngineError::TooManyTunnels)?;
        self.transports.push(Some(Arc::clone(&transport)));
        self.io.push(Box::pin(next_state(id, transport.state())));
        self.arm_tunnel(id, transport);
        Ok(id)
    }

    /// Says which networks the host itself is on, so that collisions with them are reported.
    pub fn set_host_networks(&mut self, networks: impl IntoIterator<Item = ipnet::IpNet>) {
        self.router.set_host_networks(networks);
    }

    /// The way to talk to the engine while it runs.
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Runs until [`EngineHandle::stop`], or until the device fails. Returns the last report.
    ///
    /// # Errors
    ///
    /// [`EngineError::Device`] if the device fails; transports are closed all the same.
    pub async fn run(mut self) -> Result<Status, EngineError> {
        self.arm_device();
        self.arm_owners();
        let result = loop {
            let wake = tokio::time::Instant::from_std(self.router.next_timeout());
            let now;
            tokio::select! {
                biased;
                command = self.commands.recv() => {
                    now = Instant::now();
                    match command {
                        None | Some(Command::Stop) => break Ok(()),
                        Some(command) => self.command(now, command).await,
                    }
                }
                _ = self.rules_changed.changed() => now = Instant::now(),
                Some(ready) = self.io.next() => {
                    now = Instant::now();
                    if let Err(error) = self.handle_ready(now, ready) {
                        break Err(error);
                    }
                }
                () = tokio::time::sleep_until(wake) => {
                    now = Instant::now();
                    self.router.handle_timeout(now);
                }
            }
            if let Err(error) = self.settle(now) {
                break Err(error);
            }
        };
        self.close().await;
        result.map(|()| self.router.status())
    }

    fn handle_ready(&mut self, now: Instant, ready: Ready) -> Result<(), EngineError> {
        match ready {
            Ready::DeviceReadable(result) => {
                result?;
                let mut drops = DropCounters::default();
                let received = self.device.try_recv(&mut self.batch, &mut drops);
                self.router.count_receive_drops(Egress::Device, &drops);
                // Rules that changed before these packets arrived decide them.
                self.refresh_rules(now);
                self.router.handle_device(now, &mut self.batch);
                received?;
                self.arm_device();
            }
            Ready::DeviceWritable(result) => {
                result?;
                self.blocked.remove(&Egress::Device);
            }
            Ready::TunnelReadable(id, result) => {
                let Some(transport) = self.transport(id) else { return Ok(()) };
                let mut drops = DropCounters::default();
                let received = result.and_then(|()| transport.try_recv(&mut self.batch, &mut drops));
                self.router.count_receive_drops(Egress::Tunnel(id), &drops);
                self.router.handle_tunnel(now, id, &mut self.batch);
                match received {
                    Ok(_) => self.arm_tunnel(id, transport),
                    Err(error) => self.transport_failed(now, id, &error),
                }
            }
            Ready::TunnelWritable(id, result) => {
                self.blocked.remove(&Egress::Tunnel(id));
                if let Err(error) = result {
                    self.transport_failed(now, id, &error);
                }
            }
            Ready::TunnelState(id, watch, state) => {
                let closed = state == TransportState::Closed;
                self.router.handle_update(now, Update::Tunnel(id, state));
                if !closed {
                    self.io.push(Box::pin(next_state(id, watch)));
                }
            }
            Ready::Owner(query, answer) => {
                self.router.handle_update(now, Update::Owner(query, answer));
                self.arm_owners();
            }
        }
        Ok(())
    }

    /// After every verb: events answered, then everything sent that can be.
    fn settle(&mut self, now: Instant) -> Result<(), EngineError> {
        self.refresh_rules(now);
        while let Some(event) = self.router.next_event() {
            match event {
                Event::ResolveOwner(query) => match self.owners.resolve(&query) {
                    OwnerAnswer::Pending => {}
                    answer => self.router.handle_update(now, Update::Owner(query, answer)),
                },
                Event::Plan(plan) => {
                    self.plan.send_replace(plan);
                }
                Event::Conflicts(tunnel, conflicts) => {
                    for conflict in conflicts {
                        tracing::warn!(%tunnel, %conflict, "address conflict");
                    }
                }
            }
        }
        let mut ready = std::mem::take(&mut self.ready);
        ready.extend(self.router.ready());
        for target in ready.drain(..) {
            if !self.blocked.contains(&target) {
                self.transmit(now, target)?;
            }
        }
        self.ready = ready;
        Ok(())
    }

    fn transmit(&mut self, now: Instant, target: Egress) -> Result<(), EngineError> {
        match target {
            Egress::Device => {
                let device = Arc::clone(&self.device);
                let left =
                    self.router.transmit(target, |batch, drops| device.try_send(batch, drops))?;
                if left > 0 {
                    self.blocked.insert(target);
                    self.io.push(Box::pin(async move {
                        Ready::DeviceWritable(device.writable().await)
                    }));
                }
            }
            Egress::Tunnel(id) => {
                let Some(transport) = self.transport(id) else { return Ok(()) };
                let sent =
                    self.router.transmit(target, |batch, drops| transport.try_send(batch, drops));
                match sent {
                    Ok(0) => {}
                    Ok(_) => {
                        self.blocked.insert(target);
                        self.io.push(Box::pin(async move {
                            Ready::TunnelWritable(id, transport.writable().await)
                        }));
                    }
                    Err(error) => self.transport_failed(now, id, &error),
                }
            }
        }
        Ok(())
    }

    fn refresh_rules(&mut self, now: Instant) {
        if self.rules.generation() != self.router.generation() {
            self.router.handle_update(now, Update::Rules(self.rules.current()));
        }
    }

    fn transport_failed(&mut self, now: Instant, id: TunnelId, error: &TransportError) {
        tracing::warn!(tunnel = %id, %error, "a transport ended");
        self.router.handle_update(now, Update::Tunnel(id, TransportState::Closed));
    }

    async fn command(&mut self, now: Instant, command: Command) {
        match command {
            // A caller that has gone away does not want the answer any more.
            Command::Status(reply) => drop(reply.send(self.router.status())),
            Command::Flows(limit, reply) => drop(reply.send(self.router.flows(limit))),
            Command::Explain(owner, flow, reply) => {
                drop(reply.send(self.router.explain(owner.as_ref(), flow)));
            }
            Command::AddTunnel(name, transport, reply) => {
                drop(reply.send(self.add_tunnel(&name, transport)));
            }
            Command::RemoveTunnel(id, reply) => {
                let transport = self.transports.get_mut(id.index()).and_then(Option::take);
                self.router.remove_tunnel(now, id);
                if let Some(transport) = transport {
                    let _ = tokio::time::timeout(CLOSE_TIMEOUT, transport.close()).await;
                }
                let _ = reply.send(());
            }
            Command::Stop => {}
        }
    }

    async fn close(&mut self) {
        self.commands.close();
        let closing: FuturesUnordered<_> = self
            .transports
            .iter()
            .flatten()
            .map(|transport| {
                let transport = Arc::clone(transport);
                async move { transport.close().await }
            })
            .collect();
        let all = closing.collect::<Vec<()>>();
        if tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_err() {
            tracing::warn!("a transport did not close in time");
        }
        self.device.shutdown();
    }

    fn transport(&self, id: TunnelId) -> Option<Arc<dyn TunnelTransport>> {
        self.transports.get(id.index())?.clone()
    }

    fn arm_device(&mut self) {
        let device = Arc::clone(&self.device);
        self.io.push(Box::pin(async move { Ready::DeviceReadable(device.readable().await) }));
    }

    fn arm_tunnel(&mut self, id: TunnelId, transport: Arc<dyn TunnelTransport>) {
        self.io
            .push(Box::pin(async move { Ready::TunnelReadable(id, transport.readable().await) }));
    }

    fn arm_owners(&mut self) {
        let owners = Arc::clone(&self.owners);
        self.io.push(Box::pin(async move {
            let (query, answer) = owners.resolved().await;
            Ready::Owner(query, answer)
        }));
    }
}

async fn next_state(id: TunnelId, mut watch: StateWatch) -> Ready {
    let state = watch.next().await;
    Ready::TunnelState(id, watch, state)
}
