//! Packets under a filter, and the first one after rules changed.

use vpn_benches::world::{ASSIGNED, app, data, remote};
use vpn_core::packet::tcp_flags;
use vpn_core::rule::{FilterAction, FilterDirection, FilterRule, RuleProtocol};
use vpn_core::testing::build;
use vpn_core::{PortRange, RuleId, RuleSnapshot};
use vpn_routing::router::Egress;

use super::case::Case;
use super::lane::{Lane, assigned, everything, settings};

/// Flows that packets belong to: a batch has each once.
const FLOWS: u32 = 64;

/// Rules of which none matches, each about another port: the worst of so many.
fn filters(count: u64) -> RuleSnapshot {
    let rule = |n: u64| FilterRule {
        id: RuleId(100 + n),
        direction: FilterDirection::Both,
        tunnel: None,
        family: None,
        protocol: Some(RuleProtocol::Tcp),
        remote: None,
        ports: Some(PortRange::single(30_000 + n as u16)),
        icmp: None,
        fragments: false,
        action: FilterAction::Drop,
    };
    RuleSnapshot {
        filters: (0..count).map(rule).collect(),
        ..everything()
    }
}

/// Packets of established flows. `change` comes before each batch, off the clock.
fn established(name: &'static str, filter_rules: u64, change: bool) -> Case {
    let rules = filters(filter_rules);
    let mut lane = Lane::new(settings(256), vec![assigned(1420)], rules);
    let tunnel = lane.tunnel(0);
    let (syn, ack) = (tcp_flags::SYN, tcp_flags::ACK);
    for flow in 0..FLOWS {
        let out = build::tcp(app(flow), remote(flow), syn, 1, &[]);
        let wire = (ASSIGNED.into(), app(flow).1);
        let back = build::tcp(remote(flow), wire, syn | ack, 1, &[]);
        assert_eq!(lane.pass(Egress::Device, [&out[..]]).len(), 1);
        assert_eq!(lane.pass(tunnel, [&back[..]]).len(), 1);
    }
    let packets: Vec<_> = (0..FLOWS).map(data).collect();
    Case::new(name, lane, move |lane, count| {
        if change {
            lane.change();
        }
        for packet in &packets[..count as usize] {
            lane.put(packet);
        }
        lane.route(Egress::Device);
    })
}

/// No rules and a hundred, unchanged and just changed.
pub(crate) fn filter() -> Vec<Case> {
    vec![
        established("established, no filter", 0, false),
        established("established, 100 filter rules", 100, false),
        established("first after a change, no filter", 0, true),
        established("first after a change, 100 filter rules", 100, true),
    ]
}
