//! Closing: it ends soon, whatever streams do, and returns only when nothing is left.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::{Instant, timeout};
use vpn_core::PeerId;
use vpn_p2p::streams::memory::{MemoryListener, memory};
use vpn_p2p::streams::{
    Budget, DispatchConfig, Dispatcher, PeerOpener, PoolConfig, Stream, StreamOpener, StreamPool,
};

/// A stream that never gets its farewell away, as TLS over a connection that is full.
struct Clings(DuplexStream);

impl AsyncRead for Clings {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Clings {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// Opens them. The other ends are kept, and nobody reads them.
#[derive(Debug, Default)]
struct Opener(std::sync::Mutex<Vec<DuplexStream>>);

impl Opener {
    fn open(&self) -> Box<dyn Stream> {
        let (ours, theirs) = tokio::io::duplex(4096);
        self.0.lock().unwrap().push(theirs);
        Box::new(Clings(ours))
    }
}

#[async_trait]
impl StreamOpener for Opener {
    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        Ok(self.open())
    }
}

#[async_trait]
impl PeerOpener for Opener {
    async fn open(&self, _: PeerId) -> io::Result<Box<dyn Stream>> {
        Ok(self.open())
    }
}

fn tasks() -> usize {
    let runtime = tokio::runtime::Handle::current();
    runtime.metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_end_holds_up_nobody() {
    let pool = StreamPool::connect(
        Arc::new(Opener::default()),
        PoolConfig::default(),
        Budget::new(1 << 20),
    )
    .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    pool.close().await;
    assert!(begun.elapsed() < Duration::from_millis(900));
    assert_eq!(tasks(), 0);
}

/// However many peers there are, they end together; and what lets idle ones go ends too.
#[tokio::test(start_paused = true)]
async fn a_dispatcher_closes_all_its_pools_at_once_and_leaves_no_task() {
    let dispatcher = Dispatcher::new(Arc::new(Opener::default()), DispatchConfig::default());
    let dispatcher = dispatcher.unwrap();
    for n in 0..20 {
        drop(dispatcher.pool(PeerId([n; 32])).unwrap());
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    dispatcher.close().await;
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(tasks(), 0);
}

/// Who is dropped while it closes leaves the rest to the next; two at the same time wait for the same.
#[tokio::test(start_paused = true)]
async fn whoever_closes_waits_for_the_end() {
    let pool = || {
        let (opener, config) = (Arc::new(Opener::default()), PoolConfig::default());
        StreamPool::connect(opener, config, Budget::new(1 << 20)).unwrap()
    };
    let (one, other) = (pool(), pool());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let short = Duration::from_millis(1);
    assert!(timeout(short, one.close()).await.is_err());
    one.close().await;
    assert_eq!(tasks(), 2, "those of the other one");
    let second = async {
        tokio::time::sleep(short).await;
        other.close().await;
        assert_eq!(tasks(), 0);
    };
    tokio::join!(other.close(), second);
}

/// A stream that panics when it is written to.
#[derive(Debug)]
struct Breaks;

impl AsyncRead for Breaks {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Breaks {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        std::panic::resume_unwind(Box::new("a mistake"))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl StreamOpener for Breaks {
    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(Self))
    }
}

/// A stream whose task is gone is gone.
#[tokio::test(start_paused = true)]
async fn a_stream_that_panics_has_ended() {
    let opener = Arc::new(Breaks);
    let pool = StreamPool::connect(opener, PoolConfig::default(), Budget::new(1 << 20)).unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let status = pool.status();
    assert_eq!((status.counters.open_failed, status.opening), (1, 0));
    pool.close().await;
    assert_eq!(tasks(), 0);
}

/// A listener that nobody opens streams to: only closing ends it.
#[tokio::test(start_paused = true)]
async fn a_pool_that_is_dropped_ends_too() {
    let (_opener, _listener): (_, MemoryListener) = memory(1);
    drop(StreamPool::listen(PoolConfig::default(), Budget::new(1 << 20)).unwrap());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(tasks(), 0);
}
