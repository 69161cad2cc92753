//! TLS connections to hubs, each under a pool of streams: a frame of the mesh is one packet of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::net::TcpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use vpn_core::packet::{Packet, PacketBatch};
use vpn_core::{DropCounters, PeerId, TransportState, Underlay};

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

/// Largest frame: a super-packet sealed, with what stands in front.
const MAX_FRAME: usize = 65_535 + 128;

/// Frames taken at a time.
const FRAMES: usize = 64;

#[derive(Debug)]
struct Connection {
    pool: Arc<StreamPool>,
    /// Tells the member when the stream comes and goes.
    watch: JoinHandle<()>,
    /// The member asks how it stands.
    again: Arc<Notify>,
}

/// The connections, by hub.
#[derive(Debug)]
pub(super) struct Streams {
    /// Who we are: hubs see it.
    identity: Identity,
    hubs: Vec<PeerId>,
    underlay: Arc<dyn Underlay>,
    budget: Budget,
    open: Mutex<Vec<Option<Connection>>>,
    frames: Mutex<PacketBatch>,
}

impl Streams {
    pub(super) fn new(identity: Identity, hubs: Vec<PeerId>, underlay: Arc<dyn Underlay>) -> Self {
        Self {
            open: Mutex::new(hubs.iter().map(|_| None).collect()),
            identity,
            hubs,
            underlay,
            budget: Budget::new(BUDGET),
            frames: Mutex::new(PacketBatch::new(FRAMES, MAX_FRAME)),
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

    /// Connects to a hub, unless that is under way.
    pub(super) fn open(&self, shared: &Arc<Shared>, hub: HubId, endpoints: &[SocketAddr]) {
        let place = usize::from(hub.0);
        let mut open = self.lock();
        let (Some(slot), Some(key)) = (open.get_mut(place), self.hubs.get(place)) else {
            return;
        };
        if shared.closing.is_cancelled() {
            return;
        }
        if let Some(connection) = slot {
            // Its pool goes on by itself; the member wants to hear how it stands now.
            connection.again.notify_one();
            return;
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
                return;
            }
        };
        let config = PoolConfig {
            // Open before there is anything to say: that it is open is what the member waits for.
            warm_streams: 1,
            max_streams_per_peer: STREAMS_PER_HUB,
            contents: Contents::Opaque,
            ..PoolConfig::default()
        };
        let pool = match StreamPool::connect(Arc::new(opener), config, self.budget.clone()) {
            Ok(pool) => Arc::new(pool),
            Err(error) => {
                tracing::warn!(%error, "no streams to a hub");
                return;
            }
        };
        let again = Arc::new(Notify::new());
        let watch = tokio::spawn(watch(shared.clone(), hub, pool.clone(), again.clone()));
        *slot = Some(Connection { pool, watch, again });
        drop(open);
        shared.changed.notify_waiters();
    }

    /// Lets a connection go. Its pool ends when it has closed its streams.
    pub(super) fn close(&self, hub: HubId) {
        let connection = self
            .lock()
            .get_mut(usize::from(hub.0))
            .and_then(Option::take);
        if let Some(connection) = connection {
            connection.watch.abort();
            tokio::spawn(async move { connection.pool.close().await });
        }
    }

    /// Lets all go, and waits.
    pub(super) async fn close_all(&self) {
        let all: Vec<Connection> = self.lock().iter_mut().filter_map(Option::take).collect();
        for connection in all {
            connection.watch.abort();
            let _ = connection.watch.await;
            connection.pool.close().await;
        }
    }

    /// Sends a frame; `false` if there is no stream, or no room.
    pub(super) fn send(&self, hub: HubId, frame: &[u8]) -> bool {
        let open = self.lock();
        let Some(Some(connection)) = open.get(usize::from(hub.0)) else {
            return false;
        };
        let mut one = PacketBatch::new(1, 0);
        if one.push(Packet::from_slice(frame)).is_err() {
            return false;
        }
        let sent = connection
            .pool
            .try_send(&mut one, &mut DropCounters::default());
        sent.is_ok_and(|sent| sent == 1)
    }

    /// Gives up to `most` frames that came to `each`.
    pub(super) fn receive(&self, most: usize, mut each: impl FnMut(HubId, Packet)) {
        let mut left = most;
        for (hub, pool) in self.pools() {
            let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
            if left == 0 || pool.try_recv(&mut frames).is_err() {
                continue;
            }
            left = left.saturating_sub(frames.len());
            for packet in frames.packets_mut() {
                each(hub, std::mem::take(packet));
            }
            let count = frames.len();
            frames.recycle_front(count);
        }
    }

    /// Sockets and tasks.
    pub(super) fn count(&self) -> usize {
        self.lock().iter().flatten().count()
    }
}

/// Tells the member when the stream comes and goes, until it is closed.
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
        shared.finish(core, now);
        shared.changed.notify_waiters();
    }
}
