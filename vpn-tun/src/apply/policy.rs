//! Decides which policy rules a capture is made of, and where each of them stands.
//!
//! With the default priority of 10000:
//!
//! ```text
//! 9480:  iif vpn0 lookup main          what comes out of the device is an answer: never back in
//! 9481:  iif vpn0 blackhole
//! 9482…: the same for the device of `direct`, and its addresses
//! 9488…: the bypass list               goto 10002 (around), goto 10000 (captured)
//! 10000: not fwmark MARK lookup TABLE  the capture
//! 10001: not fwmark MARK blackhole     the guard
//! 10002: nop                           where "around" leads: whatever rules the host has
//! ```
//!
//! The entries of the bypass list jump, so that a marked packet that matches one meets the same
//! rules as every marked packet, and so that without the last rule nothing gets around.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{
    RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange, RuleUidRange,
};
use vpn_core::{Bypass, Family, Protocol, Way};

use super::config::{CaptureConfig, PROTOCOL};
use super::netlink::address_family;
use crate::name::InterfaceName;

/// Rules of the bypass list, of one family. The kernel goes through them one by one, for every
/// lookup of a route; what does not fit is captured, and decided by the router.
pub const MAX_BYPASS: u32 = 512;

/// Slots below the bypass list: see the module's table.
const SLOTS: u32 = 8;

/// Priorities that a capture has before its own.
pub(crate) const RESERVED: u32 = MAX_BYPASS + SLOTS;

/// The largest number that a user may have: the kernel refuses rules of the one above, which is nobody's.
const LAST_USER: u32 = u32::MAX - 1;

/// The kernel's main routing table.
const MAIN_TABLE: u8 = 254;

/// What a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Lets the capture's table decide.
    Capture,
    /// Ends the lookup when that table did not: IPv6 passes over the blackhole *route* for a
    /// socket that is bound to another interface.
    Guard,
    /// Where an entry jumps to that leads around.
    Around,
    /// Packets that come out of this device go where the main table says.
    From(Device, InterfaceName),
    /// And nowhere else.
    FromOnly(Device, InterfaceName),
    /// Answers to `direct` find its device.
    To(IpNet),
    /// An entry of the bypass list, at this place.
    Bypass(u32, Entry),
}

/// One of our devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Captured,
    Direct,
}

/// One kernel rule of the bypass list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(super) way: Way,
    pub(super) uids: Option<RangeInclusive<u32>>,
    pub(super) destination: Option<IpNet>,
    pub(super) protocol: Option<Protocol>,
    pub(super) ports: Option<RangeInclusive<u16>>,
}

/// One step from a bypass list to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Add(u32, Entry),
    Remove(u32, Entry),
}

/// A list that captures these resolvers before anything else.
pub(super) fn resolvers_first(dns: &BTreeSet<IpAddr>, list: &[Bypass]) -> Vec<Bypass> {
    if list.is_empty() {
        return Vec::new();
    }
    let captured = |address: &IpAddr| Bypass::new(Way::Capture).destination((*address).into());
    dns.iter()
        .map(captured)
        .chain(list.iter().cloned())
        .collect()
}

/// The list as kernel rules of one family. What is captured at the end is left out: that is what
/// follows anyway.
pub(super) fn entries(list: &[Bypass], family: Family) -> Vec<Entry> {
    let mut entries = Vec::new();
    for bypass in list.iter().filter(|bypass| bypass.concerns(family)) {
        expand(bypass, &mut entries);
    }
    if entries.len() > MAX_BYPASS as usize {
        tracing::warn!(
            left_out = entries.len() - MAX_BYPASS as usize,
            "the bypass list is too long: the rest enters the device"
        );
        entries.truncate(MAX_BYPASS as usize);
    }
    while entries.last().is_some_and(|e| e.way == Way::Capture) {
        entries.pop();
    }
    entries
}

/// The rules that one entry becomes: with ports and no protocol, one of TCP and one of UDP. None if it is
/// about nobody.
fn expand(bypass: &Bypass, into: &mut Vec<Entry>) {
    let users = bypass.uids.as_ref();
    let uids = users.map(|uids| *uids.start()..=(*uids.end()).min(LAST_USER));
    if uids.as_ref().is_some_and(RangeInclusive::is_empty) {
        return;
    }
    let entry = |protocol, ports| Entry {
        way: bypass.way,
        uids: uids.clone(),
        destination: bypass.destination.map(|net| net.trunc()),
        protocol,
        ports,
    };
    let Some(ports) = bypass.ports else {
        return into.push(entry(bypass.protocol, None));
    };
    let protocols = match bypass.protocol {
        Some(protocol) => vec![protocol],
        None => vec![Protocol::TCP, Protocol::UDP],
    };
    let (first, last) = (ports.first(), ports.last());
    // The kernel takes neither 0 nor 65535 in a range: what is captured gets wider, what goes
    // around narrower.
    let range = match bypass.way {
        _ if first > 0 && last < u16::MAX => Some(first..=last),
        Way::Capture => None,
        Way::Main if first == u16::MAX || last == 0 => return,
        Way::Main => Some(first.max(1)..=last.min(u16::MAX - 1)),
    };
    into.extend(protocols.into_iter().map(|p| entry(Some(p), range.clone())));
}

/// The steps from one list to another. On the way, no packet goes around that both capture: what
/// leads around goes first and comes last.
pub(super) fn steps(old: &[Entry], new: &[Entry]) -> Vec<Step> {
    let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = |list: &[Entry], way| {
        let all = (0u32..).zip(list.to_vec()).skip(same);
        all.filter(move |(_, entry)| entry.way == way)
    };
    rest(old, Way::Main)
        .chain(rest(old, Way::Capture))
        .map(|(at, entry)| Step::Remove(at, entry))
        .chain(
            rest(new, Way::Capture)
                .chain(rest(new, Way::Main))
                .map(|(at, entry)| Step::Add(at, entry)),
        )
        .collect()
}

/// The kernel's message for a rule. `capture` decides mark, table and priorities.
pub(crate) fn message(family: Family, capture: &CaptureConfig, role: &Role) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = address_family(family);
    let attributes = &mut rule.attributes;
    attributes.push(RuleAttribute::Priority(priority(capture, role)));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
    match role {
        Role::Capture | Role::Guard => {
            rule.header.flags = RuleFlags::Invert;
            attributes.push(RuleAttribute::FwMark(capture.mark));
            attributes.push(RuleAttribute::FwMask(u32::MAX));
        }
        Role::From(_, name) | Role::FromOnly(_, name) => {
            attributes.push(RuleAttribute::Iifname(name.to_string()));
        }
        Role::Around => {}
        Role::To(net) => {
            rule.header.dst_len = net.prefix_len();
            attributes.push(RuleAttribute::Destination(net.trunc().addr()));
        }
        Role::Bypass(_, entry) => {
            conditions(entry, attributes);
            rule.header.dst_len = entry.destination.map_or(0, |net| net.prefix_len());
        }
    }
    let attributes = &mut rule.attributes;
    rule.header.action = match role {
        Role::Capture => {
            match u8::try_from(capture.table) {
                Ok(small) => rule.header.table = small,
                Err(_) => attributes.push(RuleAttribute::Table(capture.table)),
            }
            RuleAction::ToTable
        }
        Role::From(..) | Role::To(_) => {
            rule.header.table = MAIN_TABLE;
            RuleAction::ToTable
        }
        Role::Guard | Role::FromOnly(..) => RuleAction::Blackhole,
        Role::Around => RuleAction::Nop,
        Role::Bypass(_, entry) => {
            let target = match entry.way {
                Way::Capture => Role::Capture,
                Way::Main => Role::Around,
            };
            attributes.push(RuleAttribute::Goto(priority(capture, &target)));
            RuleAction::Goto
        }
    };
    rule
}

fn conditions(entry: &Entry, attributes: &mut Vec<RuleAttribute>) {
    if let Some(uids) = &entry.uids {
        attributes.push(RuleAttribute::UidRange(RuleUidRange {
            start: *uids.start(),
            end: *uids.end(),
        }));
        // To the kernel, forwarded packets are root's. Those of sockets here come from `lo`.
        attributes.push(RuleAttribute::Iifname("lo".to_owned()));
    }
    if let Some(net) = entry.destination
        && net.prefix_len() > 0
    {
        attributes.push(RuleAttribute::Destination(net.addr()));
    }
    if let Some(protocol) = entry.protocol {
        attributes.push(RuleAttribute::IpProtocol(i32::from(protocol.0).into()));
    }
    if let Some(ports) = &entry.ports {
        attributes.push(RuleAttribute::DestinationPortRange(RulePortRange {
            start: *ports.start(),
            end: *ports.end(),
        }));
    }
}

fn priority(capture: &CaptureConfig, role: &Role) -> u32 {
    let first = capture.priority - RESERVED;
    let slot = |device: &Device| match device {
        Device::Captured => first,
        Device::Direct => first + 2,
    };
    match role {
        Role::From(device, _) => slot(device),
        Role::FromOnly(device, _) => slot(device) + 1,
        Role::To(_) => first + 4,
        Role::Bypass(at, _) => first + SLOTS + at,
        Role::Capture => capture.priority,
        Role::Guard => capture.priority + 1,
        Role::Around => capture.priority + 2,
    }
}

/// Whose a rule is, of those that a capture's priorities and table show to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The capture itself.
    Capture,
    /// The way out of the device.
    Device,
    /// The bypass list: it holds only while somebody decides the rest by the same rules.
    Bypass,
    /// The device of `direct`.
    Direct,
}

/// Which part of this capture a rule is that was read back, also one of a former run; `None` if it
/// is somebody else's.
pub(crate) fn part_of(rule: &RuleMessage, capture: &CaptureConfig) -> Option<Part> {
    let ours = RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL));
    if !rule.attributes.contains(&ours) {
        return None;
    }
    let priority = priority_of(rule)?;
    let first = capture.priority - RESERVED;
    if table_of(rule) == capture.table {
        return Some(Part::Capture);
    }
    match priority.checked_sub(first)? {
        0 | 1 => Some(Part::Device),
        2..SLOTS => Some(Part::Direct),
        SLOTS..RESERVED => Some(Part::Bypass),
        at if at <= RESERVED + 2 => Some(Part::Capture),
        _ => None,
    }
}

/// Whether a rule of the capture itself is the one this capture wants.
pub(super) fn is_wanted(rule: &RuleMessage, capture: &CaptureConfig) -> bool {
    let marked = rule.header.flags.contains(RuleFlags::Invert)
        && rule
            .attributes
            .contains(&RuleAttribute::FwMark(capture.mark));
    match priority_of(rule) {
        Some(p) if p == capture.priority || p == capture.priority + 1 => marked,
        Some(p) => p == capture.priority + 2,
        None => false,
    }
}

/// Whether a rule that was read back lets packets around.
pub(super) fn leads_around(rule: &RuleMessage, capture: &CaptureConfig) -> bool {
    let around = RuleAttribute::Goto(priority(capture, &Role::Around));
    rule.attributes.contains(&around)
}

/// Whether a rule that was read back is this one of ours: the kernel adds what it has of its own.
pub(super) fn is_same(ours: &RuleMessage, there: &RuleMessage) -> bool {
    let inverted = |rule: &RuleMessage| rule.header.flags.contains(RuleFlags::Invert);
    ours.header.family == there.header.family
        && ours.header.action == there.header.action
        && ours.header.dst_len == there.header.dst_len
        && inverted(ours) == inverted(there)
        && table_of(ours) == table_of(there)
        && ours.attributes.iter().all(|attribute| {
            // By its number, or in the header.
            matches!(attribute, RuleAttribute::Table(_)) || there.attributes.contains(attribute)
        })
}

fn table_of(rule: &RuleMessage) -> u32 {
    rule.attributes
        .iter()
        .find_map(|a| match a {
            RuleAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(rule.header.table.into())
}

pub(crate) fn priority_of(rule: &RuleMessage) -> Option<u32> {
    rule.attributes.iter().find_map(|a| match a {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use vpn_core::rule::PortRange;

    /// A list over few users and ports, so that entries overlap.
    fn lists() -> impl Strategy<Value = Vec<Entry>> {
        let entry = (
            any::<bool>(),
            prop::option::of(0u32..3),
            prop::option::of(1u16..4),
        );
        vec(entry, 0..6).prop_map(|all| {
            let list: Vec<_> = all
                .into_iter()
                .map(|(main, uid, port)| {
                    let way = if main { Way::Main } else { Way::Capture };
                    let mut bypass = Bypass::new(way);
                    bypass.uids = uid.map(|uid| uid..=uid);
                    bypass.ports = port.map(PortRange::single);
                    bypass.protocol = Some(Protocol::TCP);
                    bypass
                })
                .collect();
            entries(&list, Family::V4)
        })
    }

    fn decide<'a>(list: impl IntoIterator<Item = &'a Entry>, uid: u32, port: u16) -> Way {
        let matches = |e: &&Entry| {
            e.uids.as_ref().is_none_or(|u| u.contains(&uid))
                && e.ports.as_ref().is_none_or(|p| p.contains(&port))
        };
        list.into_iter()
            .find(matches)
            .map_or(Way::Capture, |e| e.way)
    }

    proptest! {
        #[test]
        fn on_the_way_nothing_goes_around_that_both_capture(old in lists(), new in lists()) {
            let mut kernel: BTreeMap<u32, Entry> = (0u32..).zip(old.clone()).collect();
            for step in steps(&old, &new) {
                match step {
                    Step::Add(at, entry) => prop_assert!(kernel.insert(at, entry).is_none()),
                    Step::Remove(at, entry) => prop_assert_eq!(kernel.remove(&at), Some(entry)),
                }
                for (uid, port) in (0..4).flat_map(|u| (1..5).map(move |p| (u, p))) {
                    let captured = |list: &[Entry]| decide(list, uid, port) == Way::Capture;
                    if captured(&old) && captured(&new) {
                        prop_assert_eq!(decide(kernel.values(), uid, port), Way::Capture);
                    }
                }
            }
            prop_assert_eq!(kernel.into_values().collect::<Vec<_>>(), new);
        }
    }

    #[test]
    fn resolvers_are_captured_first_and_only_if_something_goes_around() {
        let dns = BTreeSet::from(["10.99.0.53".parse().unwrap()]);
        let all = [Bypass::new(Way::Main)];
        let all = resolvers_first(&dns, &all);
        let list = entries(&all, Family::V4);
        assert_eq!(list.len(), 2);
        assert_eq!(list[0].way, Way::Capture);
        assert_eq!(list[0].destination, Some("10.99.0.53/32".parse().unwrap()));
        assert_eq!(entries(&all, Family::V6).len(), 1);
        assert!(resolvers_first(&dns, &[]).is_empty());
        assert!(entries(&all[..1], Family::V4).is_empty());
    }

    #[test]
    fn ports_the_kernel_cannot_express_are_captured() {
        let list = |way, first, last| {
            let bypass = Bypass::new(way).ports(PortRange::new(first, last).unwrap());
            let all = [bypass, Bypass::new(Way::Main)];
            entries(&all, Family::V4)
        };
        let main = list(Way::Main, 0, u16::MAX);
        assert_eq!(main[0].ports, Some(1..=65_534));
        assert_eq!(main[0].protocol, Some(Protocol::TCP));
        assert_eq!(main[1].protocol, Some(Protocol::UDP));
        assert_eq!(list(Way::Main, u16::MAX, u16::MAX).len(), 1);
        assert_eq!(list(Way::Capture, 1000, u16::MAX)[0].ports, None);
        assert_eq!(list(Way::Capture, 53, 53)[0].ports, Some(53..=53));
    }

    #[test]
    fn a_user_that_nobody_can_be_is_in_no_rule() {
        let of = |uids| Bypass::new(Way::Main).uids(uids);
        let all = [of(u32::MAX..=u32::MAX), of(7..=u32::MAX)];
        let uids: Vec<_> = entries(&all, Family::V4)
            .into_iter()
            .map(|entry| entry.uids)
            .collect();
        assert_eq!(uids, [Some(7..=u32::MAX - 1)]);
    }

    #[test]
    fn what_does_not_fit_is_captured() {
        let many: Vec<_> = (0..MAX_BYPASS + 9)
            .map(|uid| Bypass::new(Way::Main).uids(uid..=uid))
            .collect();
        let list = entries(&many, Family::V6);
        assert_eq!(list.len(), MAX_BYPASS as usize);
    }

    #[test]
    fn priorities_do_not_meet() {
        let capture = CaptureConfig::default();
        let last = Entry {
            way: Way::Main,
            uids: None,
            destination: None,
            protocol: None,
            ports: None,
        };
        let last = Role::Bypass(MAX_BYPASS - 1, last);
        assert_eq!(priority(&capture, &last) + 1, capture.priority);
        let vpn0: InterfaceName = "vpn0".parse().unwrap();
        for (role, part) in [
            (Role::From(Device::Captured, vpn0.clone()), Part::Device),
            (Role::FromOnly(Device::Captured, vpn0.clone()), Part::Device),
            (Role::FromOnly(Device::Direct, vpn0), Part::Direct),
            (Role::To("10.0.0.1/32".parse().unwrap()), Part::Direct),
            (last, Part::Bypass),
            (Role::Capture, Part::Capture),
            (Role::Guard, Part::Capture),
            (Role::Around, Part::Capture),
        ] {
            let rule = message(Family::V4, &capture, &role);
            assert_eq!(part_of(&rule, &capture), Some(part), "{role:?}");
        }
    }
}
