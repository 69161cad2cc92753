//! What a peer, and all peers together, may take in memory, and what happens beyond.

use std::time::{Duration, Instant};

use vpn_core::testing::build;
use vpn_core::{DropReason, NetworkEvent, Packet};
use vpn_p2p::streams::frame::{Control, Frame};
use vpn_p2p::streams::pool::{Action, Offer, Standing};
use vpn_p2p::streams::{Budget, Fault, Overflow, Pool, PoolConfig, Session, StreamId};
use vpn_resilience::BreakerState;

use crate::world::dialled_in_vain;

/// A pool with one open stream, of which nobody takes anything.
fn stuck(config: PoolConfig, budget: &Budget, now: Instant) -> (Pool, StreamId) {
    let mut pool = Pool::new(config, true, Session(1), budget.clone(), now).unwrap();
    let Some(Action::Open(id)) = pool.take_action() else {
        panic!("it opens a stream at once");
    };
    pool.opened(id);
    let session = Session(2);
    let welcome = Frame::Control(Control::Welcome { session });
    pool.received(now, id, welcome).unwrap();
    assert_eq!(*pool.standing(), Standing::Up);
    (pool, id)
}

fn packet(connection: u16, length: usize) -> Packet {
    let from = format!("10.5.0.2:{}", 1000 + connection);
    Packet::from_slice(&build::udp(&*from, "203.0.113.10:7", &vec![7; length]))
}

/// Regression S-9: no queue grows without end, with any policy.
#[test]
fn s9_an_overloaded_peer_stays_within_its_bytes_and_counts_what_it_drops() {
    const OFFERED: u64 = 20_000;
    for overflow in [Overflow::PushBack, Overflow::DropNew, Overflow::DropOld] {
        let config = PoolConfig {
            peer_buffer_bytes: 256 * 1024,
            packet_buffer_size: 10_000,
            overflow,
            ..PoolConfig::default()
        };
        let (now, budget) = (Instant::now(), Budget::new(1 << 30));
        let (mut pool, _) = stuck(config, &budget, now);
        let (mut full, mut dropped) = (0, 0);
        for n in 0..OFFERED {
            let mut packet = packet(n as u16 % 300, 1000);
            match pool.offer(now, &mut packet) {
                Offer::Taken => {}
                Offer::Dropped(reason) => {
                    assert_eq!(reason, DropReason::QueueFull);
                    dropped += 1;
                }
                Offer::Full => full += 1,
            }
            pool.weigh(now);
            let status = pool.status();
            assert!(
                status.waiting_bytes <= 256 * 1024,
                "{}",
                status.waiting_bytes
            );
            assert_eq!(status.waiting_bytes, budget.used());
        }
        let status = pool.status();
        let waiting = status.waiting;
        assert!(waiting > 200, "{waiting} of about 1,100 bytes each");
        let before = match overflow {
            Overflow::PushBack => (full, 0, 0),
            Overflow::DropNew => (0, dropped, 0),
            _ => (0, 0, status.counters.drops.get(DropReason::QueueFull)),
        };
        assert_eq!(
            before.0 + before.1 + before.2 + waiting,
            OFFERED,
            "{overflow:?}"
        );
        pool.close();
        assert_eq!(budget.used(), 0);
        assert_eq!(
            pool.status().counters.drops.get(DropReason::Closed),
            waiting
        );
    }
}

#[test]
fn what_waits_for_all_peers_is_bounded_together() {
    let (now, budget) = (Instant::now(), Budget::new(1 << 20));
    let config = PoolConfig {
        packet_buffer_size: 10_000,
        ..PoolConfig::default()
    };
    let mut pools: Vec<Pool> = (0..20)
        .map(|_| stuck(config.clone(), &budget, now).0)
        .collect();
    let mut dropped = 0_u64;
    for n in 0..40_000_u16 {
        let mut packet = packet(n % 50, 1000);
        match pools[usize::from(n) % 20].offer(now, &mut packet) {
            Offer::Dropped(DropReason::QueueFull) => dropped += 1,
            Offer::Taken => {}
            other => panic!("{other:?}"),
        }
        assert!(budget.used() <= 1 << 20);
    }
    let waiting: u64 = pools.iter().map(|pool| pool.status().waiting).sum();
    assert_eq!(waiting + dropped, 40_000);
    // All had their part of it, and give it back.
    assert!(pools.iter().all(|pool| pool.status().waiting > 0));
    pools.iter_mut().for_each(Pool::close);
    assert_eq!(budget.used(), 0);
}

#[test]
fn drop_old_keeps_the_newest_of_a_queue_in_order() {
    let config = PoolConfig {
        packet_buffer_size: 3,
        overflow: Overflow::DropOld,
        ..PoolConfig::default()
    };
    let (now, budget) = (Instant::now(), Budget::new(1 << 20));
    let (mut pool, id) = stuck(config, &budget, now);
    let lengths = |from: usize| (from..from + 3).map(|n| 8 + 28 + n).collect::<Vec<_>>();
    for n in 0..10 {
        assert_eq!(pool.offer(now, &mut packet(1, n)), Offer::Taken);
    }
    let mut out = Vec::new();
    pool.next_write(now, id, 1 << 20, &mut out);
    let written: Vec<usize> = out
        .iter()
        .skip(1)
        .map(|frame| frame.bytes().len())
        .collect();
    assert_eq!(written, lengths(7));
    assert_eq!(pool.status().counters.drops.get(DropReason::QueueFull), 7);
}

#[test]
fn a_packet_that_needs_little_keeps_no_large_buffer() {
    let (now, budget) = (Instant::now(), Budget::new(1 << 20));
    let (mut pool, _) = stuck(PoolConfig::default(), &budget, now);
    let mut buffer = bytes::BytesMut::with_capacity(65_536);
    buffer.extend_from_slice(packet(1, 100).bytes());
    let mut packet = Packet::new(buffer, 0);
    assert_eq!(pool.offer(now, &mut packet), Offer::Taken);
    assert_eq!(
        packet.into_parts().0.capacity(),
        65_536,
        "it stays with the caller"
    );
}

#[test]
fn a_peer_that_cannot_be_reached_is_not_hammered() {
    let (start, budget) = (Instant::now(), Budget::new(1 << 20));
    let config = PoolConfig::default();
    let mut pool = Pool::new(config, true, Session(1), budget, start).unwrap();
    let (mut now, mut attempts) = (start, 0_u64);
    while now < start + Duration::from_secs(600) {
        while let Some(action) = pool.take_action() {
            if let Action::Open(id) = action {
                attempts += 1;
                pool.ended(now, id, &Fault::Io("no way".to_owned()));
            }
        }
        now = pool
            .poll_timeout()
            .unwrap()
            .max(now + Duration::from_millis(1));
        pool.handle_timeout(now);
    }
    let status = pool.status();
    assert_eq!(
        status.counters.open_failed, attempts,
        "as many as were made"
    );
    assert!((10..30).contains(&attempts), "{attempts} in ten minutes");
    assert!(matches!(status.breaker, BreakerState::Open { .. }));
    assert!(matches!(pool.standing(), Standing::Down(_)));
    // Nothing waits for a peer that is not there.
    let offer = pool.offer(now, &mut packet(1, 100));
    assert_eq!(offer, Offer::Dropped(DropReason::NoSession));
}

#[test]
fn who_acknowledges_what_was_not_sent_is_told_off() {
    let (now, budget) = (Instant::now(), Budget::new(1 << 20));
    let (mut pool, id) = stuck(PoolConfig::default(), &budget, now);
    let ack = |packets, bytes| Frame::Control(Control::Ack { packets, bytes });
    assert!(pool.received(now, id, ack(0, 0)).is_ok());
    let fault = pool.received(now, id, ack(1, 100)).unwrap_err();
    assert!(matches!(fault, Fault::Protocol(_)));
    let ping = || Frame::Control(Control::Ping { number: 1 });
    let fault = pool.received(now, id, ping()).unwrap_err();
    assert!(
        matches!(fault, Fault::Protocol(_)),
        "S-26: no question in the data"
    );
}

#[test]
fn who_asks_and_does_not_read_the_answers_is_told_off() {
    let (now, budget) = (Instant::now(), Budget::new(1 << 20));
    let (mut pool, _) = stuck(PoolConfig::default(), &budget, now);
    let purpose = vpn_p2p::streams::frame::Purpose::Probe;
    let id = pool.accepted(now, Session(2), 1, purpose).unwrap();
    let ask = |number| Frame::Control(Control::Ping { number });
    let told = (0..10_000).find_map(|n| pool.received(now, id, ask(n)).err());
    assert!(matches!(told, Some(Fault::Protocol(_))));
}

/// What was on the streams of a process that is gone counts as lost, and its streams are closed: the new
/// one knows nothing of them.
#[test]
fn a_peer_that_was_started_anew_is_told_from_its_predecessor() {
    let (now, budget) = (Instant::now(), Budget::new(1 << 20));
    let (mut pool, old) = stuck(PoolConfig::default(), &budget, now);
    while pool.take_action().is_some() {}
    for n in 0..10 {
        assert_eq!(pool.offer(now, &mut packet(n, 100)), Offer::Taken);
    }
    let mut out = Vec::new();
    pool.next_write(now, old, 500, &mut out);
    let before = pool.status();
    assert!(before.in_flight > 0 && before.waiting > 0, "{before:?}");
    let purpose = vpn_p2p::streams::frame::Purpose::Data;
    let new = pool.accepted(now, Session(3), 0, purpose).unwrap();
    assert_eq!(pool.take_action(), Some(Action::Close(old)));
    let after = pool.status();
    let lost = after.counters.drops.get(DropReason::StreamLost);
    assert_eq!(
        (lost, after.in_flight, after.uncertain),
        (before.in_flight, 0, 0)
    );
    // What waited goes to the new one, and nothing about the old streams does.
    out.clear();
    pool.next_write(now, new, 1 << 20, &mut out);
    assert_eq!(
        out.len() as u64,
        1 + before.waiting,
        "a greeting, and packets"
    );
    assert_eq!(*pool.standing(), Standing::Up);
}

/// On another network the old streams are not waited for, nor the pauses that the old one earned.
#[test]
fn after_a_change_of_the_network_streams_are_opened_anew_at_once() {
    let (mut pool, now) = dialled_in_vain();
    assert_eq!(pool.take_action(), None, "the breaker is open");
    pool.network_changed(now, NetworkEvent::Changed);
    let Some(Action::Open(id)) = pool.take_action() else {
        panic!("it tries at once");
    };
    assert_eq!(pool.status().breaker_transitions.opened, 1, "still counted");
    pool.opened(id);
    let session = Session(2);
    let welcome = Frame::Control(Control::Welcome { session });
    pool.received(now, id, welcome).unwrap();
    while pool.take_action().is_some() {}
    for n in 0..4 {
        assert_eq!(pool.offer(now, &mut packet(n, 100)), Offer::Taken);
    }
    let before = pool.status();
    pool.network_changed(now, NetworkEvent::Woke);
    assert_eq!(*pool.standing(), Standing::Connecting);
    let actions: Vec<Action> = std::iter::from_fn(|| pool.take_action()).collect();
    assert!(actions.contains(&Action::Close(id)));
    let opens = |action: &&Action| matches!(action, Action::Open(_));
    assert_eq!(actions.iter().filter(opens).count(), 1);
    assert_eq!(
        pool.status().waiting,
        before.waiting,
        "what waited waits on"
    );
    pool.network_changed(now, NetworkEvent::Lost);
    assert!(matches!(pool.standing(), Standing::Down(_)));
    let counters = pool.status().counters;
    assert_eq!(counters.drops.get(DropReason::NoSession), before.waiting);
}

/// Many packets of a byte take more than their bytes, and are read no further than others.
#[test]
fn what_came_is_bounded_by_what_it_takes() {
    let now = Instant::now();
    let mut pool = Pool::new(
        PoolConfig::default(),
        false,
        Session(1),
        Budget::new(1 << 20),
        now,
    )
    .unwrap();
    let purpose = vpn_p2p::streams::frame::Purpose::Data;
    let id = pool.accepted(now, Session(2), 0, purpose).unwrap();
    let mut count = 0;
    while pool.takes_more() {
        let packet = Packet::new(bytes::BytesMut::from(&[0; 1][..]), 0);
        pool.received(now, id, Frame::Packet(packet)).unwrap();
        count += 1;
    }
    let takes = count * size_of::<Packet>();
    assert!(takes <= 1 << 20, "{takes} bytes for {count} packets");
}

/// A super-packet without a segment size cannot be said in a frame: it would end its stream.
#[test]
fn a_super_packet_of_nothing_is_dropped() {
    let (now, budget) = (Instant::now(), Budget::new(1 << 20));
    let (mut pool, _) = stuck(PoolConfig::default(), &budget, now);
    let mut packet = packet(1, 100);
    packet.offload.gso = Some(vpn_core::packet::Gso { size: 0 });
    let offer = pool.offer(now, &mut packet);
    assert_eq!(offer, Offer::Dropped(DropReason::Malformed));
}

/// However many streams end together, the peer is told of each before anything goes another way, and
/// answers for each.
#[test]
fn all_streams_may_end_at_once() {
    const STREAMS: u64 = 200;
    let now = Instant::now();
    let config = PoolConfig {
        max_streams_per_peer: 100,
        scoring: vpn_p2p::streams::Scoring {
            busy_at: 1,
            ..vpn_p2p::streams::Scoring::default()
        },
        ..PoolConfig::default()
    };
    let new = || {
        let budget = Budget::new(64 << 20);
        Pool::new(config.clone(), false, Session(1), budget, now).unwrap()
    };
    let purpose = vpn_p2p::streams::frame::Purpose::Data;
    let (mut pool, mut peer) = (new(), new());
    let accept = |pool: &mut Pool, number| pool.accepted(now, Session(2), number, purpose).unwrap();
    let streams: Vec<StreamId> = (0..STREAMS).map(|n| accept(&mut pool, n)).collect();
    let mut out = Vec::new();
    for n in 0..60_000 {
        let mut packet = packet(n, 100);
        let _ = pool.offer(now, &mut packet);
    }
    for id in &streams {
        pool.next_write(now, *id, 1, &mut out);
        pool.next_write(now, *id, 1, &mut out);
        out.clear();
    }
    let flying = pool.status().in_flight;
    assert!(flying > 100, "{flying} streams have something on them");
    for id in streams {
        pool.ended(now, id, &Fault::Ended);
    }
    assert_eq!(pool.status().uncertain, flying);
    let (id, theirs) = (accept(&mut pool, STREAMS), accept(&mut peer, STREAMS));
    pool.next_write(now, id, 1, &mut out);
    let mut asked = 0;
    for frame in out.drain(..) {
        let mut bytes = bytes::BytesMut::from(frame.bytes());
        let frame = vpn_p2p::streams::frame::decode(&mut bytes)
            .unwrap()
            .unwrap();
        if let Frame::Control(Control::Stop { .. }) = frame {
            asked += 1;
            assert_eq!(peer.received(now, theirs, frame), Ok(()));
        }
    }
    assert_eq!(asked, flying, "one packet was on each");
}

/// A peer that makes new ways again and again and greets on none has no more streams than one that does not.
#[test]
fn a_better_way_again_and_again_opens_no_more_streams() {
    let now = Instant::now();
    let (mut pool, _) = stuck(PoolConfig::default(), &Budget::new(1 << 20), now);
    let mut open: i64 = 1;
    for _ in 0..100 {
        pool.renew(now);
        while let Some(action) = pool.take_action() {
            open += if matches!(action, Action::Open(_)) {
                1
            } else {
                -1
            };
        }
        assert!(open <= 6, "{open} streams");
    }
    assert_eq!(*pool.standing(), Standing::Up);
}

/// Failures of the way before say nothing about this one.
#[test]
fn a_better_way_is_tried_at_once_whatever_failed_before() {
    let (mut pool, now) = dialled_in_vain();
    pool.renew(now);
    assert!(matches!(pool.take_action(), Some(Action::Open(_))));
}
