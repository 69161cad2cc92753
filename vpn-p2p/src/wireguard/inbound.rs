//! A batch's way in: socket, gate, session, allowed source, joined, router.

use std::time::Instant;

use vpn_core::DropCounters;
use vpn_core::packet::{Joiner, PacketBatch};

use super::core::{Arrival, Standing};
use super::driver::Shared;

impl Shared {
    /// Appends what came through the tunnel; answers handshakes on the way.
    pub(super) fn receive_batch(&self, batch: &mut PacketBatch, drops: &mut DropCounters) -> usize {
        let now = Instant::now();
        let sockets = self.sockets().clone();
        let mut replies = Vec::new();
        let before = batch.len();
        let mut joiner = Joiner::default();
        let mut guard = self.core();
        let mut arrived = std::mem::take(&mut guard.arrived);
        let core = &mut *guard;
        sockets.receive(&mut arrived, batch, |from, datagram, batch| {
            match core.arrive(from, datagram, now) {
                // Copied, so that the packet has room in front and a pooled buffer.
                Arrival::Packet(packet) => {
                    joiner.append(&packet, batch);
                }
                Arrival::Reply(reply) => replies.push(reply),
                Arrival::Handled => {}
                Arrival::Dropped(reason) => drops.count(reason),
            }
        });
        core.arrived = arrived;
        // Silence is for the task to notice.
        let standing = if std::mem::take(&mut core.alive) {
            Standing::Alive
        } else {
            Standing::Unchanged
        };
        let opened = std::mem::take(&mut core.opened);
        drop(guard);
        // A lost answer is asked for again.
        let _ = self.send_all(&mut replies);
        self.announce(standing);
        if opened {
            self.changed.notify_waiters();
        }
        batch.len() - before
    }
}
