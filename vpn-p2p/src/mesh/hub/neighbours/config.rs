//! What a hub is told about other hubs: whose keys they have, where they are, and how much of everything.

use std::net::SocketAddr;

use vpn_core::PeerId;

use super::super::{HubConfig, HubError};
use crate::mesh::limit::Rate;
use crate::mesh::wire::Tag;

/// The largest [`max_hops`](HubConfig::max_hops): seven hubs in a line. More is a mistake rather than a
/// network, and every hub more is another that a question floods.
pub const MAX_HOPS: u8 = 8;

/// Other hubs of one. A question goes to each of them.
pub const MAX_NEIGHBOURS: usize = 16;

/// Another hub. Both list each other.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// Its key.
    pub key: PeerId,
    /// Where it is. None: it comes to us, or its name is resolved and
    /// [told](super::super::Hub::set_neighbour_endpoints).
    pub endpoints: Vec<SocketAddr>,
    /// A name or an address to resolve, and the port: whoever serves the hub does so every minute.
    pub host: Option<(String, u16)>,
}

impl Neighbour {
    /// One that comes to us.
    pub const fn new(key: PeerId) -> Self {
        Self {
            key,
            endpoints: Vec::new(),
            host: None,
        }
    }
}

/// How much one neighbour may have. Whatever is beyond is dropped and counted.
#[derive(Clone, Copy, Debug)]
pub struct NeighbourLimits {
    /// Bytes it hands us. Default 250 MB per second (2 Gbit/s), a quarter of a second at once: two
    /// members' worth, each of which its own hub limits.
    pub bytes: Rate,
    /// Datagrams it hands us. Default 400,000 per second, a quarter of a second at once.
    pub packets: Rate,
    /// Its messages but for questions: answers, introductions, changes. Default 1000 per second, 5000 at
    /// once: a thousand members that start within five seconds.
    pub control: Rate,
    /// Questions: its own, and those that we ask it. Apart, so that no number of them keeps answers and
    /// introductions from arriving. Default as `control`.
    pub questions: Rate,
}

impl Default for NeighbourLimits {
    fn default() -> Self {
        Self {
            bytes: Rate::new(250_000_000, 62_500_000),
            packets: Rate::new(400_000, 100_000),
            control: Rate::new(1000, 5000),
            questions: Rate::new(1000, 5000),
        }
    }
}

/// Whether this makes sense.
pub(in crate::mesh::hub) fn check(config: &HubConfig, own: PeerId) -> Result<(), HubError> {
    if !(2..=MAX_HOPS).contains(&config.max_hops) {
        return Err(HubError::Hops(config.max_hops));
    }
    if config.neighbours.len() > MAX_NEIGHBOURS {
        return Err(HubError::Neighbours(config.neighbours.len()));
    }
    for (at, neighbour) in config.neighbours.iter().enumerate() {
        let tag = Tag::from(neighbour.key);
        let alike = |other: PeerId| Tag::from(other) == tag;
        let twice = config.neighbours[..at].iter().any(|n| alike(n.key));
        if twice || alike(own) || config.members.iter().any(|m| alike(m.key)) {
            return Err(HubError::Neighbour(neighbour.key));
        }
    }
    Ok(())
}
