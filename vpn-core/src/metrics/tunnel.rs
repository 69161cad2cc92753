//! What one tunnel carries, and what it occupies.

use std::time::Duration;

use super::families::*;
use super::{Measured, Visit, show};
use crate::resources::Resources;
use crate::transport::TransportState;
use crate::verdict::DropCounters;

/// Every state a tunnel can be in.
const STATES: [&str; 5] = ["connecting", "dormant", "up", "down", "closed"];

/// A process that a tunnel has besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Open file descriptors; `None` if they are not for us to see.
    pub descriptors: Option<u64>,
    /// Threads.
    pub threads: u64,
    /// Resident memory in bytes.
    pub memory: u64,
}

/// One tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: TransportState,
    /// Packets and bytes routed into it.
    pub tx: [u64; 2],
    /// Packets and bytes delivered from it.
    pub rx: [u64; 2],
    /// Packets dropped on its account.
    pub drops: DropCounters,
    /// Flows that use it.
    pub flows: u64,
    /// Names that its resolver gave to addresses.
    pub names: u64,
    /// Largest packet inside it, in bytes; 0 if not known yet.
    pub mtu: u16,
    /// To its other end and back.
    pub round_trip: Option<Duration>,
    /// What it occupies in this process.
    pub resources: Resources,
    /// The process it has besides.
    pub beside: Option<Beside>,
}

impl Measured for Tunnel {
    fn visit(&self, visit: &mut Visit<'_>) {
        let name = self.name.as_str();
        let up = matches!(self.state, TransportState::Up(_));
        show(visit, &TUNNEL_UP, &[name], f64::from(u8::from(up)));
        for state in STATES {
            let is = f64::from(u8::from(self.state.name() == state));
            show(visit, &TUNNEL_STATE, &[name, state], is);
        }
        for (way, [packets, bytes]) in [("tx", self.tx), ("rx", self.rx)] {
            show(visit, &TUNNEL_PACKETS, &[name, way], packets as f64);
            show(visit, &TUNNEL_BYTES, &[name, way], bytes as f64);
        }
        for (reason, packets) in self.drops.iter() {
            let labels = [name, reason.name()];
            show(visit, &TUNNEL_DROPPED, &labels, packets as f64);
        }
        let known = [
            (&TUNNEL_FLOWS, Some(self.flows as f64)),
            (&TUNNEL_NAMES, Some(self.names as f64)),
            (&TUNNEL_MTU, (self.mtu > 0).then(|| f64::from(self.mtu))),
            (
                &TUNNEL_ROUND_TRIP,
                self.round_trip.map(|time| time.as_secs_f64()),
            ),
            (&TUNNEL_FDS, Some(self.resources.descriptors as f64)),
            (&TUNNEL_TASKS, Some(self.resources.tasks as f64)),
            (&TUNNEL_MEMORY, Some(self.resources.bytes as f64)),
            (
                &TUNNEL_PROCESS_FDS,
                self.beside.and_then(|p| p.descriptors).map(|n| n as f64),
            ),
            (
                &TUNNEL_PROCESS_THREADS,
                self.beside.map(|p| p.threads as f64),
            ),
            (&TUNNEL_PROCESS_MEMORY, self.beside.map(|p| p.memory as f64)),
        ];
        for (family, value) in known {
            if let Some(value) = value {
                show(visit, family, &[name], value);
            }
        }
    }
}
