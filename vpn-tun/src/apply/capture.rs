//! Touches the capture's rules and default routes, in an order that leaves no gap.

use super::config::{ApplyError, CaptureConfig, Step};
use super::families;
use super::netlink::{self, Netlink, Role, Target, default_of};
use vpn_core::Family;

/// Blackhole of every family, then the rule of every family.
pub(super) async fn install(netlink: &Netlink, capture: &CaptureConfig) -> Result<(), ApplyError> {
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
    for family in present {
        // The guard first: the capture never stands without it.
        netlink.add_rule(family, capture, Role::Guard).await?;
        netlink.add_rule(family, capture, Role::Capture).await?;
        // A former run's rule with another mark would capture our own sockets. It goes after the
        // new one is there.
        for rule in netlink.rules(family, capture).await? {
            if !netlink::is_wanted(&rule, capture) {
                netlink.remove_rule(rule).await?;
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

/// Removes everything: the rules first, so that no packet meets half a table.
pub(super) async fn remove(netlink: &Netlink, capture: &CaptureConfig) -> Result<(), ApplyError> {
    for &family in families(capture) {
        for rule in netlink.rules(family, capture).await? {
            netlink.remove_rule(rule).await?;
        }
    }
    for &family in families(capture) {
        for route in netlink.routes(family, capture.table).await? {
            if netlink::is_ours(&route) {
                netlink.remove_message(route).await?;
            }
        }
    }
    Ok(())
}
