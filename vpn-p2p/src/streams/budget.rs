//! Decides how much memory the packets of all peers may take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use vpn_core::packet::{HEADROOM, Packet, TAILROOM};

/// Bytes that several pools share. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Self {
        let used = AtomicUsize::new(0);
        Self(Arc::new(Shared { limit, used }))
    }

    /// Bytes in use now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Bytes there are in all.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Whether there were so many left; they are taken then.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= self.0.limit);
        let used = &self.0.used;
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    pub(super) fn give(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What a packet counts in a queue: its bytes, and the room around them.
pub(super) fn weight(packet: &Packet) -> usize {
    HEADROOM + packet.len() + TAILROOM
}

/// The packet as a queue should hold it: one that fills less than half of its buffer leaves that to
/// whoever brought it.
pub(super) fn compact(packet: &mut Packet) -> Packet {
    if packet.headroom() + packet.len() + packet.tailroom() > 2 * weight(packet) {
        return packet.shrunk();
    }
    std::mem::take(packet)
}
