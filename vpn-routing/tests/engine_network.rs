//! The engine passes on what happens to the network below, and looks at the host's networks anew.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use vpn_core::owner::NoOwners;
use vpn_core::testing::{memory_device, memory_transport};
use vpn_core::{Assigned, NetworkEvent, TransportState};
use vpn_routing::engine::Engine;
use vpn_routing::router::{Event, Update};
use vpn_routing::rules::RuleCache;
use vpn_routing::{Router, RouterConfig};

#[tokio::test(start_paused = true)]
async fn every_transport_hears_every_event_once_also_wrapped_and_added_later() {
    let (device, _apps) = memory_device(64, 1420);
    let config = RouterConfig::default();
    let mut engine = Engine::new(
        Arc::new(device),
        Arc::new(NoOwners),
        RuleCache::new(),
        config,
    );
    let (uk, far_uk) = memory_transport(64, 1420);
    let (fr, far_fr) = memory_transport(64, 1420);
    // Two pointers: each passes it on.
    engine.add_tunnel("uk", Arc::new(Box::new(uk))).unwrap();
    let (handle, task) = (engine.handle(), tokio::spawn(engine.run()));
    handle.network_changed(NetworkEvent::Lost).await.unwrap();
    handle.add_tunnel("fr", Arc::new(fr)).await.unwrap();
    handle.network_changed(NetworkEvent::Changed).await.unwrap();
    assert_eq!(
        far_uk.take_network_events(),
        [NetworkEvent::Lost, NetworkEvent::Changed]
    );
    assert_eq!(far_fr.take_network_events(), [NetworkEvent::Changed]);
    handle.stop().await;
    task.await.unwrap().unwrap();
    assert!(handle.network_changed(NetworkEvent::Woke).await.is_err());
}

#[test]
fn networks_the_host_joins_later_are_compared_with_tunnels_that_are_there() {
    let now = Instant::now();
    let mut router = Router::new(RouterConfig::default(), now);
    let uk = router.add_tunnel("uk").unwrap();
    let assigned = Assigned {
        addresses: vec!["10.5.0.2/16".parse().unwrap()],
        mtu: 1420,
        ..Assigned::default()
    };
    let up = TransportState::Up(Arc::new(assigned));
    router.handle_update(now, Update::Tunnel(uk, up));
    let conflicts = |router: &mut Router| {
        let events = std::iter::from_fn(|| router.next_event());
        events
            .filter(|event| matches!(event, Event::Conflicts(id, found) if *id == uk && found.len() == 1))
            .count()
    };
    assert_eq!(conflicts(&mut router), 0);
    let home: IpNet = "10.5.0.9/24".parse().unwrap();
    router.set_host_networks([home]);
    assert_eq!(conflicts(&mut router), 1);
    assert_eq!(router.overlaps().len(), 1);
    router.set_host_networks([home]);
    assert_eq!(conflicts(&mut router), 0, "no news");
    router.set_host_networks([]);
    assert_eq!(conflicts(&mut router), 0);
    assert!(router.overlaps().is_empty());
}
