//! `[timeouts]`, `[hold]` and `[limits]`: how long and how much.

use serde::{Deserialize, Serialize};
use vpn_routing::RouterConfig;
use vpn_routing::conn::Timeouts as FlowTimeouts;
use vpn_routing::fragment::FragmentLimits;
use vpn_routing::router::{HoldLimits, HoldQuota, MemoryBudget};

use super::value::{Count, Span};

/// A second to a day, in milliseconds: less is a mistake of units, more keeps what is dead.
pub(super) type Silence = Span<1_000, 86_400_000>;

/// A millisecond to a minute: somebody waits.
pub(super) type Wait = Span<1, 60_000>;

/// Flows: at 240 bytes each, 1 GiB at most.
type Flows = Count<1, 4_194_304>;

/// Bytes that are held: 1 GiB at most.
type Bytes = Count<1, 1_073_741_824>;

/// Bytes of a whole router: below a MiB nothing works, and above 64 GiB it is a mistake of units.
type Memory = Count<1_048_576, 68_719_476_736>;

/// Tunnels that the memory is planned for beyond those of the file: a reload may add as many.
const MORE_TUNNELS: usize = 8;

/// `[timeouts]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Timeouts {
    udp: Silence,
    icmp: Silence,
    other: Silence,
    asked: Silence,
    tcp_established: Span<1_000, 2_592_000_000>,
    tcp_transitory: Silence,
    tcp_closed: Silence,
    recheck_owner: Span<0, 60_000>,
    fragments: Wait,
}

impl Default for Timeouts {
    fn default() -> Self {
        let router = RouterConfig::default();
        let flows = router.timeouts;
        Self {
            udp: Span(flows.udp),
            icmp: Span(flows.icmp),
            other: Span(flows.other),
            asked: Span(flows.asked),
            tcp_established: Span(flows.tcp_established),
            tcp_transitory: Span(flows.tcp_transitory),
            tcp_closed: Span(flows.tcp_closed),
            recheck_owner: Span(router.recheck_owner),
            fragments: Span(router.fragments.patience),
        }
    }
}

/// `[hold]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Hold {
    flow_packets: Count<1, 1024>,
    flows: Flows,
    bytes: Bytes,
    tunnel_flows: Flows,
    tunnel_bytes: Bytes,
    owner_flows: Flows,
    owner_bytes: Bytes,
    unknown_flows: Flows,
    unknown_bytes: Bytes,
    owner: Wait,
    connecting: Wait,
}

impl Default for Hold {
    fn default() -> Self {
        let hold = HoldLimits::default();
        Self {
            flow_packets: Count(hold.flow_packets),
            flows: Count(hold.flows),
            bytes: Count(hold.bytes),
            tunnel_flows: Count(hold.per_tunnel.flows),
            tunnel_bytes: Count(hold.per_tunnel.bytes),
            owner_flows: Count(hold.per_owner.flows),
            owner_bytes: Count(hold.per_owner.bytes),
            unknown_flows: Count(hold.unknown_owner.flows),
            unknown_bytes: Count(hold.unknown_owner.bytes),
            owner: Span(hold.owner),
            connecting: Span(hold.connecting),
        }
    }
}

/// `[limits]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    flows: Flows,
    flows_per_owner: Flows,
    flows_per_inbound_rule: Flows,
    queue_packets: Count<1, 65_536>,
    largest_packet: Count<1280, 65_535>,
    fragments: Count<1, 65_536>,
    fragment_bytes: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
}

impl Default for Limits {
    fn default() -> Self {
        let router = RouterConfig::default();
        Self {
            flows: Count(router.max_flows),
            flows_per_owner: Count(router.max_flows_per_owner),
            flows_per_inbound_rule: Count(router.max_flows_per_inbound_rule),
            queue_packets: Count(router.queue_packets),
            largest_packet: Count(router.largest_packet),
            fragments: Count(router.fragments.datagrams),
            fragment_bytes: Count(router.fragments.bytes),
            memory: None,
        }
    }
}

impl Limits {
    /// Bytes of the largest packet.
    pub(super) const fn largest_packet(&self) -> usize {
        self.largest_packet.0
    }
}

/// Puts them in the settings of a router for `tunnels`.
pub(super) fn apply(
    timeouts: &Timeouts,
    hold: &Hold,
    limits: &Limits,
    tunnels: usize,
    router: &mut RouterConfig,
) {
    router.timeouts = FlowTimeouts {
        udp: timeouts.udp.0,
        icmp: timeouts.icmp.0,
        other: timeouts.other.0,
        asked: timeouts.asked.0,
        tcp_established: timeouts.tcp_established.0,
        tcp_transitory: timeouts.tcp_transitory.0,
        tcp_closed: timeouts.tcp_closed.0,
    };
    router.recheck_owner = timeouts.recheck_owner.0;
    let quota = |flows: Flows, bytes: Bytes| HoldQuota {
        flows: flows.0,
        bytes: bytes.0,
    };
    router.hold = HoldLimits {
        flow_packets: hold.flow_packets.0,
        flows: hold.flows.0,
        bytes: hold.bytes.0,
        per_tunnel: quota(hold.tunnel_flows, hold.tunnel_bytes),
        per_owner: quota(hold.owner_flows, hold.owner_bytes),
        unknown_owner: quota(hold.unknown_flows, hold.unknown_bytes),
        owner: hold.owner.0,
        connecting: hold.connecting.0,
    };
    router.max_flows = limits.flows.0;
    router.max_flows_per_owner = limits.flows_per_owner.0;
    router.max_flows_per_inbound_rule = limits.flows_per_inbound_rule.0;
    router.queue_packets = limits.queue_packets.0;
    router.largest_packet = limits.largest_packet.0;
    router.fragments = FragmentLimits {
        datagrams: limits.fragments.0,
        bytes: limits.fragment_bytes.0,
        patience: timeouts.fragments.0,
    };
    router.memory_budget = limits.memory.map(|bytes| MemoryBudget {
        bytes: bytes.0,
        tunnels: tunnels + MORE_TUNNELS,
    });
}

/// What excludes each other: the key, and why.
pub(super) fn contradiction(hold: &Hold, limits: &Limits) -> Option<(&'static str, String)> {
    let shares = [
        (
            "hold.tunnel_flows",
            hold.tunnel_flows,
            hold.flows,
            "hold.flows",
        ),
        (
            "hold.owner_flows",
            hold.owner_flows,
            hold.flows,
            "hold.flows",
        ),
        (
            "hold.unknown_flows",
            hold.unknown_flows,
            hold.flows,
            "hold.flows",
        ),
        (
            "limits.flows_per_inbound_rule",
            limits.flows_per_inbound_rule,
            limits.flows,
            "limits.flows",
        ),
        (
            "limits.flows_per_owner",
            limits.flows_per_owner,
            limits.flows,
            "limits.flows",
        ),
    ];
    let bytes = [
        ("hold.tunnel_bytes", hold.tunnel_bytes),
        ("hold.owner_bytes", hold.owner_bytes),
        ("hold.unknown_bytes", hold.unknown_bytes),
    ];
    let shares = shares.map(|(key, share, all, of)| (key, share.0, all.0, of));
    let bytes = bytes.map(|(key, share)| (key, share.0, hold.bytes.0, "hold.bytes"));
    let mut all = shares.into_iter().chain(bytes);
    all.find(|(_, share, all, _)| share > all)
        .map(|(key, share, all, of)| (key, format!("{share} is more than {of}, which is {all}")))
}
