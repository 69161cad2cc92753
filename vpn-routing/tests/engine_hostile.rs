//! The engine among devices and transports that misbehave.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use vpn_core::packet::Packet;
use vpn_core::testing::{
    AppSide, FarSide, MemoryTransport, build, memory_device, memory_transport,
};
use vpn_core::{
    Action, Assigned, DropCounters, DropReason, PacketBatch, PortRange, Rule, RuleId, RuleMatch,
    RuleSnapshot, StateWatch, TransportCapabilities, TransportError, TunDevice, TunnelId,
    TunnelTransport,
};
use vpn_routing::RouterConfig;
use vpn_routing::engine::Engine;
use vpn_routing::owner::MemoryOwners;
use vpn_routing::rules::{CompiledRules, RuleCache, Target};

const LONG: Duration = Duration::from_secs(30);

/// A memory transport that can be made to misbehave.
#[derive(Debug)]
struct Hostile {
    inner: MemoryTransport,
    always_readable: AtomicBool,
    woken: AtomicU32,
    refuses: AtomicBool,
    tries: AtomicU32,
    hangs: AtomicBool,
    /// Always has a batch of packets.
    floods: AtomicBool,
    /// Batches of the flood so far, whoever brings them.
    batches: Arc<AtomicU32>,
    /// How many these were when this one moved a packet last.
    moved_at: AtomicU32,
}

impl Hostile {
    fn new(inner: MemoryTransport, batches: &Arc<AtomicU32>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            always_readable: AtomicBool::new(false),
            woken: AtomicU32::new(0),
            refuses: AtomicBool::new(false),
            tries: AtomicU32::new(0),
            hangs: AtomicBool::new(false),
            floods: AtomicBool::new(false),
            batches: Arc::clone(batches),
            moved_at: AtomicU32::new(0),
        })
    }

    fn note(&self, moved: Result<usize, TransportError>) -> Result<usize, TransportError> {
        if matches!(moved, Ok(1..)) {
            let batches = self.batches.load(Ordering::Relaxed);
            self.moved_at.store(batches, Ordering::Relaxed);
        }
        moved
    }
}

#[async_trait]
impl TunnelTransport for Hostile {
    fn capabilities(&self) -> TransportCapabilities {
        self.inner.capabilities()
    }
    fn state(&self) -> StateWatch {
        self.inner.state()
    }
    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        if self.floods.load(Ordering::Relaxed) {
            self.batches.fetch_add(1, Ordering::Relaxed);
            // Nobody asked for these: they are looked up, and dropped.
            let packet = build::udp("203.0.113.10:9", "10.5.0.2:4000", &[0; 1000]);
            while batch.push(Packet::from_slice(&packet)).is_ok() {}
            return Ok(batch.len());
        }
        self.note(self.inner.try_recv(batch, drops))
    }
    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.tries.fetch_add(1, Ordering::Relaxed);
        if self.refuses.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("refused").into());
        }
        self.note(self.inner.try_send(batch, drops))
    }
    async fn readable(&self) -> Result<(), TransportError> {
        self.woken.fetch_add(1, Ordering::Relaxed);
        if self.always_readable.load(Ordering::Relaxed) || self.floods.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.inner.readable().await
    }
    async fn writable(&self) -> Result<(), TransportError> {
        self.inner.writable().await
    }
    async fn close(&self) {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.inner.close().await;
    }
}

struct World {
    apps: AppSide,
    far: [FarSide; 2],
    hostile: Arc<Hostile>,
    good: Arc<Hostile>,
    rules: RuleCache,
    device: Arc<dyn TunDevice>,
    engine: Engine,
}

/// Tunnel 0 misbehaves, tunnel 1 does not; port 1 goes to the one, port 2 to the other.
fn world() -> World {
    let (device, apps) = memory_device(256, 1500);
    let device: Arc<dyn TunDevice> = Arc::new(device);
    let rules = RuleCache::new();
    let owners = Arc::new(MemoryOwners::new());
    let mut engine = Engine::new(
        device.clone(),
        owners,
        rules.clone(),
        RouterConfig::default(),
    );
    let (bad, far_bad) = memory_transport(256, 1420);
    let (good, far_good) = memory_transport(256, 1420);
    let batches = Arc::new(AtomicU32::new(0));
    let hostile = Hostile::new(bad, &batches);
    let good = Hostile::new(good, &batches);
    for far in [&far_bad, &far_good] {
        far.up(Assigned {
            addresses: vec!["10.5.0.2/32".parse().unwrap()],
            dns: Vec::new(),
            mtu: 1420,
            ..Assigned::default()
        });
    }
    engine.add_tunnel("bad", hostile.clone()).unwrap();
    engine.add_tunnel("good", good.clone()).unwrap();
    let far = [far_bad, far_good];
    let world = World {
        apps,
        far,
        hostile,
        good,
        rules,
        device,
        engine,
    };
    world.rules(1);
    world
}

impl World {
    fn rules(&self, good: u16) {
        let to = |id, port: u16, name: &str| {
            Rule::new(
                RuleId(id),
                RuleMatch {
                    ports: Some(PortRange::single(port)),
                    ..RuleMatch::default()
                },
                Action::Tunnel(name.to_owned()),
            )
        };
        let rules = vec![to(1, 1, "bad"), to(2, 2, "good")];
        let id = |name: &str| Some(TunnelId::new(if name == "bad" { 0 } else { good }));
        let default = Target::Block(DropReason::BlockedByDefault);
        let compiled = CompiledRules::compile(&RuleSnapshot::from(rules), &id, default);
        self.rules.swap(compiled.unwrap());
    }
}

fn inject(apps: &AppSide, port: u16) {
    let to = format!("203.0.113.10:{port}");
    apps.inject(&build::udp("10.5.0.2:4000", to.as_str(), b""))
        .unwrap();
}

/// A transport whose close hangs holds up nobody, and the caller not for ever.
#[tokio::test(start_paused = true)]
async fn removing_a_tunnel_does_not_stall_the_others() {
    let World {
        apps,
        far,
        hostile,
        engine,
        ..
    } = world();
    hostile.hangs.store(true, Ordering::Relaxed);
    let handle = engine.handle();
    let task = tokio::spawn(engine.run());
    let started = tokio::time::Instant::now();
    let removal = tokio::spawn({
        let handle = handle.clone();
        async move { handle.remove_tunnel(TunnelId::new(0)).await }
    });
    while handle.status().await.unwrap().tunnels.len() > 1 {}
    inject(&apps, 2);
    far[1].take_wait().await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO, "the other tunnel waited");
    assert!(!removal.is_finished());
    timeout(LONG, removal).await.unwrap().unwrap().unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    handle.stop().await;
    assert!(task.await.unwrap().unwrap().accounts.balance());
}

/// On one thread, with a transport that is always "readable": other tasks run, other tunnels
/// work, and the processor is left alone.
#[tokio::test(start_paused = true)]
async fn a_transport_that_is_always_ready_does_not_starve_anybody() {
    let World {
        apps,
        far,
        hostile,
        engine,
        ..
    } = world();
    hostile.always_readable.store(true, Ordering::Relaxed);
    let handle = engine.handle();
    let task = tokio::spawn(engine.run());
    for _ in 0..10 {
        inject(&apps, 2);
        timeout(LONG, far[1].take_wait()).await.unwrap().unwrap();
    }
    let before = hostile.woken.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let woken = hostile.woken.load(Ordering::Relaxed) - before;
    assert!((1..=101).contains(&woken), "{woken} wakes in 100 ms");
    // It still works, too.
    far[0]
        .inject(&build::udp("203.0.113.10:1", "10.5.0.2:4000", b""))
        .unwrap();
    inject(&apps, 1);
    timeout(LONG, far[0].take_wait()).await.unwrap().unwrap();
    handle.stop().await;
    timeout(LONG, task).await.unwrap().unwrap().unwrap();
}

/// One tunnel brings as much as the engine takes, without a pause. What comes through another one, and
/// what applications send there, waits for a batch or two of it and no longer.
#[tokio::test(start_paused = true)]
async fn a_busy_tunnel_does_not_starve_the_others() {
    let World {
        apps,
        far,
        hostile,
        good,
        engine,
        ..
    } = world();
    let handle = engine.handle();
    let task = tokio::spawn(engine.run());
    for (port, far) in [(1, &far[0]), (2, &far[1])] {
        inject(&apps, port);
        timeout(LONG, far.take_wait()).await.unwrap().unwrap();
    }
    hostile.floods.store(true, Ordering::Relaxed);
    // Wakes the engine, which waits for the tunnel.
    let answer = |port: &str| build::udp(port, "10.5.0.2:4000", b"");
    far[0].inject(&answer("203.0.113.10:1")).unwrap();
    let batches = || hostile.batches.load(Ordering::Relaxed);
    let moved_at = || good.moved_at.load(Ordering::Relaxed);
    let mut worst = 0;
    for _ in 0..50 {
        // The engine runs while this waits only.
        let before = batches();
        far[1].inject(&answer("203.0.113.10:2")).unwrap();
        apps.take_wait().await.unwrap();
        worst = worst.max(moved_at() - before);
        let before = batches();
        inject(&apps, 2);
        far[1].take_wait().await.unwrap();
        worst = worst.max(moved_at() - before);
    }
    assert!(batches() > 200, "it was a flood: {}", batches());
    assert!(worst <= 3, "{worst} batches of the busy tunnel came first");
    hostile.floods.store(false, Ordering::Relaxed);
    handle.stop().await;
    task.await.unwrap().unwrap();
}

/// A transport that failed is not tried again for every packet, and does not come up again.
#[tokio::test(start_paused = true)]
async fn a_failed_transport_stays_closed() {
    let World {
        apps,
        far,
        hostile,
        engine,
        ..
    } = world();
    hostile.refuses.store(true, Ordering::Relaxed);
    let handle = engine.handle();
    let task = tokio::spawn(engine.run());
    for round in 0..50u64 {
        inject(&apps, 1);
        while handle.status().await.unwrap().accounts.in_device <= round {
            tokio::task::yield_now().await;
        }
        if round == 10 {
            far[0].down(vpn_core::DownCause::NoAnswer);
        }
        if round == 20 {
            far[0].up(Assigned::default());
        }
    }
    assert_eq!(hostile.tries.load(Ordering::Relaxed), 1, "tried once");
    inject(&apps, 2);
    timeout(LONG, far[1].take_wait()).await.unwrap().unwrap();
    handle.stop().await;
    let status = task.await.unwrap().unwrap();
    assert!(status.accounts.balance(), "{:?}", status.accounts);
    assert_eq!(status.tunnels[0].state.name(), "closed");
    assert_eq!(status.accounts.drops.total(), 50);
}

/// Dropping the future in the middle closes what can be closed at once.
#[tokio::test(start_paused = true)]
async fn a_dropped_engine_closes_its_device_and_transports() {
    let World {
        apps,
        far,
        device,
        engine,
        ..
    } = world();
    let task = tokio::spawn(engine.run());
    inject(&apps, 2);
    timeout(LONG, far[1].take_wait()).await.unwrap().unwrap();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert!(far.iter().all(FarSide::is_closed));
    assert!(device.readable().await.is_err());
}

/// A flood of packets and of commands: each still gets its turn, and stop works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_works_under_load() {
    let World {
        apps, far, engine, ..
    } = world();
    let handle = engine.handle();
    let asking = tokio::spawn({
        let handle = handle.clone();
        async move { while handle.status().await.is_ok() {} }
    });
    let sending = tokio::spawn(async move {
        let packet = build::udp("10.5.0.2:4000", "203.0.113.10:2", b"");
        loop {
            match apps.inject(&packet) {
                Err(vpn_core::testing::InjectError::Closed(_)) => return,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    let task = tokio::spawn(engine.run());
    for _ in 0..1000 {
        timeout(LONG, far[1].take_wait()).await.unwrap().unwrap();
    }
    timeout(LONG, handle.stop()).await.unwrap();
    let status = timeout(LONG, task).await.unwrap().unwrap().unwrap();
    assert!(status.accounts.balance(), "{:?}", status.accounts);
    timeout(LONG, asking).await.unwrap().unwrap();
    timeout(LONG, sending).await.unwrap().unwrap();
}
