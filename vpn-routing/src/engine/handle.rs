//! Talking to a running engine.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use vpn_core::{
    DomainName, Evidence, FlowKey, GroupId, InterfacePlan, NetworkEvent, Owner, OwnerQuery,
    OwnerResolver, TransportState, TunnelId, TunnelTransport,
};

use super::EngineError;
use crate::group::{GroupConfig, GroupError};
use crate::router::{AppStatus, Explanation, FlowStatus, Status, TunnelOptions, WorkerId};
use crate::routes::RoutePolicy;

/// Commands that may wait for the engine; a caller beyond that waits for its turn.
pub(super) const COMMANDS: usize = 16;

#[derive(Debug)]
pub(super) enum Command {
    Status(oneshot::Sender<Status>),
    Flows(usize, oneshot::Sender<Vec<FlowStatus>>),
    Apps(usize, oneshot::Sender<Vec<AppStatus>>),
    Explain(
        Option<Owner>,
        FlowKey,
        Option<DomainName>,
        oneshot::Sender<Explanation>,
    ),
    SetRoutePolicy(TunnelId, RoutePolicy, oneshot::Sender<()>),
    SetGroups(
        Vec<GroupConfig>,
        oneshot::Sender<Result<Vec<GroupId>, GroupError>>,
    ),
    SetTunnelOptions(TunnelId, TunnelOptions, oneshot::Sender<()>),
    NetworkChanged(NetworkEvent, oneshot::Sender<()>),
    SetHost(Vec<IpNet>, Vec<IpAddr>, oneshot::Sender<()>),
    AddTunnel(
        String,
        Arc<dyn TunnelTransport>,
        oneshot::Sender<Result<TunnelId, EngineError>>,
    ),
    RemoveTunnel(TunnelId, oneshot::Sender<()>),
    /// To each of several workers: a tunnel that belongs to this one of them.
    AddTunnelOf(
        WorkerId,
        String,
        Arc<dyn TunnelTransport>,
        oneshot::Sender<Result<TunnelId, EngineError>>,
    ),
    /// To each of several workers.
    TunnelState(TunnelId, TransportState, oneshot::Sender<()>),
    Stop,
}

/// The engine has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine has ended")]
pub struct EngineGone;

/// Talks to a running engine; cheap to clone.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
    plan: watch::Receiver<InterfacePlan>,
    owners: Arc<dyn OwnerResolver>,
}

impl EngineHandle {
    pub(super) fn channel() -> (mpsc::Sender<Command>, mpsc::Receiver<Command>) {
        mpsc::channel(COMMANDS)
    }

    pub(super) const fn new(
        commands: mpsc::Sender<Command>,
        plan: watch::Receiver<InterfacePlan>,
        owners: Arc<dyn OwnerResolver>,
    ) -> Self {
        Self {
            commands,
            plan,
            owners,
        }
    }

    /// What the interface should look like, now and whenever that changes.
    pub fn plan(&self) -> watch::Receiver<InterfacePlan> {
        self.plan.clone()
    }

    /// A report.
    ///
    /// # Errors
    ///
    /// [`EngineGone`]; so for every other method.
    pub async fn status(&self) -> Result<Status, EngineGone> {
        self.ask(Command::Status).await
    }

    /// Up to `limit` flows.
    pub async fn flows(&self, limit: usize) -> Result<Vec<FlowStatus>, EngineGone> {
        self.ask(|reply| Command::Flows(limit, reply)).await
    }

    /// What applications do, by tunnel: up to `limit`, those first that moved most bytes.
    pub async fn apps(&self, limit: usize) -> Result<Vec<AppStatus>, EngineGone> {
        self.ask(|reply| Command::Apps(limit, reply)).await
    }

    /// Why a new flow of this owner would go where it goes.
    pub async fn explain(
        &self,
        owner: Option<Owner>,
        flow: FlowKey,
    ) -> Result<Explanation, EngineGone> {
        self.ask(|reply| Command::Explain(owner, flow, None, reply))
            .await
    }

    /// Why a DNS query of this owner for `name` would go where it goes.
    pub async fn explain_query(
        &self,
        owner: Option<Owner>,
        flow: FlowKey,
        name: DomainName,
    ) -> Result<Explanation, EngineGone> {
        self.ask(|reply| Command::Explain(owner, flow, Some(name), reply))
            .await
    }

    /// Why a flow of a socket that exists now goes where it goes: its owner is looked up first, on
    /// a thread of its own, in the detail that the rules ask for. See
    /// [`Explanation::evidence`] for what that owner rests on.
    pub async fn explain_flow(&self, flow: FlowKey) -> Result<Explanation, EngineGone> {
        let needs = self.explain(None, flow).await?.needs;
        let query = OwnerQuery {
            flow,
            detail: needs.unwrap_or_default(),
        };
        let owners = Arc::clone(&self.owners);
        let evidence = tokio::task::spawn_blocking(move || owners.evidence(&query))
            .await
            // The resolver panicked: there is nothing to show.
            .unwrap_or_else(|_| Evidence::not_shown(query));
        let mut told = self.explain(evidence.owner().cloned(), flow).await?;
        told.evidence = Some(evidence);
        Ok(told)
    }

    /// Adds a tunnel while the engine runs. Rules name it by `name`.
    ///
    /// # Errors
    ///
    /// [`EngineError::DuplicateTunnel`], [`EngineError::TooManyTunnels`] and [`EngineError::Gone`].
    pub async fn add_tunnel(
        &self,
        name: &str,
        transport: Arc<dyn TunnelTransport>,
    ) -> Result<TunnelId, EngineError> {
        self.ask(|reply| Command::AddTunnel(name.to_owned(), transport, reply))
            .await?
    }

    /// Which of the routes that a tunnel advertises are admitted. Default none.
    pub async fn set_route_policy(
        &self,
        tunnel: TunnelId,
        policy: RoutePolicy,
    ) -> Result<(), EngineGone> {
        self.ask(|reply| Command::SetRoutePolicy(tunnel, policy, reply))
            .await
    }

    /// Puts these groups in force, in place of those that were; returns their ids, in order. A
    /// group's id belongs to its name. Compile rules anew afterwards if names were added.
    ///
    /// # Errors
    ///
    /// [`EngineError::Group`], and nothing changes; [`EngineError::Gone`].
    pub async fn set_groups(&self, groups: Vec<GroupConfig>) -> Result<Vec<GroupId>, EngineError> {
        Ok(self
            .ask(|reply| Command::SetGroups(groups, reply))
            .await??)
    }

    /// Sets a tunnel's options while the engine runs, in place of those it had.
    ///
    /// # Errors
    ///
    /// [`EngineGone`].
    pub async fn set_tunnel_options(
        &self,
        tunnel: TunnelId,
        options: TunnelOptions,
    ) -> Result<(), EngineGone> {
        self.ask(|reply| Command::SetTunnelOptions(tunnel, options, reply))
            .await
    }

    /// Tells every transport what happened to the network below, as
    /// [`TunnelTransport::network_changed`] has it. Returns when all have been told, not when they
    /// are connected again.
    pub async fn network_changed(&self, event: NetworkEvent) -> Result<(), EngineGone> {
        self.ask(|reply| Command::NetworkChanged(event, reply))
            .await
    }

    /// Says which networks the host is on now, and which resolvers its own configuration names, in
    /// place of those it was on: see [`Router::set_host_networks`](crate::Router::set_host_networks)
    /// and [`RouterConfig::steered`](crate::RouterConfig::steered).
    pub async fn set_host(
        &self,
        networks: Vec<IpNet>,
        resolvers: Vec<IpAddr>,
    ) -> Result<(), EngineGone> {
        self.ask(|reply| Command::SetHost(networks, resolvers, reply))
            .await
    }

    /// Closes and removes a tunnel while the engine runs; returns when it is closed. Its flows end,
    /// and rules that name it block.
    pub async fn remove_tunnel(&self, tunnel: TunnelId) -> Result<(), EngineGone> {
        self.ask(|reply| Command::RemoveTunnel(tunnel, reply)).await
    }

    /// Asks the engine to end. It closes its transports and its device first; wait for the future
    /// of [`Engine::run`](super::Engine::run).
    pub async fn stop(&self) {
        // An engine that has ended needs no telling.
        let _ = self.commands.send(Command::Stop).await;
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| EngineGone)?;
        answer.await.map_err(|_| EngineGone)
    }
}
