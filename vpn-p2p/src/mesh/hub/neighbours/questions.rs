//! Decides which questions to neighbours are open, which were asked before, and that nobody is there.
//! Pure.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::{At, MAX_NEIGHBOURS};
use crate::mesh::record::SignedRecord;
use crate::mesh::wire::{Asked, Tag, What};

/// Questions that are open. Beyond it nobody is found.
pub(super) const MAX_QUESTIONS: usize = 4096;

/// Who waits for one answer. Further ones ask again.
const MAX_ASKERS: usize = 64;

/// Questions that are remembered, so that they are not asked twice; and those with the answer "nobody".
/// Beyond it they are not asked at all; the others are not remembered.
pub(super) const MAX_REMEMBERED: usize = 16_384;

/// Those of one neighbour: it takes nothing from the others.
const MAX_OF_ONE: usize = MAX_REMEMBERED / MAX_NEIGHBOURS;

/// How long a question is remembered: longer than any is open.
const REMEMBERED: Duration = Duration::from_secs(10);

/// For how long "nobody" is believed: members believe it as long the first time.
const NOBODY: Duration = Duration::from_secs(5);

/// How long the last hub of a line is waited for, and how much longer each before it: it gives up
/// earlier than who asked it, and the first one earlier than its member, after five seconds.
const WAIT: Duration = Duration::from_secs(1);
const WAIT_EACH: Duration = Duration::from_millis(500);

/// Who wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A member, with its number.
    Member(Tag, u32),
    /// A neighbour.
    Hub(At),
}

/// A question under way.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) what: What,
    pub(super) askers: Vec<Asker>,
    /// Neighbours that did not answer yet.
    pub(super) waiting: Vec<At>,
    /// Who is meant, but is connected to no hub as far as is known; behind so many hubs.
    pub(super) away: Option<(SignedRecord, u8)>,
    pub(super) hops: u8,
    pub(super) visited: Vec<[u8; 8]>,
    /// When it may be asked again.
    pub(super) again: Instant,
    until: Instant,
}

/// What a question that came is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    New,
    /// It came by another way before.
    Before,
    /// Who asked it asks again.
    Again,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: HashMap<Asked, Question>,
    /// When each is given up.
    ends: BTreeSet<(Instant, Asked)>,
    /// Those of our own members.
    by_what: HashMap<What, Asked>,
    /// With how many hubs left it came, first from whom.
    seen: HashMap<Asked, Seen>,
    /// How many of these are whose.
    seen_of: HashMap<At, usize>,
    nobody: HashMap<What, Instant>,
}

/// A question that came.
#[derive(Debug)]
struct Seen {
    hops: u8,
    from: At,
    until: Instant,
}

impl Questions {
    /// The question of our own members about this that is open.
    pub(super) fn own(&self, what: What) -> Option<Asked> {
        self.by_what.get(&what).copied()
    }

    /// A neighbour asks.
    pub(super) fn came(&mut self, asked: Asked, from: At, hops: u8, now: Instant) -> Came {
        if let Some(open) = self.open.get(&asked)
            && open.askers.contains(&Asker::Hub(from))
        {
            return Came::Again;
        }
        if let Some(seen) = self.seen.get_mut(&asked) {
            if seen.hops >= hops {
                return Came::Before;
            }
            // By a shorter way it gets further.
            (seen.hops, seen.until) = (hops, now + REMEMBERED);
            return Came::New;
        }
        let of_one = self.seen_of.entry(from).or_default();
        if *of_one >= MAX_OF_ONE {
            return Came::Before;
        }
        *of_one += 1;
        let until = now + REMEMBERED;
        self.seen.insert(asked, Seen { hops, from, until });
        Came::New
    }

    pub(super) fn get_mut(&mut self, asked: Asked) -> Option<&mut Question> {
        self.open.get_mut(&asked)
    }

    /// Somebody waits for this answer too. Whether it is the one that asked before.
    pub(super) fn join(&mut self, asked: Asked, asker: Asker) -> bool {
        let Some(open) = self.open.get_mut(&asked) else {
            return false;
        };
        let same = |known: &Asker| match (known, asker) {
            (Asker::Member(known, _), Asker::Member(tag, _)) => *known == tag,
            (known, asker) => *known == asker,
        };
        if let Some(known) = open.askers.iter_mut().find(|known| same(known)) {
            *known = asker;
            return true;
        }
        if open.askers.len() < MAX_ASKERS {
            open.askers.push(asker);
        }
        false
    }

    /// A question that was asked.
    pub(super) fn ask(&mut self, asked: Asked, mut question: Question, now: Instant) -> bool {
        if self.open.len() >= MAX_QUESTIONS {
            return false;
        }
        question.until = now + WAIT + WAIT_EACH * u32::from(question.hops);
        if matches!(question.askers[..], [Asker::Member(..), ..]) {
            self.by_what.insert(question.what, asked);
        }
        self.ends.insert((question.until, asked));
        if let Some(before) = self.open.insert(asked, question) {
            self.ends.remove(&(before.until, asked));
        }
        true
    }

    /// This neighbour says there is nobody. The question, if it was the last to answer.
    pub(super) fn nobody_at(&mut self, asked: Asked, from: At) -> Option<Question> {
        let open = self.open.get_mut(&asked)?;
        open.waiting.retain(|waiting| *waiting != from);
        if open.waiting.is_empty() {
            return self.close(asked);
        }
        None
    }

    /// It is answered.
    pub(super) fn close(&mut self, asked: Asked) -> Option<Question> {
        let question = self.open.remove(&asked)?;
        self.ends.remove(&(question.until, asked));
        if self.by_what.get(&question.what) == Some(&asked) {
            self.by_what.remove(&question.what);
        }
        Some(question)
    }

    /// One that nobody answers any more.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<(Asked, Question)> {
        let (_, asked) = *self.ends.first().filter(|(until, _)| *until <= now)?;
        self.close(asked).map(|question| (asked, question))
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// Nobody is, for a while.
    pub(super) fn nobody(&mut self, what: What, now: Instant) {
        if self.nobody.len() < MAX_REMEMBERED {
            self.nobody.insert(what, now + NOBODY);
        }
    }

    pub(super) fn is_nobody(&self, what: What, now: Instant) -> bool {
        self.nobody.get(&what).is_some_and(|until| now < *until)
    }

    /// Somebody is, or may be.
    pub(super) fn somebody(&mut self, what: What) {
        self.nobody.remove(&what);
    }

    /// There is another one to ask.
    pub(super) fn hope(&mut self) {
        self.nobody.clear();
    }

    /// Forgets what is too old.
    pub(super) fn age(&mut self, now: Instant) {
        self.nobody.retain(|_, until| now < *until);
        let seen_of = &mut self.seen_of;
        self.seen.retain(|_, seen| {
            let stays = now < seen.until;
            if !stays && let Some(count) = seen_of.get_mut(&seen.from) {
                *count = count.saturating_sub(1);
            }
            stays
        });
    }
}

impl Question {
    pub(super) fn new(
        what: What,
        asker: Asker,
        hops: u8,
        visited: Vec<[u8; 8]>,
        now: Instant,
    ) -> Self {
        Self {
            what,
            askers: vec![asker],
            waiting: Vec::new(),
            away: None,
            hops,
            visited,
            again: now,
            until: now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(number: u64) -> Asked {
        let hub = [8; 8];
        Asked { hub, number }
    }

    fn question(number: u64, hops: u8, now: Instant) -> Question {
        let what = What::Tag(number.to_be_bytes());
        Question::new(what, Asker::Hub(At(0)), hops, Vec::new(), now)
    }

    /// All that are open end at once: it took each a look at all others, with the hub's lock held.
    #[test]
    fn questions_end_in_the_order_of_their_time_and_none_is_left() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        for n in 0..5000 {
            let is_open = questions.ask(asked(n), question(n, 1 + (n % 2) as u8, now), now);
            assert_eq!(is_open, n < MAX_QUESTIONS as u64);
        }
        // Two that are answered, of which one is asked again, twice.
        let later = now + Duration::from_millis(1);
        for answered in [9, 10] {
            assert!(questions.close(asked(answered)).is_some());
        }
        for hops in [1, 2] {
            assert!(questions.ask(asked(9), question(9, hops, later), later));
        }
        assert_eq!(questions.next(), Some(now + WAIT + WAIT_EACH));
        assert!(questions.overdue(now + WAIT).is_none());
        let half = now + WAIT + WAIT_EACH;
        let first = std::iter::from_fn(|| questions.overdue(half)).count();
        assert_eq!(first, MAX_QUESTIONS / 2 - 1, "those with one hop");
        assert_eq!(questions.next(), Some(half + WAIT_EACH));
        let rest = std::iter::from_fn(|| questions.overdue(later + WAIT + 2 * WAIT_EACH));
        assert_eq!(rest.count(), MAX_QUESTIONS / 2);
        assert_eq!((questions.next(), questions.ends.len()), (None, 0));
    }
}
