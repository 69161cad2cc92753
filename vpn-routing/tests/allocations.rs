//! In steady state the router allocates nothing per packet.
#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use vpn_core::packet::{Packet, PacketBatch, tcp_flags};
use vpn_core::rule::RuleProtocol;
use vpn_core::testing::build;
use vpn_core::{
    Action, Assigned, DropReason, InboundRule, PortRange, Rule, RuleId, RuleMatch, RuleSnapshot,
    TransportState,
};
use vpn_routing::router::{Egress, Router, RouterConfig, Update};
use vpn_routing::rules::{CompiledRules, RuleCache, Target};

const FLOWS: u16 = 1000;

fn router(now: Instant) -> Router {
    let mut router = Router::new(RouterConfig::default(), now);
    for (name, address) in [("uk", "10.5.0.2/32"), ("fr", "10.5.0.3/32")] {
        let id = router.add_tunnel(name).expect("few tunnels");
        let assigned = Assigned {
            addresses: vec![address.parse().expect("valid")],
            dns: Vec::new(),
            mtu: 1420,
            ..Assigned::default()
        };
        router.handle_update(
            now,
            Update::Tunnel(id, TransportState::Up(Arc::new(assigned))),
        );
    }
    let everything = Rule::new(
        RuleId(1),
        RuleMatch::default(),
        Action::Tunnel("fr".to_owned()),
    );
    let served = InboundRule {
        id: RuleId(2),
        tunnel: "fr".to_owned(),
        protocol: RuleProtocol::Tcp,
        ports: Some(PortRange::single(8080)),
        to_port: Some(80),
        remote: None,
        behind: None,
    };
    let fr = router.tunnel_named("fr");
    let rules = CompiledRules::compile(
        &RuleSnapshot {
            inbound: vec![served],
            ..RuleSnapshot::from(vec![everything])
        },
        &|name: &str| fr.filter(|_| name == "fr"),
        Target::Block(DropReason::BlockedByDefault),
    );
    let cache = RuleCache::new();
    cache.swap(rules.expect("one rule"));
    router.handle_update(now, Update::Rules(cache.current()));
    while router.next_event().is_some() {}
    router
}

/// One packet of every flow out, and one back.
fn round(router: &mut Router, now: Instant, batch: &mut PacketBatch, packets: &[(Vec<u8>, bool)]) {
    let fr = router.tunnel_named("fr").expect("added");
    for chunk in packets.chunks(batch.capacity()) {
        for outbound in [true, false] {
            for (bytes, _) in chunk.iter().filter(|(_, out)| *out == outbound) {
                batch.push_with(|buf| {
                    buf.extend_from_slice(bytes);
                    Some(vpn_core::Offload::NONE)
                });
            }
            if outbound {
                router.handle_device(now, batch);
            } else {
                router.handle_tunnel(now, fr, batch);
            }
            for target in [Egress::Device, Egress::Tunnel(fr)] {
                let sent = router.transmit::<()>(target, |queue, _| {
                    let sent = queue.len();
                    queue.clear();
                    Ok(sent)
                });
                assert_eq!(sent, Ok(0));
            }
        }
    }
}

#[test]
fn nothing_is_allocated_per_packet_in_steady_state() {
    let start = Instant::now();
    let mut router = router(start);
    let mut batch = PacketBatch::new(64, RouterConfig::default().largest_packet);
    let packets: Vec<(Vec<u8>, bool)> = (0..FLOWS)
        .flat_map(|i| {
            let (app, mapped) = (
                format!("10.5.0.2:{}", 1000 + i),
                format!("10.5.0.3:{}", 1000 + i),
            );
            [
                (build::udp(app.as_str(), "203.0.113.10:7", b"there"), true),
                (
                    build::udp("203.0.113.10:7", mapped.as_str(), b"back"),
                    false,
                ),
            ]
        })
        .collect();
    // The first rounds enter flows and fill the pools.
    for _ in 0..3 {
        round(&mut router, start, &mut batch, &packets);
    }
    let info = allocation_counter::measure(|| {
        for i in 1..=10 {
            let now = start + Duration::from_millis(i * 2);
            round(&mut router, now, &mut batch, &packets);
            router.handle_timeout(now);
        }
    });
    let accounts = router.accounts();
    assert!(accounts.balance(), "{accounts:?}");
    assert_eq!(accounts.drops.total(), 0, "{accounts:?}");
    assert_eq!(accounts.out_device, 13 * u64::from(FLOWS));
    assert_eq!(
        info.count_total,
        0,
        "{info:?} for {} packets",
        20 * u32::from(FLOWS)
    );
    // The counter itself counts.
    let one = allocation_counter::measure(|| drop(Packet::from_slice(&packets[0].0)));
    assert!(one.count_total > 0);
}

/// Uploads without answers: their buffers come back from the queue, not with packets.
#[test]
fn one_way_flows_allocate_nothing_either() {
    let start = Instant::now();
    let mut router = router(start);
    let mut batch = PacketBatch::new(64, RouterConfig::default().largest_packet);
    let one_way: Vec<(Vec<u8>, bool)> = (0..FLOWS)
        .map(|i| {
            let app = format!("10.5.0.2:{}", 1000 + i);
            let packet = build::udp(app.as_str(), "203.0.113.10:7", b"there");
            (packet, true)
        })
        .collect();
    for _ in 0..3 {
        round(&mut router, start, &mut batch, &one_way);
    }
    let info = allocation_counter::measure(|| {
        for i in 1..=10 {
            let now = start + Duration::from_millis(i * 2);
            round(&mut router, now, &mut batch, &one_way);
        }
    });
    assert_eq!(router.accounts().drops.total(), 0);
    assert_eq!(info.count_total, 0, "{info:?}");
}

/// Whoever is behind a tunnel chooses how many flows they begin.
#[test]
fn a_flow_that_is_let_in_allocates_nothing() {
    let start = Instant::now();
    let mut router = router(start);
    let mut batch = PacketBatch::new(64, RouterConfig::default().largest_packet);
    let opening: Vec<(Vec<u8>, bool)> = (0..FLOWS)
        .map(|i| {
            let client = format!("203.0.113.10:{}", 1000 + i);
            let syn = build::tcp(client.as_str(), "10.5.0.3:8080", tcp_flags::SYN, 1, b"");
            (syn, false)
        })
        .collect();
    // The first round gives the tables their size; its flows expire.
    round(&mut router, start, &mut batch, &opening);
    let mut now = start;
    while router.status().flows != 0 {
        now += Duration::from_secs(1);
        router.handle_timeout(now);
    }
    let info = allocation_counter::measure(|| round(&mut router, now, &mut batch, &opening));
    assert_eq!(router.accounts().drops.total(), 0);
    assert_eq!(router.accounts().out_device, 2 * u64::from(FLOWS));
    assert_eq!(router.status().flows, usize::from(FLOWS));
    // The rule's own list begins anew, and grows a few times.
    assert!(info.count_total < 16, "{info:?}");
}
