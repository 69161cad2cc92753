//! The samples of each tunnel: what it carries, and what it occupies.

use vpn_core::TransportState;
use vpn_routing::router::{Status, TunnelStatus};

use super::families::{counter, gauge};
use super::text::{Family, Text};
use crate::resources::{self, Process};

/// Every state a tunnel can be in.
const STATES: [&str; 5] = ["connecting", "dormant", "up", "down", "closed"];

pub(super) fn carried(text: &mut Text, status: &Status) {
    of_each(
        text,
        status,
        gauge("vpn_tunnel_up", "1 while its peer answers."),
        |tunnel| {
            Some(f64::from(u8::from(matches!(
                tunnel.state,
                TransportState::Up(_)
            ))))
        },
    );
    let states = status.tunnels.iter().flat_map(|tunnel| {
        STATES.iter().map(|&state| {
            let is = f64::from(u8::from(tunnel.state.name() == state));
            (vec![("tunnel", tunnel.name.as_str()), ("state", state)], is)
        })
    });
    text.family(
        gauge(
            "vpn_tunnel_state",
            "1 for the state it is in, 0 for the others.",
        ),
        states,
    );
    let ways = |count: fn(&TunnelStatus) -> [u64; 2]| {
        status.tunnels.iter().flat_map(move |tunnel| {
            let counts = ["tx", "rx"].into_iter().zip(count(tunnel));
            counts.map(move |(way, n)| {
                (
                    vec![("tunnel", tunnel.name.as_str()), ("direction", way)],
                    n as f64,
                )
            })
        })
    };
    text.family(
        counter(
            "vpn_tunnel_packets_total",
            "Packets routed into it, and delivered from it.",
        ),
        ways(|tunnel| [tunnel.counters.tx_packets, tunnel.counters.rx_packets]),
    );
    text.family(
        counter(
            "vpn_tunnel_bytes_total",
            "Their bytes, IP headers included.",
        ),
        ways(|tunnel| [tunnel.counters.tx_bytes, tunnel.counters.rx_bytes]),
    );
    let drops = status.tunnels.iter().flat_map(|tunnel| {
        tunnel.counters.drops.iter().map(|(reason, n)| {
            (
                vec![("tunnel", tunnel.name.as_str()), ("reason", reason.name())],
                n as f64,
            )
        })
    });
    text.family(
        counter(
            "vpn_tunnel_dropped_packets_total",
            "Packets dropped on its account, by reason.",
        ),
        drops,
    );
    of_each(
        text,
        status,
        gauge("vpn_tunnel_flows", "Flows that use it."),
        |tunnel| Some(tunnel.flows as f64),
    );
    of_each(
        text,
        status,
        gauge(
            "vpn_tunnel_names",
            "Names that its resolver gave to addresses.",
        ),
        |tunnel| Some(tunnel.names as f64),
    );
    of_each(
        text,
        status,
        gauge(
            "vpn_tunnel_mtu_bytes",
            "Largest packet inside it, once that is known.",
        ),
        |tunnel| (tunnel.mtu > 0).then(|| f64::from(tunnel.mtu)),
    );
    of_each(
        text,
        status,
        gauge(
            "vpn_tunnel_round_trip_seconds",
            "To its other end and back, once measured.",
        ),
        |tunnel| tunnel.round_trip.map(|time| time.as_secs_f64()),
    );
}

pub(super) fn occupied(text: &mut Text, status: &Status) {
    of_each(
        text,
        status,
        gauge(
            "vpn_tunnel_open_fds",
            "File descriptors it has in this process.",
        ),
        |tunnel| Some(tunnel.resources.descriptors as f64),
    );
    of_each(
        text,
        status,
        gauge("vpn_tunnel_tasks", "Tasks it has in this process."),
        |tunnel| Some(tunnel.resources.tasks as f64),
    );
    of_each(
        text,
        status,
        gauge(
            "vpn_tunnel_memory_bytes",
            "Memory of its state and buffers in this process, about.",
        ),
        |tunnel| Some(tunnel.resources.bytes as f64),
    );
    // Looked at once: between two looks it may end.
    let beside: Vec<(&str, Process)> = status
        .tunnels
        .iter()
        .filter_map(|tunnel| {
            let (_, beside) = resources::of_tunnel(&tunnel.resources);
            Some((tunnel.name.as_str(), beside?.1))
        })
        .collect();
    let of_processes = |value: fn(&Process) -> Option<f64>| {
        let samples = beside.iter();
        samples.filter_map(move |(name, process)| Some((vec![("tunnel", *name)], value(process)?)))
    };
    text.family(
        gauge(
            "vpn_tunnel_process_open_fds",
            "File descriptors of the process it has besides.",
        ),
        of_processes(|process| process.descriptors.map(|count| count as f64)),
    );
    text.family(
        gauge("vpn_tunnel_process_threads", "Threads of that process."),
        of_processes(|process| Some(process.threads as f64)),
    );
    text.family(
        gauge(
            "vpn_tunnel_process_resident_memory_bytes",
            "Resident memory of that process.",
        ),
        of_processes(|process| Some(process.memory as f64)),
    );
}

/// One sample of each tunnel that has a value.
fn of_each(
    text: &mut Text,
    status: &Status,
    family: Family,
    value: impl Fn(&TunnelStatus) -> Option<f64>,
) {
    let samples = status.tunnels.iter().filter_map(|tunnel| {
        let labels = vec![("tunnel", tunnel.name.as_str())];
        Some((labels, value(tunnel)?))
    });
    text.family(family, samples);
}
