//! What a stream is: bytes in both directions, in order. Over what, is somebody else's.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a peer that has proven who it is: whatever can be read and written
/// asynchronously. It is closed by shutting down its writing side and dropping it.
///
/// Who it leads to is not asked again: over a network that others use, it comes from TLS, from
/// libp2p's noise, or from a connection inside another tunnel.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Opens streams to one peer.
///
/// # Contract
///
/// * [`open`](Self::open) may take as long as it likes: it is given up after
///   [`open_timeout`](super::PoolConfig::open_timeout), by dropping the future.
/// * Streams are independent: what happens to one does not stop another, as far as that can be.
#[async_trait]
pub trait StreamOpener: Debug + Send + Sync {
    /// Opens one more stream.
    ///
    /// # Errors
    ///
    /// Why there is none now. It is tried again later.
    async fn open(&self) -> io::Result<Box<dyn Stream>>;
}

#[async_trait]
impl<T: StreamOpener + ?Sized> StreamOpener for Arc<T> {
    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        (**self).open().await
    }
}
