//! Two transports on loopback: a client and a server.
#![cfg(feature = "wireguard")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::{End, Keys, local, port, transport, udp};
use vpn_core::{DownCause, DropReason, TransportState, TunnelTransport as _};

const ALL: &str = "0.0.0.0/0, ::/0";

async fn pair() -> (End, End) {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, "10.5.0.2/32, fd05::2/128"), local());
    let endpoint = format!("provider.test:{}", port(&server));
    let server = End::new(server);
    let client = End::new(transport(&keys.client_file(&endpoint, ALL), local()));
    client.up().await;
    (client, server)
}

/// L-3, L-28, N-5: packets of many lengths, of both families, arrive as they were sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_of_both_families_pass_both_ways() {
    let (mut client, mut server) = pair().await;
    for (mine, theirs) in [("10.5.0.2", "198.51.100.7"), ("fd05::2", "2001:db8::7")] {
        for length in [0, 1, 15, 16, 17, 1000, 1372] {
            let there = udp(mine, theirs, &vec![7; length]);
            let back = udp(theirs, mine, &vec![8; length]);
            assert_eq!(client.send(std::slice::from_ref(&there)).await.total(), 0);
            assert_eq!(server.receive().await, there);
            assert_eq!(server.send(std::slice::from_ref(&back)).await.total(), 0);
            assert_eq!(client.receive().await, back);
        }
    }
    let TransportState::Up(assigned) = client.transport.state().get() else {
        panic!("not up");
    };
    assert_eq!(assigned.addresses.len(), 2);
    assert_eq!(assigned.mtu, 1420);
    assert_eq!(client.transport.stats().tx_packets, 14);
    assert_eq!(client.transport.stats().rx_packets, 14);
    client.close().await;
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_packets_arrive_in_order() {
    let (client, mut server) = pair().await;
    for round in 0..20u8 {
        let packets: Vec<_> = (0..50u8)
            .map(|n| {
                // Lengths vary, so that runs of equal datagrams begin and end.
                let length = if n % 7 == 0 { 100 } else { 1300 };
                let mut payload = vec![0; length];
                payload[..2].copy_from_slice(&[round, n]);
                udp("10.5.0.2", "198.51.100.7", &payload)
            })
            .collect();
        assert_eq!(client.send(&packets).await.total(), 0);
        for packet in packets {
            assert_eq!(server.receive().await, packet);
        }
    }
    client.close().await;
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_sent_before_the_handshake_wait_with_the_caller() {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, ALL), local());
    let endpoint = format!("127.0.0.1:{}", port(&server));
    let client = End::new(transport(&keys.client_file(&endpoint, ALL), local()));
    let packet = udp("10.5.0.2", "198.51.100.7", b"early");
    let mut server = End::new(server);
    assert_eq!(client.send(std::slice::from_ref(&packet)).await.total(), 0);
    assert_eq!(server.receive().await, packet);
}

/// L-21, S-14: a peer sends from the addresses it was given, and from no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allowed_ips_hold_both_ways() {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, "10.5.0.2/32"), local());
    let endpoint = format!("127.0.0.1:{}", port(&server));
    let server = End::new(server);
    let client = End::new(transport(
        &keys.client_file(&endpoint, "198.51.100.0/24"),
        local(),
    ));
    client.up().await;
    // Outbound: not behind the peer.
    let drops = client.send(&[udp("10.5.0.2", "203.0.113.1", b"x")]).await;
    assert_eq!(drops.get(DropReason::AddressNotAllowed), 1);
    // Inbound: a source the server does not grant this client.
    let drops = client.send(&[udp("10.5.0.3", "198.51.100.7", b"x")]).await;
    assert_eq!(drops.total(), 0);
    server.dropped(DropReason::AddressNotAllowed).await;
    assert_eq!(server.transport.stats().rx_packets, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sent_is_dropped_and_the_rest_goes_on() {
    let (client, mut server) = pair().await;
    let good = udp("10.5.0.2", "198.51.100.7", b"good");
    let big = udp("10.5.0.2", "198.51.100.7", &[0; 1400]);
    let drops = client.send(&[big, b"junk".to_vec(), good.clone()]).await;
    assert_eq!(drops.get(DropReason::TooBig), 1);
    assert_eq!(drops.get(DropReason::Malformed), 1);
    assert_eq!(server.receive().await, good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_never_gets_up() {
    let keys = Keys::new();
    for wrong in [
        Keys {
            client: vpn_p2p::wg_quick::PrivateKey::generate().unwrap(),
            ..Keys::new()
        },
        Keys {
            client: keys.client.clone(),
            server: keys.server.clone(),
            psk: vpn_p2p::wg_quick::PresharedKey::generate().unwrap(),
        },
    ] {
        let server = transport(&keys.server_file(0, ALL), local());
        let endpoint = format!("127.0.0.1:{}", port(&server));
        let server = End::new(server);
        let limit = std::time::Duration::from_millis(600);
        let options = local().no_answer_after(limit);
        let client = End::new(transport(&wrong.client_file(&endpoint, ALL), options));
        client
            .state(|state| {
                assert!(!matches!(state, TransportState::Up(_)));
                *state == TransportState::Down(DownCause::NoAnswer)
            })
            .await;
        assert_eq!(server.transport.state().get(), TransportState::Connecting);
        let drops = client.send(&[udp("10.5.0.2", "198.51.100.7", b"x")]).await;
        assert_eq!(drops.get(DropReason::NoSession), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_name_is_down_with_its_cause() {
    let keys = Keys::new();
    let client = End::new(transport(&keys.client_file("nowhere.test:1", ALL), local()));
    client
        .state(|state| matches!(state, TransportState::Down(DownCause::Resolve(_))))
        .await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_is_found_again() {
    let keys = Keys::new();
    let first = transport(&keys.server_file(0, ALL), local());
    let port = port(&first);
    let first = End::new(first);
    let limit = std::time::Duration::from_secs(1);
    let options = local().no_answer_after(limit);
    let client = End::new(transport(
        &keys.client_file(&format!("127.0.0.1:{port}"), ALL),
        options,
    ));
    client.up().await;
    first.close().await;
    // Without traffic nobody notices; one packet is a question.
    client.send(&[udp("10.5.0.2", "198.51.100.7", b"?")]).await;
    client
        .state(|state| matches!(state, TransportState::Down(_)))
        .await;
    let mut second = End::new(transport(&keys.server_file(port, ALL), local()));
    client.up().await;
    let packet = udp("10.5.0.2", "198.51.100.7", b"again");
    client.send(std::slice::from_ref(&packet)).await;
    assert_eq!(second.receive().await, packet);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_is_idempotent_and_wakes_everybody() {
    let (client, server) = pair().await;
    let transport = client.transport.clone();
    client.close().await;
    transport.close().await;
    assert_eq!(transport.state().get(), TransportState::Closed);
    assert!(transport.readable().await.is_err());
    assert!(transport.writable().await.is_err());
    assert!(transport.local_addrs().is_empty());
    server.close().await;
}

/// Forwards datagrams between a client and a server, from a socket that can be exchanged.
async fn relay(
    server: std::net::SocketAddr,
    mut switch: tokio::sync::mpsc::Receiver<()>,
) -> std::net::SocketAddr {
    let front = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = front.local_addr().unwrap();
    tokio::spawn(async move {
        let mut back = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut client = None;
        let (mut there, mut here) = (vec![0; 2000], vec![0; 2000]);
        loop {
            tokio::select! {
                Ok((len, from)) = front.recv_from(&mut there) => {
                    client = Some(from);
                    back.send_to(&there[..len], server).await.unwrap();
                }
                Ok((len, _)) = back.recv_from(&mut here) => {
                    if let Some(client) = client {
                        front.send_to(&here[..len], client).await.unwrap();
                    }
                }
                Some(()) = switch.recv() => {
                    back = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                }
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_moves_is_followed() {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, ALL), local());
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], port(&server)));
    let server_end = End::new(server);
    let mut server = server_end;
    let (switch, switched) = tokio::sync::mpsc::channel(1);
    let relay = relay(at, switched).await;
    let mut client = End::new(transport(
        &keys.client_file(&relay.to_string(), ALL),
        local(),
    ));
    client.up().await;
    let handshakes = server.transport.stats().handshakes;
    for round in 0..3u8 {
        let there = udp("10.5.0.2", "198.51.100.7", &[round]);
        let back = udp("198.51.100.7", "10.5.0.2", &[round]);
        client.send(std::slice::from_ref(&there)).await;
        assert_eq!(server.receive().await, there);
        // The old address is gone: only an answer to the new one arrives.
        server.send(std::slice::from_ref(&back)).await;
        assert_eq!(client.receive().await, back);
        switch.send(()).await.unwrap();
        while switch.capacity() == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(server.transport.stats().handshakes, handshakes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_peers_are_told_apart_by_their_networks() {
    let keys = Keys::new();
    let second = Keys::new();
    // One file, two providers: everything to the first, one network to the second.
    let first_server = transport(&keys.server_file(0, ALL), local());
    let second_keys = Keys {
        client: keys.client.clone(),
        ..second
    };
    let second_server = transport(&second_keys.server_file(0, ALL), local());
    let file = keys.client_file(&format!("127.0.0.1:{}", port(&first_server)), ALL);
    let other = second_keys.client_file(
        &format!("127.0.0.1:{}", port(&second_server)),
        "198.51.100.0/24",
    );
    let peer = other.find("[Peer]").unwrap();
    let client = End::new(transport(&format!("{file}{}", &other[peer..]), local()));
    let (mut first, mut second) = (End::new(first_server), End::new(second_server));
    first.up().await;
    second.up().await;
    while client.transport.stats().handshakes < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let to_first = udp("10.5.0.2", "203.0.113.1", b"first");
    let to_second = udp("10.5.0.2", "198.51.100.1", b"second");
    client.send(&[to_second.clone(), to_first.clone()]).await;
    assert_eq!(first.receive().await, to_first);
    assert_eq!(second.receive().await, to_second);
    // The second may not speak for an address that is behind the first.
    second
        .send(&[udp("203.0.113.1", "10.5.0.2", b"spoof")])
        .await;
    client.dropped(DropReason::AddressNotAllowed).await;
    assert_eq!(client.transport.stats().rx_packets, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_super_packet_is_cut_at_sealing_time() {
    use vpn_core::packet::{Gso, Offload, Packet};
    let (client, mut server) = pair().await;
    // The longest there is does not fit into one datagram any more, once it is sealed.
    for length in [20_000u32, 65_507] {
        let payload: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        let bytes = udp("10.5.0.2", "198.51.100.7", &payload);
        let packet = Packet::from_slice(&bytes).with_offload(Offload {
            gso: Some(Gso { size: 1200 }),
            partial_checksum: true,
        });
        assert_eq!(client.send_packet(packet).await.total(), 0);
        let mut received = Vec::new();
        for _ in 0..payload.len().div_ceil(1200) {
            let packet = server.receive().await;
            assert!(packet.len() <= 1228);
            received.extend_from_slice(&packet[28..]);
        }
        assert!(received == payload);
    }
}

/// Longer than gotatun tries by itself (90 s), with everything at its default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two minutes"]
async fn a_long_cut_heals_within_ten_seconds() {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, ALL), local());
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], port(&server)));
    let server = End::new(server);
    let (cut, relay) = cuttable_relay(at).await;
    let client = End::new(transport(
        &keys.client_file(&relay.to_string(), ALL),
        local(),
    ));
    client.up().await;
    cut.store(true, std::sync::atomic::Ordering::Relaxed);
    let start = std::time::Instant::now();
    let packet = udp("10.5.0.2", "198.51.100.7", b"?");
    client.send(std::slice::from_ref(&packet)).await;
    client
        .state(|state| matches!(state, TransportState::Down(_)))
        .await;
    println!("down after {:?}", start.elapsed());
    tokio::time::sleep(std::time::Duration::from_secs(100)).await;
    cut.store(false, std::sync::atomic::Ordering::Relaxed);
    let healed = std::time::Instant::now();
    client.up().await;
    println!("up after {:?}", healed.elapsed());
    assert!(healed.elapsed() < std::time::Duration::from_secs(10));
    server.close().await;
}

/// Forwards datagrams while it is not cut.
async fn cuttable_relay(
    server: std::net::SocketAddr,
) -> (
    std::sync::Arc<std::sync::atomic::AtomicBool>,
    std::net::SocketAddr,
) {
    use std::sync::atomic::{AtomicBool, Ordering};
    let front = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let back = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = front.local_addr().unwrap();
    let cut = std::sync::Arc::new(AtomicBool::new(false));
    let is_cut = cut.clone();
    tokio::spawn(async move {
        let mut client = None;
        let (mut there, mut here) = (vec![0; 2000], vec![0; 2000]);
        loop {
            tokio::select! {
                Ok((len, from)) = front.recv_from(&mut there) => {
                    client = Some(from);
                    if !is_cut.load(Ordering::Relaxed) {
                        back.send_to(&there[..len], server).await.unwrap();
                    }
                }
                Ok((len, _)) = back.recv_from(&mut here) => {
                    if let Some(client) = client && !is_cut.load(Ordering::Relaxed) {
                        front.send_to(&here[..len], client).await.unwrap();
                    }
                }
            }
        }
    });
    (cut, address)
}

/// Forwards datagrams, but loses some and swaps some with the next: the same ones every time.
async fn lossy_relay(server: std::net::SocketAddr, mut seed: u64) -> std::net::SocketAddr {
    let front = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let back = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = front.local_addr().unwrap();
    tokio::spawn(async move {
        let mut client = None;
        let mut kept: Option<Vec<u8>> = None;
        let (mut there, mut here) = (vec![0; 2000], vec![0; 2000]);
        loop {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let draw = (seed >> 33) % 10;
            tokio::select! {
                Ok((len, from)) = front.recv_from(&mut there) => {
                    client = Some(from);
                    let handshake = there[0] != 4;
                    match draw {
                        0 | 1 if !handshake => {}
                        2 if !handshake && kept.is_none() => kept = Some(there[..len].to_vec()),
                        _ => {
                            back.send_to(&there[..len], server).await.unwrap();
                            if let Some(kept) = kept.take() {
                                back.send_to(&kept, server).await.unwrap();
                            }
                        }
                    }
                }
                Ok((len, _)) = back.recv_from(&mut here) => {
                    if let Some(client) = client && (draw > 1 || here[0] != 4) {
                        front.send_to(&here[..len], client).await.unwrap();
                    }
                }
            }
        }
    });
    address
}

/// A question is asked until it is answered: nothing that is lost on the way leaves either end
/// waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_are_answered_over_a_lossy_way() {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, ALL), local());
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], port(&server)));
    let mut server = End::new(server);
    let relay = lossy_relay(at, 7).await;
    let mut client = End::new(transport(
        &keys.client_file(&relay.to_string(), ALL),
        local(),
    ));
    client.up().await;
    let answering = tokio::spawn(async move {
        while let Some(question) = server.received.recv().await {
            let answer = udp("198.51.100.7", "10.5.0.2", &question[28..]);
            server.send(std::slice::from_ref(&answer)).await;
        }
    });
    let mut repeated = 0;
    for number in 0..150u32 {
        let question = udp("10.5.0.2", "198.51.100.7", &number.to_be_bytes());
        let answer = udp("198.51.100.7", "10.5.0.2", &number.to_be_bytes());
        loop {
            client.send(std::slice::from_ref(&question)).await;
            let received = async { while client.received.recv().await.unwrap() != answer {} };
            let patience = std::time::Duration::from_millis(20);
            if tokio::time::timeout(patience, received).await.is_ok() {
                break;
            }
            repeated += 1;
            assert!(repeated < 5_000, "stuck at {number}");
        }
    }
    assert!(repeated > 10);
    answering.abort();
}

/// Who is told that it is closed may count on it, also if somebody else closes at that moment, or
/// began to and was interrupted.
#[tokio::test]
async fn every_close_returns_when_nothing_is_left() {
    let keys = Keys::new();
    for _ in 0..20 {
        let server = transport(&keys.server_file(0, "0.0.0.0/0"), local());
        tokio::task::yield_now().await;
        let alive = || {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
        };
        assert_eq!(alive(), 1);
        let mut interrupted = Box::pin(server.close());
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(interrupted.as_mut().poll(cx)));
        assert!(polled.await.is_pending(), "its task cannot have run");
        drop(interrupted);
        tokio::join!(
            async {
                server.close().await;
                assert_eq!(alive(), 0);
            },
            async {
                server.close().await;
                assert_eq!(alive(), 0);
            }
        );
        assert_eq!(server.resources().tasks, 0);
    }
}
