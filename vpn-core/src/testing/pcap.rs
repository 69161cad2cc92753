//! A tap that writes what passes to a capture file.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::VirtualClock;
use crate::device::{DeviceCapabilities, DeviceError, TunDevice};
use crate::network::NetworkEvent;
use crate::packet::PacketBatch;
use crate::transport::{StateWatch, TransportCapabilities, TransportError, TunnelTransport};
use crate::verdict::DropCounters;

/// Raw IP, the version in the first nibble (tcpdump.org link types).
const LINKTYPE_RAW: u32 = 101;
/// Classic pcap, microseconds.
const MAGIC: u32 = 0xa1b2_c3d4;
/// Largest packet written whole, in bytes: no IP packet of ours is larger.
const SNAP_LEN: u32 = 0xffff;

/// Writes every packet that passes a device or transport, in both directions, to a classic pcap
/// file (LINKTYPE_RAW) that tcpdump and Wireshark read. Time stamps are the clock's.
///
/// A packet offered and not taken is written when it is taken; one that is dropped below is
/// written too. The first error of the writer ends the capture and not the traffic:
/// [`finish`](Self::finish) returns it.
pub struct PcapTap<T, W> {
    inner: T,
    clock: VirtualClock,
    out: Mutex<io::Result<W>>,
}

impl<T: fmt::Debug, W> fmt::Debug for PcapTap<T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcapTap")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<T, W: Write> PcapTap<T, W> {
    /// A tap around `inner`; writes the file header at once.
    pub fn new(inner: T, clock: VirtualClock, mut out: W) -> Self {
        let mut header = Vec::with_capacity(24);
        header.extend(MAGIC.to_le_bytes());
        header.extend([2, 0, 4, 0]);
        header.extend([0; 8]);
        header.extend(SNAP_LEN.to_le_bytes());
        header.extend(LINKTYPE_RAW.to_le_bytes());
        let out = out.write_all(&header).map(|()| out);
        Self {
            inner,
            clock,
            out: Mutex::new(out),
        }
    }

    /// Ends the capture.
    ///
    /// # Errors
    ///
    /// The first error the writer had.
    pub fn finish(self) -> io::Result<(T, W)> {
        let out = self.out.into_inner();
        let mut out = out.unwrap_or_else(PoisonError::into_inner)?;
        out.flush()?;
        Ok((self.inner, out))
    }

    fn record(&self, at: Duration, bytes: &[u8]) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(writer) = out.as_mut() else { return };
        let kept = &bytes[..bytes.len().min(SNAP_LEN as usize)];
        let mut record = Vec::with_capacity(16 + kept.len());
        record.extend((at.as_secs() as u32).to_le_bytes());
        record.extend(at.subsec_micros().to_le_bytes());
        record.extend((kept.len() as u32).to_le_bytes());
        record.extend((bytes.len() as u32).to_le_bytes());
        record.extend(kept);
        if let Err(error) = writer.write_all(&record) {
            *out = Err(error);
        }
    }

    fn received<E>(
        &self,
        batch: &mut PacketBatch,
        receive: impl FnOnce(&mut PacketBatch) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let before = batch.len();
        let count = receive(batch)?;
        let at = self.clock.elapsed();
        for packet in batch.packets().iter().skip(before) {
            self.record(at, packet.bytes());
        }
        Ok(count)
    }

    fn sent<E>(
        &self,
        batch: &mut PacketBatch,
        send: impl FnOnce(&mut PacketBatch) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let copies: Vec<_> = batch.packets().iter().map(|p| p.shrunk()).collect();
        let count = send(batch)?;
        let at = self.clock.elapsed();
        let taken = copies.len().saturating_sub(batch.len());
        for packet in &copies[..taken] {
            self.record(at, packet.bytes());
        }
        Ok(count)
    }
}

#[async_trait]
impl<T: TunDevice, W: Write + Send> TunDevice for PcapTap<T, W> {
    fn capabilities(&self) -> DeviceCapabilities {
        self.inner.capabilities()
    }
    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        self.received(batch, |batch| self.inner.try_recv(batch, drops))
    }
    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        self.sent(batch, |batch| self.inner.try_send(batch, drops))
    }
    async fn readable(&self) -> Result<(), DeviceError> {
        self.inner.readable().await
    }
    async fn writable(&self) -> Result<(), DeviceError> {
        self.inner.writable().await
    }
    fn shutdown(&self) {
        self.inner.shutdown();
    }
}

#[async_trait]
impl<T: TunnelTransport, W: Write + Send> TunnelTransport for PcapTap<T, W> {
    fn capabilities(&self) -> TransportCapabilities {
        self.inner.capabilities()
    }
    fn state(&self) -> StateWatch {
        self.inner.state()
    }
    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.received(batch, |batch| self.inner.try_recv(batch, drops))
    }
    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.sent(batch, |batch| self.inner.try_send(batch, drops))
    }
    async fn readable(&self) -> Result<(), TransportError> {
        self.inner.readable().await
    }
    async fn writable(&self) -> Result<(), TransportError> {
        self.inner.writable().await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
    fn wake(&self) {
        self.inner.wake();
    }
    fn rest(&self) {
        self.inner.rest();
    }
    fn network_changed(&self, event: NetworkEvent) {
        self.inner.network_changed(event);
    }
    fn idle_limit(&self) -> Option<Duration> {
        self.inner.idle_limit()
    }
    fn resources(&self) -> crate::Resources {
        self.inner.resources()
    }

    fn round_trip(&self) -> Option<Duration> {
        self.inner.round_trip()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{build, memory_device};

    #[test]
    fn a_capture_has_header_time_and_bytes() {
        let (device, apps) = memory_device(4, 1500);
        let clock = VirtualClock::new();
        let tap = PcapTap::new(device, clock.clone(), Vec::new());
        let packet = build::udp("10.0.0.1:1", "10.0.0.2:2", b"x");
        apps.inject(&packet).unwrap();
        clock.advance(Duration::from_millis(2_500));
        let mut batch = PacketBatch::new(4, 1500);
        tap.try_recv(&mut batch, &mut DropCounters::default())
            .unwrap();
        let (_, file) = tap.finish().unwrap();
        assert_eq!(file[..4], MAGIC.to_le_bytes());
        assert_eq!(file[20..24], 101u32.to_le_bytes());
        assert_eq!(file[24..28], 2u32.to_le_bytes());
        assert_eq!(file[28..32], 500_000u32.to_le_bytes());
        assert_eq!(file[40..], packet);
    }

    /// The length field of every record.
    fn lengths(mut file: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        file = &file[24..];
        while let Some((header, rest)) = file.split_first_chunk::<16>() {
            let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
            lengths.push(length as usize);
            file = &rest[length as usize..];
        }
        lengths
    }

    #[test]
    fn a_transport_is_tapped_both_ways_and_what_it_did_not_take_is_not_written() {
        let (transport, far) = crate::testing::memory_transport(2, 1420);
        far.up(crate::transport::Assigned::default());
        let tap = PcapTap::new(transport, VirtualClock::new(), Vec::new());
        let mut batch = PacketBatch::new(4, 1500);
        for length in [1, 2, 3] {
            let packet = build::udp("10.0.0.1:1", "10.0.0.2:2", &vec![7; length]);
            assert!(batch.push(crate::Packet::from_slice(&packet)).is_ok());
        }
        let mut drops = DropCounters::default();
        assert_eq!(tap.try_send(&mut batch, &mut drops).unwrap(), 2);
        assert_eq!(batch.len(), 1);
        batch.clear();
        far.inject(&build::udp("10.0.0.2:2", "10.0.0.1:1", &[8; 9]))
            .unwrap();
        assert_eq!(tap.try_recv(&mut batch, &mut drops).unwrap(), 1);
        assert_eq!(drops.total(), 0);
        let (_, file) = tap.finish().unwrap();
        assert_eq!(lengths(&file), [29, 30, 37]);
    }
}
