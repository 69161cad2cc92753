//! Cutting super-packets into the packets a wire carries, and completing checksums.
//!
//! A super-packet is looked up and rewritten once and cut as late as possible: here, when a
//! transport cannot take it whole. [`Segments`] plans the cut and writes any one segment where
//! the caller wants it, so that a transport can cut straight into its datagram buffer;
//! [`split`] makes packets of all of them.
//!
//! What a segment inherits and what it does not (Linux `tcp_gso_segment`, `__udp_gso_segment`):
//!
//! | Field | Segment `i` |
//! |---|---|
//! | IPv4 total length, IPv6 payload length, UDP length | its own |
//! | IPv4 identification | + `i` |
//! | TCP sequence number | + `i` × size |
//! | TCP PSH, FIN | on the last only |
//! | TCP CWR | on the first only (RFC 3168 §6.1.2) |
//! | checksums | complete |
//!
//! ```
//! use vpn_core::packet::{BufferPool, Gso, Offload, Packet, segment};
//! # let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x66, 0xcc, 10, 0, 0, 1, 10, 0, 0, 2,
//! #              0, 7, 0, 53, 0, 8, 0, 0];
//! # bytes[3] += 10; bytes[25] += 10; bytes.extend([1; 10]);
//! let packet = Packet::from_slice(&bytes).with_offload(Offload {
//!     gso: Some(Gso { size: 4 }),
//!     partial_checksum: true,
//! });
//! let mut pool = BufferPool::new(64, 1500);
//! let mut out = Vec::with_capacity(64);
//! assert_eq!(segment::split(&packet, &mut pool, |segment| out.push(segment))?, 3);
//! # Ok::<(), segment::SegmentError>(())
//! ```

use bytes::BytesMut;

use super::checksum::{fold, pseudo_header, sum};
use super::{BufferPool, HEADROOM, Message, Offload, Packet, ParseError, tcp_flags};
use crate::flow::Protocol;

/// Why a packet cannot be cut or completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The bytes are not a packet. Drop it as malformed.
    #[error("not a packet")]
    Parse(#[from] ParseError),
    /// The offload description has a segment size of 0. Whoever wrote it is wrong.
    #[error("segments of 0 bytes")]
    ZeroSize,
    /// Only TCP and UDP are cut; only TCP, UDP and ICMPv6 have a checksum to complete.
    #[error("no offload for {0}")]
    Protocol(Protocol),
    /// The transport message is not all here, so that neither can be done.
    #[error("offload on a fragment")]
    Fragment,
}

/// Where a TCP header's fields lie (RFC 9293 §3.1).
const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
/// Where a UDP header's fields lie (RFC 768).
const UDP_LENGTH: usize = 4;
const UDP_CHECKSUM: usize = 6;
/// Where ICMPv6 has its checksum (RFC 4443 §2.1).
const ICMPV6_CHECKSUM: usize = 2;

/// The plan of a cut: how many segments, how long each, and how to write them.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    transport: usize,
    size: usize,
    count: usize,
    tcp: bool,
    /// The pseudo-header's sum without the length.
    seed: u64,
    /// IPv4 UDP may go without a checksum (RFC 768).
    unchecked: bool,
}

impl<'a> Segments<'a> {
    /// Plans the cut of a packet; one that is not a super-packet has one segment.
    ///
    /// # Errors
    ///
    /// [`SegmentError`]: the packet is not whole TCP or UDP, or its segment size is 0.
    pub fn new(packet: &'a Packet) -> Result<Self, SegmentError> {
        let parsed = packet.parse()?;
        let protocol = parsed.flow.protocol();
        let tcp = match parsed.message {
            _ if parsed.first_fragment => return Err(SegmentError::Fragment),
            Message::LaterFragment => return Err(SegmentError::Fragment),
            Message::Tcp(_) => true,
            Message::Udp => false,
            _ => return Err(SegmentError::Protocol(protocol)),
        };
        let bytes = &packet.bytes()[..parsed.total_len as usize];
        let transport = usize::from(parsed.transport);
        let (headers, payload) = bytes.split_at(usize::from(parsed.payload));
        let size = match packet.offload.gso {
            Some(gso) if gso.size == 0 => return Err(SegmentError::ZeroSize),
            Some(gso) => usize::from(gso.size),
            None => payload.len().max(1),
        };
        let at = transport + if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let field = read16(headers, at);
        let partial = packet.offload.partial_checksum;
        // A partial checksum was made for the whole length. It is the authority: behind a
        // routing header its destination is not the one in the IPv6 header (RFC 8200 §8.1).
        let seed = if partial {
            u64::from(field) + u64::from(!((bytes.len() - transport) as u16))
        } else {
            pseudo_header(parsed.flow.src(), parsed.flow.dst(), protocol.0, 0)
        };
        Ok(Self {
            headers,
            payload,
            transport,
            size,
            count: payload.len().div_ceil(size).max(1),
            tcp,
            seed,
            unchecked: !tcp && !partial && field == 0 && headers[0] >> 4 == 4,
        })
    }

    /// How many segments: at least 1.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Length of segment `index` as an IP packet, in bytes; 0 if there is no such segment.
    pub fn len_of(&self, index: usize) -> usize {
        if index < self.count {
            self.headers.len() + self.part(index).len()
        } else {
            0
        }
    }

    /// Length of the longest segment as an IP packet, in bytes.
    pub fn longest(&self) -> usize {
        self.len_of(0)
    }

    /// Appends segment `index` to `out`, complete; appends nothing if there is no such segment.
    #[inline]
    pub fn append_to(&self, index: usize, out: &mut BytesMut) {
        if index >= self.count {
            return;
        }
        let start = out.len();
        out.reserve(self.len_of(index));
        out.extend_from_slice(self.headers);
        out.extend_from_slice(self.part(index));
        self.finish(index, &mut out[start..]);
    }

    /// Writes segment `index`, complete, to the front of `out` and returns its length; `None` if
    /// there is no such segment or no room for it.
    #[inline]
    pub fn write_to(&self, index: usize, out: &mut [u8]) -> Option<usize> {
        let len = self.len_of(index);
        if len == 0 {
            return None;
        }
        let out = out.get_mut(..len)?;
        let (headers, payload) = out.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        payload.copy_from_slice(self.part(index));
        self.finish(index, out);
        Some(len)
    }

    fn part(&self, index: usize) -> &'a [u8] {
        let from = (index * self.size).min(self.payload.len());
        let to = (from + self.size).min(self.payload.len());
        &self.payload[from..to]
    }

    /// Corrects the headers of a segment that was copied, and completes its checksums.
    fn finish(&self, index: usize, segment: &mut [u8]) {
        let len = segment.len();
        if segment[0] >> 4 == 4 {
            write16(segment, 2, len as u16);
            let id = read16(segment, 4).wrapping_add(index as u16);
            write16(segment, 4, id);
            write16(segment, 10, 0);
            let header = usize::from(segment[0] & 0xf) * 4;
            let checksum = !fold(sum(&segment[..header], 0));
            write16(segment, 10, checksum);
        } else {
            write16(segment, 4, (len - 40) as u16);
        }
        let message = &mut segment[self.transport..];
        let len = message.len();
        let at = if self.tcp {
            self.finish_tcp(index, message);
            TCP_CHECKSUM
        } else {
            write16(message, UDP_LENGTH, len as u16);
            UDP_CHECKSUM
        };
        write16(message, at, 0);
        if !self.unchecked {
            let checksum = !fold(sum(message, self.seed + len as u64));
            write16(message, at, never_zero(!self.tcp, checksum));
        }
    }

    fn finish_tcp(&self, index: usize, message: &mut [u8]) {
        let mut sequence = [0; 4];
        sequence.copy_from_slice(&message[TCP_SEQUENCE..TCP_SEQUENCE + 4]);
        let sequence = u32::from_be_bytes(sequence).wrapping_add((index * self.size) as u32);
        message[TCP_SEQUENCE..TCP_SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
        if index + 1 < self.count {
            message[TCP_FLAGS] &= !(tcp_flags::PSH | tcp_flags::FIN);
        }
        if index > 0 {
            message[TCP_FLAGS] &= !tcp_flags::CWR;
        }
    }
}

/// Cuts a packet into complete segments, each in a buffer of `pool` with headroom, and hands them
/// to `sink` in order. Returns how many.
///
/// A packet that is not a super-packet comes out as one complete copy; to complete it in place
/// use [`complete_checksum`]. The packet itself stays with the caller.
///
/// # Errors
///
/// [`SegmentError`]; nothing was handed to `sink` then.
pub fn split(
    packet: &Packet,
    pool: &mut BufferPool,
    mut sink: impl FnMut(Packet),
) -> Result<usize, SegmentError> {
    let segments = Segments::new(packet)?;
    for index in 0..segments.count() {
        let mut buf = pool.take();
        segments.append_to(index, &mut buf);
        sink(Packet::new(buf, HEADROOM));
    }
    Ok(segments.count())
}

/// Completes a partial checksum in place; does nothing to a packet that has none.
///
/// A super-packet's checksum covers the whole of it afterwards: cut it with [`split`] instead if
/// it is to leave for a wire.
///
/// # Errors
///
/// [`SegmentError`]; the packet is as it was then.
pub fn complete_checksum(packet: &mut Packet) -> Result<(), SegmentError> {
    if !packet.offload.partial_checksum {
        return Ok(());
    }
    let parsed = packet.parse()?;
    let protocol = parsed.flow.protocol();
    let field = match parsed.message {
        _ if parsed.first_fragment => return Err(SegmentError::Fragment),
        Message::LaterFragment => return Err(SegmentError::Fragment),
        Message::Tcp(_) => TCP_CHECKSUM,
        Message::Udp => UDP_CHECKSUM,
        Message::Other => return Err(SegmentError::Protocol(protocol)),
        _ if protocol == Protocol::ICMPV6 => ICMPV6_CHECKSUM,
        _ => return Err(SegmentError::Protocol(protocol)),
    };
    // The field holds the pseudo-header's sum, so the sum over the message includes it.
    let message = &mut packet.bytes_mut()[usize::from(parsed.transport)..parsed.total_len as usize];
    let checksum = !fold(sum(message, 0));
    write16(
        message,
        field,
        never_zero(protocol == Protocol::UDP, checksum),
    );
    packet.offload = Offload {
        partial_checksum: false,
        ..packet.offload
    };
    Ok(())
}

/// A UDP checksum computed as 0 is sent as 0xFFFF, for 0 means "none" (RFC 768).
const fn never_zero(udp: bool, checksum: u16) -> u16 {
    if udp && checksum == 0 {
        0xffff
    } else {
        checksum
    }
}

fn read16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn write16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
