//! The packet that an ICMP error quotes: whose it is, and its translation.
//!
//! An error comes from anywhere on the way, so only the quote tells which flow it is about. A quote
//! may be cut off after eight bytes of the transport header (RFC 792; RFC 4443 allows no less in
//! practice): ports are there, a TCP checksum may not be.

use std::net::IpAddr;

use super::Packet;
use super::checksum::{Delta, fold, pseudo_header, sum};
use super::parse::{Fragments, Message, Parsed, skip_extensions};
use crate::flow::{FlowKey, Protocol};

/// An ICMP header in front of a quote, in bytes.
const ICMP_HEADER: usize = 8;

/// Which side of an echo has its identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

/// A quote in an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// The quoted packet, as it was sent.
    pub flow: FlowKey,
    /// Where it begins.
    at: usize,
    /// Where its transport header begins.
    transport: usize,
    /// Which of its sides an echo identifier is the port of.
    echo: Option<Side>,
}

impl Quoted {
    /// Reads the quote of `bytes`, an ICMP or ICMPv6 error. `None` if the packet is none, its
    /// checksum is wrong, or the quote has no ports: a later fragment, or too little of it. `None`
    /// also for what only looks like one: a redirect is for the link it is sent on (RFC 1122
    /// §3.2.2.2), and a source quench is to be ignored (RFC 6633).
    pub fn of(bytes: &[u8], parsed: &Parsed) -> Option<Self> {
        if parsed.message != Message::IcmpError || parsed.first_fragment {
            return None;
        }
        let bytes = bytes.get(..parsed.total_len as usize)?;
        let icmp = bytes.get(usize::from(parsed.transport)..)?;
        if fold(sum(icmp, pseudo(parsed, icmp.len()))) != 0xffff {
            return None;
        }
        if parsed.flow.protocol() == Protocol::ICMP && matches!(icmp.first()?, 4 | 5) {
            return None;
        }
        let at = usize::from(parsed.transport) + ICMP_HEADER;
        let quote = bytes.get(at..)?;
        let (protocol, src, dst, header) = match quote.first()? >> 4 {
            4 if parsed.flow.protocol() == Protocol::ICMP => ip_v4(quote)?,
            6 if parsed.flow.protocol() == Protocol::ICMPV6 => ip_v6(quote)?,
            _ => return None,
        };
        let transport = quote.get(header..)?.first_chunk::<8>()?;
        let port = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
        let (ports, echo) = match (protocol, transport[0]) {
            (Protocol::TCP | Protocol::UDP, _) => ((port(0), port(2)), None),
            (Protocol::ICMP, 8) | (Protocol::ICMPV6, 128) => ((port(4), 0), Some(Side::Source)),
            (Protocol::ICMP, 0) | (Protocol::ICMPV6, 129) => {
                ((0, port(4)), Some(Side::Destination))
            }
            // An error about an error is never sent; other queries are not translated.
            (Protocol::ICMP | Protocol::ICMPV6, _) => return None,
            _ => ((0, 0), None),
        };
        Some(Self {
            flow: FlowKey::new(protocol, (src, ports.0), (dst, ports.1)),
            at,
            transport: at + header,
            echo,
        })
    }
}

fn ip_v4(quote: &[u8]) -> Option<(Protocol, IpAddr, IpAddr, usize)> {
    let ip = quote.first_chunk::<20>()?;
    let header = usize::from(ip[0] & 0xf) * 4;
    let offset = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff;
    let address = |at: usize| IpAddr::from([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
    (header >= 20 && offset == 0).then(|| (Protocol(ip[9]), address(12), address(16), header))
}

fn ip_v6(quote: &[u8]) -> Option<(Protocol, IpAddr, IpAddr, usize)> {
    let ip = quote.first_chunk::<40>()?;
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&ip[at..at + 16]);
        IpAddr::from(octets)
    };
    let (protocol, at, fragments) = match Protocol(ip[6]) {
        p @ (Protocol::TCP | Protocol::UDP | Protocol::ICMPV6) => (p, 40, Fragments::default()),
        p => skip_extensions(quote, p).ok()?,
    };
    (!fragments.later).then(|| (protocol, address(8), address(24), at))
}

/// The pseudo-header of ICMPv6; ICMP has none.
fn pseudo(parsed: &Parsed, length: usize) -> u64 {
    match parsed.flow.protocol() {
        Protocol::ICMPV6 => {
            let flow = &parsed.flow;
            pseudo_header(flow.src(), flow.dst(), Protocol::ICMPV6.0, length)
        }
        _ => 0,
    }
}

/// What an ICMP error looks like on the other side of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requote {
    /// Who sends the error.
    pub from: IpAddr,
    /// Who gets it.
    pub to: IpAddr,
    /// The quoted packet, as it is known over there.
    pub flow: FlowKey,
}

impl Requote {
    /// Rewrites an error with this quote; all addresses are of the family they replace. Checksums
    /// are right afterwards: those of the quote by difference, as far as they are there, and the
    /// error's own, which was right before (see [`Quoted::of`]), anew.
    pub fn apply(&self, packet: &mut Packet, parsed: &Parsed, quoted: &Quoted) {
        let whole = parsed.total_len as usize;
        // The checksum is whole from here on.
        packet.offload.partial_checksum = false;
        let Some(bytes) = packet.bytes_mut().get_mut(..whole) else {
            return;
        };
        let outer = parsed.flow;
        write_addresses(bytes, 0, (self.from, self.to), (outer.src(), outer.dst()));
        let old = quoted.flow;
        write_addresses(
            bytes,
            quoted.at,
            (self.flow.src(), self.flow.dst()),
            (old.src(), old.dst()),
        );
        self.write_ports(bytes, quoted);
        let transport = usize::from(parsed.transport);
        let message = &mut bytes[transport..];
        message[2..4].copy_from_slice(&[0, 0]);
        let pseudo = match outer.protocol() {
            Protocol::ICMPV6 => {
                pseudo_header(self.from, self.to, Protocol::ICMPV6.0, message.len())
            }
            _ => 0,
        };
        let checksum = !fold(sum(message, pseudo));
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }

    fn write_ports(&self, bytes: &mut [u8], quoted: &Quoted) {
        let (old, new) = (quoted.flow, self.flow);
        let at = quoted.transport;
        let addresses = Delta::NONE
            .address(old.src(), new.src())
            .address(old.dst(), new.dst());
        let (ports, checksum_at, covers_addresses) = match (new.protocol(), quoted.echo) {
            (Protocol::TCP, _) => (both_ports(old, new), 16, true),
            (Protocol::UDP, _) => (both_ports(old, new), 6, true),
            (protocol, Some(side)) => {
                let (old, new) = match side {
                    Side::Source => (old.src_port(), new.src_port()),
                    Side::Destination => (old.dst_port(), new.dst_port()),
                };
                ([Some((4, old, new)), None], 2, protocol == Protocol::ICMPV6)
            }
            _ => return,
        };
        let mut delta = if covers_addresses {
            addresses
        } else {
            Delta::NONE
        };
        for (offset, old, new) in ports.into_iter().flatten() {
            write16(bytes, at + offset, new);
            delta = delta.field(old, new);
        }
        let Some(checksum) = read16(bytes, at + checksum_at) else {
            return;
        };
        // RFC 768: zero means that there is no checksum.
        if new.protocol() == Protocol::UDP && checksum == 0 {
            return;
        }
        let checksum = match delta.apply(checksum) {
            0 if new.protocol() == Protocol::UDP => 0xffff,
            checksum => checksum,
        };
        write16(bytes, at + checksum_at, checksum);
    }
}

type Change = Option<(usize, u16, u16)>;

fn both_ports(old: FlowKey, new: FlowKey) -> [Change; 2] {
    [
        Some((0, old.src_port(), new.src_port())),
        Some((2, old.dst_port(), new.dst_port())),
    ]
}

/// Writes the addresses of the IP header at `at`, and corrects its checksum.
fn write_addresses(bytes: &mut [u8], at: usize, new: (IpAddr, IpAddr), old: (IpAddr, IpAddr)) {
    match new {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            bytes[at + 12..at + 16].copy_from_slice(&src.octets());
            bytes[at + 16..at + 20].copy_from_slice(&dst.octets());
            let delta = Delta::NONE.address(old.0, new.0).address(old.1, new.1);
            if let Some(checksum) = read16(bytes, at + 10) {
                write16(bytes, at + 10, delta.apply(checksum));
            }
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            bytes[at + 8..at + 24].copy_from_slice(&src.octets());
            bytes[at + 24..at + 40].copy_from_slice(&dst.octets());
        }
        _ => {}
    }
}

fn read16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn write16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}
