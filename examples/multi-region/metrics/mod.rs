//! `metrics`: what Prometheus reads of the daemon.

mod families;

use std::net::SocketAddr;

use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::report::Reporter;

/// The listening end.
#[derive(Debug)]
pub(crate) struct Listener(vpn_examples::metrics::Listener);

impl Listener {
    /// Binds the address, which is one of this host.
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let bound = vpn_examples::metrics::Listener::bind(address).await;
        bound
            .map(Self)
            .map_err(|cause| Error::Metrics { address, cause })
    }

    /// Answers until `shutdown`; again, if it is called again.
    pub(crate) async fn serve(&self, reporter: Reporter, shutdown: CancellationToken) {
        let tell = move || {
            let reporter = reporter.clone();
            async move { reporter.metrics().await.map_err(|gone| gone.to_string()) }
        };
        self.0.serve(tell, shutdown).await;
    }
}
