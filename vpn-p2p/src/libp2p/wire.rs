//! Touches a stream of libp2p as tokio reads and writes: pools take it like this.
//!
//! libp2p's streams want memory that is written already. Writing all that a pool has room for before each
//! read would cost more than the read: it is asked for as much as came lately.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{AsyncRead as _, AsyncWrite as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Least and most bytes of one read: some packets, and a super-packet with what is around it.
const LEAST: usize = 8 * 1024;
const MOST: usize = 128 * 1024;

/// A stream of libp2p for a [`StreamPool`](crate::streams::StreamPool).
#[derive(Debug)]
pub struct PacketStream {
    stream: libp2p::Stream,
    /// Bytes that are asked for.
    wanted: usize,
}

impl PacketStream {
    /// One over this stream.
    pub const fn new(stream: libp2p::Stream) -> Self {
        let wanted = LEAST;
        Self { stream, wanted }
    }
}

/// How much is asked for next, after so much of what was wanted came.
fn next(wanted: usize, came: usize) -> usize {
    let next = match came >= wanted {
        true => wanted.saturating_mul(4),
        // Half way, so that a short read between long ones is not taken for the end of them.
        false => wanted.midpoint(came),
    };
    next.clamp(LEAST, MOST)
}

impl AsyncRead for PacketStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let asked = this.wanted.min(buffer.remaining());
        let room = buffer.initialize_unfilled_to(asked);
        let came = ready!(Pin::new(&mut this.stream).poll_read(cx, room))?;
        buffer.advance(came);
        if asked == this.wanted || came < asked {
            this.wanted = next(this.wanted, came);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PacketStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_follows_what_comes_within_bounds() {
        let mut wanted = LEAST;
        for _ in 0..5 {
            wanted = next(wanted, wanted);
        }
        assert_eq!(wanted, MOST);
        // One short read is not the end of long ones; many are.
        wanted = next(wanted, 100);
        assert!(wanted > MOST / 3);
        for _ in 0..10 {
            wanted = next(wanted, 100);
        }
        assert_eq!(wanted, LEAST);
    }
}
