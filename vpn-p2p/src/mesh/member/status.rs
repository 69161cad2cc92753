//! How a member stands: what status and metrics are made of.

use std::time::Instant;

use vpn_core::{DropCounters, PeerId};

use super::{Conflict, Member};
use crate::mesh::link::LinkStatus;
use crate::mesh::path::PathStatus;
use crate::mesh::peer::{PeerCounters, Stage};
use crate::mesh::record::Record;

/// One hub, as this member sees it.
#[derive(Clone, Debug)]
pub struct HubStanding {
    /// Its key.
    pub hub: PeerId,
    /// How the link stands.
    pub link: LinkStatus,
}

/// One peer, as this member sees it.
#[derive(Clone, Debug)]
pub struct PeerStanding {
    /// Its key.
    pub peer: PeerId,
    /// What it says about itself.
    pub record: Option<Record>,
    /// Where it stands.
    pub stage: Stage,
    /// How its paths stand.
    pub path: PathStatus,
    /// What was done so far.
    pub counters: PeerCounters,
}

/// How a member stands.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Our own record.
    pub own: Record,
    /// Hubs, in the order of the configuration.
    pub hubs: Vec<HubStanding>,
    /// Peers, in no order.
    pub peers: Vec<PeerStanding>,
    /// What was done with peers that are forgotten.
    pub forgotten: PeerCounters,
    /// What peers claimed and did not get, and how often.
    pub conflicts: Vec<(Conflict, u64)>,
    /// Packets that were dropped after they had been taken.
    pub drops: DropCounters,
}

impl Member {
    /// How it stands. It copies everything: for people and metrics, not for packets.
    pub fn status(&self, _now: Instant) -> MemberStatus {
        let standing = |entry: &super::Entry| PeerStanding {
            peer: entry.peer.id(),
            record: entry.peer.record().map(|record| record.record().clone()),
            stage: entry.peer.stage(),
            path: entry.peer.path_status(),
            counters: entry.peer.counters(),
        };
        let holder = |network: &ipnet::IpNet| {
            let slot = self.addresses.peer(network.addr())?;
            Some(self.entry(slot)?.peer.id())
        };
        MemberStatus {
            own: self.own.record().clone(),
            hubs: (self.links.iter().zip(&self.config.hubs))
                .map(|(link, config)| HubStanding {
                    hub: config.hub,
                    link: link.status(),
                })
                .collect(),
            peers: self.entries.iter().flatten().map(standing).collect(),
            forgotten: self.forgotten,
            conflicts: (self.conflicts.iter())
                .map(|((network, claimant), times)| {
                    let conflict = Conflict {
                        network: *network,
                        holder: holder(network),
                        claimant: *claimant,
                    };
                    (conflict, *times)
                })
                .collect(),
            drops: self.holding.drops.clone(),
        }
    }
}
