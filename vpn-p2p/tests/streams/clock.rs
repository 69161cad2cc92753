//! Wake-ups: none is in the past once it was handled, and no time is too long.

use std::time::{Duration, Instant};

use vpn_core::testing::build;
use vpn_core::{NetworkEvent, Packet};
use vpn_p2p::streams::frame::{Control, Frame, Purpose};
use vpn_p2p::streams::pool::{Action, Offer, Standing};
use vpn_p2p::streams::{Budget, Fault, Pool, PoolConfig, ProbeConfig, Session, StreamId};
use vpn_resilience::BreakerState;

use crate::world::dialled_in_vain;

fn packet(connection: u16, length: usize) -> Packet {
    let from = format!("10.5.0.2:{}", 1000 + connection);
    Packet::from_slice(&build::udp(&*from, "203.0.113.10:7", &vec![7; length]))
}

fn accepting(config: PoolConfig, now: Instant) -> (Pool, StreamId) {
    let mut pool = Pool::new(config, false, Session(1), Budget::new(1 << 26), now).unwrap();
    let id = pool.accepted(now, Session(2), 0, Purpose::Data).unwrap();
    (pool, id)
}

/// The peer sends and does not read: what it should be told waits for its stream, and nobody is woken
/// for that again and again.
#[test]
fn an_acknowledgment_that_cannot_be_written_wakes_nobody() {
    let start = Instant::now();
    let (mut pool, id) = accepting(PoolConfig::default(), start);
    for large in [false, true] {
        let mut now = start;
        for _ in 0..if large { 600 } else { 1 } {
            let frame = Frame::Packet(packet(1, 1000));
            pool.received(now, id, frame).unwrap();
        }
        for _ in 0..3 {
            now += Duration::from_millis(10);
            if pool.poll_timeout().is_some_and(|at| at <= now) {
                pool.handle_timeout(now);
            }
            let next = pool.poll_timeout().unwrap();
            assert!(next > now, "{:?} late", now - next);
        }
        // It is written all the same once the stream takes something.
        let (mut ready, mut out) = (Vec::new(), Vec::new());
        pool.take_ready(&mut ready);
        assert!(ready.contains(&id) || large);
        pool.next_write(now, id, 1 << 20, &mut out);
        assert!(!out.is_empty());
        out.clear();
        pool.next_write(now, id, 1 << 20, &mut out);
        assert!(out.is_empty(), "once");
    }
}

/// As long as there is.
#[test]
fn never_is_a_time_too() {
    let now = Instant::now();
    let never = Duration::MAX;
    let config = PoolConfig {
        stream_idle_timeout: never,
        cleanup_interval: never,
        scale_up_after: never,
        open_timeout: never,
        stall_after: never,
        close_within: never,
        probe: ProbeConfig {
            interval: never,
            timeout: never,
            ..ProbeConfig::default()
        },
        ..PoolConfig::default()
    };
    assert_eq!(config.validate(), Ok(()));
    let mut pool = Pool::new(config, true, Session(1), Budget::new(1 << 26), now).unwrap();
    let Some(Action::Open(id)) = pool.take_action() else {
        panic!("it opens a stream at once");
    };
    pool.opened(id);
    let session = Session(2);
    pool.received(now, id, Frame::Control(Control::Welcome { session }))
        .unwrap();
    for n in 0..100 {
        assert_eq!(pool.offer(now, &mut packet(n, 1000)), Offer::Taken);
        pool.weigh(now);
    }
    let bye = pool.received(now, id, Frame::Control(Control::Bye));
    assert_eq!(bye, Ok(()));
    assert!(!pool.is_idle(now, never));
    let later = now + Duration::from_secs(3600);
    pool.handle_timeout(later);
    assert!(pool.poll_timeout().unwrap() > later);
    pool.ended(now, id, &Fault::Ended);
    assert_eq!(*pool.standing(), Standing::Connecting);
}

/// A packet that found no room waits for room, also when its stream is on its way out.
#[test]
fn there_is_no_room_on_a_stream_that_ends() {
    let now = Instant::now();
    let config = PoolConfig {
        packet_buffer_size: 2,
        ..PoolConfig::default()
    };
    let (mut pool, id) = accepting(config, now);
    for _ in 0..2 {
        assert_eq!(pool.offer(now, &mut packet(1, 100)), Offer::Taken);
    }
    assert_eq!(pool.offer(now, &mut packet(1, 100)), Offer::Full);
    assert!(!pool.has_room());
    pool.received(now, id, Frame::Control(Control::Bye))
        .unwrap();
    let offer = pool.offer(now, &mut packet(1, 100));
    assert_eq!((offer, pool.has_room()), (Offer::Full, false));
}

/// Another network closes the breaker, and that is a change like others: as often as it left a state
/// it came into another.
#[test]
fn what_another_network_changes_is_counted_too() {
    let (mut pool, now) = dialled_in_vain();
    pool.network_changed(now, NetworkEvent::Changed);
    let status = pool.status();
    assert_eq!(status.breaker, BreakerState::Closed);
    assert_eq!(status.breaker_transitions.closed, 1);
}

/// A peer that is back is back: with one stream for packets and one for questions the breaker is closed,
/// and the next failure is the first one.
#[test]
fn a_peer_that_came_back_has_a_closed_breaker() {
    let (mut now, mut refuses) = (Instant::now(), true);
    let budget = Budget::new(1 << 20);
    let mut pool = Pool::new(PoolConfig::default(), true, Session(1), budget, now).unwrap();
    while *pool.standing() != Standing::Up {
        while let Some(action) = pool.take_action() {
            match action {
                Action::Open(id) if refuses => {
                    pool.ended(now, id, &Fault::Io("no way".to_owned()));
                }
                Action::Open(id) => {
                    pool.opened(id);
                    let session = Session(2);
                    let welcome = Frame::Control(Control::Welcome { session });
                    pool.received(now, id, welcome).unwrap();
                }
                Action::Close(_) => {}
            }
        }
        refuses &= pool.status().breaker_transitions.opened == 0;
        now = pool.poll_timeout().unwrap();
        pool.handle_timeout(now);
    }
    let status = pool.status();
    assert_eq!(status.breaker, BreakerState::Closed);
    let transitions = status.breaker_transitions;
    assert!(transitions.opened > 0);
    assert_eq!(transitions.opened, transitions.closed);
}

/// A peer that answers and goes away at once, or says farewell, is not called as fast as it can be.
#[test]
fn a_peer_that_lets_go_at_once_is_not_hammered() {
    for farewell in [false, true] {
        let start = Instant::now();
        let budget = Budget::new(1 << 20);
        let mut pool = Pool::new(PoolConfig::default(), true, Session(1), budget, start).unwrap();
        let (mut now, mut opened) = (start, 0);
        while now < start + Duration::from_secs(60) && opened < 1000 {
            while let Some(action) = pool.take_action() {
                let Action::Open(id) = action else { continue };
                opened += 1;
                if opened > 1000 {
                    break;
                }
                pool.opened(id);
                let session = Session(2);
                let welcome = Frame::Control(Control::Welcome { session });
                pool.received(now, id, welcome).unwrap();
                match farewell {
                    true => pool
                        .received(now, id, Frame::Control(Control::Bye))
                        .unwrap(),
                    false => pool.ended(now, id, &Fault::Ended),
                }
            }
            now = pool
                .poll_timeout()
                .unwrap()
                .max(now + Duration::from_millis(1));
            pool.handle_timeout(now);
        }
        assert!((4..40).contains(&opened), "{opened} streams in a minute");
    }
}
