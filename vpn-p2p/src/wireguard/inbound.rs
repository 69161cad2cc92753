//! A batch's way in: socket, gate, session, allowed source, router.

use std::time::Instant;

use vpn_core::packet::PacketBatch;
use vpn_core::{DropCounters, Offload};

use super::core::{Arrival, Standing};
use super::driver::Shared;

/// Receive calls per `try_recv`: a flood that yields nothing must not hold the worker.
const MAX_RECEIVES: usize = 8;

impl Shared {
    /// Appends what came through the tunnel; answers handshakes on the way.
    pub(super) fn receive_batch(&self, batch: &mut PacketBatch, drops: &mut DropCounters) -> usize {
        let now = Instant::now();
        let sockets = self.sockets().clone();
        let mut replies = Vec::new();
        let mut packets = 0;
        let mut guard = self.core();
        let core = &mut *guard;
        'receives: for _ in 0..MAX_RECEIVES {
            while let Some(mut received) = core.arrived.pop_front() {
                while !batch.is_full() {
                    let Some(datagram) = received.pop() else {
                        break;
                    };
                    match core.arrive(received.from, datagram, now) {
                        Arrival::Packet(bytes) => {
                            // Copied, so that the packet has room in front and a pooled buffer.
                            packets += 1;
                            batch.push_with(|buffer| {
                                buffer.extend_from_slice(&bytes);
                                Some(Offload::NONE)
                            });
                        }
                        Arrival::Reply(reply) => replies.push(reply),
                        Arrival::Handled => {}
                        Arrival::Dropped(reason) => drops.count(reason),
                    }
                }
                if batch.is_full() {
                    core.arrived.push_front(received);
                    break 'receives;
                }
            }
            for socket in sockets.iter() {
                // What is not "nothing there" is about one earlier datagram (an ICMP error).
                let _ = socket.receive(&mut core.arrived);
            }
            if core.arrived.is_empty() {
                break;
            }
        }
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
        packets
    }
}
