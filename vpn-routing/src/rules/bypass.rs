//! Which traffic need not enter the device at all, since its rule says direct and the system can
//! tell so by itself.
//!
//! The system's own policy rules know a packet's user, destination, protocol and ports, and apply
//! in order. So the rules are written down once more in order of precedence, as far as the system
//! can tell what they match:
//!
//! * a rule that says direct, and of which the system can tell all, goes around the device;
//! * a rule that says direct and more than the system can tell is left out: what it matches is
//!   captured, and the router sends it through the direct tunnel;
//! * every other rule is captured, with all that it could match as far as the system can tell.
//!
//! To capture too much is always right, since the router then decides; to capture too little never
//! is. Where a packet filter is in force nothing goes around it.

use vpn_core::rule::RuleProtocol;
use vpn_core::{Bypass, OwnerMatch, Protocol, RuleMatch, TunnelId, Way};

use super::decide::Target;
use super::entry::Entry;

/// Entries at most: the system looks through them one by one for every new connection. What is
/// beyond is captured.
pub const MAX_BYPASS: usize = 256;

/// The number that no user has: systems call it -1. A rule for a user that a host does not have is about it.
const NOBODY: u32 = u32::MAX;

/// The list for these rules, in order of precedence.
pub(super) fn bypass(entries: &[Entry], default: Target, direct: TunnelId) -> Vec<Bypass> {
    let mut ordered: Vec<&Entry> = entries.iter().collect();
    ordered.sort_by_key(|entry| std::cmp::Reverse(entry.precedence()));
    let mut list = Vec::new();
    for entry in ordered {
        // It matches nothing, and a system that is told of such a user refuses the whole list.
        if entry.matches.owner == Some(OwnerMatch::Uid(NOBODY)) {
            continue;
        }
        let goes_direct = entry.target == Target::Tunnel(direct);
        let way = match (goes_direct, is_told(&entry.matches)) {
            (true, true) => Way::Main,
            (true, false) => continue,
            (false, _) => Way::Capture,
        };
        let before = list.len();
        push(&mut list, &entry.matches, way);
        if list.len() > MAX_BYPASS {
            list.truncate(before);
            return without_tail(list);
        }
        if matches_everything(&list[before..]) {
            return without_tail(list);
        }
    }
    if default == Target::Tunnel(direct) && list.len() < MAX_BYPASS {
        list.push(Bypass::new(Way::Main));
    }
    without_tail(list)
}

/// Whether the system can tell all that a rule matches.
fn is_told(matches: &RuleMatch) -> bool {
    let owner = matches!(matches.owner, None | Some(OwnerMatch::Uid(_)));
    owner && matches.source.is_none() && matches.interface.is_none() && matches.domain.is_none()
}

/// What is captured last would be captured anyway.
fn without_tail(mut list: Vec<Bypass>) -> Vec<Bypass> {
    let last = list.iter().rposition(|entry| entry.way == Way::Main);
    list.truncate(last.map_or(0, |last| last + 1));
    list
}

/// After an entry without conditions no other matters.
fn matches_everything(entries: &[Bypass]) -> bool {
    let open = |e: &Bypass| *e == Bypass::new(e.way);
    entries.iter().any(open)
}

fn push(list: &mut Vec<Bypass>, matches: &RuleMatch, way: Way) {
    let mut entry = Bypass::new(way);
    if let Some(OwnerMatch::Uid(uid)) = matches.owner {
        entry = entry.uids(uid..=uid);
    }
    if let Some(net) = matches.destination {
        entry = entry.destination(net);
    }
    if let Some(family) = matches.family {
        entry = entry.family(family);
    }
    if let Some(ports) = matches.ports {
        entry = entry.ports(ports);
    }
    match matches.protocol {
        None => list.push(entry),
        Some(RuleProtocol::Tcp) => list.push(entry.protocol(Protocol::TCP)),
        Some(RuleProtocol::Udp) => list.push(entry.protocol(Protocol::UDP)),
        // A rule with ports matches neither of these.
        Some(RuleProtocol::Icmp) if matches.ports.is_some() => {}
        Some(RuleProtocol::Icmp) => {
            list.push(entry.clone().protocol(Protocol::ICMP));
            list.push(entry.protocol(Protocol::ICMPV6));
        }
        // One that this version does not know may be any.
        Some(_) => list.push(entry),
    }
}
