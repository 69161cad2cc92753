//! Decides who stays when the hub is told of other members.

use super::config::{HubConfig, HubError, List};
use super::{Hub, Member, neighbours};
use crate::mesh::wire::{Tag, ToMember};

impl Hub {
    /// From now on admits by the members, token, networks, `max_members` and isolation of this
    /// configuration; nothing else of it is looked at. How many members had to go.
    ///
    /// Who is admitted as before notices nothing. Everybody else is told Bye and forgotten, with its
    /// addresses, and may register anew: by another token, for another address, or in vain. Who knows
    /// it already may still believe its record until that is over, a day at most: a hub takes no part
    /// in what two members say to each other directly.
    ///
    /// # Errors
    ///
    /// [`HubError`]: nothing has changed then.
    pub fn readmit(&mut self, config: &HubConfig) -> Result<usize, HubError> {
        let mut next = self.config.clone();
        next.members.clone_from(&config.members);
        next.token.clone_from(&config.token);
        next.networks.clone_from(&config.networks);
        next.max_members = config.max_members;
        next.isolation = config.isolation;
        neighbours::check(&next, self.identity.id())?;
        let list = List::new(&next)?;
        let before = std::mem::replace(&mut self.config, next);
        self.list = list;
        // In one order: what happens follows from what came before alone.
        let mut tags: Vec<Tag> = self.members.keys().copied().collect();
        tags.sort_unstable();
        let mut gone = 0;
        for tag in tags {
            if !self.stays(tag, &before) {
                self.dismiss(tag);
                gone += 1;
            }
        }
        Ok(gone + self.dismiss_the_most())
    }

    /// Whether it is admitted, with all that it has, and stands as it was told that it does.
    fn stays(&mut self, tag: Tag, before: &HubConfig) -> bool {
        let Some(member) = self.members.get(&tag) else {
            return true;
        };
        let says = member.record.record();
        let listed = self.list.of(says.peer);
        let reaches_all = listed.is_some_and(|listed| listed.reaches_all);
        let same_token = match (&before.token, &self.config.token) {
            (Some(one), Some(other)) => self.cookies.same(one.0.as_bytes(), other.0.as_bytes()),
            _ => false,
        };
        let by_token = same_token && !member.listed && self.list.by_tag(tag).is_none();
        let isolated = |config: &HubConfig, all: bool| config.isolation && !all;
        let networks = &self.config.networks;
        let stays = (listed.is_some() || by_token)
            && isolated(before, member.reaches_all) == isolated(&self.config, reaches_all)
            && self
                .claims
                .check(says, listed, &self.list, networks)
                .is_ok();
        let listed = listed.is_some();
        if let Some(member) = self.members.get_mut(&tag) {
            member.listed = listed;
            member.reaches_all = reaches_all;
        }
        stays
    }

    fn dismiss(&mut self, tag: Tag) {
        if let Some((id, origin)) = self.members.get(&tag).and_then(|member| member.here) {
            self.tell(id, origin, &ToMember::Bye);
        }
        self.forget(tag);
    }

    /// Where there are fewer places than before: who is away for longest goes first, then who is silent
    /// for longest.
    fn dismiss_the_most(&mut self) -> usize {
        let places = self.config.max_members - self.list.len();
        let others = self.members.iter().filter(|(_, member)| !member.listed);
        let age = |(tag, member): (&Tag, &Member)| (member.here.is_some(), member.heard, *tag);
        let mut others: Vec<_> = others.map(age).collect();
        others.sort_unstable();
        let too_many = others.len().saturating_sub(places);
        for (_, _, tag) in &others[..too_many] {
            self.dismiss(*tag);
        }
        too_many
    }
}
