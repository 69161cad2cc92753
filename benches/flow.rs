//! G2: a packet of an established flow through the router, parsed, found and translated, beside
//! smoltcp's wire types with the standard library's map.
//!
//! `VPN_BENCH_LARGE=1` adds a million flows (about 1 GB).
#![allow(missing_docs, reason = "criterion's macros")]
#![allow(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, TcpPacket};
use vpn_benches::world::{ASSIGNED, Established, app, data, remote, shuffled};
use vpn_benches::{heading, is_smoke_test, side_by_side};
use vpn_core::PacketBatch;

/// The same work as a user of smoltcp's wire types and a standard map would write it.
struct Smoltcp {
    flows: HashMap<(Ipv4Addr, Ipv4Addr, u16, u16), (Ipv4Addr, u16)>,
    packets: Vec<Vec<u8>>,
    batch: Vec<Vec<u8>>,
    next: usize,
}

impl Smoltcp {
    fn new(flows: u32) -> Self {
        let v4 = |(addr, port): (std::net::IpAddr, u16)| match addr {
            std::net::IpAddr::V4(a) => (a, port),
            std::net::IpAddr::V6(_) => (Ipv4Addr::UNSPECIFIED, port),
        };
        let entry = |flow| {
            let ((src, from), (dst, to)) = (v4(app(flow)), v4(remote(flow)));
            ((src, dst, from, to), (ASSIGNED, from))
        };
        Self {
            flows: (0..flows).map(entry).collect(),
            packets: shuffled(flows).map(data).collect(),
            batch: vec![vec![0; 256]; PacketBatch::DEFAULT_CAPACITY],
            next: 0,
        }
    }

    fn translate(&self, bytes: &mut [u8]) -> Option<()> {
        let mut ip = Ipv4Packet::new_checked(bytes).ok()?;
        if ip.next_header() != IpProtocol::Tcp {
            return None;
        }
        let (src, dst) = (ip.src_addr(), ip.dst_addr());
        let tcp = TcpPacket::new_checked(ip.payload_mut()).ok()?;
        let (addr, port) = *self
            .flows
            .get(&(src, dst, tcp.src_port(), tcp.dst_port()))?;
        let mut tcp = tcp;
        tcp.set_src_port(port);
        tcp.fill_checksum(&IpAddress::Ipv4(addr), &IpAddress::Ipv4(dst));
        ip.set_src_addr(addr);
        ip.fill_checksum();
        Some(())
    }

    fn route(&mut self, n: u64) -> Duration {
        let (mut left, mut spent) = (n, Duration::ZERO);
        let mut batch = std::mem::take(&mut self.batch);
        while left > 0 {
            let count = left.min(batch.len() as u64);
            for buffer in &mut batch[..count as usize] {
                buffer.clear();
                buffer.extend_from_slice(&self.packets[self.next]);
                self.next = (self.next + 1) % self.packets.len();
            }
            let started = Instant::now();
            for buffer in &mut batch[..count as usize] {
                assert!(self.translate(buffer).is_some());
            }
            spent += started.elapsed();
            left -= count;
        }
        self.batch = batch;
        spent
    }
}

fn sizes() -> Vec<u32> {
    let mut sizes = vec![1_000, 4_000];
    if std::env::var_os("VPN_BENCH_LARGE").is_some() {
        sizes.push(1_000_000);
    }
    sizes
}

fn established(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("established flow, NAT");
    group.throughput(Throughput::Elements(1));
    for flows in sizes() {
        let mut world = Established::new(flows);
        let mut smoltcp = Smoltcp::new(flows);
        group.bench_with_input(BenchmarkId::new("router", flows), &flows, |b, _| {
            b.iter_custom(|n| world.route(n));
        });
        group.bench_with_input(
            BenchmarkId::new("smoltcp + HashMap", flows),
            &flows,
            |b, _| {
                b.iter_custom(|n| smoltcp.route(n));
            },
        );
    }
    group.finish();
    for flows in sizes() {
        report(flows);
    }
}

fn report(flows: u32) {
    let mut world = Established::new(flows);
    let mut smoltcp = Smoltcp::new(flows);
    let goal = if flows > 4_000 { 40 } else { 15 };
    side_by_side(
        &format!("established flow, NAT, {flows} flows (goal: <= {goal} ns, smoltcp >= 2 x)"),
        &mut [
            ("router", &mut |n| world.route(n)),
            ("smoltcp wire + std HashMap", &mut |n| smoltcp.route(n)),
        ],
    );
    heading(&format!("allocations per packet, {flows} flows (goal: 0)"));
    let packets = if is_smoke_test() { 640 } else { 64_000 };
    for (what, answered) in [("answered flows", true), ("one-way flows", false)] {
        world.set_answered(answered);
        world.route(packets);
        let info = allocation_counter::measure(|| {
            world.route(packets);
        });
        println!(
            "{what:<44} {:>9.3}",
            info.count_total as f64 / packets as f64
        );
    }
    assert_eq!(world.dropped(), 0, "every packet was forwarded");
}

criterion_group!(benches, established);
criterion_main!(benches);
