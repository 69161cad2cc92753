//! Which answers of a directory are remembered, and for how long; that there was none, too. Bounded.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::ops::Range;

use vpn_core::{PeerId, PeerRecord};

/// What a directory is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// Where a peer is.
    Peer(PeerId),
    /// Who claims an address.
    Address(IpAddr),
}

/// How long answers are remembered, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// How long an answer is used without asking again, in seconds; default 60. A record is never used
    /// beyond its own end.
    pub known_for: u64,
    /// How long "nobody" is believed, in seconds; default 5. Shorter: somebody who joins is found
    /// soon. Longer: what asks for everything costs less.
    pub nobody_for: u64,
    /// Answers in all; default 8192. Beyond, the oldest is forgotten.
    pub entries: usize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            known_for: 60,
            nobody_for: 5,
            entries: 8192,
        }
    }
}

/// What is remembered about a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// The answer; empty for "nobody". No need to ask.
    Fresh(Vec<PeerRecord>),
    /// Ask again; if nobody answers, this is valid still.
    Stale(Vec<PeerRecord>),
    /// Ask.
    Nothing,
}

/// Answers of a directory.
#[derive(Clone, Debug)]
pub struct Cache {
    config: CacheConfig,
    entries: HashMap<Question, Entry>,
    /// In the order they were remembered in, with the entry's number: one that was replaced is behind
    /// its successor, and skipped.
    order: VecDeque<(Question, u64)>,
    next: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    number: u64,
    records: Vec<PeerRecord>,
    /// From when to when it is used without asking: earlier than it was remembered is it only by a
    /// clock that went back, and then it would be used for as long as that.
    fresh: Range<u64>,
}

impl Cache {
    /// Nothing is remembered.
    pub fn new(config: CacheConfig) -> Self {
        Self {
            config,
            entries: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
        }
    }

    /// Remembers an answer: all valid records, none for "nobody".
    pub fn put(&mut self, question: Question, records: Vec<PeerRecord>, unix: u64) {
        if self.config.entries == 0 {
            return;
        }
        let for_seconds = match records.is_empty() {
            true => self.config.nobody_for,
            false => self.config.known_for,
        };
        let number = self.next;
        self.next += 1;
        let entry = Entry {
            number,
            records,
            fresh: unix..unix.saturating_add(for_seconds),
        };
        self.entries.insert(question, entry);
        self.order.push_back((question, number));
        self.shrink();
    }

    /// What is remembered. Records that expired are left out; an answer of which nothing is left is
    /// asked for again.
    pub fn get(&self, question: Question, unix: u64) -> Remembered {
        let Some(entry) = self.entries.get(&question) else {
            return Remembered::Nothing;
        };
        let valid = entry.records.iter().filter(|record| record.expires > unix);
        let valid: Vec<PeerRecord> = valid.cloned().collect();
        let nobody = entry.records.is_empty();
        match (entry.fresh.contains(&unix), valid.is_empty()) {
            (true, false) => Remembered::Fresh(valid),
            (true, true) if nobody => Remembered::Fresh(valid),
            (false, false) => Remembered::Stale(valid),
            _ => Remembered::Nothing,
        }
    }

    /// A record came by itself: what it makes wrong is forgotten, its peer's answer is replaced. Whoever
    /// calls it knows that the record is valid and the newest.
    pub fn learn(&mut self, record: &PeerRecord, unix: u64) {
        let claimed = record.addresses.iter().copied();
        for address in claimed {
            self.forget(Question::Address(address));
        }
        if let Some(known) = self.entries.get(&Question::Peer(record.peer)) {
            let before = known.records.iter().flat_map(|known| &known.addresses);
            for address in before.copied().collect::<Vec<_>>() {
                self.forget(Question::Address(address));
            }
            self.put(Question::Peer(record.peer), vec![record.clone()], unix);
        }
    }

    /// Forgets one answer.
    pub fn forget(&mut self, question: Question) {
        self.entries.remove(&question);
    }

    /// How many answers are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Drops the oldest, and what is in `order` for nothing.
    fn shrink(&mut self) {
        // Replaced and forgotten entries make `order` longer than the table: at most twice as long.
        while self.entries.len() > self.config.entries || self.order.len() > 2 * self.config.entries
        {
            let Some((question, number)) = self.order.pop_front() else {
                return;
            };
            if self
                .entries
                .get(&question)
                .is_some_and(|entry| entry.number == number)
            {
                self.entries.remove(&question);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(peer: u8, expires: u64) -> PeerRecord {
        PeerRecord {
            peer: PeerId([peer; 32]),
            addresses: vec![[10, 0, 0, peer].into()],
            sequence: 1,
            expires,
            body: Default::default(),
            signature: Default::default(),
        }
    }

    fn peer(peer: u8) -> Question {
        Question::Peer(PeerId([peer; 32]))
    }

    #[test]
    fn an_answer_is_fresh_then_stale_then_nothing() {
        let mut cache = Cache::new(CacheConfig::default());
        let known = vec![record(1, 1000)];
        cache.put(peer(1), known.clone(), 100);
        assert_eq!(cache.get(peer(1), 159), Remembered::Fresh(known.clone()));
        assert_eq!(cache.get(peer(1), 160), Remembered::Stale(known.clone()));
        assert_eq!(cache.get(peer(1), 999), Remembered::Stale(known));
        assert_eq!(cache.get(peer(1), 1000), Remembered::Nothing);
        // A record's own end counts, however fresh the answer is.
        cache.put(peer(1), vec![record(1, 110)], 100);
        assert_eq!(cache.get(peer(1), 110), Remembered::Nothing);
    }

    #[test]
    fn nobody_is_believed_for_a_short_time_and_never_afterwards() {
        let mut cache = Cache::new(CacheConfig::default());
        cache.put(peer(1), vec![], 100);
        assert_eq!(cache.get(peer(1), 104), Remembered::Fresh(vec![]));
        assert_eq!(cache.get(peer(1), 105), Remembered::Nothing);
        // Who comes is found at once.
        cache.put(Question::Address([10, 0, 0, 1].into()), vec![], 100);
        cache.put(peer(1), vec![], 100);
        cache.learn(&record(1, 1000), 101);
        assert_eq!(
            cache.get(peer(1), 101),
            Remembered::Fresh(vec![record(1, 1000)])
        );
        let address = Question::Address([10, 0, 0, 1].into());
        assert_eq!(cache.get(address, 101), Remembered::Nothing);
    }

    #[test]
    fn what_was_remembered_by_a_clock_that_was_ahead_is_asked_for_again() {
        let mut cache = Cache::new(CacheConfig::default());
        cache.put(peer(1), vec![], 9000);
        cache.put(peer(2), vec![record(2, 10_000)], 9000);
        assert_eq!(cache.get(peer(1), 100), Remembered::Nothing);
        let there = Remembered::Stale(vec![record(2, 10_000)]);
        assert_eq!(cache.get(peer(2), 100), there);
    }

    #[test]
    fn an_address_that_was_given_up_is_asked_for_again() {
        let mut cache = Cache::new(CacheConfig::default());
        let address = Question::Address([10, 0, 0, 1].into());
        cache.put(peer(1), vec![record(1, 1000)], 100);
        cache.put(address, vec![record(1, 1000)], 100);
        let mut moved = record(1, 1000);
        moved.addresses = vec![[10, 0, 0, 9].into()];
        cache.learn(&moved, 101);
        assert_eq!(cache.get(address, 101), Remembered::Nothing);
    }

    #[test]
    fn it_is_bounded_and_the_oldest_goes() {
        let config = CacheConfig {
            entries: 3,
            ..CacheConfig::default()
        };
        let mut cache = Cache::new(config);
        for number in 1..=3 {
            cache.put(peer(number), vec![record(number, 1000)], 100);
        }
        // Remembered anew: the second is the oldest now.
        cache.put(peer(1), vec![record(1, 1000)], 101);
        cache.put(peer(4), vec![record(4, 1000)], 101);
        assert_eq!(cache.get(peer(2), 101), Remembered::Nothing);
        assert!(matches!(cache.get(peer(1), 101), Remembered::Fresh(_)));
        for round in 0..100 {
            cache.put(peer(1), vec![], 100 + round);
            cache.forget(peer(1));
        }
        assert!(cache.len() <= 3 && cache.order.len() <= 6);
    }
}
