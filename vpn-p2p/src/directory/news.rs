//! Whose records changed and were not told yet: bounded, and none is lost between two looks.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use vpn_core::PeerId;

/// Changes that nobody has taken yet; beyond, the oldest is forgotten, since its record can be
/// asked for.
pub(crate) const MAX_CHANGES: usize = 4096;

/// Peers whose records changed, each once.
#[derive(Debug, Default)]
pub(crate) struct News {
    peers: Mutex<VecDeque<PeerId>>,
    came: Notify,
}

impl News {
    /// The record of this peer changed.
    pub(crate) fn tell(&self, peer: PeerId) {
        {
            let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
            if peers.contains(&peer) {
                return;
            }
            if peers.len() >= MAX_CHANGES {
                peers.pop_front();
            }
            peers.push_back(peer);
        }
        self.came.notify_waiters();
    }

    /// The next change for which `look` finds something. Cancel-safe: `look` is called and its result
    /// returned without a pause in between.
    pub(crate) async fn next<T>(&self, look: impl Fn(PeerId) -> Option<T>) -> T {
        loop {
            // Enabled before the list is read, so that no change in between is missed.
            let mut came = pin!(self.came.notified());
            came.as_mut().enable();
            while let Some(peer) = self.take() {
                if let Some(found) = look(peer) {
                    return found;
                }
            }
            came.await;
        }
    }

    fn take(&self) -> Option<PeerId> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.pop_front()
    }
}
