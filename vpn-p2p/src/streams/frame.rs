//! Decides what the bytes of a stream mean: frames, of which any split of the bytes decodes alike.
//!
//! A frame is a header of eight bytes, and as many more as it says (all numbers big-endian):
//!
//! ```text
//!  0        1        2                 4                                   8
//! ┌────────┬────────┬─────────────────┬───────────────────────────────────┬──────
//! │ kind   │ flags  │ segment size    │ length of what follows            │ body
//! └────────┴────────┴─────────────────┴───────────────────────────────────┴──────
//! ```
//!
//! Flags and segment size describe a super-packet, which crosses whole; in other frames they are 0.
//! The length is judged before anything is allocated for it. What is not understood is an error, never
//! passed over: it ends the one stream it came by.

use bytes::{Buf, BufMut, BytesMut};
use vpn_core::packet::Gso;
use vpn_core::{Offload, Packet};

/// What the first frame of a stream says: other versions are refused.
pub const VERSION: u16 = 1;

/// Bytes of a frame before its body.
pub const HEADER: usize = 8;

/// Largest IP packet a frame holds, in bytes: an IPv6 header and its longest payload.
pub const MAX_PACKET: usize = 40 + 65_535;

const PARTIAL_CHECKSUM: u8 = 1;
const SUPER: u8 = 2;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Packets.
    Data,
    /// Questions whether the peer is there. Never a packet: health is not asked in the data.
    Probe,
}

/// One process's use of a pool: a peer that was started anew is told from its predecessor by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Session(pub u64);

/// A stream between two peers, as both name it: who opened it, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

impl StreamId {
    /// The stream with this number that we opened.
    pub const fn ours(number: u64) -> Self {
        Self(number << 1)
    }

    /// The stream with this number that the peer opened.
    pub const fn theirs(number: u64) -> Self {
        Self(number << 1 | 1)
    }

    /// Whether we opened it.
    pub const fn is_ours(self) -> bool {
        self.0 & 1 == 0
    }

    /// The same stream as the other end names it.
    #[must_use]
    pub const fn mirrored(self) -> Self {
        Self(self.0 ^ 1)
    }

    /// Its number at the end that opened it.
    pub const fn number(self) -> u64 {
        self.0 >> 1
    }
}

/// What one end tells the other beside packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// First frame of who opened the stream: it is the stream of this number.
    Hello {
        /// Of the opener.
        session: Session,
        /// The opener's number of it.
        number: u64,
        /// What it is for.
        purpose: Purpose,
    },
    /// First frame of who was called: the stream may be used.
    Welcome {
        /// Of who was called.
        session: Session,
    },
    /// So many packets and bytes came by this stream and will be handed on.
    Ack {
        /// Packets since the stream began.
        packets: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// Take nothing more from that stream: what was on it goes by others from now on.
    Stop {
        /// As the sender of this frame names it.
        stream: StreamId,
    },
    /// Answer to [`Stop`](Self::Stop): so many packets of it were taken in all.
    Stopped {
        /// As the sender of this frame names it.
        stream: StreamId,
        /// Packets since that stream began.
        packets: u64,
    },
    /// No packet follows on this stream, in this direction.
    Bye,
    /// Is anybody there?
    Ping {
        /// Comes back in the answer.
        number: u64,
    },
    /// Yes.
    Pong {
        /// Of the question.
        number: u64,
    },
}

/// One frame.
#[derive(Debug)]
pub enum Frame {
    /// An IP packet, possibly a super-packet.
    Packet(Packet),
    /// Something between the two ends of the stream.
    Control(Control),
}

/// Bytes that are not frames. The stream they came by is of no more use; nothing else suffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A kind of frame that does not exist: not a peer of ours, or bytes are missing before.
    #[error("there are no frames of kind {0}")]
    Kind(u8),
    /// Flags or a segment size that do not exist, or do not go together.
    #[error("flags {flags:#04x} with segment size {size} mean nothing in frames of kind {kind}")]
    Flags {
        /// The frame's kind.
        kind: u8,
        /// Its flags.
        flags: u8,
        /// Its segment size.
        size: u16,
    },
    /// A length that frames of this kind do not have.
    #[error("frames of kind {kind} are not {length} bytes long")]
    Length {
        /// The frame's kind.
        kind: u8,
        /// Its length, without the header.
        length: u32,
    },
    /// The peer speaks another version. Update the older one.
    #[error("the peer speaks version {0}, and this is version {VERSION}")]
    Version(u16),
    /// A purpose that does not exist in this version.
    #[error("there are no streams for purpose {0}")]
    Purpose(u16),
}

mod kind {
    pub(super) const PACKET: u8 = 0xd0;
    pub(super) const HELLO: u8 = 0xc1;
    pub(super) const WELCOME: u8 = 0xc2;
    pub(super) const ACK: u8 = 0xc3;
    pub(super) const STOP: u8 = 0xc4;
    pub(super) const STOPPED: u8 = 0xc5;
    pub(super) const BYE: u8 = 0xc6;
    pub(super) const PING: u8 = 0xc7;
    pub(super) const PONG: u8 = 0xc8;
}

/// Length of the body of frames of this kind, where it is fixed.
const fn fixed(kind: u8) -> Option<u32> {
    Some(match kind {
        kind::HELLO => 20,
        kind::WELCOME => 12,
        kind::ACK | kind::STOPPED => 16,
        kind::STOP | kind::PING | kind::PONG => 8,
        kind::BYE => 0,
        _ => return None,
    })
}

/// A frame as bytes, the packet's own where it can be: its header stands in the packet's headroom.
#[derive(Debug)]
pub struct Encoded {
    buf: BytesMut,
    at: usize,
}

impl Encoded {
    /// A packet's frame. Its bytes are copied only if there is no room before them.
    pub fn packet(packet: Packet) -> Self {
        let (offload, length) = (packet.offload, packet.len());
        let size = offload.gso.map_or(0, |gso| gso.size);
        let mut flags = 0;
        if offload.partial_checksum {
            flags |= PARTIAL_CHECKSUM;
        }
        if offload.gso.is_some() {
            flags |= SUPER;
        }
        let mut header = [0; HEADER];
        header[0] = kind::PACKET;
        header[1] = flags;
        header[2..4].copy_from_slice(&size.to_be_bytes());
        header[4..].copy_from_slice(&(length as u32).to_be_bytes());
        let (mut buf, start) = packet.into_parts();
        if let Some(at) = start.checked_sub(HEADER) {
            buf[at..start].copy_from_slice(&header);
            return Self { buf, at };
        }
        let mut copy = BytesMut::with_capacity(HEADER + length);
        copy.put_slice(&header);
        copy.put_slice(&buf[start..]);
        Self { buf: copy, at: 0 }
    }

    /// A frame between the two ends.
    pub fn control(control: Control) -> Self {
        let mut buf = BytesMut::with_capacity(HEADER + 20);
        let mut head = |kind: u8| {
            buf.put_u32(u32::from(kind) << 24);
            buf.put_u32(fixed(kind).unwrap_or_default());
        };
        match control {
            Control::Hello {
                session,
                number,
                purpose,
            } => {
                head(kind::HELLO);
                buf.put_u16(VERSION);
                buf.put_u16(match purpose {
                    Purpose::Data => 0,
                    Purpose::Probe => 1,
                });
                buf.put_u64(session.0);
                buf.put_u64(number);
            }
            Control::Welcome { session } => {
                head(kind::WELCOME);
                buf.put_u16(VERSION);
                buf.put_u16(0);
                buf.put_u64(session.0);
            }
            Control::Ack { packets, bytes } => {
                head(kind::ACK);
                buf.put_u64(packets);
                buf.put_u64(bytes);
            }
            Control::Stop { stream } => {
                head(kind::STOP);
                buf.put_u64(stream.0);
            }
            Control::Stopped { stream, packets } => {
                head(kind::STOPPED);
                buf.put_u64(stream.0);
                buf.put_u64(packets);
            }
            Control::Bye => head(kind::BYE),
            Control::Ping { number } => {
                head(kind::PING);
                buf.put_u64(number);
            }
            Control::Pong { number } => {
                head(kind::PONG);
                buf.put_u64(number);
            }
        }
        Self { buf, at: 0 }
    }

    /// Several frames that were joined.
    pub(super) fn joined(buf: BytesMut) -> Self {
        Self { buf, at: 0 }
    }

    /// Bytes of its buffer.
    pub(super) fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    /// Its buffer, to be used again.
    pub(super) fn into_buffer(self) -> Packet {
        Packet::new(self.buf, 0)
    }

    /// What is still to be written.
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.at..]
    }

    /// So many bytes of it were written; more than there are count as all.
    pub fn advance(&mut self, written: usize) {
        self.at = self.at.saturating_add(written).min(self.buf.len());
    }

    /// Whether everything was written.
    pub fn is_written(&self) -> bool {
        self.at == self.buf.len()
    }
}

/// Takes the first frame off the bytes that came. `None`: more are needed.
///
/// A packet keeps its place in memory: it is a part of what was read, not a copy.
///
/// # Errors
///
/// [`FrameError`]; the bytes are as they were.
pub fn decode(bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(head) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let (kind, flags) = (head[0], head[1]);
    let size = u16::from_be_bytes([head[2], head[3]]);
    let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let is_packet = kind == kind::PACKET;
    let fits = match fixed(kind) {
        Some(fixed) => length == fixed,
        None if is_packet => length > 0 && length as usize <= MAX_PACKET,
        None => return Err(FrameError::Kind(kind)),
    };
    if !fits {
        return Err(FrameError::Length { kind, length });
    }
    let known = if is_packet {
        PARTIAL_CHECKSUM | SUPER
    } else {
        0
    };
    if flags & !known != 0 || (flags & SUPER != 0) != (size != 0) {
        return Err(FrameError::Flags { kind, flags, size });
    }
    let whole = HEADER + length as usize;
    if bytes.len() < whole {
        return Ok(None);
    }
    if is_packet {
        let offload = Offload {
            gso: (size != 0).then_some(Gso { size }),
            partial_checksum: flags & PARTIAL_CHECKSUM != 0,
        };
        let packet = Packet::new(bytes.split_to(whole), HEADER).with_offload(offload);
        return Ok(Some(Frame::Packet(packet)));
    }
    let control = body(kind, &bytes[HEADER..whole])?;
    bytes.advance(whole);
    Ok(Some(Frame::Control(control)))
}

/// `body` is as long as frames of this kind are.
fn body(kind: u8, mut body: &[u8]) -> Result<Control, FrameError> {
    let version = |body: &mut &[u8]| match body.get_u16() {
        VERSION => Ok(()),
        other => Err(FrameError::Version(other)),
    };
    let stream = |body: &mut &[u8]| StreamId(body.get_u64()).mirrored();
    Ok(match kind {
        kind::HELLO => {
            version(&mut body)?;
            let purpose = match body.get_u16() {
                0 => Purpose::Data,
                1 => Purpose::Probe,
                other => return Err(FrameError::Purpose(other)),
            };
            Control::Hello {
                session: Session(body.get_u64()),
                number: body.get_u64(),
                purpose,
            }
        }
        kind::WELCOME => {
            version(&mut body)?;
            body.advance(2);
            let session = Session(body.get_u64());
            Control::Welcome { session }
        }
        kind::ACK => Control::Ack {
            packets: body.get_u64(),
            bytes: body.get_u64(),
        },
        kind::STOP => Control::Stop {
            stream: stream(&mut body),
        },
        kind::STOPPED => Control::Stopped {
            stream: stream(&mut body),
            packets: body.get_u64(),
        },
        kind::BYE => Control::Bye,
        kind::PING => Control::Ping {
            number: body.get_u64(),
        },
        kind::PONG => Control::Pong {
            number: body.get_u64(),
        },
        other => return Err(FrameError::Kind(other)),
    })
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whose = if self.is_ours() { "ours" } else { "theirs" };
        write!(f, "{whose}#{}", self.number())
    }
}
