//! The words for ways to a peer.

use std::fmt;
use std::net::SocketAddr;

/// A hub, by its place in the configuration: a node may use several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubId(pub u8);

/// Over what a hub is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Carrier {
    /// Datagrams.
    #[default]
    Udp,
    /// TLS over TCP, where UDP does not get through.
    Tls,
}

/// A way to a peer, as who sends sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// By way of this hub.
    Relay(HubId),
    /// Straight to this address, from the socket of its family.
    Direct(SocketAddr),
}

impl Way {
    /// Whether no hub is on it.
    pub const fn is_direct(self) -> bool {
        matches!(self, Self::Direct(_))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay(hub) => write!(f, "relay {}", hub.0),
            Self::Direct(to) => write!(f, "direct {to}"),
        }
    }
}

/// Which ways to a peer may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// Directly where that works, relayed where not.
    #[default]
    Allow,
    /// Directly or not at all: the relay carries the handshake and challenges, but no packet.
    DirectOnly,
    /// Never directly: its candidates are not tried, and what comes directly is dropped. As the policy
    /// for all peers, our own candidates are told to nobody.
    RelayOnly,
    /// Not at all: no session, in either direction.
    Deny,
}
