//! Where the daemon is asked what it does: the control socket, and metrics.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::control;
use crate::error::Error;
use crate::metrics;
use crate::plan::Loaded;
use crate::report::Reporter;

/// The listening ends.
#[derive(Debug)]
pub(crate) struct Asked {
    control: control::Listener,
    metrics: Option<metrics::Listener>,
}

impl Asked {
    /// Binds them all, before anything of the system is touched.
    pub(crate) async fn bind(loaded: &Loaded) -> Result<Self, Error> {
        let control = control::Listener::bind(&loaded.config.control.socket).await?;
        let metrics = match loaded.config.metrics {
            Some(address) => Some(metrics::Listener::bind(address).await?),
            None => None,
        };
        Ok(Self { control, metrics })
    }

    /// Answers until `shutdown`.
    pub(crate) fn serve(self, reporter: &Reporter, shutdown: &CancellationToken) -> JoinSet<()> {
        let mut answering = JoinSet::new();
        answering.spawn(self.control.serve(reporter.clone(), shutdown.clone()));
        if let Some(metrics) = self.metrics {
            answering.spawn(metrics.serve(reporter.clone(), shutdown.clone()));
        }
        answering
    }
}
