//! Two ends on loopback, and packets to send between them.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use vpn_core::{
    DropCounters, Packet, PacketBatch, TransportState, TunnelTransport, Underlay, UnderlayError,
};
use vpn_p2p::wg_quick::{PresharedKey, PrivateKey};
use vpn_p2p::{WgQuick, WireGuardOptions, WireGuardTransport};

/// Long enough for a busy machine; reached only when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Plain sockets, and one name: `provider.test` is 127.0.0.1.
#[derive(Debug, Default)]
pub struct Plain;

#[async_trait]
impl Underlay for Plain {
    fn udp(&self, local: SocketAddr) -> Result<UdpSocket, UnderlayError> {
        let socket = UdpSocket::bind(local);
        let socket = socket.map_err(|cause| UnderlayError::Socket { local, cause })?;
        socket
            .set_nonblocking(true)
            .map_err(|cause| UnderlayError::Socket { local, cause })?;
        Ok(socket)
    }

    fn tcp(&self, remote: SocketAddr) -> Result<TcpStream, UnderlayError> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(remote),
            socket2::Type::STREAM,
            None,
        );
        let socket = socket.and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        });
        socket.map_err(|cause| UnderlayError::Socket {
            local: remote,
            cause,
        })
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, UnderlayError> {
        match host {
            "provider.test" => Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]),
            _ => Err(UnderlayError::Resolve {
                name: host.to_owned(),
                problem: "unknown".to_owned(),
            }),
        }
    }
}

pub fn local() -> WireGuardOptions {
    WireGuardOptions::default().local(IpAddr::from([127, 0, 0, 1]))
}

pub struct Keys {
    pub client: PrivateKey,
    pub server: PrivateKey,
    pub psk: PresharedKey,
}

impl Keys {
    pub fn new() -> Self {
        Self {
            client: PrivateKey::generate().unwrap(),
            server: PrivateKey::generate().unwrap(),
            psk: PresharedKey::generate().unwrap(),
        }
    }

    pub fn server_file(&self, port: u16, allowed: &str) -> String {
        format!(
            "[Interface]\nPrivateKey = {}\nAddress = 10.5.0.1/24, fd05::1/64\nListenPort = {port}\n\
             [Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = {allowed}\n",
            *self.server.reveal_base64(),
            self.client.public(),
            *self.psk.reveal_base64(),
        )
    }

    pub fn client_file(&self, endpoint: &str, allowed: &str) -> String {
        format!(
            "[Interface]\nPrivateKey = {}\nAddress = 10.5.0.2/32, fd05::2/128\nDNS = 10.5.0.1\n\
             [Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = {allowed}\nEndpoint = {endpoint}\n",
            *self.client.reveal_base64(),
            self.server.public(),
            *self.psk.reveal_base64(),
        )
    }
}

pub fn transport(file: &str, options: WireGuardOptions) -> WireGuardTransport {
    let config = WgQuick::parse("test.conf", file).unwrap();
    WireGuardTransport::new(config, Arc::new(Plain), options).unwrap()
}

pub fn port(transport: &WireGuardTransport) -> u16 {
    let addrs = transport.local_addrs();
    addrs.iter().find(|a| a.is_ipv4()).unwrap().port()
}

/// What one end received and dropped, filled by a task that keeps reading.
pub struct End<T = WireGuardTransport> {
    pub transport: Arc<T>,
    pub received: tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>,
    pub drops: Arc<std::sync::Mutex<DropCounters>>,
    reader: tokio::task::JoinHandle<()>,
}

impl<T: TunnelTransport + 'static> End<T> {
    pub fn new(transport: T) -> Self {
        let transport = Arc::new(transport);
        let (sender, received) = tokio::sync::mpsc::unbounded_channel();
        let drops = Arc::new(std::sync::Mutex::new(DropCounters::default()));
        let reader = {
            let (transport, drops) = (transport.clone(), drops.clone());
            tokio::spawn(async move {
                let mut batch = PacketBatch::new(PacketBatch::DEFAULT_CAPACITY, 1500);
                while transport.readable().await.is_ok() {
                    let mut dropped = DropCounters::default();
                    if transport.try_recv(&mut batch, &mut dropped).is_err() {
                        break;
                    }
                    drops.lock().unwrap().merge(&dropped);
                    for packet in batch.packets() {
                        let _ = sender.send(packet.bytes().to_vec());
                    }
                    batch.clear();
                }
            })
        };
        Self {
            transport,
            received,
            drops,
            reader,
        }
    }

    pub async fn up(&self) {
        self.state(|state| matches!(state, TransportState::Up(_)))
            .await;
    }

    pub async fn state(&self, wanted: impl Fn(&TransportState) -> bool) {
        let mut watch = self.transport.state();
        tokio::time::timeout(PATIENCE, async { while !wanted(&watch.next().await) {} })
            .await
            .expect("the state was not reached");
    }

    /// Sends a batch's worth of packets that may be super-packets.
    pub async fn send_packet(&self, packet: Packet) -> DropCounters {
        let mut batch = PacketBatch::new(1, 65_535);
        batch.push(packet).unwrap();
        self.send_all(&mut batch).await
    }

    /// Sends all packets, waiting as an engine would; returns what was dropped.
    pub async fn send(&self, packets: &[Vec<u8>]) -> DropCounters {
        let mut batch = PacketBatch::new(packets.len().max(1), 1500);
        for packet in packets {
            batch.push(Packet::from_slice(packet)).unwrap();
        }
        self.send_all(&mut batch).await
    }

    async fn send_all(&self, batch: &mut PacketBatch) -> DropCounters {
        let mut drops = DropCounters::default();
        tokio::time::timeout(PATIENCE, async {
            loop {
                self.transport.try_send(batch, &mut drops).unwrap();
                if batch.is_empty() {
                    break;
                }
                self.transport.writable().await.unwrap();
            }
        })
        .await
        .expect("the packets were not taken");
        drops
    }

    pub async fn receive(&mut self) -> Vec<u8> {
        tokio::time::timeout(PATIENCE, self.received.recv())
            .await
            .expect("nothing arrived")
            .expect("the reader ended")
    }

    pub async fn dropped(&self, reason: vpn_core::DropReason) {
        tokio::time::timeout(PATIENCE, async {
            while self.drops.lock().unwrap().get(reason) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("nothing was dropped for this reason");
    }

    /// Lets the transport go without closing it.
    pub fn leave(self) {
        self.reader.abort();
    }

    pub async fn close(self) {
        self.transport.close().await;
        self.reader.await.unwrap();
    }
}

/// A UDP packet of either family with this payload; checksums are not what is tested.
pub fn udp(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let length = (8 + payload.len()) as u16;
    let mut packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = (20 + length).to_be_bytes();
            let mut p = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0];
            p.extend(src.octets());
            p.extend(dst.octets());
            p
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let [high, low] = length.to_be_bytes();
            let mut p = vec![0x60, 0, 0, 0, high, low, 17, 64];
            p.extend(src.octets());
            p.extend(dst.octets());
            p
        }
        _ => panic!("mixed families"),
    };
    packet.extend([0x04, 0xd2, 0, 53]);
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}
