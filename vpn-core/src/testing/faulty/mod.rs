//! A bad network, the same every time: faults by seed, on a virtual clock.

mod lane;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::VirtualClock;
use crate::device::{DeviceCapabilities, DeviceError, TunDevice};
use crate::network::NetworkEvent;
use crate::packet::PacketBatch;
use crate::transport::{StateWatch, TransportCapabilities, TransportError, TunnelTransport};
use crate::verdict::DropCounters;
use lane::Lane;

pub use lane::Faults;

/// Packets a direction holds at most. Further ones stay with the sender, as on a full queue.
const MAX_HELD: usize = 1024;

/// A device or transport behind a bad network.
///
/// Delayed packets move on the first `try_recv` or `try_send` after the clock was advanced, or
/// after room was made below: `readable` wakes for both, so who keeps receiving loses none.
#[derive(Debug)]
pub struct Faulty<T> {
    inner: T,
    clock: VirtualClock,
    faults: Mutex<Faults>,
    outbound: Mutex<Lane>,
    inbound: Mutex<Lane>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Faulty<T> {
    /// `inner` with these faults, drawn from `seed`.
    pub fn new(inner: T, clock: VirtualClock, seed: u64, faults: Faults) -> Self {
        Self {
            inner,
            clock,
            faults: Mutex::new(faults),
            outbound: Mutex::new(Lane::new(seed)),
            inbound: Mutex::new(Lane::new(!seed)),
        }
    }

    /// Other faults from now on; packets on their way keep their fate.
    pub fn set_faults(&self, faults: Faults) {
        *lock(&self.faults) = faults;
    }

    /// Packets lost so far, both directions.
    pub fn lost(&self) -> u64 {
        lock(&self.outbound).lost + lock(&self.inbound).lost
    }

    /// When the next held packet is due.
    pub fn next_due(&self) -> Option<Instant> {
        let first = |lane: &Mutex<Lane>| lock(lane).held.keys().next().map(|(due, _)| *due);
        first(&self.outbound)
            .into_iter()
            .chain(first(&self.inbound))
            .min()
    }

    fn send<E>(
        &self,
        batch: &mut PacketBatch,
        mut send: impl FnMut(&mut PacketBatch) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let (now, faults) = (self.clock.now(), *lock(&self.faults));
        let mut lane = lock(&self.outbound);
        let room = MAX_HELD.saturating_sub(lane.held.len());
        let taken = batch.len().min(room);
        for packet in &batch.packets()[..taken] {
            lane.admit(packet.shrunk(), now, &faults);
        }
        batch.recycle_front(taken);
        let mut ready = PacketBatch::new(PacketBatch::DEFAULT_CAPACITY, 0);
        loop {
            let mut keys = Vec::new();
            while !ready.is_full()
                && let Some((key, packet)) = lane.due(now)
            {
                keys.push(key);
                let _ = ready.push(packet);
            }
            if keys.is_empty() {
                return Ok(taken);
            }
            let result = send(&mut ready);
            let left = keys.split_off(keys.len() - ready.len().min(keys.len()));
            let blocked = !left.is_empty();
            lane.held.extend(left.into_iter().zip(ready.drain()));
            result?;
            if blocked {
                return Ok(taken);
            }
        }
    }

    fn receive<E>(
        &self,
        batch: &mut PacketBatch,
        receive: impl FnOnce(&mut PacketBatch) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let (now, faults) = (self.clock.now(), *lock(&self.faults));
        let mut lane = lock(&self.inbound);
        let room = MAX_HELD.saturating_sub(lane.held.len());
        let mut fresh = PacketBatch::new(room.min(batch.capacity()), 0);
        receive(&mut fresh)?;
        for packet in fresh.drain() {
            lane.admit(packet, now, &faults);
        }
        let mut count = 0;
        while !batch.is_full()
            && let Some((_, packet)) = lane.due(now)
        {
            count += usize::from(batch.push_with(|buf| {
                buf.extend_from_slice(packet.bytes());
                Some(packet.offload)
            }));
        }
        Ok(count)
    }

    /// Waits for something to receive: below, held here and due, or because there is room below
    /// for what is due outbound, which the next call moves.
    async fn receivable<E>(
        &self,
        ready: impl Future<Output = Result<(), E>>,
        room: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let (mut ready, mut room) = (pin!(ready), pin!(room));
        let mut moved = pin!(self.clock.moved());
        poll_fn(|cx| {
            if moved.as_mut().poll(cx).is_ready() || self.is_due(&self.inbound) {
                return Poll::Ready(Ok(()));
            }
            if self.is_due(&self.outbound)
                && let Poll::Ready(result) = room.as_mut().poll(cx)
            {
                return Poll::Ready(result);
            }
            ready.as_mut().poll(cx)
        })
        .await
    }

    /// Waits for room below, and here: a full lane waits for the clock if nothing in it is due.
    async fn sendable<E>(&self, room: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let (mut room, mut moved) = (pin!(room), pin!(self.clock.moved()));
        poll_fn(|cx| {
            if moved.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let full = lock(&self.outbound).held.len() >= MAX_HELD;
            if full && !self.is_due(&self.outbound) {
                return Poll::Pending;
            }
            room.as_mut().poll(cx)
        })
        .await
    }

    fn is_due(&self, lane: &Mutex<Lane>) -> bool {
        let first = lock(lane).held.keys().next().map(|(due, _)| *due);
        first.is_some_and(|due| due <= self.clock.now())
    }
}

#[async_trait]
impl<T: TunDevice> TunDevice for Faulty<T> {
    fn capabilities(&self) -> DeviceCapabilities {
        self.inner.capabilities()
    }
    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        let none = &mut PacketBatch::new(0, 0);
        self.send(none, |batch| self.inner.try_send(batch, drops))?;
        self.receive(batch, |batch| self.inner.try_recv(batch, drops))
    }
    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        self.send(batch, |batch| self.inner.try_send(batch, drops))
    }
    async fn readable(&self) -> Result<(), DeviceError> {
        self.receivable(self.inner.readable(), self.inner.writable())
            .await
    }
    async fn writable(&self) -> Result<(), DeviceError> {
        self.sendable(self.inner.writable()).await
    }
    fn shutdown(&self) {
        self.inner.shutdown();
    }
}

#[async_trait]
impl<T: TunnelTransport> TunnelTransport for Faulty<T> {
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
        let none = &mut PacketBatch::new(0, 0);
        self.send(none, |batch| self.inner.try_send(batch, drops))?;
        self.receive(batch, |batch| self.inner.try_recv(batch, drops))
    }
    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.send(batch, |batch| self.inner.try_send(batch, drops))
    }
    async fn readable(&self) -> Result<(), TransportError> {
        self.receivable(self.inner.readable(), self.inner.writable())
            .await
    }
    async fn writable(&self) -> Result<(), TransportError> {
        self.sendable(self.inner.writable()).await
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
    use crate::packet::Packet;
    use crate::testing::{AppSide, MemoryDevice, build, memory_device};

    fn run(seed: u64, faults: Faults) -> (Vec<Vec<u8>>, u64) {
        let (device, apps) = memory_device(256, 1500);
        let faulty = Faulty::new(device, VirtualClock::new(), seed, faults);
        send(&faulty, 100);
        (taken(&apps), faulty.lost())
    }

    fn send(faulty: &Faulty<MemoryDevice>, count: u8) {
        let mut batch = PacketBatch::new(usize::from(count), 1500);
        for i in 0..count {
            let bytes = build::udp("10.0.0.1:1", "10.0.0.2:2", &[i]);
            assert!(batch.push(Packet::from_slice(&bytes)).is_ok());
        }
        let mut drops = DropCounters::default();
        assert_eq!(
            faulty.try_send(&mut batch, &mut drops).unwrap(),
            usize::from(count)
        );
    }

    fn taken(apps: &AppSide) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| apps.take())
            .map(|p| p.bytes().to_vec())
            .collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let faults = Faults {
            loss: 0.2,
            duplicate: 0.2,
            corrupt: 0.2,
            reorder: 0.2,
            ..Faults::default()
        };
        let (first, lost) = run(7, faults);
        assert_eq!(run(7, faults), (first.clone(), lost));
        assert_ne!(run(8, faults).0, first);
        assert!(lost > 0 && lost < 100);
        let (clean, lost) = run(7, Faults::default());
        assert_eq!((clean.len(), lost), (100, 0));
        assert!(clean.windows(2).all(|w| w[0][28] < w[1][28]), "order kept");
    }

    #[test]
    fn delayed_packets_come_when_the_clock_says_so() {
        let (device, apps) = memory_device(8, 1500);
        let clock = VirtualClock::new();
        let delay = Duration::from_millis(50);
        let faults = Faults {
            delay,
            ..Faults::default()
        };
        let faulty = Faulty::new(device, clock.clone(), 1, faults);
        send(&faulty, 1);
        assert!(apps.take().is_none());
        assert_eq!(faulty.next_due(), Some(clock.now() + delay));
        clock.advance(delay);
        let mut batch = PacketBatch::new(1, 1500);
        faulty
            .try_recv(&mut batch, &mut DropCounters::default())
            .unwrap();
        assert!(apps.take().is_some());
    }

    #[tokio::test]
    async fn what_found_no_room_below_moves_when_there_is_some() {
        let (device, apps) = memory_device(1, 1500);
        let faulty = Faulty::new(device, VirtualClock::new(), 1, Faults::default());
        send(&faulty, 3);
        let mut batch = PacketBatch::new(1, 1500);
        let mut drops = DropCounters::default();
        for _ in 0..3 {
            // Nothing to do while the device is full.
            let waiting = tokio::spawn(std::future::ready(()));
            tokio::select! {
                biased;
                _ = faulty.readable() => panic!("readable without a reason"),
                _ = waiting => {}
            }
            assert!(apps.take().is_some());
            if faulty.next_due().is_some() {
                faulty.readable().await.unwrap();
                faulty.try_recv(&mut batch, &mut drops).unwrap();
            }
        }
        assert!(apps.take().is_none());
    }

    #[tokio::test]
    async fn a_full_lane_is_not_writable_until_the_clock_moves() {
        let (device, _apps) = memory_device(8, 1500);
        let clock = VirtualClock::new();
        let delay = Duration::from_millis(50);
        let faults = Faults {
            delay,
            ..Faults::default()
        };
        let faulty = Faulty::new(device, clock.clone(), 1, faults);
        for _ in 0..MAX_HELD / 128 {
            send(&faulty, 128);
        }
        let mut writable = pin!(faulty.writable());
        let pending = poll_fn(|cx| Poll::Ready(writable.as_mut().poll(cx).is_pending())).await;
        assert!(pending, "writable, and takes nothing");
        clock.advance(delay);
        writable.await.unwrap();
    }

    #[test]
    fn a_partition_loses_everything_until_it_heals() {
        let cut = Faults {
            partition: true,
            ..Faults::default()
        };
        let (device, apps) = memory_device(8, 1500);
        let faulty = Faulty::new(device, VirtualClock::new(), 1, cut);
        send(&faulty, 3);
        assert!(apps.take().is_none());
        faulty.set_faults(Faults::default());
        send(&faulty, 1);
        assert_eq!((faulty.lost(), taken(&apps).len()), (3, 1));
    }
}
