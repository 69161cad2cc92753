//! Decides how many TLS streams there may be, in all and of one address, before anything is known of
//! who opened them.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much TLS there may be. What is beyond is closed at once.
#[derive(Clone, Copy, Debug)]
pub struct TlsLimits {
    /// Streams in all, with those that are being greeted. Default 2048; each takes about 400 KB when
    /// busy.
    pub streams: usize,
    /// Streams of one address. Default 64: a dozen nodes behind one NAT.
    pub per_address: usize,
    /// Streams that are being greeted. Default 64.
    pub greeting: usize,
    /// How long greeting may take. Default 10 s.
    pub greeting_time: Duration,
    /// Clients, each with its streams. Default 1024.
    pub clients: usize,
    /// How long a client may be no member. Default 15 s.
    pub stranger_time: Duration,
    /// Bytes that wait for all clients together. Default 64 MiB.
    pub waiting_bytes: usize,
}

impl Default for TlsLimits {
    fn default() -> Self {
        Self {
            streams: 2048,
            per_address: 64,
            greeting: 64,
            greeting_time: Duration::from_secs(10),
            clients: 1024,
            stranger_time: Duration::from_secs(15),
            waiting_bytes: 64 << 20,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    open: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Counts streams.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) limits: TlsLimits,
    counts: Arc<Mutex<Counts>>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    counts: Arc<Mutex<Counts>>,
    address: IpAddr,
}

impl Gate {
    pub(super) fn new(limits: TlsLimits) -> Self {
        let counts = Arc::default();
        Self { limits, counts }
    }

    pub(super) fn open(&self) -> usize {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open
    }

    /// A place for a stream from there, if there is one.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = counts.by_address.get(&address).copied().unwrap_or_default();
        if counts.open >= self.limits.streams || mine >= self.limits.per_address {
            return None;
        }
        counts.open += 1;
        counts.by_address.insert(address, mine + 1);
        drop(counts);
        let counts = self.counts.clone();
        Some(Place { counts, address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.open -= 1;
        let left = counts.by_address.get(&self.address).map_or(0, |n| n - 1);
        if left == 0 {
            counts.by_address.remove(&self.address);
        } else {
            counts.by_address.insert(self.address, left);
        }
    }
}

/// A stream that has a place.
pub(super) struct Placed<S> {
    pub(super) stream: S,
    pub(super) _place: Place,
}

impl<S: AsyncRead + Unpin> AsyncRead for Placed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Placed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
