//! What became of a packet, and how often.

use std::fmt;

use crate::id::TunnelId;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Into this tunnel.
    Tunnel(TunnelId),
    /// To the device: an answer, or an admitted inbound flow.
    Device,
    /// Kept until its owner or its tunnel is known; bounded in bytes and time.
    Held,
    /// Nowhere, for this reason.
    Drop(DropReason),
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident => $text:literal,)*) => {
        /// Why a packet was dropped.
        ///
        /// Every drop has exactly one reason and is counted under it, so that
        /// `in = out + Σ drops` holds exactly.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)*
        }

        impl DropReason {
            /// Every reason, in the order of [`index`](Self::index).
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name used in metrics and status: lower case with underscores, stable.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

reasons! {
    /// The bytes are not a well-formed IPv4 or IPv6 packet.
    Malformed => "malformed",
    /// A fragment, the first included: later ones have no ports, and half a datagram is no use.
    Fragment => "fragment",
    /// An IP protocol or ICMP message the router cannot translate.
    Unsupported => "unsupported",
    /// Multicast, broadcast, link-local or the device's own address: not for a tunnel.
    NotRoutable => "not_routable",
    /// No rules were loaded yet.
    RulesCold => "rules_cold",
    /// A rule says block.
    BlockedByRule => "blocked_by_rule",
    /// The packet filter says drop or reject.
    BlockedByFilter => "blocked_by_filter",
    /// No rule matched and the default is block.
    BlockedByDefault => "blocked_by_default",
    /// The rule names a tunnel that does not exist.
    NoSuchTunnel => "no_such_tunnel",
    /// The flow's owner is nobody, or more than one.
    OwnerUnknown => "owner_unknown",
    /// The flow's owner was not found in time.
    OwnerTimeout => "owner_timeout",
    /// The bounded hold queue is full.
    HoldFull => "hold_full",
    /// The flow's tunnel is still connecting, longer than packets are held.
    TunnelConnecting => "tunnel_connecting",
    /// The flow's tunnel is down.
    TunnelDown => "tunnel_down",
    /// The flow's tunnel has no address of this family.
    FamilyNotCarried => "family_not_carried",
    /// The flow's tunnel has no resolver of this family, so its DNS query goes nowhere.
    NoResolver => "no_resolver",
    /// A DNS answer that no query of its flow waits for: late, twice, or forged.
    DnsUnexpected => "dns_unexpected",
    /// More DNS queries wait for their answers than may.
    DnsPendingFull => "dns_pending_full",
    /// The flow table is full and nothing in it may be evicted.
    FlowTableFull => "flow_table_full",
    /// The owner has as many flows as one owner may have.
    OwnerQuota => "owner_quota",
    /// Of a connection that was ended because its way changed, as its rule asks for.
    FlowEnded => "flow_ended",
    /// No free port for a colliding flow.
    PortsExhausted => "ports_exhausted",
    /// A protocol without ports, and another address of the device speaks it with that remote
    /// through the same tunnel.
    MappingTaken => "mapping_taken",
    /// Of several workers none took it for its own: one had not heard of a change yet.
    Elsewhere => "elsewhere",
    /// The queue to the tunnel or device, or to another worker, is full.
    QueueFull => "queue_full",
    /// Larger than the tunnel carries.
    TooBig => "too_big",
    /// An inbound rule has admitted as many flows as one may.
    InboundQuota => "inbound_quota",
    /// From a tunnel, and neither an answer to a flow of that tunnel nor admitted by a rule; or the
    /// answer of an application to a connection that is not known (any more).
    Unsolicited => "unsolicited",
    /// From a tunnel, with a source or destination that the tunnel may not use.
    AddressNotAllowed => "address_not_allowed",
    /// The transport has no session with the peer.
    NoSession => "no_session",
    /// The transport could not authenticate or decrypt it.
    NotAuthentic => "not_authentic",
    /// It was on a stream that ended, and the peer did not get it.
    StreamLost => "stream_lost",
    /// The operating system refused this one packet.
    Refused => "refused",
    /// The engine is stopping.
    Closed => "closed",
}

impl DropReason {
    /// Position in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Dropped packets by reason. Plain integers: one per worker, summed for a report.
#[derive(Clone, PartialEq, Eq)]
pub struct DropCounters {
    counts: [u64; DropReason::ALL.len()],
}

impl Default for DropCounters {
    fn default() -> Self {
        Self {
            counts: [0; DropReason::ALL.len()],
        }
    }
}

impl DropCounters {
    /// Counts one packet.
    #[inline]
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts several packets.
    #[inline]
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        self.counts[reason.index()] += packets;
    }

    /// How many were dropped for this reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.counts[reason.index()]
    }

    /// How many were dropped in all.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds another worker's counters.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
    }

    /// The reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|&r| (r, self.get(r)))
            .filter(|&(_, n)| n > 0)
    }
}

impl fmt::Debug for DropCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(r, n)| (r.name(), n)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_indices_dense() {
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), i);
            assert!(
                DropReason::ALL[..i]
                    .iter()
                    .all(|r| r.name() != reason.name())
            );
        }
    }
}
