//! The table `vpn`: the keys of document 004, checked, and what follows from them.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use vpn_p2p::streams::config::MAX_STREAMS;
use vpn_p2p::streams::{Overflow, PoolConfig};
use vpn_resilience::{BackoffConfig, BreakerConfig, RetryConfig};

use crate::config::Discovery;

/// Longest time that makes sense anywhere: a year, in seconds.
const MAX_SECONDS: u64 = 365 * 24 * 60 * 60;

/// Which virtual address a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum VirtualIp {
    /// One of the subnet, leased from etcd.
    Auto,
    /// This one.
    Fixed(IpAddr),
}

impl TryFrom<String> for VirtualIp {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let address = text
            .parse()
            .map_err(|_| format!("virtual_ip: {text:?} is no address, and not \"auto\""));
        address.map(Self::Fixed)
    }
}

/// The keys of document 004, with its names and defaults. Times are in seconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Vpn {
    pub(crate) enable: bool,
    pub(crate) mtu: u16,
    pub(crate) virtual_ip: Option<VirtualIp>,
    pub(crate) subnet: IpNet,
    pub(crate) routes: Vec<IpNet>,
    pub(crate) unallowed_ports: Vec<u16>,
    pub(crate) max_streams_per_peer: usize,
    pub(crate) stream_idle_timeout: u64,
    pub(crate) cleanup_interval: u64,
    pub(crate) packet_buffer_size: usize,
    pub(crate) circuit_breaker_failure_threshold: u32,
    pub(crate) circuit_breaker_reset_timeout: u64,
    pub(crate) circuit_breaker_success_threshold: u32,
    pub(crate) retry_max_attempts: u32,
    pub(crate) retry_initial_interval: u64,
    pub(crate) retry_max_interval: u64,
}

impl Default for Vpn {
    fn default() -> Self {
        Self {
            enable: true,
            mtu: 1400,
            virtual_ip: None,
            subnet: IpNet::V4(ipnet::Ipv4Net::new_assert([10, 0, 0, 0].into(), 8)),
            routes: Vec::new(),
            unallowed_ports: Vec::new(),
            max_streams_per_peer: 10,
            stream_idle_timeout: 300,
            cleanup_interval: 60,
            packet_buffer_size: 100,
            circuit_breaker_failure_threshold: 5,
            circuit_breaker_reset_timeout: 60,
            circuit_breaker_success_threshold: 2,
            retry_max_attempts: 5,
            retry_initial_interval: 1,
            retry_max_interval: 30,
        }
    }
}

/// Which key, and why not.
type Problem = (&'static str, String);

impl Vpn {
    /// Whether it makes sense; else which key does not, and why.
    pub(crate) fn check(&self, discovery: Discovery) -> Result<(), Problem> {
        let least = if self.subnet.addr().is_ipv6() {
            1280
        } else {
            576
        };
        if self.mtu < least {
            return Err((
                "mtu",
                format!("{} is less than {least}, which every host takes", self.mtu),
            ));
        }
        self.check_addresses(discovery)?;
        if let Some(port) = self.unallowed_ports.iter().find(|port| **port == 0) {
            return Err(("unallowed_ports", format!("{port} is no port: 1 to 65535")));
        }
        if !(1..=MAX_STREAMS).contains(&self.max_streams_per_peer) {
            let problem = format!("{}: 1 to {MAX_STREAMS}", self.max_streams_per_peer);
            return Err(("max_streams_per_peer", problem));
        }
        if !(1..=65_536).contains(&self.packet_buffer_size) {
            let problem = format!("{} packets: 1 to 65536", self.packet_buffer_size);
            return Err(("packet_buffer_size", problem));
        }
        for (key, seconds) in [
            ("stream_idle_timeout", self.stream_idle_timeout),
            ("cleanup_interval", self.cleanup_interval),
            (
                "circuit_breaker_reset_timeout",
                self.circuit_breaker_reset_timeout,
            ),
            ("retry_initial_interval", self.retry_initial_interval),
            ("retry_max_interval", self.retry_max_interval),
        ] {
            if !(1..=MAX_SECONDS).contains(&seconds) {
                return Err((key, format!("{seconds} seconds: 1 to {MAX_SECONDS}")));
            }
        }
        for (key, count) in [
            (
                "circuit_breaker_failure_threshold",
                self.circuit_breaker_failure_threshold,
            ),
            (
                "circuit_breaker_success_threshold",
                self.circuit_breaker_success_threshold,
            ),
            ("retry_max_attempts", self.retry_max_attempts),
        ] {
            if !(1..=1000).contains(&count) {
                return Err((key, format!("{count}: 1 to 1000")));
            }
        }
        if self.retry_max_interval < self.retry_initial_interval {
            let problem = format!(
                "{} is below retry_initial_interval, which is {}",
                self.retry_max_interval, self.retry_initial_interval
            );
            return Err(("retry_max_interval", problem));
        }
        Ok(())
    }

    fn check_addresses(&self, discovery: Discovery) -> Result<(), Problem> {
        if self.subnet.trunc() != self.subnet {
            let problem = format!(
                "{} has bits beside its length; {} is meant?",
                self.subnet,
                self.subnet.trunc()
            );
            return Err(("subnet", problem));
        }
        for route in &self.routes {
            if route.addr().is_ipv4() != self.subnet.addr().is_ipv4() {
                let problem = format!("{route} is not of the family of {}", self.subnet);
                return Err(("routes", problem));
            }
        }
        let address = match (self.virtual_ip, discovery) {
            (Some(VirtualIp::Fixed(address)), _) => address,
            (_, Discovery::Etcd) => return Ok(()),
            (Some(VirtualIp::Auto), Discovery::Dht) => {
                let problem = "\"auto\" is leased from etcd, so node.discovery has to be \"etcd\"";
                return Err(("virtual_ip", problem.to_owned()));
            }
            (None, Discovery::Dht) if self.enable => {
                return Err(("virtual_ip", "missing; or set enable = false".to_owned()));
            }
            (None, Discovery::Dht) => return Ok(()),
        };
        if !self.subnet.contains(&address) {
            let problem = format!("{address} is outside its subnet {}", self.subnet);
            return Err(("virtual_ip", problem));
        }
        let is_short = self.subnet.max_prefix_len() - self.subnet.prefix_len() > 1;
        let ends = [self.subnet.network(), self.subnet.broadcast()];
        if is_short && self.subnet.addr().is_ipv4() && ends.contains(&address) {
            let problem = format!(
                "{address} is the first or last address of {}, no host's",
                self.subnet
            );
            return Err(("virtual_ip", problem));
        }
        Ok(())
    }

    /// The own address, with its network.
    pub(crate) fn address(&self) -> Option<IpNet> {
        match self.virtual_ip {
            Some(VirtualIp::Fixed(address)) if self.enable => self.within(address),
            _ => None,
        }
    }

    pub(crate) fn within(&self, address: IpAddr) -> Option<IpNet> {
        IpNet::new(address, self.subnet.prefix_len()).ok()
    }

    /// What etcd may give an address of: a fixed one is taken there too, so that nobody else gets it.
    #[cfg_attr(
        not(feature = "etcd"),
        allow(dead_code, reason = "nobody gives addresses out")
    )]
    pub(crate) fn leased_from(&self) -> Option<IpNet> {
        match self.virtual_ip {
            _ if !self.enable => None,
            Some(VirtualIp::Fixed(address)) => Some(address.into()),
            _ => Some(self.subnet),
        }
    }

    /// Where members are: the subnet, and what else leads to the tunnel.
    pub(crate) fn networks(&self) -> Vec<IpNet> {
        let mut all = vec![self.subnet];
        all.extend(self.routes.iter().map(IpNet::trunc));
        all.sort();
        all.dedup();
        all
    }

    pub(crate) fn pool(&self) -> PoolConfig {
        let seconds = Duration::from_secs;
        PoolConfig {
            max_streams_per_peer: self.max_streams_per_peer,
            stream_idle_timeout: seconds(self.stream_idle_timeout),
            cleanup_interval: seconds(self.cleanup_interval),
            packet_buffer_size: self.packet_buffer_size,
            overflow: Overflow::DropNew,
            breaker: BreakerConfig {
                failure_threshold: self.circuit_breaker_failure_threshold,
                reset_after: seconds(self.circuit_breaker_reset_timeout),
                success_threshold: self.circuit_breaker_success_threshold,
                ..BreakerConfig::default()
            },
            backoff: BackoffConfig {
                base: seconds(self.retry_initial_interval),
                cap: seconds(self.retry_max_interval),
                ..BackoffConfig::default()
            },
            ..PoolConfig::default()
        }
    }

    pub(crate) fn retry(&self) -> RetryConfig {
        RetryConfig {
            max_attempts: self.retry_max_attempts,
            initial_interval: Duration::from_secs(self.retry_initial_interval),
            max_interval: Duration::from_secs(self.retry_max_interval),
            ..RetryConfig::default()
        }
    }
}
