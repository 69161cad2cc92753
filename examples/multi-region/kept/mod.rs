//! What keeps the daemon's parts alive: tasks that are started again, breakers of tunnels and of where
//! rules are written; and what there is to tell of them.
//!
//! The engine is not among the tasks: its tables are gone with it, so the daemon ends with it, and the
//! capture blocks. What tunnels get and what not, and why, is said in [`tunnel`](self::tunnel).

mod feed;
mod mesh;
mod source;
mod tunnel;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio_util::sync::CancellationToken;
use vpn_core::metrics::Snapshot;
use vpn_resilience::BreakerConfig;
use vpn_resilience::supervise::{
    Supervisor, SupervisorConfig, SupervisorError, SupervisorReport, TaskConfig,
};

pub(crate) use feed::Feed;
use mesh::Meshed;
use source::Source;
use tunnel::Held;

/// Keeps parts of the daemon alive. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Kept(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    breaker: BreakerConfig,
    supervisor: Supervisor,
    /// Ends calls that are being tried again.
    stop: CancellationToken,
    /// With their names, in the order they were made. One that the engine let go of is forgotten; until
    /// then one that is to take its place is not told of.
    tunnels: Mutex<Vec<(String, Weak<Held>)>>,
    sources: Mutex<BTreeMap<&'static str, Arc<Source>>>,
    meshes: Mutex<Vec<Meshed>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    /// Nothing yet. Breakers are like this one.
    pub(crate) fn new(breaker: BreakerConfig) -> Self {
        Self(Arc::new(Shared {
            breaker,
            supervisor: Supervisor::new(SupervisorConfig::default()),
            stop: CancellationToken::new(),
            tunnels: Mutex::default(),
            sources: Mutex::default(),
            meshes: Mutex::default(),
        }))
    }

    /// Keeps a task running until [`stop`](Self::stop). One that ends without an error is done.
    pub(crate) fn task<T, E>(
        &self,
        name: &str,
        make: impl FnMut(CancellationToken) -> T + Send + 'static,
    ) -> Result<(), SupervisorError>
    where
        T: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + 'static,
    {
        self.0.supervisor.spawn(name, TaskConfig::default(), make)
    }

    /// The same for one that cannot fail.
    pub(crate) fn service<T>(
        &self,
        name: &str,
        mut make: impl FnMut(CancellationToken) -> T + Send + 'static,
    ) -> Result<(), SupervisorError>
    where
        T: Future<Output = ()> + Send + 'static,
    {
        self.task(name, move |stop| {
            let work = make(stop);
            async move {
                work.await;
                Ok::<(), Infallible>(())
            }
        })
    }

    /// Ends all tasks, in less than a second. What they held is let go of.
    pub(crate) async fn stop(&self) {
        self.0.stop.cancel();
        let stopped = self.0.supervisor.stop().await;
        if stopped.cut_off + stopped.stuck > 0 {
            tracing::warn!(?stopped, "tasks did not end in time");
        }
    }

    /// How tasks fare.
    pub(crate) fn tasks(&self) -> SupervisorReport {
        self.0.supervisor.report()
    }

    /// Puts everything it keeps alive into a snapshot.
    pub(crate) fn measure(&self, into: &mut Snapshot) {
        let mut tunnels = lock(&self.0.tunnels);
        tunnels.retain(|(_, held)| held.strong_count() > 0);
        let mut in_force = BTreeMap::new();
        for (name, held) in &*tunnels {
            if let Some(held) = held.upgrade() {
                in_force.entry(name.clone()).or_insert(held);
            }
        }
        drop(tunnels);
        for (name, held) in in_force {
            let status = held.with_guard(|breaker| breaker.status());
            status.measure(&format!("tunnel.{name}"), into);
        }
        for (name, source) in &*lock(&self.0.sources) {
            source.measure(&format!("rules.{name}"), into);
        }
        self.tasks().measure(into);
    }
}
