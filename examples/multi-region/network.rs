//! Follows the network below the tunnels: tells the engine of what happens to it, and has rules and
//! resolvers be those of the network that is there.

use std::sync::Arc;

use tokio::sync::Notify;
use vpn_routing::engine::EngineHandle;
use vpn_tun::direct::device_beside;
use vpn_tun::watch::{Notice, Ours};
use vpn_tun::{InterfaceName, MarkedUnderlay, NetworkWatch};

use crate::config::Config;
use crate::host;
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

/// What is told of it, and to whom.
pub(crate) struct Follower {
    watch: Option<NetworkWatch>,
    ours: Ours,
    engine: EngineHandle,
    policy: Policy,
    recompile: Arc<Notify>,
    underlay: Arc<MarkedUnderlay>,
}

impl Follower {
    /// Starts to watch. Where that fails, tunnels notice by themselves, later.
    pub(crate) async fn start(
        ours: Ours,
        engine: EngineHandle,
        policy: Policy,
        recompile: Arc<Notify>,
        underlay: Arc<MarkedUnderlay>,
    ) -> Self {
        let watch = NetworkWatch::start(Arc::clone(&ours)).await;
        if let Err(error) = &watch {
            let error = crate::error::chain(error);
            tracing::warn!(error, "the network below is not watched");
        }
        Self {
            watch: watch.ok(),
            ours,
            engine,
            policy,
            recompile,
            underlay,
        }
    }

    /// Waits for something to follow. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Notice {
        match &mut self.watch {
            Some(watch) => watch.next().await,
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
