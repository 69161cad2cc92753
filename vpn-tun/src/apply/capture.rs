//! Touches the capture's rules and default routes, in an order that leaves no gap.

use super::config::{ApplyError, CaptureConfig, Step};
use super::families;
use super::netlink::{self, Netlink, Target, default_of};
use super::policy::{self, Device, Part, Role, message};
use crate::name::InterfaceName;
use rtnetlink::packet_route::rule::RuleMessage;
use vpn_core::{Bypass, Family};

/// Blackhole of every family the kernel has: answers these.
pub(super) async fn blackholes(
    netlink: &Netlink,
    capture: &CaptureConfig,
) -> Result<Vec<Family>, ApplyError> {
    let mut present = Vec::new();
    for &family in families(capture) {
        for route in netlink.routes(family, capture.table).await? {
            if !netlink::is_ours(&route) {
                return Err(ApplyError::TableInUse {
                    table: capture.table,
                });
            }
        }
        let net = default_of(family);
        match netlink
            .add_route(Step::Blackhole, net, capture.table, Target::Blackhole)
            .await
        {
            Ok(()) => present.push(family),
            Err(error) if family == Family::V6 && netlink::family_missing(&error) => {
                tracing::info!(%error, "no IPv6 in this kernel: nothing to capture");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(present)
}

/// The rules of these families.
pub(super) async fn rules(
    netlink: &Netlink,
    capture: &CaptureConfig,
    families: &[Family],
    device: &InterfaceName,
) -> Result<(), ApplyError> {
    for &family in families {
        // The guard first: the capture never stands without it.
        for role in [Role::Guard, Role::Capture] {
            netlink.add_rule(message(family, capture, &role)).await?;
        }
        let former = netlink.rules(family, capture).await?;
        // What a former run let around is captured now.
        remove_bypass(netlink, capture, &former).await?;
        // A former run's rule with another mark would capture our own sockets. It goes after the
        // new one is there.
        for (part, rule) in former {
            let unwanted = part == Part::Capture && !policy::is_wanted(&rule, capture);
            // Another device's.
            if unwanted || part == Part::Device {
                netlink.remove_rule(rule).await?;
            }
        }
        for role in [
            Role::Around,
            Role::FromOnly(Device::Captured, device.clone()),
            Role::From(Device::Captured, device.clone()),
        ] {
            netlink.add_rule(message(family, capture, &role)).await?;
        }
    }
    Ok(())
}

/// Removes a bypass list: first what leads around, then the rest.
async fn remove_bypass(
    netlink: &Netlink,
    capture: &CaptureConfig,
    rules: &[(Part, RuleMessage)],
) -> Result<(), ApplyError> {
    for around in [true, false] {
        for (part, rule) in rules {
            if *part == Part::Bypass && policy::leads_around(rule, capture) == around {
                netlink.remove_rule(rule.clone()).await?;
            }
        }
    }
    Ok(())
}

/// Captures everything again.
pub(super) async fn close_bypass(
    netlink: &Netlink,
    capture: &CaptureConfig,
) -> Result<(), ApplyError> {
    for &family in families(capture) {
        let rules = netlink.rules(family, capture).await?;
        remove_bypass(netlink, capture, &rules).await?;
    }
    Ok(())
}

/// Makes one bypass list of another.
pub(super) async fn change_bypass(
    netlink: &Netlink,
    capture: &CaptureConfig,
    old: &[Bypass],
    new: &[Bypass],
) -> Result<(), ApplyError> {
    for &family in families(capture) {
        let old = policy::entries(old, family);
        let new = policy::entries(new, family);
        for step in policy::steps(&old, &new) {
            match step {
                policy::Step::Add(at, entry) => {
                    let rule = message(family, capture, &Role::Bypass(at, entry));
                    netlink.add_rule(rule).await?;
                }
                policy::Step::Remove(at, entry) => {
                    let rule = message(family, capture, &Role::Bypass(at, entry));
                    netlink.remove_rule(rule).await?;
                }
            }
        }
    }
    Ok(())
}

/// Default routes of every family to the device, better than the blackhole.
pub(super) async fn lead_to(
    netlink: &Netlink,
    capture: &CaptureConfig,
    index: u32,
) -> Result<(), ApplyError> {
    for &family in families(capture) {
        let net = default_of(family);
        match netlink
            .add_route(
                Step::AddRoute(net),
                net,
                capture.table,
                Target::Device(index),
            )
            .await
        {
            Err(error) if family == Family::V6 && netlink::disabled_on_device(&error) => {
                tracing::info!(%error, "no IPv6 on the device: IPv6 is blocked, not carried");
            }
            result => result?,
        }
    }
    Ok(())
}

/// Removes the default routes to the device; the blackhole takes over.
pub(super) async fn lead_nowhere(
    netlink: &Netlink,
    capture: &CaptureConfig,
    index: u32,
) -> Result<(), ApplyError> {
    for &family in families(capture) {
        netlink
            .remove_route(default_of(family), capture.table, Target::Device(index))
            .await?;
    }
    Ok(())
}

/// Removes everything but what belongs to `direct`: the rules first, so that no packet meets half a
/// table. Answers how many rules and routes there were.
pub(super) async fn remove(
    netlink: &Netlink,
    capture: &CaptureConfig,
) -> Result<(usize, usize), ApplyError> {
    let (mut rules, mut routes) = (0, 0);
    for &family in families(capture) {
        for (part, rule) in netlink.rules(family, capture).await? {
            if part != Part::Direct {
                netlink.remove_rule(rule).await?;
                rules += 1;
            }
        }
    }
    for &family in families(capture) {
        for route in netlink.routes(family, capture.table).await? {
            if netlink::is_ours(&route) {
                netlink.remove_message(route).await?;
                routes += 1;
            }
        }
    }
    Ok((rules, routes))
}

/// Whether anything of the capture stands.
pub(super) async fn is_there(
    netlink: &Netlink,
    capture: &CaptureConfig,
) -> Result<bool, ApplyError> {
    for &family in families(capture) {
        let rules = netlink.rules(family, capture).await?;
        let routes = netlink.routes(family, capture.table).await?;
        if rules.iter().any(|(part, _)| *part != Part::Direct)
            || routes.iter().any(netlink::is_ours)
        {
            return Ok(true);
        }
    }
    Ok(false)
}
