//! Devices and transports that are broken in one way each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use vpn_core::testing::conformance::*;
use vpn_core::testing::{Faults, Faulty, PcapTap, VirtualClock};
use vpn_core::{
    Assigned, DeviceCapabilities, DeviceError, DropCounters, Packet, PacketBatch, StateSender,
    StateWatch, TransportCapabilities, TransportError, TransportState, TunDevice, TunnelTransport,
};

use crate::memory::{Device, Tunnel};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    NoMtu,
    ClearsBatch,
    Miscounts,
    Reverses,
    NeverReadable,
    LosesOnReadable,
    HidesDrops,
    StopsAtBadPacket,
    TakesTheRest,
    NeverWritable,
    HangsWhenClosed,
    LivesOn,
    UpAtOnce,
    NeverUp,
    CarriesAtOnce,
    ClosedIsDown,
}

use Wrong::*;

#[derive(Debug)]
struct Broken<T> {
    inner: T,
    wrong: Wrong,
    closed: AtomicBool,
    state: StateSender,
    woken: AtomicBool,
    rested: AtomicBool,
}

impl<T> Broken<T> {
    fn new(inner: T, wrong: Wrong) -> Self {
        let state = StateSender::new();
        if wrong == UpAtOnce {
            state.set(TransportState::Up(Arc::new(Assigned::default())));
        }
        Self {
            inner,
            wrong,
            closed: AtomicBool::new(false),
            state,
            woken: AtomicBool::new(false),
            rested: AtomicBool::new(false),
        }
    }

    fn recv<E>(
        &self,
        batch: &mut PacketBatch,
        mut inner: impl FnMut(&mut PacketBatch) -> Result<usize, E>,
    ) -> Result<usize, E> {
        if self.wrong == ClearsBatch {
            batch.clear();
        }
        let before = batch.len();
        let count = inner(batch)?;
        if self.wrong == Reverses {
            batch.packets_mut()[before..].reverse();
        }
        Ok(match self.wrong {
            Miscounts => batch.len(),
            _ => count,
        })
    }

    fn send<E>(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
        mut inner: impl FnMut(&mut PacketBatch, &mut DropCounters) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let mut unseen = DropCounters::default();
        match self.wrong {
            HidesDrops => inner(batch, &mut unseen),
            StopsAtBadPacket if batch.packets().iter().any(|p| p.len() > 1500) => {
                let mut first = PacketBatch::new(1, 1500);
                let _ = first.push(Packet::from_slice(batch.packets()[0].bytes()));
                batch.recycle_front(2);
                inner(&mut first, drops)?;
                drops.count(vpn_core::DropReason::TooBig);
                Ok(1)
            }
            TakesTheRest => {
                let sent = inner(batch, drops)?;
                batch.clear();
                Ok(sent)
            }
            _ => inner(batch, drops),
        }
    }
}

#[async_trait]
impl TunDevice for Broken<Device> {
    fn capabilities(&self) -> DeviceCapabilities {
        match self.wrong {
            NoMtu => DeviceCapabilities::plain(0),
            _ => self.inner.device().capabilities(),
        }
    }
    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        if self.wrong == LivesOn && self.closed.load(Relaxed) {
            return Ok(0);
        }
        self.recv(batch, |batch| self.inner.device().try_recv(batch, drops))
    }
    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        self.send(batch, drops, |batch, drops| {
            self.inner.device().try_send(batch, drops)
        })
    }
    async fn readable(&self) -> Result<(), DeviceError> {
        match self.wrong {
            NeverReadable => std::future::pending().await,
            LosesOnReadable => {
                // Holds a packet across an await.
                self.inner.device().readable().await?;
                if self.inner.apps.unread() == 1 {
                    let mut batch = PacketBatch::new(1, 1500);
                    let _ = self
                        .inner
                        .device()
                        .try_recv(&mut batch, &mut DropCounters::default());
                    yields(1).await;
                    self.inner.apps.inject(batch.packets()[0].bytes()).unwrap();
                }
                Ok(())
            }
            HangsWhenClosed => {
                let result = self.inner.device().readable().await;
                if result.is_err() {
                    std::future::pending::<()>().await;
                }
                result
            }
            _ => self.inner.device().readable().await,
        }
    }
    async fn writable(&self) -> Result<(), DeviceError> {
        if self.wrong == NeverWritable {
            std::future::pending::<()>().await;
        }
        self.inner.device().writable().await
    }
    fn shutdown(&self) {
        self.closed.store(true, Relaxed);
        self.inner.device().shutdown();
    }
}

#[async_trait]
impl FarEnd for Broken<Device> {
    async fn send(&self, number: u16) {
        FarEnd::send(&self.inner, number).await;
    }
    async fn receive(&self) -> u16 {
        FarEnd::receive(&self.inner).await
    }
}

impl DeviceFixture for Broken<Device> {
    fn device(&self) -> &dyn TunDevice {
        self
    }
}

#[async_trait]
impl TunnelTransport for Broken<Tunnel> {
    fn capabilities(&self) -> TransportCapabilities {
        self.inner.transport().capabilities()
    }
    fn state(&self) -> StateWatch {
        match self.wrong {
            UpAtOnce | NeverUp => self.state.watch(),
            ClosedIsDown if self.closed.load(Relaxed) => self.state.watch(),
            _ => self.inner.transport().state(),
        }
    }
    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.recv(batch, |batch| self.inner.transport().try_recv(batch, drops))
    }
    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        if self.wrong == CarriesAtOnce {
            let sent = batch.len();
            batch.clear();
            return Ok(sent);
        }
        self.send(batch, drops, |batch, drops| {
            self.inner.transport().try_send(batch, drops)
        })
    }
    async fn readable(&self) -> Result<(), TransportError> {
        self.inner.transport().readable().await
    }
    async fn writable(&self) -> Result<(), TransportError> {
        self.inner.transport().writable().await
    }
    async fn close(&self) {
        self.closed.store(true, Relaxed);
        self.inner.transport().close().await;
    }
    fn wake(&self) {
        self.woken.store(true, Relaxed);
    }
    fn rest(&self) {
        self.rested.store(true, Relaxed);
    }
    fn idle_limit(&self) -> Option<Duration> {
        Some(Duration::from_secs(60))
    }
    fn round_trip(&self) -> Option<Duration> {
        Some(Duration::from_millis(20))
    }
}

#[async_trait]
impl FarEnd for Broken<Tunnel> {
    async fn send(&self, number: u16) {
        FarEnd::send(&self.inner, number).await;
    }
    async fn receive(&self) -> u16 {
        FarEnd::receive(&self.inner).await
    }
}

#[async_trait]
impl TransportFixture for Broken<Tunnel> {
    fn transport(&self) -> &dyn TunnelTransport {
        self
    }
    async fn answer(&self) {
        self.inner.answer().await;
    }
}

#[tokio::test]
async fn a_broken_device_is_told_its_clause() {
    for (wrong, clause, seen) in [
        (NoMtu, Clause::Capabilities, "mtu: 0"),
        (
            ClearsBatch,
            Clause::ReceiveAppends,
            "was in the batch before",
        ),
        (
            Miscounts,
            Clause::ReceiveCounts,
            "it returned 3 and appended 2",
        ),
        (
            Reverses,
            Clause::ReceiveInOrder,
            "received [1, 0, 3, 2, 5, 4, 6]",
        ),
        (NeverReadable, Clause::ReadableWakes, "it never woke"),
        (LosesOnReadable, Clause::ReadableCancelSafe, "never woke"),
        (HidesDrops, Clause::SendCountsRefused, "1 of 3 packets"),
        (
            StopsAtBadPacket,
            Clause::SendSparesOthers,
            "1 packets stayed",
        ),
        (TakesTheRest, Clause::SendLeavesRest, "sent 16, left 0"),
        (NeverWritable, Clause::WritableWakes, "it never woke"),
        (HangsWhenClosed, Clause::CloseWakes, "never returned"),
        (
            LivesOn,
            Clause::ClosedStaysClosed,
            "try_recv returned Ok(0)",
        ),
    ] {
        let make = async || Broken::new(Device::new(), wrong);
        let violation = tun_device(make).await.unwrap_err();
        assert_eq!(violation.clause, clause, "{wrong:?}: {violation}");
        let text = violation.to_string();
        assert!(text.contains(seen), "{wrong:?}: {text}");
        assert!(text.starts_with("TunDevice: broken: "), "{text}");
        assert!(text.contains(&clause.to_string()), "{text}");
    }
}

#[tokio::test]
async fn a_broken_transport_is_told_its_clause() {
    for (wrong, clause, seen) in [
        (
            UpAtOnce,
            Clause::UpAfterProof,
            "nobody has answered, and the state is up",
        ),
        (
            NeverUp,
            Clause::UpWhenProven,
            "the other end answers, and it is connecting",
        ),
        (
            CarriesAtOnce,
            Clause::NothingBeforeProof,
            "try_send returned Ok(1)",
        ),
        (
            Reverses,
            Clause::ReceiveInOrder,
            "received [1, 0, 3, 2, 5, 4, 6]",
        ),
        (HidesDrops, Clause::SendCountsRefused, "1 of 3 packets"),
        (TakesTheRest, Clause::SendLeavesRest, "sent 16, left 0"),
        (ClosedIsDown, Clause::ClosedState, "the state is connecting"),
    ] {
        let make = async || Broken::new(Tunnel::new(), wrong);
        let violation = tunnel_transport(make).await.unwrap_err();
        assert_eq!(violation.clause, clause, "{wrong:?}: {violation}");
        let text = violation.to_string();
        assert!(text.contains(seen), "{wrong:?}: {text}");
    }
}

/// What wraps a transport answered for it: it never woke, and nobody knew how far it was.
#[test]
fn what_wraps_a_transport_passes_every_call_on() {
    let inner = Arc::new(Broken::new(Tunnel::new(), Nothing));
    let clock = VirtualClock::new;
    let wrapped: [&dyn TunnelTransport; 2] = [
        &Faulty::new(inner.clone(), clock(), 1, Faults::default()),
        &PcapTap::new(inner.clone(), clock(), Vec::new()),
    ];
    for outer in wrapped {
        assert_eq!(outer.idle_limit(), inner.idle_limit());
        assert_eq!(outer.round_trip(), inner.round_trip());
        outer.wake();
        outer.rest();
        assert!(inner.woken.swap(false, Relaxed) && inner.rested.swap(false, Relaxed));
    }
}
