//! What somebody on the way can do: record, replay, flip, cut, spoof and flood.
#![cfg(feature = "wireguard")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::{End, Keys, PATIENCE, local, port, transport, udp};
use tokio::net::UdpSocket;
use tokio::sync::Mutex;
use vpn_core::{DropReason, TransportState};

const ALL: &str = "0.0.0.0/0, ::/0";

/// Stands between client and server and keeps what the client sent.
struct Tap {
    address: SocketAddr,
    recorded: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    async fn new(server: SocketAddr) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let records = recorded.clone();
        tokio::spawn(async move {
            let mut client = None;
            let (mut there, mut here) = (vec![0; 2000], vec![0; 2000]);
            loop {
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut there) => {
                        client = Some(from);
                        records.lock().await.push(there[..length].to_vec());
                        let _ = back.send_to(&there[..length], server).await;
                    }
                    Ok((length, _)) = back.recv_from(&mut here) => {
                        if let Some(client) = client {
                            let _ = front.send_to(&here[..length], client).await;
                        }
                    }
                }
            }
        });
        Self { address, recorded }
    }
}

struct Scene {
    client: End,
    server: End,
    server_key: vpn_p2p::wg_quick::PublicKey,
    at: SocketAddr,
    tap: Tap,
}

async fn scene() -> Scene {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, ALL), local());
    let at = SocketAddr::from(([127, 0, 0, 1], port(&server)));
    let server = End::new(server);
    let tap = Tap::new(at).await;
    let file = keys.client_file(&tap.address.to_string(), ALL);
    let client = End::new(transport(&file, local()));
    client.up().await;
    server.up().await;
    Scene {
        client,
        server,
        server_key: keys.server.public(),
        at,
        tap,
    }
}

/// Waits until the server has dropped so many datagrams, for any of these reasons.
async fn dropped(server: &End, reasons: &[DropReason], wanted: u64) {
    let count = || {
        let drops = server.drops.lock().unwrap();
        reasons.iter().map(|reason| drops.get(*reason)).sum::<u64>()
    };
    let reached = tokio::time::timeout(PATIENCE, async {
        while count() < wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(reached.await.is_ok(), "{} of {wanted}", count());
    assert_eq!(count(), wanted);
}

const REJECTED: &[DropReason] = &[
    DropReason::NotAuthentic,
    DropReason::NoSession,
    DropReason::Malformed,
];

/// An answer still goes to the client, by the tap: nobody else became the peer.
async fn still_the_same_peer(scene: &mut Scene, bystander: &UdpSocket) {
    let back = udp("198.51.100.7", "10.5.0.2", b"answer");
    scene.server.send(std::slice::from_ref(&back)).await;
    assert_eq!(scene.client.receive().await, back);
    let mut datagram = [0; 2000];
    let stolen = bystander.try_recv(&mut datagram);
    assert!(stolen.is_err(), "{stolen:?}");
}

// L-9, L-12, L-21.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_delivers_nothing_and_moves_nobody() {
    let mut scene = scene().await;
    for n in 0..20u8 {
        let packet = udp("10.5.0.2", "198.51.100.7", &[n; 100]);
        scene.client.send(std::slice::from_ref(&packet)).await;
        assert_eq!(scene.server.receive().await, packet);
    }
    let stats = scene.server.transport.stats();
    let recorded = scene.tap.recorded.lock().await.clone();
    // Handshake initiation, keepalive and data, from the address they came from and another.
    assert!(recorded.len() >= 22);
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for datagram in &recorded {
        stranger.send_to(datagram, scene.at).await.unwrap();
    }
    dropped(&scene.server, REJECTED, recorded.len() as u64).await;
    assert_eq!(scene.server.transport.stats().rx_packets, stats.rx_packets);
    assert_eq!(scene.server.transport.stats().handshakes, stats.handshakes);
    assert!(scene.server.received.try_recv().is_err());
    still_the_same_peer(&mut scene, &stranger).await;
}

/// L-8: DNS, and all UDP of more than 16 bytes, went out as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_packet_is_readable_on_the_way() {
    let mut scene = scene().await;
    let mut sent = Vec::new();
    for (port, length) in [(53, 20), (443, 17), (4000, 1000), (9, 16), (9, 1200)] {
        let words = b"no word of this leaves".repeat(60);
        let mut packet = udp("10.5.0.2", "198.51.100.7", &words[..length]);
        packet[22..24].copy_from_slice(&u16::to_be_bytes(port));
        // Without a checksum, which IPv4 allows.
        packet[26..28].fill(0);
        scene.client.send(std::slice::from_ref(&packet)).await;
        assert_eq!(scene.server.receive().await, packet);
        sent.push(packet);
    }
    let recorded = scene.tap.recorded.lock().await.clone();
    assert!(recorded.len() >= sent.len());
    for packet in sent {
        // Addresses, ports and every piece of what is inside.
        for piece in packet[12..].windows(12) {
            let shows = |datagram: &&Vec<u8>| datagram.windows(piece.len()).any(|it| it == piece);
            assert!(
                !recorded.iter().any(|datagram| shows(&datagram)),
                "{piece:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_cut_and_lengthened_datagrams_are_rejected() {
    let mut scene = scene().await;
    let packet = udp("10.5.0.2", "198.51.100.7", &[7; 50]);
    scene.client.send(std::slice::from_ref(&packet)).await;
    assert_eq!(scene.server.receive().await, packet);
    let recorded = scene.tap.recorded.lock().await.clone();
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut sent = 0;
    for datagram in &recorded {
        for at in 0..datagram.len() {
            let mut flipped = datagram.clone();
            flipped[at] ^= 1 << (at % 8);
            stranger.send_to(&flipped, scene.at).await.unwrap();
            let cut = &datagram[..at];
            stranger.send_to(cut, scene.at).await.unwrap();
            // An empty datagram is not one; nothing counts it.
            sent += 1 + u64::from(at > 0);
            tokio::task::yield_now().await;
        }
        let longer = [&datagram[..], &[0; 16]].concat();
        stranger.send_to(&longer, scene.at).await.unwrap();
        sent += 1;
        dropped(&scene.server, REJECTED, sent).await;
    }
    assert_eq!(scene.server.transport.stats().rx_packets, 1);
    still_the_same_peer(&mut scene, &stranger).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_no_answer_and_change_nothing() {
    let mut scene = scene().await;
    let stranger = Keys::new();
    // Knows the server's key, but is not among its peers.
    let file = format!(
        "[Interface]\nPrivateKey = {}\nAddress = 10.5.0.9/32\n[Peer]\nPublicKey = {}\n\
         AllowedIPs = {ALL}\nEndpoint = {}\n",
        *stranger.client.reveal_base64(),
        scene.server_key,
        scene.at,
    );
    let limit = Duration::from_millis(500);
    let unknown = End::new(transport(&file, local().no_answer_after(limit)));
    unknown
        .state(|state| {
            assert!(!matches!(state, TransportState::Up(_)));
            matches!(state, TransportState::Down(_))
        })
        .await;
    scene.server.dropped(DropReason::NoSession).await;
    assert_eq!(unknown.transport.stats().handshakes, 0);
    let bystander = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    still_the_same_peer(&mut scene, &bystander).await;
}

/// Whitepaper §5.3: above 100 handshakes a second from one address cookies are demanded, and who
/// holds a session does not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_handshakes_is_answered_by_cookies_and_harms_no_session() {
    let mut scene = scene().await;
    let initiation = scene.tap.recorded.lock().await[0].clone();
    assert_eq!(initiation[0], 1);
    let flood = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let handshakes = scene.server.transport.stats().handshakes;
    for _ in 0..400 {
        flood.send_to(&initiation, scene.at).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut datagram = [0; 2000];
    let first = tokio::time::timeout(PATIENCE, flood.recv(&mut datagram)).await;
    let length = first.unwrap().unwrap();
    // A cookie reply: 64 bytes, smaller than the question of 148.
    assert_eq!((datagram[0], length), (3, 64));
    assert_eq!(scene.server.transport.stats().handshakes, handshakes);
    let packet = udp("10.5.0.2", "198.51.100.7", b"through the flood");
    scene.client.send(std::slice::from_ref(&packet)).await;
    assert_eq!(scene.server.receive().await, packet);
}
