//! Settings of the router, with their defaults.

use std::net::IpAddr;
use std::time::Duration;

use super::budget::MemoryBudget;
use crate::alloc::Policy;
use crate::conn::Timeouts;
use crate::dns::DnsLimits;
use crate::fragment::FragmentLimits;

/// A share of what is held. What is beyond it is dropped as
/// [`HoldFull`](vpn_core::DropReason::HoldFull).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldQuota {
    /// Flows that wait at the same time.
    pub flows: usize,
    /// Their packets' bytes.
    pub bytes: usize,
}

/// How much is held while an owner or a tunnel is being waited for.
///
/// Nobody takes it all: what waits for owners has a share that no tunnel can take, and that is all
/// that flows of a tunnel which is up ever need. So a tunnel that connects for ever holds up no
/// other, and an app that floods it leaves room for others there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldLimits {
    /// Packets of one flow. Default 16: a handshake and its retries.
    pub flow_packets: usize,
    /// Flows that wait at the same time. Default 4,096.
    pub flows: usize,
    /// Bytes in all. Default 1 MiB.
    pub bytes: usize,
    /// Of that, what may wait for one tunnel. Default a quarter, 1,024 flows and 256 KiB: two that
    /// connect for ever fill the half that [`unknown_owner`](Self::unknown_owner) leaves, and a
    /// provider's cities connect one after the other.
    pub per_tunnel: HoldQuota,
    /// Of that, what may wait of one application that is known, for whichever tunnels. Default an
    /// eighth, 512 flows and 128 KiB: half of what may wait for a tunnel, so that no application
    /// alone fills that.
    pub per_owner: HoldQuota,
    /// Of that, what may wait for its owner; also what is kept free for that. Default half, 2,048
    /// flows and 512 KiB: they wait for milliseconds.
    pub unknown_owner: HoldQuota,
    /// How long an owner may take. Default 500 ms; then
    /// [`OwnerTimeout`](vpn_core::DropReason::OwnerTimeout).
    pub owner: Duration,
    /// How long a connecting tunnel is waited for. Default 5 s; then
    /// [`TunnelConnecting`](vpn_core::DropReason::TunnelConnecting).
    pub connecting: Duration,
}

impl Default for HoldLimits {
    fn default() -> Self {
        Self {
            flow_packets: 16,
            flows: 4096,
            bytes: 1 << 20,
            per_tunnel: HoldQuota {
                flows: 1024,
                bytes: 256 << 10,
            },
            per_owner: HoldQuota {
                flows: 512,
                bytes: 128 << 10,
            },
            unknown_owner: HoldQuota {
                flows: 2048,
                bytes: 512 << 10,
            },
            owner: Duration::from_millis(500),
            connecting: Duration::from_secs(5),
        }
    }
}

/// What an application is told when a packet of it goes nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: its packet is lost.
    #[default]
    Drop,
    /// That it may give up at once: RST for TCP, ICMP "unreachable" for the rest. At most
    /// a hundred a second are told, all applications together.
    Reject,
}

/// What applications are told, case by case. Nothing leaves in any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// A rule, or the default, says block. Default drop.
    pub blocked: Answer,
    /// The owner is nobody, or more than one, or was not found in time. Default drop.
    pub unknown_owner: Answer,
    /// The tunnel is down or gone, and there is nothing to fall back to. Default drop: it may come
    /// back before the application gives up.
    pub down: Answer,
    /// The tunnel does not carry the address family. Default reject, with ICMP "no route" also for
    /// TCP: an application that knows both families takes the other at once (RFC 8305).
    pub no_family: Answer,
    /// A query whose tunnel has no resolver. Default drop.
    pub no_resolver: Answer,
    /// No rules were loaded yet. Default drop.
    pub cold: Answer,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            blocked: Answer::Drop,
            unknown_owner: Answer::Drop,
            down: Answer::Drop,
            no_family: Answer::Reject,
            no_resolver: Answer::Drop,
            cold: Answer::Drop,
        }
    }
}

/// Settings of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// How much memory the router may take: caps below are lowered to fit. Default `None`: the
    /// caps are as they are set.
    pub memory_budget: Option<MemoryBudget>,
    /// Flows at the same time. Default 65,536 (about 240 bytes each).
    pub max_flows: usize,
    /// Flows of one owner at the same time. Default 32,768: half of the table.
    pub max_flows_per_owner: usize,
    /// Flows at the same time that one inbound rule admits. Default 4,096: outsiders begin them,
    /// and must not fill the table. At the bound a half-open one goes for a new one, else
    /// [`InboundQuota`](vpn_core::DropReason::InboundQuota).
    pub max_flows_per_inbound_rule: usize,
    /// How long silent flows are remembered.
    pub timeouts: Timeouts,
    /// How much is held.
    pub hold: HoldLimits,
    /// How much is remembered of datagrams that come in fragments.
    pub fragments: FragmentLimits,
    /// Packets queued for one tunnel or the device. Default 256.
    pub queue_packets: usize,
    /// Largest packet, in bytes, that a pooled buffer holds. Default 1,600; 65,535 with offload.
    pub largest_packet: usize,
    /// What applications are told when a packet goes nowhere.
    pub answers: Answers,
    /// MTU of the device in bytes. Default `None`: that of the widest tunnel. What is too large for
    /// its own tunnel is fragmented where it may be (IPv4 without "don't fragment"); else its
    /// sender is told what fits.
    pub interface_mtu: Option<u16>,
    /// Resolver addresses that applications are told; queries to them are steered to the
    /// resolver of the asker's tunnel. Default none.
    pub resolvers: Vec<IpAddr>,
    /// Further addresses whose queries are steered, without being announced: those the system's
    /// own configuration names. Default none.
    pub steered: Vec<IpAddr>,
    /// How much is remembered of queries and answers.
    pub dns: DnsLimits,
    /// A message that could start a new flow (SYN, UDP, echo request) of an entry that was silent
    /// this long has its owner checked again: another program may have the port now. Default
    /// 1 ms: below it a port cannot change hands, since that takes two system calls and a wake-up.
    pub recheck_owner: Duration,
    /// Which tunnel's address of a subnet goes on the device. Default sticky.
    pub address_policy: Policy,
    /// Whether addresses are translated. Only a test would switch it off, to see that the
    /// providers then refuse what they receive.
    pub translate: bool,
    /// Where ports for colliding flows come from: the same seed, the same ports. Default `None`:
    /// from the operating system's randomness, which nobody outside can guess (RFC 6056).
    pub seed: Option<u64>,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            memory_budget: None,
            max_flows: 65_536,
            max_flows_per_owner: 32_768,
            max_flows_per_inbound_rule: 4096,
            timeouts: Timeouts::default(),
            hold: HoldLimits::default(),
            fragments: FragmentLimits::default(),
            queue_packets: 256,
            largest_packet: 1600,
            answers: Answers::default(),
            interface_mtu: None,
            resolvers: Vec::new(),
            steered: Vec::new(),
            dns: DnsLimits::default(),
            recheck_owner: Duration::from_millis(1),
            address_policy: Policy::Sticky,
            translate: true,
            seed: None,
        }
    }
}
