//! What the show runs on: the same for the real world and the simulated one.

use std::fmt::Debug;

use tokio::sync::mpsc;

use crate::circuit::Circuit;
use crate::report::Report;

/// Reports that may wait to be judged; apps wait beyond that.
pub(crate) const REPORTS: usize = 256;

/// Something an app told.
#[derive(Debug)]
pub(crate) enum Told {
    /// How one connection went.
    Report(Report),
    /// The app has ended, which it never should by itself.
    Ended(String),
}

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Stage {
    /// One line that says what is real and what is not.
    pub(crate) title: String,
    /// The engine.
    pub(crate) circuit: Circuit,
    /// What the apps tell, with the number of the app.
    pub(crate) reports: mpsc::Receiver<(usize, Told)>,
    /// Apps and providers. Dropping them leaves nothing behind.
    pub(crate) props: Box<dyn Props>,
}

/// Apps and providers of a stage.
pub(crate) trait Props: Debug {
    /// Ends the apps and waits until they are gone.
    fn stop_apps(&mut self);

    /// Packets this region's provider refused since their inner source was not the address it had
    /// assigned.
    fn refused(&self, region: usize) -> u64;
}
