//! A transport of your own: IP packets in UDP datagrams, in clear text. It shows the contract, not
//! how to protect traffic: use WireGuard for that.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::UdpSocket;
use vpn_core::packet::{Offload, Packet};
use vpn_core::testing::build;
use vpn_core::{
    Assigned, DropCounters, DropReason, PacketBatch, StateSender, StateWatch,
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
        Ok(Self {
            socket,
            assigned: Arc::new(assigned),
            state: StateSender::new(),
        })
    }

    fn check(&self) -> Result<(), TransportError> {
        match self.state.get() {
            TransportState::Closed => Err(TransportError::Closed),
            _ => Ok(()),
        }
    }

    async fn closed(&self) -> TransportError {
        let mut watch = self.state.watch();
        while watch.next().await != TransportState::Closed {}
        TransportError::Closed
    }
}

#[async_trait]
impl TunnelTransport for ClearUdp {
    fn capabilities(&self) -> TransportCapabilities {
        TransportCapabilities::plain(self.assigned.mtu)
    }

    fn state(&self) -> StateWatch {
        self.state.watch()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        _: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.check()?;
        let (before, mut done) = (batch.len(), false);
        while !done && !batch.is_full() {
            batch.push_with(|buf| {
                let start = buf.len();
                match self.socket.try_recv_buf(buf) {
                    // Protocol work is done inside `try_recv`; it yields no packet.
                    Ok(_) if &buf[start..] == HELLO => {
                        self.state.set(TransportState::Up(self.assigned.clone()));
                        None
                    }
                    Ok(_) => Some(Offload::NONE),
                    Err(error) => {
                        // An ICMP error of the peer's host is no reason to end.
                        done = error.kind() == ErrorKind::WouldBlock;
                        None
                    }
                }
            });
        }
        Ok(batch.len() - before)
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.check()?;
        let up = matches!(self.state.get(), TransportState::Up(_));
        let (mut gone, mut sent) = (0, 0);
        for packet in batch.packets() {
            if !up {
                drops.count(DropReason::NoSession);
            } else if packet.len() > usize::from(self.assigned.mtu) {
                drops.count(DropReason::TooBig);
            } else {
                match self.socket.try_send(packet.bytes()) {
                    Ok(_) => sent += 1,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => drops.count(DropReason::Refused),
                }
            }
            gone += 1;
        }
        batch.recycle_front(gone);
        Ok(sent)
    }

    async fn readable(&self) -> Result<(), TransportError> {
        tokio::select! { e = self.closed() => Err(e), r = self.socket.readable() => Ok(r?) }
    }

    async fn writable(&self) -> Result<(), TransportError> {
        tokio::select! { e = self.closed() => Err(e), r = self.socket.writable() => Ok(r?) }
    }

    async fn close(&self) {
        self.state.set(TransportState::Closed);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let peer = UdpSocket::bind(("127.0.0.1", 0)).await?;
    let assigned = Assigned {
        mtu: 1400,
        ..Assigned::default()
    };
    let transport = ClearUdp::connect(peer.local_addr()?, assigned).await?;
    let (mut batch, mut drops) = (PacketBatch::new(8, 1500), DropCounters::default());
    let packet = build::udp("10.5.0.2:4000", "203.0.113.10:7", b"ping");

    assert!(batch.push(Packet::from_slice(&packet)).is_ok());
    assert_eq!(transport.try_send(&mut batch, &mut drops)?, 0);
    assert_eq!(
        drops.get(DropReason::NoSession),
        1,
        "nobody has proven to be there"
    );

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
