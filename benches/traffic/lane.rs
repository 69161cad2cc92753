//! A router with tunnels, and packets through it: only the router is on the clock.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vpn_benches::world::ASSIGNED;
use vpn_core::packet::{Offload, Packet, PacketBatch};
use vpn_core::{
    Action, Assigned, DropReason, GroupId, Owner, OwnerAnswer, OwnerMatch, Rule, RuleId, RuleMatch,
    RuleSnapshot, TransportState, TunnelId,
};
use vpn_routing::group::{GroupConfig, Policy};
use vpn_routing::router::{Egress, Event, Router, RouterConfig, Update};
use vpn_routing::rules::{CompiledRules, Names, RuleCache, Target};

/// The user who has every socket.
const UID: u32 = 1000;

/// After this long without a packet no flow of these benches is remembered.
const SILENCE: Duration = Duration::from_secs(301);

/// The name of tunnel number `place`.
pub(crate) fn tunnel_name(place: usize) -> String {
    format!("tunnel {place}")
}

/// One rule that sends everything into the first tunnel, and asks for nobody.
pub(crate) fn everything() -> RuleSnapshot {
    by(None, Action::Tunnel(tunnel_name(0)))
}

/// One rule for the sockets of one user.
pub(crate) fn of_a_user() -> RuleSnapshot {
    by(Some(OwnerMatch::Uid(UID)), Action::Tunnel(tunnel_name(0)))
}

/// One rule that sends everything into the group.
pub(crate) fn to_the_group() -> RuleSnapshot {
    by(None, Action::Group(Group::NAME.to_owned()))
}

fn by(owner: Option<OwnerMatch>, action: Action) -> RuleSnapshot {
    let matches = RuleMatch {
        owner,
        ..RuleMatch::default()
    };
    vec![Rule::new(RuleId(1), matches, action)].into()
}

/// What a tunnel is assigned: the address of [`ASSIGNED`], and an MTU.
pub(crate) fn assigned(mtu: u16) -> Assigned {
    Assigned {
        addresses: vec![ipnet::Ipv4Net::from(ASSIGNED).into()],
        mtu,
        ..Assigned::default()
    }
}

/// Settings for packets of up to `largest` bytes.
pub(crate) fn settings(largest: usize) -> RouterConfig {
    RouterConfig {
        largest_packet: largest,
        interface_mtu: Some(1500),
        resolvers: vec![RESOLVER],
        ..RouterConfig::default()
    }
}

/// The resolver that applications are told.
pub(crate) const RESOLVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(100, 127, 255, 53));

/// The group of all tunnels.
struct Group(Option<GroupId>, Vec<TunnelId>);

impl Group {
    const NAME: &str = "group";
}

impl Names for Group {
    fn tunnel(&self, name: &str) -> Option<TunnelId> {
        let mut places = 0..self.1.len();
        let place = places.find(|&place| tunnel_name(place) == name)?;
        Some(self.1[place])
    }

    fn group(&self, _name: &str) -> Option<GroupId> {
        self.0
    }
}

/// A router, its tunnels, and what passed through it.
pub(crate) struct Lane {
    router: Router,
    now: Instant,
    tunnels: Vec<TunnelId>,
    batch: PacketBatch,
    rules: RuleCache,
    /// Packets that came out, to applications and tunnels.
    pub(crate) out: u64,
    /// What the router needed for what was routed.
    pub(crate) spent: Duration,
    /// Allocations of the router, if they are counted.
    pub(crate) allocations: Option<u64>,
}

impl Lane {
    /// A router with one tunnel for each of `assigned`, all of them up, and rules.
    pub(crate) fn new(config: RouterConfig, assigned: Vec<Assigned>, rules: RuleSnapshot) -> Self {
        Self::with_group(config, assigned, None, rules)
    }

    /// The same with all tunnels in one group.
    #[allow(clippy::panic, reason = "rules that are wrong would mislead")]
    pub(crate) fn with_group(
        config: RouterConfig,
        assigned: Vec<Assigned>,
        policy: Option<Policy>,
        rules: RuleSnapshot,
    ) -> Self {
        let now = Instant::now();
        let largest = config.largest_packet;
        let mut router = Router::new(config, now);
        let mut tunnels = Vec::new();
        for (place, assigned) in assigned.into_iter().enumerate() {
            let tunnel = router.add_tunnel(&tunnel_name(place));
            let tunnel = tunnel.unwrap_or_else(|| panic!("no tunnel {place}"));
            let up = TransportState::Up(Arc::new(assigned));
            router.handle_update(now, Update::Tunnel(tunnel, up));
            tunnels.push(tunnel);
        }
        let mut lane = Self {
            router,
            now,
            tunnels,
            batch: PacketBatch::new(PacketBatch::DEFAULT_CAPACITY, largest),
            rules: RuleCache::new(),
            out: 0,
            spent: Duration::ZERO,
            allocations: None,
        };
        let group = policy.and_then(|policy| {
            let config = GroupConfig::new(Group::NAME, lane.tunnels.clone()).policy(policy);
            lane.router
                .set_groups(now, vec![config])
                .ok()?
                .first()
                .copied()
        });
        for (place, &tunnel) in lane.tunnels.iter().enumerate() {
            let trip = Duration::from_millis(20 + place as u64);
            lane.router
                .handle_update(now, Update::RoundTrip(tunnel, trip));
        }
        let names = Group(group, lane.tunnels.clone());
        let default = Target::Block(DropReason::BlockedByDefault);
        let compiled = CompiledRules::compile(&rules, &names, default);
        let compiled = compiled.unwrap_or_else(|error| panic!("{error}"));
        assert!(compiled.problems().is_empty(), "{:?}", compiled.problems());
        lane.rules.swap(compiled);
        lane.change();
        lane
    }

    /// Tunnel number `place` as where packets come from.
    pub(crate) fn tunnel(&self, place: usize) -> Egress {
        Egress::Tunnel(self.tunnels[place])
    }

    /// The rules are put in force once more: what was decided has to be decided again.
    pub(crate) fn change(&mut self) {
        let rules = Update::Rules(self.rules.current());
        self.router.handle_update(self.now, rules);
        settle(&mut self.router, self.now);
    }

    /// Lets time pass, less than any timeout.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// Lets time pass until no flow is left.
    pub(crate) fn forget(&mut self) {
        self.now += SILENCE;
        while self.router.status().flows != 0 {
            self.now = self.now.max(self.router.next_timeout());
            self.router.handle_timeout(self.now);
        }
        settle(&mut self.router, self.now);
    }

    /// Puts a packet into the batch that is routed next, as a device's read does.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let put = self.batch.push_with(|buffer| {
            buffer.extend_from_slice(bytes);
            Some(Offload::NONE)
        });
        assert!(put, "there is room in the batch");
    }

    /// Routes the batch, which comes from there, on the clock, and transmits what comes out.
    pub(crate) fn route(&mut self, from: Egress) {
        let (router, batch, now) = (&mut self.router, &mut self.batch, self.now);
        let (out, spent) = (&mut self.out, &mut self.spent);
        let mut work = || {
            let started = Instant::now();
            handle(router, now, from, batch);
            while let Some(target) = next_ready(router) {
                let _ = router.transmit::<()>(target, |queue, _| {
                    let sent = queue.len();
                    *out += sent as u64;
                    queue.clear();
                    Ok(sent)
                });
            }
            *spent += started.elapsed();
        };
        match &mut self.allocations {
            Some(count) => *count += allocation_counter::measure(work).count_total,
            None => work(),
        }
    }

    /// Routes packets off the clock, and returns what came out.
    pub(crate) fn pass<'a>(
        &mut self,
        from: Egress,
        packets: impl IntoIterator<Item = &'a [u8]>,
    ) -> Vec<Packet> {
        for bytes in packets {
            self.put(bytes);
        }
        handle(&mut self.router, self.now, from, &mut self.batch);
        let mut out = Vec::new();
        while let Some(target) = next_ready(&self.router) {
            let _ = self.router.transmit::<()>(target, |queue, _| {
                let before = out.len();
                out.extend(queue.drain());
                Ok(out.len() - before)
            });
        }
        out
    }

    /// What was dropped, for a message.
    pub(crate) fn accounts(&self) -> String {
        let accounts = self.router.accounts();
        assert!(accounts.balance(), "{accounts:?}");
        format!("{accounts:?}")
    }
}

fn next_ready(router: &Router) -> Option<Egress> {
    router.ready().next()
}

fn handle(router: &mut Router, now: Instant, from: Egress, batch: &mut PacketBatch) {
    match from {
        Egress::Device => router.handle_device(now, batch),
        Egress::Tunnel(tunnel) => router.handle_tunnel(now, tunnel, batch),
    }
    settle(router, now);
}

/// Does what events ask for. Every socket has one owner, who is found at once.
fn settle(router: &mut Router, now: Instant) {
    while let Some(event) = router.next_event() {
        if let Event::ResolveOwner(query) = event {
            let owner = Owner {
                socket: query.flow.src_port().into(),
                ..Owner::user(UID)
            };
            router.handle_update(now, Update::Owner(query, OwnerAnswer::Known(owner)));
        }
    }
}
