//! Follows the network below the tunnels: tells the engine of what happens to it, and has rules and
//! resolvers be those of the network that is there.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use vpn_core::NetworkEvent;
use vpn_resilience::supervise::SupervisorError;
use vpn_routing::engine::EngineHandle;
use vpn_tun::direct::device_beside;
use vpn_tun::watch::{Notice, Ours};
use vpn_tun::{ApplyError, InterfaceName, MarkedUnderlay, NetworkWatch};

use crate::config::Config;
use crate::host;
use crate::kept::Kept;
use crate::policy::Policy;
use crate::provider;

/// Which interfaces belong to the daemon: its device, the way past the tunnels, and those of
/// tunnels that other programs carry.
pub(crate) fn ours(device: &InterfaceName, config: &Config) -> Ours {
    let mut own = vec![device.to_string(), device_beside(device).to_string()];
    let attached = config.tunnel.values();
    own.extend(attached.filter_map(|tunnel| tunnel.interface.clone()));
    Arc::new(move |name: &str| {
        own.iter().any(|ours| ours == name) || name.starts_with(provider::INTERFACES)
    })
}

/// Notices that wait to be followed: following takes a moment, and the next look sees the same.
const NOTICES: usize = 16;

/// What is told of it, and to whom.
pub(crate) struct Follower {
    notices: mpsc::Receiver<Notice>,
    ours: Ours,
    engine: EngineHandle,
    policy: Policy,
    recompile: Arc<Notify>,
    underlay: Arc<MarkedUnderlay>,
}

impl Follower {
    /// Starts to watch. Where that fails, it is tried again, and tunnels notice by themselves
    /// meanwhile, later.
    pub(crate) async fn start(
        ours: Ours,
        engine: EngineHandle,
        policy: Policy,
        recompile: Arc<Notify>,
        underlay: Arc<MarkedUnderlay>,
        kept: &Kept,
    ) -> Result<Self, SupervisorError> {
        let (tell, notices) = mpsc::channel(NOTICES);
        // The first one watches before anybody is told that the daemon is ready.
        let mut first = Some(watch(&ours).await);
        let whose = Arc::clone(&ours);
        kept.task("network", move |stop| {
            let (first, tell, ours) = (first.take(), tell.clone(), Arc::clone(&whose));
            async move {
                let missed = first.is_none();
                let watch = match first {
                    Some(watch) => watch?,
                    None => watch(&ours).await?,
                };
                stop.run_until_cancelled(tell_of(watch, missed, tell)).await;
                Ok::<(), ApplyError>(())
            }
        })?;
        Ok(Self {
            notices,
            ours,
            engine,
            policy,
            recompile,
            underlay,
        })
    }

    /// Waits for something to follow. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Notice {
        match self.notices.recv().await {
            Some(notice) => notice,
            None => std::future::pending().await,
        }
    }

    /// Follows it.
    pub(crate) async fn follow(&self, notice: Notice) {
        if self.policy.look_at_interfaces() {
            self.recompile.notify_one();
        }
        let networks = host::networks(&self.policy.get().interfaces, &*self.ours);
        // An engine that has ended is noticed elsewhere.
        let _ = self
            .engine
            .set_host(networks, self.underlay.servers())
            .await;
        if let Notice::Network(event) = notice {
            tracing::info!(%event, "the network below");
            let _ = self.engine.network_changed(event).await;
        }
    }
}

async fn watch(ours: &Ours) -> Result<NetworkWatch, ApplyError> {
    let watch = NetworkWatch::start(Arc::clone(ours)).await;
    if let Err(error) = &watch {
        let error = crate::error::chain(error);
        tracing::warn!(error, "the network below is not watched");
    }
    watch
}

/// Tells what happens, for ever. What happened while nobody watched is not known, so the network counts as
/// another one then.
async fn tell_of(mut watch: NetworkWatch, missed: bool, tell: mpsc::Sender<Notice>) {
    let mut notice = match missed {
        true => Notice::Network(NetworkEvent::Changed),
        false => watch.next().await,
    };
    // Nobody follows any more when the daemon ends.
    while tell.send(notice).await.is_ok() {
        notice = watch.next().await;
    }
}
