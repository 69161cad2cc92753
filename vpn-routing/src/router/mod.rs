//! The router: which tunnel a packet belongs to, and what it must look like there.
//!
//! A pure state machine. It has no socket, no task and no clock: packets, events and the time go
//! in, packets and events come out. The `engine` module drives it on tokio; a test drives it on
//! virtual time.
//!
//! # The driver's contract
//!
//! Six verbs put something in or ask for something:
//!
//! | Verb | When |
//! |---|---|
//! | [`handle_device`](Router::handle_device) | packets arrived from the device |
//! | [`handle_tunnel`](Router::handle_tunnel) | packets arrived from a tunnel |
//! | [`handle_update`](Router::handle_update) | rules, a tunnel's state or an owner became known |
//! | [`next_timeout`](Router::next_timeout) | when to call the next one |
//! | [`handle_timeout`](Router::handle_timeout) | that time has come |
//! | [`next_event`](Router::next_event) | after each of the above, until it returns `None` |
//!
//! After every verb that takes `now`, drain the events (answering
//! [`Event::ResolveOwner`] may release packets), then [`transmit`](Router::transmit) every target
//! that [`ready`](Router::ready) names. What a target does not take stays queued up to a bound;
//! beyond it packets are dropped and counted as
//! [`QueueFull`](vpn_core::DropReason::QueueFull).
//!
//! Time never runs backwards between calls, and between two calls of
//! [`handle_timeout`](Router::handle_timeout) lie days at most, not weeks.
//!
//! # Who sent it
//!
//! An owner is asked for when a packet could be the first of another socket: a SYN, or a datagram
//! after a pause ([`RouterConfig::recheck_owner`]). Until the answer is there, the flow's packets
//! wait in order. An answer counts for the packet that was asked about and those right behind it;
//! packets that came after a pause are asked about again. A flow whose owner stays in doubt is
//! forgotten. What nobody can tell is who had a port *before* the question, if it changed hands
//! between a packet's sending and its arrival here.
//!
//! # DNS
//!
//! A query in UDP is decided by the name it asks for, each one anew: one socket may ask for names of
//! two tunnels. If a query goes through another tunnel than its flow did, the flow moves, and what
//! it asked before is not waited for any more. A query to an address that stands for a resolver is
//! steered to the resolver of its tunnel, of its family, or dropped; then an answer passes once, if
//! its id and question are those of a query that waits ([`DropReason::DnsUnexpected`] else). What
//! answers say about addresses is kept per tunnel in a [`Book`](crate::dns::Book), and new flows
//! are decided with it. Flows that are in the table are not moved by an answer. DNS in TCP is
//! steered like any flow and not read; see [the manual](crate::manual::dns).
//!
//! What is no DNS pays one compare of a flag per packet; each bound is in
//! [`DnsLimits`](crate::dns::DnsLimits).
//!
//! # From behind a tunnel
//!
//! A packet from a tunnel is the answer to a flow of that very tunnel, or the first of a flow that
//! an [inbound rule](vpn_core::InboundRule) lets in, or it is dropped. What was let in is answered
//! through the tunnel it came by, whoever answers.
//!
//! # Fragments
//!
//! The first fragment of a datagram is routed like any packet; the others have no ports and follow
//! it, in any order and in bounds: see [`fragment`](crate::fragment). A packet that is larger than
//! its tunnel carries is cut, or its sender is told what fits.
//!
//! # Promises
//!
//! * A packet goes to the tunnel its rule names or is dropped for a counted reason.
//! * `in + made = out + Σ drops + held + queued`, exactly: see [`Accounts`].
//! * Any bytes give a verdict, and one bad packet leaves its batch-mates untouched.
//! * In steady state nothing is allocated per packet.

mod admit;
mod advertised;
mod ahead;
mod budget;
mod change;
mod config;
mod demand;
mod directory;
mod dns;
mod enter;
mod errors;
mod fragments;
mod groups;
mod guests;
mod hold;
mod inbound;
mod measure;
mod merge;
mod mtu;
mod narrow;
mod options;
mod outbound;
mod owners;
mod plain;
mod quota;
mod release;
mod reset;
mod resolve;
mod revalidate;
mod screen;
mod shard;
mod standing;
mod status;
mod translate;
mod tunnels;
mod usage;
mod usual;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vpn_core::packet::{BufferPool, Packet, PacketBatch};
use vpn_core::{
    DropCounters, DropReason, Generation, InterfacePlan, OwnerAnswer, OwnerQuery, TransportState,
    TunnelId,
};

use crate::alloc::{Allocator, Conflict, Refusal};
use crate::conn::{Conn, ConnTable, Stamp};
use crate::fragment::Fragments;
use crate::group::Standing;
use crate::nat::Mappings;
use crate::routes::{RouteReport, RouteTable};
use crate::rules::{CompiledRules, RuleStats};

pub use budget::MemoryBudget;
pub use config::{Answer, Answers, HoldLimits, HoldQuota, RouterConfig};
pub use dns::DnsCounters;
pub use groups::GroupView;
pub use options::TunnelOptions;
pub use shard::{Handed, WorkerId};
pub use status::{
    Accounts, AppStatus, DnsStatus, Explanation, FlowStatus, Status, TunnelCounters, TunnelStatus,
};

use ahead::Ahead;
use dns::Dns;
use fragments::FragmentWay;
use groups::Groups;
use guests::Guests;
use hold::Hold;
use owners::Owners;
use reset::Walk;
use screen::Tells;
use shard::Shard;
use tunnels::Tunnels;
use usage::Usages;

/// How often the sweep for expired flows runs.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Sweeps for one full round over the connection table: a flow outlives its timeout by this many
/// seconds at most, and one sweep stays short.
const SWEEPS_PER_ROUND: usize = 16;

/// Where packets leave the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Egress {
    /// To the device, for applications.
    Device,
    /// Into a tunnel.
    Tunnel(TunnelId),
}

/// Something became known.
#[derive(Debug)]
#[non_exhaustive]
pub enum Update {
    /// These rules are in force from now on.
    Rules(Arc<CompiledRules>),
    /// A tunnel's transport changed its state. What is queued for a tunnel that goes down, closes
    /// or loses the address it was translated to is dropped and counted; closed is final.
    Tunnel(TunnelId, TransportState),
    /// The owner of a flow was found, or will not be. Each question is answered once. An answer
    /// that comes after its flow gave up is not used; if the flow waits again, it is asked about
    /// anew, since another program may have the port.
    Owner(OwnerQuery, OwnerAnswer),
    /// A tunnel's round trip was measured, smoothed.
    RoundTrip(TunnelId, Duration),
    /// Groups stand so now, of the router that decides about them: see [`Event::Groups`].
    Groups(GroupView),
}

/// Something the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Find this flow's owner and answer with [`Update::Owner`]. Until then, or until a deadline,
    /// its packets are held.
    ResolveOwner(OwnerQuery),
    /// The interface should look like this now.
    Plan(InterfacePlan),
    /// A tunnel's addresses collide with the host's own networks. It works all the same; people
    /// should know.
    Conflicts(TunnelId, Vec<Conflict>),
    /// Addresses that a tunnel was assigned and cannot have; the others are in use.
    Refused(TunnelId, Vec<(ipnet::IpNet, Refusal)>),
    /// A tunnel advertises other routes, or its policy changed: what became of them.
    Routes(TunnelId, RouteReport),
    /// A packet waits for this dormant tunnel: let it connect.
    Wake(TunnelId),
    /// This tunnel had no packet for its idle limit: let it rest.
    Rest(TunnelId),
    /// Of several routers, the one that decides about groups has done so: tell the others with
    /// [`Update::Groups`].
    Groups(GroupView),
}

/// Routes packets between one device and many tunnels.
#[derive(Debug)]
pub struct Router {
    config: RouterConfig,
    epoch: Instant,
    rules: Arc<CompiledRules>,
    /// How often rules decided a new flow.
    rule_stats: RuleStats,
    /// Counts every change of what a flow's way follows from: rules, choices of groups, tunnels
    /// that are down.
    generation: Generation,
    groups: Groups,
    routes: RouteTable,
    tunnels: Tunnels,
    allocator: Allocator,
    conns: ConnTable,
    owners: Owners,
    usages: Usages,
    nat: Mappings,
    guests: Guests,
    tells: Tells,
    hold: Hold,
    fragments: Fragments<FragmentWay>,
    /// Fragments that go on behind the first one; empty between two packets.
    following: VecDeque<(FragmentWay, Packet)>,
    dns: Dns,
    device: PacketBatch,
    events: VecDeque<Event>,
    plan: InterfacePlan,
    accounts: Accounts,
    /// Connections are still looked for that a change resets.
    walk: Option<Walk>,
    /// Far ends to be told of a narrower tunnel.
    narrowing: Option<Walk>,
    next_sweep: Instant,
    /// Reused lists: nothing is allocated per batch.
    scratch: Vec<Packet>,
    /// [`RouterConfig::recheck_owner`], in milliseconds.
    recheck: Stamp,
    removed: Vec<Conn>,
    /// Buffers that came back from queues: packets of one direction only must not starve the
    /// batches they come in.
    spare: BufferPool,
    /// One of several routers.
    shard: Option<Box<Shard>>,
}

impl Router {
    /// A router without tunnels and rules: it drops everything as
    /// [`RulesCold`](DropReason::RulesCold).
    pub fn new(config: RouterConfig, now: Instant) -> Self {
        let config = config.within_budget();
        Self {
            epoch: now,
            rules: Arc::new(CompiledRules::cold()),
            rule_stats: RuleStats::default(),
            generation: Generation::COLD,
            groups: Groups::default(),
            routes: RouteTable::new(),
            tunnels: Tunnels::new(),
            allocator: Allocator::new(config.address_policy),
            conns: ConnTable::new(config.max_flows, config.timeouts),
            owners: Owners::default(),
            usages: Usages::default(),
            nat: Mappings::new(config.seed),
            guests: Guests::default(),
            tells: Tells::default(),
            hold: Hold::new(config.hold),
            fragments: Fragments::new(config.fragments),
            following: VecDeque::new(),
            dns: Dns::new(config.dns),
            device: PacketBatch::new(config.queue_packets, config.largest_packet),
            events: VecDeque::new(),
            plan: InterfacePlan::default(),
            accounts: Accounts::default(),
            walk: None,
            narrowing: None,
            next_sweep: now + SWEEP_INTERVAL,
            scratch: Vec::new(),
            recheck: Stamp::try_from(config.recheck_owner.as_millis()).unwrap_or(Stamp::MAX),
            removed: Vec::new(),
            spare: BufferPool::new(config.queue_packets, config.largest_packet),
            shard: None,
            config,
        }
    }

    /// Adds a tunnel, in state connecting. `None` once [`TunnelId::MAX`] tunnels were added, or if
    /// there are as many as the [budget of memory](MemoryBudget) is for.
    pub fn add_tunnel(&mut self, name: &str) -> Option<TunnelId> {
        let budget = self.config.memory_budget;
        if budget.is_some_and(|budget| self.tunnels.iter().count() >= budget.tunnels) {
            return None;
        }
        let queue = PacketBatch::new(self.config.queue_packets, self.config.largest_packet);
        self.tunnels.add(name, queue)
    }

    /// Removes a tunnel with its flows, addresses and queue. Its counters stay in the totals.
    pub fn remove_tunnel(&mut self, now: Instant, tunnel: TunnelId) {
        if let Some(slot) = self.tunnels.get_mut(tunnel) {
            slot.state = TransportState::Closed;
        }
        let routed = self.routes.withdraw(tunnel);
        if self.stands(now, tunnel, Standing::Down) || routed {
            self.ways_changed(now);
        }
        self.tunnel_gone(now, tunnel, DropReason::NoSuchTunnel);
        if let Some(slot) = self.tunnels.remove(tunnel) {
            self.accounts.retire(&slot.counters);
        }
        self.allocator.release(tunnel);
        self.dns.book().forget(tunnel);
        self.update_plan();
    }

    /// Says which networks the host itself is on, so that collisions with them are reported: those
    /// of tunnels that are there already at once, if the networks are others than before.
    pub fn set_host_networks(&mut self, networks: impl IntoIterator<Item = ipnet::IpNet>) {
        let before = self.allocator.host_networks().to_vec();
        self.allocator.set_host_networks(networks);
        if before == self.allocator.host_networks() {
            return;
        }
        for tunnel in self.allocator.tunnels().collect::<Vec<_>>() {
            let conflicts = self.allocator.conflicts(tunnel);
            if !conflicts.is_empty() {
                self.events.push_back(Event::Conflicts(tunnel, conflicts));
            }
        }
    }

    /// Replaces [`RouterConfig::steered`], after the system's own resolvers changed. Queries that
    /// are under way go on as they began.
    pub fn set_steered(&mut self, resolvers: Vec<std::net::IpAddr>) {
        self.config.steered = resolvers;
    }

    /// The tunnel of this name.
    pub fn tunnel_named(&self, name: &str) -> Option<TunnelId> {
        self.tunnels.named(name)
    }

    /// Routes packets that applications sent. Empties `batch`; the buffers of dropped packets go
    /// back to its pool.
    pub fn handle_device(&mut self, now: Instant, batch: &mut PacketBatch) {
        let stamp = self.stamp(now);
        let mut list = std::mem::take(&mut self.scratch);
        batch.swap_out(&mut list);
        self.accounts.in_device += list.len() as u64;
        let (mut at, mut ahead) = (0, Ahead::new(&self.conns));
        while at < list.len() {
            if ahead.is_due(at) {
                ahead.look_out(&self.conns, &list);
            }
            let next = self.run_out(stamp, &mut list, at, &mut ahead);
            if next == at
                && let Some(packet) = list.get_mut(at)
                && let Some(dead) = self.outbound(stamp, packet)
            {
                batch.recycle(dead);
            }
            at = next.max(at + 1);
        }
        list.clear();
        self.scratch = list;
        batch.pool_mut().refill_from(&mut self.spare);
    }

    /// Routes packets that came through `tunnel`. Empties `batch`.
    pub fn handle_tunnel(&mut self, now: Instant, tunnel: TunnelId, batch: &mut PacketBatch) {
        let stamp = self.stamp(now);
        let mut list = std::mem::take(&mut self.scratch);
        batch.swap_out(&mut list);
        self.accounts.in_tunnels += list.len() as u64;
        let (mut at, mut ahead) = (0, Ahead::new(&self.conns));
        while at < list.len() {
            if ahead.is_due(at) {
                ahead.look_in(&self.conns, tunnel, &list);
            }
            let next = self.run_in(stamp, tunnel, &mut list, at, &mut ahead);
            if next == at
                && let Some(packet) = list.get_mut(at)
                && let Some(dead) = self.inbound(stamp, tunnel, packet)
            {
                batch.recycle(dead);
            }
            at = next.max(at + 1);
        }
        list.clear();
        self.scratch = list;
        batch.pool_mut().refill_from(&mut self.spare);
    }

    /// Counts packets that the device or a transport dropped on receipt: they came in, and they
    /// are accounted for.
    pub fn count_receive_drops(&mut self, from: Egress, drops: &DropCounters) {
        let total = drops.total();
        match from {
            Egress::Device => {
                self.accounts.in_device += total;
                self.accounts.drops.merge(drops);
            }
            Egress::Tunnel(tunnel) => {
                self.accounts.in_tunnels += total;
                match self.tunnels.get_mut(tunnel) {
                    Some(slot) => slot.counters.drops.merge(drops),
                    None => self.accounts.drops.merge(drops),
                }
            }
        }
    }

    /// Takes in what became known.
    pub fn handle_update(&mut self, now: Instant, update: Update) {
        match update {
            Update::Rules(rules) => {
                self.generation = match rules.generation().is_cold() {
                    true => Generation::COLD,
                    false => self.generation.next(),
                };
                self.rules = rules;
                self.fragments.forget_ways(|_| true);
                self.end_moved(now);
                self.update_plan();
                self.release_redirected(now);
            }
            Update::Tunnel(tunnel, state) => self.tunnel_state(now, tunnel, state),
            Update::Owner(query, answer) => self.owner_answer(now, query, answer),
            Update::RoundTrip(tunnel, measured) => self.round_trip(now, tunnel, measured),
            Update::Groups(view) => self.groups_decided(now, &view),
        }
    }

    /// The generation of the rules in force.
    pub fn generation(&self) -> Generation {
        self.rules.generation()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next due.
    pub fn next_timeout(&self) -> Instant {
        let held = self.hold.next_deadline().map(|stamp| self.instant(stamp));
        let walk = self.walk.map(|walk| walk.due);
        let narrowing = self.narrowing.map(|walk| walk.due);
        let others = [held, walk, narrowing, self.groups.next_timeout()];
        others
            .into_iter()
            .flatten()
            .fold(self.next_sweep, Instant::min)
    }

    /// Drops what was held too long, and removes flows that have expired.
    pub fn handle_timeout(&mut self, now: Instant) {
        let stamp = self.stamp(now);
        while let Some((held, reason)) = self.hold.take_expired(stamp) {
            if reason == DropReason::OwnerTimeout {
                self.forget_doubtful(&held.flow);
            }
            self.drop_held(held, reason);
        }
        self.groups_timeout(now);
        self.walk_on(now);
        self.narrow_on(now);
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.look_for_idle(now);
            self.hold.sweep(stamp);
            self.expire_fragments(stamp);
            self.dns.sweep(stamp);
            let steps = self.conns.slots() / SWEEPS_PER_ROUND + SWEEPS_PER_ROUND;
            let mut book = self.dns.book();
            self.conns
                .sweep(stamp, steps, &mut self.removed, |tunnel, dst| {
                    book.keep(stamp, tunnel, dst);
                });
            drop(book);
            self.release_removed();
        }
    }

    /// The next thing the driver has to do.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The targets that have packets queued.
    pub fn ready(&self) -> impl Iterator<Item = Egress> + '_ {
        let device = (!self.device.is_empty()).then_some(Egress::Device);
        device
            .into_iter()
            .chain(self.tunnels.with_queued().map(Egress::Tunnel))
    }

    /// Hands the packets queued for `target` to `send`, which has the contract of
    /// [`TunDevice::try_send`](vpn_core::TunDevice::try_send): it removes what it takes, counts
    /// what it drops and returns how many it sent.
    ///
    /// Returns how many packets are still queued. Each packet that was removed is accounted for
    /// once: drops beyond what was removed and not sent are not counted.
    ///
    /// # Errors
    ///
    /// Those of `send`; what it removed before it failed is counted as refused.
    pub fn transmit<X>(
        &mut self,
        target: Egress,
        send: impl FnOnce(&mut PacketBatch, &mut DropCounters) -> Result<usize, X>,
    ) -> Result<usize, X> {
        let (queue, drops) = match target {
            Egress::Device => (&mut self.device, &mut self.accounts.drops),
            Egress::Tunnel(tunnel) => match self.tunnels.get_mut(tunnel) {
                Some(slot) => (&mut slot.queue, &mut slot.counters.drops),
                None => return Ok(0),
            },
        };
        let queued = queue.len();
        let mut counted = DropCounters::default();
        let result = send(queue, &mut counted);
        let left = queue.len();
        let removed = queued.saturating_sub(left) as u64;
        // Each packet that was removed is accounted for once, whatever a sender counts: it may
        // count segments of a super-packet, or losses of packets it had taken before.
        let sent = removed.min(*result.as_ref().unwrap_or(&0) as u64);
        let mut unsent = removed - sent;
        for (reason, packets) in counted.iter() {
            let packets = packets.min(unsent);
            drops.add(reason, packets);
            unsent -= packets;
        }
        // A sender that removed packets without a word has refused them.
        drops.add(DropReason::Refused, unsent);
        self.spare.refill_from(queue.pool_mut());
        match target {
            Egress::Device => self.accounts.out_device += sent,
            Egress::Tunnel(tunnel) => {
                self.accounts.out_tunnels += sent;
                if left == 0 {
                    self.tunnels.unlist(tunnel);
                }
            }
        }
        result.map(|_| left)
    }

    fn stamp(&self, now: Instant) -> Stamp {
        now.saturating_duration_since(self.epoch).as_millis() as Stamp
    }

    /// The instant of a stamp near the next sweep: stamps wrap, and say nothing by themselves.
    fn instant(&self, stamp: Stamp) -> Instant {
        let sweep = self
            .next_sweep
            .saturating_duration_since(self.epoch)
            .as_millis() as u64;
        let ahead = stamp.wrapping_sub(sweep as Stamp).cast_signed();
        self.epoch + Duration::from_millis(sweep.saturating_add_signed(ahead.into()))
    }

    fn release_removed(&mut self) {
        while let Some(conn) = self.removed.pop() {
            self.flow_gone(&conn);
        }
    }

    fn count_drop(&mut self, tunnel: Option<TunnelId>, reason: DropReason, packets: u64) {
        match tunnel.and_then(|t| self.tunnels.get_mut(t)) {
            Some(slot) => slot.counters.drops.add(reason, packets),
            None => self.accounts.drops.add(reason, packets),
        }
    }
}

#[cfg(test)]
mod tests;
