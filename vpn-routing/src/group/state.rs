//! Where the members of a group stand, and which of them are in use.

use std::time::{Duration, Instant};

use vpn_core::{FlowKey, Owner, TransportState, TunnelId};

use super::choose::{self, Reason};
use super::config::{GroupConfig, MAX_MEMBERS, Policy};

/// Where a member stands, as far as a choice depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It carries packets.
    Up,
    /// It may soon: it is connecting, or dormant and would be woken.
    Waiting,
    /// It does not.
    Down,
}

impl Standing {
    /// What a transport's state means here.
    pub const fn of(state: &TransportState) -> Self {
        match state {
            TransportState::Up(_) => Self::Up,
            TransportState::Connecting | TransportState::Dormant => Self::Waiting,
            _ => Self::Down,
        }
    }
}

/// The member a flow uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The member.
    pub tunnel: TunnelId,
    /// Why this one.
    pub reason: Reason,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) tunnel: TunnelId,
    pub(super) standing: Standing,
    pub(super) up_since: Option<Instant>,
    pub(super) round_trip: Option<Duration>,
    was_down: bool,
}

/// Members by place, as bits.
pub(super) type Places = u64;
const _: () = assert!(MAX_MEMBERS <= Places::BITS as usize);

/// A group and its members: takes what became known, and says who carries a flow.
#[derive(Clone, Debug)]
pub struct Group {
    pub(super) config: GroupConfig,
    pub(super) members: Vec<Member>,
    /// The members a flow may be given: those in use, or those that are waited for.
    pub(super) eligible: Places,
    /// The members in use. All of them are up; none only if none is up.
    pub(super) used: Places,
    /// The one that is chosen now, where load is not spread.
    pub(super) lead: Option<usize>,
}

impl Group {
    /// A group whose members stand as `standing` says: those that are up are in use. The
    /// configuration must have been checked: members beyond [`MAX_MEMBERS`] are left out.
    pub fn new(now: Instant, config: GroupConfig, standing: impl Fn(TunnelId) -> Standing) -> Self {
        let tunnels = config.members.iter().take(MAX_MEMBERS);
        let member = |&tunnel: &TunnelId| {
            let standing = standing(tunnel);
            Member {
                tunnel,
                standing,
                up_since: (standing == Standing::Up).then_some(now),
                round_trip: None,
                was_down: false,
            }
        };
        let mut group = Self {
            members: tunnels.map(member).collect(),
            config,
            eligible: 0,
            used: 0,
            lead: None,
        };
        group.update(now);
        // Who was up before the group was made did not come back just now.
        group.used = group.places(|member| member.standing == Standing::Up);
        group.update(now);
        group
    }

    /// The same group, told to do something else: what is known of members it keeps stays known.
    #[must_use]
    pub fn reconfigured(
        self,
        now: Instant,
        config: GroupConfig,
        standing: impl Fn(TunnelId) -> Standing,
    ) -> Self {
        let mut group = Self::new(now, config, standing);
        let mut lead = None;
        for (place, member) in group.members.iter_mut().enumerate() {
            let same = |old: &Member| old.tunnel == member.tunnel;
            let Some(before) = self.members.iter().position(same) else {
                continue;
            };
            *member = self.members[before].clone();
            if self.used & bit(before) == 0 {
                group.used &= !bit(place);
            }
            if self.lead == Some(before) {
                lead = Some(place);
            }
        }
        group.lead = lead;
        group.update(now);
        group
    }

    /// What it was told to do.
    pub const fn config(&self) -> &GroupConfig {
        &self.config
    }

    /// A member stands elsewhere now. Returns whether flows may have to move.
    pub fn set_standing(&mut self, now: Instant, tunnel: TunnelId, standing: Standing) -> bool {
        let Some(member) = self.members.iter_mut().find(|m| m.tunnel == tunnel) else {
            return false;
        };
        if member.standing == standing {
            return false;
        }
        member.was_down |= member.standing == Standing::Up || standing == Standing::Down;
        member.standing = standing;
        member.up_since = (standing == Standing::Up).then_some(now);
        self.update(now)
    }

    /// A member's round trip was measured, smoothed. Returns whether flows may have to move.
    pub fn set_round_trip(&mut self, now: Instant, tunnel: TunnelId, measured: Duration) -> bool {
        let Some(member) = self.members.iter_mut().find(|m| m.tunnel == tunnel) else {
            return false;
        };
        member.round_trip = Some(measured);
        self.update(now)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due next: a member has then been up long
    /// enough to be used again.
    pub fn next_timeout(&self) -> Option<Instant> {
        let waiting = self.members.iter().enumerate();
        waiting
            .filter(|(place, _)| self.used & bit(*place) == 0)
            .filter_map(|(_, member)| Some(member.up_since? + self.config.fail_back))
            .min()
    }

    /// That time has come. Returns whether flows may have to move.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        self.update(now)
    }

    /// Who carries a flow; `None` if every member is down. If no member is up, the one that is
    /// returned is to be waited for.
    pub fn choose(&self, flow: &FlowKey, owner: Option<&Owner>) -> Option<Choice> {
        let reason = match (&self.config.policy, self.used) {
            (_, 0) => Reason::Waiting,
            (Policy::Ordered, _) => Reason::First,
            (Policy::Latency { .. }, _) => Reason::Fastest,
            (Policy::Weighted(_), _) => Reason::Weight,
            (Policy::Hash(_), _) => Reason::Hash,
        };
        let place = match &self.config.policy {
            Policy::Ordered | Policy::Latency { .. } => self.lead,
            Policy::Weighted(weights) => self.draw(choose::hash_flow(flow), Some(weights)),
            Policy::Hash(by) => self.draw(choose::hash_by(*by, flow, owner), None),
        };
        Some(Choice {
            tunnel: self.members.get(place?)?.tunnel,
            reason,
        })
    }

    fn draw(&self, flow: u64, weights: Option<&[u32]>) -> Option<usize> {
        let members = self.members.iter().enumerate();
        let eligible = members.filter(|(place, _)| self.eligible & bit(*place) != 0);
        choose::rendezvous(
            flow,
            eligible.map(|(place, member)| {
                let weight = weights.and_then(|w| w.get(place).copied()).unwrap_or(1);
                (place, member.tunnel, weight)
            }),
        )
    }

    /// Decides anew who is in use. Returns whether that, or the one that is chosen, changed.
    fn update(&mut self, now: Instant) -> bool {
        let before = (self.eligible, self.lead, self.used == 0);
        self.used &= self.places(|m| m.standing == Standing::Up);
        let spreads = self.config.policy.spreads();
        let steady = |m: &Member| {
            let since = m.up_since.map(|since| now.saturating_duration_since(since));
            since.is_some_and(|up| up >= self.config.fail_back || !m.was_down)
        };
        self.used |= self.places(steady);
        if self.used == 0 {
            self.used = self.places(|m| m.standing == Standing::Up);
        }
        self.eligible = match self.used {
            0 => self.places(|m| m.standing == Standing::Waiting),
            used => used,
        };
        self.lead = match &self.config.policy {
            Policy::Latency { tolerance } => choose::fastest(self, *tolerance),
            _ => self.first(),
        };
        let lead_matters = !spreads && before.1 != self.lead;
        let share_matters = spreads && before.0 != self.eligible;
        lead_matters || share_matters || before.2 != (self.used == 0)
    }

    fn places(&self, are: impl Fn(&Member) -> bool) -> Places {
        let members = self.members.iter().enumerate();
        members
            .filter(|(_, member)| are(member))
            .fold(0, |places, (place, _)| places | bit(place))
    }

    pub(super) fn first(&self) -> Option<usize> {
        (self.eligible != 0).then_some(self.eligible.trailing_zeros() as usize)
    }
}

/// The bit of a place.
pub(super) const fn bit(place: usize) -> Places {
    1 << place
}
