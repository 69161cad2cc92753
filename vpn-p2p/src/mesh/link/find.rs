//! Decides who is looked for, and whether an answer is one. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::repeat::Repeat;
use crate::mesh::record::Record;
use crate::mesh::wire::What;

/// Questions that may be open at the same time: more than an application starts in a second, and
/// few enough to be asked again all at once after a reconnect.
pub const MAX_FINDS: usize = 1024;

/// One question.
#[derive(Clone, Copy, Debug)]
struct Find {
    what: What,
    until: Instant,
    /// `None` while there is nobody to ask.
    repeat: Option<Repeat>,
}

/// The open questions.
#[derive(Debug, Default)]
pub(super) struct Finds(BTreeMap<u32, Find>);

impl Finds {
    /// Takes a question; `false` if there are too many.
    pub(super) fn ask(&mut self, id: u32, what: What, now: Instant, patience: Duration) -> bool {
        if self.0.len() >= MAX_FINDS && !self.0.contains_key(&id) {
            return false;
        }
        let find = Find {
            what,
            until: now + patience,
            repeat: None,
        };
        self.0.insert(id, find);
        true
    }

    /// What is to be asked now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(u32, What)> {
        self.0
            .iter_mut()
            .filter_map(|(id, find)| {
                let repeat = find.repeat.get_or_insert(Repeat::new(now));
                repeat.take(now).then_some((*id, find.what))
            })
            .collect()
    }

    /// There is nobody to ask: what is open is asked from the start when there is again.
    pub(super) fn pause(&mut self) {
        for find in self.0.values_mut() {
            find.repeat = None;
        }
    }

    /// Gives up what was not answered in time.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<u32> {
        let over: Vec<u32> = self
            .0
            .iter()
            .filter(|(_, find)| now >= find.until)
            .map(|(id, _)| *id)
            .collect();
        for id in &over {
            self.0.remove(id);
        }
        over
    }

    /// Whether this answers a question; it is closed then.
    pub(super) fn answered(&mut self, id: u32, record: Option<&Record>) -> bool {
        let is_answer = self
            .0
            .get(&id)
            .is_some_and(|find| record.is_none_or(|record| is_who(find.what, record)));
        if is_answer {
            self.0.remove(&id);
        }
        is_answer
    }

    /// Gives up all.
    pub(super) fn drain(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.0).into_keys().collect()
    }

    /// When something is due. `can_ask`: whether there is somebody to ask.
    pub(super) fn next(&self, can_ask: bool) -> Option<Instant> {
        self.0
            .values()
            .map(|find| match find.repeat {
                Some(repeat) if can_ask => {
                    repeat.next().map_or(find.until, |at| at.min(find.until))
                }
                _ => find.until,
            })
            .min()
    }
}

/// Whether a record is of who was asked for: a hub may not answer with somebody else.
fn is_who(what: What, record: &Record) -> bool {
    match what {
        What::Address(address) => {
            record.addresses.contains(&address)
                || record.routes.iter().any(|net| net.contains(&address))
        }
        What::Peer(key) => record.peer.0 == key,
        What::Tag(tag) => record.peer.0.starts_with(&tag),
    }
}
