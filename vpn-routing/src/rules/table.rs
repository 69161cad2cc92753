//! Finds the best rule for a flow among the rules of one owner and one source.
//!
//! Few rules are a list in order of rank. Many are buckets: one per domain, and a prefix trie of
//! one per destination; in a bucket the rules for one port come first, in order of port, so that
//! they are found by binary search, then ranges and rules without port in order of rank.

use std::cmp::Reverse;
use std::net::IpAddr;

use hashbrown::HashMap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use vpn_core::DomainName;

use super::entries::Entries;
use super::entry::{Entry, Question};

/// Up to here a list is shorter and not slower than the trie.
const SMALL: usize = 8;

/// The rules of one owner and one source.
#[derive(Debug)]
pub(super) enum Table {
    Few(Box<[u32]>),
    Many(Box<Trie>),
}

#[derive(Debug, Default)]
pub(super) struct Trie {
    /// Rules with a domain, by that domain, in order of rank.
    domains: HashMap<DomainName, Box<[u32]>, foldhash::quality::RandomState>,
    v4: PrefixMap<Ipv4Net, Bucket>,
    v6: PrefixMap<Ipv6Net, Bucket>,
    anywhere: Bucket,
}

/// Rules of one destination.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    rules: Box<[u32]>,
    /// How many of the first name one port.
    singles: u32,
}

impl Default for Table {
    fn default() -> Self {
        Self::Few(Box::default())
    }
}

impl Table {
    pub(super) fn build(entries: &[Entry], mut rules: Vec<u32>) -> Self {
        let rank = |&i: &u32| Reverse(entries[i as usize].rank());
        if rules.len() <= SMALL {
            rules.sort_by_key(rank);
            return Self::Few(rules.into());
        }
        let mut trie = Trie::default();
        let mut by_domain: HashMap<DomainName, Vec<u32>, foldhash::quality::RandomState> =
            HashMap::default();
        rules.retain(|&i| match &entries[i as usize].matches.domain {
            None => true,
            Some(pattern) => {
                by_domain
                    .entry(pattern.domain().clone())
                    .or_default()
                    .push(i);
                false
            }
        });
        trie.domains = by_domain
            .into_iter()
            .map(|(domain, mut rules)| {
                rules.sort_by_key(rank);
                (domain, rules.into())
            })
            .collect();
        let destination = |i: u32| entries[i as usize].matches.destination.map(|n| n.trunc());
        rules.sort_by_key(|&i| destination(i));
        for group in rules.chunk_by(|&a, &b| destination(a) == destination(b)) {
            let bucket = Bucket::build(entries, group);
            match destination(group[0]) {
                None => trie.anywhere = bucket,
                Some(IpNet::V4(net)) => drop(trie.v4.insert(net, bucket)),
                Some(IpNet::V6(net)) => drop(trie.v6.insert(net, bucket)),
            }
        }
        Self::Many(trie.into())
    }

    /// The index of the matching rule of the highest rank.
    pub(super) fn best(&self, entries: &Entries, question: Question<'_>) -> Option<u32> {
        match self {
            Self::Few(rules) => first(rules, entries, question),
            Self::Many(trie) => trie.best(entries, question),
        }
    }

    /// Every rule of the table, in no order.
    pub(super) fn for_each(&self, visit: &mut dyn FnMut(u32)) {
        match self {
            Self::Few(rules) => rules.iter().copied().for_each(visit),
            Self::Many(trie) => {
                let lists = trie.domains.values().map(|rules| &**rules);
                let buckets = trie.v4.values().chain(trie.v6.values());
                let buckets = buckets.chain([&trie.anywhere]).map(|b| &*b.rules);
                lists
                    .chain(buckets)
                    .for_each(|rules| rules.iter().copied().for_each(&mut *visit));
            }
        }
    }
}

/// The first of a list, which is in order of rank, that matches.
fn first(rules: &[u32], entries: &Entries, question: Question<'_>) -> Option<u32> {
    let matches = |i: &&u32| entries.matches(**i, question);
    rules.iter().find(matches).copied()
}

impl Trie {
    fn best(&self, entries: &Entries, question: Question<'_>) -> Option<u32> {
        // A rule with a domain beats one without.
        if let Some(named) = self.best_named(entries, question) {
            return Some(named);
        }
        // `cover` goes from the shortest prefix to the longest: the last hit wins.
        let find = |bucket: &Bucket| bucket.best(entries, question);
        let covered = match question.flow.dst() {
            IpAddr::V4(dst) => self.v4.cover_values(&dst.into()).filter_map(find).last(),
            IpAddr::V6(dst) => self.v6.cover_values(&dst.into()).filter_map(find).last(),
        };
        covered.or_else(|| find(&self.anywhere))
    }

    fn best_named(&self, entries: &Entries, question: Question<'_>) -> Option<u32> {
        if self.domains.is_empty() {
            return None;
        }
        let mut best: Option<u32> = None;
        let rank = |index: &u32| entries.rank(*index);
        let visit = &mut |_, name: &DomainName| {
            for domain in std::iter::once(name.as_str()).chain(name.parents()) {
                let Some(rules) = self.domains.get(domain) else {
                    continue;
                };
                if let Some(found) = first(rules, entries, question) {
                    best = Some(match best {
                        Some(other) => std::cmp::max_by_key(other, found, rank),
                        None => found,
                    });
                }
            }
        };
        question.domains.visit(question.flow.dst(), visit);
        best
    }
}

impl Bucket {
    fn build(entries: &[Entry], group: &[u32]) -> Self {
        let mut rules = group.to_vec();
        rules.sort_by_key(|&i| {
            let entry = &entries[i as usize];
            let port = entry.single_port();
            (port.is_none(), port, Reverse(entry.rank()))
        });
        let single = |i: &&u32| entries[**i as usize].single_port().is_some();
        Self {
            singles: rules.iter().take_while(single).count() as u32,
            rules: rules.into(),
        }
    }

    fn best(&self, entries: &Entries, question: Question<'_>) -> Option<u32> {
        let (singles, others) = self.rules.split_at(self.singles as usize);
        let port = Some(question.flow.dst_port());
        let start = singles.partition_point(|&i| entries.single_port(i) < port);
        let same = singles[start..]
            .iter()
            .take_while(|&&i| entries.single_port(i) == port);
        same.chain(others)
            .find(|&&i| entries.matches(i, question))
            .copied()
    }
}
