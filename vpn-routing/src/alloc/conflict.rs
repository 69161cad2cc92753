//! Judges addresses before they are placed: overlaps with the host, and what no device can have.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::MAX_ADDRESSES_PER_TUNNEL;

/// How an assigned prefix and one of the host's meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ConflictKind {
    /// The assigned prefix is within the host's.
    Within,
    /// The assigned prefix contains the host's.
    Contains,
    /// The same prefix.
    Equal,
    /// The very address is one of the host's own.
    SameAddress,
}

/// An assigned address overlaps a network of the host.
///
/// The address is admitted nevertheless, but alone (/32 or /128) if it comes onto the device, so
/// that no on-link route competes with the host's. Hosts of that network may be unreachable for
/// applications whose rule names a tunnel; ask the provider for other addresses, or renumber the
/// network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{assigned} {kind} the host's network {with}; ask for another address or renumber it")]
pub struct Conflict {
    /// What the tunnel was assigned.
    pub assigned: IpNet,
    /// How they meet, seen from `assigned`.
    pub kind: ConflictKind,
    /// The host's address with its prefix length.
    pub with: IpNet,
}

impl fmt::Display for ConflictKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "equals",
            Self::Contains => "contains",
            Self::Within => "is within",
            Self::SameAddress => "has the same address as",
        })
    }
}

/// Why an assigned address was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Unspecified, loopback, multicast or broadcast: no host can have it. Correct the tunnel's
    /// configuration.
    #[error("not an address a host can have; correct the tunnel's configuration")]
    NotUnicast,
    /// The tunnel already has [`MAX_ADDRESSES_PER_TUNNEL`] addresses.
    #[error("more than {MAX_ADDRESSES_PER_TUNNEL} addresses for one tunnel; remove some")]
    TooMany,
}

/// Whether an address is impossible for a tunnel that has `count` already.
pub(super) fn refuse(net: IpNet, count: usize) -> Option<Refusal> {
    let addr = net.addr();
    let broadcast = matches!(addr, IpAddr::V4(v4) if v4.is_broadcast());
    if addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() || broadcast {
        Some(Refusal::NotUnicast)
    } else if count >= MAX_ADDRESSES_PER_TUNNEL {
        Some(Refusal::TooMany)
    } else {
        None
    }
}

/// The worst overlap with the host's networks, if any.
pub(super) fn with_host(assigned: IpNet, host: &[IpNet]) -> Option<Conflict> {
    let kind = |with: &IpNet| {
        if assigned.addr() == with.addr() {
            Some(ConflictKind::SameAddress)
        } else if assigned.trunc() == with.trunc() {
            Some(ConflictKind::Equal)
        } else if assigned.contains(with) {
            Some(ConflictKind::Contains)
        } else if with.contains(&assigned) {
            Some(ConflictKind::Within)
        } else {
            None
        }
    };
    host.iter()
        .filter_map(|&with| {
            Some(Conflict {
                assigned,
                kind: kind(&with)?,
                with,
            })
        })
        .max_by_key(|conflict| conflict.kind)
}
