//! Decides what is missing of what was added: pure, on messages that were read back.

use std::collections::BTreeSet;

use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::rule::RuleMessage;
use vpn_core::Family;

use super::netlink::{Target, address_family, is_ours, table_of};
use super::policy;
use crate::foreign::ForeignChange;

/// A route of ours: its table, where it leads to, and by what.
type Route = (u32, IpNet, Target);

/// What was added and not removed.
#[derive(Debug, Default)]
pub(super) struct Held {
    rules: Vec<RuleMessage>,
    routes: BTreeSet<Route>,
    addresses: BTreeSet<(u32, IpNet)>,
}

impl Held {
    pub(super) fn add_rule(&mut self, rule: RuleMessage) {
        if !self.rules.contains(&rule) {
            self.rules.push(rule);
        }
    }

    /// As we made it, or as it was read back.
    pub(super) fn remove_rule(&mut self, rule: &RuleMessage) {
        self.rules.retain(|held| !policy::is_same(held, rule));
    }

    pub(super) fn add_route(&mut self, net: IpNet, table: u32, target: Target) {
        self.routes.insert((table, net.trunc(), target));
    }

    pub(super) fn remove_route(&mut self, net: IpNet, table: u32, target: Target) {
        self.routes.remove(&(table, net.trunc(), target));
    }

    /// As it was read back.
    pub(super) fn remove_route_read(&mut self, route: &RouteMessage) {
        self.routes.retain(|held| !is_route(route, *held));
    }

    pub(super) fn add_address(&mut self, index: u32, net: IpNet) {
        self.addresses.insert((index, net));
    }

    pub(super) fn remove_address(&mut self, index: u32, net: IpNet) {
        self.addresses.remove(&(index, net));
    }

    /// The rules and routes of a family that are not among these.
    pub(super) fn missing(
        &self,
        family: Family,
        rules: &[RuleMessage],
        routes: &[RouteMessage],
    ) -> Vec<ForeignChange> {
        let of_family = |rule: &&RuleMessage| rule.header.family == address_family(family);
        let own = self.rules.iter().filter(of_family);
        let gone = own.filter(|rule| !rules.iter().any(|there| policy::is_same(rule, there)));
        let mut missing: Vec<_> = gone
            .map(|rule| ForeignChange::Rule {
                family,
                priority: policy::priority_of(rule).unwrap_or_default(),
            })
            .collect();
        let of_family = |route: &&Route| Family::of(route.1.addr()) == family;
        let own = self.routes.iter().filter(of_family);
        let gone = own.filter(|route| !routes.iter().any(|there| is_route(there, **route)));
        missing.extend(
            gone.map(|&(table, destination, _)| ForeignChange::Route { destination, table }),
        );
        missing
    }

    /// The addresses that are not among these.
    pub(super) fn missing_addresses(&self, there: &[AddressMessage]) -> Vec<ForeignChange> {
        let own = self.addresses.iter();
        let gone = own.filter(|(index, net)| !there.iter().any(|a| is_address(a, *index, *net)));
        gone.map(|&(interface, address)| ForeignChange::Address { interface, address })
            .collect()
    }
}

/// Whether a route that was read back is this one of ours.
fn is_route(route: &RouteMessage, (table, net, target): Route) -> bool {
    let leads = match target {
        Target::Blackhole => route.header.kind == RouteType::BlackHole,
        Target::Device(index) => route.attributes.contains(&RouteAttribute::Oif(index)),
    };
    let to = RouteAttribute::Destination(net.addr().into());
    leads
        && is_ours(route)
        && route.header.address_family == address_family(Family::of(net.addr()))
        && table_of(route) == table
        && route.header.destination_prefix_length == net.prefix_len()
        && (net.prefix_len() == 0 || route.attributes.contains(&to))
}

fn is_address(message: &AddressMessage, index: u32, net: IpNet) -> bool {
    message.header.index == index
        && message.header.prefix_len == net.prefix_len()
        && message.attributes.iter().any(|attribute| match attribute {
            AddressAttribute::Local(its) | AddressAttribute::Address(its) => *its == net.addr(),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::CaptureConfig;
    use crate::apply::policy::{Role, message};

    #[test]
    fn a_rule_is_missing_by_family_and_until_it_is_removed_by_us() {
        let capture = CaptureConfig::default();
        let mut held = Held::default();
        let rule = |family, role: &Role| message(family, &capture, role);
        let v4 = [Role::Capture, Role::Guard].map(|role| rule(Family::V4, &role));
        let v6 = rule(Family::V6, &Role::Capture);
        for rule in v4.iter().chain([&v6]) {
            held.add_rule(rule.clone());
            held.add_rule(rule.clone());
        }
        assert_eq!(held.missing(Family::V4, &v4, &[]), []);
        let gone = |family, priority| ForeignChange::Rule { family, priority };
        let missing = held.missing(Family::V4, &v4[1..], &[]);
        assert_eq!(missing, [gone(Family::V4, capture.priority)]);
        let missing = held.missing(Family::V6, &v4, &[]);
        assert_eq!(missing, [gone(Family::V6, capture.priority)]);
        held.remove_rule(&v6);
        assert_eq!(held.missing(Family::V6, &[], &[]), []);
    }

    #[test]
    fn a_route_is_told_from_another_family_table_and_device() {
        let mut held = Held::default();
        let nets: [IpNet; 2] = ["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap());
        for net in nets {
            held.add_route(net, 900, Target::Device(7));
        }
        let read = |net: IpNet, table, index| {
            super::super::netlink::route(net, table, Target::Device(index))
        };
        let there = [read(nets[0], 900, 7)];
        assert_eq!(held.missing(Family::V4, &[], &there), []);
        assert_eq!(held.missing(Family::V6, &[], &there).len(), 1);
        for other in [read(nets[0], 901, 7), read(nets[0], 900, 8)] {
            assert_eq!(held.missing(Family::V4, &[], &[other]).len(), 1);
        }
        held.remove_route_read(&there[0]);
        assert_eq!(held.missing(Family::V4, &[], &[]), []);
        held.remove_route(nets[1], 900, Target::Device(7));
        assert_eq!(held.missing(Family::V6, &[], &[]), []);
    }
}
