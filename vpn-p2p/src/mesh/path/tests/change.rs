//! Networks, peers and configurations that change, and what bounds the answer to it.

use super::*;

#[test]
fn a_peer_that_moves_is_followed() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(5000), BUSY);
    // Its NAT forgot the mapping and made another one; no record says so yet.
    pair.ends[1].at[0] = "192.0.2.77:9".parse().unwrap();
    let from = pair.now - pair.start;
    pair.run(ms(4000), BUSY);
    assert_eq!(
        pair.way(0),
        Some(Way::Direct("192.0.2.77:9".parse().unwrap()))
    );
    assert!(pair.is_direct(1));
    assert!(pair.gap(1, from) <= ms(1950));

    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(100_000), IDLE);
    pair.ends[1].at[0] = "192.0.2.77:9".parse().unwrap();
    pair.run(ms(40_000), IDLE);
    assert_eq!(
        pair.way(0),
        Some(Way::Direct("192.0.2.77:9".parse().unwrap()))
    );
}

#[test]
fn without_a_relay_a_direct_way_serves_alone() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(5000), BUSY);
    for side in 0..2 {
        let now = pair.now;
        pair.ends[side].paths.set_relays(&[], now);
        pair.cut(side, 1);
    }
    pair.run(ms(5000), BUSY);
    assert!(
        pair.is_direct(0) && pair.is_direct(1),
        "the hub is gone, the way lives on"
    );
    pair.cut(0, 0);
    pair.cut(1, 0);
    pair.run(ms(3000), BUSY);
    assert_eq!(pair.way(0), None);
    pair.lines[0][0].up = true;
    pair.lines[1][0].up = true;
    pair.run(ms(5000), BUSY);
    assert!(
        pair.is_direct(0) && pair.is_direct(1),
        "nothing is held back where there is no other"
    );
}

#[test]
fn policies_are_kept() {
    let mut pair = Pair::new(&[15], Policy::RelayOnly);
    pair.run(ms(5000), BUSY);
    assert_eq!(pair.ends[0].direct, 0);
    assert_eq!(pair.way(0), Some(RELAY));
    assert_eq!(pair.ends[0].paths.status().why, Why::Policy);
    let now = pair.now;
    let paths = &mut pair.ends[0].paths;
    while paths.poll().is_some() {}
    paths.probe_arrived(Way::Direct("192.0.2.9:9".parse().unwrap()), 7, true, now);
    assert_eq!(paths.poll(), None, "no answer shows where we are");

    let mut pair = Pair::new(&[15], Policy::DirectOnly);
    assert_eq!(pair.way(0), None);
    pair.run(ms(5000), BUSY);
    assert!(pair.is_direct(0));
    pair.cut(0, 0);
    pair.run(ms(5000), BUSY);
    assert_eq!(pair.way(0), None);
    assert!(pair.is_direct(1));

    let mut pair = Pair::new(&[15], Policy::Deny);
    pair.run(ms(5000), BUSY);
    assert_eq!(
        (pair.way(0), pair.ends[0].relayed, pair.ends[0].direct),
        (None, 0, 0)
    );
}

#[test]
fn the_preferred_relay_serves_while_it_answers() {
    let now = Instant::now();
    let (first, second) = (HubId(3), HubId(1));
    let mut paths = Paths::new(PathConfig::default(), Policy::Allow, 0);
    paths.set_relays(&[(first, Carrier::Udp), (second, Carrier::Tls)], now);
    paths.session_ready(now);
    assert_eq!(paths.current(), Some(Way::Relay(first)));
    let mut at = now;
    while paths.current() == Some(Way::Relay(first)) && at < now + ms(5000) {
        paths.sent(at);
        paths.handle_timeout(at);
        at += ms(10);
    }
    assert_eq!(
        paths.current(),
        Some(Way::Relay(second)),
        "nothing answered"
    );
    assert!(at - now < ms(2500), "{:?}", at - now);
    assert_eq!(paths.status().carrier, Some(Carrier::Tls));
    paths.set_relays(&[(first, Carrier::Udp)], at);
    assert_eq!(paths.current(), Some(Way::Relay(first)), "better than none");
    paths.set_relays(&[], at);
    assert_eq!(paths.current(), None);
}

#[test]
fn a_lost_session_proves_nothing() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(5000), BUSY);
    let now = pair.now;
    pair.ends[0].paths.session_lost(now);
    assert_eq!(pair.way(0), Some(RELAY));
    assert_eq!(pair.ends[0].paths.next_timeout(), None);
    pair.ends[0].paths.session_ready(now);
    pair.drain(0);
    pair.run(ms(1000), BUSY);
    assert!(pair.is_direct(0));
}

#[test]
fn a_changed_network_is_tried_at_once() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(300_000), IDLE);
    pair.cut(0, 0);
    let now = pair.now;
    pair.ends[0].paths.network_changed(now);
    pair.drain(0);
    pair.run(ms(1500), IDLE);
    assert_eq!(pair.way(0), Some(RELAY));
}

#[test]
fn unknown_addresses_are_bounded_and_push_out_no_proven_way() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(5000), BUSY);
    let way = pair.way(0);
    let now = pair.now;
    let paths = &mut pair.ends[0].paths;
    let mut probes = 0;
    for host in 0..10_000_u32 {
        let from = SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + host), 9));
        paths.heard(Way::Direct(from), now);
        while paths.poll().is_some() {
            probes += 1;
        }
    }
    assert_eq!(paths.tracks.len(), 25, "24 and the relay");
    assert_eq!(paths.current(), way);
    assert!(paths.track(way.unwrap()).is_some());
    assert!(probes <= 10_000);
    let before = probes;
    for _ in 0..1000 {
        paths.heard(Way::Direct("10.0.39.15:9".parse().unwrap()), now);
        while paths.poll().is_some() {
            probes += 1;
        }
    }
    assert_eq!(
        probes, before,
        "one address is asked once, then with pauses"
    );
}

/// A peer whose records name other places each second makes us send to each of them: not more than a
/// few times, whatever it says.
#[test]
fn candidates_that_change_all_the_time_do_not_begin_rounds_all_the_time() {
    let (start, count) = (Instant::now(), 16_u16);
    let mut paths = Paths::new(PathConfig::default(), Policy::Allow, 1);
    paths.set_relays(&[(HUB, Carrier::Udp)], start);
    paths.session_ready(start);
    let mut probes = 0;
    for step in 0..600 {
        let now = start + ms(100 * step);
        paths.sent(now);
        if step % 10 == 0 {
            let places: Vec<SocketAddr> = (0..count)
                .map(|n| SocketAddr::from(([203, 0, 113, (step % 20) as u8], 1 + n)))
                .collect();
            // The same again is nothing new.
            for _ in 0..5 {
                paths.set_candidates(&places, now);
            }
        }
        if paths.next_timeout().is_some_and(|at| at <= now) {
            paths.handle_timeout(now);
        }
        while let Some(out) = paths.poll() {
            probes += u64::from(matches!(out, PathOut::Probe { way, .. } if way.is_direct()));
        }
    }
    let rounds = probes / u64::from(count);
    assert!((20..=4 * 20 + 1).contains(&rounds), "{rounds} in 60 s");
}

/// L-16: each announcement put a peer back to the relay.
#[test]
fn a_record_that_is_told_again_or_names_other_places_leaves_a_proven_way() {
    let mut pair = Pair::new(&[15], Policy::Allow);
    pair.run(ms(5000), BUSY);
    let (way, moves) = (pair.way(0), pair.ends[0].moves.len());
    assert!(pair.is_direct(0));
    let (same, elsewhere) = (pair.ends[1].at.clone(), "203.0.113.9:9".parse().unwrap());
    let from = pair.now - pair.start;
    for places in [same.clone(), vec![elsewhere], Vec::new(), same] {
        let now = pair.now;
        pair.ends[0].paths.set_candidates(&places, now);
        pair.drain(0);
        pair.run(ms(5000), BUSY);
        assert_eq!(pair.way(0), way, "{places:?}");
    }
    assert_eq!(pair.ends[0].moves.len(), moves);
    assert!(pair.gap(1, from) <= ms(10), "not a packet less");
}
