//! `[dns]`: how apps are told the virtual resolver, and how much is remembered of queries.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vpn_routing::dns::DnsLimits;

use super::value::{Count, Span};

/// The virtual resolver: an address of the shared space (RFC 6598), which no host has.
const DEFAULT_RESOLVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(100, 127, 255, 53));

/// How long a name may be remembered at most: a week, in milliseconds.
const WEEK: u64 = 604_800_000;

/// `[dns]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Dns {
    /// How applications are told the virtual resolver. Default `auto`.
    pub(crate) apply: ApplyDns,
    /// The file that names the system's resolvers. Default `/etc/resolv.conf`.
    pub(crate) path: PathBuf,
    /// The virtual resolver. Default 100.127.255.53.
    pub(crate) resolver: IpAddr,
    patience: Span<100, 60_000>,
    flow_queries: Count<1, 65_536>,
    owner_queries: Count<1, 65_536>,
    queries: Count<1, 65_536>,
    address_names: Count<1, 65_536>,
    tunnel_names: Count<1, 1_048_576>,
    shortest: Span<0, WEEK>,
    longest: Span<1_000, WEEK>,
}

impl Default for Dns {
    fn default() -> Self {
        let limits = DnsLimits::default();
        Self {
            apply: ApplyDns::Auto,
            path: PathBuf::from("/etc/resolv.conf"),
            resolver: DEFAULT_RESOLVER,
            patience: Span(limits.patience),
            flow_queries: Count(limits.flow_queries),
            owner_queries: Count(limits.owner_queries),
            queries: Count(limits.queries),
            address_names: Count(limits.address_names),
            tunnel_names: Count(limits.tunnel_names),
            shortest: Span(limits.shortest),
            longest: Span(limits.longest),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ApplyDns {
    #[serde(rename = "auto")]
    Auto,
    #[serde(rename = "resolved")]
    Resolved,
    #[serde(rename = "resolv.conf")]
    ResolvConf,
    #[serde(rename = "none")]
    None,
}

impl Dns {
    /// What is wrong with it: the key, and what would be right.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if !reaches_the_interface(self.resolver) {
            let problem = "a query to this address never reaches the interface";
            return Some(("resolver", problem.to_owned()));
        }
        if self.shortest.0 > self.longest.0 {
            return Some(("shortest", "longer than dns.longest".to_owned()));
        }
        None
    }

    /// How much is remembered.
    pub(super) fn limits(&self) -> DnsLimits {
        DnsLimits {
            patience: self.patience.0,
            flow_queries: self.flow_queries.0,
            owner_queries: self.owner_queries.0,
            queries: self.queries.0,
            address_names: self.address_names.0,
            tunnel_names: self.tunnel_names.0,
            shortest: self.shortest.0,
            longest: self.longest.0,
        }
    }
}

/// Whether a query to this address can come to the interface.
fn reaches_the_interface(resolver: IpAddr) -> bool {
    let special = resolver.is_loopback() || resolver.is_unspecified() || resolver.is_multicast();
    let of_family = match resolver {
        IpAddr::V4(v4) => !v4.is_broadcast() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
    };
    !special && of_family
}
