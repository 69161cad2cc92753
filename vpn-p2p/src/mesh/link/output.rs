//! What a link wants done, and what it tells.

use std::fmt;
use std::net::SocketAddr;

use crate::mesh::record::SignedRecord;
use crate::mesh::way::Carrier;
use crate::mesh::wire::{Between, Refusal};

/// What is to be sent or done.
#[derive(Clone, PartialEq, Eq)]
pub enum LinkOut {
    /// A datagram, from the socket that direct paths use.
    Udp(SocketAddr, Vec<u8>),
    /// A datagram by the TLS connection.
    Tls(Vec<u8>),
    /// Connect by TLS to the first of these that answers.
    OpenTls(Vec<SocketAddr>),
    /// Close the TLS connection, or stop opening it.
    CloseTls,
}

impl fmt::Debug for LinkOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(to, bytes) => write!(f, "Udp({to}, {} bytes)", bytes.len()),
            Self::Tls(bytes) => write!(f, "Tls({} bytes)", bytes.len()),
            Self::OpenTls(to) => write!(f, "OpenTls({to:?})"),
            Self::CloseTls => f.write_str("CloseTls"),
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// We are a member. Told again when the carrier changes.
    Up {
        /// By what.
        carrier: Carrier,
        /// How the hub sees our socket; `None` over TLS.
        observed: Option<SocketAddr>,
    },
    /// The hub is gone; it is tried again.
    Down {
        /// For people.
        why: String,
    },
    /// The hub does not take us, or not our newest record. It is tried again, at once with a new one.
    Refused(Refusal),
    /// Who was asked for.
    Found {
        /// The question's.
        id: u32,
        /// Verified, and of who was asked for.
        record: SignedRecord,
        /// Whether it is connected to a hub now.
        online: bool,
    },
    /// The hub knows nobody.
    NotFound {
        /// The question's.
        id: u32,
    },
    /// The hub did not answer in time, or there were too many questions.
    Unanswered {
        /// The question's.
        id: u32,
    },
    /// From hub to hub: only where a hub joined as a neighbour.
    Between(Between),
    /// Somebody we asked for says something new.
    Changed(SignedRecord),
    /// The hub sees our socket there, and did not before.
    Observed(SocketAddr),
    /// Whether members reach only those the hub allows. Told when it changes.
    Isolated(bool),
}
