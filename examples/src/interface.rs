//! Touches the device of a member: addresses and networks are configured, the rest is as the engine plans.
//!
//! What is for the networks comes to the device from before the program says that it is ready, and whether
//! its tunnel is up or not: without the routes the system would send it elsewhere, in the clear. The
//! interface and its routes go with the process, however it ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use vpn_core::InterfacePlan;
use vpn_tun::{Applier, ApplyError, InterfaceName, LinuxTun, TunConfig};

use crate::chain;
use crate::error::{Error, system};

/// An interface that is up.
#[derive(Debug)]
pub struct Interface {
    device: Arc<LinuxTun>,
    applier: Applier,
    addresses: BTreeSet<IpNet>,
    networks: Vec<IpNet>,
}

impl Interface {
    /// Makes it, with these addresses and with routes to the networks that have an address's family; without
    /// an address, to all of them: what is for them goes nowhere then. `mtu` in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::System`]: what the system refuses. Nothing is left of it then.
    pub async fn open(
        name: &str,
        addresses: impl IntoIterator<Item = IpNet>,
        networks: Vec<IpNet>,
        mtu: u16,
    ) -> Result<Self, Error> {
        let name = InterfaceName::new(name).map_err(system("interface"))?;
        let device = LinuxTun::create(TunConfig::named(name.clone()).offload(true));
        let device = device.map_err(system(format!("interface {name}")))?;
        let mut applier = Applier::new(&name, None).map_err(system("the interface"))?;
        applier.engage().await.map_err(system("the interface"))?;
        let mut this = Self {
            device: Arc::new(device),
            applier,
            addresses: addresses.into_iter().collect(),
            networks,
        };
        let first = InterfacePlan {
            mtu,
            ..InterfacePlan::default()
        };
        let applied = this.try_apply(first).await;
        applied.map_err(system("addresses and routes of the interface"))?;
        Ok(this)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.device.name().as_str()
    }

    /// The device.
    pub const fn device(&self) -> &Arc<LinuxTun> {
        &self.device
    }

    /// Brings it in line with the engine's plan. What the system refuses is told in the log, and tried again
    /// with the next plan.
    pub async fn apply(&mut self, plan: InterfacePlan) {
        if let Err(error) = self.try_apply(plan).await {
            tracing::error!("the interface is not as planned: {}", chain(&error));
        }
    }

    async fn try_apply(&mut self, mut plan: InterfacePlan) -> Result<(), ApplyError> {
        plan.addresses.extend(&self.addresses);
        // What an address is in, the system leads there by itself.
        let fits = |net: &&IpNet| {
            let mut own = plan.addresses.iter();
            let mut all = plan.addresses.iter();
            !own.any(|own| own.trunc() == **net)
                && (plan.addresses.is_empty()
                    || all.any(|own| own.addr().is_ipv4() == net.addr().is_ipv4()))
        };
        let routes: Vec<IpNet> = self.networks.iter().filter(fits).copied().collect();
        plan.routes.extend(routes);
        let applied = self.applier.apply(&plan).await;
        if plan.mtu != 0 {
            self.device.mtu_changed(plan.mtu);
        }
        applied
    }
}
