//! What the virtual interface should look like, as a value.
//!
//! The plan is computed by pure code and applied by a platform; [`InterfacePlan::changes_to`] is
//! the shortest way from one plan to the next, so that nothing that stays is touched.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::flow::{Family, Protocol};
use crate::rule::PortRange;

/// Addresses, routes, resolvers and MTU of the device, and what need not enter it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfacePlan {
    /// Addresses on the device, one per subnet, each with its prefix length.
    pub addresses: BTreeSet<IpNet>,
    /// Prefixes that are routed to the device.
    pub routes: BTreeSet<IpNet>,
    /// Resolver addresses applications are told. Routed to the device, never assigned to it: a
    /// query to an assigned address is delivered locally and does not reach the device.
    pub dns: BTreeSet<IpAddr>,
    /// MTU in bytes; 0 leaves the platform's default.
    pub mtu: u16,
    /// What the system routes itself, without showing it to the device: the first entry that
    /// matches a packet decides, and what no entry matches is captured. Empty: everything is
    /// captured.
    ///
    /// A platform may always capture more than the list says (a list too long, a condition it
    /// cannot express), for what is captured is decided by the rules all the same; never less. A
    /// query to one of [`dns`](Self::dns) is captured whatever the list says.
    pub bypass: Vec<Bypass>,
}

/// One entry of [`InterfacePlan::bypass`]. A condition that is `None` matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bypass {
    /// User ids of the socket, both ends included. A packet without a socket on this machine
    /// (forwarded traffic) has none, and does not match.
    pub uids: Option<RangeInclusive<u32>>,
    /// Destination.
    pub destination: Option<IpNet>,
    /// IP protocol.
    pub protocol: Option<Protocol>,
    /// Destination ports, of TCP and UDP: with ports and no protocol, these two match.
    pub ports: Option<PortRange>,
    /// Address family.
    pub family: Option<Family>,
    /// Where a packet goes that matches.
    pub way: Way,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// Into the device, where the rules decide.
    Capture,
    /// Where the system's own routes lead, around the device.
    Main,
}

impl Bypass {
    /// An entry that matches everything.
    pub const fn new(way: Way) -> Self {
        Self {
            uids: None,
            destination: None,
            protocol: None,
            ports: None,
            family: None,
            way,
        }
    }

    /// Only sockets of these users, both ends included.
    #[must_use]
    pub const fn uids(mut self, uids: RangeInclusive<u32>) -> Self {
        self.uids = Some(uids);
        self
    }

    /// Only this destination.
    #[must_use]
    pub const fn destination(mut self, net: IpNet) -> Self {
        self.destination = Some(net);
        self
    }

    /// Only this protocol.
    #[must_use]
    pub const fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// Only these destination ports.
    #[must_use]
    pub const fn ports(mut self, ports: PortRange) -> Self {
        self.ports = Some(ports);
        self
    }

    /// Only this family.
    #[must_use]
    pub const fn family(mut self, family: Family) -> Self {
        self.family = Some(family);
        self
    }

    /// Whether it can match a packet of this family: neither the family nor the destination
    /// says otherwise.
    pub fn concerns(&self, family: Family) -> bool {
        self.family.is_none_or(|own| own == family)
            && self
                .destination
                .is_none_or(|net| Family::of(net.addr()) == family)
    }
}

/// One step from a plan to the next.
///
/// Exhaustive on purpose: a platform that does not know a step must not pass over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanChange {
    /// Put this address on the device.
    AddAddress(IpNet),
    /// Take this address off the device.
    RemoveAddress(IpNet),
    /// Route this prefix to the device.
    AddRoute(IpNet),
    /// Stop routing this prefix to the device.
    RemoveRoute(IpNet),
    /// Tell applications these resolvers.
    SetDns(BTreeSet<IpAddr>),
    /// Set the MTU, in bytes.
    SetMtu(u16),
    /// Let these go around the device, and nothing else.
    SetBypass(Vec<Bypass>),
}

impl InterfacePlan {
    /// The steps from `self` to `next`: what is new first, what is gone last, so that no moment
    /// has less than both plans share.
    pub fn changes_to(&self, next: &Self) -> Vec<PlanChange> {
        let mut changes = Vec::new();
        if next.mtu != self.mtu && next.mtu != 0 {
            changes.push(PlanChange::SetMtu(next.mtu));
        }
        changes.extend(
            next.addresses
                .difference(&self.addresses)
                .map(|a| PlanChange::AddAddress(*a)),
        );
        changes.extend(
            next.routes
                .difference(&self.routes)
                .map(|r| PlanChange::AddRoute(*r)),
        );
        if next.dns != self.dns {
            changes.push(PlanChange::SetDns(next.dns.clone()));
        }
        if next.bypass != self.bypass {
            changes.push(PlanChange::SetBypass(next.bypass.clone()));
        }
        changes.extend(
            self.routes
                .difference(&next.routes)
                .map(|r| PlanChange::RemoveRoute(*r)),
        );
        changes.extend(
            self.addresses
                .difference(&next.addresses)
                .map(|a| PlanChange::RemoveAddress(*a)),
        );
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    fn plans() -> impl Strategy<Value = InterfacePlan> {
        let net =
            (any::<[u8; 4]>(), 0u8..=32).prop_map(|(a, len)| IpNet::new(a.into(), len).unwrap());
        let nets = btree_set(net, 0..5);
        (
            nets.clone(),
            nets,
            btree_set(any::<[u8; 4]>().prop_map(IpAddr::from), 0..3),
            1u16..9000,
            vec(bypasses(), 0..4),
        )
            .prop_map(|(addresses, routes, dns, mtu, bypass)| InterfacePlan {
                addresses,
                routes,
                dns,
                mtu,
                bypass,
            })
    }

    fn bypasses() -> impl Strategy<Value = Bypass> {
        (any::<bool>(), 0u32..3, any::<u16>()).prop_map(|(main, uid, port)| {
            Bypass::new(if main { Way::Main } else { Way::Capture })
                .uids(uid..=uid)
                .ports(PortRange::single(port))
        })
    }

    #[test]
    fn an_entry_concerns_the_families_it_can_match() {
        let any = Bypass::new(Way::Main);
        assert!(any.concerns(Family::V4) && any.concerns(Family::V6));
        let one = any.clone().destination("10.0.0.0/8".parse().unwrap());
        assert!(one.concerns(Family::V4) && !one.concerns(Family::V6));
        let none = one.family(Family::V6);
        assert!(!none.concerns(Family::V4) && !none.concerns(Family::V6));
    }

    fn apply(plan: &mut InterfacePlan, change: PlanChange) {
        match change {
            PlanChange::AddAddress(a) => assert!(plan.addresses.insert(a)),
            PlanChange::RemoveAddress(a) => assert!(plan.addresses.remove(&a)),
            PlanChange::AddRoute(r) => assert!(plan.routes.insert(r)),
            PlanChange::RemoveRoute(r) => assert!(plan.routes.remove(&r)),
            PlanChange::SetDns(dns) => plan.dns = dns,
            PlanChange::SetMtu(mtu) => plan.mtu = mtu,
            PlanChange::SetBypass(bypass) => plan.bypass = bypass,
        }
    }

    proptest! {
        #[test]
        fn changes_lead_from_one_plan_to_the_other(from in plans(), to in plans()) {
            let mut plan = from.clone();
            for change in from.changes_to(&to) {
                apply(&mut plan, change);
            }
            prop_assert_eq!(&plan, &to);
            prop_assert!(to.changes_to(&to).is_empty());
        }
    }
}
