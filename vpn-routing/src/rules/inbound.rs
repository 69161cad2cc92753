//! Decides which flows that start behind a tunnel are let in, and to which local port.

use ipnet::IpNet;
use std::net::IpAddr;
use vpn_core::rule::{PortRange, RuleProtocol};
use vpn_core::{InboundRule, Protocol, RuleId, TunnelId};

use super::error::RuleError;
use super::names::Names;

/// How many inbound rules one snapshot may have: outsiders can have all of them looked at with
/// every packet they send, which takes microseconds.
pub const MAX_INBOUND_RULES: usize = 1024;

/// What an inbound rule says to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The rule that admits it.
    pub rule: RuleId,
    /// The port at the device's address; 0 for an echo.
    pub port: u16,
}

/// The inbound rules of a snapshot. The first that admits a flow decides; what none admits is
/// dropped. A rule that cannot be carried out admits nothing.
#[derive(Clone, Debug, Default)]
pub struct InboundRules {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    id: RuleId,
    tunnel: TunnelId,
    protocol: RuleProtocol,
    ports: Option<PortRange>,
    to_port: Option<u16>,
    remote: Option<IpNet>,
}

impl Entry {
    /// The local port of one of the tunnel's.
    fn local(&self, port: u16) -> Option<u16> {
        match (self.ports, self.to_port) {
            (Some(ports), _) if !ports.contains(port) => None,
            (Some(ports), Some(first)) => first.checked_add(port - ports.first()),
            _ => Some(port),
        }
    }

    /// The tunnel's port of a local one.
    fn published(&self, local: u16) -> Option<u16> {
        let ports = self.ports?;
        let first = self.to_port.unwrap_or(ports.first());
        let port = ports.first().checked_add(local.checked_sub(first)?)?;
        ports.contains(port).then_some(port)
    }

    /// Whether the rule names these ports: one for every port takes none away from others.
    fn publishes(&self, tunnel: TunnelId, protocol: Protocol) -> bool {
        self.tunnel == tunnel && self.protocol.matches(protocol) && self.ports.is_some()
    }
}

impl InboundRules {
    pub(super) fn compile(
        rules: &[InboundRule],
        names: &dyn Names,
        problems: &mut Vec<RuleError>,
    ) -> Self {
        let mut entries = Vec::with_capacity(rules.len());
        for rule in rules {
            match entry_of(rule, names) {
                Ok(entry) => entries.push(entry),
                Err(problem) => problems.push(problem),
            }
        }
        Self { entries }
    }

    /// Whether nothing is let in.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a flow from `remote` to this port of the tunnel is let in. `port` is 0 for an
    /// echo.
    pub fn admit(
        &self,
        tunnel: TunnelId,
        protocol: Protocol,
        port: u16,
        remote: IpAddr,
    ) -> Option<Admitted> {
        self.entries.iter().find_map(|entry| {
            let meant = entry.tunnel == tunnel
                && entry.protocol.matches(protocol)
                && entry.remote.is_none_or(|net| net.contains(&remote));
            let port = match protocol.is_icmp() {
                _ if !meant => return None,
                true => 0,
                false => entry.local(port)?,
            };
            Some(Admitted {
                rule: entry.id,
                port,
            })
        })
    }

    /// Whether a flow from this local port may leave from that port of the tunnel: not if a rule
    /// publishes it for another local one.
    pub fn may_use(&self, tunnel: TunnelId, protocol: Protocol, port: u16, local: u16) -> bool {
        let mut entries = self.entries.iter();
        entries.all(|entry| {
            !entry.publishes(tunnel, protocol) || entry.local(port).is_none_or(|to| to == local)
        })
    }

    /// Whether a rule leads to this local port by its number.
    pub fn serves(&self, protocol: Protocol, local: u16) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.protocol.matches(protocol) && entry.published(local).is_some())
    }

    /// The port of the tunnel under which a local port is published: what a server begins itself
    /// should leave from there.
    pub fn published(&self, tunnel: TunnelId, protocol: Protocol, local: u16) -> Option<u16> {
        let mut entries = self.entries.iter();
        entries.find_map(|entry| match entry.publishes(tunnel, protocol) {
            true => entry.published(local),
            false => None,
        })
    }
}

fn entry_of(rule: &InboundRule, names: &dyn Names) -> Result<Entry, RuleError> {
    let tunnel = names
        .tunnel(&rule.tunnel)
        .ok_or_else(|| RuleError::NoSuchTunnelOfInbound {
            rule: rule.id,
            tunnel: rule.tunnel.clone(),
        })?;
    let bad = |what| RuleError::BadPorts {
        rule: rule.id,
        what,
    };
    match (rule.protocol, rule.ports, rule.to_port) {
        (RuleProtocol::Tcp | RuleProtocol::Udp, Some(ports), Some(first)) => {
            let count = ports.last() - ports.first();
            first
                .checked_add(count)
                .ok_or(bad("the last local port would be above 65535"))?;
        }
        (RuleProtocol::Tcp | RuleProtocol::Udp, None, Some(_)) => {
            return Err(bad("a local port needs ports that lead to it"));
        }
        (RuleProtocol::Tcp | RuleProtocol::Udp, _, None) | (RuleProtocol::Icmp, None, None) => {}
        _ => return Err(bad("this protocol has no ports")),
    }
    Ok(Entry {
        id: rule.id,
        tunnel,
        protocol: rule.protocol,
        ports: rule.ports,
        to_port: rule.to_port,
        remote: rule.remote,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UK: TunnelId = TunnelId::new(0);

    fn rules(list: &[InboundRule]) -> (InboundRules, Vec<RuleError>) {
        let mut problems = Vec::new();
        let names = |name: &str| (name == "uk").then_some(UK);
        let rules = InboundRules::compile(list, &names, &mut problems);
        (rules, problems)
    }

    fn udp(ports: Option<PortRange>, to_port: Option<u16>) -> InboundRule {
        InboundRule {
            id: RuleId(1),
            tunnel: "uk".to_owned(),
            protocol: RuleProtocol::Udp,
            ports,
            to_port,
            remote: None,
        }
    }

    #[test]
    fn a_range_leads_to_a_range_and_back() {
        let (rules, problems) = rules(&[udp(PortRange::new(8000, 8009), Some(80))]);
        assert!(problems.is_empty());
        let port = |port| {
            let remote = [203, 0, 113, 10].into();
            rules.admit(UK, Protocol::UDP, port, remote).map(|a| a.port)
        };
        assert_eq!((port(8000), port(8009)), (Some(80), Some(89)));
        assert_eq!((port(7999), port(8010), port(80)), (None, None, None));
        for local in 0..=u16::MAX {
            let published = rules.published(UK, Protocol::UDP, local);
            assert_eq!(published.is_some(), (80..90).contains(&local));
            assert!(published.is_none_or(|p| port(p) == Some(local)));
        }
        assert!(!rules.may_use(UK, Protocol::UDP, 8000, 8000));
        assert!(rules.may_use(UK, Protocol::UDP, 8000, 80));
        assert!(
            rules.may_use(UK, Protocol::TCP, 8000, 8000),
            "another protocol"
        );
    }

    #[test]
    fn a_rule_for_every_port_keeps_none_from_others() {
        let (rules, _) = rules(&[udp(None, None)]);
        let remote = [203, 0, 113, 10].into();
        assert!(rules.admit(UK, Protocol::UDP, 9, remote).is_some());
        assert!(rules.may_use(UK, Protocol::UDP, 9, 10));
    }

    #[test]
    fn what_makes_no_sense_is_told_and_admits_nothing() {
        let elsewhere = InboundRule {
            tunnel: "mars".to_owned(),
            ..udp(None, None)
        };
        let echo = InboundRule {
            protocol: RuleProtocol::Icmp,
            ..udp(Some(PortRange::single(7)), None)
        };
        let list = [
            udp(PortRange::new(1, 100), Some(65_500)),
            udp(None, Some(80)),
            elsewhere,
            echo,
        ];
        let (rules, problems) = rules(&list);
        assert_eq!(problems.len(), list.len());
        assert!(rules.is_empty());
    }
}
