//! What is counted about a mesh: at a member, and at a hub.

use super::families::*;
use super::{Measured, Visit, show};
use crate::verdict::DropCounters;

/// A member of a mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mesh {
    /// The mesh, as the integrator names it.
    pub name: String,
    /// Its hubs, as the integrator names them, and whether each has us as a member.
    pub hubs: Vec<(String, bool)>,
    /// Peers to which packets go directly, by a relay, by a relay that is reached by streams, and
    /// that are not connected.
    pub peers: [u64; 4],
    /// Attempts to connect.
    pub attempts: u64,
    /// Attempts after one that came to nothing.
    pub retries: u64,
    /// Sessions that began, all of them by a relay where there is one.
    pub connected: u64,
    /// Direct ways that were taken.
    pub connected_directly: u64,
    /// Direct ways that were given up.
    pub fallbacks: u64,
    /// Packets and bytes sent directly, and by relays.
    pub tx: [[u64; 2]; 2],
    /// Datagrams with packets, and their bytes, that came directly, and by relays.
    pub rx: [[u64; 2]; 2],
    /// Packets that were taken and then dropped.
    pub drops: DropCounters,
    /// Claims of what somebody else has.
    pub conflicts: u64,
}

impl Measured for Mesh {
    fn visit(&self, visit: &mut Visit<'_>) {
        let mesh = self.name.as_str();
        for (hub, up) in &self.hubs {
            show(visit, &MESH_HUB_UP, &[mesh, hub], f64::from(u8::from(*up)));
        }
        for (path, count) in ["direct", "relay", "relay_tcp", "none"]
            .iter()
            .zip(self.peers)
        {
            show(visit, &MESH_PEERS, &[mesh, path], count as f64);
        }
        show(visit, &MESH_ATTEMPTS, &[mesh], self.attempts as f64);
        show(visit, &MESH_RETRIES, &[mesh], self.retries as f64);
        show(
            visit,
            &MESH_CONNECTED,
            &[mesh, "relay"],
            self.connected as f64,
        );
        let direct = self.connected_directly as f64;
        show(visit, &MESH_CONNECTED, &[mesh, "direct"], direct);
        show(visit, &MESH_FALLBACKS, &[mesh], self.fallbacks as f64);
        for (direction, ways) in [("tx", self.tx), ("rx", self.rx)] {
            for (path, [packets, bytes]) in ["direct", "relay"].iter().zip(ways) {
                show(
                    visit,
                    &MESH_PACKETS,
                    &[mesh, path, direction],
                    packets as f64,
                );
                show(visit, &MESH_BYTES, &[mesh, path, direction], bytes as f64);
            }
        }
        for (reason, packets) in self.drops.iter() {
            show(visit, &MESH_DROPPED, &[mesh, reason.name()], packets as f64);
        }
        show(visit, &MESH_CONFLICTS, &[mesh], self.conflicts as f64);
    }
}

/// A hub of a mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hub {
    /// The hub, as the integrator names it.
    pub name: String,
    /// Members that are here, and that are away; nodes that are not registered yet.
    pub members: [u64; 3],
    /// Messages that were taken, by kind.
    pub messages: Vec<(&'static str, u64)>,
    /// Registrations that were refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Datagrams, by what became of them.
    pub packets: Vec<(&'static str, u64)>,
    /// Bytes that were relayed.
    pub relayed_bytes: u64,
    /// Bytes that were handed to other hubs.
    pub carried_bytes: u64,
    /// Other hubs that are here, and that are away.
    pub neighbours: [u64; 2],
}

impl Measured for Hub {
    fn visit(&self, visit: &mut Visit<'_>) {
        let hub = self.name.as_str();
        for (state, count) in ["here", "away", "joining"].iter().zip(self.members) {
            show(visit, &HUB_MEMBERS, &[hub, state], count as f64);
        }
        let lists = [
            (&HUB_MESSAGES, &self.messages),
            (&HUB_REFUSED, &self.refused),
            (&HUB_PACKETS, &self.packets),
        ];
        for (family, list) in lists {
            for (label, count) in list {
                show(visit, family, &[hub, label], *count as f64);
            }
        }
        let bytes = self.relayed_bytes as f64;
        show(visit, &HUB_RELAYED_BYTES, &[hub], bytes);
        let bytes = self.carried_bytes as f64;
        show(visit, &HUB_CARRIED_BYTES, &[hub], bytes);
        for (state, count) in ["here", "away"].iter().zip(self.neighbours) {
            show(visit, &HUB_NEIGHBOURS, &[hub, state], count as f64);
        }
    }
}
