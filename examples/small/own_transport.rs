//! A transport of your own: IP packets in UDP datagrams, in clear text. It shows the contract, not
//! how to protect traffic: use WireGuard for that.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::UdpSocket;
use vpn_core::testing::build;
use vpn_core::{
    Assigned, DropCounters, DropReason, Packet, PacketBatch, StateSender, StateWatch,
    TransportCapabilities, TransportError, TransportState, TunnelTransport,
};

/// What we say first, and what the peer answers. No IP packet begins with a 1.
const HELLO: &[u8] = &[1];

/// Datagrams to and from one peer. "Up" is said when the peer has answered, not before.
#[derive(Debug)]
struct ClearUdp {
    socket: UdpSocket,
    assigned: Arc<Assigned>,
    state: StateSender,
}

impl ClearUdp {
    async fn connect(peer: SocketAddr, assigned: Assigned) -> std::io::Result<Self> {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await?;
        socket.connect(peer).await?;
        socket.send(HELLO).await?;
        let (assigned, state) = (Arc::new(assigned), StateSender::new());
        Ok(Self {
            socket,
            assigned,
            state,
        })
    }

    async fn unless_closed(
        &self,
        ready: impl Future<Output = std::io::Result<()>>,
    ) -> Result<(), TransportError> {
        let mut state = self.state.watch();
        let closed = async { while state.next().await != TransportState::Closed {} };
        tokio::select! { biased; () = closed => Err(TransportError::Closed), r = ready => Ok(r?) }
    }
}

#[async_trait]
impl TunnelTransport for ClearUdp {
    fn capabilities(&self) -> TransportCapabilities {
        TransportCapabilities::plain(1400)
    }

    fn state(&self) -> StateWatch {
        self.state.watch()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        _: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        if self.state.get() == TransportState::Closed {
            return Err(TransportError::Closed);
        }
        let (before, mut buffer) = (batch.len(), [0; 2048]);
        while !batch.is_full() {
            match self.socket.try_recv(&mut buffer) {
                // Protocol work is done inside `try_recv`; it yields no packet.
                Ok(1) => self.state.set(TransportState::Up(self.assigned.clone())),
                Ok(length) => drop(batch.push(Packet::from_slice(&buffer[..length]))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // An ICMP error of the peer's host is no reason to end.
                Err(_) => {}
            }
        }
        Ok(batch.len() - before)
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        let up = match self.state.get() {
            TransportState::Closed => return Err(TransportError::Closed),
            state => matches!(state, TransportState::Up(_)),
        };
        let (mut gone, mut sent) = (0, 0);
        for packet in batch.packets() {
            match up.then(|| self.socket.try_send(packet.bytes())) {
                None => drops.count(DropReason::NoSession),
                Some(Ok(_)) => sent += 1,
                Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => break,
                Some(Err(_)) => drops.count(DropReason::Refused),
            }
            gone += 1;
        }
        batch.recycle_front(gone);
        Ok(sent)
    }

    async fn readable(&self) -> Result<(), TransportError> {
        self.unless_closed(self.socket.readable()).await
    }

    async fn writable(&self) -> Result<(), TransportError> {
        self.unless_closed(self.socket.writable()).await
    }

    async fn close(&self) {
        self.state.set(TransportState::Closed);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let peer = UdpSocket::bind(("127.0.0.1", 0)).await?;
    let transport = ClearUdp::connect(peer.local_addr()?, Assigned::default()).await?;
    let (mut batch, mut drops) = (PacketBatch::new(8, 1500), DropCounters::default());
    let packet = build::udp("10.5.0.2:4000", "203.0.113.10:7", b"ping");

    assert!(batch.push(Packet::from_slice(&packet)).is_ok());
    assert_eq!(transport.try_send(&mut batch, &mut drops)?, 0);
    // Nobody has proven to be there.
    assert_eq!(drops.get(DropReason::NoSession), 1);

    let mut buffer = [0; 1500];
    let (_, from) = peer.recv_from(&mut buffer).await?;
    peer.send_to(HELLO, from).await?;
    transport.readable().await?;
    assert_eq!(transport.try_recv(&mut batch, &mut drops)?, 0);
    assert!(matches!(transport.state().get(), TransportState::Up(_)));

    assert!(batch.push(Packet::from_slice(&packet)).is_ok());
    assert_eq!(transport.try_send(&mut batch, &mut drops)?, 1);
    let (length, _) = peer.recv_from(&mut buffer).await?;
    assert_eq!(&buffer[..length], packet);
    transport.close().await;
    assert!(matches!(
        transport.readable().await,
        Err(TransportError::Closed)
    ));
    println!("connecting, up once the peer answered, closed: dropped {drops:?}");
    Ok(())
}
