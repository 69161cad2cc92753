//! A link is made, kept, and made again.

use super::*;

#[test]
fn it_is_up_after_three_round_trips_and_knows_how_it_is_seen() {
    let mut world = World::new();
    world.run(0.07);
    let up = LinkEvent::Up {
        carrier: Carrier::Udp,
        observed: Some(at(MEMBER)),
    };
    assert_eq!(world.events, [(Duration::from_millis(60), up)]);
    assert_eq!(world.link.way(), Some((Carrier::Udp, at(HUB))));
    assert!(world.tls_opens.is_empty());
    let status = world.link.status();
    assert_eq!((status.state, status.why.as_str()), (LinkState::Up, ""));
    assert_eq!(status.rtt, Some(ONE_WAY * 2));
    assert_eq!(world.hub.registered, [1]);
    // Two Hellos (two endpoints), Join, initiation, registration.
    assert_eq!(world.sent.len(), 5);
}

/// L-20: what was said once was lost for ever.
#[test]
fn lost_datagrams_are_asked_for_again() {
    for lose in [10, 20, 30, 40] {
        let mut world = World::new();
        world.lose = lose;
        world.run(3.0);
        assert!(world.is_up(), "{lose} % are lost");
    }
}

#[test]
fn an_idle_link_is_kept_by_empty_messages_and_three_silences_end_it() {
    let mut world = World::new();
    world.run(110.0);
    assert_eq!(world.hub.empties, 3);
    assert_eq!(world.sent.len(), 5 + 3);
    assert_eq!(world.hub.heard.len(), 1, "the registration");
    (world.udp, world.tls) = (false, false);
    world.run(30.0);
    assert_eq!(world.downs(), 1);
    assert!(!world.is_up());
    world.udp = true;
    world.run(6.0);
    assert!(world.is_up());
}

#[test]
fn the_hub_says_unasked_that_it_sees_us_elsewhere() {
    let mut world = World::new();
    world.run(1.0);
    let observed = at("203.0.113.8:1");
    let told = ToMember::Pong {
        nonce: 0,
        observed: Some(observed),
    };
    let told = world.hub.seal(&told).unwrap();
    world.deliver(Carrier::Udp, &told);
    world.flush();
    assert_eq!(
        world.events.last().map(|it| &it.1),
        Some(&LinkEvent::Observed(observed))
    );
}

#[test]
fn relaying_into_silence_is_noticed_soon() {
    let mut world = World::new();
    world.run(30.0);
    (world.udp, world.tls) = (false, false);
    for _ in 0..50 {
        world.link.relayed(Tag([1; 8]), world.now);
        world.run(0.1);
    }
    assert_eq!(world.downs(), 1);
    // And what is heard counts.
    let mut world = World::new();
    world.run(30.0);
    let before = world.sent.len();
    for _ in 0..50 {
        world.link.relayed(Tag([1; 8]), world.now);
        world.link.relay_heard();
        world.run(0.1);
    }
    assert_eq!((world.downs(), world.sent.len()), (0, before));
}

#[test]
fn without_answer_it_is_tried_after_2_4_8_16_and_every_32_seconds_for_ever() {
    let mut world = World::new();
    (world.udp, world.tls) = (false, false);
    world.run(600.0);
    let hellos = world.hellos(Carrier::Udp);
    assert_eq!(&hellos[..6], [0, 0, 300, 300, 700, 700]);
    let mut rounds: Vec<u64> = hellos.clone();
    rounds.dedup_by(|next, first| *next - *first < 1_600);
    let pauses: Vec<u64> = rounds.windows(2).map(|it| it[1] - it[0]).collect();
    for (pause, full) in pauses.iter().zip([2, 4, 8, 16, 32, 32, 32]) {
        // A round without TLS takes two seconds, then half to all of the pause.
        let (least, most) = (2_000 + full * 500, 2_000 + full * 1_000);
        assert!((least..=most).contains(pause), "{pauses:?}");
    }
    assert!(rounds.len() > 15, "{rounds:?}");
    world.udp = true;
    world.run(34.0);
    assert!(world.is_up(), "it is never given up");
    assert_eq!(world.downs(), 0, "it was never up");
}

#[test]
fn a_hub_that_was_started_again_is_joined_again_within_a_second() {
    let mut world = World::new();
    world.run(10.0);
    world.hub.restart();
    world.link.relayed(Tag([3; 8]), world.now);
    let stranger = Frame::Stranger { echo: [3; 8] }.to_bytes();
    world.deliver(Carrier::Udp, &stranger);
    world.run(0.2);
    assert!(world.is_up());
    assert_eq!(world.downs(), 1);
    assert_eq!(world.hub.registered, [1, 1]);
}

#[test]
fn a_hub_that_forgot_us_is_joined_again() {
    let mut world = World::new();
    world.run(10.0);
    world.hub.forget();
    world.run(60.0);
    assert!(world.is_up());
    assert_eq!(world.hub.registered, [1, 1]);
    let (down, up) = (&world.events[1], &world.events[2]);
    assert!(matches!(down.1, LinkEvent::Down { .. }), "{down:?}");
    assert!(up.0 - down.0 < Duration::from_secs(1), "{up:?}");
}

#[test]
fn strangers_cost_a_hello_a_second_at_most_and_only_if_they_repeat_what_we_sent() {
    let mut world = World::new();
    world.run(10.0);
    let before = world.sent.len();
    world.deliver(Carrier::Udp, &Frame::Stranger { echo: [9; 8] }.to_bytes());
    world.flush();
    assert_eq!(world.sent.len(), before);
    assert_eq!(world.link.status().counters.strangers_ignored, 1);
    let hellos = world.hellos(Carrier::Udp).len();
    for _ in 0..100 {
        world.link.relayed(Tag([3; 8]), world.now);
        world.link.relay_heard();
        world.deliver(Carrier::Udp, &Frame::Stranger { echo: [3; 8] }.to_bytes());
        world.run(0.1);
    }
    let more = world.hellos(Carrier::Udp).len() - hellos;
    assert!((9..=11).contains(&more), "{more}");
    assert!(world.is_up());
    assert_eq!(world.downs(), 0, "the question was answered each time");
}

#[test]
fn both_ends_say_goodbye() {
    let mut world = World::new();
    world.run(6.0);
    let bye = world.hub.seal(&ToMember::Bye).unwrap();
    world.deliver(Carrier::Udp, &bye);
    world.flush();
    assert_eq!(world.downs(), 1);
    assert!(!world.is_up());
    world.run(3.0);
    assert!(world.is_up(), "after a pause it is tried again");
    world.link.bye(world.now);
    world.run(600.0);
    assert_eq!(world.hub.heard.last(), Some(&(Carrier::Udp, ToHub::Bye)));
    assert_eq!(world.link.status().state, LinkState::Stopped);
    assert_eq!(world.link.next_timeout(), None);
    world.link.network_changed(world.now);
    world.new_record(5);
    assert_eq!(world.link.poll(), None);
}
