//! A router with flows that are translated, and the packets of these flows.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vpn_core::packet::{Gso, Offload, Packet, PacketBatch, tcp_flags};
use vpn_core::testing::build;
use vpn_core::{
    Action, Assigned, DropReason, Rule, RuleId, RuleMatch, RuleSnapshot, TransportState, TunnelId,
};
use vpn_routing::router::{Egress, Router, RouterConfig, Update};
use vpn_routing::rules::{CompiledRules, RuleCache, Target};

/// The address of the applications, which is on the device.
const DEVICE: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 2);

/// What the tunnel of these flows was assigned.
pub const ASSIGNED: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 3);

/// How many flows go to one remote address; fewer than there are ports above 1,023.
const FLOWS_PER_REMOTE: u32 = 60_000;

/// The application's end of flow number `flow`.
pub fn app(flow: u32) -> (IpAddr, u16) {
    (DEVICE.into(), 1024 + (flow % FLOWS_PER_REMOTE) as u16)
}

/// The other end of flow number `flow`.
pub fn remote(flow: u32) -> (IpAddr, u16) {
    let address = Ipv4Addr::new(203, 0, 113, (flow / FLOWS_PER_REMOTE) as u8);
    (address.into(), 443)
}

/// Compiles one rule that sends everything into the tunnel `to`.
pub fn everything_to(name: &'static str, to: TunnelId) -> CompiledRules {
    let rule = Rule::new(
        RuleId(1),
        RuleMatch::default(),
        Action::Tunnel(name.to_owned()),
    );
    compile(vec![rule], to)
}

/// Compiles rules all of whose tunnels are `to`.
///
/// # Panics
///
/// With more rules than a snapshot may have: a bench that asks for them is wrong.
#[allow(clippy::panic, reason = "documented")]
pub fn compile(rules: Vec<Rule>, to: TunnelId) -> CompiledRules {
    CompiledRules::compile(
        &RuleSnapshot::from(rules),
        &|_: &str| Some(to),
        Target::Block(DropReason::BlockedByDefault),
    )
    .unwrap_or_else(|error| panic!("{error}"))
}

/// A router with established TCP flows through a tunnel that translates their source.
#[derive(Debug)]
pub struct Established {
    router: Router,
    now: Instant,
    tunnel: TunnelId,
    /// One packet of every flow, in an order the table did not see.
    packets: Vec<Vec<u8>>,
    batch: PacketBatch,
    offload: Offload,
    next: usize,
    answered: bool,
}

impl Established {
    /// Enters `flows` flows: SYN out, SYN ACK in.
    ///
    /// # Panics
    ///
    /// If a packet was not routed as it should: measuring that would mislead.
    pub fn new(flows: u32) -> Self {
        Self::with_room(flows, flows as usize + 1, 256)
    }

    /// The same with room for more flows, and for packets of so many bytes.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn with_room(flows: u32, room: usize, largest: usize) -> Self {
        let now = Instant::now();
        let config = RouterConfig {
            max_flows: room,
            max_flows_per_owner: room,
            largest_packet: largest,
            ..RouterConfig::default()
        };
        let mut router = Router::new(config, now);
        let tunnel = add_tunnel(&mut router, now);
        let batch = PacketBatch::new(PacketBatch::DEFAULT_CAPACITY, largest);
        let mut world = Self {
            router,
            now,
            tunnel,
            packets: Vec::new(),
            batch,
            offload: Offload::NONE,
            next: 0,
            answered: true,
        };
        world.enter(flows);
        world.packets = shuffled(flows).map(data).collect();
        world
    }

    /// Routes `n` packets, a batch at a time, each of the next flow, and returns how long that
    /// took. Only the router is on the clock: not the copy into pooled buffers, which stands for
    /// the device's read. Two clock reads per batch are included.
    pub fn route(&mut self, n: u64) -> Duration {
        let mut spent = Duration::ZERO;
        self.route_inside(n, |work| {
            let started = Instant::now();
            work();
            spent += started.elapsed();
        });
        spent
    }

    /// The same, with `measure` called for each batch: it calls the router's work, and nothing else
    /// is between.
    #[inline]
    pub fn route_inside(&mut self, n: u64, mut measure: impl FnMut(&mut dyn FnMut())) {
        let mut left = n;
        while left > 0 {
            let count = left.min(self.batch.capacity() as u64);
            for _ in 0..count {
                let bytes = &self.packets[self.next];
                self.next = (self.next + 1) % self.packets.len();
                let offload = self.offload;
                self.batch.push_with(|buf| {
                    buf.extend_from_slice(bytes);
                    Some(offload)
                });
            }
            let (router, batch, answered) = (&mut self.router, &mut self.batch, self.answered);
            let (now, tunnel) = (self.now, self.tunnel);
            let mut sent = Ok(0);
            measure(&mut || {
                router.handle_device(now, batch);
                sent = router.transmit::<()>(Egress::Tunnel(tunnel), |queue, _| {
                    let sent = queue.len();
                    queue.clear();
                    if answered {
                        // What an answer's way through `handle_tunnel` does.
                        batch.pool_mut().refill_from(queue.pool_mut());
                    }
                    Ok(sent)
                });
            });
            debug_assert_eq!(sent, Ok(0));
            left -= count;
        }
    }

    /// Routes `n` answers, a batch at a time, as [`route_inside`](Self::route_inside) does with
    /// what the applications send.
    pub fn answer_inside(&mut self, n: u64, mut measure: impl FnMut(&mut dyn FnMut())) {
        let mut left = n;
        while left > 0 {
            let count = left.min(self.batch.capacity() as u64);
            for _ in 0..count {
                let flow = self.next as u32;
                self.next = (self.next + 1) % self.packets.len();
                // Nothing else has these ports, so they were kept.
                let to = (ASSIGNED.into(), app(flow).1);
                self.push(&build::tcp(remote(flow), to, tcp_flags::ACK, 2, &[0; 64]));
            }
            let (router, batch) = (&mut self.router, &mut self.batch);
            let (now, tunnel) = (self.now, self.tunnel);
            let mut sent = Ok(0);
            measure(&mut || {
                router.handle_tunnel(now, tunnel, batch);
                sent = router.transmit::<()>(Egress::Device, |queue, _| {
                    let sent = queue.len();
                    queue.clear();
                    batch.pool_mut().refill_from(queue.pool_mut());
                    Ok(sent)
                });
            });
            debug_assert_eq!(sent, Ok(0));
            left -= count;
        }
    }

    /// Enters `n` further flows, a batch at a time: their first packets only.
    pub fn begin_inside(&mut self, n: u32, mut measure: impl FnMut(&mut dyn FnMut())) {
        let first = self.packets.len() as u32;
        let all: Vec<u32> = (first..first + n).collect();
        for part in all.chunks(self.batch.capacity()) {
            for &flow in part {
                self.push(&build::tcp(app(flow), remote(flow), tcp_flags::SYN, 1, &[]));
            }
            let (router, batch) = (&mut self.router, &mut self.batch);
            let (now, tunnel) = (self.now, self.tunnel);
            let mut sent = 0;
            measure(&mut || {
                router.handle_device(now, batch);
                let _ = router.transmit::<()>(Egress::Tunnel(tunnel), |queue, _| {
                    sent = queue.len();
                    queue.clear();
                    batch.pool_mut().refill_from(queue.pool_mut());
                    Ok(sent)
                });
            });
            assert_eq!(sent, part.len(), "{:?}", self.router.accounts());
        }
    }

    /// Makes every packet a super-packet of so many bytes of payload, in segments of 1,368.
    #[must_use]
    pub fn with_super_packets(mut self, payload: usize) -> Self {
        let flows = self.packets.len() as u32;
        let (ack, payload) = (tcp_flags::ACK, vec![0; payload]);
        self.packets = shuffled(flows)
            .map(|flow| build::tcp(app(flow), remote(flow), ack, 2, &payload))
            .collect();
        self.offload = Offload {
            gso: Some(Gso { size: 1368 }),
            partial_checksum: true,
        };
        self
    }

    /// Whether the flows are answered, so that buffers come back with the answers. True at first.
    pub fn set_answered(&mut self, answered: bool) {
        self.answered = answered;
    }

    /// Packets that were not forwarded; 0 unless something is wrong.
    pub fn dropped(&self) -> u64 {
        self.router.accounts().drops.total()
    }

    fn enter(&mut self, flows: u32) {
        let (syn, ack) = (tcp_flags::SYN, tcp_flags::ACK);
        let all: Vec<u32> = (0..flows).collect();
        for part in all.chunks(self.batch.capacity()) {
            for &flow in part {
                self.push(&build::tcp(app(flow), remote(flow), syn, 1, &[]));
            }
            self.router.handle_device(self.now, &mut self.batch);
            let mut wire = self.drain(Egress::Tunnel(self.tunnel));
            assert_eq!(wire.len(), part.len(), "{:?}", self.router.accounts());
            for packet in &mut wire {
                if let Ok(parsed) = packet.parse() {
                    let back = parsed.flow.reversed();
                    let (from, to) = ((back.src(), back.src_port()), (back.dst(), back.dst_port()));
                    self.push(&build::tcp(from, to, syn | ack, 1, &[]));
                }
            }
            self.router
                .handle_tunnel(self.now, self.tunnel, &mut self.batch);
            assert_eq!(self.drain(Egress::Device).len(), part.len());
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        assert!(self.batch.push(Packet::from_slice(bytes)).is_ok());
    }

    fn drain(&mut self, from: Egress) -> Vec<Packet> {
        let mut packets = Vec::new();
        let _ = self.router.transmit::<()>(from, |queue, _| {
            packets.extend(queue.drain());
            Ok(packets.len())
        });
        packets
    }
}

/// The flows in an order that jumps about, each once.
pub fn shuffled(flows: u32) -> impl Iterator<Item = u32> {
    let flows = u64::from(flows);
    // A prime that divides no number of flows used here visits every flow.
    (0..flows).map(move |i| (i * 1_000_003 % flows) as u32)
}

/// A packet of an established flow as its application sends it, 64 bytes of payload.
pub fn data(flow: u32) -> Vec<u8> {
    build::tcp(app(flow), remote(flow), tcp_flags::ACK, 2, &[0; 64])
}

fn add_tunnel(router: &mut Router, now: Instant) -> TunnelId {
    let Some(tunnel) = router.add_tunnel("provider") else {
        return TunnelId::new(0);
    };
    let assigned = Assigned {
        addresses: vec![ipnet::Ipv4Net::from(ASSIGNED).into()],
        mtu: 1420,
        ..Assigned::default()
    };
    router.handle_update(
        now,
        Update::Tunnel(tunnel, TransportState::Up(Arc::new(assigned))),
    );
    let cache = RuleCache::new();
    cache.swap(everything_to("provider", tunnel));
    router.handle_update(now, Update::Rules(cache.current()));
    while router.next_event().is_some() {}
    tunnel
}
