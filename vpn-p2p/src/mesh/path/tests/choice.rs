//! Which way serves, and when it is left for another one.

use super::*;

#[test]
fn the_relay_serves_at_once_and_a_direct_way_once_it_is_proven() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    assert_eq!(pair.way(0), Some(RELAY));
    pair.run(ms(29), IDLE);
    assert_eq!(pair.way(0), Some(RELAY), "no answer yet");
    pair.run(ms(10), IDLE);
    assert!(pair.is_direct(0) && pair.is_direct(1));
    let status = pair.ends[0].paths.status();
    assert_eq!((status.rtt, status.why), (Some(ms(30)), Why::Proven));
    assert_eq!(status.loss, 0.0);
}

#[test]
fn the_fastest_way_wins_and_a_nearer_one_if_it_is_as_fast() {
    let mut pair = Pair::new(&[40, 4, 60], Policy::Allow);
    pair.run(ms(3000), IDLE);
    assert_eq!(pair.way(0), Some(Way::Direct(pair.ends[1].at[1])));
    assert_eq!(pair.ends[0].moves.len(), 2, "{:?}", pair.ends[0].moves);

    let mut paths = Paths::new(PathConfig::default(), Policy::Allow, 0);
    let now = Instant::now();
    let ways = ["192.0.2.1:1", "[2001:db8::1]:1", "10.0.0.1:1"];
    paths.set_candidates(&ways.map(|way| way.parse().unwrap()), now);
    paths.session_ready(now);
    let probes: Vec<PathOut> = std::iter::from_fn(|| paths.poll()).collect();
    for (at, out) in probes.iter().enumerate() {
        let PathOut::Probe { way, nonce, .. } = *out else {
            panic!("{out:?}")
        };
        paths.pong_arrived(nonce, None, now + ms(10 + at as u64));
        assert_eq!(paths.current(), Some(way), "as fast and nearer");
    }
}

#[test]
fn a_dead_way_is_left_within_two_seconds_and_returned_to() {
    // Whatever the round trip, and whenever it dies.
    for delay in [1, 20, 60, 110] {
        for late in [0, 250, 500, 750] {
            let mut pair = Pair::new(&[delay], Policy::Allow);
            pair.run(ms(5000 + late), BUSY);
            assert!(pair.is_direct(0) && pair.is_direct(1));
            let from = pair.now - pair.start;
            for side in 0..2 {
                pair.cut(side, 0);
            }
            pair.run(ms(10_000), BUSY);
            for side in 0..2 {
                assert_eq!(pair.way(side), Some(RELAY));
                let gap = pair.gap(side, from);
                assert!(gap <= ms(1950), "{delay} ms, {late} ms: {gap:?}");
            }
            for side in 0..2 {
                pair.lines[side][0].up = true;
            }
            pair.run(ms(10_000), BUSY);
            assert!(pair.is_direct(0) && pair.is_direct(1));
        }
    }
}

#[test]
fn a_way_dead_in_one_direction_is_left_by_the_side_it_is_dead_for() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(5000), BUSY);
    pair.cut(0, 0);
    let (before, from) = (pair.ends[0].probes, pair.now - pair.start);
    pair.run(ms(3000), BUSY);
    assert_eq!(pair.way(0), Some(RELAY));
    assert!(
        pair.is_direct(1),
        "the other direction is as good as before"
    );
    assert!(pair.gap(1, from) <= ms(1950));
    let (at, _, why) = *pair.ends[0].moves.last().unwrap();
    assert_eq!(why, Why::Silent);
    assert!(at - from <= ms(1950), "{at:?}");
    // Three probes of the way in use; then of the rounds four, one when it is held back no more, and
    // three that what still comes by it brought about.
    let probes = pair.ends[0].probes - before;
    assert!(probes <= 3 + 4 + 1 + 3, "{probes}");
    pair.run(ms(60_000), BUSY);
    assert!(pair.is_direct(1));
    assert_eq!(pair.ends[1].moves.len(), 2, "{:?}", pair.ends[1].moves);
    pair.lines[0][0].up = true;
    pair.run(ms(40_000), BUSY);
    assert!(pair.is_direct(0));
}

#[test]
fn a_second_direct_way_takes_over_if_it_still_answers() {
    let mut pair = Pair::new(&[5, 30], Policy::Allow);
    pair.run(ms(5000), BUSY);
    let second = Way::Direct(pair.ends[1].at[1]);
    pair.cut(0, 0);
    pair.cut(1, 0);
    pair.run(ms(3000), BUSY);
    assert_eq!(pair.way(0), Some(second));
    // Nor is the first one tried for nothing when both are dead.
    pair.cut(0, 1);
    pair.cut(1, 1);
    let from = pair.now - pair.start;
    pair.run(ms(3000), BUSY);
    assert_eq!(pair.way(0), Some(RELAY));
    assert!(pair.gap(1, from) <= ms(1950));
}

/// The second one answered a second ago, so it looks as good as new; but both end at the same place.
#[test]
fn two_ways_that_die_together_are_not_tried_one_after_the_other() {
    let mut pair = Pair::new(&[5, 300], Policy::Allow);
    pair.run(ms(2500), BUSY);
    let (from, relay) = (pair.now - pair.start, pair.relay());
    for side in 0..2 {
        (0..relay).for_each(|net| pair.cut(side, net));
    }
    pair.run(ms(3000), BUSY);
    assert_eq!(pair.way(0), Some(RELAY));
    assert_eq!(pair.ends[0].moves.len(), 3, "{:?}", pair.ends[0].moves);
    assert!(pair.gap(1, from) <= ms(1950));
}

#[test]
fn a_lossy_way_is_kept() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    for side in 0..2 {
        for line in &mut pair.lines[side] {
            line.loss = 200;
        }
    }
    pair.run(ms(600_000), BUSY);
    for side in 0..2 {
        let deaths = pair.ends[side]
            .moves
            .iter()
            .filter(|(_, _, why)| *why == Why::Silent);
        let deaths = deaths.count();
        assert!(deaths <= 4, "{deaths} in ten minutes");
        let loss = pair.ends[side].paths.status().loss;
        assert!((0.05..0.7).contains(&loss), "{loss}");
    }
}

#[test]
fn a_flapping_way_is_held_back_with_growing_pauses_but_never_for_ever() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    let mut direct = 0;
    for _ in 0..60 {
        for up in [true, false] {
            for side in 0..2 {
                pair.lines[side][0].up = up;
            }
            pair.run(ms(5000), BUSY);
        }
    }
    for (_, to, _) in &pair.ends[0].moves {
        direct += usize::from(to.is_some_and(Way::is_direct));
    }
    assert!((4..20).contains(&direct), "{direct} times in ten minutes");
    for side in 0..2 {
        pair.lines[side][0].up = true;
    }
    pair.run(ms(100_000), BUSY);
    assert!(pair.is_direct(0) && pair.is_direct(1));
}
