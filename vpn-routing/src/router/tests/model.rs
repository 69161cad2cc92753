//! Any order of events against a naive oracle.
//!
//! The router keeps decisions, queues and indices; the oracle keeps a diary and recomputes all
//! from it: who held which port when, which rules were in force, what a tunnel was assigned. Every
//! packet carries a number, so what comes out is matched with what went in. Checked at each step:
//!
//! * a packet is in the tunnel that a rule names for somebody who held its port between its
//!   sending and its routing; a TCP connection that was answered may stay where it was;
//! * its source is assigned to that tunnel now, its payload and checksums are right;
//! * packets of one flow are in order, none is doubled;
//! * an answer is delivered through its own tunnel only, to the flow that asked;
//! * without anything to wait for, a packet that has a tunnel is there at once;
//! * accounts balance, and what is held and entered stays within bounds.
//!
//! Bugs that were put in on purpose, one at a time, and found by it within 1,000 cases: late answers
//! taken for new ones; a flow kept whose owner was not found in time; held packets all released
//! under the first one's owner; the tunnel not compared with the wire key; flows, or queued
//! packets, kept when a tunnel gets another address; a rule change not noticed by flows in the
//! table; ports not asked about again; held packets released in reverse; a transport's drops
//! counted twice. `PROPTEST_CASES=20000` looks longer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use vpn_core::packet::{Packet, PacketBatch, tcp_flags};
use vpn_core::testing::{build, verify_checksums};
use vpn_core::{
    Action, Assigned, DownCause, DropReason, FlowKey, Owner, OwnerAnswer, OwnerMatch, OwnerQuery,
    Protocol, Rule, RuleId, RuleMatch, RuleSnapshot, TransportState, TunnelId,
};

use super::steps::{PORTS, Step, TUNNELS, USERS, quarrel, step};
use super::world::{SITE, SITE6, addr};
use crate::dns::testing::query;
use crate::router::{Egress, Event, Router, RouterConfig, Update};
use crate::rules::{CompiledRules, RuleCache, Target};

const RESOLVER: &str = "10.99.0.1";
/// Answers that are not there by then never come.
const LOST: Duration = Duration::from_secs(10);
const MAX_FLOWS: usize = 24;

#[derive(Clone, Debug)]
struct Sent {
    flow: FlowKey,
    step: usize,
    bytes: Vec<u8>,
    new_connection: bool,
}

#[derive(Debug)]
struct Tunnel {
    id: TunnelId,
    assigned: Option<Assigned>,
    up: bool,
    blocked: bool,
    /// Numbers of the packets that were seen in its queue and not taken yet.
    seen: Vec<u32>,
}

struct Model {
    router: Router,
    cache: RuleCache,
    now: Instant,
    step: usize,
    rules: [u8; USERS as usize],
    /// Who held a port from which step on.
    holders: HashMap<u16, Vec<(usize, u32, u64)>>,
    sockets: u64,
    tunnels: Vec<Tunnel>,
    sent: Vec<Sent>,
    /// The tunnel a flow's last routed packet went to, and whether an answer came since its SYN.
    last: HashMap<FlowKey, (TunnelId, bool, u32)>,
    /// Where and when packets were routed.
    routed: HashMap<u32, (usize, usize)>,
    /// What came through tunnels, and whose it was.
    through: Vec<(usize, TunnelId, FlowKey, u32)>,
    asked: Vec<(Instant, OwnerQuery, OwnerAnswer)>,
    slow: bool,
}

fn number(bytes: &[u8]) -> u32 {
    let mut last = [0; 4];
    last.copy_from_slice(&bytes[bytes.len() - 4..]);
    u32::from_be_bytes(last)
}

/// A query whose id is the packet's number.
fn ask(number: &[u8; 4]) -> Vec<u8> {
    query(u16::from_be_bytes([number[2], number[3]]), "example.com", 1)
}

fn assigned(tunnel: usize, variant: u8) -> Assigned {
    let nets: Vec<String> = match variant {
        0 => vec!["10.5.0.2/32".into(), "fd00:5::2/128".into()],
        1 => vec![
            format!("10.6.{tunnel}.2/24"),
            format!("fd00:6:{tunnel}::2/64"),
        ],
        2 => vec!["10.5.0.9/16".into()],
        _ => vec!["fd00:5::2/128".into(), "10.5.0.2/32".into()],
    };
    Assigned {
        addresses: nets.iter().map(|n| n.parse().unwrap()).collect(),
        dns: vec![IpAddr::from([10, 64, tunnel as u8, variant])],
        mtu: 1420,
        ..Assigned::default()
    }
}

impl Model {
    fn new() -> Self {
        let now = Instant::now();
        let config = RouterConfig {
            max_flows: MAX_FLOWS,
            max_flows_per_owner: MAX_FLOWS / 2,
            resolvers: vec![addr(RESOLVER)],
            queue_packets: 32,
            ..RouterConfig::default()
        };
        let mut model = Self {
            router: Router::new(config, now),
            cache: RuleCache::new(),
            now,
            step: 0,
            rules: [0, 1, 2],
            holders: HashMap::new(),
            sockets: 0,
            tunnels: Vec::new(),
            sent: Vec::new(),
            last: HashMap::new(),
            routed: HashMap::new(),
            through: Vec::new(),
            asked: Vec::new(),
            slow: false,
        };
        for i in 0..TUNNELS {
            let id = model.router.add_tunnel(&i.to_string()).unwrap();
            model.tunnels.push(Tunnel {
                id,
                assigned: None,
                up: false,
                blocked: false,
                seen: Vec::new(),
            });
            model.run(Step::Up(i, 0));
        }
        for port in 0..PORTS {
            model.run(Step::Take(port, u32::from(port) % USERS));
        }
        model.swap();
        model
    }

    fn swap(&mut self) {
        let rules = self.rules.iter().enumerate().map(|(uid, &to)| {
            Rule::new(
                RuleId(uid as u64 + 1),
                RuleMatch {
                    owner: Some(OwnerMatch::Uid(uid as u32)),
                    ..RuleMatch::default()
                },
                match usize::from(to) {
                    TUNNELS => Action::Block,
                    tunnel => Action::Tunnel(tunnel.to_string()),
                },
            )
        });
        let compiled = CompiledRules::compile(
            &RuleSnapshot::from(rules.collect::<Vec<_>>()),
            &|name: &str| self.tunnels.get(name.parse::<usize>().ok()?).map(|t| t.id),
            Target::Block(DropReason::BlockedByDefault),
        );
        self.cache.swap(compiled.unwrap());
        let rules = self.cache.current();
        self.router.handle_update(self.now, Update::Rules(rules));
    }

    fn state(&mut self, tunnel: usize, state: TransportState) {
        let id = self.tunnels[tunnel].id;
        self.router
            .handle_update(self.now, Update::Tunnel(id, state));
    }

    fn run(&mut self, step: Step) {
        self.step += 1;
        match step {
            Step::Send(port, kind, to, count) => {
                for _ in 0..count {
                    self.send(2000 + port, kind, to);
                }
            }
            Step::Reply(which, wrong, kind) => self.reply(which, wrong, kind),
            Step::Rule(uid, to) => {
                self.rules[uid as usize] = to;
                self.swap();
            }
            Step::Take(port, uid) => {
                // Two system calls and a wake-up.
                self.now += Duration::from_millis(1);
                self.sockets += 1;
                let held = (self.step, uid, self.sockets);
                self.holders.entry(2000 + port).or_default().push(held);
            }
            Step::Up(tunnel, variant) => {
                let given = assigned(tunnel, variant);
                self.tunnels[tunnel].assigned = Some(given.clone());
                self.tunnels[tunnel].up = true;
                self.state(tunnel, TransportState::Up(Arc::new(given)));
            }
            Step::Down(tunnel) => {
                self.tunnels[tunnel].up = false;
                self.state(tunnel, TransportState::Down(DownCause::NoAnswer));
            }
            Step::Connecting(tunnel) => {
                self.tunnels[tunnel].up = false;
                self.state(tunnel, TransportState::Connecting);
            }
            Step::Replace(tunnel) => {
                self.router.remove_tunnel(self.now, self.tunnels[tunnel].id);
                let id = self.router.add_tunnel(&tunnel.to_string()).unwrap();
                let slot = &mut self.tunnels[tunnel];
                (slot.id, slot.assigned, slot.up) = (id, None, false);
                slot.seen.clear();
                self.swap();
            }
            Step::Advance(ms) => {
                self.now += Duration::from_millis(ms.into());
                let now = self.now;
                self.asked
                    .retain(|(asked, ..)| now.duration_since(*asked) < LOST);
                if self.now >= self.router.next_timeout() {
                    self.router.handle_timeout(self.now);
                }
            }
            Step::SlowOwners(slow) => self.slow = slow,
            Step::Answer(which, twice) => {
                if !self.asked.is_empty() {
                    let at = which.index(self.asked.len());
                    let (_, query, answer) = self.asked.remove(at);
                    if twice {
                        let again = Update::Owner(query, answer.clone());
                        self.router.handle_update(self.now, again);
                        // A resolver answers each question once; a repeated answer is dropped
                        // unless the same question is open again.
                        if self.is_asked_again(&query) {
                            return self.settle();
                        }
                    }
                    self.router
                        .handle_update(self.now, Update::Owner(query, answer));
                }
            }
            Step::Block(tunnel, blocked) => self.tunnels[tunnel].blocked = blocked,
            Step::Lose(tunnel, count) => self.lose(tunnel, count.into()),
        }
        self.settle();
    }

    fn is_asked_again(&mut self, query: &OwnerQuery) -> bool {
        self.router
            .events
            .iter()
            .any(|e| matches!(e, Event::ResolveOwner(q) if q == query))
    }

    fn send(&mut self, port: u16, kind: u8, to: u8) {
        let v6 = to == 2;
        let (src, dst) = match to {
            2 => (("fd00:5::2", port), (SITE6, 80)),
            1 => (("10.5.0.2", port), (RESOLVER, 53)),
            3 => (("10.5.0.2", port), (SITE, 443)),
            _ => (("10.5.0.2", port), (SITE, 80)),
        };
        let (src, dst) = ((addr(src.0), src.1), (addr(dst.0), dst.1));
        // A socket starts with a SYN, but for those older than the router.
        let taken = self.holders[&port].last().map_or(0, |held| held.0);
        let older = self.sent.iter().rfind(|s| {
            let f = s.flow;
            f.protocol() == Protocol::TCP
                && (f.src(), f.src_port()) == src
                && (f.dst(), f.dst_port()) == dst
        });
        let kind = match kind {
            2..=4 if older.is_some_and(|s| s.step < taken) => 1,
            kind => kind,
        };
        let payload = (self.sent.len() as u32).to_be_bytes();
        let flags = [
            0,
            tcp_flags::SYN,
            tcp_flags::ACK,
            tcp_flags::FIN,
            tcp_flags::RST,
            0,
        ];
        let bytes = match kind {
            0 if dst.1 == 53 => build::udp(src, dst, &[ask(&payload), payload.to_vec()].concat()),
            0 => build::udp(src, dst, &payload),
            5 => build::icmp_echo(src.0, dst.0, build::Echo::Request, port, 1, &payload),
            _ => build::tcp(src, dst, flags[usize::from(kind)], 1, &payload),
        };
        let packet = Packet::from_slice(&bytes);
        let flow = packet.parse().unwrap().flow;
        let new_connection = kind == 1;
        let step = self.step;
        self.sent.push(Sent {
            flow,
            step,
            bytes,
            new_connection,
        });
        let held = self.router.accounts().held;
        let dropped = self.router.accounts().drops.total();
        let mut batch = PacketBatch::new(1, 1600);
        batch.push(packet).unwrap();
        self.router.handle_device(self.now, &mut batch);
        self.settle();
        // Liveness: nothing to wait for, and nothing dropped that need not be.
        let &(_, uid, _) = self.holders[&port].last().unwrap();
        let Some(tunnel) = self.tunnels.get(usize::from(self.rules[uid as usize])) else {
            return;
        };
        let carries = tunnel
            .assigned
            .as_ref()
            .is_some_and(|a| a.addresses.iter().any(|net| net.addr().is_ipv6() == v6));
        if self.slow || held > 0 || !tunnel.up || !carries || tunnel.blocked {
            return;
        }
        let reasons = self.router.accounts().drops;
        let bounded = [
            DropReason::FlowTableFull,
            DropReason::OwnerQuota,
            DropReason::TunnelDown,
        ];
        let limit: u64 = bounded.iter().map(|&r| reasons.get(r)).sum();
        let lost = reasons.total() - dropped;
        assert!(lost == 0 || limit > 0, "dropped without need: {reasons:?}");
    }

    /// A packet that came through a tunnel is answered by its far end, or by another tunnel.
    fn reply(&mut self, which: Index, wrong: bool, kind: u8) {
        if self.through.is_empty() {
            return;
        }
        let (tunnel, _, wire, sent) = self.through[which.index(self.through.len())];
        let via = if wrong {
            (tunnel + 1) % TUNNELS
        } else {
            tunnel
        };
        let back = wire.reversed();
        let (src, dst) = ((back.src(), back.src_port()), (back.dst(), back.dst_port()));
        let ack = tcp_flags::ACK;
        let flags = [
            tcp_flags::SYN | ack,
            ack,
            ack | tcp_flags::FIN,
            tcp_flags::RST,
        ];
        let payload = sent.to_be_bytes();
        let bytes = match wire.protocol() {
            Protocol::UDP if src.1 == 53 => {
                let mut answer = [ask(&payload), payload.to_vec()].concat();
                answer[2] |= 0x80;
                build::udp(src, dst, &answer)
            }
            Protocol::UDP => build::udp(src, dst, &payload),
            Protocol::TCP => build::tcp(src, dst, flags[usize::from(kind)], 1, &payload),
            _ => build::icmp_echo(src.0, dst.0, build::Echo::Reply, dst.1, 1, &payload),
        };
        let mut batch = PacketBatch::new(1, 1600);
        batch.push(Packet::from_slice(&bytes)).unwrap();
        let through = self.tunnels[via].id;
        self.router.handle_tunnel(self.now, through, &mut batch);
        let mut delivered = Vec::new();
        let _ = self.router.transmit::<()>(Egress::Device, |queue, _| {
            delivered.extend(queue.drain());
            Ok(delivered.len())
        });
        for packet in delivered {
            let got = packet.parse().unwrap().flow.reversed();
            verify_checksums(packet.bytes()).unwrap();
            // Whose wire key that is now: the last that used it in that tunnel.
            let latest = self.through.iter().rev();
            let (_, _, _, asker) = latest
                .clone()
                .find(|(_, id, key, _)| *id == through && *key == wire)
                .expect("an answer to nothing that went through this tunnel");
            let asker = &self.sent[*asker as usize];
            assert_eq!(got, asker.flow, "the answer to another flow");
            if let Some((tunnel, answered, _)) = self.last.get_mut(&got) {
                *answered |= *tunnel == through;
            }
        }
    }

    /// A transport takes packets and loses them, counting each, or some twice, or none.
    fn lose(&mut self, tunnel: usize, count: usize) {
        let slot = &mut self.tunnels[tunnel];
        let _ = self
            .router
            .transmit::<()>(Egress::Tunnel(slot.id), |queue, drops| {
                let count = count.min(queue.len());
                drops.add(DropReason::TooBig, count as u64 * 2);
                queue.recycle_front(count);
                slot.seen.drain(..count.min(slot.seen.len()));
                if count == 1 { Err(()) } else { Ok(0) }
            });
    }

    fn settle(&mut self) {
        while let Some(event) = self.router.next_event() {
            if let Event::ResolveOwner(query) = event {
                let held = self.holders[&query.flow.src_port()].last();
                let &(_, uid, socket) = held.unwrap();
                let answer = OwnerAnswer::Known(Owner {
                    socket,
                    ..Owner::user(uid)
                });
                if self.slow {
                    self.asked.push((self.now, query, answer));
                } else {
                    // Old questions are still open: the resolver is slow with those only.
                    self.router
                        .handle_update(self.now, Update::Owner(query, answer));
                }
            }
        }
        self.check();
    }

    fn check(&mut self) {
        let accounts = self.router.accounts();
        assert!(accounts.balance(), "{accounts:?}");
        assert!(self.router.status().flows <= MAX_FLOWS);
        let limits = RouterConfig::default().hold;
        assert!(accounts.held <= (limits.flows * limits.flow_packets) as u64);
        let ready: Vec<Egress> = self.router.ready().collect();
        for index in 0..self.tunnels.len() {
            let slot = &self.tunnels[index];
            let (id, blocked) = (slot.id, slot.blocked);
            let mut queue_now = Vec::new();
            let _ = self.router.transmit::<()>(Egress::Tunnel(id), |queue, _| {
                queue_now.extend(queue.packets().iter().map(|p| p.bytes().to_vec()));
                if blocked {
                    return Ok(0);
                }
                queue.clear();
                Ok(queue_now.len())
            });
            assert_eq!(ready.contains(&Egress::Tunnel(id)), !queue_now.is_empty());
            let seen = std::mem::take(&mut self.tunnels[index].seen);
            for bytes in &queue_now {
                if seen.contains(&number(bytes)) {
                    self.check_source(index, bytes);
                } else {
                    self.check_routed(index, bytes);
                }
            }
            if blocked {
                self.tunnels[index].seen = queue_now.iter().map(|b| number(b)).collect();
            }
        }
    }

    fn check_source(&self, tunnel: usize, bytes: &[u8]) {
        let source = Packet::from_slice(bytes).parse().unwrap().flow.src();
        let assigned = self.tunnels[tunnel].assigned.as_ref();
        let has = assigned.is_some_and(|a| a.addresses.iter().any(|net| net.addr() == source));
        assert!(has, "{source} in tunnel {tunnel} with {assigned:?}");
    }

    /// A packet is in a tunnel's queue for the first time.
    fn check_routed(&mut self, tunnel: usize, bytes: &[u8]) {
        verify_checksums(bytes).unwrap();
        self.check_source(tunnel, bytes);
        let slot = &self.tunnels[tunnel];
        assert!(slot.up, "sent into a tunnel that is not up");
        let number = number(bytes);
        let sent = self.sent[number as usize].clone();
        let flow = sent.flow;
        let wire = Packet::from_slice(bytes).parse().unwrap().flow;
        assert_eq!(bytes.len(), sent.bytes.len());
        assert_eq!(wire.dst_port(), flow.dst_port());
        let resolver = slot.assigned.as_ref().map(|a| a.dns[0]);
        let steered = flow.dst() == addr(RESOLVER) && !flow.protocol().is_icmp();
        assert_eq!(
            Some(wire.dst()),
            if steered { resolver } else { Some(flow.dst()) }
        );
        // Who may have sent it, and what the rules say to each.
        let port = flow.src_port();
        let history = &self.holders[&port];
        let first = history
            .iter()
            .rposition(|(from, ..)| *from <= sent.step)
            .unwrap();
        let by_rule = history[first..]
            .iter()
            .any(|(_, uid, _)| usize::from(self.rules[*uid as usize]) == tunnel);
        let last = self.last.get(&flow).copied();
        let tcp = flow.protocol() == Protocol::TCP;
        let stays = tcp
            && !sent.new_connection
            && last.is_some_and(|(id, answered, _)| id == slot.id && answered)
            && history[first..]
                .iter()
                .any(|(_, uid, _)| usize::from(self.rules[*uid as usize]) != TUNNELS);
        assert!(
            by_rule || stays,
            "{flow} (packet {number}) in tunnel {tunnel}"
        );
        if let Some((id, _, before)) = last
            && before >= number
        {
            // Of two tunnels it cannot be told which got its packet first in one step.
            let (_, routed) = self.routed[&before];
            assert!(
                id != slot.id && routed == self.step,
                "{flow}: {number} after {before}"
            );
        }
        assert!(
            self.routed.insert(number, (tunnel, self.step)).is_none(),
            "twice"
        );
        let answered = last.is_some_and(|(id, answered, _)| answered && id == slot.id);
        let answered = answered && !sent.new_connection;
        let id = slot.id;
        self.last.insert(flow, (id, answered, number));
        self.through.push((tunnel, id, wire, number));
    }
}

proptest! {
    #[test]
    fn every_order_of_events_agrees_with_the_oracle(
        steps in prop::collection::vec(step(), 1..90)
    ) {
        let mut model = Model::new();
        for step in steps {
            model.run(step);
        }
        // At the end nothing is held for ever.
        for _ in 0..3 {
            model.run(Step::Advance(60_000));
        }
        prop_assert_eq!(model.router.accounts().held, 0);
    }

    #[test]
    fn a_port_that_goes_from_hand_to_hand_is_never_its_former_owners(
        steps in prop::collection::vec(quarrel(), 1..40)
    ) {
        let mut model = Model::new();
        model.slow = true;
        for step in steps {
            model.run(step);
        }
    }
}
