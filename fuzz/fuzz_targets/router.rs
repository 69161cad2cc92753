//! Any configuration and any packets in any order: nothing panics, every packet is accounted for,
//! what comes out parses, has an address its tunnel was assigned, and is in a tunnel that rules
//! name.
#![no_main]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use vpn_core::packet::{Gso, Message, Offload, Packet, PacketBatch, Parsed};
use vpn_core::rule::{FilterAction, FilterDirection, RuleProtocol};
use vpn_core::testing::build;
use vpn_core::{
    Action, Assigned, DownCause, DropReason, Family, FilterRule, GroupId, InboundRule, OnChange,
    OnDown, Owner, OwnerAnswer, OwnerMatch, OwnerQuery, PortRange, Protocol, Rule, RuleId,
    RuleMatch, RuleSnapshot, TransportState, TunnelId,
};
use vpn_routing::group::GroupConfig;
use vpn_routing::router::{Egress, Event, Router, RouterConfig, Update};
use vpn_routing::rules::{CompiledRules, Names, RuleCache, Target};

const TUNNELS: u8 = 3;
const MAX_FLOWS: usize = 16;
const GROUP: &str = "group";
const RESOLVER: [u8; 4] = [10, 99, 0, 1];
/// Addresses that meet each other: of apps, of tunnels, of sites.
const V4: [[u8; 4]; 6] = [
    [10, 5, 0, 2],
    [10, 6, 0, 2],
    [203, 0, 113, 10],
    [203, 0, 113, 11],
    RESOLVER,
    [10, 64, 0, 1],
];
const V6: [&str; 3] = ["fd00:5::2", "fd00:6::2", "2001:db8::10"];
const PORTS: [u16; 5] = [53, 80, 443, 2000, 2001];

#[derive(Arbitrary, Debug)]
struct RuleBits {
    user: Option<u8>,
    source: Option<(u8, u8)>,
    destination: Option<(u8, u8)>,
    domain: Option<u8>,
    port: Option<u8>,
    protocol: Option<u8>,
    v6: Option<bool>,
    lead: u8,
    change: u8,
    down: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct InboundBits {
    tunnel: u8,
    protocol: u8,
    port: Option<u8>,
    to: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct FilterBits {
    inbound: Option<bool>,
    tunnel: Option<u8>,
    protocol: Option<u8>,
    port: Option<u8>,
    action: u8,
}

#[derive(Arbitrary, Debug)]
struct Built {
    kind: u8,
    v6: bool,
    src: (u8, u8),
    dst: (u8, u8),
    flags: u8,
    payload: Vec<u8>,
    /// In pieces, of which this one is left out.
    pieces: Option<u8>,
    gso: Option<u8>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Raw(Option<u8>, Vec<u8>),
    Built(Option<u8>, Built),
    /// A packet that came out is turned round, or quoted in an error.
    Answer {
        which: u8,
        tunnel: Option<u8>,
        error: bool,
    },
    Up(u8, u8),
    Down(u8),
    Connecting(u8),
    Dormant(u8),
    Remove(u8),
    Rules(Vec<RuleBits>, Vec<InboundBits>, Vec<FilterBits>),
    Advance(u16),
    Owner(u8, Option<u8>),
    Slow(bool),
    Idle(u8, u8),
}

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let mut world = World::new();
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut input) else {
            break;
        };
        world.run(step);
    }
});

struct World {
    router: Router,
    cache: RuleCache,
    now: Instant,
    ids: Vec<TunnelId>,
    assigned: Vec<Option<Assigned>>,
    up: Vec<bool>,
    /// Tunnels that a rule in force, or one that was, leads to.
    named: Vec<bool>,
    came: Vec<(u8, Vec<u8>)>,
    asked: Vec<OwnerQuery>,
    slow: bool,
}

struct Named<'a>(&'a [TunnelId], Option<GroupId>);

impl Names for Named<'_> {
    fn tunnel(&self, name: &str) -> Option<TunnelId> {
        self.0.get(name.parse::<usize>().ok()?).copied()
    }

    fn group(&self, name: &str) -> Option<GroupId> {
        self.1.filter(|_| name == GROUP)
    }
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let config = RouterConfig {
            max_flows: MAX_FLOWS,
            max_flows_per_owner: 8,
            max_flows_per_inbound_rule: 4,
            queue_packets: 8,
            resolvers: vec![RESOLVER.into()],
            seed: Some(1),
            ..RouterConfig::default()
        };
        let mut router = Router::new(config, now);
        let ids = (0..TUNNELS).map(|t| router.add_tunnel(&t.to_string()).expect("few"));
        let ids: Vec<TunnelId> = ids.collect();
        let mut world = Self {
            router,
            cache: RuleCache::new(),
            now,
            assigned: vec![None; ids.len()],
            up: vec![false; ids.len()],
            named: vec![false; ids.len()],
            ids,
            came: Vec::new(),
            asked: Vec::new(),
            slow: false,
        };
        let group = GroupConfig::new(GROUP, world.ids[..2].to_vec());
        let groups = world.router.set_groups(now, vec![group]);
        groups.expect("a right group");
        world
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Raw(tunnel, bytes) => self.input(tunnel, Packet::from_slice(&bytes)),
            Step::Built(tunnel, built) => self.built(tunnel, built),
            Step::Answer {
                which,
                tunnel,
                error,
            } => self.answer(which, tunnel, error),
            Step::Up(tunnel, set) => {
                let assigned = assigned(tunnel % TUNNELS, set);
                self.assigned[at(tunnel)] = Some(assigned.clone());
                self.state(tunnel, TransportState::Up(Arc::new(assigned)));
                self.up[at(tunnel)] = true;
            }
            Step::Down(tunnel) => self.state(tunnel, TransportState::Down(DownCause::NoAnswer)),
            Step::Connecting(tunnel) => self.state(tunnel, TransportState::Connecting),
            Step::Dormant(tunnel) => self.state(tunnel, TransportState::Dormant),
            Step::Remove(tunnel) => {
                self.router.remove_tunnel(self.now, self.ids[at(tunnel)]);
                let id = self.router.add_tunnel(&(tunnel % TUNNELS).to_string());
                self.ids[at(tunnel)] = id.expect("few");
                (self.up[at(tunnel)], self.assigned[at(tunnel)]) = (false, None);
                self.named[at(tunnel)] = false;
            }
            Step::Rules(rules, inbound, filters) => self.rules(&rules, &inbound, &filters),
            Step::Advance(ms) => {
                self.now += Duration::from_millis(u64::from(ms) * u64::from(ms) / 64);
                if self.now >= self.router.next_timeout() {
                    self.router.handle_timeout(self.now);
                }
            }
            Step::Owner(which, user) => {
                if !self.asked.is_empty() {
                    let query = self.asked.remove(usize::from(which) % self.asked.len());
                    self.owner(query, user);
                }
            }
            Step::Slow(slow) => self.slow = slow,
            Step::Idle(tunnel, seconds) => {
                let limit = Duration::from_secs(seconds.into());
                self.router
                    .set_idle_limit(self.ids[at(tunnel)], Some(limit));
            }
        }
        self.settle();
    }

    fn state(&mut self, tunnel: u8, state: TransportState) {
        let id = self.ids[at(tunnel)];
        self.up[at(tunnel)] = false;
        self.router
            .handle_update(self.now, Update::Tunnel(id, state));
    }

    fn owner(&mut self, query: OwnerQuery, user: Option<u8>) {
        let answer = match user {
            Some(user) => OwnerAnswer::Known(Owner {
                socket: user.into(),
                ..Owner::user(u32::from(user % 4))
            }),
            None => OwnerAnswer::Unknown,
        };
        self.router
            .handle_update(self.now, Update::Owner(query, answer));
    }

    fn input(&mut self, tunnel: Option<u8>, packet: Packet) {
        let mut batch = PacketBatch::new(1, 1600);
        if batch.push(packet).is_err() {
            return;
        }
        match tunnel {
            None => self.router.handle_device(self.now, &mut batch),
            Some(tunnel) => {
                self.router
                    .handle_tunnel(self.now, self.ids[at(tunnel)], &mut batch);
            }
        }
        assert!(batch.is_empty());
    }

    fn built(&mut self, tunnel: Option<u8>, built: Built) {
        let packet = whole(&built);
        if let Some(left_out) = built.pieces {
            let pieces = build::fragments(&packet, 60, u32::from(built.flags));
            for (index, piece) in pieces.iter().enumerate() {
                if index != usize::from(left_out) {
                    self.input(tunnel, Packet::from_slice(piece));
                }
            }
            return;
        }
        let offload = Offload {
            gso: built.gso.map(|size| Gso { size: size.into() }),
            partial_checksum: built.gso.is_some(),
        };
        let packet = match built.gso {
            Some(_) => build::partial(&packet).with_offload(offload),
            None => Packet::from_slice(&packet),
        };
        self.input(tunnel, packet);
    }

    fn answer(&mut self, which: u8, tunnel: Option<u8>, error: bool) {
        let Some((came, bytes)) = self.came.get(usize::from(which) % self.came.len().max(1)) else {
            return;
        };
        let tunnel = tunnel.unwrap_or(*came);
        let Ok(parsed) = Parsed::from_bytes(bytes) else {
            return;
        };
        let flow = parsed.flow;
        let reply = if error {
            let kind = if flow.src().is_ipv4() { 3 } else { 1 };
            build::icmp(
                flow.dst(),
                flow.src(),
                kind,
                1,
                0,
                &bytes[..bytes.len().min(600)],
            )
        } else {
            let (src, dst) = ((flow.dst(), flow.dst_port()), (flow.src(), flow.src_port()));
            let payload = &bytes[usize::from(parsed.payload)..];
            match parsed.message {
                Message::Tcp(flags) => build::tcp(src, dst, flags | 0x10, 1, payload),
                Message::Udp => {
                    let mut payload = payload.to_vec();
                    if let Some(flags) = payload.get_mut(2) {
                        *flags |= 0x80;
                    }
                    build::udp(src, dst, &payload)
                }
                _ => build::icmp_echo(src.0, dst.0, build::Echo::Reply, dst.1, 1, b"x"),
            }
        };
        self.input(Some(tunnel), Packet::from_slice(&reply));
    }

    fn rules(&mut self, rules: &[RuleBits], inbound: &[InboundBits], filters: &[FilterBits]) {
        let written = |(id, bits): (usize, &RuleBits)| self.rule(id as u64, bits);
        let snapshot = RuleSnapshot {
            rules: rules.iter().enumerate().map(written).collect(),
            inbound: inbound.iter().enumerate().map(inbound_rule).collect(),
            filters: filters.iter().enumerate().map(filter_rule).collect(),
        };
        for rule in &snapshot.rules {
            let mut name = |name: &str| {
                if let Ok(tunnel) = name.parse::<usize>() {
                    self.named[tunnel] = true;
                }
            };
            match &rule.action {
                Action::Tunnel(to) => name(to),
                Action::Group(_) => ["0", "1"].map(&mut name).into_iter().collect(),
                _ => {}
            }
            if let OnDown::Fallback(to) = &rule.on_down {
                name(to);
            }
        }
        for rule in &snapshot.inbound {
            if let Ok(tunnel) = rule.tunnel.parse::<usize>() {
                self.named[tunnel] = true;
            }
        }
        let names = Named(&self.ids, self.router.group_named(GROUP));
        let block = Target::Block(DropReason::BlockedByDefault);
        if let Ok(compiled) = CompiledRules::compile(&snapshot, &names, block) {
            self.cache.swap(compiled);
            let rules = Update::Rules(self.cache.current());
            self.router.handle_update(self.now, rules);
        }
    }

    fn rule(&self, id: u64, bits: &RuleBits) -> Rule {
        let net = |(which, length): (u8, u8)| {
            let addr = addr(which, bits.v6 == Some(true));
            let longest = if addr.is_ipv4() { 33 } else { 129 };
            ipnet(addr, length % longest)
        };
        let pattern = |which: u8| {
            let patterns = ["example.com", ".example.com", "*.example.com", "."];
            patterns[usize::from(which) % 4].parse().ok()
        };
        let matches = RuleMatch {
            owner: bits.user.map(|user| OwnerMatch::Uid(u32::from(user % 4))),
            source: bits.source.and_then(net),
            destination: bits.destination.and_then(net),
            domain: bits.domain.and_then(pattern),
            family: bits.v6.map(|v6| if v6 { Family::V6 } else { Family::V4 }),
            ports: bits.port.map(|p| PortRange::single(port(p))),
            protocol: bits.protocol.map(protocol),
            ..RuleMatch::default()
        };
        let action = match bits.lead % 6 {
            lead @ 0..3 => Action::Tunnel(lead.to_string()),
            3 => Action::Group(GROUP.to_owned()),
            4 => Action::Direct,
            _ => Action::Block,
        };
        let rule = Rule::new(RuleId(id), matches, action).on_change(match bits.change % 3 {
            0 => OnChange::Keep,
            1 => OnChange::Reset,
            _ => OnChange::Drop,
        });
        match bits.down {
            Some(down) => rule.on_down(OnDown::Fallback((down % TUNNELS).to_string())),
            None => rule,
        }
    }

    fn settle(&mut self) {
        while let Some(event) = self.router.next_event() {
            if let Event::ResolveOwner(query) = event {
                if self.slow && self.asked.len() < 64 {
                    self.asked.push(query);
                } else {
                    let user = (query.flow.src_port() % 4) as u8;
                    self.owner(query, Some(user));
                }
            }
        }
        let status = self.router.status();
        assert!(status.accounts.balance(), "{:?}", status.accounts);
        assert!(status.flows <= MAX_FLOWS);
        for tunnel in 0..TUNNELS {
            for bytes in self.take(Egress::Tunnel(self.ids[at(tunnel)])) {
                self.check_out(tunnel, &bytes);
                if self.came.len() < 64 {
                    self.came.push((tunnel, bytes));
                }
            }
        }
        for bytes in self.take(Egress::Device) {
            Parsed::from_bytes(&bytes).expect("what the device gets is a packet");
        }
        assert!(self.router.accounts().balance());
    }

    fn take(&mut self, target: Egress) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        let left = self.router.transmit::<()>(target, |queue, _| {
            taken.extend(queue.packets().iter().map(|p| p.bytes().to_vec()));
            queue.clear();
            Ok(taken.len())
        });
        assert_eq!(left, Ok(0));
        taken
    }

    fn check_out(&self, tunnel: u8, bytes: &[u8]) {
        let parsed = Parsed::from_bytes(bytes).expect("what a tunnel gets is a packet");
        let assigned = self.assigned[at(tunnel)].as_ref();
        let addresses = assigned
            .into_iter()
            .flat_map(|assigned| &assigned.addresses);
        let source = parsed.flow.src();
        let has = addresses.map(|net| net.addr()).any(|addr| addr == source);
        assert!(has, "{source} in tunnel {tunnel}");
        assert!(self.up[at(tunnel)], "into a tunnel that is not up");
        assert!(self.named[at(tunnel)], "into a tunnel that no rule names");
    }
}

fn whole(built: &Built) -> Vec<u8> {
    let v6 = built.v6;
    let payload = &built.payload[..built.payload.len().min(1200)];
    let src = (addr(built.src.0, v6), port(built.src.1));
    let dst = (addr(built.dst.0, v6), port(built.dst.1));
    let echo = |echo| build::icmp_echo(src.0, dst.0, echo, src.1, 1, payload);
    match built.kind % 6 {
        0 => build::tcp(src, dst, built.flags, 1, payload),
        1 => build::udp(src, dst, payload),
        2 => echo(build::Echo::Request),
        3 => echo(build::Echo::Reply),
        4 => build::icmp(src.0, dst.0, built.flags, 0, 1280, payload),
        _ => build::ip(src.0, dst.0, Protocol(built.flags), payload),
    }
}

fn inbound_rule((id, bits): (usize, &InboundBits)) -> InboundRule {
    InboundRule {
        id: RuleId(id as u64),
        tunnel: (bits.tunnel % TUNNELS).to_string(),
        protocol: protocol(bits.protocol),
        ports: bits.port.map(|p| PortRange::single(port(p))),
        to_port: bits.to.map(port),
        remote: None,
        behind: None,
    }
}

fn filter_rule((id, bits): (usize, &FilterBits)) -> FilterRule {
    FilterRule {
        id: RuleId(id as u64),
        direction: match bits.inbound {
            None => FilterDirection::Both,
            Some(true) => FilterDirection::Inbound,
            Some(false) => FilterDirection::Outbound,
        },
        tunnel: bits.tunnel.map(|tunnel| (tunnel % TUNNELS).to_string()),
        family: None,
        protocol: bits.protocol.map(protocol),
        remote: None,
        ports: bits.port.map(|p| PortRange::single(port(p))),
        icmp: None,
        fragments: false,
        action: match bits.action % 3 {
            0 => FilterAction::Accept,
            1 => FilterAction::Drop,
            _ => FilterAction::Reject,
        },
    }
}

fn assigned(tunnel: u8, set: u8) -> Assigned {
    let mut addresses = Vec::new();
    if set & 1 == 0 {
        addresses.extend(ipnet(addr(set & 2, false), 24));
    }
    if set & 4 == 0 {
        addresses.extend(ipnet(addr(set & 1, true), 64));
    }
    Assigned {
        addresses,
        dns: match set & 8 {
            0 => vec![IpAddr::from([10, 64, 0, tunnel])],
            _ => Vec::new(),
        },
        mtu: if set & 16 == 0 { 1420 } else { 576 },
        ..Assigned::default()
    }
}

fn ipnet(addr: IpAddr, length: u8) -> Option<ipnet::IpNet> {
    ipnet::IpNet::new(addr, length).ok()
}

fn addr(which: u8, v6: bool) -> IpAddr {
    match v6 {
        false => V4[usize::from(which) % V4.len()].into(),
        true => V6[usize::from(which) % V6.len()]
            .parse()
            .expect("an address"),
    }
}

fn port(which: u8) -> u16 {
    PORTS[usize::from(which) % PORTS.len()]
}

fn protocol(which: u8) -> RuleProtocol {
    match which % 3 {
        0 => RuleProtocol::Tcp,
        1 => RuleProtocol::Udp,
        _ => RuleProtocol::Icmp,
    }
}

fn at(tunnel: u8) -> usize {
    usize::from(tunnel % TUNNELS)
}
