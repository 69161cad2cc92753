//! Counts changes of a source, so that none is lost between two loads.

use tokio::sync::watch;

/// How often the source changed, as its watcher counts it. Clones share.
#[derive(Clone, Debug)]
pub(super) struct Changes(watch::Sender<u64>);

impl Changes {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// One more.
    pub(super) fn count(&self) {
        self.0.send_modify(|changes| *changes += 1);
    }

    /// How many were seen.
    pub(super) fn seen(&self) -> u64 {
        *self.0.borrow()
    }

    /// Waits until more were seen. Cancel-safe.
    pub(super) async fn beyond(&self, seen: u64) {
        // Fails only if the sender is gone, and `self` holds it.
        let _ = self.0.subscribe().wait_for(|&n| n != seen).await;
    }
}
