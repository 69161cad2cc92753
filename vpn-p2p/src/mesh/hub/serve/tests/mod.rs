//! The server on loopback, counted.

mod wires;
mod work;

use std::net::TcpStream as StdTcp;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpSocket, UdpSocket};
use vpn_core::{DropCounters, Packet, PacketBatch, TransportState};

use super::work::{WAITING, Work};
use super::*;
use crate::mesh::hub::Neighbour;
use crate::mesh::hub::tests::neighbours::with_neighbours;
use crate::mesh::hub::tests::{Node, UNIX, World, open, token};
use crate::mesh::keys::Keys as _;
use crate::mesh::tls::TlsOpener;
use crate::mesh::wire::frame::{FAR, HELLO, carry_header, is_frame, relay_header};
use crate::mesh::wire::{Between, Frame, Plain as _, Tag, ToHub, ToMember, What};
use crate::session::Opened;
use crate::streams::{Budget, Contents, PoolConfig, StreamPool};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn started(config: HubConfig, limits: TlsLimits) -> HubServer {
    let identity = Identity::generate().unwrap();
    let listen = Listen::on(&["127.0.0.1:0".parse().unwrap()], true).unwrap();
    HubServer::start(config, limits, &identity, listen).unwrap()
}

/// Over what a node speaks.
enum Wire {
    Udp(UdpSocket),
    Tls(StreamPool),
}

impl Wire {
    async fn udp(server: &HubServer) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(server.local_addrs()[0]).await.unwrap();
        Self::Udp(socket)
    }

    async fn tls(server: &HubServer, identity: &Identity) -> Self {
        let to = server.local_addrs().to_vec();
        let opener = TlsOpener::new(identity, server.id(), to, |_| TcpSocket::new_v4()).unwrap();
        let config = PoolConfig {
            contents: Contents::Opaque,
            ..PoolConfig::default()
        };
        let pool = StreamPool::connect(Arc::new(opener), config, Budget::new(8 << 20)).unwrap();
        let mut state = pool.state();
        while !matches!(state.next().await, TransportState::Up(_)) {}
        Self::Tls(pool)
    }

    async fn send(&self, datagram: &[u8]) {
        match self {
            Self::Udp(socket) => assert_eq!(socket.send(datagram).await.unwrap(), datagram.len()),
            Self::Tls(pool) => {
                let mut batch = PacketBatch::new(1, 65_535);
                batch.push(Packet::from_slice(datagram)).unwrap();
                let mut drops = DropCounters::default();
                while pool.try_send(&mut batch, &mut drops).unwrap() == 0 {
                    pool.writable().await.unwrap();
                }
            }
        }
    }

    async fn receive(&self) -> BytesMut {
        let received = async {
            match self {
                Self::Udp(socket) => {
                    let mut buffer = [0; 65_535];
                    let count = socket.recv(&mut buffer).await.unwrap();
                    BytesMut::from(&buffer[..count])
                }
                Self::Tls(pool) => loop {
                    let mut batch = PacketBatch::new(1, 65_535);
                    pool.readable().await.unwrap();
                    if pool.try_recv(&mut batch).unwrap() > 0 {
                        return BytesMut::from(batch.packets()[0].bytes());
                    }
                },
            }
        };
        tokio::time::timeout(PATIENCE, received).await.unwrap()
    }
}

/// A member, by whatever wire.
struct Live {
    node: Node,
    wire: Wire,
}

impl Live {
    async fn member(server: &HubServer, address: &str, tls: bool) -> Self {
        let mut node = Node::new(Origin::Tls(0), &[address]);
        node.record.expires = unix() + 3600;
        let wire = match tls {
            true => Wire::tls(server, &node.identity).await,
            false => Wire::udp(server).await,
        };
        Self::by(node, wire).await
    }

    async fn by(mut node: Node, wire: Wire) -> Self {
        wire.send(&Frame::Hello { nonce: 1 }.to_bytes()).await;
        let welcome = wire.receive().await;
        let Ok(Frame::Welcome { cookie, record, .. }) = Frame::read(&welcome) else {
            panic!("no welcome");
        };
        let hub = crate::mesh::SignedRecord::from_bytes(record, unix()).unwrap();
        let mut session = node.keys.session(hub.record().session);
        let record = node.signed();
        wire.send(
            &Frame::Join {
                cookie,
                record: &record,
            }
            .to_bytes(),
        )
        .await;
        wire.send(&session.initiate(false).unwrap()).await;
        let Opened::Reply(keepalive) = session.open(wire.receive().await) else {
            panic!("no session");
        };
        wire.send(&keepalive).await;
        node.session = Some(session);
        let mut live = Self { node, wire };
        let token = Some(token("open sesame"));
        let registered = live
            .ask(&ToHub::Register {
                id: 1,
                token,
                record,
            })
            .await;
        assert!(
            matches!(registered, ToMember::Registered { id: 1, .. }),
            "{registered:?}"
        );
        live
    }

    async fn ask(&mut self, message: &ToHub) -> ToMember {
        let sealed = self.node.seal(message);
        self.wire.send(&sealed).await;
        loop {
            let answer = self.wire.receive().await;
            let session = self.node.session.as_mut().unwrap();
            if !is_frame(&answer)
                && let Opened::Packet(plain) = session.open(answer)
            {
                return ToMember::from_plain(&plain).unwrap();
            }
        }
    }

    fn tag(&self) -> Tag {
        self.node.tag()
    }

    async fn relays(&self, to: &Self, content: &[u8]) {
        self.wire.send(&self.node.relay(to.tag(), content)).await;
        assert_eq!(to.wire.receive().await, to.node.relay(self.tag(), content));
    }
}

fn udp_at(text: &str) -> Origin {
    Origin::Udp(text.parse().unwrap())
}
