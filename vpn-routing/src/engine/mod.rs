//! The engine: drives a [`Router`] on tokio.
//!
//! One task owns the router, the device and the transports of one worker. It sleeps until
//! something is readable, moves one batch, and sends what became ready: no lock and no channel
//! lies on a packet's way. Everything is an argument of [`Engine::new`]; there is no global state,
//! so a process runs as many engines as it likes.
//!
//! [`Engine::run`] is a `Send` future: spawn it, or give it a thread with a current-thread runtime
//! of its own.
//!
//! # Several workers
//!
//! [`Engine::with_workers`] makes one worker for each queue of a device, and [`Engine::run`] a task
//! for each: they run at the same time where the runtime has several threads. A tunnel belongs to
//! the worker that has fewest, with all of its flows, so what is counted per tunnel is counted at
//! one place. Answers leave by that worker's queue; the kernel then gives it the flow's packets as
//! well. A packet that arrives elsewhere, the first of a flow mostly, goes to its worker over that
//! one's ring of [`RING`] packets, as it came; beyond the bound it is dropped as
//! [`QueueFull`](vpn_core::DropReason::QueueFull).
//!
//! What all must agree on has one order or one place: states of tunnels and commands are told to
//! every worker in one order, the first worker decides about groups, and who has which flow, as
//! well as the names of addresses, is shared. When a flow moves from one queue to another, a few of
//! its packets can pass each other; and fragments, which the kernel gives a queue by their
//! addresses alone, can pass the other packets of their flow. The bounds of [`RouterConfig`] are each worker's.

mod front;
mod handle;
mod peers;
mod ready;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use vpn_core::{DeviceError, GroupId, OwnerResolver, TunDevice, TunnelId, TunnelTransport};

use crate::group::{GroupConfig, GroupError};
use crate::router::{Router, RouterConfig, Status, TunnelOptions, WorkerId};
use crate::routes::RoutePolicy;
use crate::rules::RuleCache;
use front::Front;
pub use handle::{EngineGone, EngineHandle};
pub use peers::RING;
use worker::Worker;

/// Most workers of an engine: more than one per core do not pay, and each knows every tunnel.
pub const MAX_WORKERS: usize = 16;

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
    /// No workers, or more than [`MAX_WORKERS`]. Give as many queues as cores at most.
    #[error("an engine has 1 to {MAX_WORKERS} workers")]
    Workers,
    /// Two workers have the same resolver, so one could take the answer to the other's question.
    #[error("workers share a resolver of owners: give each one of its own")]
    SharedOwners,
    /// Groups were refused.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The engine that was asked has ended. Make a new one.
    #[error(transparent)]
    Gone(#[from] EngineGone),
}

/// What one worker reads and asks: its queue of the device, and a resolver of its own, which
/// answers no other worker's questions.
#[derive(Clone, Debug)]
pub struct Lane {
    /// One queue of the device, or a device with one.
    pub device: Arc<dyn TunDevice>,
    /// Who says whose a flow is.
    pub owners: Arc<dyn OwnerResolver>,
}

/// A router with its device, transports, owners and rules; or several.
pub struct Engine {
    /// At least one.
    workers: Vec<Worker>,
    /// Of several workers: who tells all of them.
    front: Option<Front>,
    handle: EngineHandle,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine of one worker, without tunnels.
    pub fn new(
        device: Arc<dyn TunDevice>,
        owners: Arc<dyn OwnerResolver>,
        rules: RuleCache,
        config: RouterConfig,
    ) -> Self {
        let config = with_room_for(&*device, config);
        let (commands, receiver) = EngineHandle::channel();
        let lane = Lane { device, owners };
        let handle_owners = Arc::clone(&lane.owners);
        let largest = config.largest_packet;
        let router = Router::new(config, clock());
        let worker = Worker::new(router, lane, largest, rules, receiver, None);
        let handle = EngineHandle::new(commands, worker.plan(), handle_owners);
        Self {
            workers: vec![worker],
            front: None,
            handle,
        }
    }

    /// An engine with a worker for each of these queues, without tunnels: see the
    /// [module](self#several-workers). One queue makes what [`new`](Self::new) makes.
    ///
    /// # Errors
    ///
    /// [`EngineError::Workers`] and [`EngineError::SharedOwners`].
    pub fn with_workers(
        lanes: Vec<Lane>,
        rules: RuleCache,
        config: RouterConfig,
    ) -> Result<Self, EngineError> {
        let lanes = match <[Lane; 1]>::try_from(lanes) {
            Ok([Lane { device, owners }]) => {
                return Ok(Self::new(device, owners, rules, config));
            }
            Err(lanes) => lanes,
        };
        let count = lanes.len();
        let (Some(first), 1..=MAX_WORKERS) = (lanes.first(), count) else {
            return Err(EngineError::Workers);
        };
        let shared = |(place, lane): (usize, &Lane)| {
            let mut before = lanes[..place].iter();
            before.any(|other| Arc::ptr_eq(&other.owners, &lane.owners))
        };
        if lanes.iter().enumerate().any(shared) {
            return Err(EngineError::SharedOwners);
        }
        let owners = Arc::clone(&first.owners);
        let config = lanes
            .iter()
            .fold(config, |config, lane| with_room_for(&*lane.device, config));
        let (commands, receiver) = EngineHandle::channel();
        let devices = lanes.iter().map(|lane| Arc::clone(&lane.device)).collect();
        let (front, seats) = Front::new(receiver, devices);
        let routers = Router::several(&config, clock(), count as u8);
        let parts = routers.into_iter().zip(lanes).zip(seats);
        let workers: Vec<Worker> = parts
            .map(|((router, lane), (orders, peers))| {
                let largest = config.largest_packet;
                Worker::new(router, lane, largest, rules.clone(), orders, Some(peers))
            })
            .collect();
        let plan = workers[0].plan();
        Ok(Self {
            workers,
            front: Some(front),
            handle: EngineHandle::new(commands, plan, owners),
        })
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
        let of = self.front.as_ref().map_or(WorkerId::LEAD, Front::least);
        let mut id = TunnelId::new(0);
        for worker in &mut self.workers {
            // All know the same tunnels: if one refuses, the first does.
            id = worker.add_tunnel(of, name, &transport)?;
        }
        if let Some(front) = &mut self.front {
            front.added(id, of, &transport);
        }
        Ok(id)
    }

    /// Puts these groups in force, as [`Router::set_groups`] does, and returns their ids. Compile
    /// rules afterwards.
    ///
    /// # Errors
    ///
    /// [`GroupError`]; nothing changes then.
    pub fn set_groups(&mut self, groups: Vec<GroupConfig>) -> Result<Vec<GroupId>, GroupError> {
        self.workers[WorkerId::LEAD.index()].set_groups(groups)
    }

    /// Sets a tunnel's options, in place of those it had.
    pub fn set_tunnel_options(&mut self, tunnel: TunnelId, options: TunnelOptions) {
        for router in self.routers() {
            router.set_tunnel_options(clock(), tunnel, options.clone());
        }
    }

    /// Which of the routes that a tunnel advertises are admitted. Default none.
    pub fn set_route_policy(&mut self, tunnel: TunnelId, policy: RoutePolicy) {
        for router in self.routers() {
            router.set_route_policy(clock(), tunnel, policy.clone());
        }
    }

    /// Says which networks the host itself is on, so that collisions with them are reported.
    pub fn set_host_networks(&mut self, networks: impl IntoIterator<Item = ipnet::IpNet>) {
        let networks: Vec<_> = networks.into_iter().collect();
        for router in self.routers() {
            router.set_host_networks(networks.iter().copied());
        }
    }

    /// Further addresses whose queries are steered: see [`Router::set_steered`].
    pub fn set_steered(&mut self, resolvers: Vec<std::net::IpAddr>) {
        for router in self.routers() {
            router.set_steered(resolvers.clone());
        }
    }

    fn routers(&mut self) -> impl Iterator<Item = &mut Router> {
        self.workers.iter_mut().map(|worker| &mut worker.router)
    }

    /// The way to talk to the engine while it runs.
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Runs until [`EngineHandle::stop`], or until a device fails. Returns the last report.
    ///
    /// Dropping the future, or an engine that never ran, shuts the device down and gives each
    /// transport one chance to close without waiting; no task is left by the engine. Several
    /// workers are tasks of the runtime: they end when it looks at them next.
    ///
    /// # Errors
    ///
    /// [`EngineError::Device`] if a device fails; transports are closed all the same.
    pub async fn run(self) -> Result<Status, EngineError> {
        let mut workers = self.workers;
        match (self.front, workers.pop()) {
            (None, Some(worker)) => worker.run().await,
            (Some(front), last) => {
                workers.extend(last);
                front.run(workers).await
            }
            (None, None) => Err(EngineError::Workers),
        }
    }
}

/// The settings, with buffers that hold what the device yields.
fn with_room_for(device: &dyn TunDevice, config: RouterConfig) -> RouterConfig {
    let largest = device.capabilities().max_packet as usize;
    RouterConfig {
        largest_packet: config.largest_packet.max(largest),
        ..config
    }
}

/// The time, as tokio has it: virtual in tests.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
