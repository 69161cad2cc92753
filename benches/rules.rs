//! G3: what rules say about a flow, hit and miss, beside one bare lookup in hashbrown, and in the
//! concurrent map that others keep such decisions in.
#![allow(missing_docs, reason = "criterion's macros")]
#![allow(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use dashmap::DashMap;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use vpn_benches::world::compile;
use vpn_benches::{heading, side_by_side, timed};
use vpn_core::{
    Action, FlowKey, Generation, Owner, OwnerMatch, Protocol, Rule, RuleId, RuleMatch, TunnelId,
};
use vpn_routing::rules::{CompiledRules, RuleCache};

/// First user id with a rule.
const FIRST_UID: u32 = 1_000;

fn flow(i: u32) -> FlowKey {
    let src = (
        Ipv4Addr::new(10, 5, 0, 2).into(),
        1024 + (i % 60_000) as u16,
    );
    FlowKey::new(
        Protocol::TCP,
        src,
        (Ipv4Addr::new(203, 0, 113, i as u8).into(), 443),
    )
}

/// One rule per user, which is what most people write.
fn rules(count: u32) -> CompiledRules {
    let rule = |i: u32| {
        Rule::new(
            RuleId(u64::from(i)),
            RuleMatch {
                owner: Some(OwnerMatch::Uid(FIRST_UID + i)),
                ..RuleMatch::default()
            },
            Action::Tunnel("t".to_owned()),
        )
    };
    compile((0..count).map(rule).collect(), TunnelId::new(0))
}

fn prefix_rules(count: u32) -> CompiledRules {
    let rule = |i: u32| {
        Rule::new(
            RuleId(u64::from(i)),
            RuleMatch {
                destination: Some(
                    ipnet::Ipv4Net::new_assert(Ipv4Addr::new(198, (i >> 8) as u8, i as u8, 0), 24)
                        .into(),
                ),
                ..RuleMatch::default()
            },
            Action::Tunnel("t".to_owned()),
        )
    };
    compile((0..count).map(rule).collect(), TunnelId::new(0))
}

/// What a user keys by, and a number to tell one question from the next.
struct Questions {
    owners: Vec<Owner>,
    flows: Vec<FlowKey>,
    next: usize,
}

impl Questions {
    fn new(first: u32, count: u32) -> Self {
        Self {
            owners: (0..1024)
                .map(|i| Owner::user(first + (i * 7) % count))
                .collect(),
            flows: (0..1024).map(flow).collect(),
            next: 0,
        }
    }

    #[inline]
    fn next(&mut self) -> (&Owner, &FlowKey) {
        self.next = (self.next + 1) % 1024;
        (&self.owners[self.next], &self.flows[self.next])
    }
}

fn decide(n: u64, rules: &CompiledRules, questions: &mut Questions) -> Duration {
    timed(n, || {
        let (owner, flow) = questions.next();
        black_box(rules.decide(Some(owner), flow))
    })
}

/// The limit: one lookup of the key that a rule without an owner's name would have.
fn bare(n: u64, map: &HashMap<u32, u32, RandomState>, questions: &mut Questions) -> Duration {
    timed(n, || {
        let (owner, _) = questions.next();
        black_box(map.get(&owner.uid).copied())
    })
}

fn lookups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rules");
    for count in [10, 1_000, 10_000] {
        let compiled = rules(count);
        let mut hits = Questions::new(FIRST_UID, count);
        let mut misses = Questions::new(FIRST_UID + count, count);
        group.bench_function(BenchmarkId::new("hit", count), |b| {
            b.iter_custom(|n| decide(n, &compiled, &mut hits));
        });
        group.bench_function(BenchmarkId::new("miss", count), |b| {
            b.iter_custom(|n| decide(n, &compiled, &mut misses));
        });
    }
    group.finish();
    for count in [10, 1_000, 10_000] {
        report(count);
    }
    cached();
}

fn report(count: u32) {
    let (by_uid, by_prefix) = (rules(count), prefix_rules(count));
    let map: HashMap<u32, u32, RandomState> = (0..count).map(|i| (FIRST_UID + i, i)).collect();
    let shared: DashMap<u32, u32, RandomState> = (0..count).map(|i| (FIRST_UID + i, i)).collect();
    let flows: HashMap<FlowKey, u32, RandomState> = (0..count).map(|i| (flow(i), i)).collect();
    let (mut a, mut b, mut c, mut d, mut e, mut f) = (
        Questions::new(FIRST_UID, count),
        Questions::new(FIRST_UID, count),
        Questions::new(FIRST_UID, count),
        Questions::new(FIRST_UID + count, count),
        Questions::new(FIRST_UID, count),
        Questions::new(FIRST_UID, count),
    );
    side_by_side(
        &format!("{count} rules (goal: hit <= 1.5 x a bare lookup of the same key)"),
        &mut [
            ("hashbrown + foldhash, uid", &mut |n| bare(n, &map, &mut a)),
            ("hashbrown + foldhash, flow key", &mut |n| {
                timed(n, || black_box(flows.get(b.next().1).copied()))
            }),
            ("DashMap + foldhash, uid", &mut |n| {
                timed(n, || black_box(shared.get(&f.next().0.uid).map(|v| *v)))
            }),
            ("rule of a user, hit", &mut |n| decide(n, &by_uid, &mut c)),
            ("rule of a user, miss", &mut |n| decide(n, &by_uid, &mut d)),
            ("rules with prefixes only, miss", &mut |n| {
                decide(n, &by_prefix, &mut e)
            }),
        ],
    );
    heading(&format!("memory of {count} rules (goal: 1,000 in 24 KiB)"));
    let info = allocation_counter::measure(|| {
        black_box(rules(count));
    });
    println!(
        "{:<44} {:>9} B at most while compiling",
        "rules of users", info.bytes_max
    );
    let kept = allocation_counter::measure(|| std::mem::forget(rules(count)));
    println!("{:<44} {:>9} B kept", "rules of users", kept.bytes_current);
}

/// What a packet of a known flow pays for rules: is the entry's generation the one in force?
fn cached() {
    let cache = RuleCache::new();
    cache.swap(rules(1_000));
    let mut reader = cache.reader();
    let (entry, mut generation) = (black_box(cache.generation()), Generation::COLD);
    side_by_side(
        "a decision that is known (goal: one compare)",
        &mut [
            ("compare of generations", &mut |n| {
                generation = entry;
                timed(n, || black_box(entry) == black_box(generation))
            }),
            ("generation read through the reader, per batch", &mut |n| {
                timed(n, || reader.current().generation() == black_box(entry))
            }),
        ],
    );
}

criterion_group!(benches, lookups);
criterion_main!(benches);
