//! Touches TUN devices: one that moves super-packets whole, with the kernel's vnet header.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::sync::Mutex;

use async_trait::async_trait;
use tun_rs::AsyncDevice;
use vpn_core::device::{DeviceCapabilities, DeviceError};
use vpn_core::packet::{Gso, Message, Parsed};
use vpn_core::{DropCounters, DropReason, Offload, Packet, PacketBatch, TunDevice};

/// Length of `virtio_net_hdr` as a TUN has it unless told otherwise.
pub(crate) const VNET: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// A TUN with or without offload. Reading copies each packet once, out of a buffer for the largest.
pub(crate) struct BenchTun {
    device: AsyncDevice,
    offload: bool,
    buffer: Mutex<Vec<u8>>,
}

impl std::fmt::Debug for BenchTun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BenchTun")
            .field("offload", &self.offload)
            .finish_non_exhaustive()
    }
}

impl BenchTun {
    pub(crate) fn new(device: AsyncDevice, offload: bool) -> Self {
        Self {
            device,
            offload,
            buffer: Mutex::new(vec![0; 65_535]),
        }
    }

    pub(crate) fn device(&self) -> &AsyncDevice {
        &self.device
    }

    fn read(&self, buffer: &mut [u8]) -> std::io::Result<(usize, Offload)> {
        if !self.offload {
            return Ok((self.device.try_recv(buffer)?, Offload::NONE));
        }
        let mut vnet = [0; VNET];
        let mut parts = [IoSliceMut::new(&mut vnet), IoSliceMut::new(buffer)];
        let length = self.device.try_recv_vectored(&mut parts)?;
        Ok((length.saturating_sub(VNET), decode(&vnet)))
    }

    fn write(&self, packet: &Packet) -> std::io::Result<usize> {
        if !self.offload {
            return self.device.try_send(packet.bytes());
        }
        let vnet = encode(packet);
        self.device
            .try_send_vectored(&[IoSlice::new(&vnet), IoSlice::new(packet.bytes())])
    }
}

fn decode(vnet: &[u8; VNET]) -> Offload {
    let size = u16::from_ne_bytes([vnet[4], vnet[5]]);
    Offload {
        gso: (vnet[1] & !GSO_ECN != 0).then_some(Gso { size }),
        partial_checksum: vnet[0] & NEEDS_CSUM != 0,
    }
}

fn encode(packet: &Packet) -> [u8; VNET] {
    let mut vnet = [0; VNET];
    let Ok(parsed) = Parsed::from_bytes(packet.bytes()) else {
        return vnet;
    };
    let tcp = matches!(parsed.message, Message::Tcp(_));
    if packet.offload.partial_checksum {
        let offset: u16 = if tcp { 16 } else { 6 };
        vnet[0] = NEEDS_CSUM;
        vnet[6..8].copy_from_slice(&parsed.transport.to_ne_bytes());
        vnet[8..10].copy_from_slice(&offset.to_ne_bytes());
    }
    if let Some(gso) = packet.offload.gso {
        vnet[1] = match (tcp, parsed.flow.src().is_ipv4()) {
            (true, true) => GSO_TCPV4,
            (true, false) => GSO_TCPV6,
            (false, _) => GSO_UDP_L4,
        };
        vnet[2..4].copy_from_slice(&parsed.payload.to_ne_bytes());
        vnet[4..6].copy_from_slice(&gso.size.to_ne_bytes());
    }
    vnet
}

#[async_trait]
impl TunDevice for BenchTun {
    fn capabilities(&self) -> DeviceCapabilities {
        let plain = DeviceCapabilities::plain(1500);
        if self.offload {
            plain.with_offload()
        } else {
            plain
        }
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        _: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        let before = batch.len();
        let Ok(mut buffer) = self.buffer.lock() else {
            return Ok(0);
        };
        while batch.push_with(|buf| {
            let (length, offload) = self.read(&mut buffer).ok()?;
            buf.extend_from_slice(&buffer[..length]);
            Some(offload)
        }) {}
        Ok(batch.len() - before)
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        let (mut gone, mut sent) = (0, 0);
        for packet in batch.packets() {
            match self.write(packet) {
                Ok(_) => sent += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => drops.count(DropReason::Refused),
            }
            gone += 1;
        }
        batch.recycle_front(gone);
        Ok(sent)
    }

    async fn readable(&self) -> Result<(), DeviceError> {
        Ok(self.device.readable().await?)
    }

    async fn writable(&self) -> Result<(), DeviceError> {
        Ok(self.device.writable().await?)
    }

    fn shutdown(&self) {}
}
