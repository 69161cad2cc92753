//! TLS connections to hubs, each under a pool of streams: a frame of the mesh is one packet of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use vpn_core::packet::{Packet, PacketBatch};
use vpn_core::{DropCounters, NetworkEvent, PeerId, TransportState, Underlay};

use super::shared::Shared;
use crate::mesh::identity::Identity;
use crate::mesh::tls::TlsOpener;
use crate::mesh::way::HubId;
use crate::streams::{Budget, Contents, PoolConfig, StreamPool};

/// Bytes that may wait for all hubs together.
const BUDGET: usize = 16 << 20;

/// Streams to one hub: one carries everything in order, and a second one takes over while it is
/// replaced.
const STREAMS_PER_HUB: usize = 2;

/// Frames up to this length are copied out of what was read: all but super-packets. A buffer for each
/// is as long.
pub(super) const COPIED: usize = 2048;

/// Frames that may wait for one stream: a batch of super-packets that are cut for a peer without
/// streams. What bounds memory is the pool's bound in bytes.
const QUEUE: usize = 4096;

/// How long a stream may take to write what is left, and how often that is looked at.
const LAST_WORDS: Duration = Duration::from_millis(250);
const LOOK: Duration = Duration::from_millis(5);

/// Frames taken at a time.
pub(super) const FRAMES: usize = 64;

#[derive(Debug)]
struct Connection {
    pool: Arc<StreamPool>,
    /// Tells the member when the stream comes and goes.
    watch: JoinHandle<()>,
    /// The member asks how it stands.
    again: Arc<Notify>,
}

/// What came and was not asked for yet: at most [`FRAMES`] of each hub.
#[derive(Debug)]
struct Frames {
    batch: PacketBatch,
    waiting: VecDeque<(HubId, Packet)>,
}

/// The connections, by hub.
#[derive(Debug)]
pub(super) struct Streams {
    /// Who we are: hubs see it.
    identity: Identity,
    hubs: Vec<PeerId>,
    /// What jitter is drawn from.
    seed: u64,
    underlay: Arc<dyn Underlay>,
    budget: Budget,
    open: Mutex<Vec<Option<Connection>>>,
    frames: Mutex<Frames>,
    /// Pools that write what is left and close.
    ending: TaskTracker,
}

impl Streams {
    pub(super) fn new(
        identity: Identity,
        hubs: Vec<PeerId>,
        seed: u64,
        underlay: Arc<dyn Underlay>,
    ) -> Self {
        Self {
            open: Mutex::new(hubs.iter().map(|_| None).collect()),
            identity,
            hubs,
            seed,
            underlay,
            budget: Budget::new(BUDGET),
            frames: Mutex::new(Frames {
                batch: PacketBatch::new(FRAMES, COPIED),
                waiting: VecDeque::new(),
            }),
            ending: TaskTracker::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pools that are there.
    pub(super) fn pools(&self) -> Vec<(HubId, Arc<StreamPool>)> {
        (self.lock().iter().zip(0..))
            .filter_map(|(connection, hub)| Some((HubId(hub), connection.as_ref()?.pool.clone())))
            .collect()
    }

    /// Connects to a hub, unless that is under way. `false`: it cannot.
    pub(super) fn open(&self, shared: &Arc<Shared>, hub: HubId, endpoints: &[SocketAddr]) -> bool {
        let place = usize::from(hub.0);
        let mut open = self.lock();
        let (Some(slot), Some(key)) = (open.get_mut(place), self.hubs.get(place)) else {
            return false;
        };
        if shared.closing.is_cancelled() {
            return true;
        }
        if let Some(connection) = slot {
            // Its pool goes on by itself; the member wants to hear how it stands now.
            connection.again.notify_one();
            return true;
        }
        let underlay = self.underlay.clone();
        let socket = move |to| {
            let socket = underlay.tcp(to).map_err(std::io::Error::other)?;
            Ok(TcpSocket::from_std_stream(socket))
        };
        let opener = match TlsOpener::new(&self.identity, *key, endpoints.to_vec(), socket) {
            Ok(opener) => opener,
            Err(error) => {
                tracing::warn!(%error, "no TLS to a hub");
                return false;
            }
        };
        let config = PoolConfig {
            // Open before there is anything to say: that it is open is what the member waits for.
            warm_streams: 1,
            max_streams_per_peer: STREAMS_PER_HUB,
            packet_buffer_size: QUEUE,
            seed: self.seed,
            contents: Contents::Opaque,
            ..PoolConfig::default()
        };
        let pool = match StreamPool::connect(Arc::new(opener), config, self.budget.clone()) {
            Ok(pool) => Arc::new(pool),
            Err(error) => {
                tracing::warn!(%error, "no streams to a hub");
                return false;
            }
        };
        let again = Arc::new(Notify::new());
        let watch = tokio::spawn(watch(shared.clone(), hub, pool.clone(), again.clone()));
        *slot = Some(Connection { pool, watch, again });
        drop(open);
        shared.changed.notify_waiters();
        true
    }

    /// Lets a connection go. Its pool ends when it has closed its streams.
    pub(super) fn close(&self, hub: HubId) {
        let connection = self
            .lock()
            .get_mut(usize::from(hub.0))
            .and_then(Option::take);
        if let Some(connection) = connection {
            connection.watch.abort();
            self.ending.spawn(part(connection.pool));
        }
    }

    /// Lets all go, and waits.
    pub(super) async fn close_all(&self) {
        let all: Vec<Connection> = self.lock().iter_mut().filter_map(Option::take).collect();
        for connection in all {
            connection.watch.abort();
            let _ = connection.watch.await;
            self.ending.spawn(part(connection.pool));
        }
        // One that is closed takes no more; several may wait.
        self.ending.close();
        self.ending.wait().await;
    }

    /// The network below is another one.
    pub(super) fn network_changed(&self, event: NetworkEvent) {
        for (_, pool) in self.pools() {
            pool.network_changed(event);
        }
    }

    /// Sends a frame; `false` if there is no stream, or no room.
    pub(super) fn send(&self, hub: HubId, frame: &[u8]) -> bool {
        let open = self.lock();
        let Some(Some(connection)) = open.get(usize::from(hub.0)) else {
            return false;
        };
        let sent = connection.pool.try_send_one(Packet::from_slice(frame));
        sent.is_ok_and(|sent| sent)
    }

    /// Sends frames from the front of the batch and empties it; how many went. The others found no
    /// stream, or no room.
    pub(super) fn send_all(&self, hub: HubId, frames: &mut PacketBatch) -> usize {
        let open = self.lock();
        let sent = match open.get(usize::from(hub.0)) {
            Some(Some(connection)) => connection
                .pool
                .try_send(frames, &mut DropCounters::default())
                .unwrap_or_default(),
            _ => 0,
        };
        drop(open);
        frames.clear();
        sent
    }

    /// Gives up to `most` frames that came to `each`. What came with them waits for the next call.
    pub(super) fn receive(&self, most: usize, mut each: impl FnMut(HubId, Packet)) {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let Frames { batch, waiting } = &mut *frames;
        if waiting.is_empty() && most > 0 {
            for (hub, pool) in self.pools() {
                if pool.try_recv(batch).is_ok() {
                    let taken = batch.packets_mut().iter_mut().map(std::mem::take);
                    waiting.extend(taken.map(|packet| (hub, packet)));
                    let count = batch.len();
                    batch.recycle_front(count);
                }
            }
        }
        for (hub, packet) in waiting.drain(..most.min(waiting.len())) {
            each(hub, packet);
        }
    }

    /// Whether frames wait to be taken.
    pub(super) fn has_waiting(&self) -> bool {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        !frames.waiting.is_empty()
    }

    /// Connections, and those that are being closed.
    pub(super) fn count(&self) -> usize {
        self.lock().iter().flatten().count() + self.ending.len()
    }
}

/// Lets a pool write what it has, a good-bye perhaps, and closes it.
async fn part(pool: Arc<StreamPool>) {
    let written = async {
        while pool.status().waiting > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    // What does not get there in time is not needed any more.
    let _ = tokio::time::timeout(LAST_WORDS, written).await;
    pool.close().await;
}

/// Tells the member when the stream comes and goes, until it is closed or broke: the member opens another
/// one then, at addresses that may be others.
async fn watch(shared: Arc<Shared>, hub: HubId, pool: Arc<StreamPool>, again: Arc<Notify>) {
    let mut state = pool.state();
    loop {
        let now = tokio::select! {
            now = state.next() => now,
            () = again.notified() => state.get(),
        };
        let is_open = match now {
            TransportState::Up(_) => true,
            TransportState::Down(_) => false,
            TransportState::Closed => return,
            _ => continue,
        };
        let now = Instant::now();
        let mut core = shared.core();
        core.member.tls(hub, is_open, now);
        if !is_open {
            shared.streams.close(hub);
        }
        shared.finish(core, now);
        shared.changed.notify_waiters();
        if !is_open {
            return;
        }
    }
}
