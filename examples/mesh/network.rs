//! Follows the network below: tells the engine, and with it the mesh, of what happens to it.

use std::sync::Arc;

use vpn_routing::engine::EngineHandle;
use vpn_tun::watch::{Notice, Ours};
use vpn_tun::{MarkedUnderlay, NetworkWatch};

/// What is told of it.
pub(crate) struct Follower {
    /// `None` where it cannot be watched: the mesh notices by itself then, later.
    watch: Option<NetworkWatch>,
    engine: EngineHandle,
    underlay: Arc<MarkedUnderlay>,
}

impl Follower {
    /// Starts to watch. The member's own interface is not below it.
    pub(crate) async fn start(
        interface: &str,
        engine: EngineHandle,
        underlay: Arc<MarkedUnderlay>,
    ) -> Self {
        let own = interface.to_owned();
        let ours: Ours = Arc::new(move |name: &str| name == own);
        let watch = match NetworkWatch::start(ours).await {
            Ok(watch) => Some(watch),
            Err(error) => {
                let error = vpn_examples::chain(&error);
                tracing::warn!(error, "the network below is not watched");
                None
            }
        };
        Self {
            watch,
            engine,
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
        // Who brings a network up may have written resolv.conf anew.
        self.underlay.reread();
        if let Notice::Network(event) = notice {
            tracing::info!(%event, "the network below");
            // An engine that has ended is noticed elsewhere.
            let _ = self.engine.network_changed(event).await;
        }
    }
}
