//! What can be chosen beside the wg-quick file, and what is counted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// How long a peer may leave a question unanswered before the tunnel is down. WireGuard itself
/// gives it as long before it doubts a session (whitepaper §6.5: keep-alive plus re-key timeout).
pub const NO_ANSWER_AFTER: Duration = Duration::from_secs(15);

/// Choices beside the wg-quick file. All have defaults that suit a client.
#[derive(Clone, Debug)]
pub struct WireGuardOptions {
    pub(super) no_answer_after: Duration,
    pub(super) local_v4: Ipv4Addr,
    pub(super) local_v6: Ipv6Addr,
    pub(super) seed: u64,
    pub(super) on_demand: Option<Duration>,
}

impl Default for WireGuardOptions {
    fn default() -> Self {
        Self {
            no_answer_after: NO_ANSWER_AFTER,
            local_v4: Ipv4Addr::UNSPECIFIED,
            local_v6: Ipv6Addr::UNSPECIFIED,
            seed: 0,
            on_demand: None,
        }
    }
}

impl WireGuardOptions {
    /// How long a question may stay unanswered before the tunnel is down. Default
    /// [`NO_ANSWER_AFTER`], 15 s. Less than 11 s takes a busy one-way flow for a dead peer: the
    /// peer may wait 10 s before it sends a keepalive.
    #[must_use]
    pub const fn no_answer_after(mut self, limit: Duration) -> Self {
        self.no_answer_after = limit;
        self
    }

    /// The local address to bind sockets of this family to. Default: unspecified.
    #[must_use]
    pub const fn local(mut self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.local_v4 = address,
            IpAddr::V6(address) => self.local_v6 = address,
        }
        self
    }

    /// Connects on demand: the tunnel starts [`Dormant`](vpn_core::TransportState::Dormant), the
    /// first packet wakes it, and after `idle` without packets it rests. While dormant it has no
    /// socket and sends nothing, keepalives included. Default: connects at once and stays. Without
    /// effect on a tunnel with a peer that has no `Endpoint`, since that one is waited for.
    #[must_use]
    pub const fn on_demand(mut self, idle: Duration) -> Self {
        self.on_demand = Some(idle);
        self
    }

    /// Seed of the jitter between attempts. Default 0; many clients of one server want their own.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

/// What a transport has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WireGuardStats {
    /// IP packets sealed.
    pub tx_packets: u64,
    /// Bytes of UDP payload sent, keepalives and handshakes apart.
    pub tx_bytes: u64,
    /// Datagrams lost after their packets had been taken: the socket was full, and then refused
    /// them or was replaced. Their packets count as sent, as those in the system's own queues do.
    pub tx_lost: u64,
    /// IP packets handed to the router.
    pub rx_packets: u64,
    /// Authentic datagrams received, keepalives and handshakes included.
    pub rx_datagrams: u64,
    /// Bytes of UDP payload of these.
    pub rx_bytes: u64,
    /// Handshakes answered by either side.
    pub handshakes: u64,
    /// Time since the last handshake of any peer with a session.
    pub last_handshake: Option<Duration>,
}
