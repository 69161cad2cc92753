//! TCP segments that end a connection on behalf of the other end.

use std::net::IpAddr;

use bytes::BytesMut;

use super::checksum::{fold, pseudo_header, sum};
use super::parse::{Message, Parsed, tcp_flags};
use crate::flow::{FlowKey, Protocol};

/// Hop limit of a packet that is made here (RFC 1700).
const HOPS: u8 = 64;

/// Length of a TCP header without options.
const TCP_HEADER: u16 = 20;

/// Where one end of a connection stands, as its last segment says (RFC 9293 §3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpMarks {
    /// The sequence number behind what it sent: the other end expects it next.
    pub next: u32,
    /// Its acknowledgment: it expects this sequence number next. 0 if it never said.
    pub acknowledged: u32,
}

impl TcpMarks {
    /// Reads the marks of a segment; `None` if it is none. Costs two loads.
    #[inline]
    pub fn read(bytes: &[u8], parsed: &Parsed) -> Option<Self> {
        let Message::Tcp(flags) = parsed.message else {
            return None;
        };
        let numbers = bytes.get(usize::from(parsed.transport) + 4..)?;
        let numbers = u64::from_be_bytes(*numbers.first_chunk()?);
        let data = parsed.total_len.saturating_sub(parsed.payload.into());
        // SYN and FIN take a place each.
        let phantom =
            u32::from(flags & tcp_flags::SYN != 0) + u32::from(flags & tcp_flags::FIN != 0);
        let first = (numbers >> 32) as u32;
        Some(Self {
            next: first.wrapping_add(data).wrapping_add(phantom),
            acknowledged: match flags & tcp_flags::ACK {
                0 => 0,
                _ => numbers as u32,
            },
        })
    }
}

/// A RST segment without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpReset {
    flow: FlowKey,
    sequence: u32,
    acknowledgment: Option<u32>,
}

impl TcpReset {
    /// A RST from `flow`'s source to its destination. It counts there only if `sequence` is exactly
    /// the number expected next; near it, the receiver asks by a challenge ACK (RFC 5961 §3.2), and
    /// [`answering`](Self::answering) that is exact.
    pub const fn new(flow: FlowKey, sequence: u32) -> Self {
        Self {
            flow,
            sequence,
            acknowledgment: None,
        }
    }

    /// The RST that answers a segment of a connection that does not exist (RFC 9293 §3.10.7.1).
    /// `None` if it is no whole TCP segment, or a RST itself, which is never answered.
    pub fn answering(bytes: &[u8], parsed: &Parsed) -> Option<Self> {
        let Message::Tcp(flags) = parsed.message else {
            return None;
        };
        if flags & tcp_flags::RST != 0 || parsed.first_fragment {
            return None;
        }
        let marks = TcpMarks::read(bytes, parsed)?;
        let flow = parsed.flow.reversed();
        Some(match flags & tcp_flags::ACK {
            0 => Self {
                flow,
                sequence: 0,
                acknowledgment: Some(marks.next),
            },
            _ => Self::new(flow, marks.acknowledged),
        })
    }

    /// Appends the IP packet, its checksums complete.
    pub fn write(&self, out: &mut BytesMut) {
        let ack = match self.acknowledgment {
            Some(_) => tcp_flags::ACK,
            None => 0,
        };
        let header = Header {
            flow: self.flow,
            sequence: self.sequence,
            acknowledgment: self.acknowledgment.unwrap_or(0),
            flags: tcp_flags::RST | ack,
        };
        header.write(0, out);
    }
}

/// The headers of a segment.
pub(super) struct Header {
    pub(super) flow: FlowKey,
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    pub(super) flags: u8,
}

impl Header {
    /// Appends them, with checksums that are right if there is no payload, or as much of it as
    /// `payload` says and all of it zeros.
    pub(super) fn write(&self, payload: u16, out: &mut BytesMut) {
        let (src, dst) = (self.flow.src(), self.flow.dst());
        let length = TCP_HEADER.saturating_add(payload);
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut ip = [0; 20];
                ip[0] = 0x45;
                ip[2..4].copy_from_slice(&length.saturating_add(20).to_be_bytes());
                // Don't fragment; an id is of no use then (RFC 6864 §4.1).
                ip[6] = 0x40;
                ip[8] = HOPS;
                ip[9] = Protocol::TCP.0;
                ip[12..16].copy_from_slice(&src.octets());
                ip[16..20].copy_from_slice(&dst.octets());
                let checksum = !fold(sum(&ip, 0));
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                out.extend_from_slice(&ip);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut ip = [0; 40];
                ip[0] = 0x60;
                ip[4..6].copy_from_slice(&length.to_be_bytes());
                ip[6] = Protocol::TCP.0;
                ip[7] = HOPS;
                ip[8..24].copy_from_slice(&src.octets());
                ip[24..40].copy_from_slice(&dst.octets());
                out.extend_from_slice(&ip);
            }
            // A key is of one family.
            _ => return,
        }
        let mut tcp = [0; TCP_HEADER as usize];
        tcp[0..2].copy_from_slice(&self.flow.src_port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.flow.dst_port().to_be_bytes());
        tcp[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.acknowledgment.to_be_bytes());
        tcp[12] = (TCP_HEADER as u8 / 4) << 4;
        tcp[13] = self.flags;
        let pseudo = pseudo_header(src, dst, Protocol::TCP.0, length.into());
        let checksum = !fold(sum(&tcp, pseudo));
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        out.extend_from_slice(&tcp);
    }
}
