//! How neighbours stand.

use std::time::Duration;

use vpn_core::PeerId;

use super::{Hub, Origin};

/// One neighbour, as it stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NeighbourStatus {
    /// Its key.
    pub key: PeerId,
    /// Where what goes to it is sent; `None`: away.
    pub origin: Option<Origin>,
    /// Whether we joined it; otherwise it joined us, or is to.
    pub joined: bool,
    /// Time of a round trip, where we joined it.
    pub rtt: Option<Duration>,
    /// Why it is away, where we try to join it. For people.
    pub why: String,
    /// Members of other hubs that are known to be behind it.
    pub members: usize,
    /// Bytes it handed us.
    pub carried: u64,
}

impl Hub {
    /// The other hubs, in the order of the configuration.
    pub fn neighbours(&self) -> Vec<NeighbourStatus> {
        let neighbours = self.neighbours.all().map(|(at, known)| {
            let link = known.link.as_ref().map(crate::mesh::link::Link::status);
            NeighbourStatus {
                key: known.key,
                origin: known.way(),
                joined: known.joined().is_some(),
                rtt: link.as_ref().and_then(|link| link.rtt),
                why: match (known.way(), link) {
                    (Some(_), _) => String::new(),
                    (None, Some(link)) => link.why,
                    (None, None) => "it did not join yet".into(),
                },
                members: self.neighbours.remotes.len_by(at),
                carried: known.carried,
            }
        });
        neighbours.collect()
    }

    /// Neighbours that are here, and that are away.
    pub(in crate::mesh::hub) fn neighbours_up(&self) -> [usize; 2] {
        let up = self
            .neighbours
            .all()
            .filter(|(_, known)| known.way().is_some());
        let up = up.count();
        [up, self.neighbours.known.len() - up]
    }
}
