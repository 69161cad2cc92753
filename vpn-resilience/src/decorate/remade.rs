//! Makes a transport anew when it failed for good.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use vpn_core::{
    DownCause, DropCounters, DropReason, NetworkEvent, PacketBatch, Resources, StateSender,
    StateWatch, TransportCapabilities, TransportError, TransportState, TunnelTransport,
};

use crate::backoff::{Backoff, BackoffConfig, GiveUp, Next};
use crate::counters::counters;

/// How long one that failed may take to close before another is made.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// A transport that was made.
pub type Made = Arc<dyn TunnelTransport>;

/// A transport that is being made.
pub type Making = Pin<Box<dyn Future<Output = Result<Made, TransportError>> + Send>>;

counters! {
    /// How often what happened to a transport that is made anew. `made - lost` is 1 while there is
    /// one.
    pub struct RemadeCounters {
        /// Transports that were made, the first included.
        made,
        /// Attempts to make one that failed.
        failed,
        /// Transports that failed for good.
        lost,
    }
}

/// A transport that is made anew whenever it fails for good: an interface that was deleted, a process
/// that died, a stream that was reset. Between attempts it pauses, as its back-off has it; a transport
/// that lasted for [`stable_after`](BackoffConfig::stable_after) is replaced soon.
///
/// Down is not failed: transports recover from that by themselves. Meanwhile, packets to be sent are
/// dropped as [`NoSession`](DropReason::NoSession). It is driven by its reader, and spawns nothing.
pub struct Remade(Arc<Shared>);

struct Shared {
    make: Box<dyn Fn() -> Making + Send + Sync>,
    capabilities: TransportCapabilities,
    shown: StateSender,
    inner: Mutex<Inner>,
    /// Woken when there is another transport, or no more.
    changed: Notify,
    /// Woken when a pause is cut short.
    hurry: Notify,
    closed: CancellationToken,
    /// Held by whoever makes the next one.
    turn: tokio::sync::Mutex<()>,
}

/// What makes the next one.
type Mending = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Inner {
    current: Option<Made>,
    /// The last one, to be closed before another is made.
    last: Option<Made>,
    /// What was begun, while nobody drives it.
    mending: Option<Mending>,
    /// Nothing is kept any more.
    closed: bool,
    backoff: Backoff,
    not_before: Option<Instant>,
    gave_up: Option<GiveUp>,
    counters: RemadeCounters,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Remade {
    /// Makes the first one with the first wait for [`readable`](TunnelTransport::readable). All have
    /// these capabilities. Pauses are drawn from `seed`.
    pub fn new(
        capabilities: TransportCapabilities,
        backoff: BackoffConfig,
        seed: u64,
        make: impl Fn() -> Making + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Shared {
            make: Box::new(make),
            capabilities,
            shown: StateSender::new(),
            inner: Mutex::new(Inner {
                current: None,
                last: None,
                mending: None,
                closed: false,
                backoff: Backoff::new(backoff, seed),
                not_before: None,
                gave_up: None,
                counters: RemadeCounters::ZERO,
            }),
            changed: Notify::new(),
            hurry: Notify::new(),
            closed: CancellationToken::new(),
            turn: tokio::sync::Mutex::default(),
        }))
    }

    /// How often what happened.
    pub fn counters(&self) -> RemadeCounters {
        self.0.lock().counters
    }

    /// The transport there is now.
    pub fn current(&self) -> Option<Made> {
        self.0.lock().current.clone()
    }

    /// There is no transport: makes one. Cancel-safe, for what was begun goes on with the next call.
    async fn mend(&self) {
        let _turn = self.0.turn.lock().await;
        let mut begun = {
            let mut inner = self.0.lock();
            if inner.closed || inner.current.is_some() {
                return;
            }
            let work = inner.mending.take();
            let work = work.unwrap_or_else(|| Box::pin(mend(self.0.clone())));
            Begun(&self.0, Some(work))
        };
        if let Some(work) = &mut begun.1 {
            work.await;
        }
        begun.1 = None;
    }
}

/// Work that is kept for the next one where its driver goes away.
struct Begun<'a>(&'a Shared, Option<Mending>);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        if !inner.closed {
            inner.mending = self.1.take();
        }
    }
}

/// Closes what is left of the last one, and makes attempts until there is another, or no more.
async fn mend(shared: Arc<Shared>) {
    let last = shared.lock().last.clone();
    if let Some(last) = last {
        let _ = timeout(CLOSE_WITHIN, last.close()).await;
        shared.lock().last = None;
    }
    loop {
        let not_before = shared.lock().not_before;
        if let Some(at) = not_before {
            tokio::select! {
                biased;
                () = sleep_until(at.into()) => {}
                () = shared.hurry.notified() => continue,
            }
        }
        shared.shown.set(TransportState::Connecting);
        match (shared.make)().await {
            Ok(made) => {
                let too_late = {
                    let mut inner = shared.lock();
                    inner.counters.made += 1;
                    inner.backoff.succeeded(now());
                    match inner.closed {
                        true => Some(made),
                        false => {
                            inner.current = Some(made);
                            None
                        }
                    }
                };
                if let Some(made) = too_late {
                    made.close().await;
                    return;
                }
                shared.mirror();
                shared.changed.notify_waiters();
                return;
            }
            Err(error) => {
                if shared.failed(&error, |counters| counters.failed += 1) {
                    return;
                }
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows where the present transport stands. One that says it is closed is about to be replaced.
    fn mirror(&self) {
        let state = self.lock().current.as_ref().map(|made| made.state().get());
        match state {
            None | Some(TransportState::Closed) => {}
            Some(state) => self.shown.set(state),
        }
    }

    /// Something failed: pauses, or gives up, which is returned.
    fn failed(&self, error: &TransportError, count: impl FnOnce(&mut RemadeCounters)) -> bool {
        let cause = match error {
            TransportError::Io(error) => DownCause::Network(error.to_string()),
            other => DownCause::Network(other.to_string()),
        };
        let mut inner = self.lock();
        count(&mut inner.counters);
        match inner.backoff.failed(now()) {
            Next::At(at) => inner.not_before = Some(at),
            Next::GiveUp(reason) => inner.gave_up = Some(reason),
        }
        let gave_up = inner.gave_up.is_some();
        drop(inner);
        self.shown.set(TransportState::Down(cause));
        if gave_up {
            self.changed.notify_waiters();
        }
        gave_up
    }

    /// This one failed for good.
    fn lost(&self, lost: &Made, error: &TransportError) {
        {
            let mut inner = self.lock();
            if !inner
                .current
                .as_ref()
                .is_some_and(|made| Arc::ptr_eq(made, lost))
            {
                return;
            }
            inner.last = inner.current.take();
        }
        self.failed(error, |counters| counters.lost += 1);
        self.changed.notify_waiters();
    }

    /// The present transport; `None` while there is none.
    fn get(&self) -> Result<Option<Made>, TransportError> {
        if self.closed.is_cancelled() {
            return Err(TransportError::Closed);
        }
        let inner = self.lock();
        match inner.gave_up {
            Some(reason) => Err(TransportError::Io(std::io::Error::other(reason))),
            None => Ok(inner.current.clone()),
        }
    }
}

impl fmt::Debug for Remade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (current, counters) = (self.current(), self.counters());
        f.debug_struct("Remade")
            .field("current", &current)
            .field("counters", &counters)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TunnelTransport for Remade {
    fn capabilities(&self) -> TransportCapabilities {
        self.0.capabilities
    }

    fn state(&self) -> StateWatch {
        self.0.mirror();
        self.0.shown.watch()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        let Some(made) = self.0.get()? else {
            return Ok(0);
        };
        let before = batch.len();
        let received = made.try_recv(batch, drops);
        self.0.mirror();
        received.or_else(|error| {
            self.0.lost(&made, &error);
            Ok(batch.len() - before)
        })
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        let Some(made) = self.0.get()? else {
            drops.add(DropReason::NoSession, batch.len() as u64);
            batch.clear();
            return Ok(0);
        };
        let (before, dropped) = (batch.len() as u64, drops.total());
        made.try_send(batch, drops).or_else(|error| {
            self.0.lost(&made, &error);
            // What it took before it failed, and did not drop.
            let gone = before - batch.len() as u64;
            let sent = gone.saturating_sub(drops.total() - dropped);
            Ok(usize::try_from(sent).unwrap_or(usize::MAX))
        })
    }

    async fn readable(&self) -> Result<(), TransportError> {
        let driven = async {
            loop {
                let mut changed = pin!(self.0.changed.notified());
                // Before looking, so that no change in between is missed.
                changed.as_mut().enable();
                let Some(made) = self.0.get()? else {
                    self.mend().await;
                    continue;
                };
                self.0.mirror();
                let mut ready = pin!(made.readable());
                let mut state = made.state();
                loop {
                    tokio::select! {
                        biased;
                        ready = &mut ready => match ready {
                            Ok(()) => return Ok(()),
                            Err(error) => {
                                self.0.lost(&made, &error);
                                break;
                            }
                        },
                        _ = state.next() => self.0.mirror(),
                        // Somebody who sent saw it fail.
                        () = &mut changed => break,
                    }
                }
            }
        };
        let driven = self.0.closed.run_until_cancelled(driven).await;
        driven.unwrap_or(Err(TransportError::Closed))
    }

    async fn writable(&self) -> Result<(), TransportError> {
        let waits = async {
            loop {
                let mut changed = pin!(self.0.changed.notified());
                changed.as_mut().enable();
                match self.0.get()? {
                    None => changed.await,
                    Some(made) => {
                        let ready = tokio::select! {
                            biased;
                            ready = made.writable() => ready,
                            () = changed => continue,
                        };
                        match ready {
                            Ok(()) => return Ok(()),
                            Err(error) => self.0.lost(&made, &error),
                        }
                    }
                }
            }
        };
        let waits = self.0.closed.run_until_cancelled(waits).await;
        waits.unwrap_or(Err(TransportError::Closed))
    }

    async fn close(&self) {
        self.0.closed.cancel();
        let (current, last, mending) = {
            let mut inner = self.0.lock();
            inner.closed = true;
            let mending = inner.mending.take();
            (inner.current.take(), inner.last.take(), mending)
        };
        // Whoever drives what was begun lets go of it when it looks, and nobody waits for that.
        drop(mending);
        for made in current.into_iter().chain(last) {
            made.close().await;
        }
        self.0.shown.set(TransportState::Closed);
    }

    fn wake(&self) {
        if let Some(made) = self.current() {
            made.wake();
            self.0.mirror();
        }
    }

    fn rest(&self) {
        if let Some(made) = self.current() {
            made.rest();
            self.0.mirror();
        }
    }

    /// What failed on the last network may work on this one: the next attempt is due at once.
    fn network_changed(&self, event: NetworkEvent) {
        if let Some(made) = self.current() {
            made.network_changed(event);
        } else if event.calls_for_reconnect() {
            let mut inner = self.0.lock();
            inner.backoff.reset();
            inner.not_before = None;
            self.0.hurry.notify_one();
        }
    }

    fn idle_limit(&self) -> Option<Duration> {
        self.current()?.idle_limit()
    }

    fn round_trip(&self) -> Option<Duration> {
        self.current()?.round_trip()
    }

    fn resources(&self) -> Resources {
        self.current()
            .map_or_else(Resources::default, |made| made.resources())
    }
}
