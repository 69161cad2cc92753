//! A chaos run: the router behind a network that loses, doubles, damages, delays and reorders
//! packets, and is cut for a second. On virtual time, from a seed: the same seed breaks the same
//! things. Whatever happens, no app gets another one's packet, and every packet is accounted for.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::time::Duration;

use vpn_core::testing::{Faults, Faulty, VirtualClock, build, memory_transport, verify_checksums};
use vpn_core::{Assigned, DropCounters, Packet, PacketBatch, RuleSnapshot, TunnelTransport};
use vpn_routing::router::{Egress, Router, RouterConfig, Update};
use vpn_routing::rules::{CompiledRules, RuleCache, Target};

const APPS: u16 = 3;
const APP: [u8; 4] = [10, 5, 0, 2];
const FIRST_PORT: u16 = 4000;
const TICK: Duration = Duration::from_millis(1);
const TICKS: u32 = 5000;
/// While the network is cut.
const CUT: std::ops::Range<u32> = 2000..3000;
/// Where UDP's payload begins in an IPv4 packet without options.
const PAYLOAD: usize = 28;

const BAD: Faults = Faults {
    loss: 0.1,
    duplicate: 0.05,
    corrupt: 0.02,
    reorder: 0.1,
    delay: Duration::from_millis(20),
    jitter: Duration::from_millis(30),
    partition: false,
};

/// What came of a run.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    asked: u32,
    answered: u32,
    lost_on_the_way: u64,
    dropped: DropCounters,
}

/// A packet's sender, by what it says; `None` if it was damaged on the way.
fn whole(packet: &[u8]) -> Option<u16> {
    verify_checksums(packet).ok()?;
    let payload = packet.get(PAYLOAD..PAYLOAD + 2)?;
    Some(u16::from_be_bytes([payload[0], payload[1]]))
}

fn run(seed: u64) -> Result<Outcome, Box<dyn Error>> {
    let clock = VirtualClock::new();
    let (transport, far) = memory_transport(1024, 1420);
    let tunnel = Faulty::new(transport, clock.clone(), seed, BAD);
    let mut router = Router::new(RouterConfig::default(), clock.now());
    let id = router.add_tunnel("provider").ok_or("no tunnel")?;
    let cache = RuleCache::new();
    let none = RuleSnapshot::default();
    cache.swap(CompiledRules::compile(
        &none,
        &|_: &str| None,
        Target::Tunnel(id),
    )?);
    router.handle_update(clock.now(), Update::Rules(cache.current()));
    let assigned = Assigned {
        addresses: vec!["10.9.0.7/32".parse()?],
        mtu: 1420,
        ..Assigned::default()
    };
    far.up(assigned);
    router.handle_update(clock.now(), Update::Tunnel(id, tunnel.state().get()));

    let mut batch = PacketBatch::new(64, 1500);
    let (mut asked, mut answered) = (0, 0);
    for tick in 0..TICKS {
        let partition = CUT.contains(&tick);
        tunnel.set_faults(Faults { partition, ..BAD });
        let now = clock.now();
        for port in FIRST_PORT..FIRST_PORT + APPS {
            let question = build::udp((APP.into(), port), "203.0.113.10:7", &port.to_be_bytes());
            batch
                .push(Packet::from_slice(&question))
                .map_err(|_| "full")?;
            asked += 1;
        }
        router.handle_device(now, &mut batch);
        router.transmit(Egress::Tunnel(id), |batch, drops| {
            tunnel.try_send(batch, drops)
        })?;
        // The server answers what arrives whole.
        while let Some(packet) = far.take() {
            if let Some(port) = whole(packet.bytes()) {
                let flow = packet.parse()?.flow;
                let to = (flow.src(), flow.src_port());
                let answer = build::udp((flow.dst(), flow.dst_port()), to, &port.to_be_bytes());
                far.inject(&answer)?;
            }
        }
        let mut drops = DropCounters::default();
        tunnel.try_recv(&mut batch, &mut drops)?;
        router.count_receive_drops(Egress::Tunnel(id), &drops);
        router.handle_tunnel(now, id, &mut batch);
        router.transmit::<std::convert::Infallible>(Egress::Device, |batch, _| {
            let count = batch.len();
            for packet in batch.packets() {
                if let Some(port) = whole(packet.bytes()) {
                    let to = packet.parse().map(|parsed| parsed.flow.dst_port());
                    assert_eq!(to, Ok(port), "another app's packet");
                    answered += 1;
                }
            }
            batch.clear();
            Ok(count)
        })?;
        clock.advance(TICK);
        if clock.now() >= router.next_timeout() {
            router.handle_timeout(clock.now());
        }
    }
    let accounts = router.accounts();
    assert!(accounts.balance(), "{accounts:?}");
    Ok(Outcome {
        asked,
        answered,
        lost_on_the_way: tunnel.lost(),
        dropped: accounts.drops,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let outcome = run(1)?;
    println!("seed 1: {outcome:?}");
    assert_eq!(outcome, run(1)?, "a seed is one run, to the packet");
    assert_ne!(outcome, run(2)?);
    assert!(outcome.answered > outcome.asked / 2);
    Ok(())
}
