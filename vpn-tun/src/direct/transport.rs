//! Touches the interface of `direct`: packets go to the kernel, and answers come from it.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;
use vpn_core::packet::PacketBatch;
use vpn_core::{
    Assigned, DeviceError, DownCause, DropCounters, Family, NetworkEvent, Resources, StateSender,
    StateWatch, TransportCapabilities, TransportError, TransportState, TunDevice, TunnelTransport,
};

use super::OWNER;
use super::config::{DirectConfig, DirectError};
use super::table;
use super::uplink::{self, LOOK_EVERY, Uplink, carried};
use crate::apply::config::Step;
use crate::apply::netlink::{Netlink, Target};
use crate::apply::policy::{Device, Part, Role, message};
use crate::apply::record::{self, DIRECT};
use crate::apply::{ApplyError, CaptureConfig, families_of};
use crate::device::{LinuxTun, TunConfig};
use crate::filtered::Filtered;
use crate::nft::{self, NftError};

/// The kernel's main routing table.
const MAIN_TABLE: u32 = 254;

/// MTU while no default route says another one, in bytes.
const USUAL_MTU: u16 = 1500;

/// Smallest MTU of an interface with IPv6, in bytes (RFC 8200 §5).
const MIN_MTU: u16 = 1280;

/// The way to the uplink: see [the module](super).
///
/// It is up while the main table leads to another machine, in the families for which it does, and
/// down otherwise; it has no other end that could prove itself. The main table is looked at every
/// [`LOOK_EVERY`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use vpn_tun::{CaptureConfig, DirectConfig, DirectTransport};
/// let device = "vpn0".parse()?;
/// let config = DirectConfig::beside(&device, CaptureConfig::default());
/// // An error here is for the rules to know: they cannot say `direct`.
/// let direct = DirectTransport::open(config).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DirectTransport {
    tun: Arc<LinuxTun>,
    state: Arc<StateSender>,
    closing: watch::Sender<bool>,
    /// The uplink is to be looked at now.
    look: Arc<Notify>,
    /// Held by whoever waits for its end: all of them return when it has ended.
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl DirectTransport {
    /// Sets everything up. It works in the network namespace of the calling thread, and its task
    /// must be polled in that namespace too.
    ///
    /// # Errors
    ///
    /// [`DirectError`], and what was set up before is gone again: without the program `nft`, with
    /// `/proc/sys` read-only, or without `CAP_NET_ADMIN` there is no direct transport.
    pub async fn open(config: DirectConfig) -> Result<Self, DirectError> {
        config.check()?;
        let tun = TunConfig::named(config.interface.clone()).mtu(config.mtu.unwrap_or(USUAL_MTU));
        let mut keeper = Keeper {
            netlink: Netlink::open()?,
            filtered: Filtered::new(config.journal.clone(), OWNER)?,
            tun: Arc::new(LinuxTun::create(tun)?),
            state: Arc::new(StateSender::new()),
            uplink: Uplink::default(),
            config,
        };
        if let Err(error) = keeper.set_up().await {
            keeper.tear_down().await;
            return Err(error);
        }
        let closing = watch::Sender::new(false);
        let look = Arc::new(Notify::new());
        Ok(Self {
            tun: keeper.tun.clone(),
            state: keeper.state.clone(),
            keeper: Mutex::new(Some(tokio::spawn(
                keeper.run(closing.subscribe(), Arc::clone(&look)),
            ))),
            closing,
            look,
        })
    }
}

impl Drop for DirectTransport {
    /// The task tears down what it can, if the runtime goes on.
    fn drop(&mut self) {
        self.closing.send_replace(true);
        self.tun.shutdown();
    }
}

#[async_trait]
impl TunnelTransport for DirectTransport {
    fn capabilities(&self) -> TransportCapabilities {
        TransportCapabilities::plain(self.tun.capabilities().mtu)
    }

    fn state(&self) -> StateWatch {
        self.state.watch()
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.tun.try_recv(batch, drops).map_err(error)
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.tun.try_send(batch, drops).map_err(error)
    }

    async fn readable(&self) -> Result<(), TransportError> {
        self.tun.readable().await.map_err(error)
    }

    async fn writable(&self) -> Result<(), TransportError> {
        self.tun.writable().await.map_err(error)
    }

    fn resources(&self) -> Resources {
        let mut resources = Resources::default();
        // The device.
        resources.descriptors = 1;
        // Locked: somebody waits for its end.
        let running = self.keeper.try_lock().map_or(true, |keeper| {
            keeper.as_ref().is_some_and(|task| !task.is_finished())
        });
        resources.tasks = usize::from(running);
        resources
    }

    fn network_changed(&self, _: NetworkEvent) {
        self.look.notify_one();
    }

    async fn close(&self) {
        self.closing.send_replace(true);
        let mut keeper = self.keeper.lock().await;
        if let Some(running) = keeper.as_mut() {
            // A panic in it ended it as well.
            let _ = running.await;
            *keeper = None;
        }
        drop(keeper);
        self.state.set(TransportState::Closed);
    }
}

fn error(error: DeviceError) -> TransportError {
    match error {
        DeviceError::Closed => TransportError::Closed,
        DeviceError::Io(cause) => TransportError::Io(cause),
        other => TransportError::Io(std::io::Error::other(other)),
    }
}

/// Keeps filter, forwarding and state as the uplink needs them.
#[derive(Debug)]
struct Keeper {
    config: DirectConfig,
    netlink: Netlink,
    filtered: Filtered,
    tun: Arc<LinuxTun>,
    state: Arc<StateSender>,
    uplink: Uplink,
}

impl Keeper {
    async fn set_up(&mut self) -> Result<(), DirectError> {
        // The kernel has nothing to say on this interface by itself.
        let quiet = format!(
            "/proc/sys/net/ipv6/conf/{}/addr_gen_mode",
            self.config.interface
        );
        let _ = std::fs::write(quiet, "1");
        let journal = self.config.journal.as_ref();
        record::note_capture(journal, DIRECT, &self.config.capture)?;
        self.look().await?;
        remove_rules(&self.netlink, &self.config.capture).await?;
        for &family in families_of(self.config.capture.ipv6) {
            for role in self.roles(family) {
                let rule = message(family, &self.config.capture, &role);
                self.netlink.add_rule(rule).await?;
            }
        }
        let index = self.tun.index();
        self.netlink.link_up(index).await?;
        for &net in &self.config.addresses {
            if !families_of(true).contains(&Family::of(net.addr())) {
                continue;
            }
            self.netlink
                .add_route(Step::AddRoute(net), net, MAIN_TABLE, Target::Device(index))
                .await?;
        }
        Ok(())
    }

    fn roles(&self, family: Family) -> Vec<Role> {
        let name = &self.config.interface;
        let mut roles = vec![
            Role::FromOnly(Device::Direct, name.clone()),
            Role::From(Device::Direct, name.clone()),
        ];
        let own = self.config.addresses.iter();
        let own = own.filter(|net| Family::of(net.addr()) == family);
        roles.extend(own.map(|net| Role::To(*net)));
        roles
    }

    /// Looks where the uplink is, and follows.
    async fn look(&mut self) -> Result<(), DirectError> {
        let ours = self.config.interface.as_str();
        let captured = ours.strip_suffix('d').unwrap_or(ours);
        let uplink = uplink::look(&self.netlink, &[ours, captured]).await?;
        let (config, table) = (&self.config, table::table(&self.config.capture));
        self.filtered
            .follow::<DirectError>(&config.interface, &uplink.interfaces, &table, |opened| {
                table::commands(config, opened)
            })
            .await?;
        let mtu = self.config.mtu.or(uplink.mtu).unwrap_or(USUAL_MTU);
        let mtu = mtu.max(MIN_MTU);
        if mtu != self.tun.capabilities().mtu {
            self.netlink.set_mtu(self.tun.index(), mtu).await?;
            self.tun.mtu_changed(mtu);
        }
        let addresses = carried(&self.config.addresses, &uplink);
        self.state.set(if addresses.is_empty() {
            TransportState::Down(DownCause::Network("no route to another machine".to_owned()))
        } else {
            TransportState::Up(Arc::new(Assigned {
                dns: self.reachable(&uplink),
                addresses,
                mtu,
                ..Assigned::default()
            }))
        });
        self.uplink = uplink;
        Ok(())
    }

    fn reachable(&self, uplink: &Uplink) -> Vec<IpAddr> {
        let carried = |address: &&IpAddr| match Family::of(**address) {
            Family::V4 => uplink.v4,
            Family::V6 => uplink.v6,
        };
        self.config.dns.iter().filter(carried).copied().collect()
    }

    async fn run(mut self, mut closing: watch::Receiver<bool>, look: Arc<Notify>) {
        let mut failed = false;
        loop {
            tokio::select! {
                // Also an error: the transport is gone.
                _ = closing.wait_for(|closing| *closing) => break,
                () = look.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match self.look().await {
                Err(error) if !failed => {
                    failed = true;
                    tracing::warn!(%error, "the uplink is not followed");
                    let cause = DownCause::Network(error.to_string());
                    self.state.set(TransportState::Down(cause));
                }
                Err(_) => {}
                Ok(()) => failed = false,
            }
            self.look_at_others().await;
        }
        self.tear_down().await;
    }

    /// Tells what somebody else changed of ours. It stays so.
    async fn look_at_others(&mut self) {
        let Some(journal) = &self.config.journal else {
            return;
        };
        // What the kernel does not say now, it says the next time.
        let mut found = self.netlink.missing().await.unwrap_or_default();
        found.extend(self.filtered.forwarding.look());
        found.extend(self.filtered.tables.look().await);
        journal.noticed(OWNER, found);
    }

    /// Undoes as much as it can: forwarding first, filter last. What stays, stays in the journal.
    async fn tear_down(&mut self) {
        match self.filtered.forwarding.close::<DirectError>() {
            Ok(restored) => {
                for change in restored.left {
                    tracing::warn!("left as somebody else made it: {change}");
                }
            }
            Err(error) => tracing::warn!(%error, "forwarding stays on"),
        }
        self.tun.shutdown();
        let capture = &self.config.capture;
        let journal = self.config.journal.as_ref();
        let rules = match remove_rules(&self.netlink, capture).await {
            Ok(_) => record::forget_capture(journal, DIRECT, capture).map_err(ApplyError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = rules {
            tracing::warn!(%error, "rules of the direct transport stay");
        }
        let table = table::table(capture);
        let removed = match nft::run(table.gone().into()).await {
            // Nobody but that program could have made it.
            Ok(()) | Err(NftError::Missing) => self
                .filtered
                .tables
                .gone(&[table])
                .map_err(ApplyError::from),
            Err(error) => Err(ApplyError::Guard(error)),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, "the direct transport's packet filter stays");
        }
        if let Some(journal) = journal {
            journal.noticed(OWNER, Vec::new());
        }
    }
}

/// Removes the transport's policy rules, also those of a former run: how many.
pub(super) async fn remove_rules(
    netlink: &Netlink,
    capture: &CaptureConfig,
) -> Result<usize, ApplyError> {
    let mut removed = 0;
    for &family in families_of(capture.ipv6) {
        for (part, rule) in netlink.rules(family, capture).await? {
            if part == Part::Direct {
                netlink.remove_rule(rule).await?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}
