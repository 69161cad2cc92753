//! What names in rules stand for, and what names destinations are known under.

use std::net::IpAddr;

use ipnet::IpNet;
use vpn_core::{DomainName, GroupId, TunnelId};

/// What the names in rules stand for, at the time rules are compiled.
///
/// A closure from a tunnel's name to its id will do where there is nothing else:
///
/// ```
/// use vpn_core::TunnelId;
/// use vpn_routing::rules::Names;
/// let names = |name: &str| (name == "uk").then_some(TunnelId::new(0));
/// assert_eq!(names.tunnel("uk"), Some(TunnelId::new(0)));
/// assert_eq!(names.direct(), None);
/// ```
pub trait Names {
    /// The tunnel of this name.
    fn tunnel(&self, name: &str) -> Option<TunnelId>;

    /// The group of this name. Default: there are none.
    fn group(&self, _name: &str) -> Option<GroupId> {
        None
    }

    /// The tunnel that leads past all others, by the uplink. Default: there is none, and a rule
    /// that says direct is a problem and blocks.
    fn direct(&self) -> Option<TunnelId> {
        None
    }

    /// The prefixes of an interface, for traffic that comes in by it. Default: none is known, and
    /// a rule that names one is a problem.
    fn interface(&self, _name: &str) -> Option<Vec<IpNet>> {
        None
    }
}

impl<F: Fn(&str) -> Option<TunnelId>> Names for F {
    fn tunnel(&self, name: &str) -> Option<TunnelId> {
        self(name)
    }
}

/// Under which names destinations are known, from the answers that were seen.
pub trait Domains {
    /// Calls `found` with each name of `addr`, and the tunnel whose resolver said so; `None`
    /// stands for every tunnel.
    fn visit(&self, addr: IpAddr, found: &mut dyn FnMut(Option<TunnelId>, &DomainName));
}

/// No answers were seen: rules with a domain match nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDomains;

impl Domains for NoDomains {
    fn visit(&self, _: IpAddr, _: &mut dyn FnMut(Option<TunnelId>, &DomainName)) {}
}

/// A query for this name: it is decided as what it asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a>(pub &'a DomainName);

impl Domains for Asked<'_> {
    fn visit(&self, _: IpAddr, found: &mut dyn FnMut(Option<TunnelId>, &DomainName)) {
        found(None, self.0);
    }
}
