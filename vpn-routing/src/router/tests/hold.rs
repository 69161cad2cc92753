//! What waits holds up nobody else: shares of what is held.

use std::time::Duration;

use vpn_core::{DropReason, Protocol, TransportState};

use super::world::{SITE, World, udp};
use crate::router::{HoldLimits, HoldQuota, RouterConfig};

const THREE: &[(&str, &[&str])] = &[
    ("uk", &["10.5.0.2/32"]),
    ("fr", &["10.5.0.2/32"]),
    ("us", &["10.5.0.2/32"]),
];

const APP: &str = "10.5.0.2";
const TICK: Duration = Duration::from_millis(1);

/// Three users, each with a tunnel; the first one's connects.
fn world() -> World {
    let mut world = World::new(THREE);
    for (uid, tunnel) in [(1, "uk"), (2, "fr"), (3, "us"), (4, "uk")] {
        world.rule(uid, tunnel);
    }
    world.state("uk", TransportState::Connecting);
    world.slow_owners = true;
    world
}

/// A socket of a user, sending to `site`.
fn packet(world: &mut World, uid: u32, port: u16, site: u16, payload: &[u8]) -> Vec<u8> {
    world.socket(Protocol::UDP, (APP, port), uid, u64::from(port));
    udp((APP, port), (SITE, site), payload)
}

/// N-14, N-26: one tunnel that connected, or had failed, paused everything.
#[test]
fn a_connecting_tunnel_that_is_flooded_takes_nothing_from_the_others() {
    const TICKS: u16 = 400;
    const FLOOD: u16 = 48;
    let run = |flood: u16| {
        let mut world = world();
        let mut sent = [0, 0];
        let mut first = None;
        for tick in 0..TICKS {
            let mut packets = Vec::new();
            for n in 0..flood {
                // A new flow each time, large packets.
                let site = tick.wrapping_mul(flood) + n;
                packets.push(packet(&mut world, 1, 1000, site, &[0; 1200]));
            }
            for (index, uid) in [2, 3].into_iter().enumerate() {
                // A new flow, and one that lives.
                for (port, site) in [(2000 + index as u16, tick), (3000 + index as u16, 7)] {
                    let number = tick.to_be_bytes();
                    packets.push(packet(&mut world, uid, port, site, &number));
                }
            }
            if tick == TICKS / 2 {
                packets.push(packet(&mut world, 4, 4000, 7, b"mine"));
                first = packets.last().cloned();
            }
            world.send(packets);
            world.advance(TICK);
            world.answer_owners();
            for (index, tunnel) in ["fr", "us"].into_iter().enumerate() {
                sent[index] += world.sent(tunnel).len();
            }
        }
        let full = world.drops(DropReason::HoldFull);
        // Each is told beside the tunnel that it waited for.
        let tunnels = world.router.status().tunnels;
        let told = tunnels
            .iter()
            .map(|t| t.counters.drops.get(DropReason::HoldFull));
        assert_eq!(told.collect::<Vec<_>>(), [full, 0, 0]);
        world.up("uk", &["10.5.0.2/32"], &[]);
        let waited = world.sent("uk");
        // Who waits for the same tunnel and does not flood it waits no longer for that.
        assert!(waited.contains(&first.unwrap()));
        (sent, full)
    };
    let (quiet, full) = run(0);
    assert_eq!((quiet, full), ([2 * usize::from(TICKS); 2], 0));
    let (flooded, full) = run(FLOOD);
    assert_eq!(flooded, quiet);
    assert!(full > 0, "it was a flood");
}

#[test]
fn an_app_has_a_share_of_what_waits_for_a_tunnel() {
    let mut world = world();
    world.slow_owners = false;
    let limits = HoldLimits::default();
    for site in 0..2000 {
        let flood = packet(&mut world, 1, 1000, site, b"");
        world.send([flood]);
    }
    let held = world.router.accounts().held;
    assert_eq!(held, limits.per_owner.flows as u64);
    // Another socket is the same app.
    let more = packet(&mut world, 1, 1001, 7, b"");
    world.send([more]);
    assert_eq!(world.router.accounts().held, held);
    for site in 0..2000 {
        let other = packet(&mut world, 4, 4000, site, b"");
        world.send([other]);
    }
    assert_eq!(world.router.accounts().held, limits.per_tunnel.flows as u64);
    // And by bytes.
    let mut world = self::world();
    world.slow_owners = false;
    for site in 0..2000 {
        let flood = packet(&mut world, 1, 1000, site, &[0; 1172]);
        world.send([flood]);
    }
    let held = world.router.accounts().held;
    assert_eq!(held, (limits.per_owner.bytes / 1200) as u64);
}

#[test]
fn flows_without_an_owner_yet_leave_the_share_of_tunnels_alone() {
    let mut world = world();
    for port in 1..4000 {
        let flood = packet(&mut world, 2, port, 7, b"");
        world.send([flood]);
    }
    let limits = HoldLimits::default();
    let unknown = limits.unknown_owner.flows as u64;
    assert_eq!(world.router.accounts().held, unknown);
    // Nobody is asked about these: they wait for the tunnel alone.
    world.forget_rules();
    world.rule_for_all("uk");
    let held_before = world.router.accounts().held;
    world.send([udp((APP, 5000), (SITE, 9), b"")]);
    assert_eq!(world.router.accounts().held, held_before + 1);
}

#[test]
fn nothing_is_held_where_nothing_may_be() {
    let config = RouterConfig {
        hold: HoldLimits {
            flows: 0,
            ..HoldLimits::default()
        },
        ..RouterConfig::default()
    };
    let mut world = World::with_config(config, THREE);
    world.rule(1, "uk");
    world.slow_owners = true;
    let one = packet(&mut world, 1, 1000, 7, b"");
    world.send([one]);
    assert_eq!(world.drops(DropReason::HoldFull), 1);
    assert!(world.asked.is_empty());
}

/// Its packet found no room, and it slept on, until there was some.
#[test]
fn a_sleeping_tunnel_is_woken_though_others_let_too_much_wait() {
    let one = HoldQuota {
        flows: 1,
        bytes: 100,
    };
    let config = RouterConfig {
        hold: HoldLimits {
            flows: 2,
            unknown_owner: one,
            ..HoldLimits::default()
        },
        ..RouterConfig::default()
    };
    let mut world = World::with_config(config, THREE);
    world.rule(1, "uk");
    world.rule(3, "us");
    world.state("uk", TransportState::Connecting);
    world.state("us", TransportState::Dormant);
    let first = packet(&mut world, 1, 1000, 7, b"");
    world.send([first]);
    let second = packet(&mut world, 3, 3000, 7, b"");
    world.send([second]);
    assert_eq!(world.drops(DropReason::HoldFull), 1);
    assert_eq!(world.woken, [world.id("us")]);
}
