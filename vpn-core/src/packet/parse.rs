//! Headers of one packet, read once.
//!
//! Accepts what a host must accept and refuses what cannot be routed: the result says exactly
//! where the transport header and the payload begin, and later code relies on it without checking
//! again.

use crate::flow::{Family, FlowKey, Protocol};

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
    ///
    /// Always inlined: whoever looks at once at what was read has it in registers, and does not
    /// wait for it to be written. Elsewhere, [`Packet::parse`](super::Packet::parse) is shorter.
    #[inline(always)]
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        match bytes.first().map(|b| b >> 4) {
            Some(4) => parse_v4(bytes),
            Some(6) => parse_v6(bytes),
            Some(version) => Err(ParseError::Version(version)),
            None => Err(ParseError::Truncated("IP")),
        }
    }
}

#[inline(always)]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
fn parse_v4(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let Some(ip) = bytes.first_chunk::<20>() else {
        return Err(ParseError::Truncated("IPv4"));
    };
    let header = usize::from(ip[0] & 0xf) * 4;
    let total = usize::from(be16(ip, 2));
    if header < 20 || total < header {
        return Err(ParseError::Header("IPv4 length"));
    }
    let Some(bytes) = bytes.get(..total) else {
        return Err(ParseError::Truncated("IPv4"));
    };
    let fragment = be16(ip, 6);
    let fragments = Fragments {
        later: fragment & 0x1fff != 0,
        first: fragment & 0x3fff == 0x2000,
    };
    let protocol = Protocol(ip[9]);
    let upper = upper(&bytes[header..], Family::V4, protocol, fragments)?;
    let src = u32::from_be_bytes([ip[12], ip[13], ip[14], ip[15]]);
    let dst = u32::from_be_bytes([ip[16], ip[17], ip[18], ip[19]]);
    let flow = FlowKey::v4(protocol, (src, upper.src_port), (dst, upper.dst_port));
    Ok(upper.parsed(flow, header, total, fragments))
}

#[inline(always)]
fn parse_v6(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let Some(ip) = bytes.first_chunk::<40>() else {
        return Err(ParseError::Truncated("IPv6"));
    };
    let total = 40 + usize::from(be16(ip, 4));
    let Some(bytes) = bytes.get(..total) else {
        return Err(ParseError::Truncated("IPv6"));
    };
    let (protocol, at, fragments) = match Protocol(ip[6]) {
        p @ (Protocol::TCP | Protocol::UDP | Protocol::ICMPV6) => (p, 40, Fragments::default()),
        p => skip_extensions(bytes, p)?,
    };
    let upper = upper(&bytes[at..], Family::V6, protocol, fragments)?;
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&ip[at..at + 16]);
        u128::from_be_bytes(octets)
    };
    let flow = FlowKey::v6(
        protocol,
        (address(8), upper.src_port),
        (address(24), upper.dst_port),
    );
    Ok(upper.parsed(flow, at, total, fragments))
}

#[derive(Clone, Copy, Default)]
pub(super) struct Fragments {
    pub(super) later: bool,
    pub(super) first: bool,
}

/// Walks the extension-header chain (RFC 8200 §4) to the upper-layer header.
#[cold]
pub(super) fn skip_extensions(
    bytes: &[u8],
    mut next: Protocol,
) -> Result<(Protocol, usize, Fragments), ParseError> {
    let mut at = 40;
    let mut fragments = Fragments::default();
    let mut fragmented = false;
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
            // A second one would say something else of the same packet (RFC 8200 §4.1).
            44 if fragmented => return Err(ParseError::Header("second fragment header")),
            // Fragment header (RFC 8200 §4.5).
            44 => {
                fragmented = true;
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

/// What the upper-layer header says.
struct Upper {
    message: Message,
    length: usize,
    src_port: u16,
    dst_port: u16,
}

impl Upper {
    #[inline(always)]
    fn parsed(&self, flow: FlowKey, at: usize, total: usize, fragments: Fragments) -> Parsed {
        Parsed {
            flow,
            message: self.message,
            transport: at as u16,
            payload: (at + self.length) as u16,
            first_fragment: fragments.first,
            total_len: total as u32,
        }
    }
}

/// Reads the upper-layer header at the beginning of `rest`.
///
/// Part of it may legally lie in the next fragment; a first fragment so short is refused, as
/// RFC 7112 §5 demands for IPv6 and RFC 1858 §3 advises for IPv4.
#[inline(always)]
fn upper(
    rest: &[u8],
    family: Family,
    protocol: Protocol,
    fragments: Fragments,
) -> Result<Upper, ParseError> {
    let (message, length, src_port, dst_port) = match (protocol, family) {
        _ if fragments.later => (Message::LaterFragment, 0, 0, 0),
        (Protocol::TCP, _) => {
            let Some(tcp) = rest.first_chunk::<20>() else {
                return Err(ParseError::Truncated("TCP"));
            };
            let length = usize::from(tcp[12] >> 4) * 4;
            if length < 20 {
                return Err(ParseError::Header("TCP data offset"));
            }
            if length > rest.len() {
                return Err(ParseError::Truncated("TCP"));
            }
            (Message::Tcp(tcp[13]), length, be16(tcp, 0), be16(tcp, 2))
        }
        (Protocol::UDP, _) => {
            let Some(udp) = rest.first_chunk::<8>() else {
                return Err(ParseError::Truncated("UDP"));
            };
            let length = usize::from(be16(udp, 4));
            if length < 8 || (!fragments.first && length > rest.len()) {
                return Err(ParseError::Header("UDP length"));
            }
            (Message::Udp, 8, be16(udp, 0), be16(udp, 2))
        }
        // The other way round it is just a number.
        (Protocol::ICMP, Family::V4) | (Protocol::ICMPV6, Family::V6) => {
            let Some(icmp) = rest.first_chunk::<8>() else {
                return Err(ParseError::Truncated("ICMP"));
            };
            let message = icmp_message(protocol, icmp[0]);
            match message {
                Message::EchoRequest => (message, 8, be16(icmp, 4), 0),
                Message::EchoReply => (message, 8, 0, be16(icmp, 4)),
                _ => (message, 8, 0, 0),
            }
        }
        _ => (Message::Other, 0, 0, 0),
    };
    Ok(Upper {
        message,
        length,
        src_port,
        dst_port,
    })
}

#[inline(always)]
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
