//! Makes a transport anew when it failed for good.

mod mend;

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use vpn_core::{
    DropCounters, DropReason, NetworkEvent, PacketBatch, Resources, StateWatch,
    TransportCapabilities, TransportError, TransportState, TunnelTransport,
};

use crate::backoff::BackoffConfig;
use crate::counters::counters;
use mend::Shared;

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

impl Remade {
    /// Makes the first one with the first wait for [`readable`](TunnelTransport::readable). All have
    /// these capabilities. Pauses are drawn from `seed`.
    pub fn new(
        capabilities: TransportCapabilities,
        backoff: BackoffConfig,
        seed: u64,
        make: impl Fn() -> Making + Send + Sync + 'static,
    ) -> Self {
        let make = Box::new(make);
        Self(Shared::new(capabilities, backoff, seed, make))
    }

    /// How often what happened.
    pub fn counters(&self) -> RemadeCounters {
        self.0.lock().counters
    }

    /// The transport there is now.
    pub fn current(&self) -> Option<Made> {
        self.0.lock().current.clone()
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
                    self.0.mend().await;
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
