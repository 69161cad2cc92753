//! A device of your own: packets arrive as datagrams on a Unix socket pair, as a host application
//! or a virtual machine would hand them over. An engine runs on it.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::io::ErrorKind;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::UnixDatagram;
use tokio::sync::watch;
use vpn_core::device::{DeviceCapabilities, DeviceError};
use vpn_core::owner::NoOwners;
use vpn_core::testing::{build, memory_transport};
use vpn_core::{
    Assigned, DropCounters, DropReason, Offload, PacketBatch, RuleSnapshot, TunDevice, TunnelId,
};
use vpn_routing::RouterConfig;
use vpn_routing::engine::Engine;
use vpn_routing::rules::{CompiledRules, RuleCache, Target};

/// One datagram is one packet.
#[derive(Debug)]
struct SocketDevice {
    socket: UnixDatagram,
    closed: watch::Sender<bool>,
}

impl SocketDevice {
    fn check(&self) -> Result<(), DeviceError> {
        if *self.closed.borrow() {
            Err(DeviceError::Closed)
        } else {
            Ok(())
        }
    }

    async fn unless_closed(
        &self,
        ready: impl Future<Output = std::io::Result<()>>,
    ) -> Result<(), DeviceError> {
        let mut watch = self.closed.subscribe();
        let closed = watch.wait_for(|closed| *closed);
        tokio::select! { biased; _ = closed => Err(DeviceError::Closed), r = ready => Ok(r?) }
    }
}

#[async_trait]
impl TunDevice for SocketDevice {
    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities::plain(1500)
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        _: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        self.check()?;
        let before = batch.len();
        let mut failure = None;
        // The buffer comes from the batch's pool, with headroom; the packet is appended to it.
        while batch.push_with(|buf| match self.socket.try_recv_buf(buf) {
            Ok(_) => Some(Offload::NONE),
            Err(error) => {
                failure = Some(error);
                None
            }
        }) {}
        match failure {
            Some(error) if error.kind() != ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(batch.len() - before),
        }
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        self.check()?;
        let (mut gone, mut sent) = (0, 0);
        for packet in batch.packets() {
            match self.socket.try_send(packet.bytes()) {
                Ok(_) => sent += 1,
                // The rest stays with the caller, who waits for `writable`.
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // One packet that is refused is counted; its batch-mates go on.
                Err(_) => drops.count(DropReason::Refused),
            }
            gone += 1;
        }
        batch.recycle_front(gone);
        Ok(sent)
    }

    async fn readable(&self) -> Result<(), DeviceError> {
        self.unless_closed(self.socket.readable()).await
    }

    async fn writable(&self) -> Result<(), DeviceError> {
        self.unless_closed(self.socket.writable()).await
    }

    fn shutdown(&self) {
        self.closed.send_replace(true);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (socket, host) = UnixDatagram::pair()?;
    let closed = watch::Sender::new(false);
    let device = Arc::new(SocketDevice { socket, closed });

    // No rule, and a default that sends everything into the first tunnel.
    let rules = RuleCache::new();
    let provider = Target::Tunnel(TunnelId::new(0));
    let none = RuleSnapshot::default();
    rules.swap(CompiledRules::compile(&none, &|_: &str| None, provider)?);

    let (owners, config) = (Arc::new(NoOwners), RouterConfig::default());
    let mut engine = Engine::new(device.clone(), owners, rules, config);
    let (transport, far) = memory_transport(64, 1420);
    far.up(Assigned {
        addresses: vec!["10.5.0.2/32".parse()?],
        mtu: 1420,
        ..Assigned::default()
    });
    engine.add_tunnel("provider", Arc::new(transport))?;
    let (handle, task) = (engine.handle(), tokio::spawn(engine.run()));

    let question = build::udp("10.5.0.2:4000", "203.0.113.10:7", b"ping");
    let answer = build::udp("203.0.113.10:7", "10.5.0.2:4000", b"pong");
    host.send(&question).await?;
    let carried = far.take_wait().await.ok_or("the tunnel ended")?;
    assert_eq!(carried.bytes(), question);
    far.inject(&answer)?;
    let mut buffer = [0; 1500];
    let length = host.recv(&mut buffer).await?;
    assert_eq!(&buffer[..length], answer);

    handle.stop().await;
    let accounts = task.await??.accounts;
    assert!(accounts.balance() && accounts.drops.total() == 0);
    assert!(matches!(device.readable().await, Err(DeviceError::Closed)));
    println!("one packet out, one back, through a device of our own: {accounts:?}");
    Ok(())
}
