//! The real world: providers in namespaces of their own, a TUN, and apps as processes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use vpn_core::{TransportState, TunnelTransport};
use vpn_p2p::{WireGuardOptions, WireGuardTransport};
use vpn_routing::engine::EngineHandle;
use vpn_routing::owner::LinuxOwners;
use vpn_tun::{Applier, CaptureConfig, MarkedUnderlay};

use crate::circuit::{Circuit, REGIONS};
use crate::error::{Doing, StepError};
use crate::fleet::{Executables, Fleet};
use crate::provider::Provider;
use crate::stage::{Props, REPORTS, Stage};
use crate::{SITE4, SITE6, device};

/// How long all tunnels may take to come up: a handshake over loopback takes a millisecond.
const UP_LIMIT: Duration = Duration::from_secs(10);

/// Between two looks whether they are.
const UP_POLL: Duration = Duration::from_millis(10);

/// Starts the real world in the namespaces that were made; `spaces` says which.
pub(crate) async fn start(spaces: &str) -> Result<Stage, StepError> {
    let loopback = "lo".parse().doing("name the loopback")?;
    let mut loopback = Applier::new(&loopback, None).doing("set the loopback up")?;
    loopback.engage().await.doing("set the loopback up")?;
    let ipv6 = Path::new("/proc/thread-self/net/if_inet6").exists();

    let providers: Vec<Provider> = REGIONS
        .into_iter()
        .map(|region| Provider::start(region, ipv6))
        .collect::<Result<_, _>>()?;
    let executables = Executables::make()?;

    let tun = Arc::new(device::make("vpn0")?);
    let capture = CaptureConfig::default();
    let underlay = Arc::new(MarkedUnderlay::new(capture.mark));
    let mut applier = Applier::new(tun.name(), Some(capture)).doing("set the device up")?;
    applier.engage().await.doing("capture the traffic")?;
    let owners = Arc::new(LinuxOwners::new(tun.index()).doing("look up owners")?);
    let mut tunnels: Vec<Arc<dyn TunnelTransport>> = Vec::new();
    for provider in &providers {
        let options = WireGuardOptions::default();
        let transport = WireGuardTransport::new(provider.profile(), underlay.clone(), options)
            .doing("make a tunnel")?;
        tunnels.push(Arc::new(transport));
    }
    let circuit = Circuit::start(tun, owners, tunnels, executables.paths()).await?;

    let follower = tokio::spawn(follow(circuit.handle().clone(), applier));
    let up = timeout(UP_LIMIT, all_up(circuit.handle(), &follower)).await;
    up.doing("bring the tunnels up")??;

    let mut sites = vec![SocketAddr::from((SITE4, 80))];
    if ipv6 {
        sites.push(SocketAddr::from((SITE6, 80)));
    }
    let (told, reports) = mpsc::channel(REPORTS);
    let fleet = Fleet::start(executables.paths(), &sites, &told)?;
    let families = if ipv6 { "IPv4 and IPv6" } else { "IPv4" };
    Ok(Stage {
        title: format!("real: WireGuard and a TUN in {spaces}; apps are processes; {families}"),
        circuit,
        reports,
        props: Box::new(Real {
            fleet,
            follower,
            providers,
            _executables: executables,
        }),
    })
}

/// Fields are dropped in this order: apps first, their executables last.
#[derive(Debug)]
struct Real {
    fleet: Fleet,
    follower: JoinHandle<Result<(), StepError>>,
    providers: Vec<Provider>,
    _executables: Executables,
}

impl Props for Real {
    fn stop_apps(&mut self) {
        self.fleet.stop();
    }

    fn refused(&self, region: usize) -> u64 {
        self.providers.get(region).map_or(0, Provider::refused)
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// Makes the device look as the engine plans, now and whenever that changes. What it did goes
/// with the namespace.
async fn follow(engine: EngineHandle, mut applier: Applier) -> Result<(), StepError> {
    let mut plan = engine.plan();
    loop {
        let wanted = plan.borrow_and_update().clone();
        applier.apply(&wanted).await.doing("set the device up")?;
        if plan.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Waits until every tunnel's provider has answered and the device has its address.
async fn all_up(
    engine: &EngineHandle,
    follower: &JoinHandle<Result<(), StepError>>,
) -> Result<(), StepError> {
    loop {
        let status = engine.status().await.doing("ask the engine")?;
        let up = |state: &TransportState| matches!(state, TransportState::Up(_));
        let all = status.tunnels.iter().all(|tunnel| up(&tunnel.state));
        if follower.is_finished() {
            return Err("it failed before the tunnels were up").doing("set the device up");
        }
        if all && addresses_are_there(&status.plan) {
            return Ok(());
        }
        sleep(UP_POLL).await;
    }
}

/// Whether the kernel has the planned addresses: an address can be bound once it is there.
fn addresses_are_there(plan: &vpn_core::InterfacePlan) -> bool {
    !plan.addresses.is_empty()
        && plan
            .addresses
            .iter()
            .all(|net| std::net::UdpSocket::bind((net.addr(), 0)).is_ok())
}
