//! What a router can tell about itself: counters, tunnels, flows, and why a flow goes where.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::time::Duration;

use vpn_core::rule::FilterAction;
use vpn_core::{
    DomainName, DropCounters, DropReason, Evidence, FlowKey, Generation, InterfacePlan, Owner,
    OwnerDetail, Resources, RuleId, TransportState, TunnelId, Verdict,
};

use super::dns::DnsCounters;
use super::owners::OUTSIDER;
use super::resolve::Way;
use super::usage::Account;
use super::{Router, SWEEP_INTERVAL};
use crate::alloc::Placement;
use crate::conn::{Conn, Origin};
use crate::group::{GroupStatus, Reason};
use crate::rules::RuleStats;

/// Packets in and out of a router; a super-packet is one, as it is handed on or dropped as one. `in + made = out + Σ drops + held + queued` holds at any time between
/// two calls. Of several routers each counts what it handed over as well; in a report of all of them
/// that is as much in as out, and what is on its way is queued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Packets from the device.
    pub in_device: u64,
    /// Packets from tunnels.
    pub in_tunnels: u64,
    /// Packets that the router made itself: RSTs, ICMP errors, and the fragments that one packet
    /// became, the first apart.
    pub made: u64,
    /// Packets the device took.
    pub out_device: u64,
    /// Packets tunnels took.
    pub out_tunnels: u64,
    /// Drops of every kind, those of tunnels included.
    pub drops: DropCounters,
    /// Packets that wait for an owner or a tunnel.
    pub held: u64,
    /// Packets that wait to be taken by a tunnel or the device.
    pub queued: u64,
    /// Packets from the device that went to another router, which has their tunnel.
    pub handed_out: u64,
    /// Packets from the device that came from another router.
    pub handed_in: u64,
}

impl Accounts {
    /// Whether every packet is accounted for.
    pub fn balance(&self) -> bool {
        let came = self.in_device + self.in_tunnels + self.made + self.handed_in;
        let went = self.out_device + self.out_tunnels + self.handed_out;
        came == went + self.drops.total() + self.held + self.queued
    }

    pub(super) fn retire(&mut self, counters: &TunnelCounters) {
        self.drops.merge(&counters.drops);
    }
}

/// Counters of one tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelCounters {
    /// Packets routed into it, as they are on a wire: a super-packet is as many as its segments.
    pub tx_packets: u64,
    /// Their bytes, IP headers included.
    pub tx_bytes: u64,
    /// Packets from it that were delivered, counted likewise.
    pub rx_packets: u64,
    /// Their bytes, IP headers included.
    pub rx_bytes: u64,
    /// Packets dropped on account of it, both directions.
    pub drops: DropCounters,
}

/// One tunnel, as a status report shows it.
#[derive(Clone, Debug)]
pub struct TunnelStatus {
    /// Its id.
    pub id: TunnelId,
    /// Its name.
    pub name: String,
    /// Where its transport stands.
    pub state: TransportState,
    /// The addresses it was assigned, each with its role and what is on the device.
    pub addresses: Vec<Placement>,
    /// Its resolvers.
    pub dns: Vec<IpAddr>,
    /// Its MTU in bytes, 0 if not known yet.
    pub mtu: u16,
    /// Flows that use it.
    pub flows: usize,
    /// Names that its resolver gave to addresses.
    pub names: usize,
    /// Its counters.
    pub counters: TunnelCounters,
    /// How long a packet takes to its other end and back, if that was measured. The router does
    /// not know; the engine asks the transport, as for what follows.
    pub round_trip: Option<Duration>,
    /// What its transport occupies.
    pub resources: Resources,
}

/// DNS, as a status report shows it. All of it is bounded:
/// [`DnsLimits`](crate::dns::DnsLimits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsStatus {
    /// How often what happened.
    pub counters: DnsCounters,
    /// Queries that wait for their answers.
    pub pending: usize,
    /// Names that are known for addresses, in all tunnels.
    pub names: usize,
}

/// One flow, as a status report shows it.
#[derive(Clone, Debug)]
pub struct FlowStatus {
    /// As the application has it.
    pub device: FlowKey,
    /// As the tunnel carries it.
    pub wire: FlowKey,
    /// Through which tunnel.
    pub tunnel: TunnelId,
    /// Whose; `None` if no rule asked.
    pub owner: Option<Owner>,
    /// The rule that decided; `None` for the default action. An inbound rule if it began behind
    /// the tunnel.
    pub rule: Option<RuleId>,
    /// Who began it.
    pub origin: Origin,
}

/// What one application does through one tunnel, as a status report shows it. Its counters begin
/// with its first flow through that tunnel, and end with the last.
#[derive(Clone, Debug)]
pub struct AppStatus {
    /// Whose flows; `None` if no rule asked, or if somebody behind the tunnel began them.
    pub owner: Option<Owner>,
    /// Who began them.
    pub origin: Origin,
    /// Through which tunnel.
    pub tunnel: TunnelId,
    /// How many there are.
    pub flows: usize,
    /// Bytes that were sent, IP headers included. Fragments behind the first of a datagram are
    /// counted for the tunnel only.
    pub tx_bytes: u64,
    /// Bytes that came, likewise.
    pub rx_bytes: u64,
}

/// A whole report.
#[derive(Clone, Debug)]
pub struct Status {
    /// The tunnels, in the order they were added.
    pub tunnels: Vec<TunnelStatus>,
    /// The groups, by id.
    pub groups: Vec<GroupStatus>,
    /// Flows in the table.
    pub flows: usize,
    /// Generation of the rules in force.
    pub generation: Generation,
    /// How often rules decided a new flow, and how often none did.
    pub rules: RuleStats,
    /// What the interface should look like.
    pub plan: InterfacePlan,
    /// Queries, answers and the names they gave to addresses.
    pub dns: DnsStatus,
    /// All packets.
    pub accounts: Accounts,
}

/// Why a flow goes where it goes.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The flow that was asked about.
    pub flow: FlowKey,
    /// The owner it was asked for.
    pub owner: Option<Owner>,
    /// How much of the owner the rules ask for with this flow; `None` if nothing depends on it.
    pub needs: Option<OwnerDetail>,
    /// What the owner rests on, if it was looked up. The router does not; the engine's
    /// `explain_flow` does.
    pub evidence: Option<Evidence>,
    /// The rule that decides; `None` for the default action.
    pub rule: Option<RuleId>,
    /// The admitted route that decides, where no rule does.
    pub route: Option<ipnet::IpNet>,
    /// The group it would go by, and why its member was chosen; `None` for the reason if every
    /// member is down.
    pub group: Option<(String, Option<Reason>)>,
    /// Whether what the rule names is down, so that its fallback counts.
    pub fell_back: bool,
    /// What would become of its first packet.
    pub verdict: Verdict,
    /// The tunnel's name.
    pub tunnel: Option<String>,
    /// Where the tunnel's transport stands.
    pub state: Option<TransportState>,
    /// The source address it would leave with.
    pub source: Option<IpAddr>,
    /// The names its destination is known under, and the tunnel whose resolver said so.
    pub names: Vec<(TunnelId, DomainName)>,
    /// The resolver its query would be steered to, if it is one.
    pub resolver: Option<IpAddr>,
    /// The tunnel's MTU in bytes.
    pub mtu: Option<u16>,
}

impl Router {
    /// The counters. Cheap enough to call every second.
    pub fn accounts(&self) -> Accounts {
        let mut accounts = self.accounts.clone();
        accounts.held = self.hold.packets() + self.fragments.packets();
        accounts.queued = self.device.len() as u64 + self.to_hand_over();
        for (_, slot) in self.tunnels.iter() {
            accounts.queued += slot.queue.len() as u64;
            accounts.drops.merge(&slot.counters.drops);
        }
        accounts
    }

    /// A report. Walks all flows once.
    pub fn status(&self) -> Status {
        let mut flows = vec![
            0;
            self.tunnels
                .iter()
                .map(|(id, _)| id.index() + 1)
                .max()
                .unwrap_or(0)
        ];
        for conn in self.conns.iter() {
            if let Some(count) = flows.get_mut(conn.tunnel.index()) {
                *count += 1;
            }
        }
        let tunnels = self
            .tunnels
            .iter()
            .map(|(id, slot)| TunnelStatus {
                id,
                name: slot.name.clone(),
                state: slot.state.clone(),
                addresses: self.allocator.roles(id),
                dns: slot
                    .assigned
                    .as_ref()
                    .map(|a| a.dns.clone())
                    .unwrap_or_default(),
                mtu: slot.assigned.as_ref().map_or(0, |a| a.mtu),
                flows: flows[id.index()],
                names: self.dns.book().names_in(id),
                counters: slot.counters.clone(),
                round_trip: None,
                resources: Resources::default(),
            })
            .collect();
        Status {
            tunnels,
            flows: self.conns.len(),
            generation: self.rules.generation(),
            groups: self.group_status(),
            rules: self.rule_stats,
            plan: self.plan.clone(),
            dns: DnsStatus {
                counters: self.dns.counters,
                pending: self.dns.pending.len(),
                names: self.dns.book().len(),
            },
            accounts: self.accounts(),
        }
    }

    /// Up to `limit` flows.
    pub fn flows(&self, limit: usize) -> Vec<FlowStatus> {
        let status = |conn: Conn| FlowStatus {
            device: conn.device,
            wire: conn.wire,
            tunnel: conn.tunnel,
            owner: self.owner_named(&conn).cloned(),
            rule: conn.rule,
            origin: conn.origin,
        };
        self.conns.iter().take(limit).map(status).collect()
    }

    /// What applications do, by tunnel: up to `limit`, those first that moved most bytes.
    pub fn apps(&self, limit: usize) -> Vec<AppStatus> {
        let mut accounts: Vec<_> = self.usages.iter().collect();
        accounts.sort_by_key(|account| Reverse(account.tx_bytes + account.rx_bytes));
        let app = |account: &Account| AppStatus {
            owner: self.owners.get(account.owner).cloned(),
            origin: match account.owner {
                OUTSIDER => Origin::Tunnel,
                _ => Origin::Device,
            },
            tunnel: account.tunnel,
            flows: account.flows as usize,
            tx_bytes: account.tx_bytes,
            rx_bytes: account.rx_bytes,
        };
        accounts.into_iter().take(limit).map(app).collect()
    }

    /// Why a new flow of this owner would go where it goes. Changes nothing.
    pub fn explain(&self, owner: Option<&Owner>, flow: FlowKey) -> Explanation {
        self.explain_asking(owner, flow, None)
    }

    /// As [`explain`](Self::explain), for a DNS query in UDP that asks for `name`.
    pub fn explain_query(
        &self,
        owner: Option<&Owner>,
        flow: FlowKey,
        name: &DomainName,
    ) -> Explanation {
        self.explain_asking(owner, flow, Some(name))
    }

    fn explain_asking(
        &self,
        owner: Option<&Owner>,
        flow: FlowKey,
        asked: Option<&DomainName>,
    ) -> Explanation {
        // Nobody says what time it is: the last sweep's will do.
        let now = self.stamp(self.next_sweep - SWEEP_INTERVAL);
        let mut told = Explanation {
            flow,
            owner: owner.cloned(),
            needs: self.needs_owner(now, &flow, asked),
            evidence: None,
            rule: None,
            route: None,
            group: None,
            fell_back: false,
            verdict: Verdict::Drop(DropReason::RulesCold),
            tunnel: None,
            state: None,
            source: None,
            names: Vec::new(),
            resolver: None,
            mtu: None,
        };
        if self.generation.is_cold() {
            return told;
        }
        let book = self.dns.book();
        let names = book.names(now, flow.dst());
        told.names = names.map(|(tunnel, name)| (tunnel, name.clone())).collect();
        drop(book);
        let decision = self.decision(now, owner, &flow, asked);
        told.rule = decision.rule;
        told.route = self.route_of(&decision, &flow);
        let (way, found) = self.resolve_with(&decision, &flow, owner);
        told.fell_back = found.fell_back;
        told.group = found.group.and_then(|(id, reason)| {
            let name = self.groups.get(id)?.config().name.clone();
            Some((name, reason))
        });
        let tunnel = match way {
            Way::Block(reason) => {
                told.verdict = Verdict::Drop(reason);
                return told;
            }
            Way::Down(None) => {
                told.verdict = Verdict::Drop(DropReason::TunnelDown);
                return told;
            }
            Way::Through(tunnel) | Way::Down(Some(tunnel)) => tunnel,
        };
        let Some(slot) = self.tunnels.get(tunnel) else {
            told.verdict = Verdict::Drop(DropReason::NoSuchTunnel);
            return told;
        };
        told.tunnel = Some(slot.name.clone());
        told.state = Some(slot.state.clone());
        told.source = slot.address(flow.family());
        told.mtu = slot.assigned.as_ref().map(|a| a.mtu);
        let steers = self.steers(&flow);
        told.resolver = if steers {
            slot.resolver(flow.family())
        } else {
            None
        };
        told.verdict = match slot.state {
            _ if self.screened(tunnel, &flow) != FilterAction::Accept => {
                Verdict::Drop(DropReason::BlockedByFilter)
            }
            _ if Self::is_awaited(&slot.state) => Verdict::Held,
            TransportState::Up(_) if told.source.is_none() => {
                Verdict::Drop(DropReason::FamilyNotCarried)
            }
            TransportState::Up(_) if steers && told.resolver.is_none() => {
                Verdict::Drop(DropReason::NoResolver)
            }
            TransportState::Up(_) => Verdict::Tunnel(tunnel),
            _ => Verdict::Drop(DropReason::TunnelDown),
        };
        told
    }
}
