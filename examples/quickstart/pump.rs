//! Moves packets between a provider's WireGuard server and its device.

use std::sync::{Mutex, PoisonError};

use vpn_core::{DropCounters, PacketBatch, TunDevice, TunnelTransport};

/// Largest packet, in bytes: the device's MTU, with room.
const LARGEST: usize = 1600;

/// Moves packets both ways until one of both ends fails or is closed. What is dropped of the
/// client's packets is added to `drops`.
pub(crate) async fn between(
    transport: &impl TunnelTransport,
    device: &impl TunDevice,
    drops: &Mutex<DropCounters>,
) {
    tokio::select! {
        _ = inwards(transport, device, drops) => {}
        _ = outwards(transport, device) => {}
    }
}

/// One end does not work any more.
struct Over;

async fn inwards(
    transport: &impl TunnelTransport,
    device: &impl TunDevice,
    drops: &Mutex<DropCounters>,
) -> Result<(), Over> {
    let mut batch = PacketBatch::new(PacketBatch::DEFAULT_CAPACITY, LARGEST);
    loop {
        let mut dropped = DropCounters::default();
        transport.readable().await.map_err(|_| Over)?;
        transport
            .try_recv(&mut batch, &mut dropped)
            .map_err(|_| Over)?;
        while !batch.is_empty() {
            device
                .try_send(&mut batch, &mut dropped)
                .map_err(|_| Over)?;
            if !batch.is_empty() {
                device.writable().await.map_err(|_| Over)?;
            }
        }
        drops
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .merge(&dropped);
    }
}

async fn outwards(transport: &impl TunnelTransport, device: &impl TunDevice) -> Result<(), Over> {
    let mut batch = PacketBatch::new(PacketBatch::DEFAULT_CAPACITY, LARGEST);
    // Not the client's: what the device sends by itself, such as router solicitations.
    let mut dropped = DropCounters::default();
    loop {
        device.readable().await.map_err(|_| Over)?;
        device
            .try_recv(&mut batch, &mut dropped)
            .map_err(|_| Over)?;
        while !batch.is_empty() {
            transport
                .try_send(&mut batch, &mut dropped)
                .map_err(|_| Over)?;
            if !batch.is_empty() {
                transport.writable().await.map_err(|_| Over)?;
            }
        }
    }
}
