//! A device whose applications are the test.

use std::sync::Arc;

use async_trait::async_trait;

use super::queue::{InjectError, Queue};
use crate::device::{DeviceCapabilities, DeviceError, TunDevice};
use crate::packet::{Offload, Packet, PacketBatch};
use crate::verdict::{DropCounters, DropReason};

#[derive(Debug)]
struct Shared {
    /// From applications to the reader of the device.
    outbound: Queue,
    /// From the writer of the device to applications.
    inbound: Queue,
    capabilities: DeviceCapabilities,
}

impl Shared {
    fn close(&self) {
        self.outbound.close();
        self.inbound.close();
    }
}

/// A device in memory: made by [`memory_device`].
#[derive(Debug)]
pub struct MemoryDevice(Arc<Shared>);

/// The applications behind a [`MemoryDevice`].
#[derive(Clone, Debug)]
pub struct AppSide(Arc<Shared>);

/// A device without offload, and the side that plays its applications. Each direction holds up
/// to `capacity` packets; `mtu` is in bytes.
pub fn memory_device(capacity: usize, mtu: u16) -> (MemoryDevice, AppSide) {
    memory_device_with(capacity, DeviceCapabilities::plain(mtu))
}

/// A device with these capabilities, and the side that plays its applications.
pub fn memory_device_with(
    capacity: usize,
    capabilities: DeviceCapabilities,
) -> (MemoryDevice, AppSide) {
    let shared = Arc::new(Shared {
        outbound: Queue::new(capacity),
        inbound: Queue::new(capacity),
        capabilities,
    });
    (MemoryDevice(shared.clone()), AppSide(shared))
}

impl AppSide {
    /// An application sends a packet.
    ///
    /// # Errors
    ///
    /// [`InjectError`] with the packet, if the queue is full or the device closed.
    pub fn inject(&self, bytes: &[u8]) -> Result<(), InjectError> {
        self.inject_packet(Packet::from_slice(bytes))
    }

    /// An application sends a packet, possibly a super-packet or one with a partial checksum.
    ///
    /// # Errors
    ///
    /// As [`inject`](Self::inject).
    pub fn inject_packet(&self, packet: Packet) -> Result<(), InjectError> {
        self.0.outbound.push(packet)
    }

    /// As [`inject_packet`](Self::inject_packet), but waits while the queue is full.
    ///
    /// # Errors
    ///
    /// [`InjectError::Closed`] once the device is closed.
    pub async fn inject_wait(&self, packet: Packet) -> Result<(), InjectError> {
        self.0.outbound.push_wait(packet).await
    }

    /// The next packet that was delivered to applications, if there is one.
    pub fn take(&self) -> Option<Packet> {
        self.0.inbound.pop()
    }

    /// Waits for the next packet; `None` once the device is closed and everything was taken.
    /// Cancel-safe.
    pub async fn take_wait(&self) -> Option<Packet> {
        self.0.inbound.pop_wait().await
    }

    /// Packets injected that the device's reader has not taken yet.
    pub fn unread(&self) -> usize {
        self.0.outbound.len()
    }

    /// The system takes the device away: like [`TunDevice::shutdown`], from below.
    pub fn close(&self) {
        self.0.close();
    }
}

impl MemoryDevice {
    fn check(&self) -> Result<(), DeviceError> {
        if self.0.inbound.is_closed() {
            return Err(DeviceError::Closed);
        }
        Ok(())
    }

    fn refusal(&self, packet: &Packet) -> Option<DropReason> {
        let capabilities = self.0.capabilities;
        if packet.len() > capabilities.max_packet as usize {
            Some(DropReason::TooBig)
        } else if packet.offload != Offload::NONE && !capabilities.offload {
            Some(DropReason::Refused)
        } else {
            None
        }
    }
}

#[async_trait]
impl TunDevice for MemoryDevice {
    fn capabilities(&self) -> DeviceCapabilities {
        self.0.capabilities
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        _drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        self.check()?;
        Ok(self.0.outbound.pop_into(batch))
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        self.check()?;
        let (mut gone, mut sent) = (0, 0);
        for packet in batch.packets() {
            if let Some(reason) = self.refusal(packet) {
                drops.count(reason);
            } else if self.0.inbound.push(packet.shrunk()).is_ok() {
                sent += 1;
            } else {
                break;
            }
            gone += 1;
        }
        batch.recycle_front(gone);
        Ok(sent)
    }

    async fn readable(&self) -> Result<(), DeviceError> {
        self.check()?;
        self.0.outbound.readable().await;
        self.check()
    }

    async fn writable(&self) -> Result<(), DeviceError> {
        self.check()?;
        self.0.inbound.writable().await;
        self.check()
    }

    fn shutdown(&self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::build;

    fn send(device: &MemoryDevice, packets: &[&[u8]], drops: &mut DropCounters) -> (usize, usize) {
        let mut batch = PacketBatch::new(8, 1500);
        for bytes in packets {
            assert!(batch.push(Packet::from_slice(bytes)).is_ok());
        }
        let sent = device.try_send(&mut batch, drops).unwrap();
        (sent, batch.len())
    }

    #[test]
    fn a_full_queue_leaves_the_rest_to_the_caller_in_order() {
        let (device, apps) = memory_device(2, 1500);
        let packets: Vec<_> = (0..4)
            .map(|i| build::udp("10.0.0.1:1", "10.0.0.2:2", &[i]))
            .collect();
        let slices: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        let mut drops = DropCounters::default();
        assert_eq!(send(&device, &slices, &mut drops), (2, 2));
        assert_eq!(apps.take().unwrap().bytes(), slices[0]);
        assert_eq!(apps.take().unwrap().bytes(), slices[1]);
        assert!(apps.take().is_none());
        assert_eq!(drops.total(), 0);
    }

    #[test]
    fn one_bad_packet_leaves_its_batch_mates() {
        let (device, apps) = memory_device(8, 60);
        let big = build::udp("10.0.0.1:1", "10.0.0.2:2", &[0; 100]);
        let good = build::udp("10.0.0.1:1", "10.0.0.2:2", &[0; 10]);
        let mut drops = DropCounters::default();
        assert_eq!(send(&device, &[&big, &good], &mut drops), (1, 0));
        assert_eq!(drops.get(DropReason::TooBig), 1);
        assert_eq!(apps.take().unwrap().bytes(), good);
    }

    #[tokio::test]
    async fn shutdown_wakes_pending_readers_and_is_idempotent() {
        let (device, apps) = memory_device(1, 1500);
        let device = Arc::new(device);
        let reader = tokio::spawn({
            let device = device.clone();
            async move { device.readable().await }
        });
        tokio::task::yield_now().await;
        device.shutdown();
        device.shutdown();
        assert!(matches!(reader.await.unwrap(), Err(DeviceError::Closed)));
        assert!(matches!(device.writable().await, Err(DeviceError::Closed)));
        assert!(apps.take_wait().await.is_none());
        assert!(matches!(apps.inject(&[0x45]), Err(InjectError::Closed(_))));
    }

    #[tokio::test]
    async fn a_waiting_application_goes_on_when_the_device_reads() {
        let (device, apps) = memory_device(1, 1500);
        apps.inject(b"one").unwrap();
        let waiting = tokio::spawn({
            let apps = apps.clone();
            async move { apps.inject_wait(Packet::from_slice(b"two")).await }
        });
        tokio::task::yield_now().await;
        let mut batch = PacketBatch::new(4, 1500);
        let drops = &mut DropCounters::default();
        assert_eq!(device.try_recv(&mut batch, drops).unwrap(), 1);
        waiting.await.unwrap().unwrap();
        device.readable().await.unwrap();
        assert_eq!(device.try_recv(&mut batch, drops).unwrap(), 1);
        assert_eq!(batch.packets()[1].bytes(), b"two");
    }
}
