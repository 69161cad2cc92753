//! The network below changes or is gone: the tunnel proves itself anew, at once.
#![cfg(feature = "wireguard")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::{End, Keys, PATIENCE, local, port, transport, udp};
use vpn_core::{DownCause, NetworkEvent, TransportState, TunnelTransport as _};

const ALL: &str = "0.0.0.0/0, ::/0";

/// Well before silence would be noticed (15 s), and after more than one round of WireGuard's timers
/// on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(4);

async fn handshakes(end: &End, more_than: u64) {
    tokio::time::timeout(PATIENCE, async {
        while end.transport.stats().handshakes <= more_than {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("no handshake");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_brings_a_new_socket_and_a_new_handshake_and_loses_no_session() {
    let keys = Keys::new();
    let mut server = End::new(transport(&keys.server_file(0, ALL), local()));
    let endpoint = format!("provider.test:{}", port(&server.transport));
    let client = End::new(transport(&keys.client_file(&endpoint, ALL), local()));
    client.up().await;
    for n in 0..3u8 {
        let (before, at) = (port(&client.transport), Instant::now());
        let done = server.transport.stats().handshakes;
        client.transport.network_changed(NetworkEvent::Changed);
        handshakes(&server, done).await;
        assert!(at.elapsed() < AT_ONCE, "{:?}", at.elapsed());
        assert_ne!(port(&client.transport), before);
        let state = client.transport.state().get();
        assert!(matches!(state, TransportState::Up(_)), "{state}");
        let packet = udp("10.5.0.2", "198.51.100.7", &[n]);
        assert_eq!(client.send(std::slice::from_ref(&packet)).await.total(), 0);
        assert_eq!(server.receive().await, packet);
    }
    client.close().await;
    server.close().await;
}

/// N-25: the other end was restarted: it knows nothing of the session, and no packet says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_only_looks_alive_is_replaced() {
    let keys = Keys::new();
    let server = End::new(transport(&keys.server_file(0, ALL), local()));
    let at = port(&server.transport);
    let client = End::new(transport(
        &keys.client_file(&format!("127.0.0.1:{at}"), ALL),
        local(),
    ));
    client.up().await;
    server.close().await;
    let mut server = End::new(transport(&keys.server_file(at, ALL), local()));
    let state = client.transport.state().get();
    assert!(matches!(state, TransportState::Up(_)), "{state}");
    let begun = Instant::now();
    client.transport.network_changed(NetworkEvent::Woke);
    handshakes(&server, 0).await;
    let packet = udp("10.5.0.2", "198.51.100.7", b"after");
    let answered = async {
        loop {
            client.send(std::slice::from_ref(&packet)).await;
            tokio::select! {
                got = server.receive() => break got,
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
    };
    assert_eq!(answered.await, packet);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    client.close().await;
    server.close().await;
}

/// N-25: nothing followed when the network was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_network_it_is_down_at_once_and_up_again_with_it() {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, ALL), local());
    let endpoint = format!("127.0.0.1:{}", port(&server));
    let server = End::new(server);
    let client = End::new(transport(&keys.client_file(&endpoint, ALL), local()));
    client.up().await;
    client.transport.network_changed(NetworkEvent::Lost);
    let state = client.transport.state().get();
    assert!(
        matches!(state, TransportState::Down(DownCause::Network(_))),
        "{state}"
    );
    client.transport.network_changed(NetworkEvent::Changed);
    client.up().await;
    client.close().await;
    client_closed(&keys, &endpoint).await;
    server.close().await;
}

/// After the end, and while it rests, nothing happens.
async fn client_closed(keys: &Keys, endpoint: &str) {
    let options = local().on_demand(Duration::from_secs(60));
    let client = transport(&keys.client_file(endpoint, ALL), options);
    for event in [NetworkEvent::Lost, NetworkEvent::Changed] {
        client.network_changed(event);
        assert_eq!(client.state().get(), TransportState::Dormant);
        assert!(client.local_addrs().is_empty());
    }
    client.close().await;
    client.network_changed(NetworkEvent::Changed);
    assert_eq!(client.state().get(), TransportState::Closed);
}
