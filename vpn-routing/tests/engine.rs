//! The engine on devices and transports in memory.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use vpn_core::testing::{AppSide, FarSide, build, memory_device, memory_transport};
use vpn_core::{
    Action, Assigned, DownCause, DropReason, FlowKey, Owner, OwnerDetail, OwnerMatch, Protocol,
    Rule, RuleId, RuleMatch, RuleSnapshot, TransportState, TunDevice, TunnelId, Verdict,
};
use vpn_routing::RouterConfig;
use vpn_routing::engine::{Engine, EngineError, EngineHandle};
use vpn_routing::owner::MemoryOwners;
use vpn_routing::router::Status;
use vpn_routing::rules::{CompiledRules, RuleCache, Target};

const LONG: Duration = Duration::from_secs(10);

/// What apps talk to.
fn far(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 10], port))
}

struct Running {
    apps: AppSide,
    regions: Vec<FarSide>,
    owners: Arc<MemoryOwners>,
    rules: RuleCache,
    handle: EngineHandle,
    task: tokio::task::JoinHandle<Result<Status, EngineError>>,
}

/// Three providers that hand out the identical address, uids 1001 to 1003.
fn start() -> Running {
    let (device, apps) = memory_device(256, 1500);
    let owners = Arc::new(MemoryOwners::new());
    let rules = RuleCache::new();
    let mut engine = Engine::new(
        Arc::new(device),
        owners.clone(),
        rules.clone(),
        RouterConfig::default(),
    );
    let mut regions = Vec::new();
    for name in ["uk", "fr", "us"] {
        let (transport, far) = memory_transport(256, 1420);
        far.strict_source(true);
        far.up(Assigned {
            addresses: vec!["10.5.0.2/32".parse().unwrap()],
            dns: Vec::new(),
            mtu: 1420,
            ..Assigned::default()
        });
        engine.add_tunnel(name, Arc::new(transport)).unwrap();
        regions.push(far);
    }
    swap(&rules, &[(1001, "uk"), (1002, "fr"), (1003, "us")]);
    let handle = engine.handle();
    Running {
        apps,
        regions,
        owners,
        rules,
        handle,
        task: tokio::spawn(engine.run()),
    }
}

fn swap(cache: &RuleCache, rules: &[(u32, &str)]) {
    let rules = rules.iter().zip(1..).map(|(&(uid, tunnel), id)| {
        Rule::new(
            RuleId(id),
            RuleMatch {
                owner: Some(OwnerMatch::Uid(uid)),
                ..RuleMatch::default()
            },
            Action::Tunnel(tunnel.to_owned()),
        )
    });
    let names = ["uk", "fr", "us"];
    let id = |name: &str| {
        names
            .iter()
            .position(|n| *n == name)
            .map(|i| TunnelId::new(i as u16))
    };
    let compiled = CompiledRules::compile(
        &RuleSnapshot::from(rules.collect::<Vec<_>>()),
        &id,
        Target::Block(DropReason::BlockedByDefault),
    );
    cache.swap(compiled.unwrap());
}

impl Running {
    fn app(&self, port: u16, uid: u32) {
        let socket = SocketAddr::from(([10, 5, 0, 2], port));
        self.owners.set(
            Protocol::UDP,
            socket,
            Owner {
                socket: u64::from(port),
                ..Owner::user(uid)
            },
        );
    }

    async fn stop(self) -> Status {
        self.handle.stop().await;
        let status = timeout(LONG, self.task).await.unwrap().unwrap().unwrap();
        assert!(status.accounts.balance(), "{:?}", status.accounts);
        assert!(self.regions.iter().all(FarSide::is_closed));
        status
    }
}

#[tokio::test]
async fn three_apps_reach_three_regions_over_one_address() {
    let world = start();
    for i in 0..300u16 {
        let (port, region) = (2000 + i, usize::from(i % 3));
        world.app(port, 1001 + u32::from(i % 3));
        let app = format!("10.5.0.2:{port}");
        world
            .apps
            .inject(&build::udp(app.as_str(), "203.0.113.10:7", b"hi"))
            .unwrap();
        let packet = timeout(LONG, world.regions[region].take_wait())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            packet.bytes(),
            build::udp(app.as_str(), "203.0.113.10:7", b"hi")
        );
        let answer = build::udp("203.0.113.10:7", app.as_str(), b"ho");
        world.regions[region].inject(&answer).unwrap();
        let packet = timeout(LONG, world.apps.take_wait())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(packet.bytes(), answer);
    }
    assert!(
        world
            .regions
            .iter()
            .all(|r| r.rejected() == 0 && r.take().is_none())
    );
    let status = world.stop().await;
    assert_eq!(status.accounts.drops.total(), 0);
    assert_eq!(status.accounts.out_tunnels, 300);
}

#[tokio::test]
async fn a_swapped_rule_counts_for_the_next_packet() {
    let world = start();
    for round in 0..20u16 {
        let (to, region) = if round % 2 == 0 { ("fr", 1) } else { ("uk", 0) };
        swap(&world.rules, &[(1001, to)]);
        world.app(3000 + round, 1001);
        let app = format!("10.5.0.2:{}", 3000 + round);
        world
            .apps
            .inject(&build::udp(app.as_str(), "203.0.113.10:7", b""))
            .unwrap();
        timeout(LONG, world.regions[region].take_wait())
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(world.stop().await.accounts.drops.total(), 0);
}

/// N-13: started without rules, it never began to read.
#[tokio::test]
async fn rules_that_come_after_the_start_count() {
    let world = start();
    swap(&world.rules, &[]);
    world.app(1, 1001);
    let packet = |port: u16| build::udp("10.5.0.2:1", far(port), b"");
    world.apps.inject(&packet(7)).unwrap();
    // Another app's, so that the first one was looked at.
    swap(&world.rules, &[(1002, "fr")]);
    world.app(2, 1002);
    let other = build::udp("10.5.0.2:2", "203.0.113.10:7", b"");
    world.apps.inject(&other).unwrap();
    let taken = timeout(LONG, world.regions[1].take_wait()).await.unwrap();
    assert_eq!(taken.unwrap().bytes(), other);
    assert!(world.regions[0].take().is_none());
    swap(&world.rules, &[(1001, "uk")]);
    world.apps.inject(&packet(8)).unwrap();
    let taken = timeout(LONG, world.regions[0].take_wait()).await.unwrap();
    assert_eq!(taken.unwrap().bytes(), packet(8));
    let status = world.stop().await;
    assert_eq!(status.accounts.drops.get(DropReason::BlockedByDefault), 1);
}

/// Counts events, of whatever level.
#[derive(Clone, Default)]
struct Events(Arc<std::sync::atomic::AtomicUsize>);

impl tracing::Subscriber for Events {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// N-19: each packet was a line in a log.
#[tokio::test]
async fn packets_are_no_events() {
    let events = Events::default();
    let _here = tracing::subscriber::set_default(events.clone());
    let world = start();
    world.app(1, 1001);
    let count = || events.0.load(std::sync::atomic::Ordering::SeqCst);
    let mut before = None;
    for n in 0..1000u16 {
        let packet = build::udp("10.5.0.2:1", far(7 + n), b"");
        world.apps.inject(&packet).unwrap();
        let stranger = build::udp("10.5.0.2:2", far(7 + n), b"");
        world.apps.inject(&stranger).unwrap();
        let taken = timeout(LONG, world.regions[0].take_wait()).await.unwrap();
        assert_eq!(taken.unwrap().bytes(), packet);
        // The first ones may say that the engine runs.
        before.get_or_insert_with(count);
    }
    assert_eq!(Some(count()), before, "of 2,000 packets, each a flow");
    tracing::info!("is heard");
    assert!(Some(count()) > before);
    world.stop().await;
}

#[tokio::test]
async fn a_down_tunnel_gets_nothing_and_others_do_not_notice() {
    let world = start();
    world.app(1, 1001);
    world.app(2, 1002);
    world.regions[1].down(DownCause::NoAnswer);
    for _ in 0..10 {
        world
            .apps
            .inject(&build::udp("10.5.0.2:2", "203.0.113.10:7", b""))
            .unwrap();
        world
            .apps
            .inject(&build::udp("10.5.0.2:1", "203.0.113.10:7", b""))
            .unwrap();
        timeout(LONG, world.regions[0].take_wait())
            .await
            .unwrap()
            .unwrap();
    }
    assert!(world.regions.iter().all(|r| r.take().is_none()));
    let status = world.stop().await;
    assert_eq!(status.accounts.drops.get(DropReason::TunnelDown), 10);
    assert_eq!(
        status.tunnels[1].counters.drops.get(DropReason::TunnelDown),
        10
    );
}

#[tokio::test]
async fn tunnels_come_and_go_while_it_runs() {
    let world = start();
    let (transport, _far) = memory_transport(16, 1420);
    let again = world.handle.add_tunnel("uk", Arc::new(transport)).await;
    assert!(matches!(again, Err(EngineError::DuplicateTunnel(name)) if name == "uk"));
    world.handle.remove_tunnel(TunnelId::new(0)).await.unwrap();
    assert!(world.regions[0].is_closed());
    world.app(1, 1001);
    world
        .apps
        .inject(&build::udp("10.5.0.2:1", "203.0.113.10:7", b""))
        .unwrap();
    let status = loop {
        let status = world.handle.status().await.unwrap();
        if status.accounts.in_device == 1 {
            break status;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(status.accounts.drops.get(DropReason::NoSuchTunnel), 1);
    assert_eq!(status.tunnels.len(), 2);
    world.stop().await;
}

#[tokio::test]
async fn a_device_that_goes_away_ends_the_engine_with_a_reason() {
    let world = start();
    world.apps.close();
    let ended = timeout(LONG, world.task).await.unwrap().unwrap();
    assert!(matches!(ended, Err(EngineError::Device(_))), "{ended:?}");
    assert!(world.regions.iter().all(FarSide::is_closed));
    assert!(world.handle.status().await.is_err());
}

/// No global state: a hundred engines in one process, on one thread.
#[tokio::test]
async fn a_hundred_engines_run_in_one_process() {
    let worlds: Vec<Running> = (0..100).map(|_| start()).collect();
    for (i, world) in worlds.iter().enumerate() {
        world.app(1, 1001 + (i % 3) as u32);
        world
            .apps
            .inject(&build::udp("10.5.0.2:1", "203.0.113.10:7", &[i as u8]))
            .unwrap();
    }
    for (i, world) in worlds.iter().enumerate() {
        let packet = timeout(LONG, world.regions[i % 3].take_wait())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(packet.bytes().last(), Some(&(i as u8)));
    }
    for world in worlds {
        assert_eq!(world.stop().await.accounts.drops.total(), 0);
    }
}

#[tokio::test]
async fn a_stopped_device_is_closed() {
    let (device, _apps) = memory_device(4, 1500);
    let device = Arc::new(device);
    let engine = Engine::new(
        device.clone(),
        Arc::new(MemoryOwners::new()),
        RuleCache::new(),
        RouterConfig::default(),
    );
    let handle = engine.handle();
    let task = tokio::spawn(engine.run());
    handle.stop().await;
    task.await.unwrap().unwrap();
    assert!(device.readable().await.is_err());
}

#[tokio::test]
async fn a_flow_is_explained_with_what_its_owner_rests_on() {
    let running = start();
    running.app(4000, 1002);
    let site = ([203, 0, 113, 10].into(), 443);
    let flow = |port| FlowKey::new(Protocol::UDP, ([10, 5, 0, 2].into(), port), site);
    let told = loop {
        // Until the tunnels' states have reached the router.
        let told = running.handle.explain_flow(flow(4000)).await.unwrap();
        if matches!(told.state, Some(TransportState::Up(_))) {
            break told;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(told.tunnel.as_deref(), Some("fr"));
    assert_eq!(told.needs, Some(OwnerDetail::Uid));
    let evidence = told.evidence.unwrap();
    assert_eq!(evidence.owner().map(|o| o.uid), Some(1002));
    let told = running.handle.explain_flow(flow(4001)).await.unwrap();
    assert_eq!(told.verdict, Verdict::Drop(DropReason::OwnerUnknown));
    assert!(told.evidence.unwrap().to_string().contains("unknown"));
    running.stop().await;
}
