//! Decides what the bytes inside of a session mean: IP packets, super-packets, and what members and
//! hubs tell each other.
//!
//! | First byte | What follows |
//! |---|---|
//! | 0x4., 0x6. | an IP packet; it begins with this byte |
//! | 0x10 | a [`ToHub`], [`ToMember`] or [`ToPeer`], as postcard writes it |
//! | 0x20 | flags (1), segment size (2, big-endian), then a super-packet |
//!
//! Everything here was sealed by who holds the session key of a signed record, so it is authentic;
//! that it makes sense is for the receiver to check.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vpn_core::Offload;
use vpn_core::packet::Gso;
use zeroize::Zeroizing;

use super::Between;

/// The first byte of a control message.
pub const CONTROL: u8 = 0x10;

/// The first byte of a super-packet.
pub const SUPER: u8 = 0x20;

/// Bytes in front of a super-packet.
pub const SUPER_HEADER: usize = 4;

const PARTIAL_CHECKSUM: u8 = 1;
const SEGMENTED: u8 = 2;

/// What a session held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// An IP packet.
    Packet,
    /// Behind [`SUPER_HEADER`] bytes a packet that is to be completed so.
    Super(Offload),
    /// A control message.
    Control,
    /// None of these.
    Unknown,
}

/// What the first bytes say.
#[inline]
pub fn inner(bytes: &[u8]) -> Inner {
    match bytes {
        [first, ..] if matches!(first >> 4, 4 | 6) => Inner::Packet,
        [CONTROL, ..] => Inner::Control,
        [SUPER, flags, high, low, _, ..] => {
            let size = u16::from_be_bytes([*high, *low]);
            let segmented = flags & SEGMENTED != 0;
            if flags & !(PARTIAL_CHECKSUM | SEGMENTED) != 0 || segmented != (size != 0) {
                return Inner::Unknown;
            }
            Inner::Super(Offload {
                gso: segmented.then_some(Gso { size }),
                partial_checksum: flags & PARTIAL_CHECKSUM != 0,
            })
        }
        _ => Inner::Unknown,
    }
}

/// What stands in front of a super-packet.
#[inline]
pub fn super_header(offload: Offload) -> [u8; SUPER_HEADER] {
    let size = offload.gso.map_or(0, |gso| gso.size);
    let mut flags = 0;
    if offload.partial_checksum {
        flags |= PARTIAL_CHECKSUM;
    }
    if size != 0 {
        flags |= SEGMENTED;
    }
    let [high, low] = size.to_be_bytes();
    [SUPER, flags, high, low]
}

/// A message that can be sealed.
pub trait Plain: Serialize + DeserializeOwned {
    /// Its bytes, to be sealed.
    fn to_plain(&self) -> Vec<u8> {
        // Numbers, addresses and lists: there is nothing in them that postcard could refuse.
        postcard::to_extend(self, vec![CONTROL]).unwrap_or_default()
    }

    /// Reads what [`to_plain`](Self::to_plain) wrote; `None` for anything else.
    fn from_plain(bytes: &[u8]) -> Option<Self> {
        let (&CONTROL, body) = bytes.split_first()? else {
            return None;
        };
        postcard::from_bytes(body).ok()
    }
}

/// A shared secret that admits. Wiped when dropped; `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(pub Zeroizing<String>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// Who is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum What {
    /// Who has this virtual address, or a network behind it that holds it.
    Address(IpAddr),
    /// The peer with this key.
    Peer([u8; 32]),
    /// The peer whose key begins so.
    Tag([u8; 8]),
}

/// Why a hub does not take a member. What is said here is for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Neither its key nor its token is on the hub's list.
    #[error("the hub does not know this key, and the token is not its own")]
    NotAdmitted,
    /// An address it claims is another member's, or not allowed to it.
    #[error("the address {address} is not this member's to use: {}", shown(owner))]
    Address {
        /// Which.
        address: IpAddr,
        /// Whose it is, or why it may not be used.
        owner: String,
    },
    /// A network it claims is not allowed to it.
    #[error("the network {} behind it is not admitted by the hub", shown(.0))]
    Route(String),
    /// The hub has as many members as it may have.
    #[error("the hub is full: {0} members")]
    Full(u32),
    /// Its record is not newer than the one the hub has, which has this sequence number.
    #[error("a newer record is known, number {0}")]
    Old(u64),
    /// Its record is not believed.
    #[error("the record is not believed")]
    Record,
    /// Another member's key begins with the same eight bytes.
    #[error("another member's key begins like this one: make a new key")]
    Taken,
    /// Its record is valid for longer than this many seconds from now. Compare the clocks of both.
    #[error("the record is valid for more than {0} s")]
    Lifetime(u64),
}

/// Longest text of a hub that is shown, in characters: a sentence.
const MAX_SHOWN: usize = 120;

/// A hub's words for people and logs: nothing in them moves a cursor, ends a line or turns the
/// direction of writing.
fn shown(text: &str) -> String {
    let plain = |c: char| match c {
        '\'' | '"' => c.to_string(),
        c => c.escape_debug().to_string(),
    };
    text.chars().take(MAX_SHOWN).map(plain).collect()
}

/// What a member tells a hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHub {
    /// Take me, or: this is new about me. Answered by [`ToMember::Registered`] or
    /// [`ToMember::Refused`].
    Register {
        /// What the answer repeats.
        id: u32,
        /// What admits, where that is not the key.
        token: Option<Token>,
        /// The member's signed record.
        record: Vec<u8>,
    },
    /// Who is this? Answered by [`ToMember::Found`] or [`ToMember::NotFound`]; of who was found, what
    /// changes is told from then on.
    Find {
        /// What the answer repeats.
        id: u32,
        /// Who.
        what: What,
    },
    /// Are you there, and how do you see me? Answered by [`ToMember::Pong`].
    Ping {
        /// What the answer repeats.
        nonce: u32,
    },
    /// The change of this peer arrived.
    Have {
        /// Whose record.
        peer: [u8; 32],
        /// Its number.
        sequence: u64,
    },
    /// I go.
    Bye,
    /// From a hub that joined as a [neighbour](Between); from members it means nothing.
    Between(Between),
}

/// What a hub tells a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMember {
    /// You are a member.
    Registered {
        /// The question's.
        id: u32,
        /// Where it came from.
        observed: Option<SocketAddr>,
        /// Members do not reach each other through this hub, but those it allows.
        isolated: bool,
    },
    /// You are not.
    Refused {
        /// The question's.
        id: u32,
        /// Why.
        why: Refusal,
    },
    /// This is who you asked for.
    Found {
        /// The question's.
        id: u32,
        /// Its signed record.
        record: Vec<u8>,
        /// Whether it is connected to a hub now.
        online: bool,
    },
    /// There is nobody.
    NotFound {
        /// The question's.
        id: u32,
    },
    /// Here I am.
    Pong {
        /// The question's.
        nonce: u32,
        /// Where it came from.
        observed: Option<SocketAddr>,
    },
    /// Somebody you asked for has a new record. Repeated until you [have](ToHub::Have) it.
    Changed {
        /// The new record.
        record: Vec<u8>,
    },
    /// The hub ends: register with another, or again in a while.
    Bye,
    /// To a hub that joined as a [neighbour](Between); members are told nothing of it.
    Between(Between),
}

/// What members tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToPeer {
    /// A challenge: did this come by the way I sent it?
    Probe {
        /// What the answer repeats: counts up on each path, never reused in a session.
        nonce: u32,
        /// Answer by the relay as well: the way back may be dead.
        urgent: bool,
    },
    /// The challenge with this number came, from this address (none: through a relay).
    Pong {
        /// The challenge's.
        nonce: u32,
        /// Where it came from.
        observed: Option<SocketAddr>,
    },
    /// This is new about me. Repeated until [had](Self::Have).
    Record {
        /// The new signed record.
        record: Vec<u8>,
        /// Whether super-packets that you send by a stream reach me by a stream: a hub cannot cut them
        /// for a datagram.
        whole: bool,
    },
    /// Your record of this number arrived.
    Have {
        /// Its number.
        sequence: u64,
    },
    /// I go: forget this session, nothing is wrong.
    Bye,
}

impl Plain for ToHub {}
impl Plain for ToMember {}
impl Plain for ToPeer {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written_and_tokens_are_not_shown() {
        let token = Token(Zeroizing::new("secret-word".into()));
        let register = ToHub::Register {
            id: 1,
            token: Some(token),
            record: vec![1, 2, 3],
        };
        assert!(!format!("{register:?}").contains("secret-word"));
        let plain = register.to_plain();
        assert_eq!(inner(&plain), Inner::Control);
        assert_eq!(ToHub::from_plain(&plain), Some(register));
        assert_eq!(ToHub::from_plain(&plain[1..]), None);
        let probe = ToPeer::Probe {
            nonce: 7,
            urgent: true,
        };
        assert_eq!(ToPeer::from_plain(&probe.to_plain()), Some(probe));
    }

    #[test]
    fn what_a_hub_says_is_shown_without_control_characters() {
        let owner = "it's\x1b[2J a\u{202e}b\r\nlevel=error ö".to_owned() + &"x".repeat(9_000);
        let address = "10.0.0.1".parse().unwrap();
        let refusals = [
            Refusal::Route(owner.clone()),
            Refusal::Address { address, owner },
        ];
        for refusal in refusals {
            let text = refusal.to_string();
            let odd = |c: char| c.is_control() || c == '\u{202e}';
            assert!(!text.contains(odd), "{text}");
            assert!(
                text.contains("it's\\u{1b}[2J") && text.contains('ö'),
                "{text}"
            );
            assert!(text.len() < 300, "{}", text.len());
        }
    }

    #[test]
    fn first_bytes_tell_packets_from_messages() {
        assert_eq!(inner(&[0x45, 0]), Inner::Packet);
        assert_eq!(inner(&[0x60]), Inner::Packet);
        assert_eq!(inner(&[]), Inner::Unknown);
        assert_eq!(inner(&[SUPER, 0, 0]), Inner::Unknown);
        for (size, partial) in [(0, true), (1400, true), (1, false), (u16::MAX, false)] {
            let offload = Offload {
                gso: (size != 0).then_some(Gso { size }),
                partial_checksum: partial,
            };
            let mut bytes = super_header(offload).to_vec();
            assert_eq!(inner(&bytes), Inner::Unknown, "no packet behind it");
            bytes.push(0x45);
            assert_eq!(inner(&bytes), Inner::Super(offload));
        }
        assert_eq!(
            inner(&[SUPER, 2, 0, 0, 0x45]),
            Inner::Unknown,
            "segments of nothing"
        );
        assert_eq!(
            inner(&[SUPER, 0, 0, 9, 0x45]),
            Inner::Unknown,
            "a size for nothing"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_result(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = inner(&bytes);
            bytes.insert(0, CONTROL);
            let _ = (ToHub::from_plain(&bytes), ToMember::from_plain(&bytes), ToPeer::from_plain(&bytes));
        }
    }
}
