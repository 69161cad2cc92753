//! Bounds and fates of datagrams that come in fragments.

use vpn_core::Protocol;
use vpn_core::packet::{HEADROOM, TAILROOM};

use super::*;

fn datagram(host: u8, id: u32) -> Datagram {
    let flow = FlowKey::new(
        Protocol::UDP,
        ([10, 0, 0, host].into(), 0),
        ([192, 0, 2, 1].into(), 0),
    );
    Datagram::new(None, &flow, id)
}

/// A piece of a datagram of which more is to come.
const PIECE: Fragment = Fragment {
    id: 0,
    offset: 8,
    length: 8,
    more: true,
};

fn packet(length: usize) -> Packet {
    Packet::from_slice(&vec![0x45; length])
}

#[test]
fn early_ones_wait_and_later_ones_follow() {
    let mut table: Fragments<u8> = Fragments::new(FragmentLimits::default());
    let one = datagram(1, 7);
    assert!(matches!(
        table.later(0, one, &PIECE, &packet(100)),
        Later::Wait
    ));
    assert_eq!(table.packets(), 1);
    assert_eq!(table.follow(1, one, &PIECE, 9).len(), 1);
    assert_eq!(table.packets(), 0);
    assert!(matches!(
        table.later(2, one, &PIECE, &packet(100)),
        Later::Follow(9)
    ));
    let other = table.later(2, datagram(1, 8), &PIECE, &packet(100));
    assert!(matches!(other, Later::Wait), "another datagram");
    assert_eq!(
        table
            .give_up(3, datagram(1, 8), &PIECE, DropReason::TunnelDown)
            .len(),
        1
    );
    let after = table.later(4, datagram(1, 8), &PIECE, &packet(100));
    assert!(matches!(after, Later::Drop(DropReason::TunnelDown)));
}

#[test]
fn datagrams_expire_in_order_and_leave_nothing() {
    let mut table: Fragments<u8> = Fragments::new(FragmentLimits::default());
    for id in 0..10 {
        table.later(id, datagram(1, id), &PIECE, &packet(50));
        table.id_on_wire(id, datagram(1, id), datagram(9, id));
    }
    assert!(table.expired(14_999).is_none());
    let mut count = 0;
    while let Some((_, waiting)) = table.expired(15_009) {
        count += waiting;
    }
    assert_eq!(count, 10);
    assert_eq!((table.packets(), table.bytes), (0, 0));
    assert!(table.entries.is_empty() && table.wires.is_empty() && table.shares.is_empty());
}

#[test]
fn bounds_hold_and_the_oldest_of_a_source_makes_room() {
    let limits = FragmentLimits {
        datagrams: 40,
        bytes: 12_000,
        ..FragmentLimits::default()
    };
    let mut table: Fragments<u8> = Fragments::new(limits);
    table.later(0, datagram(2, 1), &PIECE, &packet(40));
    for id in 0..100 {
        let later = table.later(0, datagram(1, id), &PIECE, &packet(40));
        assert!(matches!(later, Later::Wait));
    }
    assert_eq!(table.entries.len(), 11, "ten of one source, one of another");
    assert!(table.entries.contains_key(&datagram(1, 99)));
    assert!(table.entries.contains_key(&datagram(2, 1)));
    assert_eq!(table.packets(), 101, "until they are counted");
    let mut evicted = 0;
    while let Some((_, waited)) = table.expired(0) {
        evicted += waited;
    }
    assert_eq!((evicted, table.packets()), (90, 11));
    let big = (0..9).filter(|&id| {
        let later = table.later(0, datagram(3, id), &PIECE, &packet(1500));
        matches!(later, Later::Wait)
    });
    assert_eq!(big.count(), 6, "bytes in all");
    assert!(table.bytes <= 12_000);
    for host in 4..100 {
        table.follow(0, datagram(host, 1), &PIECE, 1);
        assert!(table.entries.len() <= 40);
    }
}

#[test]
fn what_has_passed_whole_is_forgotten() {
    let mut table: Fragments<u8> = Fragments::new(FragmentLimits::default());
    let piece = |offset, more| Fragment {
        id: 7,
        offset,
        length: 1000,
        more,
    };
    let one = datagram(1, 7);
    // In every order, and of a datagram whose first was dropped too.
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        for drop in [false, true] {
            table.id_on_wire(0, one, datagram(9, 7));
            for place in order {
                let piece = piece(place * 1000, place < 2);
                match place {
                    0 if drop => {
                        table.give_up(0, one, &piece, DropReason::TunnelDown);
                    }
                    0 => {
                        table.follow(0, one, &piece, 1);
                    }
                    _ => {
                        table.later(0, one, &piece, &packet(1020));
                    }
                }
            }
            assert!(table.entries.is_empty() && table.wires.is_empty());
            assert_eq!((table.packets(), table.bytes, table.order.len()), (0, 0, 0));
        }
    }
}

#[test]
fn an_identification_on_the_wire_is_given_once() {
    let mut table: Fragments<u8> = Fragments::new(FragmentLimits::default());
    let wire = datagram(9, 7);
    assert_eq!(table.id_on_wire(0, datagram(1, 7), wire), 7);
    assert_eq!(table.id_on_wire(0, datagram(1, 7), wire), 7, "its own");
    let other = table.id_on_wire(0, datagram(2, 7), wire);
    assert_ne!(other, 7);
    assert!(other <= 0xffff);
}

#[test]
fn a_change_of_rules_ends_what_is_under_way() {
    let mut table: Fragments<u8> = Fragments::new(FragmentLimits::default());
    table.follow(0, datagram(1, 1), &PIECE, 1);
    table.forget_ways(|way| *way == 2);
    assert!(matches!(
        table.later(1, datagram(1, 1), &PIECE, &packet(9)),
        Later::Follow(1)
    ));
    table.forget_ways(|_| true);
    assert!(matches!(
        table.later(1, datagram(1, 1), &PIECE, &packet(9)),
        Later::Drop(_)
    ));
}

#[test]
fn an_identification_is_given_back_when_its_datagram_gets_another() {
    let mut table: Fragments<u8> = Fragments::new(FragmentLimits::default());
    // The same app's datagram, through two tunnels one after the other.
    for way in 0..9 {
        table.id_on_wire(0, datagram(1, 7), datagram(10 + way, 7));
        table.follow(0, datagram(1, 7), &PIECE, way);
    }
    assert_eq!(table.wires.len(), 1);
    while table.expired(15_000).is_some() {}
    assert!(table.wires.is_empty());
}

/// Memory is what they cost, not what they say.
#[test]
fn small_fragments_count_with_their_buffers() {
    let mut table: Fragments<u8> = Fragments::new(FragmentLimits::default());
    let tiny = Fragment {
        length: 1,
        more: false,
        ..PIECE
    };
    let waiting = (0..256u32).flat_map(|id| (0..200).map(move |_| id));
    for id in waiting {
        let one = datagram(id as u8, id);
        table.later(0, one, &tiny, &packet(21));
        while table.expired(0).is_some() {}
    }
    let cost = 21 + HEADROOM + TAILROOM + size_of::<Packet>();
    assert!(table.packets() as usize * cost <= FragmentLimits::default().bytes);
}

#[test]
fn the_largest_datagram_waits_for_its_first() {
    let mut table: Fragments<u8> = Fragments::new(FragmentLimits::default());
    for place in (1..53u16).rev() {
        let piece = Fragment {
            offset: place * 1232,
            length: 1232,
            ..PIECE
        };
        let later = table.later(0, datagram(1, 7), &piece, &packet(1280));
        assert!(matches!(later, Later::Wait), "{place}");
    }
}
