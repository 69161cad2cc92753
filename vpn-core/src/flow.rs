//! Who talks to whom: protocol, addresses and ports of a flow.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);

    /// ICMP or ICMPv6.
    pub const fn is_icmp(self) -> bool {
        self.0 == Self::ICMP.0 || self.0 == Self::ICMPV6.0
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.write_str("icmp"),
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self::ICMPV6 => f.write_str("icmpv6"),
            Self(n) => write!(f, "proto-{n}"),
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        })
    }
}

const META_V6: u64 = 1 << 40;

/// One direction of a flow: protocol, both addresses, both ports.
///
/// For an ICMP echo the identifier stands in the port of the side that asked, and the other port
/// is 0, so that [`reversed`](Self::reversed) of the request is the key of its reply. For every
/// other message without ports both are 0. Protocol and family are part of the key: TCP and UDP
/// on one port are two flows.
///
/// Forty bytes without padding; equality touches five words, the hash two or five.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowKey {
    src: [u64; 2],
    dst: [u64; 2],
    /// `family << 40 | protocol << 32 | src_port << 16 | dst_port`
    meta: u64,
}

impl FlowKey {
    /// The key of a flow from `src` to `dst`.
    ///
    /// The addresses must be of one family; IPv4-mapped IPv6 addresses stay IPv6.
    #[inline]
    pub fn new(protocol: Protocol, src: (IpAddr, u16), dst: (IpAddr, u16)) -> Self {
        let v6 = if src.0.is_ipv6() { META_V6 } else { 0 };
        Self {
            src: words(src.0),
            dst: words(dst.0),
            meta: v6 | meta(protocol, src.1, dst.1),
        }
    }

    /// As [`new`](Self::new), from IPv4 addresses as numbers.
    #[inline]
    pub const fn v4(protocol: Protocol, src: (u32, u16), dst: (u32, u16)) -> Self {
        Self {
            src: [0, src.0 as u64],
            dst: [0, dst.0 as u64],
            meta: meta(protocol, src.1, dst.1),
        }
    }

    /// As [`new`](Self::new), from IPv6 addresses as numbers.
    #[inline]
    pub const fn v6(protocol: Protocol, src: (u128, u16), dst: (u128, u16)) -> Self {
        Self {
            src: halves(src.0),
            dst: halves(dst.0),
            meta: META_V6 | meta(protocol, src.1, dst.1),
        }
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> IpAddr {
        self.addr(self.src)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> IpAddr {
        self.addr(self.dst)
    }

    /// Source port, or the identifier of an echo request.
    #[inline]
    pub const fn src_port(&self) -> u16 {
        (self.meta >> 16) as u16
    }

    /// Destination port, or the identifier of an echo reply.
    #[inline]
    pub const fn dst_port(&self) -> u16 {
        self.meta as u16
    }

    /// Source and destination address as numbers; those of IPv4 are below 2^32.
    #[inline]
    pub const fn numbers(&self) -> (u128, u128) {
        (number(self.src), number(self.dst))
    }

    /// Source port and destination port, the first in the high half.
    #[inline]
    pub const fn ports(&self) -> u32 {
        self.meta as u32
    }

    /// Protocol.
    #[inline]
    pub const fn protocol(&self) -> Protocol {
        Protocol((self.meta >> 32) as u8)
    }

    /// Address family.
    #[inline]
    pub const fn family(&self) -> Family {
        if self.meta & META_V6 == 0 {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// The same flow seen from the other end.
    #[inline]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        let ports = (self.meta & 0xffff) << 16 | (self.meta >> 16) & 0xffff;
        Self {
            src: self.dst,
            dst: self.src,
            meta: self.meta & !0xffff_ffff | ports,
        }
    }

    /// The same key with another source.
    #[must_use]
    #[inline]
    pub fn with_source(&self, addr: IpAddr, port: u16) -> Self {
        Self::new(self.protocol(), (addr, port), (self.dst(), self.dst_port()))
    }

    /// The same key with another destination.
    #[must_use]
    #[inline]
    pub fn with_destination(&self, addr: IpAddr, port: u16) -> Self {
        Self::new(self.protocol(), (self.src(), self.src_port()), (addr, port))
    }

    #[inline]
    fn addr(&self, words: [u64; 2]) -> IpAddr {
        match self.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(words[1] as u32)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number(words))),
        }
    }
}

impl std::hash::Hash for FlowKey {
    /// Two words of an IPv4 flow, five of an IPv6 flow. Derived, each address would hash as a
    /// slice: its length first, then its bytes.
    ///
    /// Always inlined, and both ways to their ends: only then is a hasher's state in registers.
    #[inline(always)]
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        if self.meta & META_V6 == 0 {
            state.write_u64(self.src[1] << 32 | self.dst[1]);
            state.write_u64(self.meta);
        } else {
            state.write_u64(self.src[0]);
            state.write_u64(self.src[1]);
            state.write_u64(self.dst[0]);
            state.write_u64(self.dst[1]);
            state.write_u64(self.meta);
        }
    }
}

#[inline]
const fn meta(protocol: Protocol, src_port: u16, dst_port: u16) -> u64 {
    (protocol.0 as u64) << 32 | (src_port as u64) << 16 | dst_port as u64
}

#[inline]
fn words(addr: IpAddr) -> [u64; 2] {
    match addr {
        IpAddr::V4(a) => [0, u64::from(a.to_bits())],
        IpAddr::V6(a) => halves(a.to_bits()),
    }
}

#[inline]
const fn number(words: [u64; 2]) -> u128 {
    (words[0] as u128) << 64 | words[1] as u128
}

#[inline]
const fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |addr: IpAddr, port: u16| std::net::SocketAddr::new(addr, port);
        write!(
            f,
            "{} {} > {}",
            self.protocol(),
            side(self.src(), self.src_port()),
            side(self.dst(), self.dst_port())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_addr() -> impl Strategy<Value = (IpAddr, IpAddr)> {
        prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
            any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        ]
    }

    proptest! {
        #[test]
        fn accessors_return_what_was_put_in((src, dst) in any_addr(), sp: u16, dp: u16, proto: u8) {
            let key = FlowKey::new(Protocol(proto), (src, sp), (dst, dp));
            prop_assert_eq!(key.src(), src);
            prop_assert_eq!(key.dst(), dst);
            prop_assert_eq!(key.src_port(), sp);
            prop_assert_eq!(key.dst_port(), dp);
            prop_assert_eq!(key.protocol(), Protocol(proto));
            prop_assert_eq!(key.family(), Family::of(src));
            prop_assert_eq!(key.ports(), u32::from(sp) << 16 | u32::from(dp));
            let (from, to) = key.numbers();
            let again = match key.family() {
                Family::V4 => FlowKey::v4(Protocol(proto), (from as u32, sp), (to as u32, dp)),
                Family::V6 => FlowKey::v6(Protocol(proto), (from, sp), (to, dp)),
            };
            prop_assert_eq!(again, key);
            prop_assert_eq!(key.reversed(), FlowKey::new(Protocol(proto), (dst, dp), (src, sp)));
            prop_assert_eq!(key.reversed().reversed(), key);
        }
    }

    /// N-2: the reference system's key ignored protocol and remote.
    #[test]
    fn protocol_and_remote_are_part_of_the_key() {
        let a = (IpAddr::from([10, 5, 0, 2]), 4000);
        let b = (IpAddr::from([192, 0, 2, 1]), 53);
        let c = (IpAddr::from([192, 0, 2, 2]), 53);
        assert_ne!(
            FlowKey::new(Protocol::TCP, a, b),
            FlowKey::new(Protocol::UDP, a, b)
        );
        assert_ne!(
            FlowKey::new(Protocol::UDP, a, c),
            FlowKey::new(Protocol::UDP, a, b)
        );
    }

    #[test]
    fn an_ipv4_address_is_not_its_ipv6_word() {
        let v4 = FlowKey::new(
            Protocol::UDP,
            ([0, 0, 0, 1].into(), 1),
            ([0, 0, 0, 2].into(), 2),
        );
        let v6 = FlowKey::new(
            Protocol::UDP,
            (Ipv6Addr::from_bits(1).into(), 1),
            (Ipv6Addr::from_bits(2).into(), 2),
        );
        assert_ne!(v4, v6);
    }
}
