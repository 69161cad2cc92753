//! Time that stands still until the test moves it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A clock that only [`advance`](Self::advance) moves. Clones show the same time.
#[derive(Clone, Debug)]
pub struct VirtualClock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    base: Instant,
    offset: Mutex<Duration>,
    moved: Notify,
}

impl VirtualClock {
    /// A clock at an arbitrary instant.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            base: Instant::now(),
            offset: Mutex::new(Duration::ZERO),
            moved: Notify::new(),
        }))
    }

    /// The instant it shows.
    pub fn now(&self) -> Instant {
        self.0.base + self.elapsed()
    }

    /// How far it was moved since it was made.
    pub fn elapsed(&self) -> Duration {
        *self.0.offset.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        *self.0.offset.lock().unwrap_or_else(PoisonError::into_inner) += by;
        self.0.moved.notify_waiters();
    }

    /// Waits until it was moved. Cancel-safe; a move before the call is not seen.
    pub async fn moved(&self) {
        self.0.moved.notified().await;
    }
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::new()
    }
}
