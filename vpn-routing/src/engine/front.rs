//! In front of several workers: tells all of them the same, in one order, and sums up what they say.
//!
//! No packet comes by here. What every worker has to know of a tunnel, its state above all, goes
//! through here, so that all make the same of it: which address is on the device depends on which
//! tunnel was up first.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use vpn_core::{TransportState, TunDevice, TunnelId, TunnelTransport};

use super::EngineError;
use super::handle::{COMMANDS, Command, EngineGone};
use super::peers::{Peers, RING};
use super::ready::{Io, Ready, next_state};
use super::worker::Worker;
use crate::router::{Status, WorkerId};

/// Transports that may have failed and not been told of: each does so once.
const FAILURES: usize = TunnelId::MAX + 1;

/// Tells workers what all must know.
pub(super) struct Front {
    /// From handles.
    commands: mpsc::Receiver<Command>,
    /// To each worker.
    workers: Vec<mpsc::Sender<Command>>,
    /// Tunnels whose transports ended by an error.
    failures: mpsc::Receiver<TunnelId>,
    /// The states of all transports.
    states: FuturesUnordered<Io>,
    /// Whose each tunnel is, by id; `None` if it was removed.
    places: Vec<Option<WorkerId>>,
    devices: Vec<Arc<dyn TunDevice>>,
}

/// Where a worker hears from the front and from the others.
type Seat = (mpsc::Receiver<Command>, Peers);

impl Front {
    /// A front, and what connects a worker for each of these queues.
    pub(super) fn new(
        commands: mpsc::Receiver<Command>,
        devices: Vec<Arc<dyn TunDevice>>,
    ) -> (Self, Vec<Seat>) {
        let (views, view) = watch::channel(None);
        let (failures, failed) = mpsc::channel(FAILURES);
        let channels = devices.iter().map(|_| mpsc::channel(RING));
        let (rings, own): (Vec<_>, Vec<_>) = channels.unzip();
        let (workers, orders): (Vec<_>, Vec<_>) =
            devices.iter().map(|_| mpsc::channel(COMMANDS)).unzip();
        let seats = orders.into_iter().zip(own).zip(0..);
        let seats = seats.map(|((orders, ring), place)| {
            let peers = Peers {
                me: WorkerId::new(place),
                rings: rings.clone(),
                ring,
                views: views.clone(),
                view: view.clone(),
                failures: failures.clone(),
            };
            (orders, peers)
        });
        let seats = seats.collect();
        let front = Self {
            commands,
            workers,
            failures: failed,
            states: FuturesUnordered::new(),
            places: Vec::new(),
            devices,
        };
        (front, seats)
    }

    /// The worker that has fewest tunnels.
    pub(super) fn least(&self) -> WorkerId {
        let of = |worker: &WorkerId| {
            let places = self.places.iter().flatten();
            places.filter(|place| *place == worker).count()
        };
        let workers = (0..self.workers.len()).map(|place| WorkerId::new(place as u8));
        workers.min_by_key(of).unwrap_or(WorkerId::LEAD)
    }

    /// A tunnel was added at every worker.
    pub(super) fn added(
        &mut self,
        id: TunnelId,
        of: WorkerId,
        transport: &Arc<dyn TunnelTransport>,
    ) {
        self.places.resize(id.index(), None);
        self.places.push(Some(of));
        self.states
            .push(Box::pin(next_state(id, transport.state())));
    }

    /// Runs the workers until one of them ends or all are to stop.
    pub(super) async fn run(mut self, workers: Vec<Worker>) -> Result<Status, EngineError> {
        let mut running = JoinSet::new();
        for (place, worker) in workers.into_iter().enumerate() {
            running.spawn(async move { (place, worker.run().await) });
        }
        let mut ended = Vec::new();
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    None | Some(Command::Stop) => break,
                    Some(command) => self.command(command).await,
                },
                Some(ready) = self.states.next() => self.state(ready).await,
                Some(tunnel) = self.failures.recv() => {
                    self.tell_state(tunnel, &TransportState::Closed).await;
                }
                // None ends on its own but by a failure.
                Some(one) = running.join_next() => {
                    ended.push(one);
                    break;
                }
            }
        }
        self.commands.close();
        for worker in &self.workers {
            // One that has ended needs no telling.
            let _ = worker.send(Command::Stop).await;
        }
        while let Some(one) = running.join_next().await {
            ended.push(one);
        }
        let mut reports = Vec::with_capacity(ended.len());
        for one in ended {
            let (place, report) = one.map_err(ended_hard)?;
            reports.push((place, report?));
        }
        // The lead's first.
        reports.sort_by_key(|(place, _)| *place);
        Status::of_all(reports.into_iter().map(|(_, report)| report).collect())
            .ok_or(EngineError::Gone(EngineGone))
    }

    async fn state(&mut self, ready: Ready) {
        // Nothing else is waited for here.
        let Ready::TunnelState(id, watch, state) = ready else {
            return;
        };
        self.tell_state(id, &state).await;
        let removed = self.places.get(id.index()).is_none_or(Option::is_none);
        if state != TransportState::Closed && !removed {
            self.states.push(Box::pin(next_state(id, watch)));
        }
    }

    async fn tell_state(&mut self, tunnel: TunnelId, state: &TransportState) {
        // One after the other. What waits for a member of a group can take another way only if the
        // lead has said which, before it hears that its tunnel is down; and the lead sends nobody
        // to a tunnel that is up before its worker knows.
        let count = self.workers.len();
        for turn in 0..count {
            let place = match state {
                TransportState::Up(_) => count - 1 - turn,
                _ => turn,
            };
            let (reply, done) = oneshot::channel();
            let told = Command::TunnelState(tunnel, state.clone(), reply);
            // A worker that has ended ends all of them.
            let _ = self.workers[place].send(told).await;
            let _ = done.await;
        }
    }

    /// Asks every worker the same, and waits for all answers. Who has ended does not answer.
    async fn all<T>(&mut self, ask: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<T> {
        let mut answers = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (reply, answer) = oneshot::channel();
            if worker.send(ask(reply)).await.is_ok() {
                answers.push(answer);
            }
        }
        let mut all = Vec::with_capacity(answers.len());
        for answer in answers {
            all.extend(answer.await);
        }
        all
    }

    async fn lead(&mut self, command: Command) {
        // If it has ended, so does who asked: by the reply that is dropped.
        let _ = self.workers[WorkerId::LEAD.index()].send(command).await;
    }

    /// Answers a handle. One that has gone away does not want its answer any more.
    async fn command(&mut self, command: Command) {
        match command {
            Command::Status(reply) => {
                if let Some(status) = Status::of_all(self.all(Command::Status).await) {
                    let _ = reply.send(status);
                }
            }
            Command::Flows(limit, reply) => {
                let flows = self.all(|reply| Command::Flows(limit, reply)).await;
                let _ = reply.send(flows.into_iter().flatten().take(limit).collect());
            }
            Command::Apps(limit, reply) => {
                let mut apps = self.all(|reply| Command::Apps(limit, reply)).await.concat();
                apps.sort_by_key(|app| std::cmp::Reverse(app.tx_bytes + app.rx_bytes));
                apps.truncate(limit);
                let _ = reply.send(apps);
            }
            Command::SetRoutePolicy(tunnel, policy, reply) => {
                let set = |reply| Command::SetRoutePolicy(tunnel, policy.clone(), reply);
                self.all(set).await;
                let _ = reply.send(());
            }
            Command::SetTunnelOptions(tunnel, options, reply) => {
                let set = |reply| Command::SetTunnelOptions(tunnel, options.clone(), reply);
                self.all(set).await;
                let _ = reply.send(());
            }
            Command::NetworkChanged(event, reply) => {
                self.all(|reply| Command::NetworkChanged(event, reply))
                    .await;
                let _ = reply.send(());
            }
            Command::SetHost(networks, resolvers, reply) => {
                let set = |reply| Command::SetHost(networks.clone(), resolvers.clone(), reply);
                self.all(set).await;
                let _ = reply.send(());
            }
            Command::AddTunnel(name, transport, reply) => {
                let of = self.least();
                let add =
                    |reply| Command::AddTunnelOf(of, name.clone(), Arc::clone(&transport), reply);
                // All know the same tunnels, and answer the same.
                if let Some(added) = self.all(add).await.into_iter().next() {
                    if let Ok(id) = &added {
                        self.added(*id, of, &transport);
                    }
                    let _ = reply.send(added);
                }
            }
            Command::RemoveTunnel(tunnel, reply) => self.remove(tunnel, reply).await,
            // One decides or knows for all.
            Command::SetGroups(..) | Command::Explain(..) => self.lead(command).await,
            Command::AddTunnelOf(..) | Command::TunnelState(..) | Command::Stop => {}
        }
    }

    /// Whose transport it is answers when that is closed: the others need not wait for it.
    async fn remove(&mut self, tunnel: TunnelId, reply: oneshot::Sender<()>) {
        let place = self.places.get_mut(tunnel.index()).and_then(Option::take);
        let of = place.unwrap_or(WorkerId::LEAD).index();
        let mut reply = Some(reply);
        for (place, worker) in self.workers.iter().enumerate() {
            let reply = reply.take_if(|_| place == of);
            let reply = reply.unwrap_or_else(|| oneshot::channel().0);
            let _ = worker.send(Command::RemoveTunnel(tunnel, reply)).await;
        }
    }
}

impl Drop for Front {
    /// After [`run`](Self::run) there is nothing left to do. Else nothing is read any more, also
    /// before the runtime ends the workers.
    fn drop(&mut self) {
        for device in &self.devices {
            device.shutdown();
        }
    }
}

/// A worker did not end by itself. A panic in it is one in the engine.
fn ended_hard(error: JoinError) -> EngineError {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // The runtime is going down.
        Err(_) => EngineError::Gone(EngineGone),
    }
}
