//! Touches what a former run left of captures, and on interfaces that are still there.

use super::config::{ApplyError, CaptureConfig};
use super::netlink::Netlink;
use super::record::{self, OnInterface};
use super::{OWNER, capture, guard, remove_guard};
use crate::journal::Journal;
use crate::nft;
use crate::sysctl::{Changed, Restored};
use ipnet::IpNet;
use vpn_core::Family;

/// What was removed.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    pub(crate) rules: usize,
    pub(crate) routes: usize,
    /// Tables of the packet filter, as nft(8) names them.
    pub(crate) tables: Vec<String>,
}

/// Removes the rules, routes and packet filter of a capture, noted or not.
pub(crate) async fn remove_capture(
    capture: &CaptureConfig,
    journal: Option<&Journal>,
) -> Result<Removed, ApplyError> {
    let netlink = Netlink::open()?;
    let (rules, routes) = capture::remove(&netlink, capture).await?;
    let mut tables = Vec::new();
    if let Some(journal) = journal {
        let own = guard::tables(capture);
        let noted = nft::noted(journal, OWNER);
        let noted: Vec<_> = noted
            .into_iter()
            .filter(|table| own.contains(table))
            .collect();
        let removed = nft::remove_noted(journal, &noted).await;
        tables.extend(
            removed
                .map_err(ApplyError::from)?
                .iter()
                .map(ToString::to_string),
        );
    }
    // Of a run without a journal.
    remove_guard(capture).await?;
    record::forget_capture(journal, record::CAPTURE, capture)?;
    Ok(Removed {
        rules,
        routes,
        tables,
    })
}

/// Brings the settings back that a capture needed.
pub(crate) fn remove_settings(journal: Option<&Journal>) -> Result<Restored, ApplyError> {
    Changed::new(journal.cloned(), OWNER)?.restore()
}

/// What was undone on interfaces.
#[derive(Debug, Default)]
pub(crate) struct OnInterfaces {
    pub(crate) addresses: Vec<(String, IpNet)>,
    pub(crate) routes: usize,
}

/// Takes what was put on interfaces off those that are still there.
pub(crate) async fn remove_from_interfaces(journal: &Journal) -> Result<OnInterfaces, ApplyError> {
    let mut done = OnInterfaces::default();
    let netlink = Netlink::open()?;
    for (name, noted) in OnInterface::all(journal)? {
        let links = netlink.links().await?;
        if links
            .iter()
            .any(|link| link.0 == noted.index && link.1 == name)
        {
            for &address in &noted.addresses {
                netlink.remove_address(noted.index, address).await?;
                done.addresses.push((name.clone(), address));
            }
            for family in [Family::V4, Family::V6] {
                done.routes += netlink.remove_routes_to(family, noted.index).await?;
            }
            restore_mtu(&netlink, &noted).await?;
        }
        OnInterface::forget(Some(journal), &name)?;
    }
    Ok(done)
}

/// Gives an interface its former MTU, if it is there and has ours.
pub(super) async fn restore_mtu(netlink: &Netlink, noted: &OnInterface) -> Result<(), ApplyError> {
    let links = netlink.links().await?;
    let has_ours = |link: &(u32, String, u32)| {
        noted.mtu != 0 && link.0 == noted.index && link.2 == u32::from(noted.mtu)
    };
    match u16::try_from(noted.former_mtu) {
        Ok(former) if former != noted.mtu && former > 0 && links.iter().any(has_ours) => {
            netlink.set_mtu(noted.index, former).await
        }
        _ => Ok(()),
    }
}
