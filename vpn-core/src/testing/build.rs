//! Packets for tests, made by hand with right checksums.
//!
//! Addresses are taken as anything that parses as one, so that a test reads like a trace.
//!
//! # Panics
//!
//! Every function panics on addresses that do not parse or are of two families, and on packets
//! longer than 65,535 bytes: a test that asks for one is wrong.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};

use crate::flow::Protocol;
use crate::packet::checksum::{fold, pseudo_header, sum};
use crate::packet::{Gso, Offload, Packet};

/// Something that stands for a socket address: a [`SocketAddr`], or a string with one.
pub trait IntoSocket {
    /// The address it stands for.
    fn into_socket(self) -> SocketAddr;
}

/// Something that stands for an IP address: an [`IpAddr`], or a string with one.
pub trait IntoAddr {
    /// The address it stands for.
    fn into_addr(self) -> IpAddr;
}

impl IntoSocket for SocketAddr {
    fn into_socket(self) -> SocketAddr {
        self
    }
}

impl IntoSocket for (IpAddr, u16) {
    fn into_socket(self) -> SocketAddr {
        self.into()
    }
}

impl IntoSocket for &str {
    fn into_socket(self) -> SocketAddr {
        must(self.parse(), self)
    }
}

impl IntoAddr for IpAddr {
    fn into_addr(self) -> IpAddr {
        self
    }
}

impl IntoAddr for &str {
    fn into_addr(self) -> IpAddr {
        must(self.parse(), self)
    }
}

#[allow(
    clippy::panic,
    reason = "documented: a test that asks for nonsense is wrong"
)]
fn must<T, E: Debug>(result: Result<T, E>, what: &str) -> T {
    result.unwrap_or_else(|e| panic!("{what}: {e:?}"))
}

/// A TCP segment without options. Acknowledgment 0, window 65,535.
pub fn tcp(
    src: impl IntoSocket,
    dst: impl IntoSocket,
    flags: u8,
    sequence: u32,
    payload: &[u8],
) -> Vec<u8> {
    tcp_with_options(src, dst, flags, sequence, &[], payload)
}

/// A TCP segment with options, padded with "end of options" to a multiple of 4; up to 40 bytes.
///
/// # Panics
///
/// If there are more: a test asked for what does not exist.
pub fn tcp_with_options(
    src: impl IntoSocket,
    dst: impl IntoSocket,
    flags: u8,
    sequence: u32,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let (src, dst) = (src.into_socket(), dst.into_socket());
    assert!(options.len() <= 40, "TCP options beyond 40 bytes");
    let header = 20 + options.len().next_multiple_of(4);
    let mut segment = Vec::with_capacity(header + payload.len());
    segment.extend(src.port().to_be_bytes());
    segment.extend(dst.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend([(header as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment.resize(header, 0);
    segment.extend(payload);
    complete(&mut segment, 16, src.ip(), dst.ip(), Protocol::TCP);
    ip(src.ip(), dst.ip(), Protocol::TCP, &segment)
}

/// A UDP datagram.
pub fn udp(src: impl IntoSocket, dst: impl IntoSocket, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (src.into_socket(), dst.into_socket());
    let length = must(u16::try_from(8 + payload.len()), "UDP length");
    let mut segment = Vec::with_capacity(usize::from(length));
    segment.extend(src.port().to_be_bytes());
    segment.extend(dst.port().to_be_bytes());
    segment.extend(length.to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(payload);
    complete(&mut segment, 6, src.ip(), dst.ip(), Protocol::UDP);
    ip(src.ip(), dst.ip(), Protocol::UDP, &segment)
}

/// Which half of a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// The question.
    Request,
    /// The answer.
    Reply,
}

/// An ICMP or ICMPv6 echo message, by the family of the addresses.
pub fn icmp_echo(
    src: impl IntoAddr,
    dst: impl IntoAddr,
    echo: Echo,
    identifier: u16,
    sequence: u16,
    payload: &[u8],
) -> Vec<u8> {
    let (src, dst) = (src.into_addr(), dst.into_addr());
    let kind = match (src.is_ipv4(), echo) {
        (true, Echo::Request) => 8,
        (true, Echo::Reply) => 0,
        (false, Echo::Request) => 128,
        (false, Echo::Reply) => 129,
    };
    let rest = u32::from(identifier) << 16 | u32::from(sequence);
    icmp(src, dst, kind, 0, rest, payload)
}

/// An ICMP or ICMPv6 message, by the family of the addresses: type, code, the four bytes after
/// the checksum (the MTU of "packet too big", say) and what follows (the quoted packet of an
/// error).
pub fn icmp(
    src: impl IntoAddr,
    dst: impl IntoAddr,
    kind: u8,
    code: u8,
    rest: u32,
    body: &[u8],
) -> Vec<u8> {
    let (src, dst) = (src.into_addr(), dst.into_addr());
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(body);
    let protocol = if src.is_ipv4() {
        Protocol::ICMP
    } else {
        Protocol::ICMPV6
    };
    complete(&mut message, 2, src, dst, protocol);
    ip(src, dst, protocol, &message)
}

/// An IP packet around any payload: hop limit 64, IPv4 identification 0 and "don't fragment".
pub fn ip(src: impl IntoAddr, dst: impl IntoAddr, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
    match (src.into_addr(), dst.into_addr()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = must(u16::try_from(20 + payload.len()), "IPv4 length");
            let mut packet = vec![0x45, 0];
            packet.extend(total.to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, protocol.0, 0, 0]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            seal_v4(&mut packet);
            packet.extend(payload);
            packet
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let length = must(u16::try_from(payload.len()), "IPv6 length");
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(length.to_be_bytes());
            packet.extend([protocol.0, 64]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet.extend(payload);
            packet
        }
        mixed => must(Err(mixed), "addresses of two families"),
    }
}

/// A TCP super-packet as a device with offload yields it: to be cut into segments of
/// `segment_size` payload bytes, its checksum the pseudo-header's sum.
pub fn super_tcp(
    src: impl IntoSocket,
    dst: impl IntoSocket,
    flags: u8,
    sequence: u32,
    segment_size: u16,
    payload: &[u8],
) -> Packet {
    let (src, dst) = (src.into_socket(), dst.into_socket());
    offloaded(&tcp(src, dst, flags, sequence, payload), segment_size)
}

/// A UDP super-packet as a device with offload yields it: to be cut into datagrams of
/// `segment_size` payload bytes, its checksum the pseudo-header's sum.
pub fn super_udp(
    src: impl IntoSocket,
    dst: impl IntoSocket,
    segment_size: u16,
    payload: &[u8],
) -> Packet {
    let (src, dst) = (src.into_socket(), dst.into_socket());
    offloaded(&udp(src, dst, payload), segment_size)
}

/// The same TCP or UDP packet as its sender leaves it for offload: the checksum field holds the
/// pseudo-header's sum. Other packets stay as they are.
pub fn partial(bytes: &[u8]) -> Packet {
    let mut packet = Packet::from_slice(bytes);
    let Ok(parsed) = packet.parse() else {
        return packet;
    };
    let at = match parsed.flow.protocol() {
        Protocol::TCP => 16,
        Protocol::UDP => 6,
        _ => return packet,
    };
    let transport = usize::from(parsed.transport);
    let (src, dst) = (parsed.flow.src(), parsed.flow.dst());
    let length = packet.len() - transport;
    let seed = fold(pseudo_header(src, dst, parsed.flow.protocol().0, length));
    packet.bytes_mut()[transport + at..transport + at + 2].copy_from_slice(&seed.to_be_bytes());
    packet.offload.partial_checksum = true;
    packet
}

/// The fragments of a packet, each of up to `mtu` bytes (RFC 791 §3.2, RFC 8200 §4.5).
///
/// "Don't fragment" is cleared; the identification is `id`. Options and extension headers are not
/// treated: give it packets made here.
pub fn fragments(bytes: &[u8], mtu: usize, id: u32) -> Vec<Vec<u8>> {
    let v4 = bytes[0] >> 4 == 4;
    let (fixed, header) = if v4 { (20, 20) } else { (40, 48) };
    let step = (mtu.saturating_sub(header) / 8).max(1) * 8;
    let body = &bytes[fixed..];
    let last = body.len().div_ceil(step).max(1) - 1;
    (0..=last)
        .map(|i| {
            let part = &body[i * step..body.len().min((i + 1) * step)];
            let offset = (i * step) as u16;
            let mut packet = bytes[..fixed].to_vec();
            if v4 {
                let more = if i < last { 0x2000 } else { 0 };
                packet[2..4].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
                packet[4..6].copy_from_slice(&(id as u16).to_be_bytes());
                packet[6..8].copy_from_slice(&(more | (offset >> 3)).to_be_bytes());
                seal_v4(&mut packet);
            } else {
                let field = offset | u16::from(i < last);
                packet[4..6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
                packet[6] = 44;
                packet.extend([bytes[6], 0]);
                packet.extend(field.to_be_bytes());
                packet.extend(id.to_be_bytes());
            }
            packet.extend(part);
            packet
        })
        .collect()
}

fn offloaded(bytes: &[u8], segment_size: u16) -> Packet {
    partial(bytes).with_offload(Offload {
        gso: Some(Gso { size: segment_size }),
        partial_checksum: true,
    })
}

fn seal_v4(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = !fold(sum(&header[..20], 0));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn complete(message: &mut [u8], at: usize, src: IpAddr, dst: IpAddr, protocol: Protocol) {
    let seed = match protocol {
        Protocol::ICMP => 0,
        _ => pseudo_header(src, dst, protocol.0, message.len()),
    };
    message[at..at + 2].fill(0);
    let mut checksum = !fold(sum(message, seed));
    if protocol == Protocol::UDP && checksum == 0 {
        checksum = 0xffff;
    }
    message[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}
