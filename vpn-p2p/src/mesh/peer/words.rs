//! What one peer is told, and what it tells.

use std::time::Duration;

use bytes::BytesMut;
use ipnet::IpNet;
use vpn_core::DropReason;

use crate::mesh::path::{PathConfig, PathEvent};
use crate::mesh::record::SignedRecord;
use crate::mesh::way::{HubId, Policy, Way};

/// What may be done with one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerRules {
    /// Which ways.
    pub policy: Policy,
    /// Networks behind it that are believed, if its record claims them or a part of them.
    pub routes: Vec<IpNet>,
}

/// Settings of every peer.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Times of paths.
    pub path: PathConfig,
    /// After how long without packets a peer is let go. Default 10 min.
    pub idle_after: Duration,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            path: PathConfig::default(),
            idle_after: Duration::from_secs(600),
        }
    }
}

/// What is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub enum PeerOut {
    /// Our own record, ahead of a handshake.
    Introduce(HubId),
    /// This datagram, by this way.
    Datagram(Way, Vec<u8>),
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// Packets go another way, or cannot go.
    Path(PathEvent),
    /// Packets that were held can be sealed now.
    Ready,
    /// The peer says that this is new about it; not yet believed.
    Record(Box<SignedRecord>),
    /// It was let go, by us or by itself: nothing is wrong.
    Gone,
}

/// What a datagram came to.
#[derive(Debug)]
pub enum Arrival {
    /// An IP packet, not yet checked; the bytes behind it are padding.
    Packet(BytesMut),
    /// Behind the header a super-packet that is to be completed so.
    Super(vpn_core::Offload, BytesMut),
    /// It was for the protocol.
    Handled,
    /// It was dropped.
    Dropped(DropReason),
}

/// What was done with one peer so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCounters {
    /// Attempts to connect.
    pub attempts: u64,
    /// Attempts after the first of each time.
    pub retries: u64,
    /// Sessions that came to be.
    pub sessions: u64,
    /// Packets and bytes sent directly.
    pub tx_direct: [u64; 2],
    /// Packets and bytes sent by a relay.
    pub tx_relayed: [u64; 2],
    /// Packets and bytes that came directly.
    pub rx_direct: [u64; 2],
    /// Packets and bytes that came by a relay.
    pub rx_relayed: [u64; 2],
    /// How often a direct way was given up for a relay.
    pub fallbacks: u64,
    /// How often a direct way was taken.
    pub direct: u64,
}
