//! What is told about a link.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use vpn_core::PeerId;

use crate::mesh::way::{Carrier, HubId};

/// How far a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkState {
    /// It has no endpoint to ask, or nothing to say about itself yet.
    Idle,
    /// Hellos are out.
    Greeting,
    /// The hub answered; handshake and registration are under way.
    Joining,
    /// We are a member.
    Up,
    /// It did not work; it is tried again after a pause.
    Waiting,
    /// We said goodbye. The end.
    Stopped,
}

impl LinkState {
    /// Its name in status and metrics: lower case, stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Greeting => "greeting",
            Self::Joining => "joining",
            Self::Up => "up",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
        }
    }
}

/// What is told about a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// The hub's key.
    pub hub: PeerId,
    /// Its name in this node.
    pub id: HubId,
    /// How far.
    pub state: LinkState,
    /// Since when it is up, or not up.
    pub since: Instant,
    /// By which carrier; `None` before an answer.
    pub carrier: Option<Carrier>,
    /// Where the hub answers; before that where it is asked first.
    pub endpoint: Option<SocketAddr>,
    /// Time to the hub and back, as last measured.
    pub rtt: Option<Duration>,
    /// How the hub sees our socket; over TLS it does not see it.
    pub observed: Option<SocketAddr>,
    /// Whether the hub lets members reach only those it allows.
    pub isolated: bool,
    /// Why it is not up, or not by UDP; empty if there is nothing to say.
    pub why: String,
    /// When the next round begins, if one is waited for.
    pub retry_at: Option<Instant>,
    /// What was counted.
    pub counters: LinkCounters,
}

/// What a link counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Rounds of Hellos that were begun.
    pub rounds: u64,
    /// Hellos, all endpoints and carriers together.
    pub hellos: u64,
    /// Times it came up over UDP.
    pub up_udp: u64,
    /// Times it came up over TLS.
    pub up_tls: u64,
    /// Times it went down.
    pub down: u64,
    /// Changes from TLS to UDP without going down.
    pub returns: u64,
    /// Answers that were not believed: another key, another nonce, an expired record.
    pub disbelieved: u64,
    /// "You are a stranger" that answered nothing we sent.
    pub strangers_ignored: u64,
    /// Refusals of the hub.
    pub refused: u64,
}
