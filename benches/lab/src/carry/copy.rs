//! Forwarders to compare with, written as plainly as each task allows: one that only reads and
//! writes, and tun-rs's own that splits super-packets and merges packets. Neither looks anything up.

use std::io::{ErrorKind, IoSlice, IoSliceMut};

use tun_rs::{AsyncDevice, DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, VIRTIO_NET_HDR_LEN};

use super::{DEVICE, Words, in_far, ready};
use crate::Error;
use crate::ground::MTU;

/// Reads before another direction gets its turn: as many as the engine's batch.
const TURN: usize = vpn_core::PacketBatch::DEFAULT_CAPACITY;

/// Largest packet that is read.
const LARGEST: usize = 65_535;

fn device(offload: bool) -> Result<AsyncDevice, Error> {
    let device = DeviceBuilder::new()
        .name(DEVICE)
        .mtu(MTU)
        .offload(offload)
        .build_async()?;
    Ok(device)
}

fn both(words: &Words) -> Result<(AsyncDevice, AsyncDevice), Error> {
    let offload = words.offload();
    Ok((device(offload)?, in_far(words, move || device(offload))?))
}

/// Reads and writes, header and packet as they are. `batch=N` packets are read before any is written
/// (default 1).
pub(super) async fn null(words: &Words) -> Result<(), Error> {
    let (app, far) = both(words)?;
    let header = if words.offload() {
        VIRTIO_NET_HDR_LEN
    } else {
        0
    };
    let batch = words.get("batch").unwrap_or("1").parse()?;
    ready()?;
    let there = copy(&app, &far, header, batch);
    tokio::try_join!(there, copy(&far, &app, header, batch)).map(drop)
}

async fn copy(
    from: &AsyncDevice,
    to: &AsyncDevice,
    header: usize,
    batch: usize,
) -> Result<(), Error> {
    let mut packets = vec![(vec![0; LARGEST], [0; VIRTIO_NET_HDR_LEN], 0); batch];
    loop {
        from.readable().await?;
        for _ in 0..TURN / batch {
            let mut count = 0;
            for (body, vnet, length) in &mut packets {
                let mut parts = [IoSliceMut::new(&mut vnet[..header]), IoSliceMut::new(body)];
                let Ok(read) = from.try_recv_vectored(&mut parts) else {
                    break;
                };
                *length = read.saturating_sub(header);
                count += 1;
            }
            for (body, vnet, length) in &packets[..count] {
                let parts = [
                    IoSlice::new(&vnet[..header]),
                    IoSlice::new(&body[..*length]),
                ];
                // What the kernel refuses is lost, as in the engine; a full queue is waited for.
                while let Err(error) = to.try_send_vectored(&parts)
                    && error.kind() == ErrorKind::WouldBlock
                {
                    to.writable().await?;
                }
            }
            if count < batch {
                break;
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Splits what is read into packets and merges them again to write them, by tun-rs.
pub(super) async fn split_and_merge(words: &Words) -> Result<(), Error> {
    let (app, far) = both(words)?;
    ready()?;
    tokio::try_join!(pump(&app, &far), pump(&far, &app)).map(drop)
}

async fn pump(from: &AsyncDevice, to: &AsyncDevice) -> Result<(), Error> {
    let mut original = vec![0; VIRTIO_NET_HDR_LEN + LARGEST];
    let one = VIRTIO_NET_HDR_LEN + usize::from(MTU);
    // Packets are merged into the first of them, which needs the room.
    let mut packets: Vec<Vec<u8>> = (0..IDEAL_BATCH_SIZE)
        .map(|_| Vec::with_capacity(VIRTIO_NET_HDR_LEN + LARGEST))
        .collect();
    let mut sizes = vec![0; IDEAL_BATCH_SIZE];
    let mut merging = GROTable::default();
    loop {
        from.readable().await?;
        for _ in 0..TURN {
            for packet in &mut packets {
                // What merging made longer is cut; what was cut is cleared, as it must be in Rust.
                packet.resize(one, 0);
            }
            let read =
                from.try_recv_multiple(&mut original, &mut packets, &mut sizes, VIRTIO_NET_HDR_LEN);
            let Ok(count) = read else { break };
            for (packet, size) in packets.iter_mut().zip(&sizes[..count]) {
                packet.truncate(VIRTIO_NET_HDR_LEN + size);
            }
            // What the kernel refuses is lost.
            let _ = to
                .send_multiple(&mut merging, &mut packets[..count], VIRTIO_NET_HDR_LEN)
                .await;
        }
        tokio::task::yield_now().await;
    }
}
