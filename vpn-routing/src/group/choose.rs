//! Chooses one of several members: by round trip, or by a lot that each draws for a flow.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::time::Duration;

use foldhash::quality::FixedState;
use vpn_core::{FlowKey, Owner, TunnelId};

use super::config::HashBy;
use super::state::{Group, bit};

/// Seed of the lots. Fixed, so that a flow has the same member after a restart.
const SEED: u64 = 0x6772_6f75_7073;

/// Why a member was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It is the first that is in use.
    First,
    /// It has the lowest round trip, or none is enough lower.
    Fastest,
    /// The flow falls into the share its weight gives it.
    Weight,
    /// The flow's hash falls to it.
    Hash,
    /// No member is up, and this one is waited for.
    Waiting,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "the first that is up",
            Self::Fastest => "the lowest round trip",
            Self::Weight => "its share by weight",
            Self::Hash => "its share by hash",
            Self::Waiting => "none is up; waited for",
        })
    }
}

/// The place of the fastest member. The one that leads stays unless another is better by more
/// than `tolerance`, or it has not been measured and another has.
pub(super) fn fastest(group: &Group, tolerance: Duration) -> Option<usize> {
    let places = (0..group.members.len()).filter(|place| group.eligible & bit(*place) != 0);
    let trip = |place: usize| group.members[place].round_trip;
    let best = places.filter_map(|place| Some((trip(place)?, place))).min();
    let lead = group.lead.filter(|lead| group.eligible & bit(*lead) != 0);
    let Some((shortest, best)) = best else {
        return lead.or_else(|| group.first());
    };
    match lead.map(|lead| (lead, trip(lead))) {
        Some((lead, Some(led))) if shortest.saturating_add(tolerance) >= led => Some(lead),
        _ => Some(best),
    }
}

pub(super) fn hash_flow(flow: &FlowKey) -> u64 {
    hash(flow)
}

pub(super) fn hash_by(by: HashBy, flow: &FlowKey, owner: Option<&Owner>) -> u64 {
    match (by, owner) {
        (HashBy::Owner, Some(owner)) => {
            hash((owner.uid, &owner.executable, &owner.cgroup, &owner.package))
        }
        _ => hash((flow.src(), flow.dst())),
    }
}

/// Weighted rendezvous hashing: the place whose lot is the longest. A lot is exponentially
/// distributed with the weight as its rate, seen from the other end, so shares are in proportion
/// to weights and a change of the set moves only what it must.
pub(super) fn rendezvous(
    flow: u64,
    members: impl Iterator<Item = (usize, TunnelId, u32)>,
) -> Option<usize> {
    let lots = members.map(|(place, tunnel, weight)| {
        // In (0, 1): 53 bits are what a double holds.
        let drawn = (hash((flow, tunnel)) >> 11) as f64 + 0.5;
        let uniform = drawn / (1u64 << 53) as f64;
        (place, f64::from(weight) / -uniform.ln())
    });
    lots.max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(place, _)| place)
}

fn hash(value: impl Hash) -> u64 {
    FixedState::with_seed(SEED).hash_one(value)
}
