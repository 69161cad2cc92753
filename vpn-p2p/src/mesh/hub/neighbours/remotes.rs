//! Decides behind which neighbour a member of another hub is, and for how long that is believed. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::At;
use crate::mesh::record::SignedRecord;
use crate::mesh::wire::{Tag, What};

/// Members of other hubs that are remembered: several hubs of a thousand. Beyond it, who was used
/// least recently is asked for again.
pub(super) const MAX_REMOTES: usize = 8192;

/// How long after the last question or datagram: longer than members keep a quiet peer (ten minutes),
/// so that its next packet does not have to wait for a question.
pub(super) const REMEMBERED: Duration = Duration::from_secs(15 * 60);

/// For how long an answer stands for the next question. Who asks often has a reason to doubt.
pub(super) const FRESH: Duration = Duration::from_secs(10);

/// A member of another hub.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) record: SignedRecord,
    pub(super) via: At,
    /// How many hubs there are between us and it.
    pub(super) hubs: u8,
    used: Instant,
    answered: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    by_tag: HashMap<Tag, Remote>,
    /// Who has an address: the first one that said so.
    by_address: HashMap<IpAddr, Tag>,
}

impl Remotes {
    pub(super) fn get(&self, tag: Tag) -> Option<&Remote> {
        self.by_tag.get(&tag)
    }

    pub(super) fn len_by(&self, via: At) -> usize {
        self.by_tag
            .values()
            .filter(|remote| remote.via == via)
            .count()
    }

    /// Notes that somebody is there; says whether its record is new to us. A record that is known
    /// keeps the way it came by first, while that `is_up` and no shorter one is said: or two hubs would
    /// point at each other after every renewal, and any neighbour could take what is on its way to others.
    pub(super) fn enter(
        &mut self,
        record: SignedRecord,
        via: At,
        hubs: u8,
        is_up: impl Fn(At) -> bool,
        now: Instant,
    ) -> bool {
        let tag = Tag::from(record.record().peer);
        let known = self.by_tag.get(&tag);
        // One that is older says where it was.
        if known.is_some_and(|known| known.record != record && !record.replaces(&known.record)) {
            return false;
        }
        let is_new = known.is_none_or(|known| known.record != record);
        if is_new {
            self.remove(tag);
            if self.by_tag.len() >= MAX_REMOTES {
                let least = self
                    .by_tag
                    .iter()
                    .min_by_key(|(tag, remote)| (remote.used, **tag));
                if let Some(tag) = least.map(|(tag, _)| *tag) {
                    self.remove(tag);
                }
            }
            for address in &record.record().addresses {
                self.by_address.entry(*address).or_insert(tag);
            }
        } else if known.is_some_and(|it| it.via != via && it.hubs <= hubs && is_up(it.via)) {
            return false;
        }
        let remote = Remote {
            record,
            via,
            hubs,
            used: now,
            answered: now,
        };
        self.by_tag.insert(tag, remote);
        is_new
    }

    /// Who is meant, if the answer is fresh.
    pub(super) fn fresh(&self, what: What, now: Instant) -> Option<&Remote> {
        let tag = match what {
            What::Address(address) => *self.by_address.get(&address)?,
            What::Peer(key) => Tag::from(vpn_core::PeerId(key)),
            What::Tag(tag) => Tag(tag),
        };
        let remote = self.by_tag.get(&tag)?;
        let is_meant = match what {
            What::Peer(key) => remote.record.record().peer.0 == key,
            _ => true,
        };
        let is_fresh = now.saturating_duration_since(remote.answered) < FRESH;
        (is_meant && is_fresh).then_some(remote)
    }

    /// A datagram of it came, or is on its way to it.
    #[inline]
    pub(super) fn used(&mut self, tag: Tag, now: Instant) -> Option<&Remote> {
        let remote = self.by_tag.get_mut(&tag)?;
        remote.used = now;
        Some(remote)
    }

    /// It is not there any more, says who would know.
    pub(super) fn gone(&mut self, tag: Tag, via: At) {
        if self
            .by_tag
            .get(&tag)
            .is_some_and(|remote| remote.via == via)
        {
            self.remove(tag);
        }
    }

    pub(super) fn remove(&mut self, tag: Tag) {
        let Some(remote) = self.by_tag.remove(&tag) else {
            return;
        };
        for address in &remote.record.record().addresses {
            if self.by_address.get(address) == Some(&tag) {
                self.by_address.remove(address);
            }
        }
    }

    /// Forgets what is too old.
    pub(super) fn age(&mut self, now: Instant, unix: u64) {
        let old = self.by_tag.iter().filter(|(_, remote)| {
            let unused = now.saturating_duration_since(remote.used) >= REMEMBERED;
            unused || remote.record.record().expires <= unix
        });
        for tag in old.map(|(tag, _)| *tag).collect::<Vec<_>>() {
            self.remove(tag);
        }
    }
}
