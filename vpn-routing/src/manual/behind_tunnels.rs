//! Servers behind a tunnel, the packet filter, and remote networks that overlap.
//!
//! # Letting somebody in
//!
//! What begins behind a tunnel is dropped (`unsolicited`) unless an inbound rule lets it in. This
//! one publishes the web server on port 80 of this host as port 8080 of the tunnel's address, and
//! another program's packets will not leave from that port:
//!
//! ```
//! use vpn_core::rule::{PortRange, RuleProtocol};
//! use vpn_core::{DropReason, InboundRule, Protocol, RuleId, RuleSnapshot, TunnelId};
//! use vpn_routing::rules::{CompiledRules, Target};
//!
//! let web = InboundRule {
//!     id: RuleId(1),
//!     tunnel: "office".to_owned(),
//!     protocol: RuleProtocol::Tcp,
//!     ports: Some(PortRange::single(8080)),
//!     to_port: Some(80),
//!     remote: Some("203.0.113.0/24".parse()?),
//!     behind: None,
//! };
//! let office = TunnelId::new(0);
//! let rules = CompiledRules::compile(
//!     &RuleSnapshot { inbound: vec![web], ..RuleSnapshot::default() },
//!     &|name: &str| (name == "office").then_some(office),
//!     Target::Block(DropReason::BlockedByDefault),
//! )?;
//! let admitted = rules.inbound().admit(office, Protocol::TCP, 8080, "203.0.113.9".parse()?);
//! assert_eq!(admitted.map(|a| a.port), Some(80));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! * The packet must be for the tunnel's own address, and its source one that can be behind a
//!   tunnel: not the device's, not the tunnel's, no loopback or multicast.
//! * Answers go back through that tunnel, whatever rules say of the program that answers. What
//!   the server begins itself is decided by those rules; over UDP it leaves from the published
//!   port.
//! * A change of rules is noticed with the next packet; a flow whose rule is gone ends.
//! * Outsiders decide how many flows they begin: `max_flows_per_inbound_rule` bounds it.
//! * A rule without ports publishes every port and reserves none.
//!
//! # Machines behind this host
//!
//! A rule with [`behind`](vpn_core::InboundRule::behind) lets in what is for a network that this host
//! reaches by itself: with its addresses kept, so the system has to forward it
//! (`vpn_tun::Gateway` sees to that), and those machines need a route back to this host. What they
//! begin towards the tunnel keeps its source as well. It is never let in to an address or a subnet of
//! the device, nor from a source in that very network.
//!
//! # What may not pass all the same
//!
//! [Filter rules](vpn_core::FilterRule) are looked at in order after a flow got its tunnel, and the
//! first that matches decides; what none matches passes. They judge the first packet of a flow, so
//! answers need no rule. `reject` tells the sender: RST for TCP, ICMP "administratively
//! prohibited" for the rest, at most a hundred a second. A list of ports that must not be reached
//! is one rule: `direction` outbound, `ports` the range, `action` reject.
//!
//! # Two networks with the same addresses
//!
//! Two offices with 192.168.1.0/24 are both reachable if each has other addresses here. A
//! [`PrefixMap`](crate::nat::PrefixMap) in the
//! [options of a tunnel](crate::router::TunnelOptions) says so: 10.71.1.9 is 192.168.1.9 of the one
//! office, 10.72.1.9 of the other. The local prefix leads to that tunnel where no rule decides, and
//! before routes that tunnels advertise. [`Router::overlaps`](crate::Router::overlaps) lists which
//! networks share addresses, which of them is used and why.
//!
//! # What a flow looks like to the far end
//!
//! A UDP socket has one address and port per tunnel, whomever it talks to, so that peers can tell
//! each other about it (RFC 4787); packets from anybody it did not talk to are dropped all the same.
//! TCP keeps its port unless the whole five-tuple is taken. Protocols without ports are translated
//! by address, one address of the device per remote: GRE, ESP and SCTP can bear that; UDP-Lite and
//! DCCP, whose checksums cover addresses, cannot.
