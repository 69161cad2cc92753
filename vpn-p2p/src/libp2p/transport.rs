//! The tunnel the engine sees: all members are behind it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use ipnet::IpNet;
use libp2p_stream::IncomingStreams;
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio::time::timeout;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vpn_core::{
    Assigned, DownCause, DropCounters, DropReason, NetworkEvent, Packet, PacketBatch, Parsed,
    PeerDirectory, PeerId, PeerRecord, Resources, StateSender, StateWatch, TransportCapabilities,
    TransportError, TransportState, TunnelTransport,
};

use super::addresses::{Addresses, Where};
use super::config::NodeError;
use super::key::from_libp2p;
use super::node::{Node, unix};
use super::opener::{Opener, PACKETS};
use crate::directory::Conflict;
use crate::streams::transport::fits;
use crate::streams::{DispatchConfig, Dispatcher, Overflow, PoolError, PoolStatus, StreamPool};

/// How long an address is asked about: less than packets wait.
const LOOKUP: Duration = Duration::from_millis(4500);

/// Pause before a node that has just arrived asks again who has an address.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// Addresses that are asked about at the same time; the others wait for their turn.
const LOOKUPS: usize = 64;

/// How long packets wait for a peer that is being connected.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a stream may wait until it is known who opened it.
const KNOWN: Duration = Duration::from_secs(10);

/// Streams that wait for that; further ones are refused, and opened again later.
const WAITING: usize = 256;

/// How long nobody may be connected before the tunnel is down.
const ALONE: Duration = Duration::from_secs(15);

/// How often what is over is thrown away.
const CLEAN_UP: Duration = Duration::from_secs(30);

/// Bytes a stream's task and buffers take, about, when nothing is queued.
const STREAM_BYTES: usize = 256 * 1024;

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
/// It is [`Up`](TransportState::Up) while a member is connected, and [`Down`](TransportState::Down) when
/// none is for 15 s. It recovers by itself.
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
    /// A record was learned.
    learned: Notify,
    turns: Semaphore,
    closing: CancellationToken,
    tasks: TaskTracker,
    counted: Mutex<(u64, u64)>,
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
    /// would wait for the answer in the way of others.
    ///
    /// Its tasks run on the current runtime until [`close`](TunnelTransport::close), which closes the
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
        let all = Addresses::new(own, networks.clone(), crate::directory::MAX_PEERS);
        let addresses = Arc::new(Mutex::new(all));
        let opener = Arc::new(Opener {
            node: node.clone(),
            directory: directory.clone(),
            addresses: addresses.clone(),
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
            turns: Semaphore::new(LOOKUPS),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            counted: Mutex::default(),
        });
        let heard = shared.node.heard();
        shared.spawn(hear(shared.clone(), heard));
        shared.spawn(accept(shared.clone(), incoming));
        shared.spawn(stand(shared.clone()));
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

    fn learn(&self, record: PeerRecord) {
        let conflicts = self.addresses().learn(record, unix());
        for conflict in conflicts.into_iter().flatten() {
            let Conflict {
                address,
                winner,
                losers,
            } = conflict;
            tracing::warn!(%address, %winner, ?losers, "several claim one address");
        }
        self.learned.notify_waiters();
    }

    /// Sends packets to one peer, in order; those it has no stream for yet wait for it.
    fn send(
        self: &Arc<Self>,
        all: &mut Addresses,
        peer: PeerId,
        packets: &mut [Packet],
        drops: &mut DropCounters,
    ) -> usize {
        let mut sent = 0;
        let mut rest = packets;
        if !all.is_connecting(peer) {
            let Ok(pool) = self.dispatcher.pool(peer) else {
                drops.add(DropReason::NoSession, rest.len() as u64);
                return 0;
            };
            let outcome = pool.send_slice(rest, drops, |packet| fits(self.mtu, packet));
            let (gone, taken) = outcome.unwrap_or((0, 0));
            rest = &mut rest[gone..];
            sent = taken;
        }
        let now = Instant::now();
        let mut is_first = false;
        for packet in rest.iter() {
            is_first |= all.hold_for(peer, packet, now);
        }
        sent += rest.len();
        if is_first {
            self.spawn(when_connected(self.clone(), peer));
        }
        sent
    }
}

#[async_trait]
impl TunnelTransport for Libp2pTransport {
    fn capabilities(&self) -> TransportCapabilities {
        TransportCapabilities::plain(self.shared.mtu).with_offload()
    }

    fn state(&self) -> StateWatch {
        self.shared.state.watch()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.check_open()?;
        let all = self.shared.addresses();
        let now = unix();
        let mut spoofed = 0;
        let received = self.shared.dispatcher.receive(batch, |peer, packet| {
            let reason = match Parsed::from_bytes(packet.bytes()) {
                Ok(parsed) if all.may_send(peer, parsed.flow.src(), now) => return true,
                Ok(_) => {
                    spoofed += 1;
                    DropReason::AddressNotAllowed
                }
                Err(_) => DropReason::Malformed,
            };
            drops.count(reason);
            false
        });
        drop(all);
        if spoofed > 0 {
            self.shared.counted().0 += spoofed;
        }
        received.map_err(|_| TransportError::Closed)
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.check_open()?;
        if !matches!(self.shared.state.get(), TransportState::Up(_)) {
            // Who is alone could ask nobody; what waited would be old when somebody comes.
            drops.add(DropReason::NoSession, batch.len() as u64);
            batch.clear();
            return Ok(0);
        }
        let (now, time) = (Instant::now(), unix());
        let mut all = self.shared.addresses();
        let packets = batch.packets_mut();
        let (mut at, mut sent) = (0, 0);
        while at < packets.len() {
            let destination = |packet: &Packet| packet.parse().ok().map(|p| p.flow.dst());
            let Some(to) = destination(&packets[at]) else {
                drops.count(DropReason::Malformed);
                at += 1;
                continue;
            };
            let run = packets[at..].iter();
            let run = run.take_while(|packet| destination(packet) == Some(to));
            let end = at + run.count().max(1);
            match all.find(to, now, time) {
                Where::Peer(peer) => {
                    let run = &mut packets[at..end];
                    sent += self.shared.send(&mut all, peer, run, drops);
                }
                step @ (Where::Ask | Where::Waits) => {
                    for packet in &packets[at..end] {
                        all.hold(to, packet, now);
                    }
                    sent += end - at;
                    if step == Where::Ask {
                        self.shared.counted().1 += 1;
                        self.shared.spawn(look_up(self.shared.clone(), to));
                    }
                }
                Where::Drop(reason) => drops.add(reason, (end - at) as u64),
            }
            at = end;
        }
        drop(all);
        batch.recycle_front(at);
        Ok(sent)
    }

    async fn readable(&self) -> Result<(), TransportError> {
        self.check_open()?;
        tokio::select! {
            // Who closes wakes both: it is the end that is told.
            biased;
            () = self.shared.closing.cancelled() => Err(TransportError::Closed),
            () = self.shared.dispatcher.readable() => Ok(()),
        }
    }

    async fn writable(&self) -> Result<(), TransportError> {
        // Nobody holds up the others: what one peer has no room for waits for it, or is dropped.
        self.check_open()
    }

    fn network_changed(&self, event: NetworkEvent) {
        self.shared.node.network_changed();
        for (_, pool) in self.shared.dispatcher.peers() {
            pool.network_changed(event);
        }
        if event == NetworkEvent::Lost {
            let down = TransportState::Down(DownCause::NoAnswer);
            self.shared.state.set(down);
        }
    }

    fn resources(&self) -> Resources {
        let pools = self.shared.dispatcher.peers();
        let mut resources = Resources::default();
        for (_, pool) in &pools {
            let status = pool.status();
            let streams = status.streams + usize::from(status.probes[0] > 0);
            resources.tasks += streams + 1;
            resources.bytes += streams * STREAM_BYTES + status.waiting_bytes + status.inbound_bytes;
        }
        let links = self.shared.node.status().peers;
        resources.descriptors = 4 + links.len();
        resources.tasks += 5 + links.len();
        resources
    }

    async fn close(&self) {
        self.shared.closing.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.dispatcher.close().await;
        self.shared.node.close().await;
        self.shared.state.set(TransportState::Closed);
    }
}

impl Drop for Libp2pTransport {
    fn drop(&mut self) {
        self.shared.closing.cancel();
    }
}

/// Learns what peers say about themselves.
async fn hear(shared: Arc<Shared>, mut heard: broadcast::Receiver<PeerRecord>) {
    loop {
        match heard.recv().await {
            Ok(record) => shared.learn(record),
            // They say it again, or the directory does.
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "more records than could be taken");
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Gives streams that peers opened to their pools, once it is known whose addresses they may use.
async fn accept(shared: Arc<Shared>, mut incoming: IncomingStreams) {
    let room = Arc::new(Semaphore::new(WAITING));
    while let Some((name, stream)) = incoming.next().await {
        let (Some(peer), Ok(permit)) = (from_libp2p(&name), room.clone().try_acquire_owned())
        else {
            continue;
        };
        let accepting = shared.clone();
        shared.spawn(async move {
            let _permit = permit;
            let known = async {
                accepting.node.admitted(peer).await;
                is_known(&accepting, peer).await;
            };
            if timeout(KNOWN, known).await.is_err() {
                tracing::debug!(%peer, "a stream of somebody unknown is refused");
            } else if let Err(error) = accepting.dispatcher.accept(peer, Box::new(stream.compat()))
            {
                tracing::debug!(%peer, %error, "a stream is refused");
            }
        });
    }
}

/// Until there is a record of this peer.
async fn is_known(shared: &Shared, peer: PeerId) {
    loop {
        let learned = shared.learned.notified();
        tokio::pin!(learned);
        learned.as_mut().enable();
        if shared.addresses().record(peer, unix()).is_some() {
            return;
        }
        learned.await;
    }
}

/// Asks who has this address; what waits for it goes on.
async fn look_up(shared: Arc<Shared>, address: IpAddr) {
    let asking = async {
        loop {
            let turn = shared.turns.acquire().await;
            let found = shared.directory.resolve_address(address).await;
            drop(turn);
            let is_nobody = found.as_ref().is_ok_and(Vec::is_empty);
            // Who has just arrived does not know who to ask yet.
            if is_nobody && shared.node.is_new() {
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            }
            return found;
        }
    };
    match timeout(LOOKUP, asking).await {
        Ok(Ok(records)) => {
            for record in records {
                match shared.node.believe(record) {
                    Ok((valid, _)) => shared.learn(valid.into_record()),
                    Err(error) => tracing::warn!(%address, %error, "a record is not believed"),
                }
            }
        }
        Ok(Err(error)) => tracing::debug!(%address, %error, "nobody says who has this address"),
        Err(_) => tracing::debug!(%address, "the directory took too long"),
    }
    let mut all = shared.addresses();
    if let Some((peer, mut waited)) = all.answered(address, Instant::now(), unix()) {
        let mut drops = DropCounters::default();
        shared.send(&mut all, peer, &mut waited, &mut drops);
        all.holding.drops.merge(&drops);
    }
}

/// Sends what waits for a peer once it is connected.
async fn when_connected(shared: Arc<Shared>, peer: PeerId) {
    let ready = async {
        let pool = shared.dispatcher.pool(peer).ok()?;
        pool.writable().await.ok()?;
        Some(pool)
    };
    let Ok(Some(pool)) = timeout(CONNECT, ready).await else {
        shared.addresses().not_connected(peer);
        return;
    };
    loop {
        let mut all = shared.addresses();
        let mut waited = all.connected(peer);
        if waited.is_empty() {
            return;
        }
        let mut drops = DropCounters::default();
        let left = send_all(&shared, &pool, &mut waited, &mut drops);
        // It is gone again already.
        drops.add(DropReason::NoSession, left as u64);
        all.holding.drops.merge(&drops);
    }
}

fn send_all(
    shared: &Shared,
    pool: &StreamPool,
    packets: &mut [Packet],
    drops: &mut DropCounters,
) -> usize {
    let sent = pool.send_slice(packets, drops, |packet| fits(shared.mtu, packet));
    packets.len() - sent.map_or(0, |(gone, _)| gone)
}

/// Says where the tunnel stands.
async fn stand(shared: Arc<Shared>) {
    let node = shared.node.shared();
    loop {
        // Enabled before it is looked, so that nobody who comes in between is missed.
        let changed = node.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if !node.standing().admitted.is_empty() {
            let up = TransportState::Up(shared.assigned.clone());
            shared.state.set(up);
            changed.await;
        } else if timeout(ALONE, changed).await.is_err() && node.standing().admitted.is_empty() {
            shared.state.set(TransportState::Down(DownCause::NoAnswer));
        }
    }
}

async fn clean_up(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(CLEAN_UP).await;
        shared.addresses().clean_up(Instant::now(), unix());
    }
}
