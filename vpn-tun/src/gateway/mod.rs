//! Networks behind this host, reached through a device of ours.
//!
//! The router lets in what is for them ([`InboundRule::behind`](vpn_core::InboundRule::behind)) and
//! hands it to the device with its addresses kept. A [`Gateway`] has the kernel forward it, and
//! what comes back.
//!
//! # What it changes
//!
//! * Forwarding of the device, and of the interfaces by which the main table leads to those networks,
//!   where they do not forward by themselves: both are needed, for the kernel asks the interface by
//!   which a packet comes. Only for the families of those networks, and only as long as it leads there.
//!   IPv6 by interface needs Linux 6.17 (`force_forwarding`); an older kernel forwards it everywhere or
//!   nowhere, and is made to do it everywhere.
//! * A table of the packet filter, `inet vpn_tun_gateway_DEVICE`. From the device only what is for those
//!   networks is forwarded, into it what has their addresses only from the interfaces that lead there,
//!   and what would be forwarded only because of the above, between others, is dropped. So the host does
//!   not become a router for its neighbours. What comes by the device for an address of those networks
//!   that is the host's own, or a broadcast there, is dropped: the host is reached by the device's
//!   addresses. This asks the kernel's routes (`nft_fib_inet`).
//!
//! All of it goes with [`close`](Gateway::close); after a crash the next [`Gateway`] with the same
//! journal takes it over, [`Gateway::recover`] undoes it. What somebody else changes meanwhile stays
//! as they made it, but for a table that is gone: it is made again within [`LOOK_EVERY`](crate::direct::LOOK_EVERY),
//! and as long as it cannot be made nothing is forwarded.
//!
//! # What it does not
//!
//! A firewall of the host that drops what is forwarded has the last word: let it accept what goes
//! between the device and those networks. Machines there need a route back to this host for the
//! addresses of the tunnel; where they have none, masquerade them, which nothing here does.

mod lead;
mod table;

use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::apply::ApplyError;
use crate::apply::netlink::Netlink;
use crate::filtered::Filtered;
use crate::journal::{Journal, JournalError};
use crate::name::InterfaceName;
use crate::nft::{self, NftError, RemoveError};
use crate::recover::Undone;
use crate::sysctl::{Changed, Restored, SysctlError};

/// Whose settings and tables ours are, in the journal.
const OWNER: &str = "gateway";

/// How often it is looked by which interfaces the networks are reached: as often as for `direct`.
const LOOK_EVERY: Duration = crate::direct::LOOK_EVERY;

/// What a gateway is for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GatewayConfig {
    /// The device by which packets come.
    pub interface: InterfaceName,
    /// The networks that they may be for.
    pub networks: Vec<IpNet>,
    /// Where to write what to undo. Default: nowhere.
    pub journal: Option<Journal>,
}

impl GatewayConfig {
    /// From this device to these networks.
    pub const fn new(interface: InterfaceName, networks: Vec<IpNet>) -> Self {
        Self {
            interface,
            networks,
            journal: None,
        }
    }

    /// Writes what to undo to a journal.
    #[must_use]
    pub fn journal(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }
}

/// Why networks behind this host are not reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// Nothing may be forwarded that nobody filters. Install `nftables`.
    #[error("cannot filter what is forwarded")]
    Filter(#[from] NftError),
    /// The kernel does not let us forward. In a container, `/proc/sys` is often read-only: set
    /// forwarding on the host.
    #[error("cannot forward")]
    Forwarding(#[from] SysctlError),
    /// It cannot be seen by which interfaces the networks are reached.
    #[error("cannot read the routes")]
    Route(#[from] ApplyError),
    /// The journal cannot be written or understood.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Forwards from a device to networks behind this host: see [the module](self).
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use vpn_tun::{Gateway, GatewayConfig, Journal};
/// let config = GatewayConfig::new("mesh0".parse()?, vec!["192.168.7.0/24".parse()?]);
/// let config = config.journal(Journal::open("/var/lib/mesh/journal")?);
/// let gateway = Gateway::open(config).await?;
/// // … packets for 192.168.7.0/24 come out of `mesh0` …
/// gateway.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Gateway {
    closing: watch::Sender<bool>,
    keeper: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Sets everything up, in the network namespace of the calling thread; its task must be polled
    /// there too.
    ///
    /// # Errors
    ///
    /// [`GatewayError`], and what was set up before is gone again.
    pub async fn open(config: GatewayConfig) -> Result<Self, GatewayError> {
        let mut keeper = Keeper {
            netlink: Netlink::open()?,
            filtered: Filtered::new(config.journal.clone(), OWNER)?,
            config,
        };
        if let Err(error) = keeper.look().await {
            keeper.tear_down().await;
            return Err(error);
        }
        let closing = watch::Sender::new(false);
        let keeper = tokio::spawn(keeper.run(closing.subscribe()));
        Ok(Self {
            closing,
            keeper: Some(keeper),
        })
    }

    /// Undoes everything.
    pub async fn close(mut self) {
        self.closing.send_replace(true);
        if let Some(keeper) = self.keeper.take() {
            // A panic in it ended it as well.
            let _ = keeper.await;
        }
    }

    /// Undoes what a killed run left, for when no gateway with this journal runs: what was done.
    ///
    /// # Errors
    ///
    /// [`GatewayError`]; what is still to be undone stays in the journal.
    pub async fn recover(journal: &Journal) -> Result<Vec<Undone>, GatewayError> {
        journal.forget_elsewhere()?;
        let (tables, restored) = remove_leftovers(journal).await?;
        let back = restored.back.into_iter();
        let back = back.map(|(path, value)| Undone::Setting { path, value });
        let left = restored.left.into_iter().map(Undone::Left);
        Ok(back
            .chain(left)
            .chain(tables.into_iter().map(Undone::Table))
            .collect())
    }
}

impl Drop for Gateway {
    /// The task undoes what it can, if the runtime goes on.
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

/// Undoes what a gateway left that was killed: forwarding first, filter last.
pub(crate) async fn remove_leftovers(
    journal: &Journal,
) -> Result<(Vec<String>, Restored), GatewayError> {
    let restored = Changed::new(Some(journal.clone()), OWNER)?.restore::<GatewayError>()?;
    let noted = nft::noted(journal, OWNER);
    let removed = match nft::remove_noted(journal, &noted).await {
        Ok(tables) => tables,
        Err(RemoveError::Filter(error)) => return Err(error.into()),
        Err(RemoveError::Journal(error)) => return Err(error.into()),
    };
    Ok((removed.iter().map(ToString::to_string).collect(), restored))
}

/// Keeps filter and forwarding as the routes need them.
#[derive(Debug)]
struct Keeper {
    config: GatewayConfig,
    netlink: Netlink,
    filtered: Filtered,
}

impl Keeper {
    /// Looks by which interfaces the networks are reached, and follows.
    async fn look(&mut self) -> Result<(), GatewayError> {
        let config = &self.config;
        let ours = &config.interface;
        let leading = lead::interfaces(&self.netlink, &config.networks, ours.as_str()).await?;
        let table = table::table(ours);
        self.filtered
            .follow(ours, &leading, &table, |opened| {
                table::commands(config, &leading, opened)
            })
            .await
    }

    async fn run(mut self, mut closing: watch::Receiver<bool>) {
        let mut failed = false;
        loop {
            tokio::select! {
                // Also an error: the gateway is gone.
                _ = closing.wait_for(|closing| *closing) => break,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match self.look().await {
                Err(error) if !failed => {
                    failed = true;
                    tracing::warn!(%error, "the networks behind this host are not followed");
                }
                Err(_) => {}
                Ok(()) => failed = false,
            }
            if let Some(journal) = &self.config.journal {
                let mut found = self.filtered.forwarding.look();
                found.extend(self.filtered.tables.look().await);
                journal.noticed(OWNER, found);
            }
        }
        self.tear_down().await;
    }

    /// Undoes as much as it can: forwarding first, filter last. What stays, stays in the journal.
    async fn tear_down(&mut self) {
        match self.filtered.forwarding.close::<GatewayError>() {
            Ok(restored) => {
                for change in restored.left {
                    tracing::warn!("left as somebody else made it: {change}");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "forwarding stays on, and its filter with it");
                return;
            }
        }
        let table = table::table(&self.config.interface);
        let removed = match nft::run(table.gone().into()).await {
            // Nobody but that program could have made it.
            Ok(()) | Err(NftError::Missing) => self
                .filtered
                .tables
                .gone(&[table])
                .map_err(GatewayError::from),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, "the packet filter of the gateway stays");
        }
        if let Some(journal) = &self.config.journal {
            journal.noticed(OWNER, Vec::new());
        }
    }
}
