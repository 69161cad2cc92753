//! Decides what may not pass although its rule gives it a tunnel: the packet filter. Pure.
//!
//! Rules are looked at in order and the first that matches decides; what none matches passes. A
//! flow is judged once, when it is new, and again with its next packet after the rules changed: so
//! answers need no rule of their own. A [`Subject`] can be a single packet as well, for those that
//! are of no flow: an ICMP message that is no echo, a fragment.
//!
//! The ports of a flow are those the parser found behind every extension header (RFC 8200 §4), so
//! nothing hides them. A fragment has no ports: a rule with ports does not match it, and what
//! follows the first fragment of a datagram shares that one's fate.

mod compile;
#[cfg(test)]
mod tests;

use vpn_core::rule::{FilterAction, FilterDirection};
use vpn_core::{FlowKey, GroupId, Protocol, RuleId, TunnelId};

pub use compile::{Filters, MAX_FILTER_RULES};

/// What is judged: a flow that is new, or one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Where the flow was started: [`Inbound`](FilterDirection::Inbound) behind the tunnel,
    /// [`Outbound`](FilterDirection::Outbound) here.
    pub direction: FilterDirection,
    /// The tunnel it uses.
    pub tunnel: TunnelId,
    /// As its first packet has it: the far end is the destination of an outbound flow, and the
    /// source of an inbound one. Applications' view of addresses, the tunnel's view of ports.
    pub flow: FlowKey,
    /// Type and code of an ICMP message.
    pub icmp: Option<(u8, u8)>,
    /// Whether it is a fragment.
    pub fragment: bool,
}

impl Subject {
    /// A new flow, by its first packet.
    pub fn flow(direction: FilterDirection, tunnel: TunnelId, flow: FlowKey) -> Self {
        let icmp = match flow.protocol() {
            Protocol::ICMP => Some((8, 0)),
            Protocol::ICMPV6 => Some((128, 0)),
            _ => None,
        };
        Self {
            direction,
            tunnel,
            flow,
            icmp,
            fragment: false,
        }
    }
}

/// What the filter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What becomes of it.
    pub action: FilterAction,
    /// The rule that says so; `None` if none matches, and it passes.
    pub rule: Option<RuleId>,
}

impl Judgement {
    /// No rule matches.
    pub const PASSES: Self = Self {
        action: FilterAction::Accept,
        rule: None,
    };
}

/// Where a filter rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Everywhere,
    Tunnel(TunnelId),
    Group(GroupId),
    /// Its name stands for nothing.
    Nowhere,
}
