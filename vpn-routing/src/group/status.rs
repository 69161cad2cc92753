//! What a group can tell about itself, for people.

use std::time::Duration;

use vpn_core::{GroupId, TunnelId};

use super::config::Policy;
use super::state::{Group, Standing, bit};

/// One member of a group, as a status report shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberStatus {
    /// The member.
    pub tunnel: TunnelId,
    /// Where it stands.
    pub standing: Standing,
    /// Whether flows may be given to it. One that came back is not in use for a while.
    pub in_use: bool,
    /// Its round trip, if one was measured.
    pub round_trip: Option<Duration>,
    /// Its weight, if the group has weights.
    pub weight: Option<u32>,
}

/// One group, as a status report shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStatus {
    /// Its id.
    pub id: GroupId,
    /// Its name.
    pub name: String,
    /// The name of its policy.
    pub policy: &'static str,
    /// Its members, in order of preference.
    pub members: Vec<MemberStatus>,
    /// The member that new flows use; `None` if load is spread, or every member is down.
    pub chosen: Option<TunnelId>,
}

impl Group {
    /// A report.
    pub fn status(&self, id: GroupId) -> GroupStatus {
        let weights = match &self.config.policy {
            Policy::Weighted(weights) => weights.as_slice(),
            _ => &[],
        };
        let members = self.members.iter().enumerate();
        let status = members.map(|(place, member)| MemberStatus {
            tunnel: member.tunnel,
            standing: member.standing,
            in_use: self.used & bit(place) != 0,
            round_trip: member.round_trip,
            weight: weights.get(place).copied(),
        });
        let lead = self.lead.filter(|_| !self.config.policy.spreads());
        GroupStatus {
            id,
            name: self.config.name.clone(),
            policy: self.config.policy.name(),
            members: status.collect(),
            chosen: lead.and_then(|lead| Some(self.members.get(lead)?.tunnel)),
        }
    }
}
