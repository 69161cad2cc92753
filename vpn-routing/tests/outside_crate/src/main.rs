//! A program outside the workspace: it implements the four traits from their public docs, without
//! test doubles, and runs an engine on its own device.

use std::collections::VecDeque;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use vpn_core::device::{DeviceCapabilities, DeviceError};
use vpn_core::packet::checksum;
use vpn_core::rule::RuleSourceError;
use vpn_core::{
    Action, Assigned, DropCounters, DropReason, Offload, Owner, OwnerAnswer, OwnerMatch,
    OwnerQuery, OwnerResolver, Packet, PacketBatch, Protocol, Rule, RuleId, RuleMatch,
    RuleSnapshot, RuleSource, StateSender, StateWatch, TransportCapabilities, TransportError,
    TransportState, TunDevice, TunnelId, TunnelTransport,
};
use vpn_routing::RouterConfig;
use vpn_routing::engine::Engine;
use vpn_routing::rules::{CompiledRules, RuleCache, RuleFeed, Target};

/// Packets one direction holds.
const CAPACITY: usize = 64;

/// Packets that go one way.
#[derive(Debug, Default)]
struct Lane {
    packets: Mutex<(VecDeque<Vec<u8>>, bool)>,
    changed: Notify,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<Vec<u8>>, bool)> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, packet: &[u8]) -> bool {
        let mut lane = self.lock();
        let room = lane.0.len() < CAPACITY;
        if room {
            lane.0.push_back(packet.to_vec());
            self.changed.notify_waiters();
        }
        room
    }

    fn pop_into(&self, batch: &mut PacketBatch) -> usize {
        let (before, mut lane) = (batch.len(), self.lock());
        while !batch.is_full() {
            let Some(packet) = lane.0.pop_front() else {
                break;
            };
            batch.push_with(|buf| {
                buf.extend_from_slice(&packet);
                Some(Offload::NONE)
            });
        }
        self.changed.notify_waiters();
        batch.len() - before
    }

    fn take_from(&self, batch: &mut PacketBatch) -> usize {
        let sent = batch
            .packets()
            .iter()
            .take_while(|p| self.push(p.bytes()))
            .count();
        batch.recycle_front(sent);
        sent
    }

    fn is_closed(&self) -> bool {
        self.lock().1
    }

    fn close(&self) {
        self.lock().1 = true;
        self.changed.notify_waiters();
    }

    /// Waits until the lane is as `ready` wants it, or closed.
    async fn wait(&self, ready: impl Fn(usize) -> bool + Send) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let lane = self.lock();
                if lane.1 || ready(lane.0.len()) {
                    return;
                }
            }
            changed.await;
        }
    }

    async fn next(&self) -> Vec<u8> {
        loop {
            self.wait(|queued| queued > 0).await;
            if let Some(packet) = self.lock().0.pop_front() {
                return packet;
            }
        }
    }
}

#[derive(Debug, Default)]
struct Device {
    from_apps: Lane,
    to_apps: Lane,
}

fn open(lane: &Lane) -> Result<(), DeviceError> {
    if lane.is_closed() {
        Err(DeviceError::Closed)
    } else {
        Ok(())
    }
}

#[async_trait]
impl TunDevice for Device {
    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities::plain(1500)
    }
    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        _: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        open(&self.from_apps)?;
        Ok(self.from_apps.pop_into(batch))
    }
    fn try_send(
        &self,
        batch: &mut PacketBatch,
        _: &mut DropCounters,
    ) -> Result<usize, DeviceError> {
        open(&self.to_apps)?;
        Ok(self.to_apps.take_from(batch))
    }
    async fn readable(&self) -> Result<(), DeviceError> {
        self.from_apps.wait(|queued| queued > 0).await;
        open(&self.from_apps)
    }
    async fn writable(&self) -> Result<(), DeviceError> {
        self.to_apps.wait(|queued| queued < CAPACITY).await;
        open(&self.to_apps)
    }
    fn shutdown(&self) {
        self.from_apps.close();
        self.to_apps.close();
    }
}

/// A tunnel whose other end answers every datagram by sending it back.
#[derive(Debug)]
struct Mirror {
    queue: Lane,
    state: StateSender,
}

impl Mirror {
    fn new(address: &str) -> Result<Self, Box<dyn Error>> {
        let state = StateSender::new();
        state.set(TransportState::Up(Arc::new(Assigned {
            addresses: vec![address.parse()?],
            dns: Vec::new(),
            mtu: 1420,
            ..Assigned::default()
        })));
        Ok(Self {
            queue: Lane::default(),
            state,
        })
    }

    fn open(&self) -> Result<(), TransportError> {
        if self.queue.is_closed() {
            Err(TransportError::Closed)
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl TunnelTransport for Mirror {
    fn capabilities(&self) -> TransportCapabilities {
        TransportCapabilities::plain(1420)
    }
    fn state(&self) -> StateWatch {
        self.state.watch()
    }
    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        _: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.open()?;
        Ok(self.queue.pop_into(batch))
    }
    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.open()?;
        let (mut gone, mut sent) = (0, 0);
        for packet in batch.packets_mut() {
            match packet.parse() {
                Err(_) => drops.count(DropReason::Malformed),
                Ok(parsed) => {
                    let flow = parsed.flow.reversed();
                    let payload = &packet.bytes()[usize::from(parsed.payload)..];
                    let answer = datagram(
                        (flow.src(), flow.src_port()),
                        (flow.dst(), flow.dst_port()),
                        payload,
                    );
                    if !self.queue.push(&answer) {
                        break;
                    }
                    sent += 1;
                }
            }
            gone += 1;
        }
        batch.recycle_front(gone);
        Ok(sent)
    }
    async fn readable(&self) -> Result<(), TransportError> {
        self.queue.wait(|queued| queued > 0).await;
        self.open()
    }
    async fn writable(&self) -> Result<(), TransportError> {
        self.queue.wait(|queued| queued < CAPACITY).await;
        self.open()
    }
    async fn close(&self) {
        self.queue.close();
        self.state.set(TransportState::Closed);
    }
}

/// One rule per user.
#[derive(Debug)]
struct Users(Vec<(u32, &'static str)>);

#[async_trait]
impl RuleSource for Users {
    async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
        let rule = |(id, &(uid, tunnel)): (u64, &(u32, &str))| Rule::new(RuleId(id), RuleMatch {
                owner: Some(OwnerMatch::Uid(uid)),
                ..RuleMatch::default()
            }, Action::Tunnel(tunnel.to_owned()));
        Ok(RuleSnapshot::from((1..).zip(&self.0).map(rule).collect::<Vec<_>>()))
    }
    async fn changed(&self) {
        std::future::pending().await
    }
}

/// User 1001 has the even ports, 1002 the odd ones, nobody those above 9,000.
#[derive(Debug)]
struct ByPort;

impl OwnerResolver for ByPort {
    fn resolve(&self, query: &OwnerQuery) -> OwnerAnswer {
        match query.flow.src_port() {
            port @ ..=9000 => OwnerAnswer::Known(Owner::user(1001 + u32::from(port % 2))),
            _ => OwnerAnswer::Unknown,
        }
    }
}

/// A UDP datagram over IPv4, without a UDP checksum (RFC 768 allows it).
fn datagram(src: (IpAddr, u16), dst: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (src.0, dst.0) else {
        return Vec::new();
    };
    let udp = 8 + payload.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, Protocol::UDP.0, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let header = !checksum::fold(checksum::sum(&packet, 0));
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    packet.extend(src.1.to_be_bytes());
    packet.extend(dst.1.to_be_bytes());
    packet.extend(udp.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    tokio::time::timeout(Duration::from_secs(30), run()).await?
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (app, server) = (
        IpAddr::from(Ipv4Addr::new(10, 5, 0, 2)),
        IpAddr::from([203, 0, 113, 10]),
    );
    let (device, cache) = (Arc::new(Device::default()), RuleCache::new());
    let mut engine = Engine::new(
        device.clone(),
        Arc::new(ByPort),
        cache.clone(),
        RouterConfig::default(),
    );
    // Other addresses than the device's: what comes back must have been translated twice.
    engine.add_tunnel("uk", Arc::new(Mirror::new("10.5.0.2/16")?))?;
    engine.add_tunnel("fr", Arc::new(Mirror::new("10.5.0.3/16")?))?;
    let names = ["uk", "fr"];
    let feed = RuleFeed::new(
        Arc::new(Users(vec![(1001, "uk"), (1002, "fr")])),
        cache,
        Arc::new(move |snapshot| {
            let id = |name: &str| {
                names
                    .iter()
                    .position(|n| *n == name)
                    .map(|i| TunnelId::new(i as u16))
            };
            CompiledRules::compile(snapshot, &id, Target::Block(DropReason::BlockedByDefault))
        }),
    );
    let mut status = feed.status();
    let feed = tokio::spawn(feed.run(Default::default()));
    status.wait_for(|s| !s.generation.is_cold()).await?;
    let (handle, task) = (engine.handle(), tokio::spawn(engine.run()));

    for port in 4000..4100 {
        let payload = format!("port {port}");
        assert!(
            device
                .from_apps
                .push(&datagram((app, port), (server, 7), payload.as_bytes()))
        );
        let answer = device.to_apps.next().await;
        assert_eq!(
            answer,
            datagram((server, 7), (app, port), payload.as_bytes())
        );
        let mut answer = Packet::from_slice(&answer);
        assert_eq!(answer.parse()?.flow.dst_port(), port);
    }
    assert!(
        device
            .from_apps
            .push(&datagram((app, 9999), (server, 7), b"nobody's"))
    );
    let flows = handle.flows(1000).await?;
    assert_eq!(
        flows
            .iter()
            .filter(|f| f.tunnel == TunnelId::new(0))
            .count(),
        50
    );
    let accounts = loop {
        let accounts = handle.status().await?.accounts;
        if accounts.in_device == 101 {
            break accounts;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(accounts.drops.get(DropReason::OwnerUnknown), 1);

    handle.stop().await;
    let status = task.await??;
    assert!(status.accounts.balance(), "{:?}", status.accounts);
    assert_eq!(
        (status.accounts.out_tunnels, status.accounts.out_device),
        (100, 100)
    );
    assert!(matches!(device.readable().await, Err(DeviceError::Closed)));
    feed.abort();
    println!("outside: 100 packets there and back");
    Ok(())
}
