//! A router with tunnels and apps, driven as the engine drives it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use ipnet::IpNet;
use vpn_core::packet::{Packet, PacketBatch};
use vpn_core::{
    Action, Assigned, DownCause, DropReason, FilterRule, FlowKey, GroupId, InboundRule,
    InterfacePlan, Owner, OwnerAnswer, OwnerMatch, OwnerQuery, Protocol, Rule, RuleId, RuleMatch,
    RuleSnapshot, TransportState, TunnelId,
};

use crate::group::GroupConfig;
use crate::router::{Egress, Event, Router, RouterConfig, Update};
use crate::routes::RouteReport;
use crate::rules::{CompiledRules, Names, RuleCache, Target};

pub(super) const SITE: &str = "203.0.113.10";
pub(super) const SITE6: &str = "2001:db8:113::10";

pub(super) struct World {
    pub(super) router: Router,
    pub(super) now: Instant,
    cache: RuleCache,
    rules: Vec<Rule>,
    inbound: Vec<InboundRule>,
    filters: Vec<FilterRule>,
    names: HashMap<String, TunnelId>,
    /// Which application has which source address and port: uid and socket.
    sockets: HashMap<(Protocol, IpAddr, u16), (u32, u64)>,
    /// Queries that are not answered until `answer_owners`.
    pub(super) slow_owners: bool,
    pub(super) asked: Vec<OwnerQuery>,
    pub(super) plans: Vec<InterfacePlan>,
    /// Tunnels that were to wake, and to rest.
    pub(super) woken: Vec<TunnelId>,
    pub(super) rested: Vec<TunnelId>,
    pub(super) reports: Vec<RouteReport>,
    groups: HashMap<String, GroupId>,
    next_rule: u64,
}

/// Tunnels and groups by name. A tunnel named direct is the way past all others.
struct Named(HashMap<String, TunnelId>, HashMap<String, GroupId>);

impl Names for Named {
    fn tunnel(&self, name: &str) -> Option<TunnelId> {
        self.0.get(name).copied()
    }

    fn group(&self, name: &str) -> Option<GroupId> {
        self.1.get(name).copied()
    }

    fn direct(&self) -> Option<TunnelId> {
        self.tunnel("direct")
    }
}

pub(super) fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl World {
    /// Tunnels by name and assigned addresses, all up; no rules, default block.
    pub(super) fn new(tunnels: &[(&str, &[&str])]) -> Self {
        Self::with_config(RouterConfig::default(), tunnels)
    }

    pub(super) fn with_config(config: RouterConfig, tunnels: &[(&str, &[&str])]) -> Self {
        let now = Instant::now();
        let mut world = Self {
            router: Router::new(config, now),
            now,
            cache: RuleCache::new(),
            rules: Vec::new(),
            inbound: Vec::new(),
            filters: Vec::new(),
            names: HashMap::new(),
            sockets: HashMap::new(),
            slow_owners: false,
            asked: Vec::new(),
            plans: Vec::new(),
            woken: Vec::new(),
            rested: Vec::new(),
            reports: Vec::new(),
            groups: HashMap::new(),
            next_rule: 0,
        };
        for (name, addresses) in tunnels {
            let id = world.router.add_tunnel(name).unwrap();
            world.names.insert((*name).to_owned(), id);
            world.up(name, addresses, &[]);
        }
        world.swap_rules();
        world
    }

    pub(super) fn id(&self, name: &str) -> TunnelId {
        self.names[name]
    }

    pub(super) fn up(&mut self, name: &str, addresses: &[&str], dns: &[&str]) {
        let assigned = Assigned {
            addresses: addresses
                .iter()
                .map(|a| a.parse::<IpNet>().unwrap())
                .collect(),
            dns: dns.iter().map(|a| addr(a)).collect(),
            mtu: 1420,
            ..Assigned::default()
        };
        self.state(name, TransportState::Up(Arc::new(assigned)));
    }

    pub(super) fn down(&mut self, name: &str) {
        self.state(name, TransportState::Down(DownCause::NoAnswer));
    }

    pub(super) fn state(&mut self, name: &str, state: TransportState) {
        let id = self.id(name);
        self.router
            .handle_update(self.now, Update::Tunnel(id, state));
        self.settle();
    }

    pub(super) fn round_trip(&mut self, name: &str, millis: u64) {
        let update = Update::RoundTrip(self.id(name), Duration::from_millis(millis));
        self.router.handle_update(self.now, update);
        self.settle();
    }

    /// An app's rule; replaces the one it had.
    pub(super) fn rule(&mut self, uid: u32, action: &str) {
        self.rules
            .retain(|r| r.matches.owner != Some(OwnerMatch::Uid(uid)));
        self.next_rule += 1;
        self.rules.push(Rule::new(
            RuleId(self.next_rule),
            RuleMatch {
                owner: Some(OwnerMatch::Uid(uid)),
                ..RuleMatch::default()
            },
            self.action(action),
        ));
        self.swap_rules();
    }

    /// Forgets every rule; the next ones count.
    pub(super) fn forget_rules(&mut self) {
        self.rules.clear();
    }

    fn action(&self, name: &str) -> Action {
        match name {
            "block" => Action::Block,
            "direct" => Action::Direct,
            name if self.groups.contains_key(name) => Action::Group(name.to_owned()),
            name => Action::Tunnel(name.to_owned()),
        }
    }

    /// An app's rule with more to say; replaces the one it had.
    pub(super) fn rule_with(&mut self, uid: u32, action: &str, more: impl FnOnce(Rule) -> Rule) {
        self.rule(uid, action);
        if let Some(rule) = self.rules.pop() {
            self.rules.push(more(rule));
        }
        self.swap_rules();
    }

    /// Puts groups in force.
    pub(super) fn groups(&mut self, configs: Vec<GroupConfig>) {
        let names: Vec<_> = configs.iter().map(|config| config.name.clone()).collect();
        let ids = self.router.set_groups(self.now, configs).unwrap();
        self.groups = names.into_iter().zip(ids).collect();
        self.swap_rules();
        self.settle();
    }

    /// A rule that asks for nobody.
    pub(super) fn rule_for_all(&mut self, tunnel: &str) {
        self.push_rule(None, tunnel);
    }

    pub(super) fn rule_for_program(&mut self, path: &str, tunnel: &str) {
        self.push_rule(Some(OwnerMatch::Executable(path.into())), tunnel);
    }

    /// A rule for a user's destinations by name; `block`, or a tunnel.
    pub(super) fn rule_for_domain(&mut self, uid: u32, pattern: &str, action: &str) {
        self.next_rule += 1;
        self.rules.push(Rule::new(
            RuleId(self.next_rule),
            RuleMatch {
                owner: Some(OwnerMatch::Uid(uid)),
                domain: Some(pattern.parse().unwrap()),
                ..RuleMatch::default()
            },
            match action {
                "block" => Action::Block,
                name => Action::Tunnel(name.to_owned()),
            },
        ));
        self.swap_rules();
    }

    fn push_rule(&mut self, owner: Option<OwnerMatch>, tunnel: &str) {
        let matches = RuleMatch {
            owner,
            ..RuleMatch::default()
        };
        self.add_rule(matches, Action::Tunnel(tunnel.to_owned()));
    }

    pub(super) fn add_rule(&mut self, matches: RuleMatch, action: Action) {
        self.next_rule += 1;
        self.rules
            .push(Rule::new(RuleId(self.next_rule), matches, action));
        self.swap_rules();
    }

    /// What may start behind tunnels, from now on.
    pub(super) fn inbound(&mut self, rules: Vec<InboundRule>) {
        self.inbound = rules;
        self.swap_rules();
    }

    /// The packet filter, from now on.
    pub(super) fn filters(&mut self, rules: Vec<FilterRule>) {
        self.filters = rules;
        self.swap_rules();
    }

    fn swap_rules(&mut self) {
        let names = Named(self.names.clone(), self.groups.clone());
        let compiled = CompiledRules::compile(
            &RuleSnapshot {
                rules: self.rules.clone(),
                inbound: self.inbound.clone(),
                filters: self.filters.clone(),
            },
            &names,
            Target::Block(DropReason::BlockedByDefault),
        );
        self.cache.swap(compiled.unwrap());
        self.router
            .handle_update(self.now, Update::Rules(self.cache.current()));
        self.settle();
    }

    /// From now on, that address and port is this user's socket.
    pub(super) fn socket(&mut self, protocol: Protocol, src: (&str, u16), uid: u32, socket: u64) {
        self.sockets
            .insert((protocol, addr(src.0), src.1), (uid, socket));
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
        if self.now >= self.router.next_timeout() {
            self.router.handle_timeout(self.now);
        }
        self.settle();
    }

    /// Packets from applications.
    pub(super) fn send(&mut self, packets: impl IntoIterator<Item = Vec<u8>>) {
        self.send_described(packets.into_iter().map(|bytes| Packet::from_slice(&bytes)));
    }

    /// The same, with their offload descriptions.
    pub(super) fn send_described(&mut self, packets: impl IntoIterator<Item = Packet>) {
        let mut batch = PacketBatch::new(64, 65_535);
        for packet in packets {
            batch.push(packet).unwrap();
        }
        self.router.handle_device(self.now, &mut batch);
        assert!(batch.is_empty());
        self.settle();
    }

    /// A packet from a tunnel.
    pub(super) fn receive(&mut self, tunnel: &str, bytes: &[u8]) {
        self.receive_described(tunnel, Packet::from_slice(bytes));
    }

    /// The same, with its offload description.
    pub(super) fn receive_described(&mut self, tunnel: &str, packet: Packet) {
        let mut batch = PacketBatch::new(4, 65_535);
        batch.push(packet).unwrap();
        let id = self.id(tunnel);
        self.router.handle_tunnel(self.now, id, &mut batch);
        assert!(batch.is_empty());
        self.settle();
    }

    /// What was sent to a tunnel since the last call.
    pub(super) fn sent(&mut self, tunnel: &str) -> Vec<Vec<u8>> {
        let id = self.id(tunnel);
        self.take(Egress::Tunnel(id))
    }

    /// What was delivered to applications since the last call.
    pub(super) fn delivered(&mut self) -> Vec<Vec<u8>> {
        self.take(Egress::Device)
    }

    fn take(&mut self, target: Egress) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        let left = self.router.transmit::<()>(target, |batch, _| {
            taken.extend(batch.packets().iter().map(|p| p.bytes().to_vec()));
            batch.clear();
            Ok(taken.len())
        });
        assert_eq!(left, Ok(0));
        self.check();
        taken
    }

    pub(super) fn drops(&self, reason: DropReason) -> u64 {
        self.router.accounts().drops.get(reason)
    }

    pub(super) fn answer_owners(&mut self) {
        for query in std::mem::take(&mut self.asked) {
            self.answer(query);
        }
        self.settle();
    }

    fn answer(&mut self, query: OwnerQuery) {
        let key = (
            query.flow.protocol(),
            query.flow.src(),
            query.flow.src_port(),
        );
        let answer = match self.sockets.get(&key) {
            Some(&(uid, socket)) => OwnerAnswer::Known(Owner {
                socket,
                ..Owner::user(uid)
            }),
            None => OwnerAnswer::Unknown,
        };
        self.router
            .handle_update(self.now, Update::Owner(query, answer));
    }

    /// For packets that were handed to the router itself.
    pub(super) fn answer_events(&mut self) {
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(event) = self.router.next_event() {
            match event {
                Event::ResolveOwner(query) if self.slow_owners => self.asked.push(query),
                Event::ResolveOwner(query) => self.answer(query),
                Event::Plan(plan) => self.plans.push(plan),
                Event::Wake(tunnel) => self.woken.push(tunnel),
                Event::Rest(tunnel) => self.rested.push(tunnel),
                Event::Routes(_, report) => self.reports.push(report),
                Event::Conflicts(..) | Event::Refused(..) | Event::Groups(_) => {}
            }
        }
        self.check();
    }

    fn check(&self) {
        let accounts = self.router.accounts();
        assert!(accounts.balance(), "{accounts:?}");
        // Every flow is counted in one account, of its own tunnel.
        let (status, apps) = (self.router.status(), self.router.apps(usize::MAX));
        for tunnel in &status.tunnels {
            let of_it = apps.iter().filter(|app| app.tunnel == tunnel.id);
            let flows: usize = of_it.map(|app| app.flows).sum();
            assert_eq!(flows, tunnel.flows, "{apps:?}");
        }
        let flows: usize = apps.iter().map(|app| app.flows).sum();
        assert_eq!(flows, status.flows, "{apps:?}");
        let mut snapshot = vpn_core::metrics::Snapshot::default();
        status.measure(&mut snapshot);
        assert!(super::measure::balances(&snapshot), "{snapshot:?}");
    }
}

pub(super) fn udp(src: (&str, u16), dst: (&str, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    ip(src.0, dst.0)
        .udp(src.1, dst.1)
        .write(&mut bytes, payload)
        .unwrap();
    bytes
}

pub(super) fn tcp(src: (&str, u16), dst: (&str, u16), flags: &str) -> Vec<u8> {
    let mut builder = ip(src.0, dst.0).tcp(src.1, dst.1, 1, 1024);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(2),
            'F' => builder.fin(),
            _ => builder.rst(),
        };
    }
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"").unwrap();
    bytes
}

pub(super) fn echo(src: &str, dst: &str, id: u16, reply: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = ip(src, dst);
    let payload = b"ping";
    match (addr(src).is_ipv4(), reply) {
        (true, false) => builder
            .icmpv4_echo_request(id, 1)
            .write(&mut bytes, payload),
        (true, true) => builder.icmpv4_echo_reply(id, 1).write(&mut bytes, payload),
        (false, false) => builder
            .icmpv6_echo_request(id, 1)
            .write(&mut bytes, payload),
        (false, true) => builder.icmpv6_echo_reply(id, 1).write(&mut bytes, payload),
    }
    .unwrap();
    bytes
}

fn ip(src: &str, dst: &str) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let headers = match (addr(src), addr(dst)) {
        (IpAddr::V4(s), IpAddr::V4(d)) => etherparse::IpHeaders::Ipv4(
            etherparse::Ipv4Header {
                source: s.octets(),
                destination: d.octets(),
                time_to_live: 64,
                ..Default::default()
            },
            Default::default(),
        ),
        (IpAddr::V6(s), IpAddr::V6(d)) => etherparse::IpHeaders::Ipv6(
            etherparse::Ipv6Header {
                source: s.octets(),
                destination: d.octets(),
                hop_limit: 64,
                ..Default::default()
            },
            Default::default(),
        ),
        _ => panic!("one family"),
    };
    PacketBuilder::ip(headers)
}

/// The flow of a packet; every checksum in it must be right.
pub(super) fn flow_of(bytes: &[u8]) -> FlowKey {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let transport = sliced.transport.as_ref().unwrap();
    match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            let (s, d) = (header.source, header.destination);
            match transport {
                TransportSlice::Udp(udp) => assert_eq!(
                    udp.to_header()
                        .calc_checksum_ipv4_raw(s, d, udp.payload())
                        .unwrap(),
                    udp.checksum()
                ),
                TransportSlice::Tcp(tcp) => {
                    assert_eq!(tcp.calc_checksum_ipv4(s, d).unwrap(), tcp.checksum());
                }
                TransportSlice::Icmpv4(icmp) => assert_eq!(
                    icmp.header().icmp_type.calc_checksum(icmp.payload()),
                    icmp.checksum()
                ),
                other => panic!("{other:?}"),
            }
        }
        NetSlice::Ipv6(ip) => {
            let (s, d) = (ip.header().source(), ip.header().destination());
            match transport {
                TransportSlice::Udp(udp) => assert_eq!(
                    udp.to_header()
                        .calc_checksum_ipv6_raw(s, d, udp.payload())
                        .unwrap(),
                    udp.checksum()
                ),
                TransportSlice::Tcp(tcp) => {
                    assert_eq!(tcp.calc_checksum_ipv6(s, d).unwrap(), tcp.checksum());
                }
                TransportSlice::Icmpv6(icmp) => assert!(icmp.is_checksum_valid(s, d)),
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    }
    Packet::from_slice(bytes).parse().unwrap().flow
}
