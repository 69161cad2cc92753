//! G2: parse, flow key and hash of one packet, beside etherparse's lax slicing to the same key.
#![allow(missing_docs, reason = "criterion's macros")]

use std::hash::BuildHasher;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use foldhash::quality::RandomState;
use vpn_benches::{side_by_side, timed};
use vpn_core::testing::build;
use vpn_core::{FlowKey, Parsed, Protocol};

fn ours(bytes: &[u8]) -> Option<FlowKey> {
    Parsed::from_bytes(bytes).ok().map(|parsed| parsed.flow)
}

fn etherparse(bytes: &[u8]) -> Option<FlowKey> {
    let sliced = LaxSlicedPacket::from_ip(bytes).ok()?;
    let (src, dst): (IpAddr, IpAddr) = match sliced.net? {
        LaxNetSlice::Ipv4(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        LaxNetSlice::Ipv6(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        LaxNetSlice::Arp(_) => return None,
    };
    let (protocol, from, to) = match sliced.transport? {
        TransportSlice::Tcp(tcp) => (Protocol::TCP, tcp.source_port(), tcp.destination_port()),
        TransportSlice::Udp(udp) => (Protocol::UDP, udp.source_port(), udp.destination_port()),
        _ => return None,
    };
    Some(FlowKey::new(protocol, (src, from), (dst, to)))
}

fn packets() -> [(&'static str, Vec<u8>); 4] {
    let (a4, b4, a6, b6) = (
        "10.5.0.2:40000",
        "203.0.113.10:443",
        "[fd00::2]:40000",
        "[2001:db8::10]:443",
    );
    [
        ("IPv4 TCP", build::tcp(a4, b4, 0x10, 1, &[0; 64])),
        ("IPv4 UDP", build::udp(a4, b4, &[0; 64])),
        ("IPv6 TCP", build::tcp(a6, b6, 0x10, 1, &[0; 64])),
        ("IPv6 UDP", build::udp(a6, b6, &[0; 64])),
    ]
}

/// Runs `key` and hashes what it finds, `n` times.
fn run(
    n: u64,
    bytes: &[u8],
    state: &RandomState,
    key: impl Fn(&[u8]) -> Option<FlowKey>,
) -> Duration {
    timed(n, || key(black_box(bytes)).map(|key| state.hash_one(key)))
}

fn parse(criterion: &mut Criterion) {
    let state = RandomState::default();
    let mut group = criterion.benchmark_group("parse + key + hash");
    for (name, bytes) in packets() {
        assert!(
            ours(&bytes).is_some() && ours(&bytes) == etherparse(&bytes),
            "same result"
        );
        group.bench_function(format!("{name}/ours"), |b| {
            b.iter_custom(|n| run(n, &bytes, &state, ours));
        });
        group.bench_function(format!("{name}/etherparse"), |b| {
            b.iter_custom(|n| run(n, &bytes, &state, etherparse));
        });
    }
    group.finish();
    for (name, bytes) in packets() {
        side_by_side(
            &format!("parse + key + hash, {name} (goal: etherparse >= 3 x)"),
            &mut [
                ("ours", &mut |n| run(n, &bytes, &state, ours)),
                ("etherparse, lax slicing", &mut |n| {
                    run(n, &bytes, &state, etherparse)
                }),
                ("ours, without the hash", &mut |n| {
                    timed(n, || ours(black_box(&bytes)))
                }),
            ],
        );
    }
}

criterion_group!(benches, parse);
criterion_main!(benches);
