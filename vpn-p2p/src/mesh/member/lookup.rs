//! Decides who is asked for, when again, and what waits for the answer. Pure.
//!
//! One question per destination at a time; that nobody has it is remembered for a while, so that a
//! scan of the mesh's network costs a question per address and minute at most.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vpn_core::{DropReason, Packet};

use crate::held::{Held, Holding};
use crate::mesh::way::HubId;
use crate::mesh::wire::What;

/// Questions that are open, or whose "nobody" is remembered. Beyond it packets for further
/// unknown destinations are dropped.
pub(super) const MAX_LOOKUPS: usize = 4096;

/// For how long "nobody" is believed the first time; doubled each time up to the second.
const NOBODY_FIRST: Duration = Duration::from_secs(5);
const NOBODY_LONGEST: Duration = Duration::from_secs(60);

/// After how long without any answer a question is taken for unanswered: links repeat it meanwhile.
const UNANSWERED: Duration = Duration::from_secs(6);

/// One destination.
#[derive(Debug)]
struct Lookup {
    held: Held,
    /// The question under way.
    id: Option<u32>,
    /// Hubs that were asked this time.
    asked: Vec<HubId>,
    /// "Nobody" until then, or unanswered at that time.
    until: Instant,
    nobody: u32,
}

impl Lookup {
    /// When it is forgotten: a question that nobody answers soon, "nobody" later than it is
    /// believed, so that the next pause is a longer one.
    fn over(&self) -> Instant {
        match self.id {
            Some(_) => self.until,
            None => self.until + NOBODY_LONGEST,
        }
    }
}

/// Open questions.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    open: BTreeMap<What, Lookup>,
    by_id: BTreeMap<u32, What>,
    next_id: u32,
    pub(super) nobody: u64,
}

/// What follows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask this hub.
    Ask(HubId, u32, What),
    Nothing,
}

impl Lookups {
    /// Somebody wants this, by one of these hubs; a packet may wait for it.
    pub(super) fn want(
        &mut self,
        what: What,
        packet: Option<&Packet>,
        hubs: &[HubId],
        now: Instant,
        all: &mut Holding,
    ) -> Step {
        if !self.open.contains_key(&what) && self.open.len() >= MAX_LOOKUPS {
            all.drops.count(DropReason::HoldFull);
            return Step::Nothing;
        }
        let lookup = self.open.entry(what).or_insert_with(|| Lookup {
            held: Held::default(),
            id: None,
            asked: Vec::new(),
            until: now,
            nobody: 0,
        });
        if lookup.id.is_none() && lookup.until > now {
            if packet.is_some() {
                all.drops.count(DropReason::NoSession);
            }
            return Step::Nothing;
        }
        if let Some(packet) = packet {
            lookup.held.push(packet, now, all);
        }
        if lookup.id.is_some() {
            return Step::Nothing;
        }
        lookup.asked.clear();
        self.ask(what, hubs, now)
    }

    /// Asks the next hub that was not asked yet.
    fn ask(&mut self, what: What, hubs: &[HubId], now: Instant) -> Step {
        let Some(lookup) = self.open.get_mut(&what) else {
            return Step::Nothing;
        };
        if let Some(id) = lookup.id.take() {
            self.by_id.remove(&id);
        }
        let Some(&hub) = hubs.iter().find(|hub| !lookup.asked.contains(hub)) else {
            return Step::Nothing;
        };
        // The upper half of the numbers is for questions that are no lookups.
        self.next_id = self.next_id.wrapping_add(1) & (u32::MAX >> 1);
        let id = self.next_id;
        lookup.id = Some(id);
        lookup.asked.push(hub);
        lookup.until = now + UNANSWERED;
        self.by_id.insert(id, what);
        Step::Ask(hub, id, what)
    }

    /// A hub knows nobody. Asks the next one, or gives up for a while.
    pub(super) fn nobody(
        &mut self,
        id: u32,
        hubs: &[HubId],
        now: Instant,
        all: &mut Holding,
    ) -> Step {
        let Some(what) = self.by_id.get(&id).copied() else {
            return Step::Nothing;
        };
        let step = self.ask(what, hubs, now);
        if step == Step::Nothing
            && let Some(lookup) = self.open.get_mut(&what)
        {
            self.nobody += 1;
            lookup.held.drop_all(DropReason::NoSession, all);
            let pause = NOBODY_FIRST * 2_u32.saturating_pow(lookup.nobody.min(8));
            lookup.nobody += 1;
            lookup.until = now + pause.min(NOBODY_LONGEST);
        }
        step
    }

    /// What this question is about, while it is open.
    pub(super) fn what(&self, id: u32) -> Option<What> {
        self.by_id.get(&id).copied()
    }

    /// It was found: what waited for it is the peer's now.
    pub(super) fn found(&mut self, id: u32) -> Held {
        match self.by_id.get(&id).copied() {
            Some(what) => self.settled(&what),
            None => Held::default(),
        }
    }

    /// It is known now, from wherever.
    pub(super) fn settled(&mut self, what: &What) -> Held {
        let Some(lookup) = self.open.remove(what) else {
            return Held::default();
        };
        if let Some(id) = lookup.id {
            self.by_id.remove(&id);
        }
        lookup.held
    }

    /// There are hubs again, or others: what was not found may be now.
    pub(super) fn again(&mut self, hubs: &[HubId], now: Instant) -> Vec<Step> {
        let unanswered: Vec<What> = (self.open.iter())
            .filter(|(_, lookup)| lookup.id.is_none() && !lookup.held.is_empty())
            .map(|(what, _)| *what)
            .collect();
        let ask = |what| {
            if let Some(lookup) = self.open.get_mut(&what) {
                lookup.asked.clear();
            }
            self.ask(what, hubs, now)
        };
        unanswered.into_iter().map(ask).collect()
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        (self.open.values())
            .map(|lookup| lookup.held.next_timeout().unwrap_or_else(|| lookup.over()))
            .min()
    }

    /// Forgets what is over.
    pub(super) fn handle_timeout(&mut self, now: Instant, all: &mut Holding) {
        let by_id = &mut self.by_id;
        self.open.retain(|_, lookup| {
            lookup.held.expire(now, all);
            let over = lookup.held.is_empty() && lookup.over() <= now;
            if over && let Some(id) = lookup.id {
                by_id.remove(&id);
            }
            !over
        });
    }
}
