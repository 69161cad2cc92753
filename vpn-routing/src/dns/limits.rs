//! How much is remembered of DNS.

use std::time::Duration;

/// Bounds of what is remembered of DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsLimits {
    /// How long a query waits for its answer. Default 10 s: twice the C library's patience.
    pub patience: Duration,
    /// Queries of one flow that wait. Default 128: a local cache asks for many from one socket.
    pub flow_queries: usize,
    /// Queries of one owner that wait. Default 1,024.
    pub owner_queries: usize,
    /// Queries that wait in all. Default 4,096; at most 320 bytes each, usually 100.
    pub queries: usize,
    /// Names of one address in one tunnel. Default 64: that many sites share one address.
    pub address_names: usize,
    /// Names of all addresses in one tunnel. Default 16,384; about 200 bytes each. The oldest
    /// makes room for the newest.
    pub tunnel_names: usize,
    /// How long a name is remembered at least. Default 60 s: applications keep an address for
    /// longer than its TTL says when they connect again. Flows to the address prolong it by as much.
    pub shortest: Duration,
    /// How long a name is remembered at most. Default one day; a week at most.
    pub longest: Duration,
}

impl Default for DnsLimits {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(10),
            flow_queries: 128,
            owner_queries: 1024,
            queries: 4096,
            address_names: 64,
            tunnel_names: 16_384,
            shortest: Duration::from_secs(60),
            longest: Duration::from_secs(24 * 60 * 60),
        }
    }
}
