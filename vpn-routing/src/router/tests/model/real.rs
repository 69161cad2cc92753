//! The real router, driven by transitions, and a diary of all that came out of it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use vpn_core::packet::{Packet, PacketBatch, tcp_flags};
use vpn_core::testing::build;
use vpn_core::{
    Action, DropReason, FlowKey, Generation, GroupId, Owner, OwnerAnswer, OwnerQuery, Protocol,
    RuleSnapshot, TunnelId,
};

use super::super::world::addr;
use super::check::number;
use super::oracle::{FAIL_BACK, GROUP, Known, MEMBERS, Oracle, RESOLVER, Way};
use super::transition::*;
use crate::dns::testing::{Says, answer, query};
use crate::group::GroupConfig;
use crate::router::{Egress, Event, Router, RouterConfig, Update};
use crate::rules::{CompiledRules, Names, RuleCache, Target};

/// Answers that are not there by then never come.
const LOST: Duration = Duration::from_secs(10);
pub(super) const MAX_FLOWS: usize = 24;
/// Application ports begin here.
const FIRST_PORT: u16 = 2000;
/// The IPv4 addresses on the device, and the IPv6 addresses.
pub(super) const DEVICE: [[&str; 2]; 2] = [["10.5.0.2", "fd00:5::2"], ["10.6.0.9", "fd00:6::9"]];
/// A router somewhere behind a tunnel.
const HOP: [&str; 2] = ["198.51.100.1", "2001:db8:100::1"];

/// A packet an application sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) flow: FlowKey,
    pub(super) step: usize,
    pub(super) bytes: Vec<u8>,
    pub(super) new_connection: bool,
    /// What it asks for, if it is a query.
    pub(super) asks: Option<u8>,
}

/// A packet that came through a tunnel.
#[derive(Clone, Debug)]
pub(super) struct Came {
    pub(super) tunnel: u8,
    pub(super) id: TunnelId,
    pub(super) wire: FlowKey,
    pub(super) sent: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) at: Duration,
}

/// An answer that was delivered: through which tunnel, as it was there and as it is here.
#[derive(Clone, Debug)]
pub(super) struct Delivered {
    pub(super) id: TunnelId,
    pub(super) wire: Vec<u8>,
    pub(super) bytes: Vec<u8>,
}

/// Where a flow's last packet went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    pub(super) id: TunnelId,
    /// Whether an answer came since its SYN.
    pub(super) answered: bool,
    pub(super) number: u32,
    pub(super) generation: Generation,
    pub(super) socket: u64,
}

pub(super) struct Real {
    pub(super) router: Router,
    cache: RuleCache,
    start: Instant,
    pub(super) ids: Vec<TunnelId>,
    /// Numbers of the packets, and places of fragments, that were seen in each tunnel's queue and not taken yet.
    pub(super) seen: Vec<Vec<(u32, u16)>>,
    pub(super) sent: Vec<Sent>,
    pub(super) last: HashMap<FlowKey, Last>,
    /// Where and when packets were routed, and at which offset of their datagram.
    pub(super) routed: HashMap<(u32, u16), (TunnelId, usize)>,
    pub(super) came: Vec<Came>,
    pub(super) delivered: Vec<Delivered>,
    /// Queries that were answered.
    pub(super) answered: HashSet<u32>,
    /// Flows of which it was said once that nobody owns them.
    pub(super) unowned: HashSet<FlowKey>,
    /// What answers said, and until when that holds at least.
    pub(super) book: Vec<(Known, Duration)>,
    /// Flows of queries in fragments, which are refused once they are put together.
    pub(super) in_pieces: HashSet<FlowKey>,
    /// How many datagrams in fragments each address sent.
    fragment_ids: HashMap<IpAddr, u32>,
    asked: Vec<(Duration, OwnerQuery, OwnerAnswer)>,
}

/// What names in rules stand for here.
struct Named<'a> {
    ids: &'a [TunnelId],
    group: Option<GroupId>,
}

impl Names for Named<'_> {
    fn tunnel(&self, name: &str) -> Option<TunnelId> {
        self.ids.get(name.parse::<usize>().ok()?).copied()
    }

    fn group(&self, name: &str) -> Option<GroupId> {
        self.group.filter(|_| name == GROUP)
    }
}

impl Real {
    pub(super) fn new(oracle: &Oracle) -> Self {
        let start = Instant::now();
        let config = RouterConfig {
            max_flows: MAX_FLOWS,
            max_flows_per_owner: MAX_FLOWS / 2,
            resolvers: vec![addr(RESOLVER)],
            queue_packets: 32,
            seed: Some(1),
            ..RouterConfig::default()
        };
        let mut real = Self {
            router: Router::new(config, start),
            cache: RuleCache::new(),
            start,
            ids: Vec::new(),
            seen: vec![Vec::new(); TUNNELS.into()],
            sent: Vec::new(),
            last: HashMap::new(),
            routed: HashMap::new(),
            came: Vec::new(),
            delivered: Vec::new(),
            answered: HashSet::new(),
            unowned: HashSet::new(),
            book: Vec::new(),
            asked: Vec::new(),
            in_pieces: HashSet::new(),
            fragment_ids: HashMap::new(),
        };
        for tunnel in 0..TUNNELS {
            let id = real.router.add_tunnel(&tunnel.to_string()).unwrap();
            real.ids.push(id);
            real.tunnel_state(oracle, tunnel);
        }
        real.set_groups(oracle);
        real.swap(oracle);
        real.settle(oracle);
        real
    }

    pub(super) fn now(&self, oracle: &Oracle) -> Instant {
        self.start + oracle.now
    }

    fn update(&mut self, oracle: &Oracle, update: Update) {
        let now = self.now(oracle);
        self.router.handle_update(now, update);
    }

    fn tunnel_state(&mut self, oracle: &Oracle, tunnel: u8) {
        let state = oracle.transport_state(tunnel);
        let id = self.ids[usize::from(tunnel)];
        self.update(oracle, Update::Tunnel(id, state));
    }

    fn set_groups(&mut self, oracle: &Oracle) {
        let members = MEMBERS.map(|member| self.ids[usize::from(member)]);
        let group = GroupConfig::new(GROUP, members).fail_back(FAIL_BACK);
        let now = self.now(oracle);
        self.router.set_groups(now, vec![group]).unwrap();
    }

    fn swap(&mut self, oracle: &Oracle) {
        let names = Named {
            ids: &self.ids,
            group: self.router.group_named(GROUP),
        };
        let compiled = CompiledRules::compile(
            &RuleSnapshot::from(oracle.written()),
            &names,
            Target::Block(DropReason::BlockedByDefault),
        );
        self.cache.swap(compiled.unwrap());
        let rules = self.cache.current();
        self.update(oracle, Update::Rules(rules));
    }

    pub(super) fn run(&mut self, oracle: &Oracle, transition: &Transition) {
        match *transition {
            Transition::Send {
                port,
                kind,
                to,
                count,
            } => {
                for _ in 0..count {
                    self.send(oracle, port, kind, to);
                }
            }
            Transition::Fragments {
                port,
                to,
                first,
                backwards,
            } => self.fragments(oracle, port, to, first.into(), backwards),
            Transition::Noise { ref bytes, tunnel } => self.noise(oracle, bytes, tunnel),
            Transition::Reply { which, wrong, kind } => self.reply(oracle, which, wrong, kind),
            Transition::ErrorIn { which, wrong } => self.error_in(oracle, which, wrong),
            Transition::ErrorOut { which } => self.error_out(oracle, which),
            Transition::Rule { .. } => self.swap(oracle),
            Transition::Tunnel { tunnel, .. } => self.tunnel_state(oracle, tunnel),
            Transition::Replace { tunnel } => self.replace(oracle, tunnel),
            Transition::Advance { .. } => self.advance(oracle),
            Transition::Answer {
                which,
                twice,
                nobody,
            } => self.answer_owner(oracle, which, twice, nobody),
            Transition::Lose { tunnel, count } => self.lose(tunnel, count.into()),
            Transition::Take { .. } | Transition::SlowOwners(_) | Transition::Stall { .. } => {}
        }
        self.settle(oracle);
    }

    fn replace(&mut self, oracle: &Oracle, tunnel: u8) {
        let at = usize::from(tunnel);
        let now = self.now(oracle);
        self.router.remove_tunnel(now, self.ids[at]);
        self.ids[at] = self.router.add_tunnel(&tunnel.to_string()).unwrap();
        self.seen[at].clear();
        // What the resolver of another tunnel said goes with it.
        self.book.retain(|((said, ..), _)| *said != Some(tunnel));
        self.set_groups(oracle);
        self.swap(oracle);
    }

    fn advance(&mut self, oracle: &Oracle) {
        self.asked.retain(|(asked, ..)| oracle.now - *asked < LOST);
        let now = self.now(oracle);
        if now >= self.router.next_timeout() {
            self.router.handle_timeout(now);
        }
    }

    fn send(&mut self, oracle: &Oracle, port: u8, kind: Kind, to: To) {
        let (src, dst) = ends(port, to);
        // A socket starts with a SYN, but for those older than the router.
        let taken = oracle.holder(port).from;
        let older = self.sent.iter().rfind(|s| {
            let f = s.flow;
            f.protocol() == Protocol::TCP
                && (f.src(), f.src_port()) == src
                && (f.dst(), f.dst_port()) == dst
        });
        let kind = match kind {
            Kind::Ack | Kind::Fin | Kind::Rst if older.is_some_and(|s| s.step < taken) => Kind::Syn,
            kind => kind,
        };
        let number = self.sent.len() as u32;
        let payload = number.to_be_bytes();
        let tcp = |flags| build::tcp(src, dst, flags, 1, &payload);
        let mut asks = None;
        let bytes = match (kind, to) {
            (Kind::Udp, To::Resolver(name)) => {
                asks = Some(name);
                build::udp(
                    src,
                    dst,
                    &[question(number, name), payload.to_vec()].concat(),
                )
            }
            (Kind::Udp, _) => build::udp(src, dst, &payload),
            (Kind::Syn, _) => tcp(tcp_flags::SYN),
            (Kind::Ack, _) => tcp(tcp_flags::ACK),
            (Kind::Fin, _) => tcp(tcp_flags::FIN | tcp_flags::ACK),
            (Kind::Rst, _) => tcp(tcp_flags::RST),
            (Kind::Echo, _) => {
                build::icmp_echo(src.0, dst.0, build::Echo::Request, src.1, 1, &payload)
            }
        };
        let flow = self.enter(oracle, bytes.clone(), kind == Kind::Syn, asks);
        let before = self.router.accounts();
        self.at_device(oracle, &[bytes]);
        self.settle(oracle);
        if before.held == 0 {
            self.check_nothing_lost(oracle, port, &flow, asks, &before.drops);
        }
    }

    fn enter(&mut self, oracle: &Oracle, bytes: Vec<u8>, syn: bool, asks: Option<u8>) -> FlowKey {
        let flow = Packet::from_slice(&bytes).parse().unwrap().flow;
        self.sent.push(Sent {
            flow,
            step: oracle.step,
            bytes,
            new_connection: syn,
            asks,
        });
        flow
    }

    fn at_device(&mut self, oracle: &Oracle, packets: &[Vec<u8>]) {
        let mut batch = PacketBatch::new(packets.len().max(1), 1600);
        for bytes in packets {
            batch.push(Packet::from_slice(bytes)).unwrap();
        }
        let now = self.now(oracle);
        self.router.handle_device(now, &mut batch);
        assert!(batch.is_empty());
    }

    /// What comes out at the device for one packet from a tunnel.
    fn at_tunnel(&mut self, oracle: &Oracle, tunnel: u8, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut batch = PacketBatch::new(1, 1600);
        batch.push(Packet::from_slice(bytes)).unwrap();
        let (now, id) = (self.now(oracle), self.ids[usize::from(tunnel)]);
        self.router.handle_tunnel(now, id, &mut batch);
        assert!(batch.is_empty());
        self.take_device()
    }

    pub(super) fn take_device(&mut self) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        let _ = self.router.transmit::<()>(Egress::Device, |queue, _| {
            taken.extend(queue.packets().iter().map(|p| p.bytes().to_vec()));
            queue.clear();
            Ok(taken.len())
        });
        taken
    }

    /// A datagram of four pieces or five. Its payload is its number again and again, so that each
    /// piece ends with it.
    fn fragments(&mut self, oracle: &Oracle, port: u8, to: To, first: usize, backwards: bool) {
        let (src, dst) = ends(port, to);
        let number = self.sent.len() as u32;
        let bytes = build::udp(src, dst, &number.to_be_bytes().repeat(32));
        let flow = self.enter(oracle, bytes.clone(), false, None);
        let before = self.router.accounts();
        let mtu = if src.0.is_ipv4() { 60 } else { 88 };
        // One sender's identifications differ; those of two may be the same.
        let ids = self.fragment_ids.entry(src.0).or_default();
        *ids += 1;
        let mut pieces = build::fragments(&bytes, mtu, *ids);
        let count = pieces.len();
        pieces.rotate_left(first % count);
        if backwards {
            pieces.reverse();
        }
        for piece in pieces {
            self.at_device(oracle, &[piece]);
            self.settle(oracle);
        }
        // A resolver gets queries only, and whole.
        if matches!(to, To::Resolver(_)) {
            self.in_pieces.insert(flow);
        } else if before.held == 0 {
            self.check_nothing_lost(oracle, port, &flow, None, &before.drops);
        }
    }

    fn noise(&mut self, oracle: &Oracle, bytes: &[u8], tunnel: Option<u8>) {
        let mut bytes = bytes.to_vec();
        if let Some(first) = bytes.first_mut() {
            *first = if *first & 1 == 0 { 0x45 } else { 0x60 };
        }
        // Not by chance somebody's flow: the oracle would not know it.
        if Packet::from_slice(&bytes)
            .parse()
            .is_ok_and(|p| !p.first_fragment)
        {
            return;
        }
        match tunnel {
            None => self.at_device(oracle, &[bytes]),
            Some(tunnel) => {
                let out = self.at_tunnel(oracle, tunnel, &bytes);
                assert!(out.is_empty(), "noise was delivered: {out:?}");
            }
        }
    }

    /// A packet that came through a tunnel is answered by its far end, or by another tunnel.
    fn reply(&mut self, oracle: &Oracle, which: u16, wrong: bool, kind: u8) {
        let Some(came) = self.pick(which) else { return };
        let via = if wrong {
            (came.tunnel + 1) % TUNNELS
        } else {
            came.tunnel
        };
        let back = came.wire.reversed();
        let (src, dst) = ((back.src(), back.src_port()), (back.dst(), back.dst_port()));
        let ack = tcp_flags::ACK;
        let flags = [
            tcp_flags::SYN | ack,
            ack,
            ack | tcp_flags::FIN,
            tcp_flags::RST,
        ];
        let payload = came.sent.to_be_bytes();
        let asks = self.sent[came.sent as usize].asks;
        let bytes = match (came.wire.protocol(), asks) {
            (Protocol::UDP, Some(name)) => {
                let address = [super::super::world::SITE, "203.0.113.99"][usize::from(kind % 2)];
                let name = NAMES[usize::from(name)];
                let says = Says::Address(name, address, 60);
                let message = answer(came.sent as u16, name, 1, &[says]);
                build::udp(src, dst, &message)
            }
            (Protocol::UDP, None) => build::udp(src, dst, &payload),
            (Protocol::TCP, _) => build::tcp(src, dst, flags[usize::from(kind)], 1, &payload),
            _ => build::icmp_echo(src.0, dst.0, build::Echo::Reply, dst.1, 1, &payload),
        };
        let out = self.at_tunnel(oracle, via, &bytes);
        self.check_delivered(oracle, &came, via, kind, &bytes, out);
    }

    fn error_in(&mut self, oracle: &Oracle, which: u16, wrong: bool) {
        let Some(came) = self.pick(which) else { return };
        let via = if wrong {
            (came.tunnel + 1) % TUNNELS
        } else {
            came.tunnel
        };
        let source = came.wire.src();
        let v6 = source.is_ipv6();
        let (kind, code) = if v6 { (1, 0) } else { (3, 1) };
        let bytes = build::icmp(
            addr(HOP[usize::from(v6)]),
            source,
            kind,
            code,
            0,
            &came.bytes,
        );
        let out = self.at_tunnel(oracle, via, &bytes);
        self.check_error_delivered(&came, via, out);
    }

    fn error_out(&mut self, oracle: &Oracle, which: u16) {
        if self.delivered.is_empty() {
            return;
        }
        let at = usize::from(which) % self.delivered.len();
        let quoted = self.delivered[at].bytes.clone();
        let flow = Packet::from_slice(&quoted).parse().unwrap().flow;
        let (kind, code) = if flow.src().is_ipv6() { (1, 4) } else { (3, 3) };
        let bytes = build::icmp(flow.dst(), flow.src(), kind, code, 0, &quoted);
        self.at_device(oracle, &[bytes]);
    }

    fn pick(&self, which: u16) -> Option<Came> {
        let count = self.came.len().max(1);
        self.came.get(usize::from(which) % count).cloned()
    }

    fn answer_owner(&mut self, oracle: &Oracle, which: u16, twice: bool, nobody: bool) {
        if self.asked.is_empty() {
            return;
        }
        let at = usize::from(which) % self.asked.len();
        let (_, query, answer) = self.asked.remove(at);
        let answer = if nobody { OwnerAnswer::Unknown } else { answer };
        if nobody {
            self.unowned.insert(query.flow);
        }
        if twice {
            self.update(oracle, Update::Owner(query, answer.clone()));
            // A resolver answers each question once; a repeated answer is dropped unless the same
            // question is open again.
            if self.is_asked_again(&query) {
                return;
            }
        }
        self.update(oracle, Update::Owner(query, answer));
    }

    fn is_asked_again(&self, query: &OwnerQuery) -> bool {
        let mut events = self.router.events.iter();
        events.any(|e| matches!(e, Event::ResolveOwner(q) if q == query))
    }

    /// A transport takes packets and loses them, counting each, or some twice, or none.
    fn lose(&mut self, tunnel: u8, count: usize) {
        let at = usize::from(tunnel);
        let seen = &mut self.seen[at];
        let target = Egress::Tunnel(self.ids[at]);
        let _ = self.router.transmit::<()>(target, |queue, drops| {
            let count = count.min(queue.len());
            drops.add(DropReason::TooBig, count as u64 * 2);
            queue.recycle_front(count);
            seen.drain(..count.min(seen.len()));
            if count == 1 { Err(()) } else { Ok(0) }
        });
    }

    pub(super) fn settle(&mut self, oracle: &Oracle) {
        while let Some(event) = self.router.next_event() {
            match event {
                Event::ResolveOwner(query) => self.owner_is_asked(oracle, query),
                Event::Wake(id) => {
                    let tunnel = self.ids.iter().position(|known| *known == id).unwrap();
                    assert_eq!(oracle.tunnels[tunnel].state, State::Dormant);
                }
                _ => {}
            }
        }
        self.check(oracle);
    }

    fn owner_is_asked(&mut self, oracle: &Oracle, query: OwnerQuery) {
        let port = Self::port_of(&query.flow);
        let held = oracle.holder(port);
        let answer = OwnerAnswer::Known(Owner {
            socket: held.socket,
            ..Owner::user(held.user.into())
        });
        if oracle.slow {
            self.asked.push((oracle.now, query, answer));
        } else {
            // Old questions are still open: the resolver is slow with those only.
            self.update(oracle, Update::Owner(query, answer));
        }
    }

    /// The ways that the rules give a packet now, whatever is or is not remembered of names that
    /// are over.
    pub(super) fn ways(
        &self,
        oracle: &Oracle,
        user: Option<u8>,
        flow: &FlowKey,
        asks: Option<u8>,
    ) -> Vec<(Option<Action>, Way, Change)> {
        let of_flow = |(said, addr, name): &Known| {
            (*addr == flow.dst()).then(|| (*said, *addr, name.clone()))
        };
        let (mut sure, mut perhaps) = (Vec::new(), Vec::new());
        for (known, until) in &self.book {
            match of_flow(known) {
                Some(known) if *until > oracle.now => sure.push(known),
                Some(known) if !perhaps.contains(&known) => perhaps.push(known),
                _ => {}
            }
        }
        if let Some(name) = asks {
            sure.push((None, flow.dst(), NAMES[usize::from(name)].parse().unwrap()));
        }
        perhaps.retain(|known| !sure.contains(known));
        assert!(perhaps.len() < 12, "few names, few tunnels");
        let subsets = 0..1u32 << perhaps.len();
        let then = oracle.during_removal();
        let mut ways: Vec<_> = subsets
            .flat_map(|subset| {
                let chosen = perhaps.iter().enumerate();
                let chosen = chosen.filter(|(bit, _)| subset & 1 << bit != 0);
                let chosen = chosen.map(|(_, known)| known.clone());
                let known: Vec<Known> = sure.iter().cloned().chain(chosen).collect();
                let rule = oracle.decide(user, flow, &known);
                let change = match rule.as_ref().map(|rule| rule.on_change) {
                    Some(vpn_core::OnChange::Reset) => Change::Reset,
                    Some(vpn_core::OnChange::Drop) => Change::Drop,
                    _ => Change::Keep,
                };
                let times = [Some(oracle), then.as_ref()].into_iter().flatten();
                let ways = times.map(|oracle| {
                    let action = rule.as_ref().map(|rule| rule.action.clone());
                    (action, oracle.way(rule.as_ref()), change)
                });
                ways.collect::<Vec<_>>()
            })
            .collect();
        ways.dedup();
        ways
    }

    /// The number of a packet's port among the application's.
    pub(super) fn port_of(flow: &FlowKey) -> u8 {
        let v6 = flow.src().is_ipv6();
        let here = (flow.src(), flow.src_port());
        (0..PORTS).find(|port| end(*port, v6) == here).unwrap()
    }

    pub(super) fn remember(&mut self, tunnel: u8, bytes: &[u8], wire: FlowKey, at: Duration) {
        self.came.push(Came {
            tunnel,
            id: self.ids[usize::from(tunnel)],
            wire,
            sent: number(bytes),
            bytes: bytes.to_vec(),
            at,
        });
    }
}

/// A query whose id is the packet's number.
fn question(number: u32, name: u8) -> Vec<u8> {
    query(number as u16, NAMES[usize::from(name)], 1)
}

fn ends(port: u8, to: To) -> ((IpAddr, u16), (IpAddr, u16)) {
    let src = end(port, to.addr().is_ipv6());
    (src, (to.addr(), to.port()))
}

/// The last port has the number of the first, at another address.
fn end(port: u8, v6: bool) -> (IpAddr, u16) {
    let last = port + 1 == PORTS;
    let device = DEVICE[usize::from(last)][usize::from(v6)];
    (addr(device), FIRST_PORT + u16::from(port % (PORTS - 1)))
}
