//! What a member is told when it starts.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use vpn_core::PeerId;

use crate::mesh::link::LinkConfig;
use crate::mesh::peer::{PeerConfig, PeerRules};

/// Peers a member keeps at the same time. Each costs a few kilobytes; beyond it the one that was
/// idle longest makes room.
pub const MAX_PEERS: usize = 20_000;

/// How long a record of ours is valid. It is made anew when half of that is over.
pub const RECORD_LIFETIME: Duration = Duration::from_secs(2 * 3600);

/// What is known of one peer beforehand.
#[derive(Clone, Debug)]
pub struct KnownPeer {
    /// Its key.
    pub peer: PeerId,
    /// Addresses that are its and nobody else's.
    pub addresses: Vec<IpAddr>,
    /// What may be done with it.
    pub rules: PeerRules,
}

/// A member's settings.
#[derive(Clone, Debug, Default)]
pub struct MemberConfig {
    /// What people call it: see [`Record::name`](crate::mesh::Record::name).
    pub name: String,
    /// Its own virtual addresses, each with the network of the mesh it is in.
    pub addresses: Vec<IpNet>,
    /// Networks behind it that it tells others of.
    pub routes: Vec<IpNet>,
    /// Further networks whose addresses may be members': destinations there are looked up.
    pub networks: Vec<IpNet>,
    /// Hubs, preferred first. At most 4 are used.
    pub hubs: Vec<LinkConfig>,
    /// Peers with rules of their own.
    pub peers: Vec<KnownPeer>,
    /// Rules of all others.
    pub default_rules: PeerRules,
    /// Settings of every peer.
    pub peer: PeerConfig,
    /// What jitter and the numbers of questions to hubs are drawn from: nobody else may know it, and no
    /// two members may have the same. Default `None`: [`MeshTransport`](crate::mesh::MeshTransport) takes
    /// it from the system's random numbers. A [`Member`](super::Member) alone, which has no system,
    /// takes it from its identity's public key then: good for simulations only.
    pub seed: Option<u64>,
}

impl MemberConfig {
    /// Whether an address may be a member's.
    pub(super) fn is_inside(&self, address: IpAddr) -> bool {
        self.addresses
            .iter()
            .chain(&self.networks)
            .any(|net| net.contains(&address))
    }

    /// Networks in which each address is one member's own.
    pub(super) fn inside(&self) -> Vec<IpNet> {
        let own = self.addresses.iter().map(IpNet::trunc);
        own.chain(self.networks.iter().copied()).collect()
    }

    pub(super) fn rules_of(&self, peer: PeerId) -> PeerRules {
        self.peers
            .iter()
            .find(|known| known.peer == peer)
            .map_or_else(|| self.default_rules.clone(), |known| known.rules.clone())
    }
}
