//! WireGuard's own clock, in real time: gotatun keeps it, so no virtual one helps.
//!
//! Run with `--ignored`: about four minutes, all at once.
#![cfg(feature = "wireguard")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{End, Keys, local, port, transport, udp};
use vpn_core::{TransportState, TunnelTransport as _};

const ALL: &str = "0.0.0.0/0, ::/0";

async fn pair(more: &str) -> (End, End) {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, ALL), local());
    let endpoint = format!("127.0.0.1:{}", port(&server));
    let server = End::new(server);
    let file = keys.client_file(&endpoint, ALL) + more;
    let client = End::new(transport(&file, local()));
    client.up().await;
    (client, server)
}

/// Fails when the tunnel leaves `Up` before the future is done.
async fn stays_up<T>(end: &End, work: impl Future<Output = T>) -> T {
    let mut state = end.transport.state();
    let left = async {
        loop {
            let state = state.next().await;
            if !matches!(state, TransportState::Up(_)) {
                break state;
            }
        }
    };
    tokio::select! {
        done = work => done,
        state = left => panic!("{state}"),
    }
}

/// L-21, Whitepaper §6.1: new keys after 120 s, none are used after 180 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 240 s"]
async fn traffic_goes_on_through_two_generations_of_keys() {
    let (mut client, mut server) = pair("").await;
    let sender = client.transport.clone();
    for round in 0..2_000u32 {
        let there = udp("10.5.0.2", "198.51.100.7", &round.to_be_bytes());
        let back = udp("198.51.100.7", "10.5.0.2", &round.to_be_bytes());
        assert_eq!(client.send(std::slice::from_ref(&there)).await.total(), 0);
        assert_eq!(server.receive().await, there);
        assert_eq!(server.send(std::slice::from_ref(&back)).await.total(), 0);
        assert_eq!(client.receive().await, back);
        assert!(matches!(sender.state().get(), TransportState::Up(_)));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let stats = client.transport.stats();
    assert!(stats.handshakes >= 2, "{stats:?}");
    assert!(stats.last_handshake.unwrap() < Duration::from_secs(121));
    assert_eq!(client.drops.lock().unwrap().total(), 0);
    assert_eq!(server.drops.lock().unwrap().total(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 190 s"]
async fn an_idle_tunnel_stays_up_and_the_next_packet_gets_a_new_session() {
    let (client, mut server) = pair("").await;
    let (_, expired) = tokio::join!(
        stays_up(&client, tokio::time::sleep(Duration::from_secs(185))),
        async {
            tokio::time::sleep(Duration::from_secs(184)).await;
            client.transport.stats().last_handshake
        }
    );
    assert_eq!(expired, None, "the session outlived 180 s");
    let packet = udp("10.5.0.2", "198.51.100.7", b"late");
    let sent = stays_up(&client, client.send(std::slice::from_ref(&packet))).await;
    assert_eq!(sent.total(), 0);
    assert_eq!(server.receive().await, packet);
    assert_eq!(client.transport.stats().handshakes, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 40 s"]
async fn keepalives_are_sent_as_configured_and_data_is_answered() {
    let (client, mut server) = pair("PersistentKeepalive = 3\n").await;
    let before = server.transport.stats().rx_datagrams;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let keepalives = server.transport.stats().rx_datagrams - before;
    assert!((5..=8).contains(&keepalives), "{keepalives}");
    // Passive: data that is not answered by data is answered by a keepalive after 10 s.
    let (quiet, mut listener) = pair("").await;
    let packet = udp("10.5.0.2", "198.51.100.7", b"one way");
    quiet.send(std::slice::from_ref(&packet)).await;
    assert_eq!(listener.receive().await, packet);
    let before = quiet.transport.stats().rx_datagrams;
    stays_up(&quiet, tokio::time::sleep(Duration::from_secs(16))).await;
    assert_eq!(quiet.transport.stats().rx_datagrams - before, 1);
    client.send(std::slice::from_ref(&packet)).await;
    assert_eq!(server.receive().await, packet);
}
