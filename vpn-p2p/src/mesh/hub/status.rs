//! What a hub counts, and who its members are.

use std::time::{Duration, Instant};

use super::{Hub, Origin};
use crate::mesh::record::SignedRecord;
use crate::mesh::wire::Refusal;

/// What a hub did. The first three are how things stand; all else counts up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubStatus {
    /// Members that are here.
    pub online: usize,
    /// Members, with those that are away and whose record is still good.
    pub members: usize,
    /// Nodes that joined and are not registered yet.
    pub provisional: usize,
    /// Questions of who is there.
    pub hellos: u64,
    /// Joins with a good cookie and a good record.
    pub joins: u64,
    /// Joins whose cookie was not of their address, or too old.
    pub bad_cookies: u64,
    /// Registrations, first ones and new records.
    pub registered: u64,
    /// Refused: neither key nor token.
    pub refused_not_admitted: u64,
    /// Refused: an address.
    pub refused_address: u64,
    /// Refused: a network behind it.
    pub refused_route: u64,
    /// Refused: no place.
    pub refused_full: u64,
    /// Refused: a newer record is known.
    pub refused_old: u64,
    /// Refused, or not even looked at further: the record is not believed, or valid for too long.
    pub refused_record: u64,
    /// Refused: another key begins alike.
    pub refused_taken: u64,
    /// Members asked for.
    pub finds: u64,
    /// Changes told, with repetitions.
    pub changes: u64,
    /// Datagrams relayed.
    pub relayed_packets: u64,
    /// Their bytes, headers included.
    pub relayed_bytes: u64,
    /// Datagrams handed to other hubs.
    pub carried_packets: u64,
    /// Their bytes, headers included.
    pub carried_bytes: u64,
    /// Questions of other hubs.
    pub finds_beyond: u64,
    /// Neighbours that are here, as things stand.
    pub neighbours: usize,
    /// Neighbours that are away.
    pub neighbours_away: usize,
    /// What neighbours said of members of theirs that touches ours.
    pub refused_beyond: u64,
    /// Datagrams, introductions and answers that had no hops left.
    pub no_hops: u64,
    /// Datagrams and questions that went round, or would have gone back.
    pub looped: u64,
    /// Datagrams for who is not here.
    pub absent: u64,
    /// Datagrams between members that do not reach each other.
    pub isolated: u64,
    /// Datagrams from where no member is.
    pub strangers: u64,
    /// Whatever was beyond a limit.
    pub limited: u64,
    /// Datagrams of a session that did not open it.
    pub not_authentic: u64,
    /// Datagrams and messages that mean nothing, or nothing here.
    pub malformed: u64,
}

impl HubStatus {
    pub(super) fn refuse(&mut self, why: &Refusal) {
        let count = match why {
            Refusal::NotAdmitted => &mut self.refused_not_admitted,
            Refusal::Address { .. } => &mut self.refused_address,
            Refusal::Route(_) => &mut self.refused_route,
            Refusal::Full(_) => &mut self.refused_full,
            Refusal::Old(_) => &mut self.refused_old,
            Refusal::Record | Refusal::Lifetime(_) => &mut self.refused_record,
            Refusal::Taken => &mut self.refused_taken,
        };
        *count += 1;
    }
}

/// One member, as it stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemberStatus {
    /// What it says about itself.
    pub record: SignedRecord,
    /// Where it is; `None`: away.
    pub origin: Option<Origin>,
    /// Time since it was heard last.
    pub silent: Duration,
    /// Bytes relayed for it, as sender.
    pub relayed: u64,
}

impl Hub {
    /// What it did.
    pub fn status(&self) -> HubStatus {
        let [neighbours, neighbours_away] = self.neighbours_up();
        HubStatus {
            neighbours,
            neighbours_away,
            online: self.members.values().filter(|m| m.here.is_some()).count(),
            members: self.members.len(),
            provisional: self.sessions.provisional(),
            ..self.status
        }
    }

    /// Its members, by their keys.
    pub fn members(&self, now: Instant) -> Vec<MemberStatus> {
        let member = |member: &super::Member| MemberStatus {
            record: member.record.clone(),
            origin: member.here.map(|(_, origin)| origin),
            silent: now.saturating_duration_since(member.heard),
            relayed: member.relayed,
        };
        let mut members: Vec<_> = self.members.values().map(member).collect();
        members.sort_by_key(|member| member.record.record().peer);
        members
    }
}
