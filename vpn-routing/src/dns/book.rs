//! Decides which names an address is known under: what answers said, per tunnel, for as long as
//! they said it.
//!
//! Two tunnels may lead to different places under one address, and to one place under different
//! addresses, so a name counts in the tunnel whose resolver gave it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use vpn_core::{DomainName, TunnelId};

use super::{DnsLimits, NamedAddress};
use crate::conn::Stamp;

/// Sweeps for one full round over the book.
const SWEEPS_PER_ROUND: usize = 16;

/// Where a round of the sweep begins.
const START: (TunnelId, u64) = (TunnelId::new(0), 0);

/// Longest time a name may be remembered, whatever is configured: stamps tell no more than half of
/// their range apart.
const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// One name of one address in one tunnel.
#[derive(Debug)]
struct Entry {
    tunnel: TunnelId,
    name: Arc<DomainName>,
    until: Stamp,
    /// How long flows to the address can make it hold.
    latest: Stamp,
    /// Place in the order of learning.
    turn: u64,
}

impl Entry {
    const fn holds(&self, now: Stamp) -> bool {
        is_before(now, self.until)
    }
}

/// Of two stamps less than 24 days apart.
const fn is_before(a: Stamp, b: Stamp) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

/// The names of addresses, learned from answers.
#[derive(Debug)]
pub struct Book {
    addresses: HashMap<IpAddr, Vec<Entry>, RandomState>,
    /// Every entry, in the order in which its tunnel learned it.
    order: BTreeMap<(TunnelId, u64), IpAddr>,
    counts: HashMap<TunnelId, usize, RandomState>,
    turn: u64,
    /// How far the sweep has come.
    hand: (TunnelId, u64),
    /// Entries visited by one sweep of this round.
    steps: usize,
    swept: Vec<(TunnelId, u64, IpAddr)>,
    limits: DnsLimits,
}

impl Book {
    /// An empty book.
    pub fn new(limits: DnsLimits) -> Self {
        Self {
            addresses: HashMap::default(),
            order: BTreeMap::new(),
            counts: HashMap::default(),
            turn: 0,
            hand: START,
            steps: 0,
            swept: Vec::new(),
            limits,
        }
    }

    /// How many names are known, over all addresses and tunnels.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// How many names are known in one tunnel.
    pub fn names_in(&self, tunnel: TunnelId) -> usize {
        self.counts.get(&tunnel).copied().unwrap_or(0)
    }

    /// The names that are known for an address, in every tunnel.
    pub fn names(&self, now: Stamp, addr: IpAddr) -> impl Iterator<Item = (TunnelId, &DomainName)> {
        let entries = self.addresses.get(&addr).map_or(&[][..], Vec::as_slice);
        let known = entries.iter().filter(move |entry| entry.holds(now));
        known.map(|entry| (entry.tunnel, entry.name.as_ref()))
    }

    /// An answer came through `tunnel`.
    pub fn learn(&mut self, now: Stamp, tunnel: TunnelId, learned: &NamedAddress) {
        let longest = self.limits.longest.min(MAX_TTL);
        let ttl = learned
            .ttl
            .clamp(self.limits.shortest.min(longest), longest);
        let until = now.wrapping_add(ttl.as_millis() as Stamp);
        let latest = now.wrapping_add(longest.as_millis() as Stamp);
        for name in &learned.names {
            self.enter(tunnel, learned.addr, name, until, latest);
        }
    }

    /// A flow to this address goes through `tunnel` still: its names hold for some time more, so
    /// that rules that change find the flow, and the next one, under the name it was looked up by.
    pub fn keep(&mut self, now: Stamp, tunnel: TunnelId, addr: IpAddr) {
        let Some(entries) = self.addresses.get_mut(&addr) else {
            return;
        };
        let longer = now.wrapping_add(self.limits.shortest.as_millis() as Stamp);
        for entry in entries.iter_mut().filter(|entry| entry.tunnel == tunnel) {
            if entry.holds(now) && is_before(entry.until, longer) {
                entry.until = match is_before(longer, entry.latest) {
                    true => longer,
                    false => entry.latest,
                };
            }
        }
    }

    fn enter(
        &mut self,
        tunnel: TunnelId,
        addr: IpAddr,
        name: &Arc<DomainName>,
        until: Stamp,
        latest: Stamp,
    ) {
        let known = self.addresses.get(&addr).map_or(&[][..], Vec::as_slice);
        let mut here = known.iter().filter(|entry| entry.tunnel == tunnel);
        let same = here.clone().find(|entry| entry.name == *name);
        let oldest = here.clone().map(|entry| entry.turn).min();
        let goes = match same {
            Some(same) => Some((same.turn, addr)),
            None if here.by_ref().count() >= self.limits.address_names => {
                oldest.map(|turn| (turn, addr))
            }
            None if self.names_in(tunnel) >= self.limits.tunnel_names => {
                let mut order = self.order.range((tunnel, 0)..);
                order.next().map(|(&(_, turn), &addr)| (turn, addr))
            }
            None => None,
        };
        if let Some((turn, addr)) = goes {
            self.remove(tunnel, turn, addr);
        }
        if self.limits.tunnel_names == 0 || self.limits.address_names == 0 {
            return;
        }
        self.turn += 1;
        self.addresses.entry(addr).or_default().push(Entry {
            tunnel,
            name: Arc::clone(name),
            until,
            latest,
            turn: self.turn,
        });
        self.order.insert((tunnel, self.turn), addr);
        *self.counts.entry(tunnel).or_default() += 1;
    }

    /// A tunnel is gone, with all it said.
    pub fn forget(&mut self, tunnel: TunnelId) {
        while let Some((&(of, turn), &addr)) = self.order.range((tunnel, 0)..).next() {
            if of != tunnel {
                break;
            }
            self.remove(tunnel, turn, addr);
        }
    }

    /// Forgets some of what holds no longer. Called once a second, it comes by every entry within
    /// 16 s, and visits no more than a sixteenth at once.
    pub fn sweep(&mut self, now: Stamp) {
        if self.hand == START {
            self.steps = self.order.len() / SWEEPS_PER_ROUND + 1;
        }
        let steps = self.steps;
        let mut swept = std::mem::take(&mut self.swept);
        let from_here = self.order.range(self.hand..).take(steps);
        swept.extend(from_here.map(|(&(tunnel, turn), &addr)| (tunnel, turn, addr)));
        self.hand = match swept.last() {
            Some(&(tunnel, turn, _)) if swept.len() == steps => (tunnel, turn + 1),
            _ => START,
        };
        for (tunnel, turn, addr) in swept.drain(..) {
            let entries = self.addresses.get(&addr).map_or(&[][..], Vec::as_slice);
            let entry = entries.iter().find(|entry| entry.turn == turn);
            if entry.is_some_and(|entry| !entry.holds(now)) {
                self.remove(tunnel, turn, addr);
            }
        }
        self.swept = swept;
    }

    fn remove(&mut self, tunnel: TunnelId, turn: u64, addr: IpAddr) {
        if self.order.remove(&(tunnel, turn)).is_none() {
            return;
        }
        if let Some(entries) = self.addresses.get_mut(&addr) {
            entries.retain(|entry| entry.turn != turn);
            if entries.is_empty() {
                self.addresses.remove(&addr);
            }
        }
        if let Some(count) = self.counts.get_mut(&tunnel) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&tunnel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UK: TunnelId = TunnelId::new(0);
    const FR: TunnelId = TunnelId::new(1);

    fn addr(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn learn(book: &mut Book, now: Stamp, tunnel: TunnelId, to: IpAddr, name: &str, ttl: u64) {
        let learned = NamedAddress {
            addr: to,
            names: vec![Arc::new(name.parse().unwrap())],
            ttl: Duration::from_secs(ttl),
        };
        book.learn(now, tunnel, &learned);
        check(book);
    }

    fn names(book: &Book, now: Stamp, of: IpAddr) -> Vec<(TunnelId, String)> {
        book.names(now, of)
            .map(|(tunnel, name)| (tunnel, name.to_string()))
            .collect()
    }

    fn check(book: &Book) {
        let entries: usize = book.addresses.values().map(Vec::len).sum();
        assert_eq!(entries, book.order.len());
        assert_eq!(entries, book.counts.values().sum::<usize>());
        assert!(book.addresses.values().all(|list| !list.is_empty()));
    }

    #[test]
    fn a_name_holds_for_its_ttl_within_bounds() {
        for (ttl, holds) in [(0, 60), (90, 90), (u64::from(u32::MAX), 24 * 60 * 60)] {
            let mut book = Book::new(DnsLimits::default());
            let start = Stamp::MAX - 5;
            learn(&mut book, start, UK, addr(1), "a.example", ttl);
            let end = start.wrapping_add(holds * 1000);
            assert_eq!(names(&book, end.wrapping_sub(1), addr(1)).len(), 1);
            assert!(names(&book, end, addr(1)).is_empty(), "{ttl}");
            book.sweep(end);
            assert!(book.is_empty(), "swept");
        }
    }

    #[test]
    fn a_flow_keeps_the_names_of_its_address_for_a_day_at_most() {
        let mut book = Book::new(DnsLimits::default());
        learn(&mut book, 0, UK, addr(1), "a.example", 60);
        learn(&mut book, 0, FR, addr(1), "b.example", 60);
        let day = 24 * 60 * 60 * 1000;
        for now in (0..day).step_by(16_000) {
            book.keep(now, UK, addr(1));
            book.keep(now, UK, addr(2));
            if now > 60_000 {
                // What is over stays over.
                book.keep(now, FR, addr(1));
            }
            assert_eq!(
                names(&book, now, addr(1)).len(),
                1 + usize::from(now < 60_000)
            );
        }
        assert!(names(&book, day, addr(1)).is_empty());
    }

    #[test]
    fn tunnels_are_told_apart_and_forgotten_alone() {
        let mut book = Book::new(DnsLimits::default());
        learn(&mut book, 0, UK, addr(1), "a.example", 60);
        learn(&mut book, 0, FR, addr(1), "b.example", 60);
        learn(&mut book, 0, FR, addr(2), "a.example", 60);
        let both = [(UK, "a.example".to_owned()), (FR, "b.example".to_owned())];
        assert_eq!(names(&book, 1, addr(1)), both);
        book.forget(FR);
        check(&book);
        assert_eq!(names(&book, 1, addr(1)), both[..1]);
        assert_eq!((book.len(), book.names_in(FR)), (1, 0));
    }

    #[test]
    fn at_its_bounds_the_oldest_goes_and_what_was_said_again_is_new() {
        let mut book = Book::new(DnsLimits {
            address_names: 2,
            tunnel_names: 3,
            ..DnsLimits::default()
        });
        learn(&mut book, 0, FR, addr(1), "other.example", 60);
        for name in ["a.example", "b.example", "a.example", "c.example"] {
            learn(&mut book, 0, UK, addr(1), name, 60);
        }
        let here = |book: &Book, of| {
            let mut names = names(book, 1, of);
            names.retain(|(tunnel, _)| *tunnel == UK);
            names.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        assert_eq!(here(&book, addr(1)), ["a.example", "c.example"]);
        learn(&mut book, 0, UK, addr(2), "d.example", 60);
        learn(&mut book, 0, UK, addr(3), "e.example", 60);
        assert_eq!(here(&book, addr(1)), ["c.example"], "the tunnel's bound");
        assert_eq!((book.names_in(UK), book.names_in(FR)), (3, 1));
    }

    #[test]
    fn the_sweep_comes_by_everything_in_short_steps() {
        let mut book = Book::new(DnsLimits::default());
        for n in 0..=u16::MAX / 16 {
            let [high, low] = n.to_be_bytes();
            let to = [10, 0, high, low].into();
            learn(&mut book, 0, UK, to, "a.example", 60);
        }
        let full = book.len();
        let mut before = full;
        for round in 0..SWEEPS_PER_ROUND {
            book.sweep(60_000);
            let gone = before - book.len();
            assert!(gone <= full / SWEEPS_PER_ROUND + 1, "{round}");
            before = book.len();
        }
        check(&book);
        assert!(book.is_empty());
    }
}
