//! Packets: parsed, rewritten in place, moved in batches.
//!
//! A [`Packet`] owns one buffer with room before and behind the IP packet, so that a transport can
//! put its header in front and its tag behind without copying. It carries its [`Offload`]
//! description from the device to the transport, so that a super-packet is looked up and
//! rewritten once.
//!
//! ```
//! use vpn_core::packet::Packet;
//! # let bytes = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x66, 0xcc, 10, 0, 0, 1, 10, 0, 0, 2,
//! #              0, 7, 0, 53, 0, 8, 0, 0];
//! let packet = Packet::from_slice(&bytes);
//! let parsed = packet.parse()?;
//! assert_eq!(parsed.flow.dst_port(), 53);
//! # Ok::<(), vpn_core::ParseError>(())
//! ```

mod batch;
pub mod checksum;
mod clamp;
mod coalesce;
mod coalesce_udp;
mod fragment;
mod icmp_error;
mod join;
mod offload;
mod parse;
mod plain;
mod quoted;
mod reset;
pub mod segment;
mod split_v4;
mod too_big;
mod translate;

use std::fmt;

use bytes::BytesMut;

pub use batch::{BufferPool, PacketBatch};
pub use clamp::clamp_mss;
pub use coalesce::coalesce;
pub use coalesce_udp::coalesce_datagrams;
pub use fragment::Fragment;
pub use icmp_error::{Complaint, IcmpError};
pub use join::Joiner;
pub use offload::{Gso, Offload};
pub use parse::{Message, ParseError, Parsed, tcp_flags};
pub use plain::Plain;
pub use quoted::{Quoted, Requote};
pub use reset::{TcpMarks, TcpReset};
pub use too_big::SegmentTooBig;

/// Bytes kept free before a packet: room for a vnet header (12), a WireGuard data header (16) and
/// an outer frame.
pub const HEADROOM: usize = 64;

/// Bytes kept free behind a packet: WireGuard pads to 16 and adds a 16-byte tag.
pub const TAILROOM: usize = 32;

/// One IP packet, possibly a super-packet, with room before and behind.
///
/// The default is empty, has no buffer and does not parse: what is left where a packet was taken
/// from.
#[derive(Default)]
pub struct Packet {
    buf: BytesMut,
    start: u32,
    /// How segments and checksums are to be completed.
    pub offload: Offload,
}

impl Packet {
    /// A copy of these bytes in a buffer of their own size, with [`HEADROOM`] and [`TAILROOM`].
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut buf = BytesMut::with_capacity(HEADROOM + bytes.len() + TAILROOM);
        buf.resize(HEADROOM, 0);
        buf.extend_from_slice(bytes);
        Self::new(buf, HEADROOM)
    }

    /// The packet that begins at `start` in `buf` and ends where `buf` ends.
    ///
    /// A `start` behind the end gives an empty packet, which does not parse.
    pub fn new(buf: BytesMut, start: usize) -> Self {
        let start = start.min(buf.len()) as u32;
        Self {
            buf,
            start,
            offload: Offload::NONE,
        }
    }

    /// The same packet with an offload description.
    #[must_use]
    pub fn with_offload(mut self, offload: Offload) -> Self {
        self.offload = offload;
        self
    }

    /// The IP packet.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.start as usize..]
    }

    /// The IP packet, to be changed.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buf[self.start as usize..]
    }

    /// Length of the IP packet in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.buf.len() - self.start as usize
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes free before the packet.
    pub fn headroom(&self) -> usize {
        self.start as usize
    }

    /// Bytes free behind the packet.
    pub fn tailroom(&self) -> usize {
        self.buf.capacity() - self.buf.len()
    }

    /// Parses the headers. Nothing is kept: a packet is moved more often than it is parsed, and
    /// the result is larger than the packet's own description.
    ///
    /// # Errors
    ///
    /// Any bytes give a result; [`ParseError`] says what is wrong with them.
    #[inline]
    pub fn parse(&self) -> Result<Parsed, ParseError> {
        Parsed::from_bytes(self.bytes())
    }

    /// The buffer, with everything in it, and where the packet begins.
    pub fn into_parts(self) -> (BytesMut, usize) {
        (self.buf, self.start as usize)
    }

    /// Cuts off what lies behind `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.buf.truncate(self.start as usize + len);
    }

    /// A copy in a buffer of its own size: what a queue should hold instead of a 64 KiB buffer.
    #[must_use]
    pub fn shrunk(&self) -> Self {
        let mut copy = Self::from_slice(self.bytes());
        copy.offload = self.offload;
        copy
    }

    /// How many packets this is on the wire: 1, or the number of segments of a super-packet.
    pub fn segments(&self) -> usize {
        let Some(gso) = self.offload.gso else {
            return 1;
        };
        let Ok(parsed) = self.parse() else {
            return 1;
        };
        let payload = self.len().saturating_sub(parsed.payload as usize);
        payload.div_ceil(gso.size.max(1) as usize).max(1)
    }
}

impl fmt::Debug for Packet {
    /// Length and headers only: payloads do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut s = f.debug_struct("Packet");
        s.field("len", &self.len());
        if let Ok(parsed) = self.parse() {
            s.field("flow", &parsed.flow);
        }
        if self.offload != Offload::NONE {
            s.field("offload", &self.offload);
        }
        s.finish()
    }
}
