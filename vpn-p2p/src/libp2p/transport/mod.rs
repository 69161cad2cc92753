//! The tunnel the engine sees: all members are behind it.

mod arrivals;
mod below;
mod lookups;
mod packets;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vpn_core::{
    Assigned, DropCounters, PeerDirectory, PeerId, PeerRecord, StateSender, TransportError,
};

use self::below::Below;
use self::lookups::{LOOKUPS, Told};
use super::addresses::{Addresses, Place};
use super::config::NodeError;
use super::node::{Node, unix};
use super::opener::{Opener, PACKETS};
use crate::directory::Conflict;
use crate::streams::{DispatchConfig, Dispatcher, Overflow, PoolError, PoolStatus};

/// How often what is over is thrown away.
const CLEAN_UP: Duration = Duration::from_secs(30);

/// What a tunnel over libp2p is for.
#[derive(Clone, Debug)]
pub struct Libp2pTunnel {
    /// The node's own virtual addresses, each with its network: members are in those.
    pub addresses: Vec<IpNet>,
    /// Further networks in which members are.
    pub networks: Vec<IpNet>,
    /// Largest IP packet, in bytes. Default 1400. Streams carry any; it is what the members agree on.
    pub mtu: u16,
    /// Pools of streams. Default: a full queue drops what is new, since a member that takes nothing must
    /// not hold up the others; so [`Overflow::PushBack`] is taken for [`Overflow::DropNew`].
    pub dispatch: DispatchConfig,
}

impl Libp2pTunnel {
    /// A tunnel for these addresses with the defaults.
    pub fn new(addresses: Vec<IpNet>) -> Self {
        Self {
            addresses,
            networks: Vec::new(),
            mtu: 1400,
            dispatch: DispatchConfig::default(),
        }
    }
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The pools cannot be made.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The node carries another tunnel already.
    #[error("the node carries another tunnel already")]
    Taken,
    /// The node is of no use.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// What a tunnel has done, and how it stands.
#[derive(Clone, Debug)]
pub struct TunnelStatus {
    /// Streams to each peer.
    pub pools: BTreeMap<PeerId, PoolStatus>,
    /// Records of members that are known.
    pub records: Vec<PeerRecord>,
    /// Addresses that several claim.
    pub conflicts: Vec<Conflict>,
    /// Packets that were dropped after they had been taken, by reason.
    pub drops: DropCounters,
    /// Packets that members sent from addresses that are not theirs.
    pub spoofed: u64,
    /// Questions about addresses.
    pub lookups: u64,
}

/// All members of a network of libp2p nodes, as a tunnel. Super-packets cross whole.
///
/// It is [`Up`](vpn_core::TransportState::Up) while a member is connected, and
/// [`Down`](vpn_core::TransportState::Down) when none is for 15 s, or the network below is lost. It recovers
/// by itself.
#[derive(Debug)]
pub struct Libp2pTransport {
    shared: Arc<Shared>,
}

struct Shared {
    node: Node,
    directory: Arc<dyn PeerDirectory>,
    addresses: Arc<Mutex<Addresses>>,
    dispatcher: Dispatcher,
    state: StateSender,
    assigned: Arc<Assigned>,
    mtu: u16,
    /// A record was learned, or it is known whose an address is.
    learned: Notify,
    /// There are questions about addresses.
    asks: Arc<Notify>,
    below: watch::Sender<Below>,
    /// Something happened to the network below.
    doubts: Notify,
    turns: Semaphore,
    closing: CancellationToken,
    tasks: TaskTracker,
    counted: Mutex<(u64, u64)>,
    conflicts: Mutex<Told>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Libp2pTransport {
    /// A tunnel over this node. Who has which address is asked of `directory`, never for a packet that
    /// would wait for the answer in the way of others. Where the directory decides that
    /// ([`Authority::Directory`](vpn_core::Authority::Directory)), its word replaces what members claim.
    ///
    /// It is the directory's one listener: who [changed](PeerDirectory::changed) is learned, and the node
    /// is told of members it did not know ([`Node::meet`]).
    ///
    /// Its tasks run on the current runtime until [`close`](vpn_core::TunnelTransport::close), which closes the
    /// node as well.
    ///
    /// # Errors
    ///
    /// [`TunnelError`]. That nobody can be reached is a state.
    pub fn start(
        node: Node,
        directory: Arc<dyn PeerDirectory>,
        tunnel: Libp2pTunnel,
    ) -> Result<Self, TunnelError> {
        let incoming = node.accept(PACKETS).map_err(|_| TunnelError::Taken)?;
        let mut dispatch = tunnel.dispatch;
        if dispatch.pool.overflow == Overflow::PushBack {
            dispatch.pool.overflow = Overflow::DropNew;
        }
        let own: Vec<IpAddr> = tunnel.addresses.iter().map(IpNet::addr).collect();
        let mut networks: Vec<IpNet> = tunnel.addresses.iter().map(IpNet::trunc).collect();
        networks.extend(tunnel.networks);
        networks.sort();
        networks.dedup();
        let place = Place {
            me: node.id(),
            own,
            networks: networks.clone(),
            authority: directory.authority(),
        };
        let all = Addresses::new(place, crate::directory::MAX_PEERS);
        let (addresses, asks) = (Arc::new(Mutex::new(all)), Arc::new(Notify::new()));
        let opener = Arc::new(Opener {
            node: node.clone(),
            directory: directory.clone(),
            addresses: addresses.clone(),
            asks: asks.clone(),
        });
        let assigned = Assigned {
            addresses: tunnel.addresses,
            mtu: tunnel.mtu,
            routes: networks,
            ..Assigned::default()
        };
        let shared = Arc::new(Shared {
            dispatcher: Dispatcher::new(opener, dispatch)?,
            node,
            directory,
            addresses,
            state: StateSender::new(),
            assigned: Arc::new(assigned),
            mtu: tunnel.mtu,
            learned: Notify::new(),
            asks,
            below: watch::Sender::default(),
            doubts: Notify::new(),
            turns: Semaphore::new(LOOKUPS),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            counted: Mutex::default(),
            conflicts: Mutex::default(),
        });
        let heard = shared.node.heard();
        shared.spawn(lookups::hear(shared.clone(), heard));
        let moved = shared.node.shared().moved.subscribe();
        shared.spawn(below::follow_moves(shared.clone(), moved));
        shared.spawn(lookups::follow(shared.clone()));
        shared.spawn(lookups::ask(shared.clone()));
        shared.spawn(arrivals::accept(shared.clone(), incoming));
        shared.spawn(below::stand(shared.clone()));
        shared.spawn(below::probe(shared.clone()));
        shared.spawn(clean_up(shared.clone()));
        Ok(Self { shared })
    }

    /// The node below.
    pub fn node(&self) -> &Node {
        &self.shared.node
    }

    /// How it stands. It copies everything: for people and metrics.
    pub fn status(&self) -> TunnelStatus {
        let pools = self.shared.dispatcher.peers().into_iter();
        let pools = pools.map(|(peer, pool)| (peer, pool.status())).collect();
        let now = unix();
        let (spoofed, lookups) = *self.shared.counted();
        let all = self.shared.addresses();
        TunnelStatus {
            pools,
            records: all.records(now).cloned().collect(),
            conflicts: all.conflicts(now),
            drops: all.holding.drops.clone(),
            spoofed,
            lookups,
        }
    }

    /// Wants to be connected with this peer, without a packet for it.
    pub fn connect(&self, peer: PeerId) {
        // A peer too many is refused when packets come as well.
        let _ = self.shared.dispatcher.pool(peer);
    }

    fn check_open(&self) -> Result<(), TransportError> {
        if self.shared.closing.is_cancelled() {
            return Err(TransportError::Closed);
        }
        Ok(())
    }
}

impl Shared {
    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn counted(&self) -> MutexGuard<'_, (u64, u64)> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks
            .spawn(async move { closing.run_until_cancelled(task).await });
    }

    /// After every use of the addresses: what there is to ask is asked.
    fn settle(&self, all: &Addresses) {
        if all.has_questions() {
            self.asks.notify_one();
        }
    }
}

impl Drop for Libp2pTransport {
    fn drop(&mut self) {
        self.shared.closing.cancel();
    }
}

async fn clean_up(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(CLEAN_UP).await;
        shared.addresses().clean_up(Instant::now(), unix());
    }
}
