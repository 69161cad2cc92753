//! Events that come in an unlucky order: regressions, one each. The [model](super::model) looks
//! for more of them.

use std::time::Duration;

use vpn_core::{DropReason, Packet, Protocol, TransportState};

use super::world::{SITE, World, flow_of, tcp, udp};
use crate::router::{Egress, RouterConfig};

const TWO: &[(&str, &[&str])] = &[("uk", &["10.5.0.2/32"]), ("fr", &["10.5.0.3/32"])];

fn two() -> World {
    let mut world = World::new(TWO);
    world.rule(1, "uk");
    world.rule(2, "fr");
    take(&mut world, 1);
    world
}

/// Port 7000 belongs to a socket of this user from now on.
fn take(world: &mut World, uid: u32) {
    world.advance(Duration::from_millis(1));
    for protocol in [Protocol::UDP, Protocol::TCP] {
        world.socket(protocol, ("10.5.0.2", 7000), uid, u64::from(uid));
    }
}

fn datagram(payload: &[u8]) -> Vec<u8> {
    udp(("10.5.0.2", 7000), (SITE, 7), payload)
}

fn segment(flags: &str) -> Vec<u8> {
    tcp(("10.5.0.2", 7000), (SITE, 80), flags)
}

/// A question that timed out is answered after another program got the port and asked again.
#[test]
fn a_late_answer_is_not_taken_for_the_next_one() {
    let mut world = two();
    world.slow_owners = true;
    world.send([datagram(b"one")]);
    let late = world.asked[0];
    world.advance(Duration::from_millis(500));
    assert_eq!(world.drops(DropReason::OwnerTimeout), 1);
    world.send([datagram(b"two")]);
    assert_eq!(
        world.asked.len(),
        1,
        "not asked again while an answer is under way"
    );
    // What the resolver saw when it was asked: user 1. Now the port is user 2's.
    world.answer_owners();
    assert!(world.sent("uk").is_empty(), "another program's packet");
    take(&mut world, 2);
    assert_eq!(world.asked, [late], "asked anew");
    world.answer_owners();
    assert!(world.sent("uk").is_empty());
    assert_eq!(world.sent("fr").len(), 1);
}

/// Packets of two programs that had the port one after the other wait for one connecting tunnel.
#[test]
fn held_packets_of_two_owners_part() {
    let mut world = two();
    world.state("uk", TransportState::Connecting);
    world.send([datagram(b"one")]);
    take(&mut world, 2);
    world.send([datagram(b"two")]);
    world.up("uk", &["10.5.0.2/32"], &[]);
    assert_eq!(world.sent("uk"), [datagram(b"one")]);
    assert_eq!(world.sent("fr").len(), 1);
}

#[test]
fn a_rule_swap_sends_what_waits_for_another_tunnel() {
    let mut world = two();
    world.state("uk", TransportState::Connecting);
    world.send([datagram(b"one"), datagram(b"two")]);
    world.rule(1, "fr");
    assert_eq!(world.sent("fr").len(), 2);
    assert_eq!(world.router.accounts().held, 0);
}

/// Its flows were removed before; what was queued left with the old source all the same.
#[test]
fn queued_packets_do_not_outlive_their_address() {
    let mut world = two();
    world.send([datagram(b"one")]);
    world.up("uk", &["10.9.0.9/32"], &[]);
    assert!(world.sent("uk").is_empty());
    world.send([datagram(b"two")]);
    world.down("uk");
    assert!(world.sent("uk").is_empty());
    assert_eq!(world.drops(DropReason::TunnelDown), 2);
}

/// The engine's transport failed: nothing is offered to it again, and it does not come back.
#[test]
fn a_closed_tunnel_has_no_queue_and_stays_closed() {
    let mut world = two();
    world.send([datagram(b"one")]);
    world.state("uk", TransportState::Closed);
    assert_eq!(world.router.ready().count(), 0);
    assert_eq!(world.drops(DropReason::Closed), 1);
    world.up("uk", &["10.5.0.2/32"], &[]);
    world.send([datagram(b"two")]);
    assert_eq!(world.drops(DropReason::TunnelDown), 1);
}

#[test]
fn answers_to_a_flow_that_is_blocked_now_are_not_delivered() {
    let mut world = two();
    world.send([datagram(b"one")]);
    let answer = udp((SITE, 7), ("10.5.0.2", 7000), b"back");
    world.receive("uk", &answer);
    assert_eq!(world.delivered(), std::slice::from_ref(&answer));
    world.rule(1, "block");
    world.receive("uk", &answer);
    assert!(world.delivered().is_empty());
    assert_eq!(world.drops(DropReason::BlockedByRule), 1);
}

/// A connection that keeps its tunnel after a rule change does not hand it on.
#[test]
fn a_new_connection_on_old_ports_follows_the_new_rule() {
    let mut world = two();
    world.send([segment("S")]);
    world.receive("uk", &tcp((SITE, 80), ("10.5.0.2", 7000), "SA"));
    world.rule(1, "fr");
    world.send([segment("A")]);
    assert_eq!(world.sent("uk").len(), 2, "stays");
    // The same socket number: some platforms have none.
    world.advance(Duration::from_secs(1));
    world.send([segment("S")]);
    assert!(world.sent("uk").is_empty());
    assert_eq!(world.sent("fr").len(), 1);
}

/// Stamps wrap after 49 days; a deadline right then must not be in the past for ever.
#[test]
fn deadlines_work_when_stamps_wrap() {
    let mut world = two();
    let wrap = Duration::from_millis(1 << 32);
    for ahead in [Duration::from_millis(100), Duration::ZERO] {
        let until = wrap - ahead;
        let start = world.now;
        // In steps, as an engine would: it never sleeps longer than to the next sweep.
        while world.now + Duration::from_secs(40_000) < start + until {
            world.advance(Duration::from_secs(40_000));
        }
        world.advance(start + until - world.now);
        world.slow_owners = true;
        world.send([datagram(b"held")]);
        let due = world.router.next_timeout();
        assert!(due > world.now && due <= world.now + Duration::from_millis(1000));
        world.advance(Duration::from_millis(500));
        assert_eq!(world.router.accounts().held, 0);
        world.answer_owners();
    }
    assert_eq!(world.drops(DropReason::OwnerTimeout), 2);
}

/// A transport may count segments, or more than it took; each packet counts once.
#[test]
fn a_transport_that_counts_wrongly_does_not_unbalance_the_accounts() {
    let mut world = two();
    world.send([datagram(b"one"), datagram(b"two"), datagram(b"three")]);
    let target = Egress::Tunnel(world.id("uk"));
    let left = world.router.transmit::<()>(target, |queue, drops| {
        drops.add(DropReason::TooBig, 40);
        queue.recycle_front(2);
        Ok(7)
    });
    assert_eq!(left, Ok(1));
    assert!(
        world.router.accounts().balance(),
        "{:?}",
        world.router.accounts()
    );
    assert_eq!(world.sent("uk").len(), 1);
}

/// One that waits forever must not make each other packet dear, and all expire in one call.
#[test]
fn thousands_of_waiting_flows_expire_at_once() {
    let limits = RouterConfig::default().hold;
    let mut world = two();
    world.slow_owners = true;
    let flow = |i: usize| udp(("10.5.0.2", 7000), (SITE, i as u16), b"");
    let flows = limits.unknown_owner.flows;
    for start in (0..flows).step_by(64) {
        world.send((start..start + 64).map(flow));
    }
    assert_eq!(world.router.accounts().held, flows as u64);
    world.advance(limits.owner);
    assert_eq!(world.drops(DropReason::OwnerTimeout), flows as u64);
    // The answers are still under way: nothing more is asked meanwhile.
    world.send([flow(1)]);
    assert_eq!(world.drops(DropReason::HoldFull), 1);
    world.answer_owners();
    world.send([flow(1)]);
    world.answer_owners();
    assert_eq!(
        flow_of(&world.sent("uk")[0]),
        Packet::from_slice(&flow(1)).parse().unwrap().flow
    );
}

/// Rules that begin to ask for owners do not cut connections entered without one.
#[test]
fn a_live_connection_stays_when_rules_begin_to_ask_for_owners() {
    let mut world = World::new(TWO);
    world.rule_for_all("uk");
    world.send([segment("S")]);
    world.receive("uk", &tcp((SITE, 80), ("10.5.0.2", 7000), "SA"));
    take(&mut world, 1);
    world.rule(1, "fr");
    world.send([segment("A")]);
    assert_eq!(world.sent("uk").len(), 2, "the connection stays");
    assert_eq!(
        world.router.flows(1)[0].owner.as_ref().map(|o| o.uid),
        Some(1)
    );
    world.rule(1, "block");
    world.send([segment("A")]);
    assert!(world.sent("uk").is_empty());
    assert_eq!(world.drops(DropReason::BlockedByRule), 1);
}

/// A user was asked for, and the rules want the program by now: asked again, not dropped.
#[test]
fn what_is_held_is_asked_about_again_when_rules_want_to_know_more() {
    let mut world = two();
    world.slow_owners = true;
    world.send([datagram(b"one")]);
    world.rule_for_program("/usr/bin/app", "fr");
    world.answer_owners();
    assert_eq!(world.asked.len(), 1);
    assert_eq!(world.asked[0].detail, vpn_core::OwnerDetail::Process);
    // The resolver cannot tell: that is an answer, and ends it.
    world.answer_owners();
    assert_eq!(world.drops(DropReason::OwnerUnknown), 1);
    assert!(world.asked.is_empty());
}

proptest::proptest! {
    /// Whatever comes through a tunnel in place of a valid answer: nothing but that answer, byte
    /// for byte with its addresses translated, is delivered; the rest is counted.
    #[test]
    fn mutated_answers_are_counted_and_never_reach_another_flow(
        at in 0usize..40,
        value: u8,
        cut in 0usize..60,
    ) {
        let mut world = two();
        world.send([datagram(b"one")]);
        world.sent("uk");
        let answer = udp((SITE, 7), ("10.5.0.2", 7000), b"some payload");
        let mut bytes = answer.clone();
        let at = at % bytes.len();
        bytes[at] = value;
        bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(20)));
        world.receive("uk", &bytes);
        for delivered in world.delivered() {
            let flow = Packet::from_slice(&delivered).parse().unwrap().flow;
            let valid = Packet::from_slice(&answer).parse().unwrap().flow;
            proptest::prop_assert_eq!(flow, valid);
        }
        proptest::prop_assert_eq!(world.router.accounts().in_tunnels, 1);
    }
}
