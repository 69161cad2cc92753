//! What forwards between the two devices: an engine, or a loop that only reads and writes.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::sync::Arc;

use async_trait::async_trait;
use tun_rs::AsyncDevice;
use vpn_benches::world::everything_to;
use vpn_core::device::{DeviceError, TunDevice};
use vpn_core::{
    Assigned, DropCounters, PacketBatch, StateSender, StateWatch, TransportCapabilities,
    TransportError, TransportState, TunnelTransport,
};
use vpn_routing::RouterConfig;
use vpn_routing::engine::Engine;
use vpn_routing::owner::MemoryOwners;
use vpn_routing::rules::RuleCache;

use super::device::{BenchTun, VNET};
use super::lab::ASSIGNED;

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Reads and writes, looks at nothing.
    Null,
    /// An engine, with connections and translation on.
    Engine,
}

impl Contender {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Null => "null forwarder",
            Self::Engine => "engine, NAT",
        }
    }

    /// Forwards until it is dropped.
    pub(crate) async fn forward(self, app: BenchTun, server: BenchTun, offload: bool) {
        match self {
            Self::Null => {
                let (app, server) = (app.device(), server.device());
                tokio::join!(copy(app, server, offload), copy(server, app, offload));
            }
            Self::Engine => engine(app, server).await,
        }
    }
}

/// Moves what can be read; a packet that cannot be written is lost, as in the engine.
async fn copy(from: &AsyncDevice, to: &AsyncDevice, offload: bool) {
    let (mut vnet, mut buffer) = ([0; VNET], vec![0; 65_535]);
    let header = if offload { VNET } else { 0 };
    while from.readable().await.is_ok() {
        // As many as the engine moves before it yields.
        for _ in 0..PacketBatch::DEFAULT_CAPACITY {
            let read = from.try_recv_vectored(&mut [
                IoSliceMut::new(&mut vnet[..header]),
                IoSliceMut::new(&mut buffer),
            ]);
            let Ok(length) = read else { break };
            let body = &buffer[..length.saturating_sub(header)];
            loop {
                let parts = [IoSlice::new(&vnet[..header]), IoSlice::new(body)];
                match to.try_send_vectored(&parts) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if to.writable().await.is_err() {
                            return;
                        }
                    }
                    _ => break,
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn engine(app: BenchTun, server: BenchTun) {
    let rules = RuleCache::new();
    let config = RouterConfig {
        queue_packets: 128,
        ..RouterConfig::default()
    };
    let owners = Arc::new(MemoryOwners::new());
    let mut engine = Engine::new(Arc::new(app), owners, rules.clone(), config);
    let Ok(tunnel) = engine.add_tunnel("server", Arc::new(Tunnel::new(server))) else {
        return;
    };
    rules.swap(everything_to("server", tunnel));
    let _ = engine.run().await;
}

/// A device behind the interface of a tunnel.
#[derive(Debug)]
struct Tunnel {
    device: BenchTun,
    state: StateSender,
}

impl Tunnel {
    fn new(device: BenchTun) -> Self {
        let state = StateSender::new();
        state.set(TransportState::Up(Arc::new(Assigned {
            addresses: vec![ipnet::Ipv4Net::from(ASSIGNED).into()],
            mtu: 1500,
            ..Assigned::default()
        })));
        Self { device, state }
    }
}

fn error(error: DeviceError) -> TransportError {
    match error {
        DeviceError::Io(error) => TransportError::Io(error),
        _ => TransportError::Closed,
    }
}

#[async_trait]
impl TunnelTransport for Tunnel {
    fn capabilities(&self) -> TransportCapabilities {
        TransportCapabilities::plain(1500).with_offload()
    }

    fn state(&self) -> StateWatch {
        self.state.watch()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.device.try_recv(batch, drops).map_err(error)
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.device.try_send(batch, drops).map_err(error)
    }

    async fn readable(&self) -> Result<(), TransportError> {
        self.device.readable().await.map_err(error)
    }

    async fn writable(&self) -> Result<(), TransportError> {
        self.device.writable().await.map_err(error)
    }

    async fn close(&self) {
        self.state.set(TransportState::Closed);
    }
}
