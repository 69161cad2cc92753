//! Puts a guard around a transport: its state, readiness and closing.

use std::fmt::{self, Debug};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use vpn_core::{
    DropCounters, NetworkEvent, Packet, PacketBatch, Resources, StateSender, StateWatch,
    TransportCapabilities, TransportError, TransportState, TunnelTransport,
};

use super::guard::{Admission, Guard, Rest};

/// A transport with a guard. What it shows and takes is what the guard says; all else is the
/// transport's.
///
/// As every transport it is driven by its reader: the state that is shown moves while somebody waits
/// for [`readable`](TunnelTransport::readable), sends, receives or asks for it.
pub struct Guarded<T, G> {
    inner: T,
    guard: Mutex<G>,
    watch: StateWatch,
    shown: StateSender,
    /// Closed here, whatever becomes of it below.
    closed: CancellationToken,
    /// What was not admitted, while the rest is sent; empty otherwise.
    spare: Mutex<Vec<Packet>>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Returns at that time; never if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

impl<T: TunnelTransport, G: Guard> Guarded<T, G> {
    /// `inner` with a guard.
    pub fn new(inner: T, guard: G) -> Self {
        let guarded = Self {
            watch: inner.state(),
            inner,
            guard: Mutex::new(guard),
            shown: StateSender::new(),
            closed: CancellationToken::new(),
            spare: Mutex::default(),
        };
        guarded.look(now());
        guarded
    }

    /// Asks the guard something, such as for its counters.
    pub fn with_guard<R>(&self, ask: impl FnOnce(&mut G) -> R) -> R {
        ask(&mut lock(&self.guard))
    }

    /// The transport behind it.
    pub const fn inner(&self) -> &T {
        &self.inner
    }

    /// Shows what the guard makes of where the transport stands. When to look again.
    fn look(&self, now: Instant) -> Option<Instant> {
        let state = self.watch.get();
        let mut guard = lock(&self.guard);
        let held = guard.observe(now, &state);
        let next = guard.next_timeout();
        drop(guard);
        let shown = match (state, held) {
            (TransportState::Closed, _) => TransportState::Closed,
            (_, Some(cause)) => TransportState::Down(cause),
            (state, None) => state,
        };
        self.shown.set(shown);
        next
    }

    /// Whether it was closed, here or below.
    fn check(&self) -> Result<(), TransportError> {
        self.check_here()?;
        match self.shown.get() {
            TransportState::Closed => Err(TransportError::Closed),
            _ => Ok(()),
        }
    }

    fn check_here(&self) -> Result<(), TransportError> {
        if self.closed.is_cancelled() {
            return Err(TransportError::Closed);
        }
        Ok(())
    }

    async fn wait_readable(&self) -> Result<(), TransportError> {
        let mut ready = pin!(self.inner.readable());
        let mut state = self.inner.state();
        loop {
            let next = self.look(now());
            tokio::select! {
                biased;
                ready = &mut ready => return ready,
                // Looked at in the next round.
                _ = state.next() => self.check()?,
                () = at(next) => {}
            }
        }
    }

    async fn wait_writable(&self) -> Result<(), TransportError> {
        let mut room = pin!(self.inner.writable());
        let mut state = self.inner.state();
        loop {
            self.look(now());
            self.check()?;
            let waits = self.with_guard(|guard| guard.room_at());
            if let Some(waits) = waits.filter(|waits| *waits > now()) {
                tokio::select! {
                    biased;
                    () = at(Some(waits)) => {}
                    _ = state.next() => {}
                }
                continue;
            }
            let there_is = poll_fn(|context| Poll::Ready(room.as_mut().poll(context))).await;
            self.with_guard(|guard| guard.room(now(), there_is.is_ready()));
            if let Poll::Ready(there_is) = there_is {
                return there_is;
            }
            let takes = self.with_guard(|guard| guard.takes_at());
            tokio::select! {
                biased;
                there_is = &mut room => {
                    self.with_guard(|guard| guard.room(now(), true));
                    return there_is;
                }
                () = at(takes) => return Ok(()),
                _ = state.next() => {}
            }
        }
    }

    /// Sends the first packets of a batch, and puts the others behind what is left of them.
    fn send_first(
        &self,
        first: usize,
        now: Instant,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        let mut spare = lock(&self.spare);
        spare.extend(batch.drain());
        let first = first.min(spare.len());
        for packet in spare.drain(..first) {
            // There is room: they were in it.
            let _ = batch.push(packet);
        }
        let result = self.send(now, batch, drops);
        for packet in spare.drain(..) {
            let _ = batch.push(packet);
        }
        result
    }

    fn send(
        &self,
        now: Instant,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        let offered = batch.len();
        let sent = self.inner.try_send(batch, drops)?;
        let rest = lock(&self.guard).sent(now, offered, batch.packets());
        if let Rest::Drop(reason) = rest {
            drops.add(reason, batch.len() as u64);
            batch.clear();
        }
        Ok(sent)
    }
}

impl<T: Debug, G: Debug> Debug for Guarded<T, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded")
            .field("guard", &*lock(&self.guard))
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<T: TunnelTransport, G: Guard> TunnelTransport for Guarded<T, G> {
    fn capabilities(&self) -> TransportCapabilities {
        self.inner.capabilities()
    }

    fn state(&self) -> StateWatch {
        self.look(now());
        self.shown.watch()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.check_here()?;
        let received = self.inner.try_recv(batch, drops);
        // Receiving is what moves the state.
        self.look(now());
        received
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.check_here()?;
        let now = now();
        self.look(now);
        let admission = lock(&self.guard).admit(now, batch.packets());
        match admission {
            Admission::All => self.send(now, batch, drops),
            Admission::First(first) if first < batch.len() => {
                self.send_first(first, now, batch, drops)
            }
            Admission::First(_) => self.send(now, batch, drops),
            Admission::Drop(reason) => {
                self.check()?;
                drops.add(reason, batch.len() as u64);
                batch.clear();
                Ok(0)
            }
        }
    }

    async fn readable(&self) -> Result<(), TransportError> {
        let waits = self.closed.run_until_cancelled(self.wait_readable());
        waits.await.unwrap_or(Err(TransportError::Closed))
    }

    async fn writable(&self) -> Result<(), TransportError> {
        let waits = self.closed.run_until_cancelled(self.wait_writable());
        waits.await.unwrap_or(Err(TransportError::Closed))
    }

    async fn close(&self) {
        let within = self.with_guard(|guard| guard.close_within());
        match within {
            Some(within) => drop(timeout(within, self.inner.close()).await),
            None => self.inner.close().await,
        }
        self.closed.cancel();
        self.shown.set(TransportState::Closed);
    }

    fn wake(&self) {
        self.inner.wake();
        self.look(now());
    }

    fn rest(&self) {
        self.inner.rest();
        self.look(now());
    }

    fn network_changed(&self, event: NetworkEvent) {
        self.inner.network_changed(event);
        self.with_guard(|guard| guard.network_changed(event));
        self.look(now());
    }

    fn idle_limit(&self) -> Option<Duration> {
        self.inner.idle_limit()
    }

    fn round_trip(&self) -> Option<Duration> {
        self.inner.round_trip()
    }

    fn resources(&self) -> Resources {
        self.inner.resources()
    }
}
