//! Transports that are made anew.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};
use vpn_core::testing::{FarSide, MemoryTransport, memory_transport};
use vpn_core::*;
use vpn_resilience::decorate::*;
use vpn_resilience::*;

use super::{assigned, packets};

/// Fails for good when it is told to.
#[derive(Debug)]
struct Mortal {
    inner: MemoryTransport,
    dead: Arc<tokio::sync::watch::Sender<bool>>,
    closed: Arc<AtomicU32>,
}

impl Mortal {
    fn check(&self) -> Result<(), TransportError> {
        match *self.dead.borrow() {
            true => Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl TunnelTransport for Mortal {
    fn capabilities(&self) -> TransportCapabilities {
        self.inner.capabilities()
    }
    fn state(&self) -> StateWatch {
        self.inner.state()
    }
    fn try_recv(&self, b: &mut PacketBatch, d: &mut DropCounters) -> Result<usize, TransportError> {
        self.check()?;
        self.inner.try_recv(b, d)
    }
    fn try_send(&self, b: &mut PacketBatch, d: &mut DropCounters) -> Result<usize, TransportError> {
        self.check()?;
        self.inner.try_send(b, d)
    }
    async fn readable(&self) -> Result<(), TransportError> {
        let mut dead = self.dead.subscribe();
        tokio::select! {
            _ = dead.wait_for(|dead| *dead) => self.check(),
            ready = self.inner.readable() => ready,
        }
    }
    async fn writable(&self) -> Result<(), TransportError> {
        self.check()?;
        self.inner.writable().await
    }
    async fn close(&self) {
        self.closed.fetch_add(1, SeqCst);
        self.inner.close().await;
    }
}

/// The newest one: what ends it, and its far end.
type Newest = Option<(Arc<tokio::sync::watch::Sender<bool>>, FarSide)>;

/// What makes them: fails the first so many times; each is up at once.
#[derive(Clone, Default)]
struct Maker {
    failures: Arc<AtomicU32>,
    made: Arc<AtomicU32>,
    closed: Arc<AtomicU32>,
    newest: Arc<Mutex<Newest>>,
}

impl Maker {
    fn make(&self) -> Making {
        let this = self.clone();
        Box::pin(async move {
            sleep(Duration::from_millis(100)).await;
            let left = this
                .failures
                .fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
            if left.is_ok() {
                return Err(std::io::Error::from(std::io::ErrorKind::NotFound).into());
            }
            this.made.fetch_add(1, SeqCst);
            let (inner, far) = memory_transport(16, 1420);
            far.up(assigned());
            let dead = Arc::new(tokio::sync::watch::Sender::new(false));
            *this.newest.lock().unwrap() = Some((dead.clone(), far));
            let closed = this.closed.clone();
            let made: Made = Arc::new(Mortal {
                inner,
                dead,
                closed,
            });
            Ok(made)
        })
    }

    fn remade(&self, backoff: BackoffConfig) -> Arc<Remade> {
        let maker = self.clone();
        let capabilities = TransportCapabilities::plain(1420);
        Arc::new(Remade::new(capabilities, backoff, 7, move || maker.make()))
    }

    fn kill(&self) {
        let newest = self.newest.lock().unwrap();
        newest.as_ref().unwrap().0.send_replace(true);
    }

    fn far(&self) -> FarSide {
        self.newest.lock().unwrap().as_ref().unwrap().1.clone()
    }
}

/// Reads without end, in pieces: waiting is dropped and begun anew each 7 ms.
fn drive(tunnel: &Arc<Remade>) -> tokio::task::JoinHandle<TransportError> {
    let tunnel = tunnel.clone();
    tokio::spawn(async move {
        let (mut batch, mut drops) = (PacketBatch::new(16, 1500), DropCounters::default());
        loop {
            match timeout(Duration::from_millis(7), tunnel.readable()).await {
                Err(_) => {}
                Ok(Ok(())) => drop(tunnel.try_recv(&mut batch, &mut drops)),
                Ok(Err(error)) => return error,
            }
            batch.clear();
        }
    })
}

fn is_up(tunnel: &Remade) -> bool {
    matches!(tunnel.state().get(), TransportState::Up(_))
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_is_closed_and_another_is_made() {
    let maker = Maker::default();
    let tunnel = maker.remade(BackoffConfig::default());
    let driver = drive(&tunnel);
    sleep(Duration::from_millis(200)).await;
    assert!(is_up(&tunnel));
    maker.failures.store(2, SeqCst);
    maker.kill();
    sleep(Duration::from_millis(50)).await;
    // Meanwhile what is sent is dropped, and counted.
    let (mut batch, mut drops) = (packets(3), DropCounters::default());
    assert_eq!(tunnel.try_send(&mut batch, &mut drops).unwrap(), 0);
    assert_eq!(drops.get(DropReason::NoSession), 3);
    assert_eq!(maker.closed.load(SeqCst), 1);
    // Half a second, a second, two, each shortened at random, and 100 ms for each attempt.
    sleep(Duration::from_secs(4)).await;
    assert!(is_up(&tunnel));
    assert_eq!(tunnel.try_send(&mut packets(3), &mut drops).unwrap(), 3);
    assert!(maker.far().take().is_some());
    let counters = tunnel.counters();
    assert_eq!((counters.made, counters.failed, counters.lost), (2, 2, 1));
    tunnel.close().await;
    assert!(matches!(driver.await.unwrap(), TransportError::Closed));
    assert_eq!(maker.closed.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn who_sends_sees_it_fail_and_who_reads_makes_another() {
    let maker = Maker::default();
    let tunnel = maker.remade(BackoffConfig::default());
    let driver = drive(&tunnel);
    sleep(Duration::from_millis(200)).await;
    maker.kill();
    let (mut batch, mut drops) = (packets(3), DropCounters::default());
    assert_eq!(tunnel.try_send(&mut batch, &mut drops).unwrap(), 0);
    assert_eq!(batch.len(), 3, "what was not sent stays");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(tunnel.try_send(&mut batch, &mut drops).unwrap(), 3);
    tunnel.close().await;
    driver.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_gives_up_if_it_is_told_to_and_says_so() {
    let maker = Maker::default();
    maker.failures.store(u32::MAX, SeqCst);
    let tunnel = maker.remade(BackoffConfig {
        max_attempts: Some(3),
        ..BackoffConfig::default()
    });
    let error = drive(&tunnel).await.unwrap();
    let TransportError::Io(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.to_string(), "gave up after 3 attempts");
    assert_eq!(tunnel.counters().failed, 3);
    assert!(tunnel.writable().await.is_err());
    tunnel.close().await;
    assert_eq!(tunnel.state().get(), TransportState::Closed);
}

#[tokio::test(start_paused = true)]
async fn another_network_cuts_a_pause_short() {
    let maker = Maker::default();
    maker.failures.store(6, SeqCst);
    let tunnel = maker.remade(BackoffConfig::default());
    let driver = drive(&tunnel);
    while tunnel.counters().failed < 6 {
        sleep(Duration::from_millis(10)).await;
    }
    let begun = Instant::now();
    tunnel.network_changed(NetworkEvent::Changed);
    while !is_up(&tunnel) {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(
        begun.elapsed() <= Duration::from_millis(120),
        "{:?}",
        begun.elapsed()
    );
    tunnel.close().await;
    driver.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_in_any_moment_leaves_no_transport_open() {
    for after in 0..300 {
        let maker = Maker::default();
        maker.failures.store(1, SeqCst);
        let tunnel = maker.remade(BackoffConfig::default());
        let driver = drive(&tunnel);
        sleep(Duration::from_millis(after * 5)).await;
        if after % 3 == 0 && is_up(&tunnel) {
            maker.kill();
        }
        tunnel.close().await;
        driver.await.unwrap();
        assert_eq!(
            maker.made.load(SeqCst),
            maker.closed.load(SeqCst),
            "{after}"
        );
        assert!(tunnel.current().is_none());
    }
}

/// Who waits, stops looking and closes, still holding what it waited for: closing does not wait for that.
#[tokio::test(start_paused = true)]
async fn closing_waits_for_nobody_who_waits() {
    for after in [0, 50, 150, 300] {
        let maker = Maker::default();
        maker.failures.store(1, SeqCst);
        let tunnel = maker.remade(BackoffConfig::default());
        let mut waiting = std::pin::pin!(tunnel.readable());
        let _ = timeout(Duration::from_millis(after), &mut waiting).await;
        let closed = timeout(Duration::from_secs(10), tunnel.close()).await;
        assert!(closed.is_ok(), "after {after} ms");
        assert!(matches!(waiting.await, Err(TransportError::Closed)));
        assert_eq!(maker.made.load(SeqCst), maker.closed.load(SeqCst));
    }
}
