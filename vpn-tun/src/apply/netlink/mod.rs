//! Touches the kernel's links, addresses, routes and rules: one typed call per request. What is asked
//! of links is in `link`.

mod link;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use vpn_core::Family;

use super::config::{ApplyError, BLACKHOLE_METRIC, CaptureConfig, DEVICE_METRIC, PROTOCOL, Step};
use super::families_of;
use super::held::Held;
use super::policy::{self, Part};
use crate::foreign::ForeignChange;

/// A netlink socket in the network namespace of the thread that opened it. It knows what was added
/// through it and not removed through it.
#[derive(Debug)]
pub(crate) struct Netlink {
    handle: Handle,
    driver: tokio::task::JoinHandle<()>,
    held: Mutex<Held>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// Nowhere, and nothing further is asked.
    Blackhole,
    /// The device with this index.
    Device(u32),
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, ApplyError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|cause| failed(Step::Connect, cause))?;
        Ok(Self {
            handle,
            driver: tokio::spawn(connection),
            held: Mutex::default(),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of that is not there any more: somebody else removed it.
    pub(crate) async fn missing(&self) -> Result<Vec<ForeignChange>, ApplyError> {
        let mut missing = Vec::new();
        for &family in families_of(true) {
            let rules = self.all_rules(family).await?;
            let routes = self.all_routes(family).await?;
            missing.extend(self.held().missing(family, &rules, &routes));
        }
        let addresses = self.addresses().await?;
        missing.extend(self.held().missing_addresses(&addresses));
        Ok(missing)
    }

    pub(crate) async fn add_route(
        &self,
        step: Step,
        net: IpNet,
        table: u32,
        target: Target,
    ) -> Result<(), ApplyError> {
        // Replacing makes it idempotent, and takes over a leftover without a gap.
        let request = self.handle.route().add(route(net, table, target)).replace();
        done(step, request.execute().await)?;
        self.held().add_route(net, table, target);
        Ok(())
    }

    pub(crate) async fn remove_route(
        &self,
        net: IpNet,
        table: u32,
        target: Target,
    ) -> Result<(), ApplyError> {
        let request = self.handle.route().del(route(net, table, target));
        gone(Step::RemoveRoute(net), request.execute().await)?;
        self.held().remove_route(net, table, target);
        Ok(())
    }

    /// All routes of a table.
    pub(crate) async fn routes(
        &self,
        family: Family,
        table: u32,
    ) -> Result<Vec<RouteMessage>, ApplyError> {
        let all = self.all_routes(family).await?;
        Ok(all.into_iter().filter(|r| table_of(r) == table).collect())
    }

    async fn all_routes(&self, family: Family) -> Result<Vec<RouteMessage>, ApplyError> {
        let mut query = RouteMessage::default();
        query.header.address_family = address_family(family);
        self.handle
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(|e| failed(Step::Dump("routes"), cause_of(e)))
    }

    /// Removes the routes of ours that lead to a device, from any table: how many.
    pub(crate) async fn remove_routes_to(
        &self,
        family: Family,
        index: u32,
    ) -> Result<usize, ApplyError> {
        let mut removed = 0;
        for route in self.all_routes(family).await? {
            if is_ours(&route) && route.attributes.contains(&RouteAttribute::Oif(index)) {
                self.remove_message(route).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    pub(crate) async fn remove_message(&self, route: RouteMessage) -> Result<(), ApplyError> {
        let net = match family_of(route.header.address_family) {
            Some(Family::V6) => default_of(Family::V6),
            _ => default_of(Family::V4),
        };
        self.held().remove_route_read(&route);
        let result = self.handle.route().del(route).execute().await;
        gone(Step::RemoveRoute(net), result)
    }

    pub(crate) async fn add_rule(&self, rule: RuleMessage) -> Result<(), ApplyError> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule.clone();
        match request.execute().await.map_err(cause_of) {
            Err(cause) if cause.raw_os_error() == Some(libc::EEXIST) => {}
            Err(cause) => return Err(failed(Step::Rule, cause)),
            Ok(()) => {}
        }
        self.held().add_rule(rule);
        Ok(())
    }

    /// The rules of this capture, also of a former run: they carry our protocol number, and stand
    /// at its priorities or lead to its table.
    pub(crate) async fn rules(
        &self,
        family: Family,
        capture: &CaptureConfig,
    ) -> Result<Vec<(Part, RuleMessage)>, ApplyError> {
        let all = self.all_rules(family).await?;
        Ok(all
            .into_iter()
            .filter_map(|rule| Some((policy::part_of(&rule, capture)?, rule)))
            .collect())
    }

    async fn all_rules(&self, family: Family) -> Result<Vec<RuleMessage>, ApplyError> {
        let version = match family {
            Family::V4 => IpVersion::V4,
            Family::V6 => IpVersion::V6,
        };
        self.handle
            .rule()
            .get(version)
            .execute()
            .try_collect()
            .await
            .map_err(|e| failed(Step::Dump("policy rules"), cause_of(e)))
    }

    pub(crate) async fn remove_rule(&self, rule: RuleMessage) -> Result<(), ApplyError> {
        self.held().remove_rule(&rule);
        gone(Step::Rule, self.handle.rule().del(rule).execute().await)
    }

    /// `prefix_route`: whether the kernel adds the subnet's route to the main table.
    pub(crate) async fn add_address(
        &self,
        index: u32,
        net: IpNet,
        prefix_route: bool,
    ) -> Result<(), ApplyError> {
        let mut request = self
            .handle
            .address()
            .add(index, net.addr(), net.prefix_len());
        let mut flags = AddressFlags::empty();
        if net.addr().is_ipv6() {
            // Nobody else is on a TUN, and a tentative address cannot be used for a second.
            flags |= AddressFlags::Nodad;
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        if !prefix_route {
            flags |= AddressFlags::Noprefixroute;
        }
        request
            .message_mut()
            .attributes
            .push(AddressAttribute::Flags(flags));
        done(Step::AddAddress(net), request.replace().execute().await)?;
        self.held().add_address(index, net);
        Ok(())
    }

    pub(crate) async fn remove_address(&self, index: u32, net: IpNet) -> Result<(), ApplyError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = net.prefix_len();
        message.header.family = match net {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        };
        message.attributes.push(AddressAttribute::Local(net.addr()));
        let result = self.handle.address().del(message).execute().await;
        gone(Step::RemoveAddress(net), result)?;
        self.held().remove_address(index, net);
        Ok(())
    }
}

/// `0.0.0.0/0` or `::/0`.
pub(super) fn default_of(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        Family::V6 => IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    }
}

pub(super) fn is_ours(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::from(PROTOCOL)
}

/// Whether an error says that the kernel has no such family here.
pub(super) fn family_missing(error: &ApplyError) -> bool {
    matches!(error, ApplyError::Netlink { cause, .. } if matches!(
        cause.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EPFNOSUPPORT)
    ))
}

/// Whether an error says that IPv6 is switched off on this device.
pub(super) fn disabled_on_device(error: &ApplyError) -> bool {
    match error {
        ApplyError::Permission { .. } => true,
        ApplyError::Netlink { cause, .. } => {
            matches!(cause.raw_os_error(), Some(libc::ENODEV | libc::EINVAL))
        }
        _ => family_missing(error),
    }
}

pub(super) fn route(net: IpNet, table: u32, target: Target) -> RouteMessage {
    let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
        .table_id(table)
        .build();
    let net = net.trunc();
    route.header.address_family = match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    route.header.protocol = RouteProtocol::from(PROTOCOL);
    route.header.destination_prefix_length = net.prefix_len();
    if net.prefix_len() > 0 {
        let address = net.addr().into();
        route.attributes.push(RouteAttribute::Destination(address));
    }
    let metric = match target {
        Target::Blackhole => {
            route.header.kind = RouteType::BlackHole;
            BLACKHOLE_METRIC
        }
        Target::Device(index) => {
            route.header.scope = match net {
                IpNet::V4(_) => RouteScope::Link,
                IpNet::V6(_) => RouteScope::Universe,
            };
            route.attributes.push(RouteAttribute::Oif(index));
            DEVICE_METRIC
        }
    };
    route.attributes.push(RouteAttribute::Priority(metric));
    route
}

pub(super) fn table_of(route: &RouteMessage) -> u32 {
    route
        .attributes
        .iter()
        .find_map(|a| match a {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(route.header.table.into())
}

pub(super) fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn family_of(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::V4),
        AddressFamily::Inet6 => Some(Family::V6),
        _ => None,
    }
}

fn done(step: Step, result: Result<(), rtnetlink::Error>) -> Result<(), ApplyError> {
    result.map_err(|error| failed(step, cause_of(error)))
}

/// As [`done`], but what is not there counts as removed.
fn gone(step: Step, result: Result<(), rtnetlink::Error>) -> Result<(), ApplyError> {
    match result.map_err(cause_of) {
        Err(cause)
            if matches!(
                cause.raw_os_error(),
                Some(libc::ESRCH | libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::EADDRNOTAVAIL)
            ) =>
        {
            Ok(())
        }
        Err(cause) => Err(failed(step, cause)),
        Ok(()) => Ok(()),
    }
}

fn cause_of(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn failed(step: Step, cause: io::Error) -> ApplyError {
    match cause.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ApplyError::Permission { step },
        _ => ApplyError::Netlink { step, cause },
    }
}
