//! One VPN provider: a WireGuard server with a network of its own behind it.
//!
//! Its UDP socket is on the loopback of the namespace that all of the show shares, as if that
//! were the internet. Everything behind it is in a namespace of its own, which only this
//! provider's thread is in: there the site has the same address for every provider.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use vpn_core::{DropCounters, DropReason, InterfacePlan, Underlay, UnderlayError};
use vpn_p2p::wg_quick::PrivateKey;
use vpn_p2p::{WgQuick, WireGuardOptions, WireGuardTransport};
use vpn_tun::Applier;

use crate::error::{Doing, StepError};
use crate::{SITE4, SITE6, device, pump, site, space};

/// What every provider assigns to its client: the identical addresses.
const ASSIGNED: &str = "10.5.0.2/32, fd05::2/128";

/// How long a provider may take to start: milliseconds, unless the machine is broken.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running provider. Dropping it ends its thread, and with it its namespace and its TUN.
#[derive(Debug)]
pub(crate) struct Provider {
    profile: WgQuick,
    drops: Arc<Mutex<DropCounters>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Provider {
    /// Starts the provider of a region; call it in the namespace that is to be its internet.
    pub(crate) fn start(region: &'static str, ipv6: bool) -> Result<Self, StepError> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).doing("bind a provider's socket")?;
        let endpoint = socket.local_addr().doing("bind a provider's socket")?;
        let (profile, server) = profiles(region, endpoint)?;
        let drops = Arc::new(Mutex::new(DropCounters::default()));
        let stop = CancellationToken::new();
        let house = House {
            region,
            ipv6,
            server,
            underlay: Arc::new(Prepared(Mutex::new(Some(socket)))),
            drops: drops.clone(),
            stop: stop.clone(),
        };
        let (ready, started) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("provider-{region}"))
            .spawn(move || house.run(&ready))
            .doing("start a provider's thread")?;
        let provider = Self {
            profile,
            drops,
            stop,
            thread: Some(thread),
        };
        started
            .recv_timeout(START_LIMIT)
            .doing("wait for a provider")??;
        Ok(provider)
    }

    /// What the client is given: a wg-quick file, read.
    pub(crate) fn profile(&self) -> WgQuick {
        self.profile.clone()
    }

    /// Packets whose inner source was not the address that was assigned.
    pub(crate) fn refused(&self) -> u64 {
        let drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        drops.get(DropReason::AddressNotAllowed)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// The two ends' files, with new keys: the client's and the server's.
fn profiles(name: &str, endpoint: SocketAddr) -> Result<(WgQuick, WgQuick), StepError> {
    let key = || PrivateKey::generate().doing("make a key");
    let (client, server) = (key()?, key()?);
    let port = endpoint.port();
    let of_client = format!(
        "[Interface]\nPrivateKey = {}\nAddress = {ASSIGNED}\n\
         [Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = {endpoint}\n",
        *client.reveal_base64(),
        server.public(),
    );
    // As at real providers, whatever does not come from the assigned address is refused.
    let of_server = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {port}\n\
         [Peer]\nPublicKey = {}\nAllowedIPs = {ASSIGNED}\n",
        *server.reveal_base64(),
        client.public(),
    );
    let read = |text: &str| WgQuick::parse(name, text).doing("read a wg-quick file");
    Ok((read(&of_client)?, read(&of_server)?))
}

/// What a provider's thread works with.
struct House {
    region: &'static str,
    ipv6: bool,
    server: WgQuick,
    underlay: Arc<Prepared>,
    drops: Arc<Mutex<DropCounters>>,
    stop: CancellationToken,
}

impl House {
    fn run(self, ready: &mpsc::Sender<Result<(), StepError>>) {
        let runtime = space::leave_alone()
            .doing("make a provider's namespace")
            .and_then(|()| {
                let mut builder = tokio::runtime::Builder::new_current_thread();
                builder
                    .enable_all()
                    .build()
                    .doing("start a provider's runtime")
            });
        let ended = runtime.and_then(|runtime| runtime.block_on(self.serve(ready)));
        if let Err(error) = ended {
            // Whoever started it has gone on long ago if it started well.
            let _ = ready.send(Err(error));
        }
    }

    async fn serve(self, ready: &mpsc::Sender<Result<(), StepError>>) -> Result<(), StepError> {
        let tun = device::make("site0")?;
        let mut applier = Applier::new(tun.name(), None).doing("set the provider's device up")?;
        applier
            .engage()
            .await
            .doing("set the provider's device up")?;
        applier
            .apply(&plan(self.ipv6))
            .await
            .doing("set the provider's device up")?;
        let listeners = site::listen(&sites(self.ipv6))
            .await
            .doing("listen as the site")?;
        let options = WireGuardOptions::default();
        let server = WireGuardTransport::new(self.server, self.underlay, options)
            .doing("start the provider's WireGuard")?;
        // Nobody waits any more if this fails.
        let _ = ready.send(Ok(()));
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = site::serve(self.region, listeners) => {}
            () = pump::between(&server, &tun, &self.drops) => {}
        }
        vpn_core::TunDevice::shutdown(&tun);
        vpn_core::TunnelTransport::close(&server).await;
        Ok(())
    }
}

/// Where the site listens.
fn sites(ipv6: bool) -> Vec<SocketAddr> {
    let mut sites = vec![SocketAddr::from((SITE4, 80))];
    if ipv6 {
        sites.push(SocketAddr::from((SITE6, 80)));
    }
    sites
}

/// The site's addresses on the device, and the client behind it.
fn plan(ipv6: bool) -> InterfacePlan {
    let assigned = ASSIGNED.split(", ").filter_map(|net| net.parse().ok());
    let kept = |net: &ipnet::IpNet| ipv6 || net.addr().is_ipv4();
    InterfacePlan {
        addresses: sites(ipv6).iter().map(|site| site.ip().into()).collect(),
        routes: assigned.filter(kept).collect(),
        ..InterfacePlan::default()
    }
}

/// A socket that was made before its user moved to another namespace: sockets stay where they
/// were made.
struct Prepared(Mutex<Option<UdpSocket>>);

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepared")
    }
}

#[async_trait]
impl Underlay for Prepared {
    fn udp(&self, local: SocketAddr) -> Result<UdpSocket, UnderlayError> {
        let failed = |cause| UnderlayError::Socket { local, cause };
        let mut prepared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = prepared.take_if(|socket| {
            socket
                .local_addr()
                .is_ok_and(|addr| addr.is_ipv4() == local.is_ipv4())
        });
        let socket = fits.ok_or_else(|| failed(std::io::ErrorKind::AddrNotAvailable.into()))?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(socket)
    }

    async fn resolve(&self, host: &str, _: u16) -> Result<Vec<SocketAddr>, UnderlayError> {
        Err(UnderlayError::Resolve {
            name: host.to_owned(),
            problem: "a provider asks nobody".to_owned(),
        })
    }
}
