//! A router with a NAT of a chosen kind between `lan` and `wan`, and its faults: nftables rules.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::HUB4;
use crate::error::LabError;
use crate::namespace::Namespace;

/// What a router does to UDP. All kinds are stateful: an answer passes, and nothing unsolicited;
/// addresses and ports are compared (RFC 4787: address and port-dependent filtering).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// The same public port for every destination (endpoint-independent mapping, port kept).
    Easy,
    /// A new random public port for every destination (endpoint-dependent mapping).
    Symmetric,
    /// UDP is dropped altogether; TCP passes.
    Block,
}

impl NatKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Easy, Self::Symmetric, Self::Block];
}

/// One router. Each fault is a table of rules of its own, so they come and go one by one.
#[derive(Debug)]
pub struct NatRouter {
    namespace: Namespace,
    kind: NatKind,
    wan4: Ipv4Addr,
}

impl NatRouter {
    pub(super) fn start(
        namespace: Namespace,
        kind: NatKind,
        wan4: Ipv4Addr,
    ) -> Result<Self, LabError> {
        namespace.set_rp_filter(0)?;
        namespace.forward()?;
        let this = Self {
            namespace,
            kind,
            wan4,
        };
        this.come_to(wan4)?;
        let random = match kind {
            NatKind::Symmetric => "fully-random",
            NatKind::Easy | NatKind::Block => "",
        };
        let block = match kind {
            NatKind::Block => "meta l4proto udp drop;",
            NatKind::Easy | NatKind::Symmetric => "",
        };
        // What is unsolicited is dropped before it leaves an entry of connection tracking: that
        // would take the public port of a mapping which is about to be made.
        this.namespace.packet_filter(&format!(
            "table ip lab_nat {{
               chain post {{
                 type nat hook postrouting priority srcnat;
                 oifname \"wan\" masquerade {random};
               }}
             }}
             table inet lab_firewall {{
               chain input {{
                 type filter hook input priority filter;
                 iifname \"wan\" ct state {{ established, related }} accept;
                 iifname \"wan\" meta l4proto {{ icmp, ipv6-icmp }} accept;
                 iifname \"wan\" drop;
               }}
               chain forward {{
                 type filter hook forward priority filter;
                 {block}
                 iifname \"wan\" ct state {{ established, related }} accept;
                 iifname \"wan\" drop;
               }}
             }}"
        ))?;
        Ok(this)
    }

    /// The router's own machine.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// What it does to UDP.
    pub fn kind(&self) -> NatKind {
        self.kind
    }

    /// Its public address.
    pub fn wan4(&self) -> Ipv4Addr {
        self.wan4
    }

    /// Drops each packet it forwards with this probability, in both directions: 0 to 100. 0 ends it.
    pub fn lose(&self, percent: u8) -> Result<(), LabError> {
        let rule = match percent {
            0 => None,
            // A comparison that is always true is refused.
            1..100 => Some(format!("numgen random mod 100 < {percent} drop;")),
            100.. => Some("drop;".to_owned()),
        };
        self.fault("lab_loss", rule.as_deref())
    }

    /// Forwards nothing from now on, silently.
    pub fn cut(&self) -> Result<(), LabError> {
        self.fault("lab_cut", Some("drop;"))
    }

    /// The end of a cut.
    pub fn heal(&self) -> Result<(), LabError> {
        self.fault("lab_cut", None)
    }

    /// A path that is dead in one direction: what comes from this public address is dropped, what
    /// goes there passes. `None` ends it.
    pub fn deaf_to(&self, source: Option<IpAddr>) -> Result<(), LabError> {
        let rule = source.map(|source| {
            let family = if source.is_ipv6() { "ip6" } else { "ip" };
            format!("iifname \"wan\" {family} saddr {source} drop;")
        });
        self.fault("lab_deaf", rule.as_deref())
    }

    /// How long mappings of UDP live without packets. The system's: 30 s, and 120 s once packets
    /// went both ways for two seconds.
    pub fn forget_udp_after(&self, silence: Duration) -> Result<(), LabError> {
        let seconds = silence.as_secs().max(1).to_string();
        for key in ["udp_timeout", "udp_timeout_stream"] {
            let key = format!("net/netfilter/nf_conntrack_{key}");
            self.namespace.set(&key, &seconds)?;
        }
        Ok(())
    }

    /// Forgets all mappings.
    pub fn forget(&self) -> Result<(), LabError> {
        self.namespace.tool("conntrack", "-F").map(|_| ())
    }

    /// Takes another public address, and forgets what the old one was for.
    pub(super) fn move_to(&mut self, wan4: Ipv4Addr) -> Result<(), LabError> {
        self.namespace
            .ip(&format!("addr del {}/24 dev wan", self.wan4))?;
        self.wan4 = wan4;
        self.come_to(wan4)?;
        self.forget()
    }

    fn come_to(&self, wan4: Ipv4Addr) -> Result<(), LabError> {
        self.namespace.add_address("wan", wan4.into(), 24)?;
        // Removing the last address of a network removes the routes through it.
        self.namespace
            .ip(&format!("route replace default via {HUB4}"))
    }

    /// Replaces a table of one rule for what is forwarded, in one step; `None` removes it.
    fn fault(&self, table: &str, rule: Option<&str>) -> Result<(), LabError> {
        // Made first, so that it can be removed whether it is there or not.
        let mut rules = format!("table inet {table} {{ }}\ndelete table inet {table}\n");
        if let Some(rule) = rule {
            rules.push_str(&format!(
                "table inet {table} {{
                   chain forward {{ type filter hook forward priority filter - 10; {rule} }}
                 }}"
            ));
        }
        self.namespace.packet_filter(&rules)
    }
}
