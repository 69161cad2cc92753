//! Decides which pool a peer's packets go to: one per peer, made when it is needed, gone when it is
//! idle.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use vpn_core::{Assigned, DropCounters, DropReason, Packet, PacketBatch, PeerId};

use super::budget::Budget;
use super::config::{ConfigError, PoolConfig};
use super::inbox::{Inbox, Slot};
use super::peer::{PoolError, StreamPool};
use super::stream::{Stream, StreamOpener};

/// Opens streams to peers by their identity.
#[async_trait]
pub trait PeerOpener: std::fmt::Debug + Send + Sync {
    /// Opens one more stream to this peer, which has proven who it is when this returns.
    ///
    /// # Errors
    ///
    /// Why there is none now. It is tried again later.
    async fn open(&self, peer: PeerId) -> io::Result<Box<dyn Stream>>;
}

#[derive(Debug)]
struct To {
    peer: PeerId,
    opener: Arc<dyn PeerOpener>,
}

#[async_trait]
impl StreamOpener for To {
    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        self.opener.open(self.peer).await
    }
}

/// Bounds of a [`Dispatcher`].
#[derive(Clone, Debug)]
pub struct DispatchConfig {
    /// Of the pool of each peer.
    pub pool: PoolConfig,
    /// Peers at the same time. Default 1024; the packets of further ones are dropped, `no_session`.
    pub max_peers: usize,
    /// Bytes that may wait for the streams of all peers together. Default 64 MiB; what comes then is
    /// dropped, `queue_full`.
    pub total_buffer_bytes: usize,
}

impl Default for DispatchConfig {
    fn default() -> Self {
        Self {
            pool: PoolConfig::default(),
            max_peers: 1024,
            total_buffer_bytes: 64 << 20,
        }
    }
}

/// Why there is no pool for a peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DispatchError {
    /// There are as many peers as may be. Idle ones go with the next clean-up.
    #[error("there are {0} peers already")]
    TooManyPeers(usize),
    /// The dispatcher is closed.
    #[error("the dispatcher is closed")]
    Closed,
    /// There is no pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

#[derive(Debug, Default)]
struct Peers {
    pools: HashMap<PeerId, Arc<StreamPool>>,
    closed: bool,
}

/// Packets to many peers, each over streams of its own. What happens to one peer, its dials, stalls
/// and queues, is met by no other, and [`send`](Self::send) never waits.
#[derive(Debug)]
pub struct Dispatcher {
    config: DispatchConfig,
    opener: Arc<dyn PeerOpener>,
    budget: Budget,
    peers: Arc<Mutex<Peers>>,
    inbox: Arc<Inbox>,
    closing: CancellationToken,
    /// Cancelled when idle peers are no longer looked for.
    cleaned: CancellationToken,
}

impl Dispatcher {
    /// A dispatcher without peers. A task on the current runtime lets idle ones go.
    ///
    /// # Errors
    ///
    /// [`PoolError::Config`] and [`PoolError::NoRuntime`].
    pub fn new(opener: Arc<dyn PeerOpener>, config: DispatchConfig) -> Result<Self, PoolError> {
        config.pool.validate()?;
        if config.total_buffer_bytes < PoolConfig::LEAST_BYTES {
            return Err(ConfigError::Bytes(config.total_buffer_bytes).into());
        }
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| PoolError::NoRuntime)?;
        let peers: Arc<Mutex<Peers>> = Arc::default();
        let (every, limit) = (
            config.pool.cleanup_interval,
            config.pool.stream_idle_timeout,
        );
        let (closing, cleaned) = (CancellationToken::new(), CancellationToken::new());
        let (looked, stop, guard) = (peers.clone(), closing.clone(), cleaned.clone().drop_guard());
        runtime.spawn(async move {
            let _guard = guard;
            let pause = || stop.run_until_cancelled(tokio::time::sleep(every));
            while pause().await.is_some() {
                clean_up(&looked, limit).await;
            }
        });
        Ok(Self {
            closing,
            cleaned,
            budget: Budget::new(config.total_buffer_bytes),
            config,
            opener,
            peers,
            inbox: Arc::default(),
        })
    }

    /// The pool of a peer, made if there is none: its first streams are opened at once.
    ///
    /// # Errors
    ///
    /// [`DispatchError`].
    pub fn pool(&self, peer: PeerId) -> Result<Arc<StreamPool>, DispatchError> {
        let mut peers = lock(&self.peers);
        if peers.closed {
            return Err(DispatchError::Closed);
        }
        if let Some(pool) = peers.pools.get(&peer) {
            return Ok(pool.clone());
        }
        if peers.pools.len() >= self.config.max_peers {
            return Err(DispatchError::TooManyPeers(peers.pools.len()));
        }
        let opener = self.opener.clone();
        let mut config = self.config.pool.clone();
        // Peers that were lost together are not dialled together.
        config.seed ^= peer
            .0
            .iter()
            .fold(0, |seed: u64, &byte| seed.rotate_left(8) ^ u64::from(byte));
        let to = Arc::new(To { peer, opener });
        let slot = Slot::new(peer, self.inbox.clone());
        let (budget, assigned) = (self.budget.clone(), Assigned::default());
        let pool = StreamPool::start(Some(to), config, budget, assigned, Some(slot))?;
        let pool = Arc::new(pool);
        peers.pools.insert(peer, pool.clone());
        Ok(pool)
    }

    /// Takes packets for a peer from the front of the batch, in order; returns how many are on their
    /// way. What is refused is removed and counted; what there is no room for stays.
    ///
    /// Packets for a peer that is being connected stay with the caller, as with any transport that
    /// connects.
    ///
    /// # Errors
    ///
    /// [`DispatchError::Closed`]. The packets of a peer too many are dropped, `no_session`.
    pub fn send(
        &self,
        peer: PeerId,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DispatchError> {
        match self.pool(peer) {
            Ok(pool) => {
                let sent = pool.try_send(batch, drops);
                sent.map_err(|_| DispatchError::Closed)
            }
            Err(DispatchError::TooManyPeers(_)) => {
                drops.add(DropReason::NoSession, batch.len() as u64);
                batch.clear();
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a stream that a peer opened, which has proven who it is.
    ///
    /// # Errors
    ///
    /// [`DispatchError`]; the stream is closed then.
    pub fn accept(&self, peer: PeerId, stream: Box<dyn Stream>) -> Result<(), DispatchError> {
        Ok(self.pool(peer)?.accept(stream)?)
    }

    /// Appends packets that came from any peer; `wanted` says of each whether it is, and by whom it came.
    /// Peers take turns.
    ///
    /// # Errors
    ///
    /// [`DispatchError::Closed`].
    pub fn receive(
        &self,
        batch: &mut PacketBatch,
        mut wanted: impl FnMut(PeerId, &Packet) -> bool,
    ) -> Result<usize, DispatchError> {
        let mut count = 0;
        // Each at most once: who always has more must not keep this from returning.
        for _ in 0..self.inbox.len() {
            if batch.is_full() {
                break;
            }
            let Some(peer) = self.inbox.pop() else { break };
            let pool = {
                let peers = lock(&self.peers);
                if peers.closed {
                    return Err(DispatchError::Closed);
                }
                peers.pools.get(&peer).cloned()
            };
            // One that was let go has nothing more.
            let Some(pool) = pool else { continue };
            pool.turn();
            // One that is being closed has nothing more either.
            count += pool
                .receive(batch, |packet| wanted(peer, packet))
                .unwrap_or(0);
            pool.tell_if_more();
        }
        Ok(count)
    }

    /// Waits until [`receive`](Self::receive) may yield packets, or the dispatcher is closed.
    /// Cancel-safe.
    pub async fn readable(&self) {
        tokio::select! {
            () = self.closing.cancelled() => {}
            () = self.inbox.filled() => {}
        }
    }

    /// The peers there are pools for, with their pools.
    pub fn peers(&self) -> Vec<(PeerId, Arc<StreamPool>)> {
        let peers = lock(&self.peers);
        let pools = peers.pools.iter();
        pools.map(|(peer, pool)| (*peer, pool.clone())).collect()
    }

    /// Bytes that wait for the streams of all peers.
    pub fn waiting_bytes(&self) -> usize {
        self.budget.used()
    }

    /// Closes all pools, and returns when no task of theirs is left. Idempotent.
    pub async fn close(&self) {
        let pools: Vec<Arc<StreamPool>> = {
            let mut peers = lock(&self.peers);
            peers.closed = true;
            peers.pools.values().cloned().collect()
        };
        self.closing.cancel();
        self.cleaned.cancelled().await;
        close_all(&pools).await;
        lock(&self.peers).pools.clear();
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// Closes them together.
async fn close_all(pools: &[Arc<StreamPool>]) {
    pools.iter().for_each(|pool| pool.begin_close());
    for pool in pools {
        pool.close().await;
    }
}

fn lock(peers: &Mutex<Peers>) -> MutexGuard<'_, Peers> {
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets peers go that nobody talks to, and nobody holds.
async fn clean_up(peers: &Mutex<Peers>, limit: Duration) {
    let idle: Vec<Arc<StreamPool>> = {
        let idle = |_: &PeerId, pool: &mut Arc<StreamPool>| {
            Arc::strong_count(pool) == 1 && pool.is_idle(limit)
        };
        let mut peers = lock(peers);
        peers.pools.extract_if(idle).map(|(_, pool)| pool).collect()
    };
    close_all(&idle).await;
}
