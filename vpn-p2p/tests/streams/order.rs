//! Per connection nothing overtakes and nothing comes twice, whatever happens to streams; what is lost
//! is counted, to the packet.

use std::time::Duration;

use proptest::prelude::*;
use vpn_core::DownCause;
use vpn_p2p::streams::pool::{Offer, Standing};
use vpn_p2p::streams::{Overflow, PoolConfig, ProbeConfig, Scoring};
use vpn_resilience::{BackoffConfig, BreakerConfig};

use super::world::{FAIR, Weather, World};

const CONNECTIONS: u64 = 40;

/// As in use, but quicker and narrower, so that all of it happens within a short time.
fn hurried(overflow: Overflow) -> PoolConfig {
    PoolConfig {
        max_streams_per_peer: 5,
        stream_idle_timeout: Duration::from_secs(4),
        cleanup_interval: Duration::from_secs(1),
        packet_buffer_size: 20,
        overflow,
        scoring: Scoring {
            busy_at: 8 * 1024,
            ..Scoring::default()
        },
        scale_up_after: Duration::from_millis(20),
        stall_after: Duration::from_secs(2),
        open_timeout: Duration::from_secs(2),
        close_within: Duration::from_secs(1),
        probe: ProbeConfig {
            interval: Duration::from_secs(3),
            timeout: Duration::from_secs(1),
            failures: 2,
        },
        breaker: BreakerConfig {
            reset_after: Duration::from_secs(2),
            ..BreakerConfig::default()
        },
        backoff: BackoffConfig {
            base: Duration::from_millis(50),
            cap: Duration::from_millis(500),
            ..BackoffConfig::default()
        },
        ..PoolConfig::default()
    }
}

/// Bursts, quiet times, and a network that misbehaves in between.
fn live(seed: u64, overflow: Overflow, weather: Weather) -> World {
    let mut world = World::new(seed, &hurried(overflow));
    for round in 0..12 {
        world.weather = if round % 3 == 2 { FAIR } else { weather };
        for _ in 0..150 {
            if world.random.below(60) == 0 {
                // There is a better way now.
                let now = world.now;
                world.pools.iter_mut().for_each(|pool| pool.renew(now));
            }
            for _ in 0..world.random.below(24) {
                let connection = world.random.below(CONNECTIONS) as u16;
                let (side, length) = (world.random.below(2), world.random.below(1200));
                let _ = world.send(side as usize, connection, length as usize);
            }
            let millis = world.random.below(8);
            world.step(Duration::from_millis(millis));
        }
        if round % 4 == 3 {
            // Long enough for idle streams to be closed.
            for _ in 0..600 {
                world.step(Duration::from_millis(15));
            }
        }
    }
    world.settle();
    world
}

/// Each is a life of its own, of some ten thousand packets: a few in an ordinary run, and a tenth of what
/// is asked for in a long one.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    let asked = asked.and_then(|cases| cases.parse::<u32>().ok());
    asked.map_or(12, |cases| (cases / 10).max(1))
}

fn policy() -> impl Strategy<Value = Overflow> {
    prop_oneof![
        Just(Overflow::PushBack),
        Just(Overflow::DropNew),
        Just(Overflow::DropOld)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Regressions S-4 and S-5: what waited goes elsewhere, all of it, in its order, and nothing new
    /// overtakes it.
    #[test]
    fn s4_s5_order_holds_and_losses_are_exact(
        seed: u64, overflow in policy(), cuts in 0_u64..40, stalls in 0_u64..40, refusals in 0_u64..60
    ) {
        let world = live(seed, overflow, Weather { cuts, stalls, refusals });
        world.check();
    }
}

/// Streams that are replaced by others on a better way carry until those do, and lose nothing.
#[test]
fn a_better_way_is_taken_without_loss() {
    let mut world = World::new(5, &hurried(Overflow::PushBack));
    let send = |world: &mut World| {
        for connection in 0..200 {
            let _ = world.send(0, connection % CONNECTIONS as u16, 500);
            let _ = world.send(1, connection % CONNECTIONS as u16, 500);
            world.step(Duration::from_millis(1));
            let up = Standing::Up;
            assert_eq!(
                [0, 1].map(|side| world.pools[side].standing() == &up),
                [true; 2]
            );
        }
    };
    world.step(Duration::from_millis(100));
    for _ in 0..100 {
        world.step(Duration::from_millis(1));
    }
    send(&mut world);
    let before = world.pools[0].status().counters;
    let now = world.now;
    world.pools.iter_mut().for_each(|pool| pool.renew(now));
    send(&mut world);
    world.settle();
    world.check();
    let after = world.pools[0].status().counters;
    assert!(after.opened > before.opened && after.retired > before.retired);
    assert_eq!((after.drops.total(), after.broken), (0, 0));
}

#[test]
fn in_fair_weather_nothing_is_lost() {
    for seed in 0..8 {
        let world = live(seed, Overflow::PushBack, FAIR);
        world.check();
        let counters = world.pools[0].status().counters;
        assert_eq!(
            (counters.drops.total(), counters.broken),
            (0, 0),
            "seed {seed}"
        );
        assert!(counters.delivered.packets > 1000);
    }
}

/// Regression S-10: the count of streams follows the load, up and down again.
#[test]
fn s10_streams_come_with_the_load_and_go_with_it() {
    let mut world = World::new(1, &hurried(Overflow::PushBack));
    world.capacity = 2048;
    for connection in 0..8_000 {
        let _ = world.send(0, connection % CONNECTIONS as u16, 1000);
        let _ = world.send(0, (connection + 7) % CONNECTIONS as u16, 1000);
        world.step(Duration::from_millis(1));
    }
    assert_eq!(world.most_streams, 5, "all there may be");
    world.settle();
    for _ in 0..2000 {
        world.step(Duration::from_millis(10));
    }
    let status = world.pools.each_ref().map(|pool| pool.status());
    assert_eq!(status.each_ref().map(|s| s.streams), [1, 1]);
    assert_eq!(status[0].counters.retired, 4);
    assert_eq!(status[0].counters.drops.total(), 0, "none was lost by it");
    // One key more is no reason to grow again.
    assert_eq!(world.send(0, 99, 100), Offer::Taken);
    world.settle();
    assert_eq!(world.pools[0].status().streams, 1);
    world.check();
}

/// Regression S-10: many connections over a stream that is not busy want no second one.
#[test]
fn s10_connections_are_no_load() {
    let mut world = World::new(2, &hurried(Overflow::PushBack));
    for connection in 0..1000 {
        let _ = world.send(0, connection, 10);
        for _ in 0..4 {
            world.step(Duration::from_millis(5));
        }
    }
    assert_eq!(world.most_streams, 1);
}

/// Regression S-8: a stream on which nothing moves is noticed and replaced, with the peer still there.
#[test]
fn s8_a_stalled_stream_is_replaced_and_closed() {
    let mut world = live(3, Overflow::PushBack, FAIR);
    for seconds in 0..20 {
        world.weather = Weather {
            stalls: 1000,
            ..FAIR
        };
        let _ = world.send(0, seconds, 100);
        world.step(Duration::from_millis(100));
        world.weather = FAIR;
        for _ in 0..10 {
            world.step(Duration::from_millis(100));
        }
    }
    world.settle();
    world.check();
    assert!(world.pools[0].status().counters.stalled > 0);
    assert_eq!(*world.pools[0].standing(), Standing::Up);
}

/// Regression S-26: a peer that says nothing is found by questions on a stream of their own, also when
/// nothing is sent; and it is up again when it answers.
#[test]
fn s26_a_silent_peer_is_noticed_and_comes_back() {
    let mut world = World::new(4, &hurried(Overflow::PushBack));
    let pass = |world: &mut World, seconds: u64| {
        for _ in 0..seconds * 100 {
            world.step(Duration::from_millis(10));
        }
    };
    pass(&mut world, 10);
    let [asked, answered] = world.pools[0].status().probes;
    assert!(
        answered >= 2 && asked <= answered + 1,
        "{answered} of {asked}"
    );
    assert!(world.pools[0].round_trip().is_some());
    world.freeze(Duration::from_secs(20));
    pass(&mut world, 10);
    assert_eq!(
        *world.pools[0].standing(),
        Standing::Down(DownCause::NoAnswer)
    );
    pass(&mut world, 20);
    for pool in &world.pools {
        assert_eq!(*pool.standing(), Standing::Up);
        assert!(pool.status().counters.silences > 0);
    }
    world.settle();
    world.check();
}

/// Who cannot open streams takes a peer that does not come back for gone.
#[test]
fn a_peer_that_stays_away_is_gone_for_the_accepting_end_too() {
    let mut world = World::new(5, &hurried(Overflow::PushBack));
    for _ in 0..500 {
        world.step(Duration::from_millis(10));
    }
    assert_eq!(*world.pools[1].standing(), Standing::Up);
    world.weather = Weather {
        cuts: 1000,
        refusals: 100,
        ..FAIR
    };
    for _ in 0..500 {
        world.step(Duration::from_millis(10));
    }
    assert_eq!(
        *world.pools[1].standing(),
        Standing::Down(DownCause::NoAnswer)
    );
    assert!(matches!(
        world.pools[0].standing(),
        Standing::Down(DownCause::Network(_))
    ));
}
