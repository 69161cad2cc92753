//! A tunnel whose far end is the test.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::queue::{InjectError, Queue};
use crate::network::NetworkEvent;
use crate::packet::segment::split;
use crate::packet::{BufferPool, Offload, Packet, PacketBatch, Parsed};
use crate::transport::{
    Assigned, DownCause, StateSender, StateWatch, TransportCapabilities, TransportError,
    TransportState, TunnelTransport,
};
use crate::verdict::{DropCounters, DropReason};

#[derive(Debug)]
struct Shared {
    /// From the transport's user to the far end.
    outbound: Queue,
    /// From the far end to the transport's user.
    inbound: Queue,
    state: StateSender,
    capabilities: TransportCapabilities,
    strict_source: AtomicBool,
    rejected: AtomicU64,
    overflowed: AtomicU64,
    /// What the transport's user finds it asks for: rest after a while, in milliseconds.
    idle_limit: Option<Duration>,
    round_trip: AtomicU64,
    woken: AtomicU64,
    network_events: Mutex<Vec<NetworkEvent>>,
}

/// A tunnel in memory: made by [`memory_transport`].
#[derive(Debug)]
pub struct MemoryTransport(Arc<Shared>);

/// The far end of a [`MemoryTransport`]: says where the tunnel stands, takes what was sent
/// through it and sends back.
#[derive(Clone, Debug)]
pub struct FarSide(Arc<Shared>);

/// A tunnel without offload, and its far end. Each direction holds up to `capacity` packets;
/// `mtu` is in bytes. It starts [`Connecting`](TransportState::Connecting), with the strict
/// source check off.
pub fn memory_transport(capacity: usize, mtu: u16) -> (MemoryTransport, FarSide) {
    memory_transport_with(capacity, TransportCapabilities::plain(mtu))
}

/// A tunnel with these capabilities, and its far end.
pub fn memory_transport_with(
    capacity: usize,
    capabilities: TransportCapabilities,
) -> (MemoryTransport, FarSide) {
    memory(capacity, capabilities, None)
}

/// A tunnel that connects on demand: it starts [`Dormant`](TransportState::Dormant), is
/// [`Connecting`](TransportState::Connecting) once it is woken, until [`FarSide::up`], and rests
/// when told to after `idle`.
pub fn memory_transport_on_demand(
    capacity: usize,
    mtu: u16,
    idle: Duration,
) -> (MemoryTransport, FarSide) {
    let (transport, far) = memory(capacity, TransportCapabilities::plain(mtu), Some(idle));
    far.set_state(TransportState::Dormant);
    (transport, far)
}

fn memory(
    capacity: usize,
    capabilities: TransportCapabilities,
    idle_limit: Option<Duration>,
) -> (MemoryTransport, FarSide) {
    let shared = Arc::new(Shared {
        outbound: Queue::new(capacity),
        inbound: Queue::new(capacity),
        state: StateSender::new(),
        capabilities,
        strict_source: AtomicBool::new(false),
        rejected: AtomicU64::new(0),
        overflowed: AtomicU64::new(0),
        idle_limit,
        round_trip: AtomicU64::new(0),
        woken: AtomicU64::new(0),
        network_events: Mutex::default(),
    });
    (MemoryTransport(shared.clone()), FarSide(shared))
}

impl FarSide {
    /// The peer answers, and gives the tunnel these addresses.
    pub fn up(&self, assigned: Assigned) {
        self.set_state(TransportState::Up(Arc::new(assigned)));
    }

    /// The tunnel is down for this cause.
    pub fn down(&self, cause: DownCause) {
        self.set_state(TransportState::Down(cause));
    }

    /// Sets any state. `Closed` is final, and closes the tunnel.
    pub fn set_state(&self, state: TransportState) {
        if state == TransportState::Closed {
            self.0.close();
        }
        self.0.state.set(state);
    }

    /// With `true`, packets whose source is not one of the assigned addresses vanish here, as
    /// they do at real providers: the sender sees them sent, and [`rejected`](Self::rejected)
    /// counts them.
    pub fn strict_source(&self, strict: bool) {
        self.0.strict_source.store(strict, Ordering::Relaxed);
    }

    /// What the tunnel says its round trip is, in whole microseconds; zero: not measured.
    pub fn round_trip(&self, measured: Duration) {
        let micros = measured.as_micros().try_into().unwrap_or(u64::MAX);
        self.0.round_trip.store(micros, Ordering::Relaxed);
    }

    /// How often the tunnel was woken while it was dormant.
    pub fn woken(&self) -> u64 {
        self.0.woken.load(Ordering::Relaxed)
    }

    /// What the tunnel was told of the network below since this was asked last, oldest first.
    pub fn take_network_events(&self) -> Vec<NetworkEvent> {
        let events = self.0.network_events.lock();
        std::mem::take(&mut *events.unwrap_or_else(PoisonError::into_inner))
    }

    /// How many packets the strict source check took.
    pub fn rejected(&self) -> u64 {
        self.0.rejected.load(Ordering::Relaxed)
    }

    /// How many segments of super-packets, cut here, found the queue full and were lost, as on a
    /// network: the sender sees their packet sent.
    pub fn overflowed(&self) -> u64 {
        self.0.overflowed.load(Ordering::Relaxed)
    }

    /// The peer sends a packet.
    ///
    /// # Errors
    ///
    /// [`InjectError`] with the packet, if the queue is full or the transport closed.
    pub fn inject(&self, bytes: &[u8]) -> Result<(), InjectError> {
        self.inject_packet(Packet::from_slice(bytes))
    }

    /// The peer sends a packet, possibly a super-packet or one with a partial checksum.
    ///
    /// # Errors
    ///
    /// As [`inject`](Self::inject).
    pub fn inject_packet(&self, packet: Packet) -> Result<(), InjectError> {
        self.0.inbound.push(packet)
    }

    /// As [`inject_packet`](Self::inject_packet), but waits while the queue is full.
    ///
    /// # Errors
    ///
    /// [`InjectError::Closed`] once the transport is closed.
    pub async fn inject_wait(&self, packet: Packet) -> Result<(), InjectError> {
        self.0.inbound.push_wait(packet).await
    }

    /// The next packet that came through the tunnel, if there is one.
    pub fn take(&self) -> Option<Packet> {
        self.0.outbound.pop()
    }

    /// Waits for the next packet; `None` once the transport is closed and everything was taken.
    /// Cancel-safe.
    pub async fn take_wait(&self) -> Option<Packet> {
        self.0.outbound.pop_wait().await
    }

    /// Whether the near end closed the transport.
    pub fn is_closed(&self) -> bool {
        self.0.outbound.is_closed()
    }
}

impl Shared {
    fn close(&self) {
        self.outbound.close();
        self.inbound.close();
        self.state.set(TransportState::Closed);
    }

    fn accepts(&self, source: IpAddr, assigned: &Assigned) -> bool {
        !self.strict_source.load(Ordering::Relaxed)
            || assigned.addresses.iter().any(|net| net.addr() == source)
    }
}

/// Length of the largest packet this becomes on a wire.
fn largest_on_wire(packet: &Packet, parsed: &Parsed) -> usize {
    match packet.offload.gso {
        Some(gso) => packet
            .len()
            .min(usize::from(parsed.payload) + usize::from(gso.size)),
        None => packet.len(),
    }
}

enum Sent {
    Yes,
    Dropped(DropReason),
    QueueFull,
}

impl MemoryTransport {
    fn check(&self) -> Result<(), TransportError> {
        if self.0.outbound.is_closed() {
            return Err(TransportError::Closed);
        }
        Ok(())
    }

    fn send_one(&self, packet: &mut Packet, state: &TransportState) -> Sent {
        let shared = &self.0;
        let TransportState::Up(assigned) = state else {
            return Sent::Dropped(DropReason::NoSession);
        };
        let Ok(parsed) = packet.parse() else {
            return Sent::Dropped(DropReason::Malformed);
        };
        if largest_on_wire(packet, &parsed) > usize::from(shared.capabilities.mtu) {
            return Sent::Dropped(DropReason::TooBig);
        }
        if shared.outbound.is_full() {
            return Sent::QueueFull;
        }
        if !shared.accepts(parsed.flow.src(), assigned) {
            shared.rejected.fetch_add(1, Ordering::Relaxed);
            return Sent::Yes;
        }
        if shared.capabilities.offload || packet.offload == Offload::NONE {
            return match shared.outbound.push(packet.shrunk()) {
                Ok(()) => Sent::Yes,
                Err(_) => Sent::QueueFull,
            };
        }
        let mut pool = BufferPool::new(0, usize::from(shared.capabilities.mtu));
        match split(packet, &mut pool, |segment| {
            if shared.outbound.push(segment).is_err() {
                shared.overflowed.fetch_add(1, Ordering::Relaxed);
            }
        }) {
            Ok(_) => Sent::Yes,
            Err(_) => Sent::Dropped(DropReason::Unsupported),
        }
    }
}

#[async_trait]
impl TunnelTransport for MemoryTransport {
    fn capabilities(&self) -> TransportCapabilities {
        self.0.capabilities
    }

    fn state(&self) -> StateWatch {
        self.0.state.watch()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        _drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.check()?;
        Ok(self.0.inbound.pop_into(batch))
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.check()?;
        self.wake();
        let state = self.0.state.get();
        if self.0.idle_limit.is_some() && state == TransportState::Connecting {
            // What woke it is not lost.
            return Ok(0);
        }
        let (mut gone, mut sent) = (0, 0);
        for packet in batch.packets_mut() {
            match self.send_one(packet, &state) {
                Sent::Yes => sent += 1,
                Sent::Dropped(reason) => drops.count(reason),
                Sent::QueueFull => break,
            }
            gone += 1;
        }
        batch.recycle_front(gone);
        Ok(sent)
    }

    async fn readable(&self) -> Result<(), TransportError> {
        self.check()?;
        self.0.inbound.readable().await;
        self.check()
    }

    async fn writable(&self) -> Result<(), TransportError> {
        self.check()?;
        if self.0.idle_limit.is_some() {
            let mut state = self.0.state.watch();
            while state.next().await == TransportState::Connecting {}
        }
        self.0.outbound.writable().await;
        self.check()
    }

    async fn close(&self) {
        self.0.close();
    }

    fn wake(&self) {
        if self.0.state.get() == TransportState::Dormant {
            self.0.state.set(TransportState::Connecting);
            self.0.woken.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn rest(&self) {
        let up = matches!(self.0.state.get(), TransportState::Up(_));
        if up && self.0.idle_limit.is_some() {
            self.0.state.set(TransportState::Dormant);
        }
    }

    fn network_changed(&self, event: NetworkEvent) {
        let events = self.0.network_events.lock();
        events.unwrap_or_else(PoisonError::into_inner).push(event);
    }

    fn idle_limit(&self) -> Option<Duration> {
        self.0.idle_limit
    }

    fn round_trip(&self) -> Option<Duration> {
        let micros = self.0.round_trip.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::build;

    fn send(transport: &MemoryTransport, bytes: &[u8], drops: &mut DropCounters) -> usize {
        let mut batch = PacketBatch::new(1, 1500);
        assert!(batch.push(Packet::from_slice(bytes)).is_ok());
        transport.try_send(&mut batch, drops).unwrap()
    }

    fn assigned(net: &str) -> Assigned {
        Assigned {
            addresses: vec![net.parse().unwrap()],
            mtu: 1420,
            ..Assigned::default()
        }
    }

    #[test]
    fn a_strict_far_end_swallows_foreign_sources_as_providers_do() {
        let (transport, far) = memory_transport(4, 1420);
        far.up(assigned("10.5.0.2/16"));
        far.strict_source(true);
        let drops = &mut DropCounters::default();
        let foreign = build::udp("10.5.0.3:1", "192.0.2.1:2", b"x");
        assert_eq!(send(&transport, &foreign, drops), 1);
        assert!(far.take().is_none());
        assert_eq!(far.rejected(), 1);
        let own = build::udp("10.5.0.2:1", "192.0.2.1:2", b"x");
        assert_eq!(send(&transport, &own, drops), 1);
        assert_eq!(far.take().unwrap().bytes(), own);
        assert_eq!(drops.total(), 0);
    }

    #[test]
    fn a_tunnel_without_offload_cuts_super_packets() {
        let (transport, far) = memory_transport(8, 1420);
        far.up(assigned("10.5.0.2/16"));
        let whole = build::super_tcp("10.5.0.2:1", "192.0.2.1:2", 0x10, 1, 1000, &[7; 2500]);
        let mut batch = PacketBatch::new(1, 1500);
        assert!(batch.push(whole).is_ok());
        let drops = &mut DropCounters::default();
        assert_eq!(transport.try_send(&mut batch, drops).unwrap(), 1);
        for payload in [1000, 1000, 500] {
            let segment = far.take().unwrap();
            assert_eq!(segment.len(), 40 + payload);
            crate::testing::verify_checksums(segment.bytes()).unwrap();
        }
        assert!(far.take().is_none());
        assert_eq!(far.overflowed(), 0);
    }

    #[test]
    fn segments_that_find_the_queue_full_are_counted() {
        let (transport, far) = memory_transport(2, 1420);
        far.up(assigned("10.5.0.2/16"));
        let whole = build::super_tcp("10.5.0.2:1", "192.0.2.1:2", 0x10, 1, 1000, &[7; 4500]);
        let mut batch = PacketBatch::new(1, 1500);
        assert!(batch.push(whole).is_ok());
        let drops = &mut DropCounters::default();
        assert_eq!(transport.try_send(&mut batch, drops).unwrap(), 1);
        let arrived = std::iter::from_fn(|| far.take()).count();
        assert_eq!((arrived, far.overflowed()), (2, 3));
    }

    #[test]
    fn packets_without_a_session_are_counted() {
        let (transport, far) = memory_transport(4, 1420);
        let drops = &mut DropCounters::default();
        let packet = build::udp("10.5.0.2:1", "192.0.2.1:2", b"x");
        assert_eq!(send(&transport, &packet, drops), 0);
        far.up(assigned("10.5.0.2/16"));
        far.down(DownCause::NoAnswer);
        assert_eq!(send(&transport, &packet, drops), 0);
        assert_eq!(drops.get(DropReason::NoSession), 2);
    }

    #[tokio::test]
    async fn close_is_final_and_wakes_both_ends() {
        let (transport, far) = memory_transport(4, 1420);
        let mut state = transport.state();
        assert_eq!(state.next().await, TransportState::Connecting);
        transport.close().await;
        transport.close().await;
        assert_eq!(state.next().await, TransportState::Closed);
        assert!(far.is_closed());
        assert!(far.take_wait().await.is_none());
        assert!(matches!(
            transport.readable().await,
            Err(TransportError::Closed)
        ));
    }
}
