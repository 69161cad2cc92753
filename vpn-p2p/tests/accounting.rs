//! Every packet that is taken counts once: as sent, or as a drop.
#![cfg(feature = "wireguard")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use common::{End, Keys, Plain, local, port, transport, udp};
use vpn_core::packet::{Gso, Offload, Packet};
use vpn_core::{
    DownCause, DropCounters, DropReason, PacketBatch, TransportState, TunnelTransport as _,
    Underlay, UnderlayError,
};
use vpn_p2p::{WgQuick, WireGuardTransport};

const ALL: &str = "0.0.0.0/0, ::/0";

/// Keeps hold of the sockets it made, and can make them refuse to send.
#[derive(Debug, Default)]
struct Spoiled {
    sockets: Mutex<Vec<UdpSocket>>,
    path_v4: Mutex<Option<u16>>,
}

impl Spoiled {
    fn refuse(&self) {
        for socket in &*self.sockets.lock().unwrap() {
            // Says "not connected", and shuts it all the same.
            let _ = socket2::SockRef::from(socket).shutdown(Shutdown::Write);
        }
    }
}

#[async_trait]
impl Underlay for Spoiled {
    fn udp(&self, local: SocketAddr) -> Result<UdpSocket, UnderlayError> {
        let socket = Plain.udp(local)?;
        self.sockets
            .lock()
            .unwrap()
            .push(socket.try_clone().unwrap());
        Ok(socket)
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, UnderlayError> {
        Plain.resolve(host, port).await
    }

    fn mtu_to(&self, remote: SocketAddr) -> Option<u16> {
        self.path_v4.lock().unwrap().filter(|_| remote.is_ipv4())
    }
}

fn client(keys: &Keys, endpoint: &str, underlay: &Arc<Spoiled>) -> WireGuardTransport {
    let config = WgQuick::parse("client", &keys.client_file(endpoint, ALL)).unwrap();
    let limit = std::time::Duration::from_secs(1);
    WireGuardTransport::new(config, underlay.clone(), local().no_answer_after(limit)).unwrap()
}

fn super_packet(payload: usize) -> Packet {
    let bytes = udp("10.5.0.2", "198.51.100.7", &vec![7; payload]);
    Packet::from_slice(&bytes).with_offload(Offload {
        gso: Some(Gso { size: 1000 }),
        partial_checksum: true,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_super_packet_is_one_drop() {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, ALL), local());
    let endpoint = format!("127.0.0.1:{}", port(&server));
    let server = End::new(server);
    let underlay = Arc::new(Spoiled::default());
    let client = End::new(client(&keys, &endpoint, &underlay));
    client.up().await;
    underlay.refuse();
    let small = udp("10.5.0.2", "198.51.100.7", &[1; 972]);
    let mut batch = PacketBatch::new(8, 65_535);
    // More segments than one send carries, and neighbours that share a send with its ends.
    for packet in [
        Packet::from_slice(&small),
        super_packet(63_000),
        super_packet(30_000),
        Packet::from_slice(&small),
        Packet::from_slice(b"junk"),
    ] {
        batch.push(packet).unwrap();
    }
    let mut drops = DropCounters::default();
    let sent = client.transport.try_send(&mut batch, &mut drops).unwrap();
    assert!(batch.is_empty());
    assert_eq!((sent, drops.total()), (0, 5), "{drops:?}");
    assert_eq!(drops.get(DropReason::Refused), 4);
    assert_eq!(drops.get(DropReason::Malformed), 1);
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_refuses_is_named_as_the_cause_and_recovered_from() {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, ALL), local());
    let at = port(&server);
    let server = End::new(server);
    let underlay = Arc::new(Spoiled::default());
    // A broadcast address may not be sent to without asking: EACCES, as a firewall's EPERM.
    let refused = End::new(client(&keys, "255.255.255.255:9", &underlay));
    refused
        .state(|state| match state {
            TransportState::Down(DownCause::Network(what)) => {
                assert!(what.contains("255.255.255.255:9"), "{what}");
                true
            }
            TransportState::Down(other) => panic!("{other:?}"),
            _ => false,
        })
        .await;
    // Longer than silence takes to be noticed: the cause is still the network.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let state = refused.transport.state().get();
    assert!(
        matches!(&state, TransportState::Down(DownCause::Network(_))),
        "{state:?}"
    );
    refused.close().await;
    // Sockets that stop sending are replaced, and the tunnel is up again.
    let client = End::new(client(&keys, &format!("127.0.0.1:{at}"), &underlay));
    client.up().await;
    underlay.refuse();
    let packet = udp("10.5.0.2", "198.51.100.7", b"?");
    assert_eq!(client.send(&[packet]).await.get(DropReason::Refused), 1);
    client
        .state(|state| matches!(state, TransportState::Down(_)))
        .await;
    client.up().await;
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mtu_is_the_smaller_of_file_and_path_and_follows_the_family() {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, ALL), local());
    let endpoint = format!("127.0.0.1:{}", port(&server));
    let server = End::new(server);
    for (path, expected) in [
        (None, 1420),
        (Some(1500), 1440),
        (Some(1400), 1328),
        (Some(100), 576),
    ] {
        let underlay = Arc::new(Spoiled {
            path_v4: Mutex::new(path),
            ..Spoiled::default()
        });
        let client = End::new(client(&keys, &endpoint, &underlay));
        client.up().await;
        let TransportState::Up(assigned) = client.transport.state().get() else {
            panic!("not up");
        };
        assert_eq!(assigned.mtu, expected);
        assert_eq!(client.transport.capabilities().mtu, expected);
        let drops = client
            .send(&[
                udp(
                    "10.5.0.2",
                    "198.51.100.7",
                    &vec![0; usize::from(expected) - 27],
                ),
                udp(
                    "10.5.0.2",
                    "198.51.100.7",
                    &vec![0; usize::from(expected) - 28],
                ),
            ])
            .await;
        assert_eq!((drops.total(), drops.get(DropReason::TooBig)), (1, 1));
        client.close().await;
    }
    server.close().await;
}

/// N-24: the path narrows under a tunnel that is up, and widens again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mtu_follows_the_path_while_the_tunnel_is_up() {
    let keys = Keys::new();
    let server = transport(&keys.server_file(0, ALL), local());
    let endpoint = format!("127.0.0.1:{}", port(&server));
    let server = End::new(server);
    let underlay = Arc::new(Spoiled::default());
    let client = End::new(client(&keys, &endpoint, &underlay));
    client.up().await;
    for (path, expected) in [(1300, 1232), (1500, 1440)] {
        *underlay.path_v4.lock().unwrap() = Some(path);
        client
            .state(|state| matches!(state, TransportState::Up(a) if a.mtu == expected))
            .await;
        assert_eq!(client.transport.capabilities().mtu, expected);
    }
    client.close().await;
    server.close().await;
}
