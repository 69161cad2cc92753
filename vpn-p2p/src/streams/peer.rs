//! The handle of the pool of one peer, and what it shares with the tasks: one of its own, and one for
//! each stream.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use vpn_core::{
    Assigned, DropCounters, DropReason, Packet, PacketBatch, StateSender, TransportError,
    TransportState,
};

use super::budget::Budget;
use super::config::{ConfigError, PoolConfig};
use super::driver::Driver;
use super::frame::{Session, StreamId};
use super::inbox::Slot;
use super::pool::{Offer, Pool, PoolStatus};
use super::stream::{Stream, StreamOpener};

/// Accepted streams of which the greeting is awaited. Further ones are refused: a peer opens two at a
/// time.
const GREETING: usize = 16;

/// The runtime's clock, which tests may stop.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Why there is no pool, or no stream for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It needs a tokio runtime for its tasks. Call it inside one.
    #[error("a pool must be made inside a tokio runtime")]
    NoRuntime,
    /// The pool is closed. Make a new one.
    #[error("the pool is closed")]
    Closed,
    /// More streams at once than are greeted: the peer tries again.
    #[error("too many streams wait to be greeted")]
    Greeting,
}

/// How the task of a stream is reached.
#[derive(Clone, Debug, Default)]
pub(super) struct Handle {
    /// There is something to write, or to read.
    pub(super) wake: Arc<Notify>,
    pub(super) stop: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) pool: Pool,
    pub(super) handles: Vec<(StreamId, Handle)>,
    ready: Vec<StreamId>,
}

/// What the handle and the tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// Where it is told that there is something to take, besides to who waits for this pool.
    slot: Option<Slot>,
    pub(super) attention: Notify,
    pub(super) readable: Notify,
    pub(super) writable: Notify,
    pub(super) state: StateSender,
    pub(super) assigned: Arc<Assigned>,
    pub(super) closing: CancellationToken,
}

impl Shared {
    /// For the task of a stream; `None` once it was stopped.
    pub(super) fn lock_for(&self, handle: &Handle) -> Option<MutexGuard<'_, Inner>> {
        let inner = self.lock();
        (!handle.stop.is_cancelled()).then_some(inner)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change to the pool is complete before anything that could panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After every call of the pool: wakes whoever has something to do by it.
    pub(super) fn finish(&self, mut inner: MutexGuard<'_, Inner>) {
        let Inner {
            pool,
            handles,
            ready,
        } = &mut *inner;
        pool.take_ready(ready);
        for id in ready.drain(..) {
            if let Some((_, handle)) = handles.iter().find(|(known, _)| *known == id) {
                handle.wake.notify_one();
            }
        }
        let (attention, readable) = (pool.take_attention(), pool.has_inbound());
        let writable = pool.has_room();
        drop(inner);
        if attention {
            self.attention.notify_one();
        }
        if readable {
            self.readable.notify_waiters();
            if let Some(slot) = &self.slot {
                slot.tell();
            }
        }
        if writable {
            self.writable.notify_waiters();
        }
    }
}

impl Inner {
    /// Stops the task of a stream: from now on nothing that it does counts.
    pub(super) fn stop(&mut self, id: StreamId) {
        if let Some(at) = self.handles.iter().position(|(known, _)| *known == id) {
            self.handles.swap_remove(at).1.stop.cancel();
        }
    }

    /// For a stream that the peer opened. One that was started anew names its streams as its predecessor
    /// did: the task of that one's is stopped before it can take for its own what is the new one's.
    pub(super) fn enter_accepted(&mut self, id: StreamId) -> Handle {
        self.pool.closed_already(id);
        self.stop(id);
        self.enter(id)
    }

    pub(super) fn enter(&mut self, id: StreamId) -> Handle {
        let handle = Handle::default();
        self.handles.push((id, handle.clone()));
        handle
    }
}

/// The streams to one peer, and the tasks that drive them.
///
/// Nothing here waits for another peer, and nobody who sends or receives waits for a stream.
#[derive(Debug)]
pub struct StreamPool {
    shared: Arc<Shared>,
    accepted: mpsc::Sender<Box<dyn Stream>>,
    /// Cancelled when no task is left.
    ended: CancellationToken,
}

impl StreamPool {
    /// A pool that opens streams, the warm ones at once, and accepts those of the peer.
    ///
    /// # Errors
    ///
    /// [`PoolError::Config`] and [`PoolError::NoRuntime`]. A peer that cannot be reached is a state.
    pub fn connect(
        opener: Arc<dyn StreamOpener>,
        config: PoolConfig,
        budget: Budget,
    ) -> Result<Self, PoolError> {
        Self::start(Some(opener), config, budget, Assigned::default(), None)
    }

    /// A pool that waits for the peer's streams: [`accept`](Self::accept).
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn listen(config: PoolConfig, budget: Budget) -> Result<Self, PoolError> {
        Self::start(None, config, budget, Assigned::default(), None)
    }

    /// `assigned` is what its state says once it is up; `slot` is told when packets came.
    pub(super) fn start(
        opener: Option<Arc<dyn StreamOpener>>,
        config: PoolConfig,
        budget: Budget,
        assigned: Assigned,
        slot: Option<Slot>,
    ) -> Result<Self, PoolError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| PoolError::NoRuntime)?;
        let greeted = GREETING + 2 * config.max_streams_per_peer;
        let pool = Pool::new(config, opener.is_some(), draw(), budget, now())?;
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                pool,
                handles: Vec::new(),
                ready: Vec::new(),
            }),
            slot,
            attention: Notify::new(),
            readable: Notify::new(),
            writable: Notify::new(),
            state: StateSender::new(),
            assigned: Arc::new(assigned),
            closing: CancellationToken::new(),
        });
        let (accepted, incoming) = mpsc::channel(GREETING);
        let driver = Driver::new(shared.clone(), opener, incoming, greeted);
        let ended = CancellationToken::new();
        // Also if it panics, or its runtime goes.
        let guard = ended.clone().drop_guard();
        runtime.spawn(async move {
            let _guard = guard;
            driver.run().await;
        });
        Ok(Self {
            shared,
            accepted,
            ended,
        })
    }

    /// Takes a stream that the peer opened. Who the peer is was found out before.
    ///
    /// # Errors
    ///
    /// [`PoolError::Closed`] and [`PoolError::Greeting`]; the stream is closed then.
    pub fn accept(&self, stream: Box<dyn Stream>) -> Result<(), PoolError> {
        self.accepted.try_send(stream).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PoolError::Greeting,
            mpsc::error::TrySendError::Closed(_) => PoolError::Closed,
        })
    }

    /// As [`TunnelTransport::try_send`](vpn_core::TunnelTransport::try_send): takes packets from the
    /// front, in order, as far as there is room.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.send(batch, drops, |_| true)
    }

    /// As [`try_send`](Self::try_send), of packets that fit.
    pub(super) fn send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
        fits: impl Fn(&Packet) -> bool,
    ) -> Result<usize, TransportError> {
        let (gone, sent) = self.send_slice(batch.packets_mut(), drops, fits)?;
        batch.recycle_front(gone);
        Ok(sent)
    }

    /// As [`send`](Self::send), from the front of a slice: how many are done with, and how many of them
    /// are on their way. Of those nothing is left but buffers.
    pub(crate) fn send_slice(
        &self,
        packets: &mut [Packet],
        drops: &mut DropCounters,
        fits: impl Fn(&Packet) -> bool,
    ) -> Result<(usize, usize), TransportError> {
        self.check_open()?;
        let now = now();
        let mut inner = self.shared.lock();
        let (mut gone, mut sent) = (0, 0);
        for packet in packets {
            let offer = match fits(packet) {
                true => inner.pool.offer(now, packet),
                false => Offer::Dropped(DropReason::TooBig),
            };
            match offer {
                Offer::Taken => {
                    sent += 1;
                    if packet.is_empty()
                        && let Some(spare) = inner.pool.spare()
                    {
                        *packet = spare;
                    }
                }
                Offer::Dropped(reason) => drops.count(reason),
                Offer::Full => break,
            }
            gone += 1;
        }
        inner.pool.weigh(now);
        self.shared.finish(inner);
        Ok((gone, sent))
    }

    /// As [`try_send`](Self::try_send), of one packet; whether it was taken.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    #[cfg(feature = "mesh")]
    pub(crate) fn try_send_one(&self, mut packet: Packet) -> Result<bool, TransportError> {
        self.check_open()?;
        let now = now();
        let mut inner = self.shared.lock();
        let offer = inner.pool.offer(now, &mut packet);
        inner.pool.weigh(now);
        self.shared.finish(inner);
        Ok(offer == Offer::Taken)
    }

    /// Appends packets that came.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub fn try_recv(&self, batch: &mut PacketBatch) -> Result<usize, TransportError> {
        self.receive(batch, |_| true)
    }

    /// As [`try_recv`](Self::try_recv), of packets that are `wanted`.
    pub(super) fn receive(
        &self,
        batch: &mut PacketBatch,
        wanted: impl FnMut(&Packet) -> bool,
    ) -> Result<usize, TransportError> {
        self.check_open()?;
        let mut inner = self.shared.lock();
        let full = !inner.pool.takes_more();
        let count = inner.pool.take_if(batch, wanted);
        if full && inner.pool.takes_more() {
            for (_, handle) in &inner.handles {
                handle.wake.notify_one();
            }
        }
        Ok(count)
    }

    /// For who takes turns among pools: what is still here is told of again.
    pub(super) fn tell_if_more(&self) {
        let more = self.shared.lock().pool.has_inbound();
        if let Some(slot) = self.shared.slot.as_ref().filter(|_| more) {
            slot.tell();
        }
    }

    /// From now on it is told of again.
    pub(super) fn turn(&self) {
        if let Some(slot) = &self.shared.slot {
            slot.taken();
        }
    }

    /// Waits until `try_recv` yields packets. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn readable(&self) -> Result<(), TransportError> {
        self.wait(&self.shared.readable, Pool::has_inbound).await
    }

    /// Waits until `try_send` may take packets. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`TransportError::Closed`].
    pub async fn writable(&self) -> Result<(), TransportError> {
        self.wait(&self.shared.writable, Pool::has_room).await
    }

    async fn wait(
        &self,
        notify: &Notify,
        ready: impl Fn(&Pool) -> bool + Send,
    ) -> Result<(), TransportError> {
        loop {
            // Enabled before the condition is read, so that no change in between is missed.
            let changed = notify.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.check_open()?;
            if ready(&self.shared.lock().pool) {
                return Ok(());
            }
            tokio::select! {
                () = self.shared.closing.cancelled() => return Err(TransportError::Closed),
                () = changed => {}
            }
        }
    }

    /// The network below is another one, or gone, or the machine slept: streams that were opened here
    /// are replaced at once. What is on them may be lost, and is counted.
    pub fn network_changed(&self, event: vpn_core::NetworkEvent) {
        let mut inner = self.shared.lock();
        inner.pool.network_changed(now(), event);
        self.shared.finish(inner);
    }

    /// There is a better way to the peer than that which its streams go: streams that were opened here are
    /// replaced, without loss.
    pub fn renew(&self) {
        let mut inner = self.shared.lock();
        inner.pool.renew(now());
        self.shared.finish(inner);
    }

    /// What it has done, and how it stands.
    pub fn status(&self) -> PoolStatus {
        self.shared.lock().pool.status()
    }

    /// A watcher of its state.
    pub fn state(&self) -> vpn_core::StateWatch {
        self.shared.state.watch()
    }

    /// Whether nothing was offered, sent or received for so long.
    pub fn is_idle(&self, limit: std::time::Duration) -> bool {
        self.shared.lock().pool.is_idle(now(), limit)
    }

    /// Closes all streams, and returns when no task is left, within a quarter of a second. Idempotent:
    /// whoever calls it, and when, waits for the same end.
    pub async fn close(&self) {
        self.begin_close();
        self.ended.cancelled().await;
        self.shared.state.set(TransportState::Closed);
    }

    /// Tells its tasks to end.
    pub(super) fn begin_close(&self) {
        self.shared.closing.cancel();
    }

    pub(super) fn is_running(&self) -> bool {
        !self.ended.is_cancelled()
    }

    fn check_open(&self) -> Result<(), TransportError> {
        if self.shared.closing.is_cancelled() {
            return Err(TransportError::Closed);
        }
        Ok(())
    }
}

impl Drop for StreamPool {
    fn drop(&mut self) {
        self.begin_close();
    }
}

/// Another number for every pool of this process, and very likely of others: it tells a peer that was
/// started anew. It is no secret.
fn draw() -> Session {
    use std::hash::{BuildHasher, RandomState};
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    Session(RandomState::new().hash_one(DRAWN.fetch_add(1, Ordering::Relaxed)))
}
