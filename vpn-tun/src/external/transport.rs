//! A tunnel whose interface somebody else made: kernel WireGuard, IPsec, a VPN client with an
//! interface of its own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use vpn_core::packet::PacketBatch;
use vpn_core::{
    Assigned, DownCause, DropCounters, Resources, StateWatch, TransportCapabilities,
    TransportError, TransportState, TunnelTransport,
};

use super::slot::Slot;
use super::{Attached, ExternalError};
use crate::InterfaceName;
use crate::apply::netlink::Netlink;
use crate::journal::Journal;

/// How often the interface is looked at: whether it is there, its addresses and its MTU.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is known of an interface that somebody else made.
#[derive(Clone, Debug)]
pub struct ExternalConfig {
    interface: InterfaceName,
    addresses: Option<Vec<IpNet>>,
    dns: Vec<IpAddr>,
    mtu: Option<u16>,
    journal: Option<Journal>,
}

impl ExternalConfig {
    /// Takes over this interface, whenever it is there.
    pub const fn new(interface: InterfaceName) -> Self {
        Self {
            interface,
            addresses: None,
            dns: Vec::new(),
            mtu: None,
            journal: None,
        }
    }

    /// Writes what to undo to a journal, so that [`recover`](fn@crate::recover) gives the interface
    /// back after we were killed.
    #[must_use]
    pub fn journal(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// What the tunnel was assigned. Default: the addresses the interface has.
    #[must_use]
    pub fn addresses(mut self, addresses: Vec<IpNet>) -> Self {
        self.addresses = Some(addresses);
        self
    }

    /// Resolvers behind it. Default none: queries of its apps are dropped.
    #[must_use]
    pub fn dns(mut self, dns: Vec<IpAddr>) -> Self {
        self.dns = dns;
        self
    }

    /// Its MTU, in bytes. Default: the interface's.
    #[must_use]
    pub const fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// The interface.
    pub const fn interface(&self) -> &InterfaceName {
        &self.interface
    }

    /// The addresses that are said here.
    pub fn said_addresses(&self) -> Option<&[IpNet]> {
        self.addresses.as_deref()
    }

    /// The resolvers that are said here.
    pub fn said_dns(&self) -> &[IpAddr] {
        &self.dns
    }

    /// The MTU that is said here, in bytes.
    pub const fn said_mtu(&self) -> Option<u16> {
        self.mtu
    }
}

/// A tunnel that another program runs, taken over at its interface.
///
/// The interface may keep its addresses, but nothing of what comes out of it reaches the kernel's
/// stack any more; when the transport is closed, it gets it back. Routes into the interface are not
/// needed, and better not there (wg-quick's `Table = off`). The program's own sockets must carry the
/// capture's mark (`FwMark` of wg-quick), or they are captured.
///
/// It is up while the interface is there, up, and has an address; whether somebody answers at the
/// other end only the other program knows. The interface is looked at every second.
#[derive(Debug)]
pub struct ExternalTransport {
    slot: Arc<Slot>,
}

impl ExternalTransport {
    /// Starts to look for it. Its task must be polled in the network namespace it is for.
    pub fn start(config: ExternalConfig) -> Self {
        let slot = Arc::new(Slot::new());
        slot.watch_over(tokio::spawn(run(slot.clone(), config)));
        Self { slot }
    }
}

impl Drop for ExternalTransport {
    fn drop(&mut self) {
        self.slot.close();
    }
}

async fn run(slot: Arc<Slot>, config: ExternalConfig) {
    let mut closing = slot.closing();
    loop {
        if let Err(error) = look(&slot, &config).await {
            if let Some(old) = slot.attach(None) {
                old.detach().await;
            }
            let cause = DownCause::Network(text_of(&error));
            slot.set(TransportState::Down(cause));
        }
        slot.look_at_others(config.journal.as_ref(), &config.interface)
            .await;
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    if let Some(old) = slot.attach(None) {
        old.detach().await;
    }
    slot.look_at_others(config.journal.as_ref(), &config.interface)
        .await;
    slot.set(TransportState::Closed);
}

fn text_of(error: &ExternalError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Looks at the interface, and takes it over if that is not done.
async fn look(slot: &Slot, config: &ExternalConfig) -> Result<(), ExternalError> {
    let name = &config.interface;
    let missing = || ExternalError::Missing(name.clone());
    let index = crate::device::sys::index_of(name.as_str()).ok_or_else(missing)?;
    // Another one of the same name is another one.
    if let Some(old) = slot.attached().filter(|old| old.index() != index) {
        slot.attach(None);
        old.detach().await;
    }
    let netlink = Netlink::open()?;
    let link = netlink.link(index).await?.ok_or_else(missing)?;
    if link.frames {
        return Err(ExternalError::Frames(name.clone()));
    }
    if slot.attached().is_some() && !link.up {
        return Err(ExternalError::NotUp(name.clone()));
    }
    let addresses = match &config.addresses {
        Some(addresses) => addresses.clone(),
        None => netlink.addresses_of(index).await?,
    };
    if addresses.is_empty() {
        return Err(ExternalError::NoAddress(name.clone()));
    }
    if slot.attached().is_none() {
        slot.attach(Some(Arc::new(
            Attached::open(name, config.journal.as_ref()).await?,
        )));
    }
    if let Some(attached) = slot.attached()
        && attached.proven().await?
    {
        tracing::debug!(interface = %name, "the kernel is kept away");
    }
    slot.up(Assigned {
        addresses,
        dns: config.dns.clone(),
        mtu: config.mtu.unwrap_or(link.mtu),
        routes: Vec::new(),
    });
    Ok(())
}

#[async_trait]
impl TunnelTransport for ExternalTransport {
    fn capabilities(&self) -> TransportCapabilities {
        self.slot.capabilities()
    }

    fn state(&self) -> StateWatch {
        self.slot.watch()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.slot.try_recv(batch, drops)
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.slot.try_send(batch, drops)
    }

    async fn readable(&self) -> Result<(), TransportError> {
        self.slot.readable().await
    }

    async fn writable(&self) -> Result<(), TransportError> {
        self.slot.writable().await
    }

    fn resources(&self) -> Resources {
        self.slot.resources()
    }

    async fn close(&self) {
        self.slot.end().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shut towards the stack, the host's own interfaces would be cut off.
    #[tokio::test]
    async fn the_hosts_own_interfaces_are_told_from_tunnels() {
        let index = crate::device::sys::index_of("lo").expect("the loopback");
        let netlink = Netlink::open().expect("netlink");
        let link = netlink.link(index).await.expect("told").expect("there");
        assert!(link.frames, "{link:?}");
    }
}
