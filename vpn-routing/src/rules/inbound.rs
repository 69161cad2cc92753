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
    /// It is for addresses in there, and not for the tunnel's own.
    behind: Option<IpNet>,
}

impl Entry {
    /// Whether it is for what this remote sends through a tunnel by this protocol.
    fn is_from(&self, tunnel: TunnelId, protocol: Protocol, remote: IpAddr) -> bool {
        self.tunnel == tunnel
            && self.protocol.matches(protocol)
            && self.remote.is_none_or(|net| net.contains(&remote))
    }

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
        let ports = self.ports.filter(|_| self.behind.is_none())?;
        let first = self.to_port.unwrap_or(ports.first());
        let port = ports.first().checked_add(local.checked_sub(first)?)?;
        ports.contains(port).then_some(port)
    }

    /// Whether the rule names these ports: one for every port takes none away from others.
    fn publishes(&self, tunnel: TunnelId, protocol: Protocol) -> bool {
        let own = self.ports.is_some() && self.behind.is_none();
        own && self.tunnel == tunnel && self.protocol.matches(protocol)
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

    /// Whether a flow from `remote` to this port of the tunnel's own address is let in. `port` is 0
    /// for an echo.
    pub fn admit(
        &self,
        tunnel: TunnelId,
        protocol: Protocol,
        port: u16,
        remote: IpAddr,
    ) -> Option<Admitted> {
        let mut own = self.entries.iter().filter(|entry| entry.behind.is_none());
        own.find_map(|entry| admitted(entry, tunnel, protocol, port, remote))
    }

    /// Whether a flow from `remote` to this port of another machine is let in, one behind this host.
    /// Not from the network that it is in: that would be a source of somebody else.
    pub fn admit_behind(
        &self,
        tunnel: TunnelId,
        protocol: Protocol,
        to: (IpAddr, u16),
        remote: IpAddr,
    ) -> Option<Admitted> {
        let reaches = |net: IpNet| net.contains(&to.0) && !net.contains(&remote);
        let mut others = (self.entries.iter()).filter(|entry| entry.behind.is_some_and(reaches));
        others.find_map(|entry| admitted(entry, tunnel, protocol, to.1, remote))
    }

    /// Whether a machine with this address is behind this host for that tunnel, so that its packets keep
    /// the address there.
    pub fn is_behind(&self, tunnel: TunnelId, source: IpAddr) -> bool {
        self.entries.iter().any(|entry| {
            entry.tunnel == tunnel && entry.behind.is_some_and(|net| net.contains(&source))
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

/// What one rule says to a flow.
fn admitted(
    entry: &Entry,
    tunnel: TunnelId,
    protocol: Protocol,
    port: u16,
    remote: IpAddr,
) -> Option<Admitted> {
    let port = match protocol.is_icmp() {
        _ if !entry.is_from(tunnel, protocol, remote) => return None,
        true => 0,
        false => entry.local(port)?,
    };
    Some(Admitted {
        rule: entry.id,
        port,
    })
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
    if rule.behind.is_some() && rule.to_port.is_some() {
        return Err(bad(
            "machines behind this host are reached on their own ports",
        ));
    }
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
        behind: rule.behind,
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
            behind: None,
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

    /// What is behind this host is reached by its own rules, and they lead to nothing here.
    #[test]
    fn a_rule_for_a_network_behind_is_for_that_network_alone() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (rules, _) = rules(&[InboundRule {
            behind: Some("192.168.7.0/24".parse().unwrap()),
            ..udp(Some(PortRange::single(53)), None)
        }]);
        let peer = ip("10.77.0.3");
        let to = |host: &str, port, from| {
            rules
                .admit_behind(UK, Protocol::UDP, (ip(host), port), from)
                .is_some()
        };
        assert!(to("192.168.7.9", 53, peer));
        assert!(!to("192.168.7.9", 54, peer) && !to("192.168.8.9", 53, peer));
        assert!(!to("192.168.7.9", 53, ip("192.168.7.1")), "from itself");
        assert!(rules.admit(UK, Protocol::UDP, 53, peer).is_none());
        assert!(rules.is_behind(UK, ip("192.168.7.1")) && !rules.is_behind(UK, peer));
        assert!(rules.may_use(UK, Protocol::UDP, 53, 9) && !rules.serves(Protocol::UDP, 53));
        assert_eq!(rules.published(UK, Protocol::UDP, 53), None);
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
        let moved = InboundRule {
            behind: Some("192.168.7.0/24".parse().unwrap()),
            ..udp(PortRange::new(1, 2), Some(3))
        };
        let list = [
            moved,
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
