//! What a path manager says: what is to be sent, what happened, how it stands.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::mesh::way::{Carrier, Way};

/// Something to be sealed and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathOut {
    /// A challenge: [`ToPeer::Probe`](crate::mesh::wire::ToPeer::Probe).
    Probe {
        /// By which way, and no other.
        way: Way,
        /// What the answer repeats.
        nonce: u32,
        /// To be answered by the relay as well.
        urgent: bool,
    },
    /// The answer to one: [`ToPeer::Pong`](crate::mesh::wire::ToPeer::Pong).
    Pong {
        /// By which way.
        way: Way,
        /// The challenge's.
        nonce: u32,
        /// Where the challenge came from, if it came directly.
        observed: Option<SocketAddr>,
    },
    /// A sealed message of no bytes.
    Keepalive {
        /// By which way.
        way: Way,
    },
}

impl PathOut {
    /// By which way it goes.
    pub const fn way(&self) -> Way {
        match *self {
            Self::Probe { way, .. } | Self::Pong { way, .. } | Self::Keepalive { way } => way,
        }
    }
}

/// Something that users may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathEvent {
    /// Packets go by another way now.
    Moved {
        /// By which they went; none: they were held.
        from: Option<Way>,
        /// By which they go; none: they are held.
        to: Option<Way>,
        /// Why.
        why: Why,
    },
}

/// Why packets go by the way they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// Nothing is known yet by which the peer could be reached.
    Unknown,
    /// There is a relay, and no direct way was tried yet.
    Relay,
    /// Direct ways are being tried.
    Trying,
    /// A challenge by this direct way was answered.
    Proven,
    /// It is faster than the direct way before it, or as fast and nearer.
    Better,
    /// The way before it left its challenges unanswered.
    Silent,
    /// The peer told of no address to try, or none that is any use here.
    NoCandidates,
    /// None of the direct ways answered.
    Unanswered,
    /// A direct way answers, but failed too often lately; it has to wait.
    HeldBack,
    /// The peer cannot be reached by the relay before it any more.
    RelayGone,
    /// The session ended: nothing is proven any more.
    SessionLost,
    /// The policy for this peer leaves no other.
    Policy,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "nothing is known of the peer yet",
            Self::Relay => "direct ways were not tried yet",
            Self::Trying => "direct ways are being tried",
            Self::Proven => "its challenge was answered",
            Self::Better => "faster or nearer than the way before",
            Self::Silent => "the way before did not answer",
            Self::NoCandidates => "the peer told of no address to try",
            Self::Unanswered => "no direct way answered",
            Self::HeldBack => "the direct way failed too often lately",
            Self::RelayGone => "the relay before lost the peer",
            Self::SessionLost => "the session ended",
            Self::Policy => "the policy wants it so",
        })
    }
}

/// How it stands with the paths to one peer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PathStatus {
    /// By which way packets go; none: they are held.
    pub way: Option<Way>,
    /// Over what the relay is reached, if it goes by one.
    pub carrier: Option<Carrier>,
    /// The way's smoothed round trip.
    pub rtt: Option<Duration>,
    /// The part (0 to 1) of the last 32 probes of this way that stayed unanswered.
    pub loss: f32,
    /// Since when packets go by it.
    pub since: Option<Instant>,
    /// Why they do.
    pub why: Why,
}
