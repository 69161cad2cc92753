//! What a member counts, as metrics.

use vpn_core::metrics::Mesh;

use super::MemberStatus;
use crate::mesh::link::LinkState;
use crate::mesh::peer::PeerCounters;
use crate::mesh::way::{Carrier, Way};

impl MemberStatus {
    /// Everything that is counted, under this name. Hubs are named by their place in the
    /// configuration.
    pub fn metrics(&self, name: &str) -> Mesh {
        let mut mesh = Mesh {
            name: name.to_owned(),
            hubs: (self.hubs.iter().enumerate())
                .map(|(place, hub)| (place.to_string(), hub.link.state == LinkState::Up))
                .collect(),
            drops: self.drops.clone(),
            conflicts: self.conflicts.iter().map(|(_, times)| times).sum(),
            ..Mesh::default()
        };
        for peer in &self.peers {
            let path = match (peer.path.way, peer.path.carrier) {
                (Some(Way::Direct(_)), _) => 0,
                (Some(Way::Relay(_)), Some(Carrier::Tls)) => 2,
                (Some(Way::Relay(_)), _) => 1,
                (None, _) => 3,
            };
            mesh.peers[path] += 1;
        }
        let mut all = self.forgotten;
        for peer in &self.peers {
            all.add(peer.counters);
        }
        mesh.attempts = all.attempts;
        mesh.retries = all.retries;
        mesh.connected = all.sessions;
        mesh.connected_directly = all.direct;
        mesh.fallbacks = all.fallbacks;
        mesh.tx = [all.tx_direct, all.tx_relayed];
        mesh.rx = [all.rx_direct, all.rx_relayed];
        mesh
    }
}

impl PeerCounters {
    /// Adds what was counted of another peer.
    pub(super) fn add(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.retries += other.retries;
        self.sessions += other.sessions;
        self.fallbacks += other.fallbacks;
        self.direct += other.direct;
        let ways = [
            (&mut self.tx_direct, other.tx_direct),
            (&mut self.tx_relayed, other.tx_relayed),
            (&mut self.rx_direct, other.rx_direct),
            (&mut self.rx_relayed, other.rx_relayed),
        ];
        for (sum, more) in ways {
            sum[0] += more[0];
            sum[1] += more[1];
        }
    }
}
