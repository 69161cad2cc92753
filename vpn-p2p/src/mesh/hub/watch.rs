//! Decides who is told that a record changed, and how often.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::mesh::wire::Tag;

/// Who is told about one member: those that asked for it last. Peers beyond find out when a session
/// ends, as with any change that got lost.
pub(super) const WATCHERS: usize = 256;

/// How often a change is told to one watcher, at most.
pub(super) const TRIES: u8 = 5;

/// The pause between.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// One change on its way to one watcher.
#[derive(Clone, Copy, Debug)]
struct Telling {
    sequence: u64,
    tries: u8,
}

/// One that is due again at this time, if it was not heard of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    at: Instant,
    pub(super) watcher: Tag,
    pub(super) of: Tag,
}

/// Who asked for whom.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// By who is watched: who asked, the last one behind.
    watchers: HashMap<Tag, VecDeque<Tag>>,
    /// By who is watched and who watches.
    telling: HashMap<(Tag, Tag), Telling>,
    due: VecDeque<Due>,
}

impl Watch {
    /// `watcher` asked for `of`.
    pub(super) fn ask(&mut self, watcher: Tag, of: Tag) {
        if watcher == of {
            return;
        }
        let watchers = self.watchers.entry(of).or_default();
        if watchers.back() == Some(&watcher) {
            return;
        }
        if let Some(at) = watchers.iter().position(|known| *known == watcher) {
            watchers.remove(at);
        } else if watchers.len() >= WATCHERS
            && let Some(gone) = watchers.pop_front()
        {
            self.telling.remove(&(of, gone));
        }
        watchers.push_back(watcher);
    }

    /// The record of `of` has this number now: who is to be told at once. Who was told of another one
    /// within the last [`PAUSE`] hears of this one when that is over, and of the newest only.
    pub(super) fn changed(&mut self, of: Tag, sequence: u64, now: Instant) -> Vec<Tag> {
        let Some(watchers) = self.watchers.get(&of) else {
            return Vec::new();
        };
        let mut told = Vec::new();
        for &watcher in watchers {
            let telling = Telling { sequence, tries: 0 };
            match self.telling.entry((of, watcher)) {
                // It has its next time already.
                Entry::Occupied(mut known) => drop(known.insert(telling)),
                Entry::Vacant(none) => {
                    none.insert(Telling { sequence, tries: 1 });
                    let at = now + PAUSE;
                    self.due.push_back(Due { at, watcher, of });
                    told.push(watcher);
                }
            }
        }
        told
    }

    /// It arrived, up to this number.
    pub(super) fn have(&mut self, watcher: Tag, of: Tag, sequence: u64) {
        if let Some(telling) = self.telling.get_mut(&(of, watcher))
            && telling.sequence <= sequence
        {
            // Forgotten when its time comes, so that there is one time for each at most.
            telling.tries = TRIES;
        }
    }

    /// The next one to be told again now.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        while let Some(&due) = self.due.front()
            && due.at <= now
        {
            self.due.pop_front();
            let key = (due.of, due.watcher);
            let Some(telling) = self.telling.get_mut(&key) else {
                continue;
            };
            if telling.tries >= TRIES {
                self.telling.remove(&key);
                continue;
            }
            telling.tries += 1;
            let at = now + PAUSE;
            self.due.push_back(Due { at, ..due });
            return Some(due);
        }
        None
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due.front().map(|due| due.at)
    }

    /// How many are watched.
    pub(super) fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Forgets all but these.
    pub(super) fn retain(&mut self, is_kept: impl Fn(Tag) -> bool) {
        self.watchers.retain(|of, _| is_kept(*of));
        self.telling.retain(|(of, _), _| is_kept(*of));
    }

    /// Nobody watches it any more: it is gone.
    pub(super) fn forget(&mut self, of: Tag) {
        for watcher in self.watchers.remove(&of).into_iter().flatten() {
            self.telling.remove(&(of, watcher));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn tag(n: u8) -> Tag {
        Tag([n; 8])
    }

    /// L-20: a change that was told once, and lost, locked its reader out for ever.
    #[test]
    fn a_change_is_told_five_times_or_until_it_arrived() {
        let now = Instant::now();
        let mut watch = Watch::default();
        watch.ask(tag(1), tag(9));
        watch.ask(tag(2), tag(9));
        watch.ask(tag(9), tag(9));
        assert_eq!(watch.changed(tag(9), 7, now), [tag(1), tag(2)]);
        watch.have(tag(1), tag(9), 6);
        watch.have(tag(2), tag(9), 7);
        let mut told = vec![];
        for second in 1..20 {
            let now = now + PAUSE * second;
            while let Some(due) = watch.due(now) {
                told.push(due.watcher);
            }
        }
        assert_eq!(told, [tag(1); 4], "an older one proves nothing");
        assert!(watch.next().is_none() && watch.telling.is_empty());
    }

    #[test]
    fn changes_that_follow_each_other_are_told_once_a_second() {
        let start = Instant::now();
        let mut watch = Watch::default();
        watch.ask(tag(1), tag(9));
        let mut told = 0;
        for step in 1..=1000_u64 {
            let now = start + Duration::from_millis(step * 10);
            told += watch.changed(tag(9), step, now).len();
            told += std::iter::from_fn(|| watch.due(now)).count();
            watch.have(tag(1), tag(9), step - 1);
        }
        assert!((10..=11).contains(&told), "{told} in 10 s");
        watch.have(tag(1), tag(9), 1000);
        assert!(watch.due(start + Duration::from_secs(20)).is_none());
        assert!(watch.telling.is_empty());
    }

    #[test]
    fn watchers_are_bounded_and_the_last_ones_count() {
        let mut watch = Watch::default();
        for n in 0..2000_u64 {
            watch.ask(Tag(n.to_be_bytes()), tag(255));
        }
        let told = watch.changed(tag(255), 1, Instant::now());
        assert_eq!(told.len(), WATCHERS);
        assert_eq!(told.last(), Some(&Tag(1999_u64.to_be_bytes())));
        watch.forget(tag(255));
        assert!(watch.telling.is_empty());
    }

    #[test]
    fn what_is_not_kept_is_not_told() {
        let now = Instant::now();
        let mut watch = Watch::default();
        for of in [7, 8] {
            watch.ask(tag(1), tag(of));
            watch.changed(tag(of), 1, now);
        }
        watch.retain(|of| of == tag(8));
        assert_eq!((watch.len(), watch.telling.len()), (1, 1));
        assert!(watch.changed(tag(7), 2, now).is_empty());
    }
}
