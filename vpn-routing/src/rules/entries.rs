//! Compiled rules in memory: what many say alike is kept once.
//!
//! Most rules are for one user each and say one of a few things, so a rule is its id, its user and
//! the number of what it says: 12 bytes.

use hashbrown::{HashMap, HashTable};
use vpn_core::{OnChange, OwnerMatch, RuleId, RuleMatch};

use super::decide::{Decision, Target};
use super::entry::{self, Entry, Question, Rank};
use super::who::{Hit, Who};

/// All rules of a snapshot, by their place in it.
#[derive(Debug, Default)]
pub(super) struct Entries {
    list: Box<[Brief]>,
    says: Box<[Says]>,
    long_ids: Box<[RuleId]>,
}

/// One rule.
#[derive(Clone, Copy, Debug)]
struct Brief {
    id: ShortId,
    says: u32,
    /// If what it says is for a user: which.
    user: u32,
}

/// What a rule says about flows, and of which owner unless that is a user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Says {
    matches: RuleMatch,
    of_user: bool,
    /// It says so about every flow.
    always: bool,
    target: Target,
    on_change: OnChange,
    on_down: Option<Target>,
}

impl Says {
    fn new(entry: &Entry) -> Self {
        let of_user = matches!(entry.matches.owner, Some(OwnerMatch::Uid(_)));
        let mut matches = entry.matches.clone();
        if of_user {
            matches.owner = None;
        }
        let any = RuleMatch {
            owner: matches.owner.clone(),
            ..RuleMatch::default()
        };
        Self {
            always: matches == any,
            matches,
            of_user,
            target: entry.target,
            on_change: entry.on_change,
            on_down: entry.on_down,
        }
    }

    const fn decision(&self, rule: RuleId) -> Decision {
        Decision {
            action: self.target,
            rule: Some(rule),
            on_change: self.on_change,
            on_down: self.on_down,
        }
    }
}

/// A rule's id in four bytes: its number or place in its file if that is small, else where it is
/// kept.
#[derive(Clone, Copy, Debug)]
struct ShortId(u32);

impl ShortId {
    /// Set for a rule of a file.
    const FILE: u32 = 1 << 30;
    /// Set for one that is kept elsewhere.
    const LONG: u32 = 1 << 31;

    fn new(id: RuleId, long: &mut Vec<RuleId>) -> Self {
        let (number, of_file) = match id.place_in_file() {
            Some(place) if RuleId::of_file(place) == id => (place, Self::FILE),
            Some(_) => (u32::MAX, 0),
            None => (u32::try_from(id.0).unwrap_or(u32::MAX), 0),
        };
        if number < Self::FILE {
            return Self(number | of_file);
        }
        long.push(id);
        Self(Self::LONG | (long.len() - 1) as u32)
    }

    #[inline]
    fn id(self, long: &[RuleId]) -> RuleId {
        match self.0.checked_sub(Self::LONG) {
            Some(place) => long.get(place as usize).copied().unwrap_or(RuleId(0)),
            None if self.0 & Self::FILE != 0 => RuleId::of_file(self.0 & !Self::FILE),
            None => RuleId(self.0.into()),
        }
    }
}

impl Entries {
    pub(super) fn new(entries: &[Entry]) -> Self {
        let mut says = Vec::new();
        let mut numbers: HashMap<Says, u32, foldhash::quality::RandomState> = HashMap::default();
        let mut long_ids = Vec::new();
        let brief = |entry: &Entry| Brief {
            id: ShortId::new(entry.id, &mut long_ids),
            says: *numbers.entry(Says::new(entry)).or_insert_with_key(|new| {
                says.push(new.clone());
                (says.len() - 1) as u32
            }),
            user: match entry.matches.owner {
                Some(OwnerMatch::Uid(uid)) => uid,
                _ => 0,
            },
        };
        Self {
            list: entries.iter().map(brief).collect(),
            says: says.into(),
            long_ids: long_ids.into(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// What rules say, each once.
    pub(super) fn any_says(&self, is: impl Fn(OnChange, Option<Target>) -> bool) -> bool {
        self.says
            .iter()
            .any(|says| is(says.on_change, says.on_down))
    }

    #[inline]
    fn says(&self, index: u32) -> &Says {
        &self.says[self.list[index as usize].says as usize]
    }

    #[inline]
    pub(super) fn id(&self, index: u32) -> RuleId {
        self.list[index as usize].id.id(&self.long_ids)
    }

    #[inline]
    pub(super) fn decision(&self, index: u32) -> Decision {
        self.says(index).decision(self.id(index))
    }

    /// The decision, if the rule makes the same for every flow.
    #[inline]
    pub(super) fn unconditional(&self, index: u32) -> Option<Decision> {
        let says = self.says(index);
        says.always.then(|| says.decision(self.id(index)))
    }

    pub(super) fn target(&self, index: u32) -> Target {
        self.says(index).target
    }

    pub(super) fn rank(&self, index: u32) -> Rank {
        entry::rank(&self.says(index).matches, self.id(index))
    }

    /// Whether the rule is for this flow, its owner and source apart.
    pub(super) fn matches(&self, index: u32, question: Question<'_>) -> bool {
        let says = self.says(index);
        says.always || entry::matches(&says.matches, says.target, question)
    }

    pub(super) fn single_port(&self, index: u32) -> Option<u16> {
        entry::single_port(&self.says(index).matches)
    }

    /// What the rule matches, as it was written.
    pub(super) fn written(&self, index: u32) -> RuleMatch {
        let says = self.says(index);
        let mut matches = says.matches.clone();
        if says.of_user {
            matches.owner = Some(OwnerMatch::Uid(self.list[index as usize].user));
        }
        matches
    }
}

/// The rules of users, by user id.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// The one rule of a user, or the place of several.
    index: HashTable<u32>,
    several: Box<[(u32, Who)]>,
    hasher: foldhash::fast::RandomState,
}

/// Set in places of users with several rules, or with one for some sources.
const SEVERAL: u32 = 1 << 31;

impl Users {
    /// `lists` are the rules of each user, with the sources they are for.
    pub(super) fn build(
        entries: &[Entry],
        lists: impl ExactSizeIterator<Item = (u32, Vec<(Option<ipnet::IpNet>, u32)>)>,
    ) -> Self {
        let mut several = Vec::new();
        let mut users: Vec<(u32, u32)> = Vec::with_capacity(lists.len());
        for (uid, rules) in lists {
            let place = match rules[..] {
                [(None, index)] => index,
                _ => {
                    several.push((uid, Who::build(entries, rules)));
                    SEVERAL | (several.len() - 1) as u32
                }
            };
            users.push((uid, place));
        }
        let mut built = Self {
            index: HashTable::with_capacity(users.len()),
            several: several.into(),
            hasher: foldhash::fast::RandomState::default(),
        };
        for (uid, place) in users {
            let hash = built.hash(uid);
            // There is room for all of them: none is ever hashed again.
            built.index.insert_unique(hash, place, |_| 0);
        }
        built
    }

    #[inline]
    fn hash(&self, uid: u32) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hasher, uid)
    }

    #[inline]
    fn place(&self, entries: &Entries, uid: u32) -> Option<u32> {
        let is = |&place: &u32| match place.checked_sub(SEVERAL) {
            None => entries.list[place as usize].user == uid,
            Some(place) => self.several[place as usize].0 == uid,
        };
        self.index.find(self.hash(uid), is).copied()
    }

    /// The decision about every flow of this user, if one rule makes it.
    #[inline]
    pub(super) fn unconditional(&self, entries: &Entries, uid: u32) -> Option<Decision> {
        let place = self.place(entries, uid)?;
        match place < SEVERAL {
            true => entries.unconditional(place),
            false => None,
        }
    }

    pub(super) fn best(&self, entries: &Entries, uid: u32, question: Question<'_>) -> Option<Hit> {
        let place = self.place(entries, uid)?;
        match place.checked_sub(SEVERAL) {
            None => entries.matches(place, question).then_some(Hit {
                source: 0,
                index: place,
            }),
            Some(place) => self.several[place as usize].1.best(entries, question),
        }
    }

    /// Every rule of a user that is for this flow's source, in no order.
    pub(super) fn for_each(
        &self,
        entries: &Entries,
        uid: u32,
        question: Question<'_>,
        visit: &mut dyn FnMut(Hit),
    ) {
        match self
            .place(entries, uid)
            .map(|p| (p, p.checked_sub(SEVERAL)))
        {
            None => {}
            Some((index, None)) => visit(Hit { source: 0, index }),
            Some((_, Some(place))) => self.several[place as usize].1.for_each(question, visit),
        }
    }
}
