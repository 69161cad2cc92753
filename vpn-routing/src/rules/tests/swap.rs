//! The tests of document 003 that need no source, and readers under a constant writer.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;
use vpn_core::Generation;

fn app(reader: &mut RuleReader, id: u32) -> Decision {
    let owner = Owner::user(id);
    reader.decide(Some(&owner), &flow([192, 0, 2, 1], 80)).1
}

#[test]
fn t1_an_empty_cache_answers_no_rule_and_blocks() {
    let cache = RuleCache::new();
    let decision = app(&mut cache.reader(), 1000);
    assert!(cache.is_cold());
    assert_eq!(decision.rule, None);
    assert_eq!(decision.action, Target::Block(DropReason::RulesCold));
    // Loaded and empty is not cold: the default decides.
    cache.swap(compiled(vec![]));
    assert!(!cache.is_cold());
    assert_eq!(app(&mut cache.reader(), 1000).action, DEFAULT);
}

#[test]
fn t2_a_rule_that_exists_answers_its_tunnel() {
    let cache = RuleCache::new();
    cache.swap(compiled(vec![rule(1, uid(1000), "uk")]));
    assert_eq!(app(&mut cache.reader(), 1000).action, UK);
}

#[test]
fn t3_several_rules_answer_the_right_tunnels() {
    let cache = RuleCache::new();
    let rules = (0..100).map(|i| rule(u64::from(i), uid(i), ["uk", "fr"][i as usize % 2]));
    cache.swap(compiled(rules.collect()));
    let mut reader = cache.reader();
    for i in 0..100 {
        assert_eq!(app(&mut reader, i).action, [UK, FR][i as usize % 2]);
    }
    assert_eq!(app(&mut reader, 100).action, DEFAULT);
    drop(reader);
    assert_eq!(
        cache.stats(),
        RuleStats {
            hits: 100,
            misses: 1
        }
    );
}

/// N-7: with no such tunnel an app went directly.
#[test]
fn t6_a_missing_tunnel_blocks_and_does_not_fall_through() {
    let cache = RuleCache::new();
    cache.swap(compiled(vec![
        rule(1, RuleMatch::default(), "fr"),
        rule(2, uid(1000), "gone"),
    ]));
    let mut reader = cache.reader();
    let blocked = Target::Block(DropReason::NoSuchTunnel);
    assert_eq!(app(&mut reader, 1000).action, blocked);
    assert_eq!(app(&mut reader, 1001).action, FR);
}

#[test]
fn t7_clearing_removes_every_entry() {
    let cache = RuleCache::new();
    cache.swap(compiled(vec![rule(1, uid(1000), "uk")]));
    let mut reader = cache.reader();
    assert_eq!(app(&mut reader, 1000).action, UK);
    assert_eq!(cache.swap(compiled(vec![])), Generation(2));
    assert_eq!(app(&mut reader, 1000).action, DEFAULT);
    assert!(cache.current().is_empty());
}

/// T8 of document 003 and N-20: the reference's readers saw an empty map at every change.
#[test]
fn t8_readers_under_a_constant_writer_never_see_empty_or_partial_rules() {
    const APPS: u32 = 50;
    const SWAPS: usize = 400;
    let cache = RuleCache::new();
    let all_to = |name| compiled((0..APPS).map(|i| rule(1, uid(i), name)).collect());
    cache.swap(all_to("uk"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (cache, stop) = (&cache, &stop);
                scope.spawn(move || {
                    let mut reader = cache.reader();
                    let (mut last, mut rounds) = (Generation::COLD, 0u64);
                    while !stop.load(Relaxed) || rounds == 0 {
                        let rules = reader.current();
                        assert!(rules.generation() >= last, "rules went back");
                        last = rules.generation();
                        // Generation 1, 3, 5… is all uk, the others all fr: a mix is a tear.
                        let expected = [FR, UK][last.0 as usize % 2];
                        for i in 0..APPS {
                            let owner = Owner::user(i);
                            let decision = rules.decide(Some(&owner), &flow([1, 1, 1, 1], 1));
                            assert_eq!(decision.action, expected);
                        }
                        rounds += 1;
                    }
                })
            })
            .collect();
        for i in 0..SWAPS {
            cache.swap(all_to(["fr", "uk"][i % 2]));
        }
        stop.store(true, Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    assert_eq!(cache.generation(), Generation(SWAPS as u32 + 1));
}
