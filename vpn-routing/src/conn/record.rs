//! One flow in memory: a cache line for IPv4, two for IPv6, and nothing beside it.
//!
//! What finds and admits an outbound packet is in the first line, in the order it is asked for.
//! What only some protocols have shares its place, and what follows from something else (the
//! owner from the account, the change of checksums from both keys) is not kept.

use std::fmt::Debug;

use vpn_core::packet::{Message, TcpMarks, tcp_flags};
use vpn_core::{FlowKey, Generation, Protocol, RuleId, TunnelId};

use super::{Conn, DnsFlow, Origin, Phase, Socket, Stamp, UsageSlot};
use crate::nat::MappingId;

/// Source and destination address of one family.
pub(crate) trait Addresses: Copy + Debug + Eq {
    /// Those of a key of this family.
    fn of(key: &FlowKey) -> Self;

    /// The key with these addresses and [ports](FlowKey::ports).
    fn key(self, protocol: Protocol, ports: u32) -> FlowKey;
}

/// Two IPv4 addresses, the source in the high half.
pub(crate) type V4 = u64;

/// Two IPv6 addresses in halves, the source first.
pub(crate) type V6 = [u64; 4];

impl Addresses for V4 {
    #[inline(always)]
    fn of(key: &FlowKey) -> Self {
        let (src, dst) = key.numbers();
        u64::from(src as u32) << 32 | u64::from(dst as u32)
    }

    #[inline(always)]
    fn key(self, protocol: Protocol, ports: u32) -> FlowKey {
        let (src, dst) = ((self >> 32) as u32, self as u32);
        FlowKey::v4(protocol, (src, (ports >> 16) as u16), (dst, ports as u16))
    }
}

impl Addresses for V6 {
    #[inline(always)]
    fn of(key: &FlowKey) -> Self {
        let (src, dst) = key.numbers();
        [
            (src >> 64) as u64,
            src as u64,
            (dst >> 64) as u64,
            dst as u64,
        ]
    }

    #[inline(always)]
    fn key(self, protocol: Protocol, ports: u32) -> FlowKey {
        let number = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        let (src, dst) = (number(self[0], self[1]), number(self[2], self[3]));
        FlowKey::v6(protocol, (src, (ports >> 16) as u16), (dst, ports as u16))
    }
}

/// A flow, or a free place.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Record<A> {
    device: A,
    device_ports: u32,
    wire_ports: u32,
    generation: Generation,
    last_seen: Stamp,
    last_outbound: Stamp,
    tunnel: TunnelId,
    protocol: Protocol,
    state: State,
    /// Of a free place: the next one.
    usage: UsageSlot,
    socket: Socket,
    /// TCP: its marks. Others: the mapping.
    marks: [u32; 2],
    /// If the state says that there is one.
    rule: RuleId,
    wire: A,
}

const _: () = assert!(size_of::<Record<V4>>() == 64 && size_of::<Record<V6>>() == 128);

/// No mapping, no next free place.
const NONE: u32 = u32::MAX;

impl<A: Addresses> Record<A> {
    pub(super) fn new(conn: &Conn) -> Self {
        let mut record = Self {
            device: A::of(&conn.device),
            device_ports: conn.device.ports(),
            wire_ports: conn.wire.ports(),
            generation: conn.generation,
            last_seen: conn.last_seen,
            last_outbound: conn.last_outbound,
            tunnel: conn.tunnel,
            protocol: conn.device.protocol(),
            state: State::FREE,
            usage: conn.usage,
            socket: conn.socket,
            marks: [NONE; 2],
            rule: RuleId(0),
            wire: A::of(&conn.wire),
        };
        record.change(conn);
        record
    }

    /// Takes over what changes while a flow lives: not its keys, nor its tunnel.
    pub(super) fn change(&mut self, conn: &Conn) {
        self.generation = conn.generation;
        self.last_seen = conn.last_seen;
        self.last_outbound = conn.last_outbound;
        self.state = State::new(conn);
        self.usage = conn.usage;
        self.socket = conn.socket;
        self.marks = match conn.mapping {
            _ if self.protocol == Protocol::TCP => [conn.marks.next, conn.marks.acknowledged],
            Some(mapping) => [mapping.index(), NONE],
            None => [NONE; 2],
        };
        self.rule = conn.rule.unwrap_or(RuleId(0));
    }

    /// The flow; `None` if the place is free.
    pub(super) fn conn(&self) -> Option<Conn> {
        let phase = self.phase()?;
        let is_tcp = self.protocol == Protocol::TCP;
        let [first, second] = self.marks;
        Some(Conn {
            device: self.device(),
            wire: self.wire(),
            tunnel: self.tunnel,
            generation: self.generation,
            phase,
            last_seen: self.last_seen,
            last_outbound: self.last_outbound,
            answered: self.state.is_answered(),
            dns: self.state.dns(),
            origin: self.state.origin(),
            marks: match is_tcp {
                true => TcpMarks {
                    next: first,
                    acknowledged: second,
                },
                false => TcpMarks::default(),
            },
            rule: self.state.has_rule().then_some(self.rule),
            socket: self.socket,
            usage: self.usage,
            mapping: (!is_tcp && first != NONE).then(|| MappingId::new(first)),
        })
    }

    /// Leaves a free place, which another one follows.
    pub(super) fn free(&mut self, next: Option<u32>) {
        self.state = State::FREE;
        self.usage = UsageSlot(next.unwrap_or(NONE));
    }

    /// The free place that follows this one.
    pub(super) fn next_free(&self) -> Option<u32> {
        Some(self.usage.0).filter(|&next| next != NONE)
    }

    #[inline(always)]
    pub(super) fn is_device(&self, key: &FlowKey) -> bool {
        self.device == A::of(key)
            && self.device_ports == key.ports()
            && self.protocol == key.protocol()
    }

    #[inline(always)]
    pub(super) fn is_wire(&self, tunnel: TunnelId, key: &FlowKey) -> bool {
        self.wire == A::of(key)
            && self.wire_ports == key.ports()
            && self.protocol == key.protocol()
            && self.tunnel == tunnel
    }

    /// As the application's socket has it.
    #[inline(always)]
    pub(crate) fn device(&self) -> FlowKey {
        self.device.key(self.protocol, self.device_ports)
    }

    /// As the tunnel carries it, outbound.
    #[inline(always)]
    pub(crate) fn wire(&self) -> FlowKey {
        self.wire.key(self.protocol, self.wire_ports)
    }

    #[inline(always)]
    pub(crate) const fn tunnel(&self) -> TunnelId {
        self.tunnel
    }

    #[inline(always)]
    pub(crate) const fn generation(&self) -> Generation {
        self.generation
    }

    #[inline(always)]
    pub(crate) const fn last_outbound(&self) -> Stamp {
        self.last_outbound
    }

    #[inline(always)]
    pub(super) const fn last_seen(&self) -> Stamp {
        self.last_seen
    }

    #[inline(always)]
    pub(crate) const fn usage(&self) -> UsageSlot {
        self.usage
    }

    #[inline(always)]
    pub(crate) const fn state(&self) -> State {
        self.state
    }

    /// `None`: the place is free.
    #[inline(always)]
    pub(super) fn phase(&self) -> Option<Phase> {
        self.state.phase()
    }

    /// A packet went out.
    #[inline(always)]
    pub(crate) fn saw_outbound(&mut self, now: Stamp, message: Message) {
        self.last_seen = now;
        self.last_outbound = now;
        self.state = self.state.after(message, false);
    }

    /// An answer came in.
    #[inline(always)]
    pub(crate) fn saw_inbound(&mut self, now: Stamp, message: Message) {
        self.last_seen = now;
        self.state = self.state.after(message, true).answered();
    }

    /// A packet went out that changes nothing but the time.
    #[inline(always)]
    pub(crate) const fn sent(&mut self, now: Stamp) {
        self.last_seen = now;
        self.last_outbound = now;
    }

    /// An answer came in that changes nothing but the time.
    #[inline(always)]
    pub(crate) const fn received(&mut self, now: Stamp) {
        self.last_seen = now;
        self.state = self.state.answered();
    }

    /// Where the sender of outbound segments stands; of TCP only.
    #[inline(always)]
    pub(crate) const fn mark(&mut self, marks: TcpMarks) {
        self.marks = [marks.next, marks.acknowledged];
    }
}

/// Phase, origin and flags of a flow in one byte.
///
/// Four bits of phase, 0 for a free place; two of origin and DNS, which only what began here can
/// be; one each for an answer and a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State(u8);

impl State {
    const FREE: Self = Self(0);
    const PHASE: u8 = 0x0f;
    const KIND: u8 = 0x30;
    const CHOSEN: u8 = 0x10;
    const STEERED: u8 = 0x20;
    const GUEST: u8 = 0x30;
    const ANSWERED: u8 = 0x40;
    const RULE: u8 = 0x80;

    #[inline(always)]
    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    const fn new(conn: &Conn) -> Self {
        let kind = match (conn.origin, conn.dns) {
            (Origin::Tunnel, _) => Self::GUEST,
            (Origin::Device, DnsFlow::No) => 0,
            (Origin::Device, DnsFlow::Chosen) => Self::CHOSEN,
            (Origin::Device, DnsFlow::Steered) => Self::STEERED,
        };
        let answered = if conn.answered { Self::ANSWERED } else { 0 };
        let rule = if conn.rule.is_some() { Self::RULE } else { 0 };
        Self((conn.phase as u8 + 1) | kind | answered | rule)
    }

    #[inline(always)]
    pub(crate) fn phase(self) -> Option<Phase> {
        match (self.0 & Self::PHASE).checked_sub(1) {
            Some(number) => Phase::ALL.get(number as usize).copied(),
            None => None,
        }
    }

    /// A TCP connection that both sides use.
    #[inline(always)]
    pub(crate) const fn is_established(self) -> bool {
        self.0 & Self::PHASE == Phase::TcpEstablished as u8 + 1
    }

    /// UDP that began here and is no DNS.
    #[inline(always)]
    pub(crate) const fn is_plain_udp(self) -> bool {
        self.0 & (Self::PHASE | Self::KIND) == Phase::Udp as u8 + 1
    }

    #[inline(always)]
    pub(crate) const fn origin(self) -> Origin {
        match self.0 & Self::KIND {
            Self::GUEST => Origin::Tunnel,
            _ => Origin::Device,
        }
    }

    #[inline(always)]
    pub(crate) const fn dns(self) -> DnsFlow {
        match self.0 & Self::KIND {
            Self::CHOSEN => DnsFlow::Chosen,
            Self::STEERED => DnsFlow::Steered,
            _ => DnsFlow::No,
        }
    }

    #[inline(always)]
    const fn is_answered(self) -> bool {
        self.0 & Self::ANSWERED != 0
    }

    #[inline(always)]
    const fn has_rule(self) -> bool {
        self.0 & Self::RULE != 0
    }

    #[inline(always)]
    const fn answered(self) -> Self {
        Self(self.0 | Self::ANSWERED)
    }

    /// After a message of either direction.
    #[inline(always)]
    fn after(self, message: Message, inbound: bool) -> Self {
        // The usual way: as `Phase::after`, without a look at the phase.
        if let Message::Tcp(flags) = message
            && self.is_established()
            && flags & (tcp_flags::FIN | tcp_flags::RST) == 0
        {
            return self;
        }
        match self.phase() {
            Some(phase) => {
                let phase = phase.after(message, inbound);
                Self((self.0 & !Self::PHASE) | (phase as u8 + 1))
            }
            None => self,
        }
    }
}
