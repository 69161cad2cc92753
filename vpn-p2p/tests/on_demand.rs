//! A tunnel on demand: silent until the first packet, which is not lost, and silent again.
#![cfg(feature = "wireguard")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{End, Keys, local, port, transport, udp};
use vpn_core::{TransportState, TunnelTransport as _};

const ALL: &str = "0.0.0.0/0, ::/0";

fn pair(idle: Duration) -> (End, End) {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, ALL), local());
    let endpoint = format!("127.0.0.1:{}", port(&server));
    let options = local().on_demand(idle);
    let client = transport(&keys.client_file(&endpoint, ALL), options);
    assert_eq!(client.state().get(), TransportState::Dormant);
    assert_eq!(client.idle_limit(), Some(idle));
    (End::new(client), End::new(server))
}

fn dormant(state: &TransportState) -> bool {
    *state == TransportState::Dormant
}

/// N-28: how long a round trip takes is known by the tunnel's own handshake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_wakes_for_a_packet_and_rests_and_wakes_again() {
    let (client, mut server) = pair(Duration::from_secs(60));
    for n in 0..3u8 {
        let transport = &client.transport;
        assert!(
            transport.local_addrs().is_empty(),
            "no socket while dormant"
        );
        transport.wake();
        transport.wake();
        assert_ne!(transport.state().get(), TransportState::Dormant);
        let packet = udp("10.5.0.2", "198.51.100.7", &[n]);
        assert_eq!(client.send(std::slice::from_ref(&packet)).await.total(), 0);
        assert_eq!(server.receive().await, packet);
        client.up().await;
        assert!(
            transport
                .round_trip()
                .is_some_and(|t| t < Duration::from_secs(5))
        );
        transport.rest();
        client.state(dormant).await;
        transport.rest();
    }
    client.close().await;
    server.close().await;
}

/// Whoever sends before it heard of the rest loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_sent_to_a_dormant_tunnel_wakes_it() {
    let (client, mut server) = pair(Duration::from_secs(60));
    let packet = udp("10.5.0.2", "198.51.100.7", b"first");
    assert_eq!(client.send(std::slice::from_ref(&packet)).await.total(), 0);
    assert_eq!(server.receive().await, packet);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_peers_never_rests() {
    let keys = Keys::new();
    let options = local().on_demand(Duration::from_secs(1));
    let server = transport(&keys.server_file(0, ALL), options);
    assert_eq!(server.idle_limit(), None);
    assert_ne!(server.state().get(), TransportState::Dormant);
    server.rest();
    assert_ne!(server.state().get(), TransportState::Dormant);
}
