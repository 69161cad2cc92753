//! Several workers: each with a queue of one device, in memory, and tunnels of its own.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use vpn_core::packet::tcp_flags::{ACK, SYN};
use vpn_core::testing::{AppSide, FarSide, build, memory_device, memory_transport};
use vpn_core::{
    Action, Assigned, DownCause, DropReason, GroupId, Owner, OwnerMatch, Protocol, Rule, RuleId,
    RuleMatch, RuleSnapshot, TransportState, TunnelId,
};
use vpn_routing::RouterConfig;
use vpn_routing::engine::{Engine, EngineError, EngineHandle, Lane, MAX_WORKERS, RING};
use vpn_routing::group::GroupConfig;
use vpn_routing::owner::MemoryOwners;
use vpn_routing::router::Status;
use vpn_routing::rules::{CompiledRules, Names, RuleCache, Target};

const LONG: Duration = Duration::from_secs(10);
const SITE: &str = "203.0.113.10:7";
const NAMES: [&str; 3] = ["uk", "fr", "us"];

struct Running {
    /// By worker: what applications put into its queue, and find there.
    queues: Vec<AppSide>,
    regions: Vec<FarSide>,
    owners: Vec<Arc<MemoryOwners>>,
    rules: RuleCache,
    handle: EngineHandle,
    task: JoinHandle<Result<Status, EngineError>>,
}

struct Known(Option<GroupId>);

impl Names for Known {
    fn tunnel(&self, name: &str) -> Option<TunnelId> {
        let place = NAMES.iter().position(|known| *known == name)?;
        Some(TunnelId::new(place as u16))
    }

    fn group(&self, name: &str) -> Option<GroupId> {
        self.0.filter(|_| name == "any")
    }
}

fn assigned(dns: &[&str]) -> Assigned {
    Assigned {
        addresses: vec!["10.5.0.2/32".parse().unwrap()],
        dns: dns.iter().map(|a| a.parse().unwrap()).collect(),
        mtu: 1420,
        ..Assigned::default()
    }
}

/// Three providers that hand out the identical address: uk and us at the first worker, fr at the
/// second. Each tunnel's resolver is its own.
async fn start(workers: usize) -> Running {
    let (devices, queues): (Vec<_>, Vec<_>) =
        (0..workers).map(|_| memory_device(1024, 1500)).unzip();
    let owners: Vec<_> = (0..workers)
        .map(|_| Arc::new(MemoryOwners::new()))
        .collect();
    let lanes = devices
        .into_iter()
        .zip(&owners)
        .map(|(device, owners)| Lane {
            device: Arc::new(device),
            owners: owners.clone(),
        });
    let rules = RuleCache::new();
    let config = RouterConfig {
        resolvers: vec!["10.64.0.1".parse().unwrap()],
        ..RouterConfig::default()
    };
    let mut engine = Engine::with_workers(lanes.collect(), rules.clone(), config).unwrap();
    let mut regions = Vec::new();
    for (place, name) in NAMES.into_iter().enumerate() {
        let (transport, far) = memory_transport(1024, 1420);
        far.strict_source(true);
        far.up(assigned(&[&format!("10.8.{place}.1")]));
        engine.add_tunnel(name, Arc::new(transport)).unwrap();
        regions.push(far);
    }
    let running = Running {
        queues,
        regions,
        owners,
        rules,
        handle: engine.handle(),
        task: tokio::spawn(engine.run()),
    };
    running.rule(&[(1001, "uk"), (1002, "fr"), (1003, "us")]);
    while running
        .status()
        .await
        .tunnels
        .iter()
        .any(|t| !matches!(t.state, TransportState::Up(_)))
    {
        tokio::task::yield_now().await;
    }
    running
}

impl Running {
    fn rule(&self, rules: &[(u32, &str)]) {
        let rules = rules.iter().map(|&(uid, to)| (uid, to, None));
        self.rules_with(&rules.collect::<Vec<_>>(), None);
    }

    fn rules_with(&self, rules: &[(u32, &str, Option<&str>)], group: Option<GroupId>) {
        let rules = rules.iter().zip(1..).map(|(&(uid, to, domain), id)| {
            let matches = RuleMatch {
                owner: Some(OwnerMatch::Uid(uid)),
                domain: domain.map(|domain| domain.parse().unwrap()),
                ..RuleMatch::default()
            };
            let action = match to {
                "any" => Action::Group(to.to_owned()),
                to => Action::Tunnel(to.to_owned()),
            };
            Rule::new(RuleId(id), matches, action)
        });
        let compiled = CompiledRules::compile(
            &RuleSnapshot::from(rules.collect::<Vec<_>>()),
            &Known(group),
            Target::Block(DropReason::BlockedByDefault),
        );
        self.rules.swap(compiled.unwrap());
    }

    fn app(&self, protocol: Protocol, port: u16, uid: u32) {
        let socket = SocketAddr::from(([10, 5, 0, 2], port));
        for owners in &self.owners {
            let owner = Owner {
                socket: u64::from(port),
                ..Owner::user(uid)
            };
            owners.set(protocol, socket, owner);
        }
    }

    async fn out(&self, region: usize) -> Vec<u8> {
        let packet = timeout(LONG, self.regions[region].take_wait()).await;
        packet.unwrap().unwrap().bytes().to_vec()
    }

    async fn back(&self, queue: usize) -> Vec<u8> {
        let packet = timeout(LONG, self.queues[queue].take_wait()).await;
        packet.unwrap().unwrap().bytes().to_vec()
    }

    async fn status(&self) -> Status {
        let status = self.handle.status().await.unwrap();
        assert!(status.accounts.balance(), "{:?}", status.accounts);
        status
    }

    async fn stop(self) -> Status {
        self.handle.stop().await;
        let status = timeout(LONG, self.task).await.unwrap().unwrap().unwrap();
        assert!(status.accounts.balance(), "{:?}", status.accounts);
        assert!(self.regions.iter().all(FarSide::is_closed));
        assert!(self.regions.iter().all(|region| region.rejected() == 0));
        for queue in &self.queues {
            assert!(queue.inject(b"x").is_err(), "a queue is open");
        }
        status
    }
}

/// The worker of each region's tunnel.
const PLACES: [usize; 3] = [0, 1, 0];

async fn apps_reach_their_regions(queue_of: impl Fn(usize, u16) -> usize) -> Status {
    let world = start(2).await;
    for n in 0..300u16 {
        // Each socket sends four times.
        let (port, region) = (2000 + n / 4, usize::from(n / 4 % 3));
        world.app(Protocol::UDP, port, 1001 + region as u32);
        let app = format!("10.5.0.2:{port}");
        let packet = build::udp(app.as_str(), SITE, &n.to_be_bytes());
        world.queues[queue_of(PLACES[region], n)]
            .inject(&packet)
            .unwrap();
        assert_eq!(world.out(region).await, packet);
        let answer = build::udp(SITE, app.as_str(), &n.to_be_bytes());
        world.regions[region].inject(&answer).unwrap();
        assert_eq!(world.back(PLACES[region]).await, answer, "by its own queue");
    }
    assert!(world.regions.iter().all(|region| region.take().is_none()));
    assert!(world.queues.iter().all(|queue| queue.take().is_none()));
    world.stop().await
}

#[tokio::test]
async fn apps_reach_their_regions_by_the_right_queue() {
    let status = apps_reach_their_regions(|worker, _| worker).await;
    assert_eq!(status.accounts.drops.total(), 0);
    assert_eq!(status.accounts.handed_out, 0);
    assert_eq!(status.accounts.in_device, 300);
}

#[tokio::test]
async fn every_packet_arrives_at_the_wrong_queue() {
    let status = apps_reach_their_regions(|worker, _| 1 - worker).await;
    assert_eq!(status.accounts.drops.total(), 0);
    assert_eq!(status.accounts.handed_out, 300);
    assert_eq!(
        (status.accounts.in_device, status.accounts.out_tunnels),
        (300, 300)
    );
    let flows: usize = status.tunnels.iter().map(|tunnel| tunnel.flows).sum();
    assert_eq!(
        (flows, status.flows),
        (75, 75),
        "one entry for each, at one worker"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_queue_on_several_threads() {
    let status = apps_reach_their_regions(|_, n| usize::from(n.wrapping_mul(40_503) >> 15)).await;
    assert_eq!(status.accounts.drops.total(), 0);
    assert!(status.accounts.handed_out > 50);
}

/// A flood at the wrong queue: what a ring does not hold is counted, and nothing is lost otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_no_room_is_counted() {
    let world = start(2).await;
    world.app(Protocol::UDP, 1, 1002);
    let taker = world.regions[1].clone();
    let taking = tokio::spawn(async move { while taker.take_wait().await.is_some() {} });
    let sent = 20_000u64;
    for n in 0..sent {
        let packet = build::udp("10.5.0.2:1", SITE, &n.to_be_bytes());
        let packet = vpn_core::packet::Packet::from_slice(&packet);
        world.queues[0].inject_wait(packet).await.unwrap();
    }
    let status = loop {
        let status = world.status().await;
        let accounts = &status.accounts;
        if accounts.in_device == sent && accounts.queued + accounts.held == 0 {
            break status;
        }
        tokio::task::yield_now().await;
    };
    let drops = &status.accounts.drops;
    // Those behind its owner's look-up may be more than are held.
    assert_eq!(
        drops.total(),
        drops.get(DropReason::QueueFull) + drops.get(DropReason::HoldFull)
    );
    assert_eq!(status.accounts.out_tunnels + drops.total(), sent);
    assert!(
        status.tunnels[0].counters.tx_packets == 0 && status.tunnels[2].counters.tx_packets == 0
    );
    assert_eq!(
        world.stop().await.accounts.out_tunnels + drops.total(),
        sent
    );
    taking.await.unwrap();
    const { assert!(RING > 0) };
}

/// A live connection keeps its tunnel when its app moves, also if its packets come elsewhere, and
/// to the very worker that its app's new tunnel belongs to.
#[tokio::test]
async fn a_live_connection_keeps_its_tunnel_wherever_it_arrives() {
    let world = start(2).await;
    world.app(Protocol::TCP, 1, 1001);
    let site = "203.0.113.10:443";
    let segment = |flags, text: &[u8]| build::tcp("10.5.0.2:1", site, flags, 1, text);
    let answer = |flags| build::tcp(site, "10.5.0.2:1", flags, 1, b"");
    world.queues[0].inject(&segment(SYN, b"")).unwrap();
    world.out(0).await;
    world.regions[0].inject(&answer(SYN | ACK)).unwrap();
    world.back(0).await;
    world.queues[0].inject(&segment(ACK, b"before")).unwrap();
    world.out(0).await;
    world.rule(&[(1001, "fr")]);
    for _ in 0..3 {
        world.queues[1].inject(&segment(ACK, b"after")).unwrap();
        assert_eq!(world.out(0).await, segment(ACK, b"after"));
    }
    // A new one goes the new way, from either queue.
    world.app(Protocol::TCP, 2, 1001);
    world.queues[0]
        .inject(&build::tcp("10.5.0.2:2", site, SYN, 1, b""))
        .unwrap();
    world.out(1).await;
    assert!(world.regions.iter().all(|region| region.take().is_none()));
    assert_eq!(world.stop().await.accounts.drops.total(), 0);
}

/// UDP moves with its next packet, from one worker to the other and back.
#[tokio::test]
async fn a_flow_moves_from_worker_to_worker() {
    let world = start(2).await;
    world.app(Protocol::UDP, 1, 1001);
    for n in 0..40u16 {
        let (to, region) = [("uk", 0), ("fr", 1)][usize::from(n % 2)];
        world.rule(&[(1001, to)]);
        let packet = build::udp("10.5.0.2:1", SITE, &n.to_be_bytes());
        world.queues[usize::from(n / 2 % 2)]
            .inject(&packet)
            .unwrap();
        assert_eq!(world.out(region).await, packet);
    }
    let status = world.stop().await;
    assert_eq!((status.accounts.drops.total(), status.flows), (0, 1));
}

/// The pieces of a datagram follow the first one, in any order, to the worker it went to.
#[tokio::test]
async fn fragments_follow_their_first_to_another_worker() {
    let world = start(2).await;
    world.app(Protocol::UDP, 1, 1002);
    let datagram = build::udp("10.5.0.2:1", SITE, &[7; 3000]);
    for id in 0..4u32 {
        let mut pieces = build::fragments(&datagram, 1400, id + 1);
        pieces.rotate_left(id as usize % 3);
        for piece in &pieces {
            world.queues[0].inject(piece).unwrap();
        }
        let mut bytes = 0;
        for _ in &pieces {
            bytes += world.out(1).await.len() - 20;
        }
        assert_eq!(bytes, 3008);
    }
    assert_eq!(world.stop().await.accounts.drops.total(), 0);
}

/// A group whose members are at both workers: the first decides, the other follows.
#[tokio::test]
async fn a_group_fails_over_from_worker_to_worker() {
    let world = start(2).await;
    let members = [1, 0].map(TunnelId::new);
    let group = GroupConfig::new("any", members).fail_back(Duration::ZERO);
    let id = world.handle.set_groups(vec![group]).await.unwrap()[0];
    world.rules_with(&[(1001, "any", None)], Some(id));
    for (n, up) in [true, false, true, false].into_iter().enumerate() {
        match up {
            true => world.regions[1].up(assigned(&[])),
            false => world.regions[1].down(DownCause::NoAnswer),
        }
        let wanted = if up { 1 } else { 0 };
        while world.status().await.groups[0].chosen != Some(TunnelId::new(wanted)) {
            tokio::task::yield_now().await;
        }
        for queue in 0..2 {
            let port = 10 * n as u16 + queue + 1;
            world.app(Protocol::UDP, port, 1001);
            let app = format!("10.5.0.2:{port}");
            world.queues[usize::from(queue)]
                .inject(&build::udp(app.as_str(), SITE, b""))
                .unwrap();
            world.out(usize::from(wanted)).await;
        }
    }
    assert!(world.regions.iter().all(|region| region.take().is_none()));
    assert_eq!(world.stop().await.accounts.drops.total(), 0);
}

/// A name in a query's answer decides the next flow, whichever worker gets to see either.
#[tokio::test]
async fn a_name_learned_by_one_worker_counts_at_all() {
    let world = start(2).await;
    world.rules_with(
        &[(1001, "fr", Some("example.com")), (1001, "uk", None)],
        None,
    );
    for (n, queue) in [(1u8, 0), (2, 1)] {
        let port = u16::from(n);
        world.app(Protocol::UDP, port, 1001);
        let app = format!("10.5.0.2:{port}");
        let query = dns_query(n);
        world.queues[queue]
            .inject(&build::udp(app.as_str(), "10.64.0.1:53", &query))
            .unwrap();
        let asked = world.out(1).await;
        assert_eq!(
            asked,
            build::udp(app.as_str(), "10.8.1.1:53", &query),
            "steered"
        );
        let site = IpAddr::from([198, 51, 100, n]);
        let answer = build::udp("10.8.1.1:53", app.as_str(), &dns_answer(n, site));
        world.regions[1].inject(&answer).unwrap();
        world.back(1).await;
        // At once, and at either queue.
        for (k, queue) in [(1u16, 0), (2, 1)] {
            let port = 100 * u16::from(n) + k;
            world.app(Protocol::UDP, port, 1001);
            let app = format!("10.5.0.2:{port}");
            let site = format!("{site}:443");
            world.queues[queue]
                .inject(&build::udp(app.as_str(), site.as_str(), b""))
                .unwrap();
            world.out(1).await;
        }
    }
    assert!(world.regions.iter().all(|region| region.take().is_none()));
    let status = world.stop().await;
    assert_eq!((status.accounts.drops.total(), status.dns.names), (0, 2));
}

fn dns_query(id: u8) -> Vec<u8> {
    let mut message = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(b"\x07example\x03com\x00\x00\x01\x00\x01");
    message
}

fn dns_answer(id: u8, site: IpAddr) -> Vec<u8> {
    let IpAddr::V4(site) = site else {
        unreachable!()
    };
    let mut message = dns_query(id);
    (message[2], message[3], message[7]) = (0x81, 0x80, 1);
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    message.extend(site.octets());
    message
}

#[tokio::test]
async fn tunnels_come_and_go_while_workers_run() {
    let world = start(2).await;
    let (transport, far) = memory_transport(16, 1420);
    let again = world.handle.add_tunnel("uk", Arc::new(transport)).await;
    assert!(matches!(again, Err(EngineError::DuplicateTunnel(name)) if name == "uk"));
    drop(far);
    world.handle.remove_tunnel(TunnelId::new(0)).await.unwrap();
    assert!(world.regions[0].is_closed());
    // Each has one now, and the first of them gets the next.
    let (transport, far) = memory_transport(16, 1420);
    far.up(assigned(&[]));
    let id = world
        .handle
        .add_tunnel("de", Arc::new(transport))
        .await
        .unwrap();
    assert_eq!(id, TunnelId::new(3));
    assert_eq!(world.status().await.tunnels.len(), 3);
    world.app(Protocol::UDP, 1, 1001);
    world.queues[1]
        .inject(&build::udp("10.5.0.2:1", SITE, b""))
        .unwrap();
    while world
        .status()
        .await
        .accounts
        .drops
        .get(DropReason::NoSuchTunnel)
        != 1
    {
        tokio::task::yield_now().await;
    }
    world.stop().await;
    assert!(far.is_closed());
}

#[tokio::test]
async fn a_queue_that_goes_away_ends_all_workers_with_a_reason() {
    for queue in 0..2 {
        let world = start(2).await;
        world.queues[queue].close();
        let ended = timeout(LONG, world.task).await.unwrap().unwrap();
        assert!(matches!(ended, Err(EngineError::Device(_))), "{ended:?}");
        assert!(world.regions.iter().all(FarSide::is_closed));
        assert!(world.queues[1 - queue].inject(b"x").is_err());
        assert!(world.handle.status().await.is_err());
    }
}

#[tokio::test]
async fn a_dropped_engine_leaves_nothing_open() {
    let world = start(2).await;
    world.task.abort();
    assert!(timeout(LONG, world.task).await.unwrap().is_err());
    assert!(world.queues.iter().all(|queue| queue.inject(b"x").is_err()));
    while !world.regions.iter().all(FarSide::is_closed) {
        tokio::task::yield_now().await;
    }
}

#[test]
fn an_engine_has_a_bounded_number_of_workers() {
    for count in [0, MAX_WORKERS + 1] {
        let lane = || Lane {
            device: Arc::new(memory_device(1, 1500).0),
            owners: Arc::new(MemoryOwners::new()),
        };
        let lanes = (0..count).map(|_| lane()).collect();
        let made = Engine::with_workers(lanes, RuleCache::new(), RouterConfig::default());
        assert!(matches!(made, Err(EngineError::Workers)));
    }
}

/// An answer goes to whoever waits for it first, which must not be another worker.
#[test]
fn workers_do_not_share_a_resolver() {
    let owners = Arc::new(MemoryOwners::new());
    let lane = || Lane {
        device: Arc::new(memory_device(1, 1500).0),
        owners: owners.clone(),
    };
    let lanes = vec![lane(), lane()];
    let made = Engine::with_workers(lanes, RuleCache::new(), RouterConfig::default());
    assert!(matches!(made, Err(EngineError::SharedOwners)));
}
