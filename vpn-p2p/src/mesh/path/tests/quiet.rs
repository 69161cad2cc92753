//! What is sent when nobody has anything to say.

use super::*;

/// L-11: an answer to every copy of a question was an exchange without end.
#[test]
fn an_idle_pair_is_quiet() {
    let mut pair = Pair::new(&[15, 30, 60], Policy::Allow);
    pair.run(ms(10_000), IDLE);
    let settled = pair.ends[0].direct;
    assert!(settled <= 40, "{settled}");
    for _ in 0..10 {
        let before = [0, 1].map(|side| pair.ends[side].direct + pair.ends[side].relayed);
        pair.run(ms(100_000), IDLE);
        for (side, before) in before.iter().enumerate() {
            let sent = pair.ends[side].direct + pair.ends[side].relayed - before;
            assert!(sent <= 3, "{sent}");
        }
    }
    assert!(pair.is_direct(0) && pair.is_direct(1));
    assert_eq!(pair.ends[0].moves.len(), 2);
}

#[test]
fn an_idle_pair_of_which_one_has_only_the_relay_is_quiet_too() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(1000), IDLE);
    pair.cut(0, 0);
    pair.run(ms(2000), BUSY);
    pair.run(ms(200_000), IDLE);
    assert!(
        pair.is_direct(1) && !pair.is_direct(0),
        "{:?}",
        pair.ends[1].moves
    );
    let before = [0, 1].map(|side| pair.ends[side].direct + pair.ends[side].relayed);
    pair.run(ms(1_000_000), IDLE);
    for (side, before) in before.iter().enumerate() {
        let sent = pair.ends[side].direct + pair.ends[side].relayed - before;
        // The side with the dead direction answers, by the dead way and by the relay.
        assert!(sent <= 70, "{side}: {sent}");
    }
    assert!(pair.is_direct(1));
}

#[test]
fn a_pair_that_can_not_be_direct_is_quiet_when_idle_and_tries_again_with_traffic() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.cut(0, 0);
    pair.cut(1, 0);
    pair.run(ms(120_000), IDLE);
    assert_eq!(pair.ends[0].paths.status().why, Why::Unanswered);
    let before = pair.ends[0].direct + pair.ends[0].relayed;
    pair.run(ms(1_000_000), IDLE);
    assert_eq!(pair.ends[0].direct + pair.ends[0].relayed, before);
    pair.lines[0][0].up = true;
    pair.lines[1][0].up = true;
    pair.user(0);
    pair.run(ms(3000), IDLE);
    assert!(
        pair.is_direct(0) && pair.is_direct(1),
        "one packet is enough"
    );
}

#[test]
fn an_idle_pair_whose_way_dies_falls_back_without_traffic() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(100_000), IDLE);
    pair.cut(0, 0);
    pair.cut(1, 0);
    pair.run(ms(43_000), IDLE);
    assert_eq!((pair.way(0), pair.way(1)), (Some(RELAY), Some(RELAY)));
}
