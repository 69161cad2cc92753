//! Touches packets: to whom they go, whose are let in, what waits for whom.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::time::timeout;
use vpn_core::{
    DropCounters, DropReason, NetworkEvent, Packet, PacketBatch, Parsed, PeerId, Resources,
    StateWatch, TransportCapabilities, TransportError, TransportState, TunnelTransport,
};

use super::{Libp2pTransport, Shared, below};
use crate::libp2p::addresses::{Addresses, Where};
use crate::libp2p::node::unix;
use crate::streams::StreamPool;
use crate::streams::transport::fits;

/// How long packets wait for a peer that is being connected.
const CONNECT: Duration = Duration::from_secs(5);

/// Bytes a stream's task and buffers take, about, when nothing is queued.
const STREAM_BYTES: usize = 256 * 1024;

/// Tasks of a tunnel, beside those of streams.
const TASKS: usize = 8;

impl Shared {
    /// Sends packets to one peer, in order; those it has no stream for yet wait for it.
    pub(super) fn send(
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
        let mut all = self.shared.addresses();
        let (now, time) = (Instant::now(), unix());
        let mut spoofed = 0;
        let received = self.shared.dispatcher.receive(batch, |peer, packet| {
            let reason = match Parsed::from_bytes(packet.bytes()) {
                Ok(parsed) if all.may_send(peer, parsed.flow.src(), now, time) => return true,
                Ok(_) => {
                    spoofed += 1;
                    DropReason::AddressNotAllowed
                }
                Err(_) => DropReason::Malformed,
            };
            drops.count(reason);
            false
        });
        self.shared.settle(&all);
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
                Where::Waits => {
                    for packet in &packets[at..end] {
                        all.hold(to, packet, now);
                    }
                    sent += end - at;
                }
                Where::Drop(reason) => drops.add(reason, (end - at) as u64),
            }
            at = end;
        }
        self.shared.settle(&all);
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
        below::changed(&self.shared, event);
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
        resources.tasks += TASKS + links.len();
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

/// Sends what waits for a peer once it is connected.
async fn when_connected(shared: Arc<Shared>, peer: PeerId) {
    let ready = async {
        let pool = shared.dispatcher.pool(peer).ok()?;
        pool.writable().await.ok()?;
        Some(pool)
    };
    let Ok(Some(pool)) = timeout(CONNECT, ready).await else {
        let mut all = shared.addresses();
        all.not_connected(peer, Instant::now(), unix());
        shared.settle(&all);
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
