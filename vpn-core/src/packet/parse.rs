//! Headers of one packet, read once.
//!
//! Accepts what a host must accept and refuses what cannot be routed: the result says exactly
//! where the transport header and the payload begin, and later code relies on it without checking
//! again.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::flow::{FlowKey, Protocol};

/// Extension headers looked at in one packet. RFC 8200 §4.1 names seven; more is an attempt to
/// hide something.
const MAX_EXTENSION_HEADERS: usize = 8;

/// Why bytes are not a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Shorter than its headers say.
    #[error("truncated in the {0} header")]
    Truncated(&'static str),
    /// Neither IPv4 nor IPv6.
    #[error("IP version {0}")]
    Version(u8),
    /// A header contradicts itself.
    #[error("bad {0}")]
    Header(&'static str),
}

/// What a packet is to the connection tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// TCP, with its flags byte (RFC 9293 §3.1: CWR ECE URG ACK PSH RST SYN FIN).
    Tcp(u8),
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo request.
    EchoRequest,
    /// ICMP or ICMPv6 echo reply.
    EchoReply,
    /// ICMP or ICMPv6 error: it quotes the packet it is about.
    IcmpError,
    /// Any other ICMP or ICMPv6 message.
    OtherIcmp,
    /// A fragment that is not the first: it has no transport header, and so no ports.
    LaterFragment,
    /// Another protocol: addresses only.
    Other,
}

/// TCP flag bits (RFC 9293 §3.1).
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push: deliver without waiting for more.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment field is significant.
    pub const ACK: u8 = 0x10;
    /// Congestion window reduced (RFC 3168 §6.1.2).
    pub const CWR: u8 = 0x80;
}

/// What the headers say. Offsets are from the packet's first byte and lie within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Protocol, addresses, ports.
    pub flow: FlowKey,
    /// What kind of message.
    pub message: Message,
    /// Where the transport header begins.
    pub transport: u16,
    /// Where the transport's payload begins.
    pub payload: u16,
    /// Whether this is the first of several fragments.
    pub first_fragment: bool,
    /// Length of the IP packet by its own header, in bytes; what lies behind it is padding.
    pub total_len: u32,
}

impl Parsed {
    /// Reads the headers of one IP packet.
    #[inline]
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        match bytes.first().map(|b| b >> 4) {
            Some(4) => parse_v4(bytes),
            Some(6) => parse_v6(bytes),
            Some(version) => Err(ParseError::Version(version)),
            None => Err(ParseError::Truncated("IP")),
        }
    }
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn parse_v4(bytes: &[u8]) -> Result<Parsed, ParseError> {
    if bytes.len() < 20 {
        return Err(ParseError::Truncated("IPv4"));
    }
    let header = usize::from(bytes[0] & 0xf) * 4;
    let total = usize::from(be16(bytes, 2));
    if header < 20 || total < header {
        return Err(ParseError::Header("IPv4 length"));
    }
    if total > bytes.len() {
        return Err(ParseError::Truncated("IPv4"));
    }
    let src = Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15]);
    let dst = Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]);
    let fragment = be16(bytes, 6);
    let fragments = Fragments {
        later: fragment & 0x1fff != 0,
        first: fragment & 0x3fff == 0x2000,
    };
    let protocol = Protocol(bytes[9]);
    transport(
        &bytes[..total],
        header,
        protocol,
        src.into(),
        dst.into(),
        fragments,
    )
}

#[inline]
fn parse_v6(bytes: &[u8]) -> Result<Parsed, ParseError> {
    if bytes.len() < 40 {
        return Err(ParseError::Truncated("IPv6"));
    }
    let total = 40 + usize::from(be16(bytes, 4));
    if total > bytes.len() {
        return Err(ParseError::Truncated("IPv6"));
    }
    let bytes = &bytes[..total];
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&bytes[at..at + 16]);
        Ipv6Addr::from(octets)
    };
    let (src, dst) = (address(8).into(), address(24).into());
    let (protocol, at, fragments) = match Protocol(bytes[6]) {
        p @ (Protocol::TCP | Protocol::UDP | Protocol::ICMPV6) => (p, 40, Fragments::default()),
        p => skip_extensions(bytes, p)?,
    };
    transport(bytes, at, protocol, src, dst, fragments)
}

#[derive(Clone, Copy, Default)]
struct Fragments {
    later: bool,
    first: bool,
}

/// Walks the extension-header chain (RFC 8200 §4) to the upper-layer header.
#[cold]
fn skip_extensions(
    bytes: &[u8],
    mut next: Protocol,
) -> Result<(Protocol, usize, Fragments), ParseError> {
    let mut at = 40;
    let mut fragments = Fragments::default();
    // One round more than headers, to see what the last one names.
    for _ in 0..=MAX_EXTENSION_HEADERS {
        let length = match next.0 {
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => {
                let header = bytes
                    .get(at..at + 2)
                    .ok_or(ParseError::Truncated("extension"))?;
                (usize::from(header[1]) + 1) * 8
            }
            // Authentication header (RFC 4302 §2.2): length in 4-byte words, minus 2.
            51 => {
                let header = bytes
                    .get(at..at + 2)
                    .ok_or(ParseError::Truncated("extension"))?;
                (usize::from(header[1]) + 2) * 4
            }
            // Fragment header (RFC 8200 §4.5).
            44 => {
                let header = bytes
                    .get(at..at + 8)
                    .ok_or(ParseError::Truncated("fragment"))?;
                let field = be16(header, 2);
                fragments.later |= field & 0xfff8 != 0;
                fragments.first |= field & 0xfff9 == 1;
                8
            }
            _ => return Ok((next, at, fragments)),
        };
        let header = bytes
            .get(at..at + length)
            .ok_or(ParseError::Truncated("extension"))?;
        next = Protocol(header[0]);
        at += length;
        if fragments.later {
            fragments.first = false;
            // What follows is payload from the middle of a packet.
            return Ok((next, at, fragments));
        }
    }
    Err(ParseError::Header("extension header chain"))
}

#[inline]
fn transport(
    bytes: &[u8],
    at: usize,
    protocol: Protocol,
    src: std::net::IpAddr,
    dst: std::net::IpAddr,
    fragments: Fragments,
) -> Result<Parsed, ParseError> {
    let rest = &bytes[at..];
    // Part of a transport header may legally lie in the next fragment; a first fragment so short
    // is refused, as RFC 7112 §5 demands for IPv6 and RFC 1858 §3 advises for IPv4.
    let (message, header, src_port, dst_port) = match protocol {
        _ if fragments.later => (Message::LaterFragment, 0, 0, 0),
        Protocol::TCP => {
            if rest.len() < 20 {
                return Err(ParseError::Truncated("TCP"));
            }
            let header = usize::from(rest[12] >> 4) * 4;
            if header < 20 {
                return Err(ParseError::Header("TCP data offset"));
            }
            if header > rest.len() {
                return Err(ParseError::Truncated("TCP"));
            }
            (Message::Tcp(rest[13]), header, be16(rest, 0), be16(rest, 2))
        }
        Protocol::UDP => {
            if rest.len() < 8 {
                return Err(ParseError::Truncated("UDP"));
            }
            let length = usize::from(be16(rest, 4));
            if length < 8 || (!fragments.first && length > rest.len()) {
                return Err(ParseError::Header("UDP length"));
            }
            (Message::Udp, 8, be16(rest, 0), be16(rest, 2))
        }
        Protocol::ICMP | Protocol::ICMPV6 if protocol_fits(protocol, src) => {
            if rest.len() < 8 {
                return Err(ParseError::Truncated("ICMP"));
            }
            let message = icmp_message(protocol, rest[0]);
            match message {
                Message::EchoRequest => (message, 8, be16(rest, 4), 0),
                Message::EchoReply => (message, 8, 0, be16(rest, 4)),
                _ => (message, 8, 0, 0),
            }
        }
        _ => (Message::Other, 0, 0, 0),
    };
    Ok(Parsed {
        flow: FlowKey::new(protocol, (src, src_port), (dst, dst_port)),
        message,
        transport: at as u16,
        payload: (at + header) as u16,
        first_fragment: fragments.first,
        total_len: bytes.len() as u32,
    })
}

/// ICMP travels over IPv4 and ICMPv6 over IPv6; the other way round it is just a number.
#[inline]
fn protocol_fits(protocol: Protocol, src: std::net::IpAddr) -> bool {
    (protocol == Protocol::ICMP) == src.is_ipv4()
}

#[inline]
fn icmp_message(protocol: Protocol, kind: u8) -> Message {
    match (protocol, kind) {
        (Protocol::ICMP, 8) | (Protocol::ICMPV6, 128) => Message::EchoRequest,
        (Protocol::ICMP, 0) | (Protocol::ICMPV6, 129) => Message::EchoReply,
        // RFC 792: unreachable, source quench, redirect, time exceeded, parameter problem.
        (Protocol::ICMP, 3 | 4 | 5 | 11 | 12) => Message::IcmpError,
        // RFC 4443 §2.1: error messages have types below 128.
        (Protocol::ICMPV6, 0..128) => Message::IcmpError,
        _ => Message::OtherIcmp,
    }
}
