//! Bounds and fates of datagrams that come in fragments.

use vpn_core::Protocol;

use super::*;

fn datagram(host: u8, id: u32) -> Datagram {
    let flow = FlowKey::new(
        Protocol::UDP,
        ([10, 0, 0, host].into(), 0),
        ([192, 0, 2, 1].into(), 0),
    );
    Datagram::new(None, &flow, id)
}

fn packet(length: usize) -> Packet {
    Packet::from_slice(&vec![0x45; length])
}

#[test]
fn early_ones_wait_and_later_ones_follow() {
    let mut table: Fragments<u8> = Fragments::new(FragmentLimits::default());
    let one = datagram(1, 7);
    assert!(matches!(table.later(0, one, &packet(100)), Later::Wait));
    assert_eq!(table.packets(), 1);
    assert_eq!(table.follow(1, one, 9).len(), 1);
    assert_eq!(table.packets(), 0);
    assert!(matches!(
        table.later(2, one, &packet(100)),
        Later::Follow(9)
    ));
    let other = table.later(2, datagram(1, 8), &packet(100));
    assert!(matches!(other, Later::Wait), "another datagram");
    assert_eq!(
        table
            .give_up(3, datagram(1, 8), DropReason::TunnelDown)
            .len(),
        1
    );
    let after = table.later(4, datagram(1, 8), &packet(100));
    assert!(matches!(after, Later::Drop(DropReason::TunnelDown)));
}

#[test]
fn datagrams_expire_in_order_and_leave_nothing() {
    let mut table: Fragments<u8> = Fragments::new(FragmentLimits::default());
    for id in 0..10 {
        table.later(id, datagram(1, id), &packet(50));
        table.id_on_wire(id, datagram(1, id), datagram(9, id));
    }
    assert!(table.expired(14_999).is_none());
    let mut count = 0;
    while let Some((_, waiting)) = table.expired(15_009) {
        count += waiting.len();
    }
    assert_eq!(count, 10);
    assert_eq!((table.packets(), table.bytes), (0, 0));
    assert!(table.entries.is_empty() && table.wires.is_empty() && table.sources.is_empty());
}

#[test]
fn bounds_hold_and_one_source_leaves_room() {
    let limits = FragmentLimits {
        datagrams: 40,
        bytes: 10_000,
        ..FragmentLimits::default()
    };
    let mut table: Fragments<u8> = Fragments::new(limits);
    let waits = |later: Later<u8>| usize::from(matches!(later, Later::Wait));
    let greedy: usize = (0..100)
        .map(|id| waits(table.later(0, datagram(1, id), &packet(40))))
        .sum();
    assert_eq!(greedy, 10);
    assert_eq!(waits(table.later(0, datagram(2, 1), &packet(40))), 1);
    let big: usize = (0..9)
        .map(|id| waits(table.later(0, datagram(3, id), &packet(1500))))
        .sum();
    assert_eq!(big, 6, "bytes in all");
    assert!(table.bytes <= 10_000);
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
    table.follow(0, datagram(1, 1), 1);
    table.forget_ways();
    assert!(matches!(
        table.later(1, datagram(1, 1), &packet(9)),
        Later::Drop(_)
    ));
}
