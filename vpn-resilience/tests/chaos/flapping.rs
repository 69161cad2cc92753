//! Tunnels that go up and down, and tunnels that die, by seed.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use vpn_core::testing::{FarSide, memory_transport};
use vpn_core::*;
use vpn_resilience::decorate::*;
use vpn_resilience::*;

use super::{seconds, seeds};

/// Numbers from a seed.
struct Random(u64);

impl Random {
    /// From `least` up to `most`, in milliseconds.
    fn between(&mut self, least: u64, most: u64) -> Duration {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis(least + (self.0 >> 33) % (most - least))
    }
}

fn on_virtual_time<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(work)
}

/// Reads without end, as an engine does.
fn drive(tunnel: Arc<dyn TunnelTransport>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let (mut batch, mut drops) = (PacketBatch::new(16, 1500), DropCounters::default());
        while tunnel.readable().await.is_ok() {
            let _ = tunnel.try_recv(&mut batch, &mut drops);
            batch.clear();
        }
    })
}

/// Counts how often somebody who watches is told "up", and when last.
fn watch(mut state: StateWatch) -> (tokio::task::JoinHandle<()>, Arc<Mutex<Vec<Instant>>>) {
    let ups = Arc::new(Mutex::new(Vec::new()));
    let told = ups.clone();
    let task = tokio::spawn(async move {
        loop {
            match state.next().await {
                TransportState::Up(_) => told.lock().unwrap().push(Instant::now()),
                TransportState::Closed => return,
                _ => {}
            }
        }
    });
    (task, ups)
}

/// Ten minutes of a tunnel that is never up for five seconds; then it lasts.
async fn flap(seed: u64) -> (u32, usize, Duration, Transitions) {
    let (near, far) = memory_transport(16, 1420);
    let guard = TunnelBreaker::new(BreakerConfig::default());
    let tunnel = Arc::new(Guarded::new(near, guard));
    let driver = drive(tunnel.clone());
    let (watcher, ups) = watch(tunnel.state());
    let (mut random, begun, mut flaps) = (Random(seed), Instant::now(), 0);
    while begun.elapsed() < seconds(600) {
        far.up(Assigned::default());
        sleep(random.between(1, 5000)).await;
        far.down(DownCause::NoAnswer);
        sleep(random.between(1, 2000)).await;
        flaps += 1;
    }
    let lasting = Instant::now();
    far.up(Assigned::default());
    sleep(seconds(100)).await;
    let shown = ups.lock().unwrap().clone();
    let back = shown.last().unwrap().saturating_duration_since(lasting);
    assert!(matches!(tunnel.state().get(), TransportState::Up(_)));
    let transitions = tunnel.with_guard(|guard| guard.status().transitions);
    tunnel.close().await;
    driver.await.unwrap();
    watcher.await.unwrap();
    (flaps, shown.len(), back, transitions)
}

/// Who watches a flapping tunnel is told five times, and then once a minute; and one that lasts is
/// up again within that minute.
#[test]
fn a_flapping_tunnel() {
    let (mut flaps, mut ups, mut latest) = (0, 0, Duration::ZERO);
    for seed in seeds() {
        let (made, shown, back, transitions) = on_virtual_time(flap(seed));
        assert!(made > 100, "seed {seed}: {made} flaps");
        assert!(shown <= 5 + 11, "seed {seed}: told {shown} times");
        assert!(back <= seconds(60), "seed {seed}: up after {back:?}");
        assert_eq!(transitions.closed, 1, "seed {seed}: {transitions:?}");
        assert_eq!(transitions.opened, transitions.half_opened);
        flaps += made;
        ups += shown;
        latest = latest.max(back);
    }
    println!("flapping: {flaps} flaps, {ups} times told; up after {latest:?} at worst");
}

/// What makes tunnels: each lives for a while, and now and then none can be made.
#[derive(Debug)]
struct Mortal {
    inner: vpn_core::testing::MemoryTransport,
    closed: Arc<AtomicU32>,
}

#[async_trait::async_trait]
impl TunnelTransport for Mortal {
    fn capabilities(&self) -> TransportCapabilities {
        self.inner.capabilities()
    }
    fn state(&self) -> StateWatch {
        self.inner.state()
    }
    fn try_recv(&self, b: &mut PacketBatch, d: &mut DropCounters) -> Result<usize, TransportError> {
        self.inner.try_recv(b, d)
    }
    fn try_send(&self, b: &mut PacketBatch, d: &mut DropCounters) -> Result<usize, TransportError> {
        self.inner.try_send(b, d)
    }
    async fn readable(&self) -> Result<(), TransportError> {
        self.inner.readable().await
    }
    async fn writable(&self) -> Result<(), TransportError> {
        self.inner.writable().await
    }
    async fn close(&self) {
        self.closed.fetch_add(1, SeqCst);
        self.inner.close().await;
    }
}

/// Ten minutes of tunnels that die after 20 s or so, and a maker that fails every third time: the
/// share of time up, the longest time down, and how many were made and closed.
async fn die(seed: u64) -> (f64, Duration, u32, u32) {
    let closed = Arc::new(AtomicU32::new(0));
    let newest: Arc<Mutex<Option<FarSide>>> = Arc::default();
    let (asked, count, make) = (AtomicU32::new(0), closed.clone(), newest.clone());
    let capabilities = TransportCapabilities::plain(1420);
    let backoff = BackoffConfig {
        cap: seconds(5),
        ..BackoffConfig::default()
    };
    let tunnel = Arc::new(Remade::new(capabilities, backoff, seed, move || {
        let fails = asked.fetch_add(1, SeqCst) % 3 == 1;
        let (closed, newest) = (count.clone(), make.clone());
        Box::pin(async move {
            sleep(Duration::from_millis(200)).await;
            if fails {
                return Err(std::io::Error::from(std::io::ErrorKind::NotFound).into());
            }
            let (inner, far) = memory_transport(16, 1420);
            far.up(Assigned::default());
            *newest.lock().unwrap() = Some(far);
            let made: Made = Arc::new(Mortal { inner, closed });
            Ok(made)
        })
    }));
    let driver = drive(tunnel.clone());
    let (mut random, begun) = (Random(seed), Instant::now());
    let (mut up, mut down, mut longest) = (0u32, 0u32, 0u32);
    let mut dies = Instant::now() + random.between(1000, 40_000);
    while begun.elapsed() < seconds(600) {
        sleep(Duration::from_millis(10)).await;
        if matches!(tunnel.state().get(), TransportState::Up(_)) {
            up += 1;
            down = 0;
        } else {
            down += 1;
            longest = longest.max(down);
        }
        if Instant::now() >= dies
            && let Some(far) = newest.lock().unwrap().take()
        {
            far.set_state(TransportState::Closed);
            dies = Instant::now() + random.between(1000, 40_000);
        }
    }
    tunnel.close().await;
    driver.await.unwrap();
    let made = tunnel.counters().made as u32;
    let longest = Duration::from_millis(10) * longest;
    (f64::from(up) / 60_000.0, longest, made, closed.load(SeqCst))
}

/// Tunnels that die are replaced: within the longest pauses and two attempts, and none is left open.
#[test]
fn dying_tunnels() {
    let (mut least, mut longest) = (1.0f64, Duration::ZERO);
    for seed in seeds() {
        let (up, down, made, closed) = on_virtual_time(die(seed));
        assert_eq!(made, closed, "seed {seed}");
        assert!(made > 10, "seed {seed}: {made} made");
        assert!(down <= seconds(11), "seed {seed}: down for {down:?}");
        assert!(up >= 0.6, "seed {seed}: up {up} of the time");
        least = least.min(up);
        longest = longest.max(down);
    }
    println!(
        "dying: up {:.1} % of the time at least; down for {longest:?} at most",
        least * 100.0
    );
}
