//! A bad network, the same every time: faults by seed, on a virtual clock.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::VirtualClock;
use crate::device::{DeviceCapabilities, DeviceError, TunDevice};
use crate::packet::{Packet, PacketBatch};
use crate::transport::{StateWatch, TransportCapabilities, TransportError, TunnelTransport};
use crate::verdict::DropCounters;

/// Packets a direction holds at most. Further ones stay with the sender, as on a full queue.
const MAX_HELD: usize = 1024;
/// A reordered packet is overtaken by up to this many that come after it.
const REORDER_DISTANCE: u64 = 3;

/// What goes wrong, in each direction alike. Probabilities are from 0 to 1; all are 0 by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Probability that a packet is lost.
    pub loss: f64,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Probability that one bit of a packet is flipped.
    pub corrupt: f64,
    /// Probability that a packet is overtaken by those of the same moment.
    pub reorder: f64,
    /// How long every packet takes.
    pub delay: Duration,
    /// Added to the delay, evenly from 0 to this.
    pub jitter: Duration,
    /// With `true` every packet is lost.
    pub partition: bool,
}

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

#[derive(Debug)]
struct Lane {
    random: u64,
    next: u64,
    lost: u64,
    held: BTreeMap<(Instant, u64), Packet>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    fn new(seed: u64) -> Self {
        Self {
            random: seed,
            next: 0,
            lost: 0,
            held: BTreeMap::new(),
        }
    }

    /// SplitMix64: small, and the same on every machine.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn chance(&mut self, probability: f64) -> bool {
        // Drawn always, so that one setting does not shift the fate of later packets.
        ((self.draw() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    fn admit(&mut self, mut packet: Packet, now: Instant, faults: &Faults) {
        let lost = self.chance(faults.loss) || faults.partition;
        let twice = self.chance(faults.duplicate);
        let corrupt = self.chance(faults.corrupt);
        let late = self.chance(faults.reorder);
        let (bit, jitter) = (self.draw(), self.draw());
        if lost {
            self.lost += 1;
            return;
        }
        if corrupt && !packet.is_empty() {
            let at = (bit >> 3) as usize % packet.len();
            packet.bytes_mut()[at] ^= 1 << (bit & 7);
        }
        let span = faults.jitter.as_nanos() as u64;
        let jitter = Duration::from_nanos(jitter % span.saturating_add(1).max(1));
        let due = now + faults.delay + jitter;
        if twice {
            let copy = packet.shrunk();
            self.hold(due, false, copy);
        }
        self.hold(due, late, packet);
    }

    fn hold(&mut self, due: Instant, late: bool, packet: Packet) {
        self.next += 2;
        // Odd numbers are free for those that are overtaken.
        let order = self.next + if late { 2 * REORDER_DISTANCE + 1 } else { 0 };
        self.held.insert((due, order), packet);
    }

    fn due(&mut self, now: Instant) -> Option<((Instant, u64), Packet)> {
        let first = self.held.first_entry()?;
        (first.key().0 <= now).then(|| first.remove_entry())
    }
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
}

#[cfg(test)]
mod tests {
    use super::*;
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
