//! The SDK's own WireGuard transport as a server: packets between it and a TUN of the region.
//!
//! The TUN is tun-rs's, not the SDK's, so that a fault of the device under test does not hide
//! itself.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use tun_rs::{AsyncDevice, DeviceBuilder};
use vpn_core::packet::PacketBatch;
use vpn_core::{
    DropCounters, DropReason, Offload, TransportError, TunnelTransport, Underlay, UnderlayError,
};
use vpn_p2p::{WgQuick, WireGuardOptions, WireGuardTransport};

use crate::error::LabError;
use crate::namespace::{Namespace, RuntimeHandle};
use crate::provider::{Keys, RegionPlan};

/// Making a TUN and a socket takes milliseconds.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Packets moved at once.
const BATCH: usize = 64;

/// The server's interface, in every region: the namespace tells them apart.
pub(crate) const INTERFACE: &str = "wg0";

/// A running server. Dropping it closes its TUN and its socket.
#[derive(Debug)]
pub(crate) struct InProcess {
    wrong_source: Arc<AtomicU64>,
    _runtime: RuntimeHandle,
}

impl InProcess {
    pub(crate) fn start(
        plan: &RegionPlan,
        keys: &Keys,
        namespace: &Namespace,
    ) -> Result<Self, LabError> {
        let settings = plan.server_settings(keys);
        let wrong_source = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&wrong_source);
        let label = format!("the server of {}", plan.name);
        let (ready, started) = mpsc::channel();
        let mtu = plan.mtu;
        let runtime = namespace.runtime(move || async move {
            match open(&settings, mtu) {
                Ok((tunnel, device)) => {
                    let _ = ready.send(Ok(()));
                    tokio::select! {
                        _ = from_client(&tunnel, &device, &counter, mtu) => {}
                        _ = to_client(&tunnel, &device, mtu) => {}
                    }
                }
                Err(cause) => {
                    let _ = ready.send(Err(LabError::socket(label, cause)));
                }
            }
        })?;
        started
            .recv_timeout(START_LIMIT)
            .map_err(|_| LabError::Thread(plan.name.clone()))??;
        plan.set_up(namespace, INTERFACE)?;
        Ok(Self {
            wrong_source,
            _runtime: runtime,
        })
    }

    /// Packets that came with a source which was not handed out.
    pub(crate) fn drops(&self) -> u64 {
        self.wrong_source.load(Ordering::Relaxed)
    }
}

fn open(settings: &str, mtu: u16) -> io::Result<(WireGuardTransport, AsyncDevice)> {
    let device = DeviceBuilder::new()
        .name(INTERFACE)
        .mtu(mtu)
        .build_async()?;
    let config = WgQuick::parse("server", settings).map_err(io::Error::other)?;
    let tunnel = WireGuardTransport::new(config, Arc::new(Inside), WireGuardOptions::default())
        .map_err(io::Error::other)?;
    Ok((tunnel, device))
}

/// Until the tunnel closes.
async fn from_client(
    tunnel: &WireGuardTransport,
    device: &AsyncDevice,
    wrong_source: &AtomicU64,
    mtu: u16,
) -> Result<(), TransportError> {
    let mut batch = PacketBatch::new(BATCH, usize::from(mtu));
    loop {
        tunnel.readable().await?;
        let mut drops = DropCounters::default();
        tunnel.try_recv(&mut batch, &mut drops)?;
        let wrong = drops.get(DropReason::AddressNotAllowed);
        wrong_source.fetch_add(wrong, Ordering::Relaxed);
        for packet in batch.packets() {
            // The kernel refuses single packets, for instance malformed ones.
            let _ = device.send(packet.bytes()).await;
        }
        batch.clear();
    }
}

/// Until the tunnel or the device closes.
async fn to_client(
    tunnel: &WireGuardTransport,
    device: &AsyncDevice,
    mtu: u16,
) -> Result<(), TransportError> {
    let mut batch = PacketBatch::new(BATCH, usize::from(mtu));
    let mut buffer = vec![0; 65_536];
    let mut drops = DropCounters::default();
    loop {
        let length = device.recv(&mut buffer).await?;
        append(&mut batch, &buffer[..length]);
        while !batch.is_full()
            && let Ok(length) = device.try_recv(&mut buffer)
        {
            append(&mut batch, &buffer[..length]);
        }
        loop {
            tunnel.try_send(&mut batch, &mut drops)?;
            if batch.is_empty() {
                break;
            }
            tunnel.writable().await?;
        }
    }
}

fn append(batch: &mut PacketBatch, bytes: &[u8]) {
    batch.push_with(|buffer| {
        buffer.extend_from_slice(bytes);
        Some(Offload::NONE)
    });
}

/// Plain sockets of the namespace in which the server's thread is.
#[derive(Debug)]
struct Inside;

#[async_trait]
impl Underlay for Inside {
    fn udp(&self, local: SocketAddr) -> Result<UdpSocket, UnderlayError> {
        UdpSocket::bind(local)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .map_err(|cause| UnderlayError::Socket { local, cause })
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, UnderlayError> {
        let address: IpAddr = host.parse().map_err(|_| UnderlayError::Resolve {
            name: host.to_owned(),
            problem: "a lab has addresses only".to_owned(),
        })?;
        Ok(vec![SocketAddr::new(address, port)])
    }
}
