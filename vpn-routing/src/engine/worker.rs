//! One worker: a router with its queue of the device, its owners and the transports of its tunnels.
//!
//! It sleeps until something is readable, moves one batch, and sends what became ready. Alone it
//! takes commands and follows the states of its transports itself; of several, it is told both by
//! the [front](super::front), and packets of other workers' tunnels go over their rings.

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
    DropCounters, GroupId, InterfacePlan, OwnerAnswer, TransportError, TransportState, TunnelId,
    TunnelTransport,
};

use super::handle::Command;
use super::peers::{Peers, RING, from_others};
use super::ready::{Io, Ready, Spurious, next_state, rest};
use super::{EngineError, Lane, clock};
use crate::group::{GroupConfig, GroupError};
use crate::router::{Egress, Event, Handed, Router, Status, Update, WorkerId};
use crate::rules::RuleCache;

/// How long a stopping engine waits for all its transports to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often transports are asked for their round trips, where a group chooses by them.
const ROUND_TRIP_INTERVAL: Duration = Duration::from_secs(1);

type Closing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A tunnel's transport.
#[derive(Clone)]
struct Link {
    transport: Arc<dyn TunnelTransport>,
    spurious: Spurious,
    /// Whether its tunnel belongs to this worker. Of another's, only the round trip is asked for.
    here: bool,
}

/// A router with its device, transports, owners and rules.
pub(super) struct Worker {
    pub(super) router: Router,
    pub(super) lane: Lane,
    rules: RuleCache,
    rules_changed: watch::Receiver<vpn_core::Generation>,
    /// By tunnel id.
    links: Vec<Option<Link>>,
    device_spurious: Spurious,
    /// At most one future per target and kind.
    pub(super) io: FuturesUnordered<Io>,
    /// Transports of tunnels that were removed.
    closing: FuturesUnordered<Closing>,
    /// From other workers, between two steps empty.
    handed: Vec<Handed>,
    /// Targets that took less than was queued and have not become writable yet.
    blocked: HashSet<Egress>,
    batch: PacketBatch,
    ready: Vec<Egress>,
    next_measurement: Instant,
    plan: watch::Sender<InterfacePlan>,
    commands: mpsc::Receiver<Command>,
    /// The others, if this is one of several.
    peers: Option<Peers>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("router", &self.router)
            .finish_non_exhaustive()
    }
}

impl Worker {
    pub(super) fn new(
        router: Router,
        lane: Lane,
        largest: usize,
        rules: RuleCache,
        commands: mpsc::Receiver<Command>,
        peers: Option<Peers>,
    ) -> Self {
        let (plan, _) = watch::channel(InterfacePlan::default());
        Self {
            batch: PacketBatch::new(PacketBatch::DEFAULT_CAPACITY, largest),
            router,
            lane,
            rules_changed: rules.changes(),
            rules,
            links: Vec::new(),
            device_spurious: Spurious::default(),
            io: FuturesUnordered::new(),
            closing: FuturesUnordered::new(),
            handed: Vec::new(),
            blocked: HashSet::new(),
            ready: Vec::new(),
            next_measurement: clock(),
            plan,
            commands,
            peers,
        }
    }

    /// What the interface should look like, as this worker sees it.
    pub(super) fn plan(&self) -> watch::Receiver<InterfacePlan> {
        self.plan.subscribe()
    }

    /// Adds a tunnel that belongs to `worker`.
    pub(super) fn add_tunnel(
        &mut self,
        worker: WorkerId,
        name: &str,
        transport: &Arc<dyn TunnelTransport>,
    ) -> Result<TunnelId, EngineError> {
        if self.router.tunnel_named(name).is_some() || self.router.group_named(name).is_some() {
            return Err(EngineError::DuplicateTunnel(name.to_owned()));
        }
        let id = self
            .router
            .add_tunnel_of(worker, name)
            .ok_or(EngineError::TooManyTunnels)?;
        let here = self.peers.as_ref().is_none_or(|peers| peers.me == worker);
        self.links.push(Some(Link {
            transport: Arc::clone(transport),
            spurious: Spurious::default(),
            here,
        }));
        if self.peers.is_none() {
            self.io.push(Box::pin(next_state(id, transport.state())));
        }
        if here {
            self.router.set_idle_limit(id, transport.idle_limit());
            self.arm_tunnel(id, Arc::clone(transport), None);
        }
        Ok(id)
    }

    /// As [`Router::set_groups`] does. Other workers know of it when this returns.
    pub(super) fn set_groups(
        &mut self,
        groups: Vec<GroupConfig>,
    ) -> Result<Vec<GroupId>, GroupError> {
        let now = clock();
        let ids = self.router.set_groups(now, groups)?;
        self.answer_events(now);
        Ok(ids)
    }

    /// Runs until it is told to stop, or its device fails. Returns its last report.
    pub(super) async fn run(mut self) -> Result<Status, EngineError> {
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
                handed = from_others(&mut self.peers) => {
                    self.take_handed(clock(), handed);
                    Ok(())
                }
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
                let received = self.lane.device.try_recv(&mut self.batch, &mut drops);
                packets = self.batch.len();
                let moved = packets > 0 || drops.total() > 0;
                self.router.count_receive_drops(Egress::Device, &drops);
                // Rules that changed before these packets arrived decide them.
                self.refresh_rules(now);
                // A flow that moved to this queue began in another.
                self.take_handed(now, None);
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
        self.answer_events(now);
        if let Some(peers) = &self.peers {
            self.router.hand_over(|handed| peers.give(handed));
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

    fn answer_events(&mut self, now: Instant) {
        while let Some(event) = self.router.next_event() {
            match event {
                Event::ResolveOwner(query) => match self.lane.owners.resolve(&query) {
                    OwnerAnswer::Pending => {}
                    answer => self.router.handle_update(now, Update::Owner(query, answer)),
                },
                Event::Plan(plan) => {
                    self.plan.send_replace(plan);
                }
                // Every worker knows; one says so.
                Event::Refused(..) | Event::Routes(..) | Event::Conflicts(..) if !self.leads() => {}
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
                Event::Groups(view) => {
                    if let Some(peers) = &self.peers {
                        peers.views.send_replace(Some(view));
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
    }

    /// Routes what other workers handed over, `first` first: at most as much as a ring holds.
    fn take_handed(&mut self, now: Instant, first: Option<Handed>) {
        let Some(peers) = &mut self.peers else {
            return;
        };
        self.handed.extend(first);
        while self.handed.len() < RING
            && let Ok(handed) = peers.ring.try_recv()
        {
            self.handed.push(handed);
        }
        if self.handed.is_empty() {
            return;
        }
        self.refresh_rules(now);
        for handed in self.handed.drain(..) {
            self.router.handle_handed(now, handed);
        }
    }

    fn leads(&self) -> bool {
        self.peers
            .as_ref()
            .is_none_or(|peers| peers.me == WorkerId::LEAD)
    }

    fn transmit(&mut self, now: Instant, target: Egress) -> Result<(), EngineError> {
        let mut before = 0;
        match target {
            Egress::Device => {
                let device = Arc::clone(&self.lane.device);
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
        if !self.leads() || !self.router.wants_round_trips() {
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

    /// What others decided about packets that are at hand: rules, and where groups stand.
    fn refresh_rules(&mut self, now: Instant) {
        let view = self.peers.as_mut().and_then(Peers::new_view);
        if let Some(view) = view {
            self.router.handle_update(now, Update::Groups(view));
        }
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
        if let Some(peers) = &self.peers {
            peers.failed(id);
        }
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
                self.router.set_route_policy(clock(), tunnel, policy);
                // The caller may have gone away.
                let _ = reply.send(());
            }
            Command::SetGroups(groups, reply) => drop(reply.send(self.set_groups(groups))),
            Command::SetTunnelOptions(tunnel, options, reply) => {
                self.router.set_tunnel_options(clock(), tunnel, options);
                let _ = reply.send(());
            }
            Command::NetworkChanged(event, reply) => {
                for link in self.links.iter().flatten().filter(|link| link.here) {
                    link.transport.network_changed(event);
                }
                let _ = reply.send(());
            }
            Command::SetHost(networks, resolvers, reply) => {
                self.router.set_host_networks(networks);
                self.router.set_steered(resolvers);
                let _ = reply.send(());
            }
            Command::AddTunnel(name, transport, reply) => {
                drop(reply.send(self.add_tunnel(WorkerId::LEAD, &name, &transport)));
            }
            Command::AddTunnelOf(worker, name, transport, reply) => {
                drop(reply.send(self.add_tunnel(worker, &name, &transport)));
            }
            Command::TunnelState(tunnel, state, reply) => {
                let now = clock();
                // What the lead made of it, for groups, comes before.
                self.refresh_rules(now);
                self.router
                    .handle_update(now, Update::Tunnel(tunnel, state));
                self.answer_events(now);
                let _ = reply.send(());
            }
            Command::RemoveTunnel(id, reply) => {
                self.router.remove_tunnel(clock(), id);
                let link = self.links.get_mut(id.index()).and_then(Option::take);
                // Not awaited here: closing may take a round trip, and the others have traffic.
                self.closing.push(Box::pin(async move {
                    if let Some(link) = link.filter(|link| link.here) {
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
        if let Some(peers) = &mut self.peers {
            peers.ring.close();
            while let Ok(handed) = peers.ring.try_recv() {
                self.router.drop_handed(handed);
            }
        }
        // Each once: what does not close in time is left to its owner.
        let links = std::mem::take(&mut self.links).into_iter().flatten();
        for link in links.filter(|link| link.here) {
            self.closing
                .push(Box::pin(async move { link.transport.close().await }));
        }
        let all = async { while self.closing.next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_err() {
            tracing::warn!("a transport did not close in time");
        }
        self.lane.device.shutdown();
    }

    fn link(&self, id: TunnelId) -> Option<&Link> {
        self.links.get(id.index())?.as_ref()
    }
}

impl Drop for Worker {
    /// After [`run`](Self::run) there is nothing left to do. Else transports are closed as far as
    /// that takes no waiting; their own `drop` does the rest.
    fn drop(&mut self) {
        for link in self.links.drain(..).flatten().filter(|link| link.here) {
            let _ = link.transport.close().now_or_never();
        }
        while self.closing.next().now_or_never().flatten().is_some() {}
        self.lane.device.shutdown();
    }
}
