//! Touches the network: a node of libp2p with its tasks, which finds peers, is found, and opens streams.
//!
//! The task has all of libp2p's state to itself; a [`Node`] is how others reach it. Nobody who sends
//! packets waits for it.

mod announce;
mod command;
mod driver;
mod events;
mod hello;
mod keep;
mod measure;
mod members;
mod places;
mod process;
mod punch;
mod query;
mod relays;
mod remember;
mod shares;
mod status;
mod voice;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::{Multiaddr, StreamProtocol};
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vpn_core::{PeerId, PeerRecord};

pub use status::{Counters, LinkStatus, NodeStatus};
pub use voice::Own;

use super::admission::Admission;
use super::body::Body;
use super::config::{NodeConfig, NodeError};
use super::gate::Door;
use super::key::{keypair, to_libp2p};
use super::membership::{Membership, NetworkId, NotBelieved};
use super::rate::Seldom;
use super::screen::Screen;
use super::substreams::{AlreadyRegistered, Control, IncomingStreams, OpenError};
use crate::directory::records::Valid;
use crate::identity::Identity;
pub(crate) use command::Command;
use driver::Driver;
pub(crate) use hello::unix;
use process::Process;

/// Orders that wait for the node's task; further ones wait with those who give them.
const COMMANDS: usize = 256;

/// For how long a node that was alone may not know who to ask.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(10);

/// Peers that a listener has not taken yet; with more of them it takes everybody for moved.
const MOVED: usize = 64;

/// Records that were heard and that a slow listener has not taken; it is told how many it missed.
const HEARD: usize = 1024;

/// The name of a protocol that is not spoken: that it is refused is an answer.
const NOBODY_HAS: StreamProtocol = StreamProtocol::new("/vpn/are-you-there/1");

/// What a node's tasks and its handle share.
pub(crate) struct Shared {
    pub(crate) id: PeerId,
    pub(super) config: NodeConfig,
    pub(super) door: Arc<Door>,
    pub(super) screen: Arc<Screen>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) streams: Control,
    /// Stands for this process.
    pub(super) process: Process,
    pub(super) closing: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) standing: Mutex<Standing>,
    /// Somebody was admitted, or is gone.
    pub(super) changed: Notify,
    pub(super) endpoints: watch::Sender<Vec<Multiaddr>>,
    /// What is said about this node, and what ends who says it to the directory.
    voice: Mutex<Option<(voice::Voice, CancellationToken)>>,
    /// The record may be old, or it can be published now.
    pub(super) renew: Notify,
    pub(crate) heard: broadcast::Sender<PeerRecord>,
    /// Peers to whom there is a direct way now, beside that by a relay, which ends.
    pub(crate) moved: broadcast::Sender<PeerId>,
    /// Records that were not believed.
    pub(super) not_believed: AtomicU64,
}

/// How a node stands, as far as others look at it.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub(super) admitted: HashSet<PeerId>,
    /// Since when anybody is.
    pub(super) arrived: Option<std::time::Instant>,
    pub(super) links: HashMap<PeerId, Vec<LinkStatus>>,
    pub(super) counters: Counters,
    /// How often members said who they are.
    pub(super) said: hello::Said,
    /// That somebody is no member is told now and then.
    pub(super) strangers: Seldom,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has proven that it is a member, and is connected.
    pub(super) fn admitted(&self) -> Vec<PeerId> {
        self.standing().admitted.iter().copied().collect()
    }

    /// Starts a task that ends with the node.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks
            .spawn(async move { closing.run_until_cancelled(task).await });
    }

    /// Believes a record as one of a member of this network, now.
    pub(crate) fn believe(&self, record: PeerRecord) -> Result<(Valid, Body), NotBelieved> {
        self.door.membership().believe(record, unix())
    }

    /// Orders something, and waits for what became of it.
    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, NodeError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| NodeError::Closed)?;
        answer.await.map_err(|_| NodeError::Closed)
    }
}

/// A node that runs: its task lives on the runtime it was started on until [`close`](Self::close), or
/// until the last handle is dropped. A tunnel has a handle, a directory of the node's has none.
#[derive(Clone, Debug)]
pub struct Node(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.closing.cancel();
    }
}

impl Node {
    /// Starts a node: it listens, dials its bootstrap nodes and the peers it knew.
    ///
    /// # Errors
    ///
    /// [`NodeError`]. That nobody can be reached is no error: it goes on trying.
    pub fn start(config: NodeConfig, identity: &Identity) -> Result<Self, NodeError> {
        tokio::runtime::Handle::try_current().map_err(|_| NodeError::NoRuntime)?;
        config.validate()?;
        let keys = keypair(identity).ok_or(NodeError::Key)?;
        let membership = Membership {
            network: NetworkId::of(&config.network),
            admission: config.admission.clone(),
        };
        let door = Arc::new(Door::new(membership, config.max_connections));
        let screen = Arc::new(Screen::of(&config));
        let (commands, orders) = mpsc::channel(COMMANDS);
        let mut swarm = driver::swarm(&config, &keys, door.clone(), screen.clone())?;
        driver::listen(&mut swarm, &config)?;
        let streams = swarm.behaviour().streams.control();
        let mut process = Process::default();
        getrandom::fill(&mut process.0).map_err(|_| NodeError::Random)?;
        let hellos = streams.accept(hello::PROTOCOL);
        let shared = Arc::new(Shared {
            id: identity.id(),
            door,
            screen,
            commands,
            streams,
            process,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            standing: Mutex::default(),
            changed: Notify::new(),
            endpoints: watch::Sender::new(Vec::new()),
            voice: Mutex::default(),
            renew: Notify::new(),
            heard: broadcast::Sender::new(HEARD),
            moved: broadcast::Sender::new(MOVED),
            not_believed: AtomicU64::new(0),
            config,
        });
        let driver = Driver::new(shared.clone(), swarm, orders)?;
        // By itself: it ends by the token, after it has written what it knows.
        shared.tasks.spawn(driver.run());
        // Nobody else accepts them: the node is new.
        if let Ok(hellos) = hellos {
            shared.spawn(hello::listen(shared.clone(), hellos));
        }
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Who it is.
    pub fn id(&self) -> PeerId {
        self.0.0.id
    }

    /// Where it can be reached, each without its name; changes when the network does.
    pub fn endpoints(&self) -> watch::Receiver<Vec<Multiaddr>> {
        self.0.0.endpoints.subscribe()
    }

    /// The same with its name, as bootstrap nodes are configured.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        let name = to_libp2p(self.id());
        let endpoints = self.0.0.endpoints.borrow();
        let named = endpoints.iter().cloned().zip(name.into_iter().cycle());
        named
            .filter_map(|(endpoint, name)| endpoint.with_p2p(name).ok())
            .collect()
    }

    /// Records that peers say about themselves when they connect, and when something changes; each
    /// was believed.
    pub fn heard(&self) -> broadcast::Receiver<PeerRecord> {
        self.0.0.heard.subscribe()
    }

    /// Is connected with this peer, or tries, by one of these endpoints or whatever else is known.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub async fn connect(&self, peer: PeerId, endpoints: Vec<Multiaddr>) -> std::io::Result<()> {
        let shared = &self.0.0;
        let tried = shared.ask(|reply| Command::Connect {
            peer,
            endpoints,
            reply,
        });
        let tried = tried.await.map_err(std::io::Error::other)?;
        tried.map_err(std::io::Error::other)
    }

    /// Tells the node of a member, from a directory that it does not keep itself: it is in touch with a
    /// few of those, so that it is found and the tunnel is up when nobody sends anything. Needed where
    /// there is no bootstrap node. One too many is not taken; the directory has it.
    ///
    /// # Errors
    ///
    /// [`NotBelieved`]: the record is not signed, not live, or not a member's.
    pub fn meet(&self, record: PeerRecord) -> Result<(), NotBelieved> {
        let peer = record.peer;
        let (_, body) = self.believe(record)?;
        self.met(peer, body.endpoints);
        Ok(())
    }

    /// As [`meet`](Self::meet), of what was believed already.
    pub(super) fn met(&self, peer: PeerId, endpoints: Vec<Multiaddr>) {
        if peer != self.id() {
            let _ = self.0.0.commands.try_send(Command::Met(peer, endpoints));
        }
    }

    /// Whether this peer answers: it is asked for a protocol that nobody has. It waits as long as libp2p
    /// does.
    pub(super) async fn answers(&self, peer: PeerId) -> bool {
        let Some(name) = to_libp2p(peer) else {
            return false;
        };
        let opened = self.0.0.streams.open(name, NOBODY_HAS).await;
        matches!(opened, Ok(_) | Err(OpenError::Unsupported(_)))
    }

    /// Ends all connections of this peer; it may come again at once.
    pub(super) async fn disconnect(&self, peer: PeerId) {
        // A node that ends has done so.
        let _ = self.0.0.commands.send(Command::Disconnect(peer)).await;
    }

    /// Opens a stream to a peer, for a protocol of your own.
    ///
    /// # Errors
    ///
    /// What libp2p says: the peer does not take such streams, or is gone.
    pub async fn open(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> std::io::Result<libp2p::Stream> {
        let name = to_libp2p(peer).ok_or(std::io::ErrorKind::InvalidInput)?;
        let opened = self.0.0.streams.open(name, protocol).await;
        opened
            .map(|(_, stream)| stream)
            .map_err(std::io::Error::other)
    }

    /// Accepts streams of a protocol of your own. Who opened one is connected, and with a network key may
    /// not have proven itself yet ([`is_admitted`](Self::is_admitted)).
    ///
    /// # Errors
    ///
    /// Somebody accepts them already.
    pub fn accept(&self, protocol: StreamProtocol) -> Result<IncomingStreams, AlreadyRegistered> {
        self.0.0.streams.accept(protocol)
    }

    /// Who may be a member.
    pub fn admission(&self) -> &Admission {
        &self.0.0.door.membership().admission
    }

    /// Believes a record as one of a member of this network, now.
    ///
    /// # Errors
    ///
    /// [`NotBelieved`], except for what only who knows other records can say.
    pub fn believe(&self, record: PeerRecord) -> Result<(Valid, Body), NotBelieved> {
        self.0.0.believe(record)
    }

    /// The network below is another one, or the machine slept: it dials anew at once.
    pub fn network_changed(&self) {
        // A full queue has the same in it, or so much to do that it notices by itself.
        let _ = self.0.0.commands.try_send(Command::NetworkChanged);
    }

    /// How it stands. It copies everything: for people and metrics.
    pub fn status(&self) -> NodeStatus {
        NodeStatus::of(&self.0.0)
    }

    /// Whether this peer has proven that it is a member.
    pub fn is_admitted(&self, peer: PeerId) -> bool {
        self.0.0.standing().admitted.contains(&peer)
    }

    /// Whether it was alone until lately, so that "nobody" is no answer yet.
    pub(super) fn is_new(&self) -> bool {
        let arrived = self.0.0.standing().arrived;
        arrived.is_none_or(|at| at.elapsed() < SETTLED)
    }

    /// Waits until this peer has proven that it is a member; for ever if it does not.
    pub(super) async fn admitted(&self, peer: PeerId) {
        loop {
            let changed = self.0.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_admitted(peer) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Ends it, and returns when no task is left. Idempotent.
    pub async fn close(&self) {
        let shared = &self.0.0;
        shared.closing.cancel();
        shared.tasks.close();
        shared.tasks.wait().await;
    }
}
