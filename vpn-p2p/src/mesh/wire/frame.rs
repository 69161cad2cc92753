//! Decides what a datagram between members and hubs means, outside of sessions. The same frames cross
//! streams, one at a time.
//!
//! Every frame begins with four bytes, and numbers are big-endian:
//!
//! ```text
//!  0        1        2        3        4
//! ┌────────┬────────┬────────┬────────┬──────
//! │ kind   │ version│ hops   │ 0      │ body
//! └────────┴────────┴────────┴────────┴──────
//! 0x80 Relay      tag (8), then the datagram: to a hub it names the receiver, from it the sender
//! 0x81 Hello      nonce (8), padding to HELLO bytes
//! 0x82 Welcome    nonce (8), cookie (16), address (19), the hub's record
//! 0x83 Join       cookie (16), the member's record
//! 0x84 Stranger   the first 8 bytes of the body it answers
//! 0x85 Absent     tag (8)
//! 0x86 Introduce  the sender's record; only inside of Relay
//! 0x87 Carry      tag of the receiver (8), of the sender (8), then the datagram; only between hubs
//! ```
//!
//! In Carry `hops` is how many hubs it may still pass, the one it is sent to included; in Relay to a
//! member it is 1 where the datagram came by way of another hub; else 0. Nothing here is believed: records are signed, relayed datagrams sealed, and the rest are
//! hints that cost one question.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use vpn_core::PeerId;

/// The version of these frames. Others are refused.
pub const VERSION: u8 = 1;

/// Bytes of a frame before its body.
pub const HEADER: usize = 4;

/// Bytes in front of a relayed datagram.
pub const RELAY_HEADER: usize = HEADER + Tag::LEN;

/// Bytes in front of a datagram that one hub hands another: both ends have to be named.
pub const CARRY_HEADER: usize = RELAY_HEADER + Tag::LEN;

/// What a hub says of a datagram that another hub handed it. A hint: who is far is sent no super-packets.
pub const FAR: u8 = 1;

/// Largest inner packet, in bytes: what Ethernet's 1500 leave of an outer IPv6 and UDP header (48), the
/// largest header of ours, between two hubs (20), and WireGuard's own 32. The same on every way, so
/// that a packet that fits one fits all; less while a way in use is narrower, as the underlay says.
pub const INNER_MTU: u16 = 1500 - 48 - CARRY_HEADER as u16 - 32;

/// Length of a Hello, in bytes: no answer to an address that has not proven itself is longer.
pub const HELLO: usize = 512;

/// Bytes of a cookie.
pub const COOKIE: usize = 16;

/// Bytes of an address: 6 or 4, the address as IPv6 has it, the port.
const ADDRESS: usize = 19;

/// Longest record of a hub, in bytes: what a Welcome has room for.
pub const MAX_HUB_RECORD: usize = HELLO - HEADER - 8 - COOKIE - ADDRESS;

/// A peer's short name on the wire: the first bytes of its key. A hub has one member of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub [u8; Tag::LEN]);

impl Tag {
    /// Its bytes.
    pub const LEN: usize = 8;
}

impl From<PeerId> for Tag {
    fn from(peer: PeerId) -> Self {
        Self(*peer.0.first_chunk().unwrap_or(&[0; Self::LEN]))
    }
}

/// A frame, borrowed from a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A datagram by way of the hub: for (to a hub) or of (from it) the member named so.
    Relay {
        /// Who.
        tag: Tag,
        /// To a member: [`FAR`] where it came by way of another hub, else 0.
        hops: u8,
        /// The datagram: WireGuard's, or an [`Introduce`](Self::Introduce).
        datagram: &'a [u8],
    },
    /// Who are you, and how do you see me?
    Hello {
        /// What the answer has to repeat.
        nonce: u64,
    },
    /// The hub's answer.
    Welcome {
        /// The question's.
        nonce: u64,
        /// Shows that who has it gets what is sent to its address.
        cookie: [u8; COOKIE],
        /// Where the question came from.
        observed: SocketAddr,
        /// The hub's signed record.
        record: &'a [u8],
    },
    /// A member gives its record, so that the hub knows its session key.
    Join {
        /// From the Welcome.
        cookie: [u8; COOKIE],
        /// Its signed record.
        record: &'a [u8],
    },
    /// The hub does not know this address (any more): say Hello. A hint.
    Stranger {
        /// Of the datagram it answers: shows that its sender saw that.
        echo: [u8; 8],
    },
    /// The hub has no member of this name now. A hint.
    Absent {
        /// Who is not there.
        tag: Tag,
    },
    /// The sender's record, ahead of its first handshake.
    Introduce {
        /// Its signed record.
        record: &'a [u8],
    },
    /// A datagram from a member of one hub to a member of another, on its way between hubs.
    Carry {
        /// For whom.
        to: Tag,
        /// From whom.
        from: Tag,
        /// Hubs it may still pass, the receiver of this frame included.
        hops: u8,
        /// The datagram: WireGuard's.
        datagram: &'a [u8],
    },
}

/// Why a datagram is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Shorter than its kind is, or longer where that matters.
    #[error("too short for its kind")]
    Length,
    /// Another version speaks here.
    #[error("version {0} of the mesh is not spoken here")]
    Version(u8),
    /// No kind of this version.
    #[error("kind {0:#04x} is not known")]
    Kind(u8),
    /// An address that is none.
    #[error("not an address")]
    Address,
}

const RELAY: u8 = 0x80;
const SAY_HELLO: u8 = 0x81;
const WELCOME: u8 = 0x82;
const JOIN: u8 = 0x83;
const STRANGER: u8 = 0x84;
const ABSENT: u8 = 0x85;
const INTRODUCE: u8 = 0x86;
const CARRY: u8 = 0x87;

/// Whether a datagram is a frame of the mesh; otherwise it is WireGuard's, or nobody's.
#[inline]
pub fn is_frame(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|kind| *kind >= RELAY)
}

/// The header of a relayed datagram.
#[inline]
pub fn relay_header(tag: Tag, hops: u8) -> [u8; RELAY_HEADER] {
    let mut header = [0; RELAY_HEADER];
    header[..HEADER].copy_from_slice(&[RELAY, VERSION, hops, 0]);
    header[HEADER..].copy_from_slice(&tag.0);
    header
}

/// The header of a datagram between two hubs.
#[inline]
pub fn carry_header(to: Tag, from: Tag, hops: u8) -> [u8; CARRY_HEADER] {
    let mut header = [0; CARRY_HEADER];
    header[..HEADER].copy_from_slice(&[CARRY, VERSION, hops, 0]);
    header[HEADER..RELAY_HEADER].copy_from_slice(&to.0);
    header[RELAY_HEADER..].copy_from_slice(&from.0);
    header
}

impl<'a> Frame<'a> {
    /// Reads a datagram whose first byte says that it [is a frame](is_frame).
    ///
    /// # Errors
    ///
    /// [`FrameError`]; any bytes give a result.
    pub fn read(datagram: &'a [u8]) -> Result<Self, FrameError> {
        let (&[kind, version, hops, _], body) =
            datagram.split_first_chunk().ok_or(FrameError::Length)?;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        Ok(match kind {
            RELAY => {
                let (tag, datagram) = take(body)?;
                Self::Relay {
                    tag: Tag(tag),
                    hops,
                    datagram,
                }
            }
            // Shorter than its answer may be: it would make us a lever.
            SAY_HELLO if datagram.len() != HELLO => return Err(FrameError::Length),
            SAY_HELLO => Self::Hello {
                nonce: u64::from_be_bytes(take(body)?.0),
            },
            WELCOME => {
                let (nonce, rest) = take(body)?;
                let (cookie, rest) = take(rest)?;
                let (observed, record) = take(rest)?;
                Self::Welcome {
                    nonce: u64::from_be_bytes(nonce),
                    cookie,
                    observed: read_address(&observed)?,
                    record,
                }
            }
            JOIN => {
                let (cookie, record) = take(body)?;
                Self::Join { cookie, record }
            }
            STRANGER => Self::Stranger {
                echo: take(body)?.0,
            },
            ABSENT => Self::Absent {
                tag: Tag(take(body)?.0),
            },
            INTRODUCE => Self::Introduce { record: body },
            CARRY => {
                let (to, rest) = take(body)?;
                let (from, datagram) = take(rest)?;
                Self::Carry {
                    to: Tag(to),
                    from: Tag(from),
                    hops,
                    datagram,
                }
            }
            other => return Err(FrameError::Kind(other)),
        })
    }

    /// Appends it to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let head = |kind, hops| [kind, VERSION, hops, 0];
        match self {
            Self::Relay {
                tag,
                hops,
                datagram,
            } => {
                out.extend_from_slice(&relay_header(*tag, *hops));
                out.extend_from_slice(datagram);
            }
            Self::Hello { nonce } => {
                out.extend_from_slice(&head(SAY_HELLO, 0));
                out.extend_from_slice(&nonce.to_be_bytes());
                out.resize(start + HELLO, 0);
            }
            Self::Welcome {
                nonce,
                cookie,
                observed,
                record,
            } => {
                out.extend_from_slice(&head(WELCOME, 0));
                out.extend_from_slice(&nonce.to_be_bytes());
                out.extend_from_slice(cookie);
                write_address(*observed, out);
                out.extend_from_slice(record);
            }
            Self::Join { cookie, record } => {
                out.extend_from_slice(&head(JOIN, 0));
                out.extend_from_slice(cookie);
                out.extend_from_slice(record);
            }
            Self::Stranger { echo } => {
                out.extend_from_slice(&head(STRANGER, 0));
                out.extend_from_slice(echo);
            }
            Self::Absent { tag } => {
                out.extend_from_slice(&head(ABSENT, 0));
                out.extend_from_slice(&tag.0);
            }
            Self::Introduce { record } => {
                out.extend_from_slice(&head(INTRODUCE, 0));
                out.extend_from_slice(record);
            }
            Self::Carry {
                to,
                from,
                hops,
                datagram,
            } => {
                out.extend_from_slice(&carry_header(*to, *from, *hops));
                out.extend_from_slice(datagram);
            }
        }
    }

    /// The frame's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), FrameError> {
    let (head, rest) = bytes.split_first_chunk().ok_or(FrameError::Length)?;
    Ok((*head, rest))
}

fn read_address(bytes: &[u8; ADDRESS]) -> Result<SocketAddr, FrameError> {
    let (family, rest) = take::<1>(bytes)?;
    let (address, port) = take::<16>(rest)?;
    let port = u16::from_be_bytes(take(port)?.0);
    let address = Ipv6Addr::from(address);
    let address = match (family, address.to_ipv4_mapped()) {
        ([4], Some(address)) => IpAddr::V4(address),
        ([6], None) => IpAddr::V6(address),
        _ => return Err(FrameError::Address),
    };
    Ok(SocketAddr::new(address, port))
}

fn write_address(address: SocketAddr, out: &mut Vec<u8>) {
    let (family, bytes) = match address.ip().to_canonical() {
        IpAddr::V4(address) => (4, address.to_ipv6_mapped()),
        IpAddr::V6(address) => (6, address),
    };
    out.push(family);
    out.extend_from_slice(&bytes.octets());
    out.extend_from_slice(&address.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> Vec<Frame<'static>> {
        let record = b"record";
        let welcome = |observed: &str| Frame::Welcome {
            nonce: 1 << 60,
            cookie: [3; COOKIE],
            observed: observed.parse().unwrap(),
            record,
        };
        vec![
            Frame::Relay {
                tag: Tag([9; 8]),
                hops: 3,
                datagram: b"\x04\0\0\0data",
            },
            Frame::Hello { nonce: 7 },
            welcome("192.0.2.1:5"),
            welcome("[2001:db8::1]:6"),
            Frame::Join {
                cookie: [4; COOKIE],
                record,
            },
            Frame::Stranger { echo: [5; 8] },
            Frame::Absent { tag: Tag([1; 8]) },
            Frame::Introduce { record },
            Frame::Carry {
                to: Tag([2; 8]),
                from: Tag([3; 8]),
                hops: 1,
                datagram: b"\x04\0\0\0data",
            },
        ]
    }

    #[test]
    fn every_frame_is_read_as_it_was_written() {
        for frame in frames() {
            let bytes = frame.to_bytes();
            assert!(is_frame(&bytes));
            assert_eq!(Frame::read(&bytes), Ok(frame));
            for cut in 0..HEADER {
                assert_eq!(Frame::read(&bytes[..cut]), Err(FrameError::Length));
            }
        }
    }

    #[test]
    fn an_answer_is_never_longer_than_its_question() {
        let record = [0; MAX_HUB_RECORD];
        let welcome = Frame::Welcome {
            nonce: 1,
            cookie: [0; COOKIE],
            observed: "[2001:db8::1]:6".parse().unwrap(),
            record: &record,
        };
        let hello = Frame::Hello { nonce: 1 }.to_bytes();
        assert_eq!(hello.len(), HELLO);
        assert_eq!(welcome.to_bytes().len(), HELLO);
        assert_eq!(Frame::read(&hello[..HELLO - 1]), Err(FrameError::Length));
        let relay = relay_header(Tag([0; 8]), 0).len();
        assert!(Frame::Absent { tag: Tag([0; 8]) }.to_bytes().len() <= relay);
        assert!(Frame::Stranger { echo: [0; 8] }.to_bytes().len() <= relay);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_result(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(frame) = Frame::read(&bytes) {
                let again = frame.to_bytes();
                prop_assert_eq!(Frame::read(&again), Ok(frame));
            }
        }
    }
}
