//! What a router counts.

use super::families::*;
use super::{Measured, Visit, show};
use crate::verdict::{DropCounters, DropReason};

/// Packets of one router. `in + made = out + Σ drops + held + queued` holds in every snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Router {
    /// Packets from the device.
    pub in_device: u64,
    /// Packets from tunnels.
    pub in_tunnels: u64,
    /// Packets that the router made itself.
    pub made: u64,
    /// Packets the device took.
    pub out_device: u64,
    /// Packets tunnels took.
    pub out_tunnels: u64,
    /// Drops of every kind.
    pub drops: DropCounters,
    /// Packets that wait for an owner or a tunnel.
    pub held: u64,
    /// Packets that wait to be taken.
    pub queued: u64,
    /// Flows in the table.
    pub flows: u64,
}

impl Measured for Router {
    fn visit(&self, visit: &mut Visit<'_>) {
        let incoming = [
            ("device", self.in_device),
            ("tunnels", self.in_tunnels),
            ("router", self.made),
        ];
        for (from, packets) in incoming {
            show(visit, &IN_PACKETS, &[from], packets as f64);
        }
        for (to, packets) in [("device", self.out_device), ("tunnels", self.out_tunnels)] {
            show(visit, &OUT_PACKETS, &[to], packets as f64);
        }
        // Each reason from the start, so that its first packet is an increase.
        for &reason in DropReason::ALL {
            let packets = self.drops.get(reason);
            show(visit, &DROPPED_PACKETS, &[reason.name()], packets as f64);
        }
        show(visit, &HELD_PACKETS, &[], self.held as f64);
        show(visit, &QUEUED_PACKETS, &[], self.queued as f64);
        show(visit, &FLOWS, &[], self.flows as f64);
    }
}

/// Rules, and what they decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Number of the rules in force; 0 before the first.
    pub generation: u64,
    /// Whether rules cannot be loaded, and older ones are in force.
    pub error: bool,
    /// Rules that block because they make no sense.
    pub problems: u64,
    /// New flows that a rule decided.
    pub by_rule: u64,
    /// New flows that none did.
    pub by_default: u64,
}

impl Measured for Rules {
    fn visit(&self, visit: &mut Visit<'_>) {
        show(visit, &RULES_GENERATION, &[], self.generation as f64);
        show(visit, &RULES_ERROR, &[], f64::from(u8::from(self.error)));
        show(visit, &RULES_PROBLEMS, &[], self.problems as f64);
        for (by, flows) in [("rule", self.by_rule), ("default", self.by_default)] {
            show(visit, &RULES_DECISIONS, &[by], flows as f64);
        }
    }
}

/// Queries and answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Queries that were sent.
    pub queries: u64,
    /// Answers to them.
    pub answers: u64,
    /// Answers that nobody waited for.
    pub unexpected: u64,
    /// Queries that were not sent because too many wait.
    pub refused: u64,
    /// Queries that wait.
    pub pending: u64,
    /// Names that are known for addresses.
    pub names: u64,
}

impl Measured for Dns {
    fn visit(&self, visit: &mut Visit<'_>) {
        let all = [
            (&DNS_QUERIES, self.queries),
            (&DNS_ANSWERS, self.answers),
            (&DNS_UNEXPECTED, self.unexpected),
            (&DNS_REFUSED, self.refused),
            (&DNS_PENDING, self.pending),
            (&DNS_NAMES, self.names),
        ];
        for (family, value) in all {
            show(visit, family, &[], value as f64);
        }
    }
}

/// A member of a group of tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMember {
    /// The group's name.
    pub group: String,
    /// The tunnel's.
    pub tunnel: String,
    /// Whether new flows may take it.
    pub in_use: bool,
}

impl Measured for GroupMember {
    fn visit(&self, visit: &mut Visit<'_>) {
        let labels = [self.group.as_str(), self.tunnel.as_str()];
        show(
            visit,
            &GROUP_IN_USE,
            &labels,
            f64::from(u8::from(self.in_use)),
        );
    }
}
