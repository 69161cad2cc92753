//! Two pools and a network between them, on virtual time and from a seed: it delays, splits, stalls,
//! cuts, and lets late bytes come out.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use vpn_core::metrics::Snapshot;
use vpn_core::packet::PacketBatch;
use vpn_core::testing::build;
use vpn_core::{NetworkEvent, Packet, Parsed};
use vpn_p2p::streams::frame::{Control, Frame, decode};
use vpn_p2p::streams::pool::{Action, Offer};
use vpn_p2p::streams::{Budget, Fault, Pool, PoolConfig, Session, StreamId};
use vpn_resilience::BreakerState;

/// A pool whose breaker is open: the peer could not be reached. And what time it is then.
pub(crate) fn dialled_in_vain() -> (Pool, Instant) {
    let (mut now, budget) = (Instant::now(), Budget::new(1 << 20));
    let mut pool = Pool::new(PoolConfig::default(), true, Session(1), budget, now).unwrap();
    while !matches!(pool.status().breaker, BreakerState::Open { .. }) {
        while let Some(action) = pool.take_action() {
            if let Action::Open(id) = action {
                pool.ended(now, id, &Fault::Io("no way".to_owned()));
            }
        }
        now = pool.poll_timeout().unwrap();
        pool.handle_timeout(now);
    }
    (pool, now)
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Bytes from one end of a stream to the other.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// The writer closed: after these bytes it ends.
    closed: bool,
    /// The reader is gone: what is written vanishes.
    deaf: bool,
    /// What the reader has not made frames of.
    read: BytesMut,
}

/// One stream. Direction 0 is from side 0 to side 1.
struct Wire {
    /// As side 0 names it.
    id: StreamId,
    pipes: [Pipe; 2],
    /// Nothing moves before this.
    stalled: Instant,
    /// Which ends are gone.
    over: [bool; 2],
    /// Side 1 has read its `Hello`.
    greeted: bool,
}

pub(crate) const SIDES: usize = 2;

/// How much the network between them misbehaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Per thousand steps: streams that are cut.
    pub(crate) cuts: u64,
    /// Per thousand steps: streams that stop moving for up to half a minute.
    pub(crate) stalls: u64,
    /// Percent of attempts that fail.
    pub(crate) refusals: u64,
}

pub(crate) const FAIR: Weather = Weather {
    cuts: 0,
    stalls: 0,
    refusals: 0,
};

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) pools: [Pool; SIDES],
    wires: Vec<Wire>,
    pub(crate) random: Random,
    pub(crate) weather: Weather,
    frozen: Instant,
    /// Bytes a wire holds per direction.
    pub(crate) capacity: usize,
    /// Per side and connection: numbers sent, and the last that arrived there.
    next: [BTreeMap<u16, u32>; SIDES],
    last: [BTreeMap<u16, u32>; SIDES],
    pub(crate) arrived: [u64; SIDES],
    pub(crate) most_streams: usize,
}

impl World {
    pub(crate) fn new(seed: u64, config: &PoolConfig) -> Self {
        let now = Instant::now();
        let pool = |opens, session| {
            let budget = Budget::new(64 << 20);
            Pool::new(config.clone(), opens, Session(session), budget, now).unwrap()
        };
        Self {
            now,
            pools: [pool(true, 1), pool(false, 2)],
            wires: Vec::new(),
            random: Random(seed),
            weather: FAIR,
            frozen: now,
            capacity: 32 * 1024,
            next: Default::default(),
            last: Default::default(),
            arrived: [0; SIDES],
            most_streams: 0,
        }
    }

    /// Offers the next packet of a connection; whether it was taken or dropped.
    pub(crate) fn send(&mut self, side: usize, connection: u16, length: usize) -> Offer {
        let number = self.next[side].entry(connection).or_default();
        let mut payload = vec![0; length.max(4)];
        payload[..4].copy_from_slice(&(*number + 1).to_be_bytes());
        let from = format!("10.5.0.2:{}", 1000 + connection);
        let packet = build::udp(&*from, "203.0.113.10:7", &payload);
        let mut packet = Packet::from_slice(&packet);
        let offer = self.pools[side].offer(self.now, &mut packet);
        if offer != Offer::Full {
            *number += 1;
        }
        self.pools[side].weigh(self.now);
        offer
    }

    fn wire(&mut self, side: usize, id: StreamId) -> Option<&mut Wire> {
        let id = if side == 0 { id } else { id.mirrored() };
        self.wires.iter_mut().find(|wire| wire.id == id)
    }

    fn close_end(&mut self, side: usize, id: StreamId) {
        if let Some(wire) = self.wire(side, id) {
            wire.over[side] = true;
            wire.pipes[side].closed = true;
            wire.pipes[1 - side].deaf = true;
            wire.pipes[1 - side].bytes.clear();
        }
    }

    fn act(&mut self, side: usize) {
        while let Some(action) = self.pools[side].take_action() {
            match action {
                Action::Close(id) => self.close_end(side, id),
                Action::Open(id) if self.random.chance(self.weather.refusals) => {
                    let fault = Fault::Io("no way".to_owned());
                    self.pools[side].ended(self.now, id, &fault);
                }
                Action::Open(id) => {
                    assert_eq!(side, 0, "only one side opens");
                    self.wires.push(Wire {
                        id,
                        pipes: Default::default(),
                        stalled: self.now,
                        over: [false; 2],
                        greeted: false,
                    });
                    self.pools[side].opened(id);
                }
            }
        }
    }

    /// Writes what a pool has for a wire, as far as that has room.
    fn write(&mut self, side: usize, at: usize) {
        let wire = &mut self.wires[at];
        let pipe = &mut wire.pipes[side];
        let room = self.capacity.saturating_sub(pipe.bytes.len());
        if room == 0 || pipe.closed || (side == 1 && !wire.greeted) {
            return;
        }
        let id = if side == 0 {
            wire.id
        } else {
            wire.id.mirrored()
        };
        let mut out = Vec::new();
        let most = 1 + self.random.below(room as u64) as usize;
        self.pools[side].next_write(self.now, id, most, &mut out);
        for frame in out {
            if !pipe.deaf {
                pipe.bytes.extend(frame.bytes());
            }
        }
    }

    /// Lets a random part of what is on the wire arrive.
    fn read(&mut self, side: usize, at: usize) {
        if !self.pools[side].takes_more() {
            return;
        }
        let random = self.random.next();
        let wire = &mut self.wires[at];
        let (id, pipe) = (wire.id, &mut wire.pipes[1 - side]);
        if wire.over[side] {
            return;
        }
        let count = (random as usize % (pipe.bytes.len() + 1)).max(pipe.bytes.len().min(1));
        pipe.read.extend(pipe.bytes.drain(..count));
        let ends = pipe.closed && pipe.bytes.is_empty();
        let id = if side == 0 { id } else { id.mirrored() };
        let mut fault = None;
        while fault.is_none() {
            match decode(&mut self.wires[at].pipes[1 - side].read) {
                Ok(Some(frame)) => fault = self.frame(side, at, id, frame).err(),
                Ok(None) => break,
                Err(error) => panic!("{error}"),
            }
        }
        if let Some(fault) = fault.or(ends.then_some(Fault::Ended)) {
            assert!(!matches!(fault, Fault::Protocol(_)), "{fault}");
            self.pools[side].ended(self.now, id, &fault);
            self.close_end(side, id);
        }
    }

    fn frame(&mut self, side: usize, at: usize, id: StreamId, frame: Frame) -> Result<(), Fault> {
        if side == 1 && !self.wires[at].greeted {
            let Frame::Control(Control::Hello {
                session,
                number,
                purpose,
            }) = frame
            else {
                panic!("no greeting first: {frame:?}");
            };
            self.wires[at].greeted = true;
            let accepted = self.pools[1].accepted(self.now, session, number, purpose);
            match accepted {
                Ok(named) => assert_eq!(named, id),
                Err(fault) => return Err(Fault::Io(fault.to_string())),
            }
            return Ok(());
        }
        self.pools[side].received(self.now, id, frame)
    }

    /// Takes what arrived: within a connection every number is higher than the one before.
    fn take(&mut self, side: usize) {
        let mut batch = PacketBatch::new(64, 2048);
        self.pools[side].take(&mut batch);
        for packet in batch.packets() {
            let parsed = Parsed::from_bytes(packet.bytes()).unwrap();
            let payload = &packet.bytes()[usize::from(parsed.payload)..];
            let number = u32::from_be_bytes(payload[..4].try_into().unwrap());
            let connection = parsed.flow.src_port() - 1000;
            let last = self.last[side].entry(connection).or_default();
            assert!(
                number > *last,
                "connection {connection}: {number} came after {last}"
            );
            *last = number;
            self.arrived[side] += 1;
        }
    }

    /// Nothing moves for so long, on any stream there is or will be opened.
    pub(crate) fn freeze(&mut self, time: Duration) {
        self.frozen = self.now + time;
    }

    fn spoil(&mut self) {
        if self.wires.is_empty() {
            return;
        }
        if self.weather.cuts > 0 && self.random.below(2000) == 0 {
            // Now and then the end that opens streams finds itself on another network.
            self.pools[0].network_changed(self.now, NetworkEvent::Changed);
        }
        let at = self.random.below(self.wires.len() as u64) as usize;
        if self.random.below(1000) < self.weather.cuts {
            for side in 0..SIDES {
                // What was on its way arrives in part, and then both ends see it, when they look.
                let left = self.wires[at].pipes[side].bytes.len() as u64;
                let kept = self.random.below(left + 1) as usize;
                let pipe = &mut self.wires[at].pipes[side];
                pipe.bytes.truncate(kept);
                pipe.closed = true;
            }
        } else if self.random.below(1000) < self.weather.stalls {
            let millis = self.random.below(30_000);
            self.wires[at].stalled = self.now + Duration::from_millis(millis);
        }
    }

    /// Some things happen, in a random order.
    pub(crate) fn step(&mut self, by: Duration) {
        self.now += by;
        self.spoil();
        for side in 0..SIDES {
            if self.pools[side]
                .poll_timeout()
                .is_some_and(|at| at <= self.now)
            {
                self.pools[side].handle_timeout(self.now);
            }
            self.act(side);
        }
        for _ in 0..self.wires.len() * 2 {
            let at = self.random.below(self.wires.len() as u64) as usize;
            let side = self.random.below(2) as usize;
            if self.wires[at].stalled.max(self.frozen) > self.now {
                continue;
            }
            if self.random.chance(50) {
                self.write(side, at);
            } else {
                self.read(side, at);
            }
            self.act(0);
            self.act(1);
        }
        for side in 0..SIDES {
            if self.random.chance(60) {
                self.take(side);
            }
            let status = self.pools[side].status();
            self.most_streams = self.most_streams.max(status.streams);
            let counters = &status.counters;
            let gone = counters.delivered.packets + counters.drops.total();
            let there = status.waiting + status.in_flight + status.uncertain;
            assert_eq!(counters.taken.packets, gone + there, "{status:?}");
        }
        self.wires.retain(|wire| wire.over != [true; 2]);
    }

    /// The network is well again: everything that can arrive does.
    pub(crate) fn settle(&mut self) {
        self.weather = FAIR;
        for _ in 0..60_000 {
            self.step(Duration::from_millis(5));
            let idle = self.pools.iter().all(|pool| {
                let status = pool.status();
                status.waiting + status.in_flight + status.uncertain == 0 && !pool.has_inbound()
            });
            if idle {
                return;
            }
        }
        panic!(
            "it does not settle: {:?}",
            self.pools.each_ref().map(Pool::status)
        );
    }

    /// What one side took is what the other got and what was lost, to the packet.
    pub(crate) fn check(&self) {
        for side in 0..SIDES {
            let counters = self.pools[side].status().counters;
            let taken = counters.taken.packets;
            assert_eq!(taken, self.arrived[1 - side] + counters.drops.total());
            assert_eq!(counters.delivered.packets, self.arrived[1 - side]);
            self.check_by_metrics(side);
        }
    }

    /// The same from the samples alone, as somebody sees it who only scrapes.
    fn check_by_metrics(&self, side: usize) {
        let mut snapshot = Snapshot::default();
        self.pools[side].status().measure("peer", &mut snapshot);
        let (mut taken, mut gone) = (0.0, 0.0);
        snapshot.visit(&mut |metric| match metric.family.name {
            "vpn_pool_packets_total" if metric.label("what") == Some("taken") => {
                taken += metric.value;
            }
            "vpn_pool_packets_total" if metric.label("what") == Some("delivered") => {
                gone += metric.value;
            }
            "vpn_pool_dropped_packets_total" | "vpn_pool_pending_packets" => gone += metric.value,
            _ => {}
        });
        assert_eq!(taken, gone);
        assert!(taken > 0.0 || self.arrived[1 - side] == 0);
    }
}
