//! What the daemon changes on this machine, made in one order and undone in the other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vpn_core::{InterfacePlan, TunDevice};
use vpn_tun::dns::RESOLV_CONF;
use vpn_tun::{
    Applier, CaptureConfig, DirectConfig, DnsApply, InterfaceName, Journal, LinuxTun,
    MarkedUnderlay, OnExit, SystemDns, TunConfig,
};

use crate::config::{self, ApplyDns, Config};
use crate::error::{Error, chain, system};

/// How long undoing may take. The kernel answers in milliseconds.
const UNDO_TIMEOUT: Duration = Duration::from_secs(3);

/// Device, capture and DNS. The device exists; the capture stands after [`engage`](Self::engage).
#[derive(Debug)]
pub(crate) struct SystemState {
    device: Arc<LinuxTun>,
    applier: Applier,
    dns: SystemDns,
    underlay: Arc<MarkedUnderlay>,
    capture: CaptureConfig,
    journal: Journal,
}

impl SystemState {
    /// Makes the device. It goes with this value: up to here nothing has to be undone.
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let name = config.interface.name.as_str();
        let device_error = |cause: Box<dyn std::error::Error + Send + Sync>| Error::Device {
            name: name.to_owned(),
            cause,
        };
        let checked = InterfaceName::new(name).map_err(|e| device_error(e.into()))?;
        let device =
            LinuxTun::create(TunConfig::named(checked)).map_err(|e| device_error(e.into()))?;
        let journal = Journal::open(&config.journal).map_err(system("cannot open the journal"))?;
        // Before the file is read: these are the resolvers of the uplink.
        SystemDns::recover(&journal)
            .map_err(system("cannot restore resolv.conf of a former run"))?;
        let capture = CaptureConfig::default().lockdown(config.lockdown);
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
            .with_journal(journal.clone());
        Ok(Self {
            device: Arc::new(device),
            applier,
            dns,
            underlay: Arc::new(underlay),
            capture,
            journal,
        })
    }

    pub(crate) const fn device(&self) -> &Arc<LinuxTun> {
        &self.device
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
        DirectConfig::beside(self.device.name(), self.capture.clone())
            .dns(self.underlay.servers())
            .journal(self.journal.clone())
    }

    /// Engages the capture: from here on nothing goes direct.
    pub(crate) async fn engage(&mut self) -> Result<(), Error> {
        self.applier
            .engage()
            .await
            .map_err(system("cannot engage the capture"))
    }

    /// Brings the system in line with the plan. A failure leaves the capture as it is: what cannot
    /// be addressed is not reachable, and nothing goes direct.
    pub(crate) async fn apply(&mut self, plan: &InterfacePlan) {
        if let Err(error) = self.applier.apply(plan).await {
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
            self.device.mtu_changed(plan.mtu);
        }
        if let Err(error) = self.dns.apply(&plan.dns) {
            tracing::error!("DNS is not as planned: {}", chain(&error));
        }
    }

    /// The network below is another one: who brings it up may have written resolv.conf anew.
    pub(crate) fn follow_dns(&mut self, plan: &InterfacePlan) {
        self.underlay.reread();
        if let Err(error) = self.dns.apply(&plan.dns) {
            tracing::error!("DNS is not as planned: {}", chain(&error));
        }
    }

    /// Undoes everything; with `Block` all but the block itself. Bounded in time.
    pub(crate) async fn undo(mut self, on_exit: config::OnExit) -> Result<(), Error> {
        // The engine did it already, unless it had to be left behind.
        self.device.shutdown();
        let restored = self
            .dns
            .restore()
            .map_err(system("cannot restore resolv.conf"));
        let on_exit = match on_exit {
            config::OnExit::Block => OnExit::Block,
            config::OnExit::Open => OnExit::Open,
        };
        tokio::time::timeout(UNDO_TIMEOUT, self.applier.disengage(on_exit))
            .await
            .map_err(system("cannot undo the capture"))?
            .map_err(system("cannot undo the capture"))?;
        restored.map(drop)
    }
}

const fn dns_apply(apply: ApplyDns) -> DnsApply {
    match apply {
        ApplyDns::Auto => DnsApply::Auto,
        ApplyDns::ResolvConf => DnsApply::ResolvConf,
        ApplyDns::Resolved => DnsApply::Resolved,
        ApplyDns::None => DnsApply::None,
    }
}
