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
mod ready;

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use vpn_core::packet::PacketBatch;
use vpn_core::{
    DeviceError, DropCounters, GroupId, InterfacePlan, OwnerAnswer, OwnerResolver, TransportError,
    TransportState, TunDevice, TunnelId, TunnelTransport,
};

use crate::group::{GroupConfig, GroupError};
use crate::router::{Egress, Event, Router, RouterConfig, Status, TunnelOptions, Update};
use crate::routes::RoutePolicy;
use crate::rules::RuleCache;
use handle::Command;
pub use handle::{EngineGone, EngineHandle};
use ready::{Io, Ready, Spurious, next_state, rest};

/// How long a stopping engine waits for all its transports to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often transports are asked for their round trips, where a group chooses by them.
const ROUND_TRIP_INTERVAL: Duration = Duration::from_secs(1);

/// Why an engine ended on its own, or did not add a tunnel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The device failed or was closed by the system. The capture, if any, keeps failing closed;
    /// make a new device and a new engine.
    #[error("the device does not work any more")]
    Device(#[from] DeviceError),
    /// More tunnels than one engine can name, those that were removed included. Make a new engine.
    #[error("an engine names at most {} tunnels in its life", TunnelId::MAX)]
    TooManyTunnels,
    /// A tunnel or group of this name is there already. Choose another name.
    #[error("there is a tunnel or group named {0} already")]
    DuplicateTunnel(String),
    /// Groups were refused.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The engine that was asked has ended. Make a new one.
    #[error(transparent)]
    Gone(#[from] EngineGone),
}

type Closing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A tunnel's transport.
#[derive(Clone)]
struct Link {
    transport: Arc<dyn TunnelTransport>,
    spurious: Spurious,
}

/// A router with its device, transports, owners and rules.
pub struct Engine {
    router: Router,
    device: Arc<dyn TunDevice>,
    owners: Arc<dyn OwnerResolver>,
    rules: RuleCache,
    rules_changed: watch::Receiver<vpn_core::Generation>,
    /// By tunnel id.
    links: Vec<Option<Link>>,
    device_spurious: Spurious,
    /// At most one future per target and kind.
    io: FuturesUnordered<Io>,
    /// Transports of tunnels that were removed.
    closing: FuturesUnordered<Closing>,
    /// Targets that took less than was queued and have not become writable yet.
    blocked: HashSet<Egress>,
    batch: PacketBatch,
    ready: Vec<Egress>,
    next_measurement: Instant,
    plan: watch::Sender<InterfacePlan>,
    commands: mpsc::Receiver<Command>,
    handle: EngineHandle,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("router", &self.router)
            .finish_non_exhaustive()
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
        let largest = config
            .largest_packet
            .max(device.capabilities().max_packet as usize);
        let config = RouterConfig {
            largest_packet: largest,
            ..config
        };
        let (plan, _) = watch::channel(InterfacePlan::default());
        let (handle, commands) = EngineHandle::new(plan.subscribe(), Arc::clone(&owners));
        Self {
            batch: PacketBatch::new(PacketBatch::DEFAULT_CAPACITY, largest),
            router: Router::new(config, clock()),
            device,
            owners,
            rules_changed: rules.changes(),
            rules,
            links: Vec::new(),
            device_spurious: Spurious::default(),
            io: FuturesUnordered::new(),
            closing: FuturesUnordered::new(),
            blocked: HashSet::new(),
            ready: Vec::new(),
            next_measurement: clock(),
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
        if self.router.tunnel_named(name).is_some() || self.router.group_named(name).is_some() {
            return Err(EngineError::DuplicateTunnel(name.to_owned()));
        }
        let id = self
            .router
            .add_tunnel(name)
            .ok_or(EngineError::TooManyTunnels)?;
        self.router.set_idle_limit(id, transport.idle_limit());
        self.io.push(Box::pin(next_state(id, transport.state())));
        self.links.push(Some(Link {
            transport: Arc::clone(&transport),
            spurious: Spurious::default(),
        }));
        self.arm_tunnel(id, transport, None);
        Ok(id)
    }

    /// Puts these groups in force, as [`Router::set_groups`] does, and returns their ids. Compile
    /// rules afterwards.
    ///
    /// # Errors
    ///
    /// [`GroupError`]; nothing changes then.
    pub fn set_groups(&mut self, groups: Vec<GroupConfig>) -> Result<Vec<GroupId>, GroupError> {
        self.router.set_groups(clock(), groups)
    }

    /// Sets a tunnel's options, in place of those it had.
    pub fn set_tunnel_options(&mut self, tunnel: TunnelId, options: TunnelOptions) {
        self.router.set_tunnel_options(clock(), tunnel, options);
    }

    /// Which of the routes that a tunnel advertises are admitted. Default none.
    pub fn set_route_policy(&mut self, tunnel: TunnelId, policy: RoutePolicy) {
        self.router.set_route_policy(clock(), tunnel, policy);
    }

    /// Says which networks the host itself is on, so that collisions with them are reported.
    pub fn set_host_networks(&mut self, networks: impl IntoIterator<Item = ipnet::IpNet>) {
        self.router.set_host_networks(networks);
    }

    /// Further addresses whose queries are steered: see [`Router::set_steered`].
    pub fn set_steered(&mut self, resolvers: Vec<std::net::IpAddr>) {
        self.router.set_steered(resolvers);
    }

    /// The way to talk to the engine while it runs.
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Runs until [`EngineHandle::stop`], or until the device fails. Returns the last report.
    ///
    /// Dropping the future, or an engine that never ran, shuts the device down and gives each
    /// transport one chance to close without waiting; no task is left by the engine.
    ///
    /// # Errors
    ///
    /// [`EngineError::Device`] if the device fails; transports are closed all the same.
    pub async fn run(mut self) -> Result<Status, EngineError> {
        self.arm_device(None);
        self.arm_owners();
        let timer = tokio::time::sleep_until(self.router.next_timeout().into());
        tokio::pin!(timer);
        let result = loop {
            let wake = self.router.next_timeout().into();
            if timer.deadline() != wake {
                timer.as_mut().reset(wake);
            }
            // In no fixed order, so that a flood of one kind does not hold up the others.
            let worked = tokio::select! {
                command = self.commands.recv() => match command {
                    None | Some(Command::Stop) => break Ok(()),
                    Some(command) => {
                        self.command(command);
                        Ok(())
                    }
                },
                _ = self.rules_changed.changed() => Ok(()),
                Some(ready) = self.io.next() => self.handle_burst(clock(), ready),
                Some(()) = self.closing.next() => Ok(()),
                () = &mut timer => Ok(()),
            };
            if let Err(error) = worked.and_then(|()| self.settle(clock())) {
                break Err(error);
            }
            // A target that is always ready must not keep other tasks from running.
            tokio::task::consume_budget().await;
        };
        self.close().await;
        result.map(|()| self.router.status())
    }

    /// Handles what is ready, and what else is by now, until that is as much as one source yields
    /// at once: of many tunnels each has little, and settling has a price of its own.
    fn handle_burst(&mut self, now: Instant, first: Ready) -> Result<(), EngineError> {
        let mut packets = self.handle_ready(now, first)?;
        while packets < self.batch.capacity()
            && let Some(Some(ready)) = self.io.next().now_or_never()
        {
            packets += self.handle_ready(now, ready)?.max(1);
        }
        Ok(())
    }

    /// Returns how many packets came.
    fn handle_ready(&mut self, now: Instant, ready: Ready) -> Result<usize, EngineError> {
        let mut packets = 0;
        match ready {
            Ready::DeviceReadable(result) => {
                result?;
                let mut drops = DropCounters::default();
                let received = self.device.try_recv(&mut self.batch, &mut drops);
                packets = self.batch.len();
                let moved = packets > 0 || drops.total() > 0;
                self.router.count_receive_drops(Egress::Device, &drops);
                // Rules that changed before these packets arrived decide them.
                self.refresh_rules(now);
                self.router.handle_device(now, &mut self.batch);
                received?;
                let pause = Spurious::note(&mut self.device_spurious.read, moved);
                self.arm_device(pause);
            }
            Ready::DeviceWritable(result) => {
                result?;
                self.blocked.remove(&Egress::Device);
            }
            Ready::TunnelReadable(id, result) => {
                let Some(Some(link)) = self.links.get_mut(id.index()) else {
                    return Ok(0);
                };
                let transport = Arc::clone(&link.transport);
                let mut drops = DropCounters::default();
                let received =
                    result.and_then(|()| transport.try_recv(&mut self.batch, &mut drops));
                packets = self.batch.len();
                let moved = packets > 0 || drops.total() > 0;
                let pause = Spurious::note(&mut link.spurious.read, moved);
                self.router.count_receive_drops(Egress::Tunnel(id), &drops);
                self.refresh_rules(now);
                self.router.handle_tunnel(now, id, &mut self.batch);
                match received {
                    Ok(_) => self.arm_tunnel(id, transport, pause),
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
        Ok(packets)
    }

    /// After every verb: events answered, then everything sent that can be.
    fn settle(&mut self, now: Instant) -> Result<(), EngineError> {
        if now >= self.router.next_timeout() {
            self.router.handle_timeout(now);
        }
        self.refresh_rules(now);
        self.measure(now);
        while let Some(event) = self.router.next_event() {
            match event {
                Event::ResolveOwner(query) => match self.owners.resolve(&query) {
                    OwnerAnswer::Pending => {}
                    answer => self.router.handle_update(now, Update::Owner(query, answer)),
                },
                Event::Plan(plan) => {
                    self.plan.send_replace(plan);
                }
                Event::Refused(tunnel, refused) => {
                    for (address, reason) in refused {
                        tracing::warn!(%tunnel, %reason, "an assigned address is not used");
                        tracing::debug!(%tunnel, %address, "this one");
                    }
                }
                Event::Routes(tunnel, report) => {
                    if !report.is_clean() {
                        tracing::warn!(
                            %tunnel,
                            admitted = report.admitted,
                            refused = report.refused,
                            conflicts = report.conflicts.len(),
                            "advertised routes are not used; debug level names them"
                        );
                    }
                    for (route, reason) in report.refusals {
                        tracing::debug!(%tunnel, %route, %reason, "refused route");
                    }
                }
                Event::Wake(tunnel) => {
                    if let Some(link) = self.link(tunnel) {
                        link.transport.wake();
                    }
                }
                Event::Rest(tunnel) => {
                    if let Some(link) = self.link(tunnel) {
                        link.transport.rest();
                    }
                }
                Event::Conflicts(tunnel, conflicts) => {
                    tracing::warn!(
                        %tunnel,
                        count = conflicts.len(),
                        "assigned addresses overlap networks of this host; debug level names them"
                    );
                    for conflict in conflicts {
                        tracing::debug!(%tunnel, %conflict, "address conflict");
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
        let mut before = 0;
        match target {
            Egress::Device => {
                let device = Arc::clone(&self.device);
                let left = self.router.transmit(target, |batch, drops| {
                    before = batch.len();
                    device.try_send(batch, drops)
                })?;
                let pause = Spurious::note(&mut self.device_spurious.write, left < before);
                if left > 0 {
                    self.blocked.insert(target);
                    self.io.push(Box::pin(async move {
                        rest(pause).await;
                        Ready::DeviceWritable(device.writable().await)
                    }));
                }
            }
            Egress::Tunnel(id) => {
                let Some(Some(link)) = self.links.get_mut(id.index()) else {
                    return Ok(());
                };
                let transport = Arc::clone(&link.transport);
                let sent = self.router.transmit(target, |batch, drops| {
                    before = batch.len();
                    transport.try_send(batch, drops)
                });
                match sent {
                    Ok(left) => {
                        let pause = Spurious::note(&mut link.spurious.write, left < before);
                        if left > 0 {
                            self.blocked.insert(target);
                            self.io.push(Box::pin(async move {
                                rest(pause).await;
                                Ready::TunnelWritable(id, transport.writable().await)
                            }));
                        }
                    }
                    Err(error) => self.transport_failed(now, id, &error),
                }
            }
        }
        Ok(())
    }

    /// Now and then, and only if a group chooses by them: the round trips of all tunnels.
    fn measure(&mut self, now: Instant) {
        if now < self.next_measurement {
            return;
        }
        self.next_measurement = now + ROUND_TRIP_INTERVAL;
        if !self.router.wants_round_trips() {
            return;
        }
        for (index, link) in self.links.iter().enumerate() {
            let measured = link.as_ref().and_then(|link| link.transport.round_trip());
            if let Some(measured) = measured {
                let update = Update::RoundTrip(TunnelId::new(index as u16), measured);
                self.router.handle_update(now, update);
            }
        }
    }

    /// The router's report, with what only transports can tell.
    fn status(&self) -> Status {
        let mut status = self.router.status();
        for tunnel in &mut status.tunnels {
            if let Some(Some(link)) = self.links.get(tunnel.id.index()) {
                tunnel.round_trip = link.transport.round_trip();
                tunnel.resources = link.transport.resources();
            }
        }
        status
    }

    fn refresh_rules(&mut self, now: Instant) {
        if self.rules.generation() != self.router.generation() {
            self.router
                .handle_update(now, Update::Rules(self.rules.current()));
        }
    }

    fn transport_failed(&mut self, now: Instant, id: TunnelId, error: &TransportError) {
        if self.link(id).is_none() {
            // It was removed: its transport is meant to end.
            return;
        }
        tracing::warn!(tunnel = %id, %error, "a transport ended");
        self.router
            .handle_update(now, Update::Tunnel(id, TransportState::Closed));
    }

    fn command(&mut self, command: Command) {
        match command {
            // A caller that has gone away does not want the answer any more.
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::Flows(limit, reply) => drop(reply.send(self.router.flows(limit))),
            Command::Apps(limit, reply) => drop(reply.send(self.router.apps(limit))),
            Command::Explain(owner, flow, name, reply) => {
                let told = match name {
                    Some(name) => self.router.explain_query(owner.as_ref(), flow, &name),
                    None => self.router.explain(owner.as_ref(), flow),
                };
                drop(reply.send(told));
            }
            Command::SetRoutePolicy(tunnel, policy, reply) => {
                self.set_route_policy(tunnel, policy);
                // The caller may have gone away.
                let _ = reply.send(());
            }
            Command::SetGroups(groups, reply) => drop(reply.send(self.set_groups(groups))),
            Command::SetTunnelOptions(tunnel, options, reply) => {
                self.set_tunnel_options(tunnel, options);
                let _ = reply.send(());
            }
            Command::NetworkChanged(event, reply) => {
                for link in self.links.iter().flatten() {
                    link.transport.network_changed(event);
                }
                let _ = reply.send(());
            }
            Command::SetHost(networks, resolvers, reply) => {
                self.set_host_networks(networks);
                self.set_steered(resolvers);
                let _ = reply.send(());
            }
            Command::AddTunnel(name, transport, reply) => {
                drop(reply.send(self.add_tunnel(&name, transport)));
            }
            Command::RemoveTunnel(id, reply) => {
                self.router.remove_tunnel(clock(), id);
                let link = self.links.get_mut(id.index()).and_then(Option::take);
                // Not awaited here: closing may take a round trip, and the others have traffic.
                self.closing.push(Box::pin(async move {
                    if let Some(link) = link {
                        let closed = link.transport.close();
                        // What does not close in time is left to its owner.
                        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
                    }
                    // The caller may have gone away.
                    let _ = reply.send(());
                }));
            }
            Command::Stop => {}
        }
    }

    async fn close(&mut self) {
        self.commands.close();
        // Each once: what does not close in time is left to its owner.
        for transport in std::mem::take(&mut self.links).into_iter().flatten() {
            self.closing
                .push(Box::pin(async move { transport.transport.close().await }));
        }
        let all = async { while self.closing.next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_err() {
            tracing::warn!("a transport did not close in time");
        }
        self.device.shutdown();
    }

    fn link(&self, id: TunnelId) -> Option<&Link> {
        self.links.get(id.index())?.as_ref()
    }
}

impl Drop for Engine {
    /// After [`run`](Self::run) there is nothing left to do. Else transports are closed as far as
    /// that takes no waiting; their own `drop` does the rest.
    fn drop(&mut self) {
        for link in self.links.drain(..).flatten() {
            let _ = link.transport.close().now_or_never();
        }
        while self.closing.next().now_or_never().flatten().is_some() {}
        self.device.shutdown();
    }
}

/// The time, as tokio has it: virtual in tests.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
