//! A million flows, ten thousand rules, a hundred tunnels: what they cost in memory.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test says what it measured"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use allocation_counter::measure;
use vpn_core::packet::{Packet, PacketBatch};
use vpn_core::testing::build;
use vpn_core::{
    Action, Assigned, DropReason, Owner, OwnerAnswer, OwnerMatch, Rule, RuleId, RuleMatch,
    RuleSnapshot, TransportState, TunnelId,
};
use vpn_routing::router::{Egress, Event, MemoryBudget, Router, RouterConfig, Update};
use vpn_routing::rules::{CompiledRules, RuleCache, Target};

const FLOWS: u32 = 1_000_000;
const RULES: u32 = 10_000;
const TUNNELS: u32 = 100;

/// What each may cost, in bytes: a change that makes them dearer is noticed here.
/// A flow: its entry, its places in both indices, and its part of what several flows share (an
/// owner, an account, the mapping of a socket).
const PER_FLOW: i64 = 96;
const PER_RULE: i64 = 24;
const PER_TUNNEL: i64 = 16 << 10;

/// The user of a flow, and where its packets go.
const fn user(flow: u32) -> u32 {
    flow % RULES
}

fn packet(flow: u32) -> Packet {
    let port = 1024 + (flow % 60_000) as u16;
    let remote = Ipv4Addr::from_bits(0xc612_0000 + flow / 60_000);
    let here = IpAddr::from([10, 5, 0, 2]);
    Packet::from_slice(&build::udp((here, port), (remote.into(), 443), b"x"))
}

/// The flow of a packet from that port to that address.
fn flow_of(port: u16, remote: IpAddr) -> u32 {
    let IpAddr::V4(remote) = remote else { return 0 };
    (remote.to_bits() - 0xc612_0000) * 60_000 + u32::from(port - 1024)
}

fn router(now: Instant, tunnels: u32, config: RouterConfig) -> Router {
    let mut router = Router::new(config, now);
    for tunnel in 0..tunnels {
        let id = router.add_tunnel(&tunnel.to_string()).expect("few");
        let assigned = Assigned {
            // As providers do: the same for everybody.
            addresses: vec!["10.5.0.2/32".parse().expect("valid")],
            dns: vec![IpAddr::from([10, 64, 0, 1])],
            mtu: 1420,
            ..Assigned::default()
        };
        let up = TransportState::Up(Arc::new(assigned));
        router.handle_update(now, Update::Tunnel(id, up));
    }
    while router.next_event().is_some() {}
    router
}

/// A rule for each user.
fn rules(cache: &RuleCache, tunnels: u32) {
    let rules = (0..RULES).map(|user| {
        let matches = RuleMatch {
            owner: Some(OwnerMatch::Uid(user)),
            ..RuleMatch::default()
        };
        let tunnel = (user % tunnels).to_string();
        Rule::new(RuleId(user.into()), matches, Action::Tunnel(tunnel))
    });
    let names = |name: &str| name.parse().ok().map(TunnelId::new);
    let compiled = CompiledRules::compile(
        &RuleSnapshot::from(rules.collect::<Vec<_>>()),
        &names,
        Target::Block(DropReason::BlockedByDefault),
    );
    cache.swap(compiled.expect("not too many"));
}

/// Owners are found at once, and every tunnel takes what there is.
fn settle(router: &mut Router, now: Instant, ready: &mut Vec<Egress>) {
    while let Some(event) = router.next_event() {
        if let Event::ResolveOwner(query) = event {
            let flow = flow_of(query.flow.src_port(), query.flow.dst());
            let owner = OwnerAnswer::Known(Owner::user(user(flow)));
            router.handle_update(now, Update::Owner(query, owner));
        }
    }
    ready.clear();
    ready.extend(router.ready());
    for &target in ready.iter() {
        let left = router.transmit::<()>(target, |queue, _| {
            let sent = queue.len();
            queue.clear();
            Ok(sent)
        });
        assert_eq!(left, Ok(0));
    }
}

fn flows(router: &mut Router, now: Instant, count: u32) {
    let mut batch = PacketBatch::new(64, 1600);
    let mut ready = Vec::new();
    for flow in 0..count {
        batch.push(packet(flow)).expect("room");
        if batch.is_full() || flow + 1 == count {
            router.handle_device(now, &mut batch);
            settle(router, now, &mut ready);
        }
    }
}

#[test]
#[ignore = "a million flows take a while without optimisation: .ci/run has a stage for it"]
fn a_million_flows_of_ten_thousand_rules_in_a_hundred_tunnels() {
    let now = Instant::now();
    let config = RouterConfig {
        max_flows: FLOWS as usize,
        max_flows_per_owner: FLOWS as usize,
        ..RouterConfig::default()
    };
    // The indices have room for all flows from the start.
    let bare = measure(|| std::mem::forget(router(now, 0, config.clone())));
    let mut made = None;
    let tunnels = measure(|| made = Some(router(now, TUNNELS, config.clone())));
    let mut router = made.expect("measured");
    let cache = RuleCache::new();
    let ruled = measure(|| rules(&cache, TUNNELS));
    router.handle_update(now, Update::Rules(cache.current()));
    let entered = measure(|| flows(&mut router, now, FLOWS));
    let took = now.elapsed();
    let accounts = router.accounts();
    assert!(accounts.balance(), "{accounts:?}");
    assert_eq!(accounts.drops.total(), 0, "{accounts:?}");
    assert_eq!(accounts.out_tunnels, u64::from(FLOWS));
    assert_eq!(router.status().flows, FLOWS as usize);
    let each = |name: &str, bytes: i64, count: u32, bound: i64| {
        let each = bytes / i64::from(count);
        println!("{count} {name}: {bytes} bytes, {each} each (bound {bound})");
        assert!(each <= bound, "{each} bytes for each of {name}");
    };
    let of_tunnels = tunnels.bytes_current - bare.bytes_current;
    each("tunnels", of_tunnels, TUNNELS, PER_TUNNEL);
    each("rules", ruled.bytes_current, RULES, PER_RULE);
    let of_flows = entered.bytes_current + bare.bytes_current;
    each("flows", of_flows, FLOWS, PER_FLOW);
    println!(
        "flows at their peak: {} bytes; {took:?} in all",
        entered.bytes_max
    );
}

/// A query for a name of its own, as its id.
fn question(number: u32) -> Vec<u8> {
    let mut query = (number as u16).to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [format!("n{number:0>60}"), "example".to_owned()] {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// What a tunnel took of queries, answered with an address of its own each.
fn answers(queries: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let answer = |bytes: &Vec<u8>| {
        let flow = Packet::from_slice(bytes).parse().expect("a query").flow;
        let mut message = bytes[28..].to_vec();
        message[2] |= 0x80;
        message[7] = 1;
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4]);
        // As its id says: each name has an address of its own.
        message.extend([9, 9, bytes[28], bytes[29]]);
        let (src, dst) = ((flow.dst(), flow.dst_port()), (flow.src(), flow.src_port()));
        build::udp(src, dst, &message)
    };
    queries.iter().map(answer).collect()
}

/// Everything is full at the same time: flows of as many owners, what waits for owners and for
/// tunnels, fragments without their first, all queues, queries that wait, and names.
fn flooded(now: Instant, config: RouterConfig, tunnels: u32, rules: &RuleCache) -> Router {
    let max_flows = config.within_budget().max_flows as u32;
    let mut router = router(now, tunnels, config);
    assert_eq!(
        router.add_tunnel("one more"),
        None,
        "the budget is for fewer"
    );
    router.handle_update(now, Update::Rules(rules.current()));
    let mut batch = PacketBatch::new(64, 1600);
    let mut taken = Vec::new();
    let ports = max_flows / 2;
    for number in 0..30_000u32 {
        // In the end come others, whose owners are never found.
        let known = number < 20_000;
        let here = match known {
            true => (IpAddr::from([10, 5, 0, 2]), (1024 + number % ports) as u16),
            false => (IpAddr::from([10, 5, 0, 3]), number as u16),
        };
        let query = build::udp(here, "10.99.0.1:53", &question(number));
        let long = build::udp(here, "198.18.0.1:443", &[0; 1200]);
        // Of a datagram from one of eight addresses, whose first fragment never comes.
        let lost = IpAddr::from([10, 5, 0, 16 + (number % 8) as u8]);
        let datagram = build::udp((lost, 9), "198.18.0.1:9", &[0; 2000]);
        let later = build::fragments(&datagram, 1400, number / 8).remove(1);
        for bytes in [query, long, later] {
            batch.push(Packet::from_slice(&bytes)).expect("room");
        }
        router.handle_device(now, &mut batch);
        while let Some(event) = router.next_event() {
            if let Event::ResolveOwner(query) = event
                && known
            {
                let owner = Owner {
                    socket: number.into(),
                    ..Owner::user(number % RULES)
                };
                router.handle_update(now, Update::Owner(query, OwnerAnswer::Known(owner)));
            }
        }
        // At first the tunnels answer; then nobody takes anything any more.
        for tunnel in (0..tunnels as u16)
            .map(TunnelId::new)
            .filter(|_| number < 10_000)
        {
            let _ = router.transmit::<()>(Egress::Tunnel(tunnel), |queue, _| {
                let queries = queue.packets().iter().map(|p| p.bytes().to_vec());
                taken = queries.filter(|bytes| bytes[23] == 53).collect();
                let sent = queue.len();
                queue.clear();
                Ok(sent)
            });
            // Every fourth is never answered.
            for bytes in answers(&taken).iter().filter(|_| number % 4 != 0) {
                let _ = batch.push(Packet::from_slice(bytes));
            }
            router.handle_tunnel(now, tunnel, &mut batch);
        }
    }
    router
}

#[test]
fn all_tables_full_at_once_stay_within_the_budget() {
    let now = Instant::now();
    for (bytes, tunnels) in [(4usize << 20, 4u32), (24 << 20, 20)] {
        let config = RouterConfig {
            memory_budget: Some(MemoryBudget {
                bytes,
                tunnels: tunnels as usize,
            }),
            max_flows_per_owner: usize::MAX,
            resolvers: vec![IpAddr::from([10, 99, 0, 1])],
            ..RouterConfig::default()
        };
        let within = config.within_budget();
        let mut full = None;
        let cache = RuleCache::new();
        rules(&cache, tunnels);
        let all = measure(|| full = Some(flooded(now, config.clone(), tunnels, &cache)));
        let router = full.expect("measured");
        let status = router.status();
        println!(
            "{bytes} bytes for {tunnels} tunnels: {} at most; {} flows, {} held, \
             {} queued, {} queries, {} names",
            all.bytes_max,
            status.flows,
            status.accounts.held,
            status.accounts.queued,
            status.dns.pending,
            status.dns.names,
        );
        assert!(status.accounts.balance());
        assert!(
            status.flows >= within.max_flows / 2 * 2,
            "the table is full"
        );
        assert!(all.bytes_max <= bytes as u64, "{} bytes", all.bytes_max);
        assert!(all.bytes_max > bytes as u64 / 5, "the budget is used");
    }
}
