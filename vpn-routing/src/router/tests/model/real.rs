//! The real router, driven by transitions, and a diary of all that came out of it.

mod traffic;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use vpn_core::packet::{Packet, PacketBatch, tcp_flags};
use vpn_core::testing::build;
use vpn_core::{
    Action, DropReason, FlowKey, Generation, GroupId, Owner, OwnerAnswer, OwnerQuery, Protocol,
    RuleSnapshot, TunnelId,
};

use super::super::crew::Crew;
use super::super::world::addr;
use super::check::number;
use super::oracle::{FAIL_BACK, GROUP, Known, MEMBERS, Oracle, RESOLVER, Way};
use super::transition::*;
use crate::dns::testing::{Says, answer, query};
use crate::group::GroupConfig;
use crate::router::{Egress, Event, RouterConfig, Update};
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
    pub(super) router: Crew,
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
    /// When, which router, what, and the answer.
    asked: Vec<(Duration, usize, OwnerQuery, OwnerAnswer)>,
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
            router: Crew::new(config, start, super::WORKERS.get()),
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

    fn answer_owner(&mut self, oracle: &Oracle, which: u16, twice: bool, nobody: bool) {
        if self.asked.is_empty() {
            return;
        }
        let at = usize::from(which) % self.asked.len();
        let (_, asker, query, answer) = self.asked.remove(at);
        let answer = if nobody { OwnerAnswer::Unknown } else { answer };
        if nobody {
            self.unowned.insert(query.flow);
        }
        let now = self.now(oracle);
        if twice {
            self.router.answer(now, asker, query, answer.clone());
            // A resolver answers each question once; a repeated answer is dropped unless the same
            // question is open again.
            if self.router.is_asked(asker, &query) {
                return;
            }
        }
        self.router.answer(now, asker, query, answer);
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
        while let Some((from, event)) = self.router.next_event() {
            match event {
                Event::ResolveOwner(query) => self.owner_is_asked(oracle, from, query),
                Event::Wake(id) => {
                    let tunnel = self.ids.iter().position(|known| *known == id).unwrap();
                    assert_eq!(oracle.tunnels[tunnel].state, State::Dormant);
                }
                _ => {}
            }
        }
        self.check(oracle);
    }

    fn owner_is_asked(&mut self, oracle: &Oracle, asker: usize, query: OwnerQuery) {
        let port = Self::port_of(&query.flow);
        let held = oracle.holder(port);
        let answer = OwnerAnswer::Known(Owner {
            socket: held.socket,
            ..Owner::user(held.user.into())
        });
        if oracle.slow {
            self.asked.push((oracle.now, asker, query, answer));
        } else {
            // Old questions are still open: the resolver is slow with those only.
            let now = self.now(oracle);
            self.router.answer(now, asker, query, answer);
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
