//! Every setting of [`RouterConfig`](crate::RouterConfig), what it buys and what it costs.
//!
//! | Setting | Default | Larger | Smaller |
//! |---|---|---|---|
//! | `max_flows` | 65,536 | more flows at once, a few hundred bytes each as they come; the sweep takes longer | new flows push out the stalest that may go, else [`FlowTableFull`] |
//! | `max_flows_per_owner` | 32,768 | one app may fill more of the table | busy apps meet [`OwnerQuota`] sooner; others keep room |
//! | `max_flows_per_inbound_rule` | 4,096 | busier servers behind a tunnel | a flood of outsiders takes less memory; half-open flows go first |
//! | `timeouts` | RFC 4787, 5382, 5508 | idle flows are found again | memory is free sooner; idle sessions break |
//! | `hold.flow_packets` | 16 | more survives a slow lookup or connect | later packets of a flow are dropped: [`HoldFull`] |
//! | `hold.flows` | 4,096 | more new flows wait at once | as above |
//! | `hold.bytes` | 1 MiB | as above | bounds the memory of waiting |
//! | `hold.owner` | 500 ms | slow resolvers succeed | [`OwnerTimeout`] sooner; apps see the loss and repeat |
//! | `hold.connecting` | 5 s | connects look like delay | like loss: [`TunnelConnecting`] |
//! | `queue_packets` | 256 | bursts survive a slow transport, at the price of latency | [`QueueFull`] sooner, latency bounded |
//! | `largest_packet` | 1,600 bytes | needed for super-packets (65,535): each pooled buffer is that large | the engine raises it to what its device yields |
//! | `recheck_owner` | 1 ms | fewer owner lookups | a port that changes hands is noticed sooner; 0 asks at every SYN, datagram and echo |
//! | `resolvers`, `steered` | none | see [`dns`](super::dns) | |
//! | `dns` | 4,096 queries that wait, 16,384 names a tunnel | more apps and sites are remembered | queries are dropped, rules with domains miss old addresses |
//! | `address_policy` | sticky | see [`alloc::Policy`](crate::alloc::Policy) | |
//! | `seed` | none | | a seed makes the ports of colliding flows the same again and again: for tests |
//! | `translate` | yes | | off only in a test that wants to see providers refuse |
//!
//! Buffers: a queue of `queue_packets` keeps at most twice as many free buffers, one queue per
//! tunnel and one for the device; with super-packets and many tunnels lower `queue_packets` first.
//!
//! ```
//! use std::time::Duration;
//! use vpn_routing::RouterConfig;
//!
//! // A small router: a phone.
//! let mut config = RouterConfig { max_flows: 8_192, queue_packets: 128, ..Default::default() };
//! config.hold.bytes = 256 * 1024;
//! config.timeouts.udp = Duration::from_secs(120);
//! ```
//!
//! # Of several workers
//!
//! `Engine::with_workers` gives each queue of a device a worker. It pays where several busy tunnels
//! share a machine with idle cores: a tunnel is one worker's, so one tunnel is no faster by it, and
//! where cores are busy it only costs. The settings above are each worker's, names and the memory
//! budget apart; the runtime needs as many threads.
//!
//! # Of several engines
//!
//! Nothing is global. An engine is one task and uses one core; give each a current-thread runtime
//! on a thread of its own where cores are to be kept apart.
//!
//! [`FlowTableFull`]: vpn_core::DropReason::FlowTableFull
//! [`OwnerQuota`]: vpn_core::DropReason::OwnerQuota
//! [`HoldFull`]: vpn_core::DropReason::HoldFull
//! [`OwnerTimeout`]: vpn_core::DropReason::OwnerTimeout
//! [`TunnelConnecting`]: vpn_core::DropReason::TunnelConnecting
//! [`QueueFull`]: vpn_core::DropReason::QueueFull
