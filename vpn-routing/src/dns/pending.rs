//! Decides whether an answer was asked for: the queries that wait, bounded in number and time.
//!
//! An answer counts once, for a query of its flow with its id and its question (RFC 5452 §9.1).
//! The flow stands for addresses, ports and tunnel, and so for the owner.

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use vpn_core::FlowKey;

use super::{DnsLimits, Message};
use crate::conn::{OwnerSlot, Stamp};

/// What became of a query that wants an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It waits. A repeated one waits from now on.
    Waits,
    /// Its flow, its owner or all together have as many as they may.
    Full,
}

#[derive(Debug)]
struct Query {
    since: Stamp,
    id: u16,
    /// As it was sent: name, type, class.
    question: Box<[u8]>,
}

#[derive(Debug)]
struct Flow {
    owner: OwnerSlot,
    queries: Vec<Query>,
}

/// The queries that wait for their answers.
#[derive(Debug)]
pub struct Pending {
    flows: HashMap<FlowKey, Flow, RandomState>,
    owners: HashMap<OwnerSlot, usize, RandomState>,
    queries: usize,
    limits: DnsLimits,
}

impl Pending {
    /// Nothing waits.
    pub fn new(limits: DnsLimits) -> Self {
        Self {
            flows: HashMap::default(),
            owners: HashMap::default(),
            queries: 0,
            limits,
        }
    }

    /// How many wait.
    pub const fn len(&self) -> usize {
        self.queries
    }

    /// Whether none waits.
    pub const fn is_empty(&self) -> bool {
        self.queries == 0
    }

    /// A query was sent.
    pub fn note(&mut self, now: Stamp, flow: &FlowKey, owner: OwnerSlot, query: &Message) -> Noted {
        let question = query.question();
        let known = self.flows.get_mut(flow);
        if let Some(flow) = known {
            let mut same = flow.queries.iter_mut();
            if let Some(same) = same.find(|q| q.id == query.id() && question.is(&q.question)) {
                same.since = now;
                return Noted::Waits;
            }
            if flow.queries.len() >= self.limits.flow_queries {
                return Noted::Full;
            }
        }
        let owned = self.owners.get(&owner).copied().unwrap_or(0);
        if self.queries >= self.limits.queries
            || owned >= self.limits.owner_queries
            || self.limits.flow_queries == 0
        {
            return Noted::Full;
        }
        let entry = self.flows.entry(*flow).or_insert_with(|| Flow {
            owner,
            queries: Vec::new(),
        });
        entry.queries.push(Query {
            since: now,
            id: query.id(),
            question: question.wire().into(),
        });
        // Counted under the owner that the flow had first, so that the count is taken back there.
        *self.owners.entry(entry.owner).or_default() += 1;
        self.queries += 1;
        Noted::Waits
    }

    /// Whether an answer that came back on `flow` was asked for. It is not asked for again: the
    /// query waits no longer.
    pub fn answered(&mut self, now: Stamp, flow: &FlowKey, answer: &Message) -> bool {
        if !answer.is_answer() {
            return false;
        }
        let Some(entry) = self.flows.get_mut(flow) else {
            return false;
        };
        let patience = self.limits.patience;
        let question = answer.question();
        let mut queries = entry.queries.iter();
        let Some(at) = queries.position(|q| q.id == answer.id() && question.is(&q.question)) else {
            return false;
        };
        let query = entry.queries.swap_remove(at);
        let (owner, last) = (entry.owner, entry.queries.is_empty());
        self.uncount(owner, 1);
        if last {
            self.flows.remove(flow);
        }
        waits(&query, now, patience.as_millis() as Stamp)
    }

    /// A flow ended, or went to another tunnel: answers to what it asked do not count.
    pub fn forget(&mut self, flow: &FlowKey) {
        if let Some(gone) = self.flows.remove(flow) {
            self.uncount(gone.owner, gone.queries.len());
        }
    }

    /// Forgets queries that have waited too long. Visits all of them: once a second.
    pub fn sweep(&mut self, now: Stamp) {
        let patience = self.limits.patience.as_millis() as Stamp;
        let (owners, mut gone) = (&mut self.owners, 0);
        self.flows.retain(|_, flow| {
            let before = flow.queries.len();
            flow.queries.retain(|query| waits(query, now, patience));
            let lost = before - flow.queries.len();
            gone += lost;
            subtract(owners, flow.owner, lost);
            !flow.queries.is_empty()
        });
        self.queries -= gone;
    }

    fn uncount(&mut self, owner: OwnerSlot, queries: usize) {
        self.queries -= queries;
        subtract(&mut self.owners, owner, queries);
    }
}

fn waits(query: &Query, now: Stamp, patience: Stamp) -> bool {
    // Signed: a query may be noted as of the time it came, before the last sweep.
    now.wrapping_sub(query.since).cast_signed() < patience.cast_signed()
}

fn subtract(owners: &mut HashMap<OwnerSlot, usize, RandomState>, owner: OwnerSlot, queries: usize) {
    if let Some(count) = owners.get_mut(&owner) {
        *count -= queries.min(*count);
        if *count == 0 {
            owners.remove(&owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vpn_core::Protocol;

    use super::*;
    use crate::dns::testing::{answer, query};

    const OWNER: OwnerSlot = OwnerSlot(7);

    fn flow(port: u16) -> FlowKey {
        let (app, resolver) = ([10, 5, 0, 2].into(), [100, 64, 0, 53].into());
        FlowKey::new(Protocol::UDP, (app, port), (resolver, 53))
    }

    fn limits() -> DnsLimits {
        DnsLimits {
            flow_queries: 2,
            owner_queries: 3,
            queries: 4,
            ..DnsLimits::default()
        }
    }

    fn note(pending: &mut Pending, now: Stamp, port: u16, owner: OwnerSlot, id: u16) -> Noted {
        let bytes = query(id, "example.com", 1);
        let message = Message::read(&bytes).unwrap();
        pending.note(now, &flow(port), owner, &message)
    }

    fn answered(pending: &mut Pending, now: Stamp, port: u16, bytes: &[u8]) -> bool {
        pending.answered(now, &flow(port), &Message::read(bytes).unwrap())
    }

    #[test]
    fn an_answer_counts_once_and_only_for_its_query() {
        let mut pending = Pending::new(DnsLimits::default());
        note(&mut pending, 0, 1, OWNER, 5);
        for wrong in [
            answer(6, "example.com", 1, &[]),
            answer(5, "example.org", 1, &[]),
            answer(5, "example.com", 28, &[]),
            query(5, "example.com", 1),
        ] {
            assert!(!answered(&mut pending, 1, 1, &wrong));
        }
        let right = answer(5, "eXAMPLE.cOM", 1, &[]);
        assert!(!answered(&mut pending, 1, 2, &right), "another flow");
        assert!(answered(&mut pending, 1, 1, &right));
        assert!(!answered(&mut pending, 1, 1, &right), "twice");
        assert!(pending.is_empty() && pending.owners.is_empty());
    }

    #[test]
    fn a_repeated_query_is_one_and_waits_anew() {
        let mut pending = Pending::new(DnsLimits::default());
        note(&mut pending, 0, 1, OWNER, 5);
        note(&mut pending, 9_000, 1, OWNER, 5);
        assert_eq!(pending.len(), 1);
        pending.sweep(12_000);
        let right = answer(5, "example.com", 1, &[]);
        assert!(answered(&mut pending, 18_999, 1, &right));
        assert!(!answered(&mut pending, 18_999, 1, &right));
    }

    #[test]
    fn a_late_answer_does_not_count_whether_it_was_swept_or_not() {
        for sweep in [false, true] {
            let mut pending = Pending::new(DnsLimits::default());
            let start = Stamp::MAX - 3;
            note(&mut pending, start, 1, OWNER, 5);
            let late = start.wrapping_add(10_000);
            if sweep {
                pending.sweep(late);
                assert!(pending.is_empty());
            }
            let right = answer(5, "example.com", 1, &[]);
            assert!(!answered(&mut pending, late, 1, &right));
            assert!(pending.is_empty() && pending.owners.is_empty());
        }
    }

    #[test]
    fn each_bound_refuses_and_what_is_gone_makes_room() {
        use Noted::{Full, Waits};
        let other = OwnerSlot(8);
        let mut pending = Pending::new(limits());
        assert_eq!(note(&mut pending, 0, 1, OWNER, 1), Waits);
        assert_eq!(note(&mut pending, 0, 1, OWNER, 2), Waits);
        assert_eq!(note(&mut pending, 0, 1, OWNER, 3), Full, "the flow's");
        assert_eq!(note(&mut pending, 0, 2, OWNER, 1), Waits);
        assert_eq!(note(&mut pending, 0, 3, OWNER, 1), Full, "the owner's");
        assert_eq!(note(&mut pending, 0, 4, other, 1), Waits);
        assert_eq!(note(&mut pending, 0, 5, other, 1), Full, "all");
        pending.forget(&flow(1));
        assert_eq!(note(&mut pending, 0, 3, OWNER, 1), Waits);
        pending.sweep(Duration::from_secs(10).as_millis() as Stamp);
        assert!(pending.is_empty() && pending.owners.is_empty() && pending.flows.is_empty());
    }
}
