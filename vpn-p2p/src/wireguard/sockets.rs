//! Touches the network: the sockets of one transport, one per family, and what waits before and
//! behind them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use vpn_core::packet::PacketBatch;

use super::socket::{Flushed, Received, Run, Udp};

/// Receive calls per `try_recv`: a flood that yields nothing must not hold the worker.
const MAX_RECEIVES: usize = 8;

/// Bytes of datagrams per `try_recv`, and one datagram: a batch of super-packets would be 4 MiB. So many
/// stay in the processor's cache until they are written to the device, and hold up the other
/// tunnels for a fraction of a millisecond.
const MAX_BYTES: usize = 256 * 1024;

/// The sockets in use: one per family that is needed, or that the machine has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) v4: Option<Arc<Udp>>,
    pub(crate) v6: Option<Arc<Udp>>,
}

impl Sockets {
    /// By which datagrams go there.
    pub(crate) fn to(&self, at: SocketAddr) -> Option<&Arc<Udp>> {
        if at.is_ipv4() {
            self.v4.as_ref()
        } else {
            self.v6.as_ref()
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Udp>> {
        self.v4.iter().chain(&self.v6)
    }

    /// Their local ports.
    #[cfg(feature = "mesh")]
    pub(crate) fn ports(&self) -> (Option<u16>, Option<u16>) {
        let port = |socket: Option<&Arc<Udp>>| Some(socket?.local_addr().ok()?.port());
        (port(self.v4.as_ref()), port(self.v6.as_ref()))
    }

    /// Waits until one of them has something. Without any, for ever.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        let readable = async |socket: Option<&Arc<Udp>>| match socket {
            Some(socket) => socket.readable().await,
            None => std::future::pending().await,
        };
        tokio::select! {
            result = readable(self.v4.as_ref()) => result,
            result = readable(self.v6.as_ref()) => result,
        }
    }

    /// Gives every datagram to `take`, until the batch is full or it was enough for one turn. What is
    /// left over waits in `arrived`.
    pub(crate) fn receive(
        &self,
        arrived: &mut VecDeque<Received>,
        batch: &mut PacketBatch,
        mut take: impl FnMut(SocketAddr, BytesMut, &mut PacketBatch),
    ) {
        let mut bytes = 0;
        for _ in 0..MAX_RECEIVES {
            while let Some(mut received) = arrived.pop_front() {
                while !batch.is_full() && bytes < MAX_BYTES {
                    let Some(datagram) = received.pop() else {
                        break;
                    };
                    bytes += datagram.len();
                    take(received.from, datagram, batch);
                }
                if received.bytes_left() > 0 {
                    arrived.push_front(received);
                    return;
                }
            }
            if batch.is_full() || bytes >= MAX_BYTES {
                return;
            }
            for socket in self.iter() {
                // What is not "nothing there" is about one earlier datagram (an ICMP error).
                let _ = socket.receive(arrived);
            }
            if arrived.is_empty() {
                return;
            }
        }
    }

    /// Sends a run, if there is a socket of its family.
    pub(crate) fn flush(&self, run: &Run) -> Flushed {
        match run.to().map(|to| self.to(to)) {
            None => Flushed::Sent,
            Some(Some(socket)) => socket.flush(run),
            Some(None) => Flushed::Refused(
                (0..run.count()).collect(),
                io::ErrorKind::NotConnected.into(),
            ),
        }
    }

    /// Sends what full sockets left over, and says what became of each run; `false` if one is still
    /// full.
    pub(crate) fn unblock(
        &self,
        blocked: &mut VecDeque<Run>,
        mut ended: impl FnMut(&Run, Flushed),
    ) -> bool {
        while let Some(run) = blocked.pop_front() {
            match self.flush(&run) {
                Flushed::Blocked => {
                    blocked.push_front(run);
                    return false;
                }
                done => ended(&run, done),
            }
        }
        true
    }
}
