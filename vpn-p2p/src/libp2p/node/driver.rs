//! Touches libp2p's state: the one task that has it, its orders and its clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId, Swarm, swarm};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, interval};

use super::keep::Keep;
use super::process::Process;
use super::punch::Punching;
use super::query::Queries;
use super::relays::Relays;
use super::remember::Memory;
use super::{Command, Shared};
use crate::libp2p::behaviour::Behaviour;
use crate::libp2p::config::{NodeConfig, NodeError};
use crate::libp2p::gate::Door;
use crate::libp2p::key::to_libp2p;
use crate::libp2p::known;
use crate::libp2p::network::network;
use crate::libp2p::screen::Screen;

/// How often what is due is looked for.
const TICK: Duration = Duration::from_millis(500);

/// How often what expired is thrown away, and known peers are written down, whoever of them is here now.
const CLEAN_UP: Duration = Duration::from_secs(60);

/// Places of one peer that are dialled while its first ones do not answer.
const MAX_DIALLED: usize = 32;

/// Peers of the file that are dialled when a node starts; the directory leads to the others.
const DIAL_KNOWN: usize = 16;

/// Who waits for connections; further ones are told to come again.
const MAX_WAITING: usize = 4096;

type Waiting = Vec<oneshot::Sender<Result<(), String>>>;

/// A connection, as it is remembered.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) peer: PeerId,
    pub(super) is_relayed: bool,
    /// The relay between.
    pub(super) relay: Option<PeerId>,
    pub(super) remote: Multiaddr,
    pub(super) is_dialer: bool,
    pub(super) since: std::time::Instant,
    /// Who is at its other end, once it was said.
    pub(super) process: Option<Process>,
}

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) swarm: Swarm<Behaviour>,
    orders: mpsc::Receiver<Command>,
    pub(super) waiting: HashMap<PeerId, Waiting>,
    pub(super) connections: HashMap<ConnectionId, Connection>,
    /// Where who is not connected was dialled, until one attempt is over.
    pub(super) dialled: HashMap<PeerId, Vec<Multiaddr>>,
    /// Where connected peers say they listen.
    pub(super) identified: HashMap<PeerId, Vec<Multiaddr>>,
    /// Who has not proven itself yet, and until when it may.
    pub(super) unproven: BTreeMap<PeerId, Instant>,
    /// When certificates of those who have end, in seconds since the Unix epoch.
    pub(super) certified: BTreeMap<PeerId, u64>,
    /// Relayed connections that a direct one took over from, and when they end.
    pub(super) leaving: Vec<(Instant, ConnectionId)>,
    pub(super) queries: Queries,
    pub(super) keep: Keep,
    pub(super) relays: Relays,
    pub(super) punching: Punching,
    /// Where members were, for the next start.
    pub(super) known: BTreeMap<PeerId, Vec<Multiaddr>>,
    /// When the known peers are written down, if they are others than before.
    pub(super) unwritten: Option<Instant>,
    pub(super) memory: Memory,
    clean_up: Instant,
}

/// What libp2p has of a node.
pub(super) fn swarm(
    config: &NodeConfig,
    keys: &Keypair,
    door: Arc<Door>,
    screen: Arc<Screen>,
) -> Result<Swarm<Behaviour>, NodeError> {
    let (transport, circuits) = network(keys, screen)?;
    let behaviour = Behaviour::new(config, keys, door, circuits);
    let own = keys.public().to_peer_id();
    let swarm_config =
        swarm::Config::with_tokio_executor().with_idle_connection_timeout(config.idle_timeout);
    Ok(Swarm::new(transport, behaviour, own, swarm_config))
}

/// Listens where it shall: one address is enough.
pub(super) fn listen(swarm: &mut Swarm<Behaviour>, config: &NodeConfig) -> Result<(), NodeError> {
    if config.relay.is_some() {
        // Those who have a place here are told where: behind a NAT, only its owner knows.
        for address in &config.announce {
            swarm.add_external_address(address.clone());
        }
    }
    let mut first = None;
    let mut listening = config.listen.is_empty();
    for address in &config.listen {
        match swarm.listen_on(address.clone()) {
            Ok(_) => listening = true,
            Err(problem) => {
                tracing::debug!(%address, %problem, "cannot listen here");
                first.get_or_insert((address.clone(), problem.to_string()));
            }
        }
    }
    match first {
        Some((address, problem)) if !listening => Err(NodeError::Listen { address, problem }),
        _ => Ok(()),
    }
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        swarm: Swarm<Behaviour>,
        orders: mpsc::Receiver<Command>,
    ) -> Result<Self, NodeError> {
        let config = &shared.config;
        let relays = Relays::new(config);
        let mut driver = Self {
            swarm,
            orders,
            waiting: HashMap::new(),
            connections: HashMap::new(),
            dialled: HashMap::new(),
            identified: HashMap::new(),
            unproven: BTreeMap::new(),
            certified: BTreeMap::new(),
            leaving: Vec::new(),
            queries: Queries::default(),
            keep: Keep::new(config.max_records, &config.inside),
            relays,
            punching: Punching::default(),
            known: BTreeMap::new(),
            unwritten: None,
            memory: Memory::default(),
            clean_up: Instant::now() + CLEAN_UP,
            shared: shared.clone(),
        };
        if let Some(path) = &shared.config.known_peers {
            let known = known::read(path).map_err(|cause| NodeError::Known {
                path: path.clone(),
                cause,
            })?;
            // In the order of the file: those who were there last come first.
            let mut first: Vec<PeerId> = Vec::new();
            for (peer, address) in known {
                let addresses = driver.known.entry(peer).or_default();
                if addresses.is_empty() && first.len() < DIAL_KNOWN {
                    first.push(peer);
                }
                addresses.push(address);
            }
            for peer in first {
                let addresses = driver.known.get(&peer).cloned().unwrap_or_default();
                driver.dial(peer, addresses);
            }
        }
        Ok(driver)
    }

    pub(super) async fn run(mut self) {
        let mut tick = interval(TICK);
        let closing = self.shared.closing.clone();
        loop {
            tokio::select! {
                () = closing.cancelled() => break,
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(order) = self.orders.recv() => self.on_order(order),
                _ = tick.tick() => self.on_tick(Instant::now()),
            }
        }
        self.remember_at_the_end().await;
    }

    fn on_order(&mut self, order: Command) {
        match order {
            Command::Connect {
                peer,
                endpoints,
                reply,
            } => self.connect(peer, endpoints, reply),
            Command::Get { key, reply } => {
                self.queries
                    .get(&mut self.swarm.behaviour_mut().kad, key, reply);
            }
            Command::Put {
                key,
                value,
                lives,
                reply,
            } => {
                let kad = &mut self.swarm.behaviour_mut().kad;
                let membership = self.shared.door.membership();
                let keep = &mut self.keep;
                self.queries
                    .put(kad, keep, membership, key, value, lives, reply);
            }
            Command::Admit {
                peer,
                endpoints,
                record,
                until,
                at: (id, process),
            } => {
                self.admit(peer, endpoints);
                self.keep_heard(&record);
                if let Some(name) = to_libp2p(peer) {
                    self.is_certified(name, until);
                    self.leave_the_dead(name, id, process);
                }
            }
            Command::Met(peer, endpoints) => {
                let Some(name) = to_libp2p(peer) else { return };
                self.learn(name, endpoints);
                if self.shared.standing().admitted.is_empty() {
                    self.relays.alone(Instant::now());
                }
            }
            Command::Refuse(peer) => self.refuse(peer),
            Command::Tell => {
                let connected: Vec<_> = self.swarm.connected_peers().copied().collect();
                for name in connected {
                    self.tell(name, None);
                }
            }
            Command::Disconnect(peer) => {
                if let Some(name) = to_libp2p(peer) {
                    // It may be gone already.
                    let _ = self.swarm.disconnect_peer_id(name);
                }
            }
            Command::NetworkChanged => {
                self.relays.network_changed(Instant::now());
                self.punching.network_changed(Instant::now());
                self.shared.renew.notify_one();
            }
        }
    }

    fn connect(
        &mut self,
        peer: vpn_core::PeerId,
        endpoints: Vec<Multiaddr>,
        reply: oneshot::Sender<Result<(), String>>,
    ) {
        let answer = match to_libp2p(peer) {
            None => Err("no such key".to_owned()),
            Some(name) if self.swarm.is_connected(&name) => Ok(()),
            Some(_) if self.waiting.len() >= MAX_WAITING => {
                Err("too many connections are waited for".to_owned())
            }
            Some(name) => {
                let waiting = self.waiting.entry(name).or_default();
                waiting.retain(|waiting| !waiting.is_closed());
                waiting.push(reply);
                self.dial(name, endpoints);
                return;
            }
        };
        // Who asked may have given up.
        let _ = reply.send(answer);
    }

    /// Dials. If that is under way already, the places it does not know of yet are dialled beside: those
    /// before may be of a network that is not ours, and cost ten seconds.
    pub(super) fn dial(&mut self, peer: PeerId, endpoints: Vec<Multiaddr>) {
        let mut endpoints = endpoints;
        endpoints.retain(|endpoint| self.shared.screen.may_dial(endpoint));
        let options = DialOpts::peer_id(peer)
            .addresses(endpoints.clone())
            .extend_addresses_through_behaviour()
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .build();
        let dialled = self.dialled.entry(peer).or_default();
        match self.swarm.dial(options) {
            Ok(()) => *dialled = endpoints,
            Err(DialError::DialPeerConditionFalse(_)) => {
                endpoints.retain(|endpoint| !dialled.contains(endpoint));
                if endpoints.is_empty() || dialled.len() >= MAX_DIALLED {
                    // What is under way ends as well.
                    return;
                }
                dialled.extend(endpoints.iter().cloned());
                let options = DialOpts::peer_id(peer)
                    .addresses(endpoints)
                    .condition(PeerCondition::Disconnected)
                    .build();
                if let Err(error) = self.swarm.dial(options) {
                    tracing::debug!(%peer, %error, "nothing more to dial");
                }
            }
            Err(error) => {
                self.dialled.remove(&peer);
                self.tell_waiting(&peer, &Err(error.to_string()));
            }
        }
    }

    pub(super) fn tell_waiting(&mut self, peer: &PeerId, outcome: &Result<(), String>) {
        for waiting in self.waiting.remove(peer).into_iter().flatten() {
            let _ = waiting.send(outcome.clone());
        }
    }

    fn on_tick(&mut self, now: Instant) {
        self.put_out(now);
        self.close_what_leaves(now);
        self.look_after_relays(now);
        self.punch_again(now);
        if self.unwritten.is_some_and(|at| at <= now) && self.remember() {
            self.unwritten = None;
        }
        let kad = &mut self.swarm.behaviour_mut().kad;
        self.queries.settle(kad, now.into_std());
        if now >= self.clean_up {
            self.clean_up = now + CLEAN_UP;
            let kad = &mut self.swarm.behaviour_mut().kad;
            self.keep.sweep(kad, now.into_std());
            self.shared.standing().said.sweep(now.into_std());
            self.waiting.retain(|_, waiting| {
                waiting.retain(|waiting| !waiting.is_closed());
                !waiting.is_empty()
            });
            self.remember();
        }
    }
}
