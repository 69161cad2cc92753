//! Decides behind which neighbour a member of another hub is, and for how long that is believed. Pure.

use std::collections::{BTreeSet, HashMap};
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

/// How exact the order of use is: it is not kept for every datagram.
const PLACED_EVERY: Duration = Duration::from_secs(1);

/// A member of another hub.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) record: SignedRecord,
    pub(super) via: At,
    /// How many hubs there are between us and it.
    pub(super) hubs: u8,
    used: Instant,
    answered: Instant,
    /// With which time it is in the order of use.
    placed: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    by_tag: HashMap<Tag, Remote>,
    /// In the order of use, to a second: who was used least recently is first.
    order: BTreeSet<(Instant, Tag)>,
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
            if self.by_tag.len() >= MAX_REMOTES
                && let Some((_, least)) = self.order.first().copied()
            {
                self.remove(least);
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
            placed: now,
        };
        self.order.insert((now, tag));
        if let Some(before) = self.by_tag.insert(tag, remote)
            && before.placed != now
        {
            self.order.remove(&(before.placed, tag));
        }
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
        if now.saturating_duration_since(remote.placed) >= PLACED_EVERY {
            self.order.remove(&(remote.placed, tag));
            self.order.insert((now, tag));
            remote.placed = now;
        }
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
        self.order.remove(&(remote.placed, tag));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::identity::Identity;
    use crate::mesh::record::Record;
    use crate::wg_quick::PublicKey;

    fn record(identity: &Identity, sequence: u64) -> SignedRecord {
        let record = Record {
            peer: identity.id(),
            name: String::new(),
            session: PublicKey::from_bytes([7; 32]),
            addresses: Vec::new(),
            routes: Vec::new(),
            candidates: Vec::new(),
            sequence,
            expires: u64::MAX,
        };
        record.sign(identity)
    }

    /// Room is made without a look at all, and for who was used least recently.
    #[test]
    fn who_was_used_least_recently_makes_room() {
        let (mut remotes, start) = (Remotes::default(), Instant::now());
        let people: Vec<Identity> = (0..MAX_REMOTES as u32 + 2)
            .map(|n| {
                let mut secret = [7; 32];
                secret[..4].copy_from_slice(&n.to_be_bytes());
                Identity::from_bytes(&secret)
            })
            .collect();
        let tag = |n: usize| Tag::from(people[n].id());
        let at = |n: u64| start + Duration::from_millis(n);
        let enter = |remotes: &mut Remotes, n: usize, sequence, now| {
            let record = record(&people[n], sequence);
            remotes.enter(record, At(0), 1, |_| true, now)
        };
        for n in 0..MAX_REMOTES {
            assert!(enter(&mut remotes, n, 1, at(n as u64)));
        }
        // The first one is used, the second one says something new, the third one the same again.
        let now = at(10_000);
        assert!(remotes.used(tag(0), now).is_some());
        assert!(enter(&mut remotes, 1, 2, now));
        assert!(!enter(&mut remotes, 2, 1, now));
        remotes.gone(tag(3), At(0));
        for n in [MAX_REMOTES, MAX_REMOTES + 1] {
            assert!(enter(&mut remotes, n, 1, now));
        }
        let known = [0, 1, 2, 3, 4, 5].map(|n| remotes.get(tag(n)).is_some());
        assert_eq!(known, [true, true, true, false, false, true]);
        assert_eq!(
            (remotes.by_tag.len(), remotes.order.len()),
            (MAX_REMOTES, MAX_REMOTES)
        );
        remotes.age(now + REMEMBERED, 0);
        assert_eq!((remotes.by_tag.len(), remotes.order.len()), (0, 0));
    }
}
