//! Decides what a node says about itself to people and metrics.

use std::sync::atomic::Ordering;
use std::time::Instant;

use libp2p::Multiaddr;
use vpn_core::PeerId;

use super::Shared;

/// What a node has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that were made.
    pub connections: u64,
    /// Of these through a relay.
    pub relayed: u64,
    /// Holes that were punched: a relayed connection that became direct.
    pub punched: u64,
    /// Holes that could not be punched; the relay stays.
    pub not_punched: u64,
    /// Questions to the directory, those about nothing to be found included.
    pub queries: u64,
    /// Messages that these took.
    pub requests: u64,
    /// Of these without an answer.
    pub unanswered: u64,
    /// Messages of others to our part of the directory.
    pub asked: u64,
    /// Records that others gave us to keep, and that were kept.
    pub kept: u64,
    /// Bytes of these.
    pub kept_bytes: u64,
    /// Not kept: not signed by who it is about, expired, or of no member.
    pub invalid: u64,
    /// Not kept: nothing new.
    pub old: u64,
    /// Not kept: there is no room.
    pub full: u64,
    /// Not kept: who gave them gave too many.
    pub too_many: u64,
    /// Answers to our questions with nothing in them that is believed.
    pub rubbish: u64,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// Whether it goes through a relay.
    pub is_relayed: bool,
    /// Where the peer is, or the relay with what follows.
    pub endpoint: Multiaddr,
    /// Since when.
    pub since: Instant,
}

/// How a node stands.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Who it is.
    pub id: PeerId,
    /// Where it can be reached.
    pub endpoints: Vec<Multiaddr>,
    /// Who is connected, and how; by name.
    pub peers: Vec<(PeerId, Vec<LinkStatus>)>,
    /// Of these, who has proven to be a member.
    pub admitted: Vec<PeerId>,
    /// Connections that were refused.
    pub turned_away: u64,
    /// Records of peers that were not believed.
    pub not_believed: u64,
    /// What it has done.
    pub counters: Counters,
}

impl NodeStatus {
    pub(super) fn of(shared: &Shared) -> Self {
        let standing = shared.standing();
        let links = standing.links.iter();
        let mut peers: Vec<_> = links.map(|(peer, all)| (*peer, all.clone())).collect();
        let mut admitted: Vec<_> = standing.admitted.iter().copied().collect();
        let counters = standing.counters;
        drop(standing);
        peers.sort_by_key(|(peer, _)| *peer);
        admitted.sort();
        Self {
            id: shared.id,
            endpoints: shared.endpoints.borrow().clone(),
            peers,
            admitted,
            turned_away: shared.door.turned_away(),
            not_believed: shared.not_believed.load(Ordering::Relaxed),
            counters,
        }
    }
}
