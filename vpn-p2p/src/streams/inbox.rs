//! Decides which of many pools is asked next for what came. Pure, but for its lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use vpn_core::PeerId;

/// Peers of which something came, each once.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    ready: Mutex<VecDeque<PeerId>>,
    filled: Notify,
}

/// The place of one pool in it.
#[derive(Debug)]
pub(super) struct Slot {
    peer: PeerId,
    is_told: AtomicBool,
    inbox: Arc<Inbox>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, VecDeque<PeerId>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pop(&self) -> Option<PeerId> {
        self.lock().pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Until there is somebody. Cancel-safe.
    pub(super) async fn filled(&self) {
        loop {
            // Enabled before the list is read, so that nobody in between is missed.
            let filled = self.filled.notified();
            tokio::pin!(filled);
            filled.as_mut().enable();
            if self.len() > 0 {
                return;
            }
            filled.await;
        }
    }
}

impl Slot {
    pub(super) fn new(peer: PeerId, inbox: Arc<Inbox>) -> Self {
        Self {
            peer,
            is_told: AtomicBool::new(false),
            inbox,
        }
    }

    /// Something came.
    pub(super) fn tell(&self) {
        if !self.is_told.swap(true, Ordering::AcqRel) {
            self.inbox.lock().push_back(self.peer);
            self.inbox.filled.notify_waiters();
        }
    }

    /// Its turn came: before what is there is taken, so that what comes meanwhile is told.
    pub(super) fn taken(&self) {
        self.is_told.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_until_its_turn() {
        let inbox = Arc::<Inbox>::default();
        let slots = [1, 2].map(|n| Slot::new(PeerId([n; 32]), inbox.clone()));
        for slot in [&slots[0], &slots[1], &slots[0]] {
            slot.tell();
        }
        assert_eq!(inbox.len(), 2);
        assert_eq!(inbox.pop(), Some(PeerId([1; 32])));
        slots[0].taken();
        slots[0].tell();
        assert_eq!(inbox.pop(), Some(PeerId([2; 32])));
        assert_eq!(inbox.pop(), Some(PeerId([1; 32])));
        assert_eq!(inbox.pop(), None);
    }
}
