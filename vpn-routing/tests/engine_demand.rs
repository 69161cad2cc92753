//! The engine wakes a tunnel for the first packet, lets it rest, and tells groups of round trips.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use vpn_core::owner::NoOwners;
use vpn_core::testing::{
    AppSide, FarSide, build, memory_device, memory_transport, memory_transport_on_demand,
};
use vpn_core::{Assigned, RuleSnapshot, TransportState, TunnelId};
use vpn_routing::RouterConfig;
use vpn_routing::engine::{Engine, EngineHandle};
use vpn_routing::group::{GroupConfig, Policy};
use vpn_routing::rules::{CompiledRules, RuleCache, Target};

fn assigned() -> Assigned {
    Assigned {
        addresses: vec!["10.5.0.2/32".parse().unwrap()],
        mtu: 1420,
        ..Assigned::default()
    }
}

fn rules(target: Target) -> RuleCache {
    let rules = RuleCache::new();
    let none = RuleSnapshot::default();
    rules.swap(CompiledRules::compile(&none, &|_: &str| None, target).unwrap());
    rules
}

fn datagram(apps: &AppSide, port: u16) {
    let from = format!("10.5.0.2:{port}");
    let bytes = build::udp(from.as_str(), "203.0.113.10:7", b"");
    apps.inject(&bytes).unwrap();
}

async fn stands(handle: &EngineHandle, wanted: impl Fn(&TransportState) -> bool) {
    loop {
        let status = handle.status().await.unwrap();
        if wanted(&status.tunnels[0].state) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_packet_wakes_and_a_pause_lets_rest() {
    let (device, apps) = memory_device(64, 1420);
    let rules = rules(Target::Tunnel(TunnelId::new(0)));
    let config = RouterConfig::default();
    let mut engine = Engine::new(Arc::new(device), Arc::new(NoOwners), rules, config);
    let (transport, far) = memory_transport_on_demand(64, 1420, Duration::from_secs(30));
    engine.add_tunnel("uk", Arc::new(transport)).unwrap();
    let (handle, task) = (engine.handle(), tokio::spawn(engine.run()));
    for round in 1..=3 {
        stands(&handle, |state| *state == TransportState::Dormant).await;
        assert_eq!(far.woken(), round - 1);
        datagram(&apps, 4000);
        stands(&handle, |state| *state == TransportState::Connecting).await;
        assert_eq!(far.woken(), round);
        far.up(assigned());
        assert!(far.take_wait().await.is_some(), "the first packet");
        let up = tokio::time::Instant::now();
        stands(&handle, |state| *state == TransportState::Dormant).await;
        assert!(up.elapsed() >= Duration::from_secs(30));
        assert!(up.elapsed() <= Duration::from_secs(33));
    }
    handle.stop().await;
    assert!(task.await.unwrap().unwrap().accounts.balance());
}

async fn carried(apps: &AppSide, far: &FarSide, port: u16) -> bool {
    datagram(apps, port);
    let patience = Duration::from_millis(100);
    tokio::time::timeout(patience, far.take_wait())
        .await
        .is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_group_learns_of_round_trips_about_once_a_second() {
    let (device, apps) = memory_device(64, 1420);
    let cache = RuleCache::new();
    let config = RouterConfig::default();
    let mut engine = Engine::new(Arc::new(device), Arc::new(NoOwners), cache.clone(), config);
    let mut ids = Vec::new();
    let mut fars = Vec::new();
    for name in ["near", "far"] {
        let (transport, far) = memory_transport(64, 1420);
        ids.push(engine.add_tunnel(name, Arc::new(transport)).unwrap());
        far.up(assigned());
        fars.push(far);
    }
    let policy = Policy::Latency {
        tolerance: Duration::from_millis(5),
    };
    let handle = engine.handle();
    let task = tokio::spawn(engine.run());
    stands(&handle, |state| matches!(state, TransportState::Up(_))).await;
    let group = GroupConfig::new("any", ids).policy(policy);
    let group = handle.set_groups(vec![group]).await.unwrap()[0];
    let none = RuleSnapshot::default();
    let all = Target::Group(group);
    cache.swap(CompiledRules::compile(&none, &|_: &str| None, all).unwrap());
    assert!(carried(&apps, &fars[0], 4000).await);
    fars[0].round_trip(Duration::from_millis(90));
    fars[1].round_trip(Duration::from_millis(20));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(carried(&apps, &fars[1], 4001).await);
    handle.stop().await;
    task.await.unwrap().unwrap();
}
