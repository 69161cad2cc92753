//! Closes what failed, and makes another one: the work that whoever reads drives.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use vpn_core::{
    DownCause, StateSender, TransportCapabilities, TransportError, TransportState, TunnelTransport,
};

use super::{Made, Making, RemadeCounters};
use crate::backoff::{Backoff, BackoffConfig, GiveUp, Next};

/// How long one that failed may take to close before another is made.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// What the handle and the work it drives share.
pub(super) struct Shared {
    pub(super) make: Box<dyn Fn() -> Making + Send + Sync>,
    pub(super) capabilities: TransportCapabilities,
    pub(super) shown: StateSender,
    pub(super) inner: Mutex<Inner>,
    /// Woken when there is another transport, or no more.
    pub(super) changed: Notify,
    /// Woken when a pause is cut short.
    pub(super) hurry: Notify,
    pub(super) closed: CancellationToken,
    /// Held by whoever makes the next one.
    pub(super) turn: tokio::sync::Mutex<()>,
}

/// What makes the next one.
type Mending = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Inner {
    pub(super) current: Option<Made>,
    /// The last one, to be closed before another is made.
    pub(super) last: Option<Made>,
    /// What was begun, while nobody drives it.
    pub(super) mending: Option<Mending>,
    /// Nothing is kept any more.
    pub(super) closed: bool,
    pub(super) backoff: Backoff,
    pub(super) not_before: Option<Instant>,
    pub(super) gave_up: Option<GiveUp>,
    pub(super) counters: RemadeCounters,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
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
    pub(super) fn new(
        capabilities: TransportCapabilities,
        backoff: BackoffConfig,
        seed: u64,
        make: Box<dyn Fn() -> Making + Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Self {
            make,
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
        })
    }

    /// There is no transport: makes one. Cancel-safe, for what was begun goes on with the next call.
    pub(super) async fn mend(self: &Arc<Self>) {
        let _turn = self.turn.lock().await;
        let mut begun = {
            let mut inner = self.lock();
            if inner.closed || inner.current.is_some() {
                return;
            }
            let work = inner.mending.take();
            let work = work.unwrap_or_else(|| Box::pin(mend(self.clone())));
            Begun(self, Some(work))
        };
        if let Some(work) = &mut begun.1 {
            work.await;
        }
        begun.1 = None;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows where the present transport stands. One that says it is closed is about to be replaced.
    pub(super) fn mirror(&self) {
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
    pub(super) fn lost(&self, lost: &Made, error: &TransportError) {
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
    pub(super) fn get(&self) -> Result<Option<Made>, TransportError> {
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
