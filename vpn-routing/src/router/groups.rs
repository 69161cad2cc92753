//! The groups of a router: who they are, and when flows have to be looked at again because of them.
//!
//! What a flow is compared with is a number that counts every change of its way: other rules,
//! another choice of a group, a tunnel that went down or came back. A flow that is not current is
//! decided again with its next packet, so an established flow pays one compare, as before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vpn_core::{GroupId, TunnelId};

use super::{Event, Router};
use crate::group::{Group, GroupConfig, GroupError, GroupStatus, MAX_GROUPS, Standing};

/// Groups by id. An id belongs to a name for good: rules that were compiled before a change must
/// not lead to another group.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    names: Vec<String>,
    groups: Vec<Option<Group>>,
    /// Another router decides, and says where they stand.
    follows: bool,
}

/// The groups as one of several routers decided: the others choose alike, whatever they themselves
/// have heard of by then, and in which order.
#[derive(Clone, Debug)]
pub struct GroupView(Arc<Groups>);

impl PartialEq for GroupView {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for GroupView {}

impl Groups {
    #[inline]
    pub(super) fn get(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(id.index())?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        let groups = self.groups.iter().enumerate();
        groups.filter_map(|(i, group)| Some((GroupId::new(i as u16), group.as_ref()?)))
    }

    /// From now on another router decides, or this one.
    pub(super) const fn follow(&mut self, follows: bool) {
        self.follows = follows;
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        if self.follows {
            return None;
        }
        self.iter().filter_map(|(_, g)| g.next_timeout()).min()
    }

    /// Shows every group what became known; returns whether flows may have to move.
    fn each(&mut self, mut show: impl FnMut(&mut Group) -> bool) -> bool {
        if self.follows {
            return false;
        }
        let groups = self.groups.iter_mut().flatten();
        groups.fold(false, |moved, group| show(group) | moved)
    }

    fn id_of(&mut self, name: &str) -> Option<GroupId> {
        let index = match self.names.iter().position(|n| n == name) {
            Some(index) => index,
            None => {
                self.names.push(name.to_owned());
                self.groups.push(None);
                self.names.len() - 1
            }
        };
        u16::try_from(index).ok().map(GroupId::new)
    }
}

impl Router {
    /// Puts these groups in force, in place of those that were; returns their ids, in order. A
    /// group's id belongs to its name: it stays when the group changes, and rules that name a
    /// group that is gone block.
    ///
    /// Compile rules anew afterwards if names were added.
    ///
    /// # Errors
    ///
    /// [`GroupError`]; nothing changes then.
    pub fn set_groups(
        &mut self,
        now: Instant,
        configs: Vec<GroupConfig>,
    ) -> Result<Vec<GroupId>, GroupError> {
        self.check_groups(&configs)?;
        let mut before = std::mem::take(&mut self.groups.groups);
        self.groups.groups.resize_with(before.len(), || None);
        let mut ids = Vec::with_capacity(configs.len());
        for config in configs {
            // There is one for each: that was checked.
            let Some(id) = self.groups.id_of(&config.name) else {
                continue;
            };
            let old = before.get_mut(id.index()).and_then(Option::take);
            let standing = |tunnel| match self.tunnels.get(tunnel) {
                Some(slot) => Standing::of(&slot.state),
                None => Standing::Down,
            };
            let group = match old {
                Some(old) => old.reconfigured(now, config, standing),
                None => Group::new(now, config, standing),
            };
            self.groups.groups[id.index()] = Some(group);
            ids.push(id);
        }
        self.tell_groups();
        self.ways_changed(now);
        Ok(ids)
    }

    fn check_groups(&self, configs: &[GroupConfig]) -> Result<(), GroupError> {
        let count = configs.len();
        if count > MAX_GROUPS {
            return Err(GroupError::TooMany { count });
        }
        let mut names = self.groups.names.len();
        for (place, config) in configs.iter().enumerate() {
            config.check(|tunnel| self.tunnels.get(tunnel).is_some())?;
            let group = || config.name.clone();
            let twice = configs[..place].iter().any(|c| c.name == config.name);
            if twice || self.tunnels.named(&config.name).is_some() {
                return Err(GroupError::NameTaken { group: group() });
            }
            names += usize::from(!self.groups.names.contains(&config.name));
            if names > usize::from(u16::MAX) {
                return Err(GroupError::NoIdLeft { group: group() });
            }
        }
        Ok(())
    }

    /// The group of this name, if it is in force.
    pub fn group_named(&self, name: &str) -> Option<GroupId> {
        let mut groups = self.groups.iter();
        let found = groups.find(|(_, group)| group.config().name == name);
        found.map(|(id, _)| id)
    }

    /// Whether the round trips of tunnels are of use: a group chooses by them.
    pub fn wants_round_trips(&self) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|(_, group)| group.config().policy.compares())
    }

    pub(super) fn group_status(&self) -> Vec<GroupStatus> {
        self.groups.iter().map(|(id, g)| g.status(id)).collect()
    }

    pub(super) fn round_trip(&mut self, now: Instant, tunnel: TunnelId, measured: Duration) {
        let show = |group: &mut Group| group.set_round_trip(now, tunnel, measured);
        if self.groups.each(show) {
            self.tell_groups();
            self.ways_changed(now);
        }
    }

    pub(super) fn groups_timeout(&mut self, now: Instant) {
        let due = |group: &Group| group.next_timeout().is_some_and(|at| at <= now);
        if self
            .groups
            .each(|group| due(group) && group.handle_timeout(now))
        {
            self.tell_groups();
            self.ways_changed(now);
        }
    }

    /// A tunnel stands elsewhere now. Returns whether flows may have to move.
    pub(super) fn stands(&mut self, now: Instant, tunnel: TunnelId, standing: Standing) -> bool {
        let chosen = self
            .groups
            .each(|group| group.set_standing(now, tunnel, standing));
        if chosen {
            self.tell_groups();
        }
        chosen || self.rules.falls_back()
    }

    /// Where groups stand, for the routers that follow this one.
    fn tell_groups(&mut self) {
        if self.leads() {
            let view = GroupView(Arc::new(self.groups.clone()));
            self.events.push_back(Event::Groups(view));
        }
    }

    /// The router that decides about groups has done so.
    pub(super) fn groups_decided(&mut self, now: Instant, view: &GroupView) {
        self.groups = Groups::clone(&view.0);
        self.groups.follow(true);
        self.ways_changed(now);
    }

    /// The way of flows may be another one although the rules are the same.
    pub(super) fn ways_changed(&mut self, now: Instant) {
        if self.generation.is_cold() {
            return;
        }
        self.generation = self.generation.next();
        self.end_moved(now);
        self.release_redirected(now);
    }
}
