//! Decides which addresses are on the device, and which tunnel is primary of each subnet.
//!
//! Providers hand out addresses that collide: equal ones, others of the same subnet, subnets
//! within subnets. An interface wants one address per subnet, and applications that are bound to
//! an address want it to stay. So addresses are grouped by *subnet of the device*:
//!
//! * The prefixes on the device never overlap. An address that overlaps none of them brings a
//!   new one and its tunnel is **primary** of that subnet.
//! * An address that overlaps one (equal, within it, or around it) joins that subnet, its tunnel
//!   is **secondary**, and the plan does not change. The router translates between the address
//!   on the device and the one assigned. If it overlaps several, it joins the oldest.
//! * The address on the device stays until the last tunnel of the subnet has left. When the
//!   primary leaves, another tunnel becomes primary and *inherits the address*: nothing that
//!   live flows use changes. Roles are chosen by [`Policy`] and never move an address.
//!
//! Prefixes are compared bit by bit, whatever their length; two of them are equal, one within
//! the other, or apart. Host bits are kept in the address and cleared in the subnet.
//!
//! ```
//! use vpn_core::TunnelId;
//! use vpn_routing::alloc::{Allocator, Policy};
//!
//! let (uk, fr) = (TunnelId::new(0), TunnelId::new(1));
//! let mut allocator = Allocator::new(Policy::First);
//! assert!(allocator.admit(uk, &["10.100.0.2/16".parse().unwrap()]).plan_changed);
//! // The same subnet: the interface does not notice.
//! assert!(!allocator.admit(fr, &["10.100.0.3/16".parse().unwrap()]).plan_changed);
//! // The primary leaves; its address stays for the flows of the other.
//! let release = allocator.release(uk);
//! assert!(!release.plan_changed);
//! assert!(allocator.plan_addresses().contains(&"10.100.0.2/16".parse().unwrap()));
//! ```

mod conflict;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use vpn_core::TunnelId;
use vpn_core::flow::Family;

pub use conflict::{Conflict, ConflictKind, Refusal};

/// How many addresses one tunnel may bring. Providers assign one or two per family; more is a
/// mistake or an attack on the size of the plan.
pub const MAX_ADDRESSES_PER_TUNNEL: usize = 16;

/// Who is primary of a subnet that several tunnels share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// The tunnel that came first; when it leaves, the one that has been there longest.
    #[default]
    First,
    /// The tunnel of the largest [priority](Allocator::set_priority), at once when it comes;
    /// among equals the one that has been there longest.
    Priority,
    /// Like [`First`](Self::First), and the tunnel that brought the address gets the role back
    /// when it returns (a reconnect) while others are still in the subnet.
    Sticky,
}

/// What a tunnel is to a subnet of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The first among those that share it.
    Primary {
        /// The subnet on the device, host bits cleared.
        subnet: IpNet,
    },
    /// One of the others.
    Secondary {
        /// The subnet on the device, host bits cleared.
        of: IpNet,
        /// Its primary.
        primary: TunnelId,
    },
}

impl Role {
    /// The subnet on the device.
    pub const fn subnet(&self) -> IpNet {
        match *self {
            Self::Primary { subnet } => subnet,
            Self::Secondary { of, .. } => of,
        }
    }

    /// Whether this is the primary.
    pub const fn is_primary(&self) -> bool {
        matches!(self, Self::Primary { .. })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary { subnet } => write!(f, "primary of {subnet}"),
            Self::Secondary { of, primary } => write!(f, "secondary of {of} ({primary})"),
        }
    }
}

/// Where one assigned address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// What the other end assigned: the source its packets must have inside the tunnel.
    pub assigned: IpNet,
    /// The address of the same subnet on the device: the source applications see. Differs from
    /// `assigned` where translation is needed.
    pub on_device: IpNet,
    /// The tunnel's role in that subnet.
    pub role: Role,
}

impl Placement {
    /// Whether packets must be translated between device and tunnel.
    pub fn needs_translation(&self) -> bool {
        self.assigned.addr() != self.on_device.addr()
    }
}

/// What became of [`Allocator::admit`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Admission {
    /// One per admitted address, in the order given, without duplicates.
    pub placements: Vec<Placement>,
    /// Whether [`plan_addresses`](Allocator::plan_addresses) differs from before.
    pub plan_changed: bool,
    /// Other tunnels whose role changed.
    pub reelected: Vec<RoleChange>,
    /// Overlaps with the host's own networks. The addresses are admitted all the same.
    pub conflicts: Vec<Conflict>,
    /// Addresses that were not admitted, and why.
    pub refused: Vec<(IpNet, Refusal)>,
}

/// What became of [`Allocator::release`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Release {
    /// Whether [`plan_addresses`](Allocator::plan_addresses) differs from before.
    pub plan_changed: bool,
    /// The tunnels that became primary.
    pub reelected: Vec<RoleChange>,
}

/// A subnet has another primary now. Its address on the device is the same as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// The subnet on the device.
    pub subnet: IpNet,
    /// Who was primary.
    pub from: TunnelId,
    /// Who is primary now.
    pub to: TunnelId,
}

/// One subnet of the device and the tunnels that share it, longest-standing first.
#[derive(Clone, Debug)]
struct Group {
    subnet: IpNet,
    on_device: IpNet,
    /// Who brought the address.
    founder: TunnelId,
    primary: TunnelId,
    members: Vec<TunnelId>,
}

/// The subnet-primary allocator. See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct Allocator {
    policy: Policy,
    host: Vec<IpNet>,
    priorities: BTreeMap<TunnelId, u32>,
    /// Oldest first; few (one per subnet), so they are searched in order.
    groups: Vec<Group>,
    /// Tunnels whose addresses the host must not take for its own.
    off_device: BTreeSet<TunnelId>,
    /// Assigned address, and the subnet of its group.
    tunnels: BTreeMap<TunnelId, Vec<(IpNet, IpNet)>>,
}

impl Allocator {
    /// An allocator without tunnels.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// Tells the host's own networks: each interface address with its prefix length. Replaces
    /// those told before; looked at by the next [`admit`](Self::admit), and by
    /// [`conflicts`](Self::conflicts).
    pub fn set_host_networks(&mut self, networks: impl IntoIterator<Item = IpNet>) {
        self.host = networks.into_iter().collect();
    }

    /// The host's own networks, as they were told.
    pub fn host_networks(&self) -> &[IpNet] {
        &self.host
    }

    /// Where the addresses of an admitted tunnel overlap the host's networks as they are now.
    pub fn conflicts(&self, tunnel: TunnelId) -> Vec<Conflict> {
        let places = self.tunnels.get(&tunnel).into_iter().flatten();
        places
            .filter_map(|&(assigned, _)| conflict::with_host(assigned, &self.host))
            .collect()
    }

    /// Sets a tunnel's priority for [`Policy::Priority`]; larger is more important, default 0.
    /// Takes effect at the next admission or release in its subnets.
    pub fn set_priority(&mut self, tunnel: TunnelId, priority: u32) {
        self.priorities.insert(tunnel, priority);
    }

    /// Whether a tunnel's addresses stay off the device. Its packets then have the source of some
    /// other address, and are always translated: for an address that the host itself routes, and
    /// that would not be routed if it were its own. Default no.
    pub fn keep_off_device(&mut self, tunnel: TunnelId, off: bool) {
        if off {
            self.off_device.insert(tunnel);
        } else {
            self.off_device.remove(&tunnel);
        }
    }

    /// Admits a tunnel with the addresses it was assigned, or gives one that is admitted other
    /// addresses: what stays keeps its place, what is new comes before what is gone leaves, so an
    /// address of a subnet that the tunnel still uses stays on the device.
    pub fn admit(&mut self, tunnel: TunnelId, assigned: &[IpNet]) -> Admission {
        let before = self.plan_addresses();
        let mut admission = Admission::default();
        let old = self.tunnels.remove(&tunnel).unwrap_or_default();
        let mut kept: Vec<(IpNet, IpNet)> = Vec::new();
        for &net in assigned {
            if kept.iter().any(|&(known, _)| known.addr() == net.addr()) {
                continue;
            }
            if let Some(refusal) = conflict::refuse(net, kept.len()) {
                admission.refused.push((net, refusal));
                continue;
            }
            let found = conflict::with_host(net, &self.host);
            let place = match old.iter().find(|&&(known, _)| known == net) {
                Some(&place) => place,
                None => (net, self.join(tunnel, net, found.is_some())),
            };
            admission.conflicts.extend(found);
            kept.push(place);
        }
        let was = self.primaries();
        let subnets: Vec<IpNet> = kept.iter().map(|&(_, subnet)| subnet).collect();
        self.leave(tunnel, |subnet| !subnets.contains(&subnet));
        if !kept.is_empty() {
            self.tunnels.insert(tunnel, kept);
        }
        admission.reelected = self.elect(&was);
        admission.plan_changed = before != self.plan_addresses();
        admission.placements = self.roles(tunnel);
        admission
    }

    /// Removes a tunnel. Its subnets get another primary that inherits the address, or leave the
    /// device if it was the last. Releasing a tunnel that is not admitted changes nothing.
    pub fn release(&mut self, tunnel: TunnelId) -> Release {
        let before = self.plan_addresses();
        let was = self.primaries();
        self.tunnels.remove(&tunnel);
        self.leave(tunnel, |_| true);
        Release {
            reelected: self.elect(&was),
            plan_changed: before != self.plan_addresses(),
        }
    }

    /// The addresses that belong on the device, for
    /// [`InterfacePlan::addresses`](vpn_core::plan::InterfacePlan::addresses).
    pub fn plan_addresses(&self) -> BTreeSet<IpNet> {
        self.shown().map(|group| group.on_device).collect()
    }

    /// Where each address of a tunnel stands; empty if it is not admitted.
    pub fn roles(&self, tunnel: TunnelId) -> Vec<Placement> {
        let places = self.tunnels.get(&tunnel).into_iter().flatten();
        places
            .filter_map(|&(assigned, subnet)| self.placement(tunnel, assigned, subnet))
            .collect()
    }

    /// Where this address of a tunnel stands; `None` if it is none of its own.
    pub fn place_of(&self, tunnel: TunnelId, addr: IpAddr) -> Option<Placement> {
        let mut places = self.tunnels.get(&tunnel)?.iter();
        let &(assigned, subnet) = places.find(|(net, _)| net.addr() == addr)?;
        self.placement(tunnel, assigned, subnet)
    }

    /// The place of a tunnel's first address of a family; `None` if it carries none.
    pub fn address_for(&self, tunnel: TunnelId, family: Family) -> Option<Placement> {
        let &(assigned, subnet) = self
            .tunnels
            .get(&tunnel)?
            .iter()
            .find(|(net, _)| Family::of(net.addr()) == family)?;
        self.placement(tunnel, assigned, subnet)
    }

    /// Whether an address is on the device.
    pub fn is_on_device(&self, addr: IpAddr) -> bool {
        self.shown().any(|g| g.on_device.addr() == addr)
    }

    /// Whether this address is in a subnet that is on the device.
    pub fn is_in_device_subnet(&self, addr: IpAddr) -> bool {
        self.shown().any(|g| g.on_device.contains(&addr))
    }

    /// The subnets that are on the device.
    fn shown(&self) -> impl Iterator<Item = &Group> {
        let on = |group: &&Group| group.members.iter().any(|m| !self.off_device.contains(m));
        self.groups.iter().filter(on)
    }

    /// The tunnels that are admitted, in order of their numbers.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelId> + '_ {
        self.tunnels.keys().copied()
    }

    fn placement(&self, tunnel: TunnelId, assigned: IpNet, subnet: IpNet) -> Option<Placement> {
        let group = self.groups.iter().find(|g| g.subnet == subnet)?;
        let role = if group.primary == tunnel {
            Role::Primary { subnet }
        } else {
            Role::Secondary {
                of: subnet,
                primary: group.primary,
            }
        };
        Some(Placement {
            assigned,
            on_device: group.on_device,
            role,
        })
    }

    /// Puts one address into the oldest subnet it overlaps, or a new one; answers which.
    fn join(&mut self, tunnel: TunnelId, net: IpNet, narrow: bool) -> IpNet {
        if let Some(group) = self.groups.iter_mut().find(|g| overlaps(g.subnet, net)) {
            if !group.members.contains(&tunnel) {
                group.members.push(tunnel);
            }
            return group.subnet;
        }
        self.groups.push(Group {
            subnet: net.trunc(),
            // As a single address it brings no on-link route that would take the host's network.
            on_device: if narrow { net.addr().into() } else { net },
            founder: tunnel,
            primary: tunnel,
            members: vec![tunnel],
        });
        net.trunc()
    }

    fn leave(&mut self, tunnel: TunnelId, gone: impl Fn(IpNet) -> bool) {
        for group in &mut self.groups {
            if gone(group.subnet) {
                group.members.retain(|&member| member != tunnel);
            }
        }
        self.groups.retain(|group| !group.members.is_empty());
    }

    fn primaries(&self) -> Vec<(IpNet, TunnelId)> {
        self.groups.iter().map(|g| (g.subnet, g.primary)).collect()
    }

    /// Chooses every subnet's primary anew and tells which of those before were replaced.
    fn elect(&mut self, was: &[(IpNet, TunnelId)]) -> Vec<RoleChange> {
        for group in &mut self.groups {
            if let Some(primary) = group.elect(self.policy, &self.priorities) {
                group.primary = primary;
            }
        }
        let changed = self.groups.iter().filter_map(|group| {
            let &(subnet, from) = was.iter().find(|(subnet, _)| *subnet == group.subnet)?;
            let to = group.primary;
            (from != to).then_some(RoleChange { subnet, from, to })
        });
        changed.collect()
    }
}

impl Group {
    fn elect(&self, policy: Policy, priorities: &BTreeMap<TunnelId, u32>) -> Option<TunnelId> {
        let present = |tunnel| self.members.contains(&tunnel).then_some(tunnel);
        let longest = self.members.first().copied();
        match policy {
            // Members stand in the order they came, so the primary of before is the first again.
            Policy::First => longest,
            Policy::Sticky => present(self.founder).or(longest),
            Policy::Priority => {
                let priority = |t: &TunnelId| priorities.get(t).copied().unwrap_or_default();
                // `max_by_key` keeps the last of equals, so the longest-standing comes last.
                self.members.iter().rev().copied().max_by_key(priority)
            }
        }
    }
}

/// Whether two prefixes share an address.
fn overlaps(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}
