//! A batch's way in: socket, gate, session, allowed source, joined, router.

use std::time::Instant;

use vpn_core::DropCounters;
use vpn_core::packet::{Joiner, PacketBatch};

use super::core::{Arrival, Standing};
use super::driver::Shared;

/// Receive calls per `try_recv`: a flood that yields nothing must not hold the worker.
const MAX_RECEIVES: usize = 8;

/// Bytes of datagrams per `try_recv`, and one datagram: a batch of super-packets would be 4 MiB. So many
/// stay in the processor's cache until they are written to the device, and hold up the other
/// tunnels for a fraction of a millisecond.
const MAX_BYTES: usize = 256 * 1024;

impl Shared {
    /// Appends what came through the tunnel; answers handshakes on the way.
    pub(super) fn receive_batch(&self, batch: &mut PacketBatch, drops: &mut DropCounters) -> usize {
        let now = Instant::now();
        let sockets = self.sockets().clone();
        let mut replies = Vec::new();
        let (before, mut bytes) = (batch.len(), 0);
        let mut joiner = Joiner::default();
        let mut guard = self.core();
        let core = &mut *guard;
        'receives: for _ in 0..MAX_RECEIVES {
            while let Some(mut received) = core.arrived.pop_front() {
                while !batch.is_full() && bytes < MAX_BYTES {
                    let Some(datagram) = received.pop() else {
                        break;
                    };
                    bytes += datagram.len();
                    match core.arrive(received.from, datagram, now) {
                        // Copied, so that the packet has room in front and a pooled buffer.
                        Arrival::Packet(packet) => {
                            joiner.append(&packet, batch);
                        }
                        Arrival::Reply(reply) => replies.push(reply),
                        Arrival::Handled => {}
                        Arrival::Dropped(reason) => drops.count(reason),
                    }
                }
                if received.bytes_left() > 0 {
                    core.arrived.push_front(received);
                    break 'receives;
                }
            }
            if batch.is_full() || bytes >= MAX_BYTES {
                break;
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
        batch.len() - before
    }
}
