//! What is sent arrives, by whichever way there is, or is counted.

use super::*;

#[test]
fn the_first_packet_arrives_and_the_next_go_directly() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    assert!(
        world
            .members
            .iter()
            .all(|(_, member)| member.is_connected())
    );
    assert_eq!(world.send(0, 1, b"first"), Outlet::Held);
    world.run(Duration::from_millis(1));
    assert_eq!(world.got(1), [packet(0, 1, b"first").bytes()]);
    world.run(Duration::from_secs(1));
    assert_eq!(world.stage(0, 1), Some(Stage::Direct));
    assert_eq!(world.stage(1, 0), Some(Stage::Direct));
    let relayed = world.relayed;
    for n in 0..10u8 {
        assert!(matches!(
            world.send(0, 1, &[n]),
            Outlet::Open(_, Way::Direct(_), _)
        ));
        assert!(matches!(
            world.send(1, 0, &[n]),
            Outlet::Open(_, Way::Direct(_), _)
        ));
    }
    assert_eq!((world.got(0).len(), world.got(1).len()), (10, 10));
    assert_eq!(world.relayed, relayed, "nothing of it by the hub");
}

/// S-21, L-28: the reference systems carried IPv4 alone.
#[test]
fn both_families_pass_inside() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    let of = |family: fn(usize) -> IpAddr| {
        let (from, to) = (SocketAddr::new(family(0), 7), SocketAddr::new(family(1), 9));
        Packet::from_slice(&build::udp(from, to, b"hello"))
    };
    for (packet, first) in [
        (of(address6), true),
        (of(address), false),
        (of(address6), false),
    ] {
        let outlet = world.send_packet(0, &packet);
        assert_eq!(
            outlet == Outlet::Held,
            first,
            "one peer has both: {outlet:?}"
        );
        world.run(Duration::from_secs(1));
        assert_eq!(world.got(1), [packet.bytes()]);
    }
    // Whose an address is counts in either family.
    let (from, to) = (
        SocketAddr::new(address6(2), 7),
        SocketAddr::new(address6(1), 9),
    );
    let forged = Packet::from_slice(&build::udp(from, to, b"forged"));
    world.send_packet(0, &forged);
    assert!(world.got(1).is_empty());
    assert_eq!(world.drops, [DropReason::AddressNotAllowed]);
}

/// S-21: such packets had somebody dialled, or oneself.
#[test]
fn what_is_for_everybody_or_for_oneself_is_nobodys_and_nobody_is_asked() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    for dst in [
        "10.77.0.2",
        "10.77.0.255",
        "255.255.255.255",
        "224.0.0.251",
        "fd77::2",
        "ff02::fb",
    ] {
        let dst: IpAddr = dst.parse().unwrap();
        let own = if dst.is_ipv4() {
            address(0)
        } else {
            address6(0)
        };
        let packet = build::udp(SocketAddr::new(own, 7), SocketAddr::new(dst, 9), b"all");
        let (_, member) = &mut world.members[0];
        let outlet = member.outlet(&Packet::from_slice(&packet), world.now);
        assert_eq!(outlet, Outlet::Drop(DropReason::NotRoutable), "{dst}");
        assert!(member.poll(world.now, UNIX).is_none(), "{dst}");
    }
}

#[test]
fn where_nothing_gets_in_directly_the_relay_carries_everything() {
    let mut world = World::new(3, |_, _| {});
    world.closed = vec![world.members[1].0];
    world.run(Duration::from_millis(100));
    for n in 0..50u8 {
        world.send(0, 1, &[n]);
        world.send(2, 1, &[n]);
        world.run(Duration::from_millis(200));
    }
    assert_eq!(world.got(1).len(), 100);
    assert_eq!(world.stage(0, 1), Some(Stage::Relayed));
    assert_eq!(world.stage(1, 2), Some(Stage::Relayed));
}

#[test]
fn direct_paths_live_on_without_the_hub_and_fall_back_where_it_is() {
    let mut world = World::new(3, |_, _| {});
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"1");
    world.send(0, 2, b"1");
    world.run(Duration::from_secs(2));
    assert_eq!(world.got(1).len(), 1);
    // One way is cut, traffic goes on: at most 2 s are lost.
    world.closed = vec![world.members[2].0];
    for n in 0..60u8 {
        world.send(0, 2, &[n]);
        world.run(Duration::from_millis(100));
    }
    let got = world.got(2).len();
    assert!(got >= 1 + 60 - 20, "{got} of 61");
    assert_eq!(world.stage(0, 2), Some(Stage::Relayed));
    world.hub = None;
    for n in 0..100u8 {
        world.send(0, 1, &[n]);
        world.run(Duration::from_millis(100));
    }
    assert_eq!(world.got(1).len(), 100);
    assert_eq!(world.stage(0, 1), Some(Stage::Direct));
}

/// L-21, S-14: the source inside is compared with what its sender may have.
#[test]
fn nobody_sends_from_an_address_that_is_not_its_own() {
    let mut world = World::new(3, |_, _| {});
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"hello");
    world.run(Duration::from_secs(1));
    world.got(1);
    // 0 sends as 2.
    let forged = packet(2, 1, b"forged");
    let (at, member) = &mut world.members[0];
    let Outlet::Open(slot, _, wire) = member.outlet(&packet(0, 1, b""), world.now) else {
        panic!("not connected");
    };
    let mut out = Vec::new();
    assert!(member.seal(slot, &wire, BytesMut::from(forged.bytes()), &mut out));
    let Wire::Direct(to) = wire else {
        panic!("not direct");
    };
    world.wire.push_back((*at, to, out.clone()));
    world.wire.push_back((*at, to, out));
    world.deliver();
    assert!(world.got(1).is_empty());
    // The second one is a replay.
    assert_eq!(
        world.drops,
        [DropReason::AddressNotAllowed, DropReason::NotAuthentic]
    );
}

/// L-29: somebody was asked for again and again, whoever it was.
#[test]
fn nobody_is_asked_for_once_and_waiting_packets_are_counted() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    for _ in 0..10 {
        assert_eq!(world.send(0, 99, b"?"), Outlet::Held);
    }
    world.run(Duration::from_secs(1));
    let status = world.members[0].1.status(world.now);
    assert_eq!(status.drops.get(DropReason::NoSession), 10);
    assert_eq!(world.members[0].1.lookups.nobody, 1);
}

/// An authentic datagram from inside of the mesh came by a tunnel: a way there would lead into itself.
#[test]
fn a_way_is_never_inside_of_the_mesh() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_secs(1));
    world.send(0, 1, b"hello");
    world.run(Duration::from_secs(5));
    let packet = packet(0, 1, b"more");
    for (from, passes) in [("10.77.0.9:4000", false), ("203.0.113.9:4000", true)] {
        let sender = &mut world.members[0].1;
        let Outlet::Open(slot, _, wire) = sender.outlet(&packet, world.now) else {
            panic!("no way");
        };
        let mut out = Vec::new();
        assert!(sender.seal(slot, &wire, BytesMut::from(packet.bytes()), &mut out));
        let bytes = BytesMut::from(&out[..]);
        let from = from.parse().unwrap();
        let arrived = world.members[1].1.udp(from, bytes, world.now, UNIX);
        assert_eq!(
            matches!(arrived, Arrived::Packet(..)),
            passes,
            "{arrived:?}"
        );
        let mut to = Vec::new();
        while let Some(out) = world.members[1].1.poll(world.now, UNIX) {
            if let Transmit::Udp(at, _) = out {
                to.push(at);
            }
        }
        assert_eq!(to.contains(&from), passes, "{to:?}");
    }
}

/// What waited is as large as any packet may be now, and counts as sent when it was.
#[test]
fn what_waited_is_sent_if_it_fits_and_counted_as_what_it_came_to() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_secs(1));
    world.members[0].1.set_mtu(600);
    for text in [&[0; 700][..], b"small"] {
        assert_eq!(world.send(0, 1, text), Outlet::Held);
    }
    world.run(Duration::from_secs(1));
    assert_eq!(world.got(1), [packet(0, 1, b"small").bytes()]);
    let status = world.members[0].1.status(world.now);
    assert_eq!(status.drops.get(DropReason::TooBig), 1);
    assert_eq!(status.drops.total(), 1);
    let counters = status.peers[0].counters;
    assert_eq!(counters.tx_relayed[0] + counters.tx_direct[0], 1);
}

/// Nobody relays, and the line was cut for longer than anybody tries: packets that wait are a reason to
/// look for it again.
#[test]
fn a_direct_way_is_found_again_without_a_hub() {
    let mut world = World::new(2, |_, _| {});
    world.run(Duration::from_millis(100));
    world.send(0, 1, b"1");
    world.run(Duration::from_secs(2));
    assert_eq!(world.stage(0, 1), Some(Stage::Direct));
    world.hub = None;
    for n in 0..100u8 {
        world.send(0, 1, &[n]);
        world.run(Duration::from_secs(1));
    }
    world.got(1);
    world.closed = world.members.iter().map(|(at, _)| *at).collect();
    world.send(0, 1, b"lost");
    world.run(Duration::from_secs(90));
    world.closed.clear();
    let mut after = 0;
    while world.got(1).is_empty() {
        after += 1;
        assert!(after < 50, "for 5 s");
        world.send(0, 1, b"again");
        world.run(Duration::from_millis(100));
    }
}
