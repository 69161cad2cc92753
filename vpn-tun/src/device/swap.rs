//! A device that can be replaced while flows live. Decides in which order packets of the old and of
//! the new one are taken.
//!
//! Where a host must establish its interface anew to change it (Android), the new descriptor comes
//! first and the old one is closed last. In between, the system moves routes over, and the old
//! interface still has packets that applications sent. [`SwapTun`] takes them all, each once:
//!
//! ```text
//!            swap                          GRACE over, and nothing left
//!  old ───────┼── read until it is empty ──────┤ shut down
//!  new        ├── read, but handed on behind what the old one has ── …
//!  writes ────┼──▶ new
//! ```
//!
//! What is read from the new device waits until the old one was read once more: a flow's packet that
//! went to the old interface was sent before one that went to the new, and is there by then. So the
//! order of every flow is kept.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;
use vpn_core::device::{DeviceCapabilities, DeviceError};
use vpn_core::packet::{Packet, PacketBatch};
use vpn_core::{DropCounters, TunDevice};

/// How long an old device is read at least: the time the system has to move routes to the new one.
pub const GRACE: Duration = Duration::from_millis(500);

/// Packets that are saved from an old device when its successor is itself replaced within the grace:
/// twice what a kernel queues for a device. What it still has beyond that is lost.
pub const MAX_SAVED: usize = 2048;

/// Why a device was not taken in. It is shut down; the one in use stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SwapError {
    /// It yields larger packets than its users' buffers hold. Establish it with a smaller MTU, or
    /// make the [`SwapTun`] for larger packets.
    #[error("the new device has packets of {new} bytes, and there is room for {room}")]
    TooLarge {
        /// What the new device says, in bytes.
        new: u32,
        /// What there is room for, in bytes.
        room: u32,
    },
    /// One of the two has offload and the other has not.
    #[error("the new device differs in offload from the one it replaces")]
    Offload,
    /// The device as a whole was shut down.
    #[error("the device is closed")]
    Closed,
}

/// A device whose inside can be replaced at run time: see the [module](self).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use vpn_core::{DropCounters, PacketBatch, TunDevice, testing::memory_device};
/// use vpn_tun::SwapTun;
///
/// let (first, apps) = memory_device(8, 1400);
/// let tun = SwapTun::new(first, 1500);
/// apps.inject(b"sent before")?;
/// let (second, apps_now) = memory_device(8, 1280);
/// tun.swap(second)?;
/// apps_now.inject(b"sent after")?;
///
/// let mut batch = PacketBatch::new(8, 1500);
/// tun.readable().await?;
/// tun.try_recv(&mut batch, &mut DropCounters::default())?;
/// let seen: Vec<_> = batch.packets().iter().map(|packet| packet.bytes()).collect();
/// assert_eq!(seen, [&b"sent before"[..], b"sent after"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SwapTun {
    current: RwLock<Arc<dyn TunDevice>>,
    /// Changes with every swap, and when an old device is done: who waits looks again.
    swaps: watch::Sender<u64>,
    /// Whether there is anything in `between`; spares the usual way its lock.
    swapping: AtomicBool,
    between: Mutex<Between>,
    largest: u32,
    closed: AtomicBool,
}

/// What a swap leaves behind for a while. Handed on in this order.
#[derive(Debug, Default)]
struct Between {
    /// Of devices that are gone already. Bounded by [`MAX_SAVED`] and a batch.
    saved: VecDeque<Packet>,
    /// With the end of its grace.
    old: Option<(Arc<dyn TunDevice>, Instant)>,
    /// Read from the current device, and behind what the old one has. At most one batch.
    early: VecDeque<Packet>,
}

impl Between {
    /// Saves what the old device still has, and shuts it down.
    fn empty_old(&mut self, largest: usize) {
        let Some((old, _)) = self.old.take() else {
            return;
        };
        let mut batch = PacketBatch::new(PacketBatch::DEFAULT_CAPACITY, largest);
        let mut drops = DropCounters::default();
        while self.saved.len() < MAX_SAVED
            && matches!(old.try_recv(&mut batch, &mut drops), Ok(count) if count > 0)
        {
            self.saved.extend(batch.drain());
        }
        old.shutdown();
        self.saved.append(&mut self.early);
    }
}

/// Moves packets to the batch while it has room.
fn hand_on(from: &mut VecDeque<Packet>, batch: &mut PacketBatch) {
    while !batch.is_full()
        && let Some(packet) = from.pop_front()
    {
        // There is room.
        let _ = batch.push(packet);
    }
}

impl SwapTun {
    /// A device that is `first` until it is replaced. `largest` is the largest packet that any
    /// later one may yield, in bytes; at least that of `first` is taken.
    pub fn new(first: impl TunDevice + 'static, largest: u32) -> Self {
        let largest = first.capabilities().max_packet.max(largest);
        Self {
            current: RwLock::new(Arc::new(first)),
            swaps: watch::Sender::new(0),
            swapping: AtomicBool::new(false),
            between: Mutex::default(),
            largest,
            closed: AtomicBool::new(false),
        }
    }

    /// Replaces the device. From here on packets are written to `new`; the old one is read until
    /// [`GRACE`] is over and nothing is left in it, and then shut down. Whoever waits is woken.
    ///
    /// # Errors
    ///
    /// [`SwapError`]; `new` is shut down then.
    pub fn swap(&self, new: impl TunDevice + 'static) -> Result<(), SwapError> {
        let new: Arc<dyn TunDevice> = Arc::new(new);
        let taken = self.take_in(Arc::clone(&new));
        if taken.is_err() {
            new.shutdown();
        }
        taken
    }

    fn take_in(&self, new: Arc<dyn TunDevice>) -> Result<(), SwapError> {
        let says = new.capabilities();
        // Held until both are in place: nobody reads the new device without the old one.
        let mut between = self.between();
        if self.closed.load(Ordering::Acquire) {
            return Err(SwapError::Closed);
        }
        if says.max_packet > self.largest {
            return Err(SwapError::TooLarge {
                new: says.max_packet,
                room: self.largest,
            });
        }
        if says.offload != self.device().capabilities().offload {
            return Err(SwapError::Offload);
        }
        between.empty_old(self.largest as usize);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, new);
        drop(current);
        between.old = Some((old, Instant::now() + GRACE));
        self.swapping.store(true, Ordering::Release);
        drop(between);
        self.swaps.send_modify(|count| *count += 1);
        Ok(())
    }

    fn device(&self) -> Arc<dyn TunDevice> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    fn between(&self) -> MutexGuard<'_, Between> {
        self.between.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is not the device in use any more: what it says does not count.
    fn is_replaced(&self, device: &Arc<dyn TunDevice>) -> bool {
        !Arc::ptr_eq(device, &self.device())
    }

    /// Reads during a swap.
    fn receive_between(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        let mut between = self.between();
        let before = batch.len();
        let mut failed = None;
        hand_on(&mut between.saved, batch);
        // The new one first: see the module.
        if between.early.is_empty() {
            let largest = batch.pool_mut().largest_packet();
            let mut early = PacketBatch::new(batch.capacity(), largest);
            failed = self.device().try_recv(&mut early, drops).err();
            between.early.extend(early.drain());
        }
        if let Some((old, until)) = &between.old
            && !batch.is_full()
        {
            let read = old.try_recv(batch, drops);
            // One that fails is gone.
            let empty = read.is_err() || !batch.is_full();
            if read.is_err() || empty && Instant::now() >= *until {
                old.shutdown();
                between.old = None;
            }
        }
        hand_on(&mut between.early, batch);
        if between.old.is_none() && between.saved.is_empty() && between.early.is_empty() {
            self.swapping.store(false, Ordering::Release);
        }
        match (failed, batch.len() - before) {
            (Some(error), 0) => Err(error),
            (_, received) => Ok(received),
        }
    }

    /// What a reader waits for beside the current device; `None` if it need not wait.
    fn waiting(&self) -> Option<Option<(Arc<dyn TunDevice>, Instant)>> {
        if !self.swapping.load(Ordering::Acquire) {
            return Some(None);
        }
        let between = self.between();
        let ready = !between.saved.is_empty() || !between.early.is_empty();
        (!ready).then(|| between.old.clone())
    }
}

/// Waits until an old device has something, or its grace is over.
async fn old_ready(old: Option<(Arc<dyn TunDevice>, Instant)>) {
    match old {
        Some((old, until)) => tokio::select! {
            // An error is found by who reads.
            _ = old.readable() => {}
            () = tokio::time::sleep_until(until) => {}
        },
        None => std::future::pending().await,
    }
}

#[async_trait]
impl TunDevice for SwapTun {
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = self.device().capabilities();
        capabilities.max_packet = self.largest;
        capabilities
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        if self.swapping.load(Ordering::Acquire) {
            return self.receive_between(batch, drops);
        }
        let device = self.device();
        match device.try_recv(batch, drops) {
            Err(_) if self.is_replaced(&device) => Ok(0),
            result => result,
        }
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        loop {
            let device = self.device();
            match device.try_send(batch, drops) {
                Err(_) if self.is_replaced(&device) => {}
                result => return result,
            }
        }
    }

    async fn readable(&self) -> Result<(), DeviceError> {
        loop {
            let mut swaps = self.swaps.subscribe();
            let Some(old) = self.waiting() else {
                return Ok(());
            };
            let device = self.device();
            tokio::select! {
                ready = device.readable() => match ready {
                    Err(_) if self.is_replaced(&device) => {}
                    ready => return ready,
                },
                () = old_ready(old) => return Ok(()),
                _ = swaps.changed() => {}
            }
        }
    }

    async fn writable(&self) -> Result<(), DeviceError> {
        loop {
            let mut swaps = self.swaps.subscribe();
            let device = self.device();
            tokio::select! {
                ready = device.writable() => match ready {
                    Err(_) if self.is_replaced(&device) => {}
                    ready => return ready,
                },
                _ = swaps.changed() => {}
            }
        }
    }

    fn shutdown(&self) {
        // No device is taken in after this.
        let mut between = self.between();
        self.closed.store(true, Ordering::Release);
        if let Some((old, _)) = between.old.take() {
            old.shutdown();
        }
        *between = Between::default();
        self.swapping.store(false, Ordering::Release);
        drop(between);
        self.device().shutdown();
        self.swaps.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use vpn_core::testing::{AppSide, MemoryDevice, memory_device};

    use super::*;

    fn devices(count: usize) -> Vec<(MemoryDevice, AppSide)> {
        (0..count).map(|_| memory_device(256, 1400)).collect()
    }

    fn read(tun: &SwapTun, capacity: usize) -> Vec<u8> {
        let mut batch = PacketBatch::new(capacity, 1500);
        let mut drops = DropCounters::default();
        tun.try_recv(&mut batch, &mut drops).unwrap();
        batch.packets().iter().map(|p| p.bytes()[0]).collect()
    }

    async fn read_all(tun: &SwapTun, capacity: usize, count: usize) -> Vec<u8> {
        let mut seen = Vec::new();
        while seen.len() < count {
            tun.readable().await.unwrap();
            seen.extend(read(tun, capacity));
        }
        seen
    }

    /// N-12: the old one was closed before the new one was there.
    #[tokio::test(start_paused = true)]
    async fn the_old_one_is_emptied_first_in_order_and_closed_last() {
        for capacity in [1, 2, 3, 64] {
            let mut made = devices(2).into_iter();
            let (first, before) = made.next().unwrap();
            let (second, after) = made.next().unwrap();
            let tun = SwapTun::new(first, 1400);
            for n in 0..10 {
                before.inject(&[n]).unwrap();
            }
            tun.swap(second).unwrap();
            for n in 20..30 {
                after.inject(&[n]).unwrap();
            }
            let expected: Vec<u8> = (0..10).chain(20..30).collect();
            assert_eq!(read_all(&tun, capacity, 20).await, expected);
            before.inject(&[11]).expect("still open within the grace");
            assert_eq!(read_all(&tun, capacity, 1).await, [11]);
            tokio::time::advance(GRACE).await;
            tun.readable().await.unwrap();
            assert!(read(&tun, capacity).is_empty());
            before.inject(&[12]).expect_err("closed");
            after.inject(&[30]).unwrap();
            assert_eq!(read_all(&tun, capacity, 1).await, [30]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flow_keeps_its_order_whenever_it_moves() {
        // Packets of one flow, that move to the new device after `moved` of them; reads in between.
        for moved in 0..12u8 {
            for capacity in 1..5 {
                let mut made = devices(2).into_iter();
                let (first, before) = made.next().unwrap();
                let (second, after) = made.next().unwrap();
                let tun = SwapTun::new(first, 1400);
                let mut second = Some(second);
                let mut seen = Vec::new();
                for n in 0..12u8 {
                    if n == 3 {
                        tun.swap(second.take().unwrap()).unwrap();
                    }
                    let apps = if n < moved.max(3) { &before } else { &after };
                    apps.inject(&[n]).unwrap();
                    if n % 2 == 0 {
                        seen.extend(read(&tun, capacity));
                    }
                }
                seen.extend(read_all(&tun, capacity, 12 - seen.len()).await);
                assert_eq!(seen, (0..12).collect::<Vec<u8>>(), "{moved} {capacity}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn swaps_in_a_row_lose_nothing() {
        let mut made = devices(6);
        let (first, apps) = made.remove(0);
        let tun = SwapTun::new(first, 1400);
        let mut all = vec![apps];
        let mut expected = Vec::new();
        for (device, apps) in made {
            let n = expected.len() as u8;
            all.last().unwrap().inject(&[n]).unwrap();
            all.last().unwrap().inject(&[n + 1]).unwrap();
            expected.extend([n, n + 1]);
            tun.swap(device).unwrap();
            all.push(apps);
        }
        for apps in &all[..4] {
            apps.inject(b"x").expect_err("closed");
        }
        assert_eq!(read_all(&tun, 3, 10).await, expected);
    }

    /// N-18: who wrote went on writing to the closed one.
    #[tokio::test(start_paused = true)]
    async fn waits_wake_and_writes_go_to_the_new_one() {
        let mut made = devices(2).into_iter();
        let (first, before) = made.next().unwrap();
        let (second, after) = made.next().unwrap();
        let tun = Arc::new(SwapTun::new(first, 1400));
        let waiting = tokio::spawn({
            let tun = Arc::clone(&tun);
            async move { tun.readable().await }
        });
        tokio::task::yield_now().await;
        tun.swap(second).unwrap();
        after.inject(&[7]).unwrap();
        waiting.await.unwrap().unwrap();
        assert_eq!(read_all(&tun, 8, 1).await, [7]);
        let mut batch = PacketBatch::new(8, 1400);
        batch.push(Packet::from_slice(b"answer")).unwrap();
        let mut drops = DropCounters::default();
        tun.writable().await.unwrap();
        assert_eq!(tun.try_send(&mut batch, &mut drops).unwrap(), 1);
        assert!(before.take().is_none());
        assert_eq!(after.take().unwrap().bytes(), b"answer");
        tun.shutdown();
        assert!(before.inject(b"x").is_err() && after.inject(b"x").is_err());
        assert!(tun.readable().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_device_that_the_system_took_away_is_no_failure() {
        let mut made = devices(2).into_iter();
        let (first, before) = made.next().unwrap();
        let (second, after) = made.next().unwrap();
        let tun = SwapTun::new(first, 1400);
        tun.swap(second).unwrap();
        before.close();
        after.inject(&[1]).unwrap();
        assert_eq!(read_all(&tun, 8, 1).await, [1]);
        after.close();
        assert!(tun.readable().await.is_err());
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_closed() {
        let (first, _apps) = memory_device(8, 1400);
        let tun = SwapTun::new(first, 1500);
        assert_eq!(tun.capabilities().max_packet, 1500);
        let (large, large_apps) = memory_device(8, 9000);
        assert!(matches!(tun.swap(large), Err(SwapError::TooLarge { .. })));
        assert!(large_apps.inject(b"x").is_err());
        tun.shutdown();
        let (late, late_apps) = memory_device(8, 1400);
        assert_eq!(tun.swap(late), Err(SwapError::Closed));
        assert!(late_apps.inject(b"x").is_err());
    }
}
