//! What happens to the network below the tunnels, and to the machine: touches the kernel's messages
//! about links, addresses and routes, and its clocks.
//!
//! | File | What it decides or touches |
//! |---|---|
//! | `view` | which difference between two moments matters: pure |
//! | `settle` | when to look, what is told: pure |
//! | `look` | the kernel's tables and messages |
//!
//! A sleep is noticed afterwards, by two clocks of which one stood still: within a second of
//! waking, on every system, with or without a session manager. Nobody says here that a sleep is
//! about to begin, so [`NetworkEvent::Slept`] is never told; a host that knows tells transports
//! itself.

mod look;
pub mod settle;
mod sys;
pub mod view;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::task::JoinHandle;
use vpn_core::NetworkEvent;

use crate::apply::netlink::Netlink;
use crate::apply::{ApplyError, Step};
use settle::Settle;

/// How often the clocks are read.
const CLOCKS_EVERY: Duration = Duration::from_millis(500);

/// The interfaces that are our own, by name.
pub type Ours = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Something that is worth knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// For every transport; addresses of interfaces may be others too.
    Network(NetworkEvent),
    /// Interfaces have other addresses, and no tunnel has to care.
    Addresses,
}

type Messages = futures_util::stream::BoxStream<'static, Message>;
type Message = rtnetlink::packet_core::NetlinkPayload<rtnetlink::packet_route::RouteNetlinkMessage>;

/// Watches the network below, in the network namespace of the thread that started it.
///
/// ```no_run
/// # async fn example(engine: vpn_core::testing::MemoryTransport) -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use vpn_core::TunnelTransport;
/// use vpn_tun::watch::{NetworkWatch, Notice};
///
/// let mut watch = NetworkWatch::start(Arc::new(|name: &str| name == "vpn0")).await?;
/// loop {
///     if let Notice::Network(event) = watch.next().await {
///         engine.network_changed(event);
///     }
/// }
/// # }
/// ```
pub struct NetworkWatch {
    netlink: Netlink,
    driver: JoinHandle<()>,
    messages: Messages,
    ours: Ours,
    settle: Settle,
    clocks: tokio::time::Interval,
}

impl NetworkWatch {
    /// Starts to watch. `ours` says which interfaces belong to tunnels: what happens to them is no
    /// event.
    ///
    /// # Errors
    ///
    /// [`ApplyError`] if the kernel's tables cannot be read.
    pub async fn start(ours: Ours) -> Result<Self, ApplyError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        // Heard before it is looked: what happens in between is a hint.
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(|cause| ApplyError::Netlink {
                step: Step::Connect,
                cause,
            })?;
        let driver = tokio::spawn(connection);
        let netlink = Netlink::open()?;
        let view = look::look(&netlink, &ours).await?;
        let mut clocks = tokio::time::interval(CLOCKS_EVERY);
        clocks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Ok(Self {
            netlink,
            driver,
            messages: messages.map(|(message, _)| message.payload).boxed(),
            ours,
            settle: Settle::new(Instant::now(), view, sys::slept()),
            clocks,
        })
    }

    /// Waits for the next thing that is worth knowing. Cancel-safe. To be called without long
    /// pauses: the kernel's messages wait in memory meanwhile.
    pub async fn next(&mut self) -> Notice {
        loop {
            let due = tokio::time::Instant::from_std(self.settle.next_look());
            tokio::select! {
                Some(payload) = self.messages.next() => {
                    if let Some(broke) = look::hint(&payload, &self.ours, self.settle.view()) {
                        self.settle.hint(Instant::now(), broke);
                    }
                }
                () = tokio::time::sleep_until(due) => {
                    // Cancelled in here, it is still due.
                    let looked = look::look(&self.netlink, &self.ours).await;
                    let now = Instant::now();
                    let notice = match looked {
                        Ok(view) => self.settle.seen(now, view),
                        Err(error) => {
                            // A table that changes while it is read, for one.
                            tracing::debug!(%error, "the network was not looked at");
                            self.settle.unseen(now);
                            None
                        }
                    };
                    if let Some(notice) = notice {
                        return notice;
                    }
                }
                _ = self.clocks.tick() => {
                    if let Some(notice) = self.settle.slept(Instant::now(), sys::slept()) {
                        return notice;
                    }
                }
            }
        }
    }
}

impl Drop for NetworkWatch {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for NetworkWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkWatch")
            .field("settle", &self.settle)
            .finish_non_exhaustive()
    }
}
