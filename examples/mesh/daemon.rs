//! What hub and member have in common as daemons: requests, signals.

use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Error;

/// What a control socket is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// How do you stand?
    Status,
    /// Connect with this peer (its key), whether there is a packet for it or not.
    Connect(crate::config::Key),
}

/// Signals that end a daemon, or have it read its configuration again.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// A terminal that is closed must not leave anything behind either.
    hangup: Signal,
}

impl Signals {
    /// From here on they wait to be obeyed.
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(Error::Runtime)?,
            terminate: signal(SignalKind::terminate()).map_err(Error::Runtime)?,
            hangup: signal(SignalKind::hangup()).map_err(Error::Runtime)?,
        })
    }

    /// Until one came.
    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    /// Until one came that ends it. SIGHUP does not: it means that the configuration is another one.
    pub(crate) async fn received_but_hangup(&mut self, mut reload: impl FnMut()) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => reload(),
            }
        }
    }
}
