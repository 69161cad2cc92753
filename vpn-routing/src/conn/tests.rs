//! The connection table: both directions, the cap, expiry, and what stays.

use std::net::IpAddr;

use proptest::prelude::*;
use vpn_core::packet::Message;
use vpn_core::{Generation, Protocol};

use super::*;

fn key(protocol: Protocol, port: u16, remote: u8) -> FlowKey {
    FlowKey::new(
        protocol,
        ([10, 5, 0, 2].into(), port),
        (IpAddr::from([192, 0, 2, remote]), 80),
    )
}

fn conn(tunnel: u16, device: FlowKey, phase: Phase, now: Stamp) -> Conn {
    Conn {
        device,
        wire: device,
        tunnel: TunnelId::new(tunnel),
        marks: Default::default(),
        generation: Generation(1),
        rule: None,
        origin: Origin::Device,
        mapping: None,
        usage: UsageSlot(0),
        socket: Socket::default(),
        phase,
        dns: DnsFlow::No,
        last_seen: now,
        last_outbound: now,
        answered: false,
    }
}

#[test]
fn both_directions_find_the_flow_and_only_through_its_tunnel() {
    let mut table = ConnTable::new(10, Timeouts::default());
    let flow = key(Protocol::TCP, 1000, 1);
    let id = table
        .insert(conn(1, flow, Phase::TcpOpening, 0), 0, &mut Vec::new())
        .expect("room");
    assert_eq!(table.find_outbound(&flow), Some(id));
    assert_eq!(
        table.find_inbound(TunnelId::new(1), &flow.reversed()),
        Some(id)
    );
    assert_eq!(table.find_inbound(TunnelId::new(2), &flow.reversed()), None);
}

/// Identical addresses: the same wire key in two tunnels is two flows.
#[test]
fn equal_wire_keys_of_two_tunnels_are_told_apart() {
    let mut table = ConnTable::new(10, Timeouts::default());
    let (a, b) = (key(Protocol::TCP, 1000, 1), key(Protocol::TCP, 1001, 1));
    let mut second = conn(2, b, Phase::TcpOpening, 0);
    second.wire = a;
    let one = table
        .insert(conn(1, a, Phase::TcpOpening, 0), 0, &mut Vec::new())
        .expect("room");
    let two = table
        .insert(second.clone(), 0, &mut Vec::new())
        .expect("room");
    assert_eq!(
        table.find_inbound(TunnelId::new(1), &a.reversed()),
        Some(one)
    );
    assert_eq!(
        table.find_inbound(TunnelId::new(2), &a.reversed()),
        Some(two)
    );
    let mut third = conn(2, key(Protocol::TCP, 1002, 1), Phase::TcpOpening, 0);
    third.wire = a;
    assert_eq!(
        table.insert(third, 0, &mut Vec::new()),
        Err(InsertError::WireTaken)
    );
    assert_eq!(table.len(), 2);
}

/// N-3, S-16: the reference systems' tables grew past their cap.
#[test]
fn the_cap_is_never_exceeded_and_live_connections_stay() {
    let mut table = ConnTable::new(100, Timeouts::default());
    let mut removed = Vec::new();
    for port in 0..100 {
        let phase = if port < 99 {
            Phase::TcpEstablished
        } else {
            Phase::TcpOpening
        };
        let flow = key(Protocol::TCP, port, 1);
        table
            .insert(conn(1, flow, phase, 0), 0, &mut removed)
            .expect("room");
    }
    let mut refused = 0;
    for port in 100..300 {
        let now = 2_000;
        let flow = key(Protocol::TCP, port, 1);
        refused += usize::from(
            table
                .insert(conn(1, flow, Phase::TcpEstablished, now), now, &mut removed)
                .is_err(),
        );
        assert!(table.len() <= 100);
    }
    assert_eq!(removed.len(), 1, "only the half-open one went");
    assert_eq!(refused, 199);
    assert!(table.find_outbound(&key(Protocol::TCP, 0, 1)).is_some());
}

#[test]
fn the_sweep_removes_what_expired_by_phase() {
    let timeouts = Timeouts::default();
    let mut table = ConnTable::new(100, timeouts);
    let mut removed = Vec::new();
    table
        .insert(
            conn(1, key(Protocol::UDP, 1, 1), Phase::Udp, 0),
            0,
            &mut removed,
        )
        .expect("room");
    table
        .insert(
            conn(1, key(Protocol::TCP, 1, 1), Phase::TcpEstablished, 0),
            0,
            &mut removed,
        )
        .expect("room");
    let now = timeouts.of(Phase::Udp);
    table.sweep(now - 1, 10, &mut removed, |_, _| ());
    assert_eq!(table.len(), 2);
    table.sweep(now, 10, &mut removed, |_, _| ());
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].device.protocol(), Protocol::UDP);
    assert!(table.find_outbound(&key(Protocol::TCP, 1, 1)).is_some());
}

#[test]
fn tcp_phases_follow_the_flags() {
    use vpn_core::packet::tcp_flags::{ACK, FIN, RST, SYN};
    let opening = Phase::first(Message::Tcp(SYN));
    assert_eq!(opening, Phase::TcpOpening);
    assert_eq!(opening.after(Message::Tcp(SYN), false), Phase::TcpOpening);
    let live = opening.after(Message::Tcp(SYN | ACK), true);
    assert_eq!(live, Phase::TcpEstablished);
    let closing = live.after(Message::Tcp(FIN | ACK), false);
    assert_eq!(closing, Phase::TcpClosingHere);
    let fin = Message::Tcp(FIN | ACK);
    assert_eq!(closing.after(fin, false), closing, "repeated");
    assert_eq!(
        closing.after(Message::Tcp(ACK), true),
        closing,
        "half-closed"
    );
    let last = closing.after(fin, true);
    assert_eq!(last, Phase::TcpLastAck);
    let finished = last.after(Message::Tcp(ACK), false);
    assert_eq!(finished, Phase::TcpFinished);
    assert_eq!(finished.after(fin, true), finished, "repeated");
    assert!(finished.makes_room() && !last.makes_room());
    let there = live.after(fin, true);
    assert_eq!(there, Phase::TcpClosingThere);
    assert_eq!(there.after(fin, false), Phase::TcpLastAck);
    assert_eq!(closing.after(Message::Tcp(RST), true), Phase::TcpClosed);
    assert_eq!(
        Phase::first(Message::Tcp(ACK)),
        Phase::TcpOpening,
        "nobody answered yet: may be evicted"
    );
    assert_eq!(Phase::first(Message::Tcp(RST | ACK)), Phase::TcpClosed);
    // Only what was answered is alive, and keeps its tunnel.
    assert_eq!(Phase::first(Message::Tcp(FIN | ACK)), Phase::TcpOpening);
    assert_eq!(
        opening.after(Message::Tcp(FIN | ACK), false),
        Phase::TcpOpening
    );
}

proptest! {
    /// Any order of inserts, removals and sweeps leaves both indices in step with the slab.
    #[test]
    fn the_indices_agree_with_the_slab(
        steps in prop::collection::vec((0u8..4, 0u16..20, 0u8..3, 0u32..400_000), 1..200)
    ) {
        let mut table = ConnTable::new(16, Timeouts::default());
        let mut removed = Vec::new();
        for (what, port, tunnel, now) in steps {
            let flow = key(Protocol::UDP, port, tunnel);
            match what {
                0 | 1 => {
                    let entry = conn(u16::from(tunnel), flow, Phase::Udp, now);
                    if let Ok(id) = table.insert(entry, now, &mut removed) {
                        prop_assert_eq!(table.find_outbound(&flow), Some(id));
                    }
                }
                2 => if let Some(id) = table.find_outbound(&flow) {
                    removed.extend(table.remove(id));
                    prop_assert!(table.find_outbound(&flow).is_none());
                },
                _ => table.sweep(now, 8, &mut removed, |_, _| ()),
            }
            prop_assert!(table.len() <= 16);
            prop_assert_eq!(table.iter().count(), table.len());
            prop_assert_eq!(table.by_wire.len(), table.len());
            for c in table.iter() {
                prop_assert!(table.find_outbound(&c.device).is_some());
                prop_assert!(table.find_inbound(c.tunnel, &c.wire.reversed()).is_some());
            }
        }
    }
}

/// N-3: a million flows enter, are found, give way to newer ones at the cap, and expire; none is
/// examined more than a bounded number of times, so this ends in seconds.
#[test]
#[ignore = "takes a second and 400 MB in a release build, ten in a debug build"]
fn a_million_flows() {
    const FLOWS: u32 = 1_000_000;
    let mut table = ConnTable::new(FLOWS as usize, Timeouts::default());
    let mut removed = Vec::new();
    let flow = |i: u32| key(Protocol::UDP, i as u16, (i >> 16) as u8);
    for i in 0..FLOWS {
        table
            .insert(conn(1, flow(i), Phase::Udp, 0), 0, &mut removed)
            .expect("room");
    }
    assert_eq!((table.len(), removed.len()), (FLOWS as usize, 0));
    assert!((0..FLOWS).all(|i| table.find_outbound(&flow(i)).is_some()));
    let now = 2_000;
    for i in FLOWS..FLOWS + 1_000 {
        table
            .insert(conn(1, flow(i), Phase::Udp, now), now, &mut removed)
            .expect("silent ones give way");
    }
    assert_eq!((table.len(), removed.len()), (FLOWS as usize, 1_000));
    removed.clear();
    let slots = table.slots();
    table.sweep(
        now + Timeouts::default().of(Phase::Udp),
        slots,
        &mut removed,
        |_, _| (),
    );
    assert_eq!((table.len(), removed.len()), (0, FLOWS as usize));
}
