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

/// Reads and writes, header and packet as they are.
pub(super) async fn null(words: &Words) -> Result<(), Error> {
    let (app, far) = both(words)?;
    let header = if words.offload() {
        VIRTIO_NET_HDR_LEN
    } else {
        0
    };
    ready()?;
    tokio::try_join!(copy(&app, &far, header), copy(&far, &app, header)).map(drop)
}

async fn copy(from: &AsyncDevice, to: &AsyncDevice, header: usize) -> Result<(), Error> {
    let (mut vnet, mut buffer) = ([0; VIRTIO_NET_HDR_LEN], vec![0; LARGEST]);
    loop {
        from.readable().await?;
        for _ in 0..TURN {
            let read = from.try_recv_vectored(&mut [
                IoSliceMut::new(&mut vnet[..header]),
                IoSliceMut::new(&mut buffer),
            ]);
            let Ok(length) = read else { break };
            let body = &buffer[..length.saturating_sub(header)];
            // What the kernel refuses is lost, as in the engine; a full queue is waited for.
            while let Err(error) =
                to.try_send_vectored(&[IoSlice::new(&vnet[..header]), IoSlice::new(body)])
                && error.kind() == ErrorKind::WouldBlock
            {
                to.writable().await?;
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
    let mut packets = vec![vec![0; VIRTIO_NET_HDR_LEN + usize::from(MTU)]; IDEAL_BATCH_SIZE];
    let mut sizes = vec![0; IDEAL_BATCH_SIZE];
    let mut merging = GROTable::default();
    loop {
        from.readable().await?;
        for _ in 0..TURN {
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
            for packet in &mut packets {
                // Merging has made some longer; what grows again is cleared, as it must be in Rust.
                packet.resize(VIRTIO_NET_HDR_LEN + usize::from(MTU), 0);
            }
        }
        tokio::task::yield_now().await;
    }
}
