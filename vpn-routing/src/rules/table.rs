//! Finds the best rule for a flow among the rules of one owner.
//!
//! Few rules are a list in order of rank. Many are a prefix trie of buckets, one per destination;
//! in a bucket the rules for one port come first, in order of port, so that they are found by
//! binary search, then ranges and rules without port in order of rank.

use std::cmp::Reverse;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use vpn_core::flow::FlowKey;
use vpn_core::{PortRange, Rule, RuleId, RuleMatch};

use super::compile::{Decision, Target};

/// Up to here a list is shorter and not slower than the trie.
const SMALL: usize = 8;

/// One rule, its tunnel's name resolved.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: RuleId,
    pub(super) matches: RuleMatch,
    pub(super) target: Target,
}

/// What precedence compares; larger wins.
pub(super) type Rank = (bool, u8, bool, Reverse<u16>, bool, RuleId);

impl Entry {
    pub(super) fn new(rule: &Rule, target: Target) -> Self {
        Self {
            id: rule.id,
            matches: rule.matches.clone(),
            target,
        }
    }

    pub(super) fn decision(&self) -> Decision {
        Decision {
            action: self.target,
            rule: Some(self.id),
        }
    }

    pub(super) fn rank(&self) -> Rank {
        let m = &self.matches;
        let width = |ports: PortRange| ports.last() - ports.first();
        (
            m.owner.is_some(),
            // A destination of length 0 is longer than none; 128 + 1 fits.
            m.destination.map_or(0, |net| net.prefix_len() + 1),
            m.ports.is_some(),
            Reverse(m.ports.map_or(0, width)),
            m.protocol.is_some(),
            self.id,
        )
    }

    pub(super) fn matches_flow(&self, flow: &FlowKey) -> bool {
        self.matches
            .matches_flow(flow.protocol(), flow.dst(), flow.dst_port())
    }

    fn single_port(&self) -> Option<u16> {
        let ports = self.matches.ports?;
        (ports.first() == ports.last()).then_some(ports.first())
    }
}

/// The rules of one owner.
#[derive(Debug)]
pub(super) enum Table {
    Few(Box<[u32]>),
    Many(Box<Trie>),
}

#[derive(Debug, Default)]
pub(super) struct Trie {
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
        if rules.len() <= SMALL {
            rules.sort_by_key(|&i| Reverse(entries[i as usize].rank()));
            return Self::Few(rules.into());
        }
        rules.sort_by_key(|&i| entries[i as usize].matches.destination.map(|n| n.trunc()));
        let mut trie = Trie::default();
        let destination = |i: u32| entries[i as usize].matches.destination.map(|n| n.trunc());
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
    pub(super) fn best(&self, entries: &[Entry], flow: &FlowKey) -> Option<u32> {
        match self {
            Self::Few(rules) => {
                let matches = |i: &&u32| entries[**i as usize].matches_flow(flow);
                rules.iter().find(matches).copied()
            }
            Self::Many(trie) => trie.best(entries, flow),
        }
    }

    /// Every rule of the table, in no order.
    pub(super) fn for_each(&self, visit: &mut dyn FnMut(u32)) {
        match self {
            Self::Few(rules) => rules.iter().copied().for_each(visit),
            Self::Many(trie) => {
                let buckets = trie.v4.values().chain(trie.v6.values());
                for bucket in buckets.chain([&trie.anywhere]) {
                    bucket.rules.iter().copied().for_each(&mut *visit);
                }
            }
        }
    }
}

impl Trie {
    fn best(&self, entries: &[Entry], flow: &FlowKey) -> Option<u32> {
        // `cover` goes from the shortest prefix to the longest: the last hit wins.
        let find = |bucket: &Bucket| bucket.best(entries, flow);
        let covered = match flow.dst() {
            IpAddr::V4(dst) => self.v4.cover_values(&dst.into()).filter_map(find).last(),
            IpAddr::V6(dst) => self.v6.cover_values(&dst.into()).filter_map(find).last(),
        };
        covered.or_else(|| find(&self.anywhere))
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

    fn best(&self, entries: &[Entry], flow: &FlowKey) -> Option<u32> {
        let (singles, others) = self.rules.split_at(self.singles as usize);
        let port = Some(flow.dst_port());
        let entry = |i: &u32| &entries[*i as usize];
        let start = singles.partition_point(|i| entry(i).single_port() < port);
        let same = singles[start..]
            .iter()
            .take_while(|i| entry(i).single_port() == port);
        same.chain(others)
            .find(|i| entry(i).matches_flow(flow))
            .copied()
    }
}
