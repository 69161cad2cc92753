//! Packets of users: who sends whom how often, and what arrived.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use vpn_core::Packet;

use super::queue::Event;
use super::{At, World, node};
use crate::mesh::member::{Outlet, Wire};

/// Bytes of an IPv4 header without options (RFC 791 §3.1).
const HEADER: usize = 20;

/// Bytes of a packet: a small one, of a call or a game.
const PACKET: usize = 120;

/// Packets from one member to another, and what became of them.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    every: Duration,
    until: Instant,
    /// Packets given to the sending member.
    pub sent: u64,
    /// Packets that the receiving member gave out.
    pub received: u64,
    /// The longest time between two of them, and from the beginning to the first.
    pub gap: Duration,
    last: Instant,
}

impl World {
    /// One packet.
    pub fn send(&mut self, from: At, to: At) {
        let now = self.now();
        self.flow(from, to, Duration::MAX, now);
        self.packet(from, to);
    }

    /// A packet every `every`, for so long.
    pub fn start_flow(&mut self, from: At, to: At, every: Duration, time: Duration) {
        let now = self.now();
        self.flow(from, to, every, now + time);
        self.queue.push(now, Event::Packet { from, to });
    }

    /// What became of the packets from one to the other. Gaps are counted anew from now on.
    pub fn flow_of(&mut self, from: At, to: At) -> Flow {
        let now = self.now();
        let flow = self.flow(from, to, Duration::MAX, now);
        let mut seen = *flow;
        seen.gap = seen.gap.max(now - flow.last);
        (flow.gap, flow.last) = (Duration::ZERO, now);
        seen
    }

    fn flow(&mut self, from: At, to: At, every: Duration, until: Instant) -> &mut Flow {
        let now = self.now();
        let flow = self.flows.entry((from, to)).or_insert(Flow {
            every,
            until,
            sent: 0,
            received: 0,
            gap: Duration::ZERO,
            last: now,
        });
        if every != Duration::MAX {
            (flow.every, flow.until) = (every, until);
        }
        flow
    }

    pub(super) fn packet_due(&mut self, from: At, to: At) {
        let now = self.now();
        let Some(flow) = self.flows.get(&(from, to)).copied() else {
            return;
        };
        if now >= flow.until {
            return;
        }
        self.packet(from, to);
        self.queue
            .push(now + flow.every, Event::Packet { from, to });
    }

    fn packet(&mut self, from: At, to: At) {
        let now = self.now();
        let mut bytes = [0; PACKET];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&(PACKET as u16).to_be_bytes());
        bytes[8] = 64;
        // A protocol for experiments (RFC 3692).
        bytes[9] = 253;
        bytes[12..16].copy_from_slice(&node::address(from).octets());
        bytes[16..HEADER].copy_from_slice(&node::address(to).octets());
        let packet = Packet::from_slice(&bytes);
        if let Some(flow) = self.flows.get_mut(&(from, to)) {
            flow.sent += 1;
        }
        let opened = self.with(from, |member| {
            let Outlet::Open(slot, way, wire) = member.outlet(&packet, now) else {
                return None;
            };
            let mut out = Vec::new();
            let plain = BytesMut::from(packet.bytes());
            if !member.seal(slot, &wire, plain, &mut out) {
                return None;
            }
            member.sent(slot, way, 1, packet.len() as u64, now);
            Some((wire, out))
        });
        match opened.flatten() {
            Some((Wire::Direct(to) | Wire::Relay(to, _), out)) => self.send_udp(from, to, &out),
            Some((Wire::Stream(hub, ..), out)) => self.send_stream(from, hub, &out),
            None => {}
        }
    }

    pub(super) fn packet_arrived(&mut self, at: At, packet: &[u8]) {
        let now = self.now();
        let source = packet.get(12..16).and_then(<[u8]>::first_chunk);
        let Some(source) = source.map(|source: &[u8; 4]| Ipv4Addr::from(*source)) else {
            return;
        };
        let from = At((source.to_bits() - node::address(At(0)).to_bits()) as usize);
        if let Some(flow) = self.flows.get_mut(&(from, at)) {
            flow.received += 1;
            flow.gap = flow.gap.max(now - flow.last);
            flow.last = now;
        }
    }
}
