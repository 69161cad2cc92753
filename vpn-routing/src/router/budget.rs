//! Shares a budget of memory out among the router's tables: caps are lowered until all of them,
//! full at the same time, fit into it.

use vpn_core::packet::{HEADROOM, TAILROOM};

use super::config::RouterConfig;

/// What a flow costs at most: entry, mapping, indices, an owner of its own, each in a table that
/// has just grown. Usually it is 100 to 250 bytes.
const FLOW_BYTES: usize = 1280;

/// What a flow that waits costs at most, its packets apart.
const HELD_FLOW_BYTES: usize = 1536;

/// What a packet that waits costs at most, its bytes apart.
const HELD_PACKET_BYTES: usize = 128 + HEADROOM + TAILROOM;

/// What a datagram in fragments costs at most, those that wait apart.
const DATAGRAM_BYTES: usize = 1024;

/// What a DNS query that waits costs at most, on a flow of its own.
const QUERY_BYTES: usize = 1024;

/// What a name of an address costs at most, with an address of its own.
const NAME_BYTES: usize = 768;

/// What a packet in a queue costs, its buffer apart.
const QUEUED_PACKET_BYTES: usize = 64;

/// The device's queue, and the spare buffers: as large as those of tunnels.
const OTHER_QUEUES: usize = 2;

/// Sixteenths of the budget. Two are left for what each tunnel is, and for lists that are reused.
const QUEUES: usize = 6;
const FLOWS: usize = 4;
const HELD: usize = 2;
const DNS: usize = 2;
const PARTS: usize = 16;

/// How much memory a router may take: set as [`RouterConfig::memory_budget`].
///
/// From it the caps of flows, held packets, queues, DNS queries and names are derived: the smaller
/// of that and what is set holds, so that all tables together, full at the same time, stay below.
/// At a cap happens what the cap's own documentation says. Each cap is at least 1, which a budget
/// of a few kilobytes would not carry: plan 1 MiB, and 64 KiB for each tunnel, or more.
///
/// Not in it: rules (22 to 250 bytes each, [`MAX_RULES`](crate::rules::MAX_RULES) at most), paths
/// of programs that own flows, and the batches that packets come in.
///
/// ```
/// use vpn_routing::router::{MemoryBudget, RouterConfig};
/// let config = RouterConfig {
///     memory_budget: Some(MemoryBudget { bytes: 32 << 20, tunnels: 8 }),
///     ..RouterConfig::default()
/// };
/// assert!(config.within_budget().max_flows < config.max_flows);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBudget {
    /// Bytes in all.
    pub bytes: usize,
    /// For how many tunnels at the same time; no more can be added.
    pub tunnels: usize,
}

impl RouterConfig {
    /// These settings with their caps lowered to what the budget allows: what a router with them
    /// works by. Without a budget, as they are.
    #[must_use]
    pub fn within_budget(&self) -> Self {
        let mut config = self.clone();
        let Some(budget) = self.memory_budget else {
            return config;
        };
        let share = |parts: usize| budget.bytes / PARTS * parts;
        let lower = |cap: &mut usize, to: usize| *cap = (*cap).min(to).max(1);

        lower(&mut config.max_flows, share(FLOWS) / FLOW_BYTES);

        // Each queue's packets, and as many free buffers behind it.
        let queues = budget.tunnels.saturating_add(OTHER_QUEUES);
        let buffer = config.largest_packet + HEADROOM + TAILROOM + QUEUED_PACKET_BYTES;
        let packets = share(QUEUES) / buffer / 2 / queues;
        lower(&mut config.queue_packets, packets);

        lower(&mut config.hold.bytes, share(HELD) / 4);
        let waits = HELD_FLOW_BYTES + config.hold.flow_packets * HELD_PACKET_BYTES;
        lower(&mut config.hold.flows, share(HELD) / 2 / waits);

        lower(&mut config.fragments.bytes, share(HELD) / 4);
        lower(
            &mut config.fragments.datagrams,
            share(1) / 4 / DATAGRAM_BYTES,
        );

        lower(&mut config.dns.queries, share(DNS) / 2 / QUERY_BYTES);
        let names = share(DNS) / 2 / NAME_BYTES / budget.tunnels.max(1);
        lower(&mut config.dns.tunnel_names, names);
        config
    }
}
