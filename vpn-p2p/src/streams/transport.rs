//! A tunnel whose packets go over the streams to one peer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use vpn_core::{
    Assigned, DropCounters, DropReason, NetworkEvent, Packet, PacketBatch, Parsed, Resources,
    StateWatch, TransportCapabilities, TransportError, TunnelTransport,
};

use super::budget::Budget;
use super::config::PoolConfig;
use super::peer::{PoolError, StreamPool};
use super::pool::PoolStatus;
use super::stream::{Stream, StreamOpener};

/// Bytes a stream's task and buffers take, about, when nothing is queued.
const STREAM_BYTES: usize = 256 * 1024;

/// What a tunnel over streams is for.
#[derive(Clone, Debug)]
pub struct StreamTunnel {
    /// What this end was given: the addresses, and the MTU, which is that of both ends' interfaces.
    pub assigned: Assigned,
    /// Sources that the peer may use. What it sends from elsewhere is dropped, `address_not_allowed`;
    /// none at all lets nothing in.
    pub allowed: Vec<IpNet>,
    /// Bounds and thresholds.
    pub config: PoolConfig,
}

/// A tunnel over the streams to one peer. Super-packets cross whole.
///
/// It is [`Up`](vpn_core::TransportState::Up) while a stream is open that the peer has answered on.
/// What was sent and got lost with a stream is counted in [`status`](Self::status) only.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use vpn_core::{Assigned, TransportState, TunnelTransport};
/// use vpn_p2p::streams::{Budget, PoolConfig, StreamTransport, StreamTunnel, memory};
///
/// let tunnel = StreamTunnel {
///     assigned: Assigned { mtu: 1400, ..Assigned::default() },
///     allowed: vec!["0.0.0.0/0".parse()?],
///     config: PoolConfig::default(),
/// };
/// let (opener, listener) = memory::memory(64 * 1024);
/// let near = StreamTransport::connect(Arc::new(opener), tunnel.clone(), Budget::new(8 << 20))?;
/// let far = StreamTransport::listen(tunnel, Budget::new(8 << 20))?;
/// far.accept(Box::new(listener.accept().await.ok_or("the opener is gone")?))?;
/// let mut state = near.state();
/// while !matches!(state.next().await, TransportState::Up(_)) {}
/// near.close().await;
/// far.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct StreamTransport {
    pool: StreamPool,
    allowed: Vec<IpNet>,
    mtu: u16,
}

impl StreamTransport {
    /// A tunnel to a peer that streams can be opened to.
    ///
    /// # Errors
    ///
    /// [`PoolError`]. A peer that cannot be reached is a state.
    pub fn connect(
        opener: Arc<dyn StreamOpener>,
        tunnel: StreamTunnel,
        budget: Budget,
    ) -> Result<Self, PoolError> {
        Self::start(Some(opener), tunnel, budget)
    }

    /// A tunnel to a peer that opens the streams: give them to [`accept`](Self::accept).
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn listen(tunnel: StreamTunnel, budget: Budget) -> Result<Self, PoolError> {
        Self::start(None, tunnel, budget)
    }

    fn start(
        opener: Option<Arc<dyn StreamOpener>>,
        tunnel: StreamTunnel,
        budget: Budget,
    ) -> Result<Self, PoolError> {
        let StreamTunnel {
            assigned,
            allowed,
            config,
        } = tunnel;
        let mtu = assigned.mtu;
        let pool = StreamPool::start(opener, config, budget, assigned, None)?;
        Ok(Self { pool, allowed, mtu })
    }

    /// Takes a stream that the peer opened, which has proven who it is.
    ///
    /// # Errors
    ///
    /// [`PoolError::Closed`] and [`PoolError::Greeting`]; the stream is closed then.
    pub fn accept(&self, stream: Box<dyn Stream>) -> Result<(), PoolError> {
        self.pool.accept(stream)
    }

    /// What it has done, and how it stands.
    pub fn status(&self) -> PoolStatus {
        self.pool.status()
    }

    fn may_send_from(&self, source: IpAddr) -> bool {
        self.allowed.iter().any(|net| net.contains(&source))
    }
}

/// Whether it fits into a tunnel of this MTU: of a super-packet its segments have to.
pub(crate) fn fits(mtu: u16, packet: &Packet) -> bool {
    let mtu = usize::from(mtu);
    if packet.len() <= mtu {
        return true;
    }
    let (Some(gso), Ok(parsed)) = (packet.offload.gso, packet.parse()) else {
        return false;
    };
    usize::from(parsed.payload) + usize::from(gso.size) <= mtu
}

#[async_trait]
impl TunnelTransport for StreamTransport {
    fn capabilities(&self) -> TransportCapabilities {
        TransportCapabilities::plain(self.mtu).with_offload()
    }

    fn state(&self) -> StateWatch {
        self.pool.state()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.pool.receive(batch, |packet| {
            let reason = match Parsed::from_bytes(packet.bytes()) {
                Ok(parsed) if self.may_send_from(parsed.flow.src()) => return true,
                Ok(_) => DropReason::AddressNotAllowed,
                Err(_) => DropReason::Malformed,
            };
            drops.count(reason);
            false
        })
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.pool
            .send(batch, drops, |packet| fits(self.mtu, packet))
    }

    async fn readable(&self) -> Result<(), TransportError> {
        self.pool.readable().await
    }

    async fn writable(&self) -> Result<(), TransportError> {
        self.pool.writable().await
    }

    async fn close(&self) {
        self.pool.close().await;
    }

    fn network_changed(&self, event: NetworkEvent) {
        self.pool.network_changed(event);
    }

    fn round_trip(&self) -> Option<Duration> {
        self.pool.status().round_trip
    }

    fn resources(&self) -> Resources {
        let (status, running) = (self.pool.status(), self.pool.is_running());
        let streams = status.streams + usize::from(status.probes[0] > 0);
        let mut resources = Resources::default();
        resources.descriptors = streams;
        resources.tasks = streams + usize::from(running);
        resources.bytes = streams * STREAM_BYTES + status.waiting_bytes + status.inbound_bytes;
        resources
    }
}
