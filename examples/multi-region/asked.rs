//! Where the daemon is asked what it does: the control socket, and metrics.

use std::sync::Arc;

use vpn_resilience::supervise::SupervisorError;

use crate::control;
use crate::error::Error;
use crate::kept::Kept;
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

    /// Answers until `kept` stops, which closes them.
    pub(crate) fn serve(self, reporter: &Reporter, kept: &Kept) -> Result<(), SupervisorError> {
        let (control, asks) = (Arc::new(self.control), reporter.clone());
        kept.service("control", move |stop| {
            let (control, reporter) = (Arc::clone(&control), asks.clone());
            async move { control.serve(reporter, stop).await }
        })?;
        let Some(metrics) = self.metrics else {
            return Ok(());
        };
        let (metrics, asks) = (Arc::new(metrics), reporter.clone());
        kept.service("metrics", move |stop| {
            let (metrics, reporter) = (Arc::clone(&metrics), asks.clone());
            async move { metrics.serve(reporter, stop).await }
        })
    }
}
