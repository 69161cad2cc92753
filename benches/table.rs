//! G5: the connection table at a million flows: bytes for each, the first insert beside the
//! millionth, a look-up that no cache helps, and what expiry costs.
//!
//! `VPN_BENCH_LARGE=1` is a million flows; without it they are 64 k.
#![allow(missing_docs, reason = "criterion's macros")]
#![allow(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use allocation_counter::measure;
use criterion::{Criterion, criterion_group, criterion_main};
use vpn_benches::world::shuffled;
use vpn_benches::{heading, is_smoke_test};
use vpn_core::packet::TcpMarks;
use vpn_core::{Family, FlowKey, Generation, Protocol, TunnelId};
use vpn_routing::conn::{
    Conn, ConnTable, DnsFlow, Origin, Phase, Socket, Stamp, Timeouts, UsageSlot,
};

/// Inserts at the beginning and at the end that are compared.
const COMPARED: u32 = 10_000;

fn key(family: Family, flow: u32) -> FlowKey {
    let ports = (1024 + (flow % 60_000) as u16, 443);
    let far = flow / 60_000;
    let (src, dst): (IpAddr, IpAddr) = match family {
        Family::V4 => (
            Ipv4Addr::new(10, 5, 0, 2).into(),
            Ipv4Addr::from_bits(0xc612_0000 + far).into(),
        ),
        Family::V6 => (
            Ipv6Addr::from_bits(0xfd00 << 112 | 2).into(),
            Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(far)).into(),
        ),
    };
    FlowKey::new(Protocol::TCP, (src, ports.0), (dst, ports.1))
}

fn conn(family: Family, flow: u32, now: Stamp) -> Conn {
    let device = key(family, flow);
    let source: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(10, 5, 0, 3).into(),
        Family::V6 => Ipv6Addr::from_bits(0xfd00 << 112 | 3).into(),
    };
    Conn {
        device,
        wire: device.with_source(source, device.src_port()),
        tunnel: TunnelId::new(0),
        generation: Generation(1),
        phase: Phase::TcpEstablished,
        last_seen: now,
        last_outbound: now,
        answered: true,
        dns: DnsFlow::No,
        origin: Origin::Device,
        marks: TcpMarks::default(),
        rule: None,
        socket: Socket::default(),
        usage: UsageSlot(0),
        mapping: None,
    }
}

fn flows() -> u32 {
    match (is_smoke_test(), std::env::var_os("VPN_BENCH_LARGE")) {
        (true, _) => 4 * COMPARED,
        (_, Some(_)) => 1_000_000,
        _ => 1 << 16,
    }
}

fn insert(table: &mut ConnTable, family: Family, flows: std::ops::Range<u32>) -> Duration {
    let mut removed = Vec::new();
    let started = Instant::now();
    for flow in flows {
        let entered = table.insert(conn(family, flow, 0), 0, &mut removed);
        assert!(entered.is_ok());
    }
    started.elapsed()
}

fn each(what: &str, took: Duration, count: u32) -> f64 {
    let nanos = took.as_secs_f64() * 1e9 / f64::from(count);
    println!("{what:<44} {nanos:>9.2} ns");
    nanos
}

fn report(family: Family) {
    let (count, bound) = (flows(), if family == Family::V4 { 96 } else { 160 });
    heading(&format!(
        "{count} flows of {family} (goal: <= {bound} B each)"
    ));
    let mut made = None;
    let bytes = measure(|| {
        let mut table = ConnTable::new(count as usize, Timeouts::default());
        let first = insert(&mut table, family, 0..COMPARED);
        insert(&mut table, family, COMPARED..count - COMPARED);
        let last = insert(&mut table, family, count - COMPARED..count);
        made = Some((table, first, last));
    });
    let Some((mut table, first, last)) = made else {
        return;
    };
    println!(
        "{:<44} {:>9.2} B, {:.2} at most",
        "memory of a flow, index included",
        bytes.bytes_current as f64 / f64::from(count),
        bytes.bytes_max as f64 / f64::from(count)
    );
    let before = each("insert, the first ten thousand", first, COMPARED);
    let after = each("insert, the last ten thousand", last, COMPARED);
    println!("{:<44} {:>9.2} x (goal: <= 3)", "", after / before);

    let order: Vec<FlowKey> = shuffled(count).map(|flow| key(family, flow)).collect();
    let started = Instant::now();
    for flow in &order {
        assert!(black_box(table.find_outbound(flow)).is_some());
    }
    each(
        "find, one after the other, in any order",
        started.elapsed(),
        count,
    );

    // One round over the table, none of which has expired, is spread over 16 seconds.
    let mut removed = Vec::new();
    let slots = table.slots();
    let started = Instant::now();
    table.sweep(1, slots, &mut removed, |tunnel, dst| {
        black_box((tunnel, dst));
    });
    let round = each("sweep, an entry that lives", started.elapsed(), count) * f64::from(count);
    println!(
        "{:<44} {:>9.3} ns (goal: <= 1)",
        "expiry, for each of a million packets a second",
        round / 16.0 / 1e6
    );
    let started = Instant::now();
    table.sweep(Stamp::MAX / 2, slots, &mut removed, |_, _| ());
    each("sweep, an entry that goes", started.elapsed(), count);
    assert_eq!(removed.len(), count as usize);
}

fn table(criterion: &mut Criterion) {
    let mut table = ConnTable::new(4096, Timeouts::default());
    insert(&mut table, Family::V4, 0..4000);
    let order: Vec<FlowKey> = shuffled(4000).map(|flow| key(Family::V4, flow)).collect();
    let mut next = 0;
    criterion.bench_function("table/find of 4,000", |b| {
        b.iter(|| {
            next = (next + 1) % order.len();
            table.find_outbound(&order[next])
        });
    });
    report(Family::V4);
    report(Family::V6);
}

criterion_group!(benches, table);
criterion_main!(benches);
