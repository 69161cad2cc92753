//! What the virtual interface should look like, as a value.
//!
//! The plan is computed by pure code and applied by a platform; [`InterfacePlan::changes_to`] is
//! the shortest way from one plan to the next, so that nothing that stays is touched.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// Addresses, routes, resolvers and MTU of the device.
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
    use proptest::collection::btree_set;
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
        )
            .prop_map(|(addresses, routes, dns, mtu)| InterfacePlan {
                addresses,
                routes,
                dns,
                mtu,
            })
    }

    fn apply(plan: &mut InterfacePlan, change: PlanChange) {
        match change {
            PlanChange::AddAddress(a) => assert!(plan.addresses.insert(a)),
            PlanChange::RemoveAddress(a) => assert!(plan.addresses.remove(&a)),
            PlanChange::AddRoute(r) => assert!(plan.routes.insert(r)),
            PlanChange::RemoveRoute(r) => assert!(plan.routes.remove(&r)),
            PlanChange::SetDns(dns) => plan.dns = dns,
            PlanChange::SetMtu(mtu) => plan.mtu = mtu,
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
