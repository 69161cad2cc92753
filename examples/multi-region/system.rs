//! What the daemon changes on this machine, made in one order and undone in the other.

use std::io;
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vpn_core::{Bypass, InterfacePlan, TunDevice};
use vpn_tun::dns::RESOLV_CONF;
use vpn_tun::{
    Applier, CaptureConfig, DirectConfig, DnsApply, InterfaceName, Journal, Leave, LinuxTun,
    MarkedUnderlay, OnExit, RecoverError, Recovered, SystemDns, TunConfig,
};

use crate::config::{self, ApplyDns, Config, Etcd, Offload};
use crate::control::{State, state_of};
use crate::error::{Error, chain, system};
use crate::view;

/// How long undoing may take. The kernel answers in milliseconds.
const UNDO_TIMEOUT: Duration = Duration::from_secs(3);

/// Device, capture and DNS. The device exists; the capture stands after [`engage`](Self::engage).
#[derive(Debug)]
pub(crate) struct SystemState {
    /// The queues of the device: one for each worker.
    queues: Vec<Arc<LinuxTun>>,
    applier: Applier,
    dns: SystemDns,
    underlay: Arc<MarkedUnderlay>,
    capture: CaptureConfig,
    journal: Journal,
    /// What goes around the capture, whatever the plan is.
    ways: Vec<Bypass>,
}

impl SystemState {
    /// Makes the device, which goes with this value, and undoes what a killed run left.
    pub(crate) async fn new(config: &Config) -> Result<Self, Error> {
        let name = config.interface.name.as_str();
        let device_error = |cause: Box<dyn std::error::Error + Send + Sync>| Error::Device {
            name: name.to_owned(),
            cause,
        };
        let checked = InterfaceName::new(name).map_err(|e| device_error(e.into()))?;
        let tun = TunConfig::named(checked).offload(config.interface.offload == Offload::Auto);
        let made = match NonZeroU16::new(config.interface.workers.0 as u16) {
            Some(workers) if workers.get() > 1 => LinuxTun::create_queues(tun, workers),
            _ => LinuxTun::create(tun).map(|device| vec![device]),
        };
        let queues: Vec<_> = made
            .map_err(|e| device_error(e.into()))?
            .into_iter()
            .map(Arc::new)
            .collect();
        let device = &queues[0];
        if config.interface.offload == Offload::Auto && !device.has_offload() {
            tracing::info!("the device has no offload: packets come one by one");
        }
        let journal = Journal::open(&config.journal).map_err(system("cannot open the journal"))?;
        let capture = capture(config);
        // Before the file is read: these are the resolvers of the uplink. The capture is taken over.
        undo_leftovers(&journal, &capture, Leave::Capture).await?;
        let mut underlay =
            MarkedUnderlay::new(capture.mark).own_resolvers(vec![config.dns.resolver]);
        // For the system's own file it knows better: behind a local stub are other resolvers.
        if config.dns.path != Path::new(RESOLV_CONF) {
            underlay = underlay.resolv_conf(&config.dns.path);
        }
        let applier = Applier::new(device.name(), Some(capture.clone()))
            .map_err(system("cannot prepare the capture"))?
            .with_journal(journal.clone());
        let dns = SystemDns::new(dns_apply(config.dns.apply), &config.dns.path)
            .on_interface(device.name().clone())
            .with_journal(journal.clone());
        Ok(Self {
            queues,
            applier,
            dns,
            underlay: Arc::new(underlay),
            capture,
            journal,
            ways: config.etcd.as_ref().map_or_else(Vec::new, Etcd::ways),
        })
    }

    /// The device, by its first queue.
    pub(crate) fn device(&self) -> &Arc<LinuxTun> {
        &self.queues[0]
    }

    /// All queues of the device.
    pub(crate) fn queues(&self) -> &[Arc<LinuxTun>] {
        &self.queues
    }

    /// The sockets below the tunnels.
    pub(crate) const fn underlay(&self) -> &Arc<MarkedUnderlay> {
        &self.underlay
    }

    /// What is captured.
    pub(crate) const fn capture(&self) -> &CaptureConfig {
        &self.capture
    }

    /// What a way past the tunnels is made of: the system's own resolvers are asked through it.
    pub(crate) fn direct(&self) -> DirectConfig {
        DirectConfig::beside(self.device().name(), self.capture.clone())
            .dns(self.underlay.servers())
            .journal(self.journal.clone())
    }

    /// Engages the capture: from here on nothing goes direct.
    pub(crate) async fn engage(&mut self) -> Result<(), Error> {
        self.applier
            .engage()
            .await
            .map_err(system("cannot engage the capture"))?;
        if self.ways.is_empty() {
            return Ok(());
        }
        // Rules may come that way, before any tunnel makes a plan.
        let mut plan = InterfacePlan::default();
        plan.bypass.clone_from(&self.ways);
        let applied = self.applier.apply(&plan).await;
        applied.map_err(system("cannot lead around the capture what has to"))
    }

    /// Brings the system in line with the plan. A failure leaves the capture as it is: what cannot
    /// be addressed is not reachable, and nothing goes direct.
    pub(crate) async fn apply(&mut self, plan: &InterfacePlan) {
        let mut whole = plan.clone();
        whole.bypass.splice(0..0, self.ways.iter().cloned());
        if let Err(error) = self.applier.apply(&whole).await {
            // The step names an address: for the debug level only.
            let cause = std::error::Error::source(&error)
                .map(chain)
                .unwrap_or_default();
            tracing::error!(
                cause,
                "the interface is not as planned; RUST_LOG=debug says more"
            );
            tracing::debug!("the interface is not as planned: {}", chain(&error));
        }
        if plan.mtu != 0 {
            for queue in &self.queues {
                queue.mtu_changed(plan.mtu);
            }
        }
        if let Err(error) = self.dns.apply(&plan.dns).await {
            tracing::error!("DNS is not as planned: {}", chain(&error));
        }
    }

    /// The network below is another one: who brings it up may have written resolv.conf anew.
    pub(crate) async fn follow_dns(&mut self, plan: &InterfacePlan) {
        self.underlay.reread();
        if let Err(error) = self.dns.follow(&plan.dns).await {
            tracing::error!("DNS is not as planned: {}", chain(&error));
        }
    }

    /// Looks whether somebody else changed what is ours. The journal knows it then, and has logged
    /// it; it stays as they made it.
    pub(crate) async fn look(&mut self) {
        if let Err(error) = self.applier.look().await {
            tracing::debug!("cannot look at the interface: {}", chain(&error));
        }
        if let Err(error) = self.dns.look().await {
            tracing::debug!("cannot look at the resolvers: {}", chain(&error));
        }
    }

    /// What is to be undone, and what others changed of it.
    pub(crate) const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Undoes everything; with `Block` all but the block itself. Bounded in time.
    pub(crate) async fn undo(mut self, on_exit: config::OnExit) -> Result<(), Error> {
        // The engine did it already, unless it had to be left behind.
        for queue in &self.queues {
            queue.shutdown();
        }
        let restored = self
            .dns
            .restore()
            .await
            .map_err(system("cannot restore the resolvers"));
        let on_exit = match on_exit {
            config::OnExit::Block => OnExit::Block,
            config::OnExit::Open => OnExit::Open,
        };
        tokio::time::timeout(UNDO_TIMEOUT, self.applier.disengage(on_exit))
            .await
            .map_err(system("cannot undo the capture"))?
            .map_err(system("cannot undo the capture"))?;
        restored?;
        // What a part could not undo itself: it was left behind, say.
        let leave = match on_exit {
            OnExit::Block => Leave::Capture,
            OnExit::Open => Leave::Nothing,
        };
        if !self.journal.is_empty() {
            undo_leftovers(&self.journal, &self.capture, leave).await?;
        }
        Ok(())
    }
}

/// `multi-region recover`: undoes what a killed daemon left, and says what.
pub(crate) async fn recover(config: &Config) -> Result<(), Error> {
    let socket = &config.control.socket;
    let control = |cause| Error::Control {
        path: socket.clone(),
        cause,
    };
    let state = state_of(socket).await.map_err(control)?;
    if state == State::Alive {
        let problem = "a daemon answers there: stop it first, it undoes what it did itself";
        return Err(control(io::Error::other(problem)));
    }
    let journal = Journal::open(&config.journal).map_err(system("cannot open the journal"))?;
    let Recovered { done, failed, .. } =
        vpn_tun::recover(&journal, &capture(config), Leave::Nothing).await;
    let mut said: Vec<String> = done.iter().map(ToString::to_string).collect();
    if state == State::Stale {
        std::fs::remove_file(socket).map_err(control)?;
        said.push(format!("removed {}", socket.display()));
    }
    if said.is_empty() && failed.is_empty() {
        said.push("nothing to undo".to_owned());
    }
    for line in said {
        view::print(&format!("{line}\n"));
    }
    all_undone(failed)
}

/// Undoes what is left, and logs what.
async fn undo_leftovers(
    journal: &Journal,
    capture: &CaptureConfig,
    leave: Leave,
) -> Result<(), Error> {
    let recovered = vpn_tun::recover(journal, capture, leave).await;
    for done in &recovered.done {
        tracing::info!("left by a former run: {done}");
    }
    all_undone(recovered.failed)
}

/// The first error; the others are logged.
fn all_undone(failed: Vec<RecoverError>) -> Result<(), Error> {
    let mut failed = failed.into_iter();
    let first = failed.next();
    for error in failed {
        tracing::error!("{}", chain(&error));
    }
    match first {
        Some(error) => Err(system("something of a former run is not undone")(error)),
        None => Ok(()),
    }
}

fn capture(config: &Config) -> CaptureConfig {
    CaptureConfig::default().lockdown(config.lockdown)
}

const fn dns_apply(apply: ApplyDns) -> DnsApply {
    match apply {
        ApplyDns::Auto => DnsApply::Auto,
        ApplyDns::ResolvConf => DnsApply::ResolvConf,
        ApplyDns::Resolved => DnsApply::Resolved,
        ApplyDns::None => DnsApply::None,
    }
}
