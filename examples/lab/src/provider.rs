//! One region of a VPN provider: a WireGuard server in a namespace of its own, with a site.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::capture::Capture;
use crate::error::LabError;
use crate::in_process::InProcess;
use crate::key::{KeyPair, preshared_base64};
use crate::lab::SHARED_DNS;
use crate::namespace::{Namespace, RuntimeHandle};
use crate::openvpn::{self, OpenVpn, OpenVpnOptions};
use crate::service::Site;
use crate::wireguard_go::WireguardGo;

/// The UDP port every region's server listens on.
pub(crate) const PORT: u16 = 51_820;

/// Largest packet inside the tunnels, in bytes, unless the plan says otherwise.
pub(crate) const TUNNEL_MTU: u16 = 1420;

/// Which program is the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProviderKind {
    /// The SDK's own transport, inside this process: needs no program, and no right to write to
    /// `/run`.
    #[default]
    InProcess,
    /// The distribution's `wireguard-go`, set up by `wg`: somebody else's WireGuard. Needs root.
    WireguardGo,
    /// The distribution's `openvpn`. Needs root.
    OpenVpn(OpenVpnOptions),
}

impl ProviderKind {
    /// The programs it needs.
    pub const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::InProcess => &[],
            Self::WireguardGo => &["wireguard-go", "wg", "setpriv"],
            Self::OpenVpn(_) => &["openvpn", "openssl", "setpriv"],
        }
    }

    /// The key of a daemon's configuration that names its client's file; also its extension is told
    /// by it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::InProcess | Self::WireguardGo => "wireguard",
            Self::OpenVpn(_) => "openvpn",
        }
    }
}

/// What a region is to be.
#[derive(Clone, Debug)]
pub struct RegionPlan {
    /// The name its site answers with; also that of the profile, `NAME.conf`.
    pub name: String,
    /// Tells addresses apart: underlay 192.0.2.2N, own site 203.0.113.2N, own resolver
    /// 198.18.N.53. From 1 to 9.
    pub number: u8,
    /// The address handed out; the server's own is the .1 beside it.
    pub assigned4: Ipv4Addr,
    /// The IPv6 address handed out; `None`: the tunnel carries no IPv6.
    pub assigned6: Option<Ipv6Addr>,
    /// Whether a preshared key is used.
    pub preshared: bool,
    /// Whether the profile names the region's own resolver instead of the one address all have.
    pub own_resolver: bool,
    /// The server.
    pub kind: ProviderKind,
    /// Largest packet inside the tunnel, in bytes, at both ends. Default 1420.
    pub mtu: u16,
    /// Whether the client's file names the MTU. Default yes; else the client has to find it.
    pub mtu_in_profile: bool,
    /// Further addresses of the site, which other regions may have as well: a branch office, say.
    pub also_at: Vec<IpAddr>,
}

impl RegionPlan {
    /// A region that hands out 10.5.0.2 and fd00:5:0::2, as every other one does.
    pub fn new(name: &str, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            number,
            assigned4: Ipv4Addr::new(10, 5, 0, 2),
            assigned6: Some(Ipv6Addr::new(0xfd00, 5, 0, 0, 0, 0, 0, 2)),
            preshared: false,
            own_resolver: false,
            kind: ProviderKind::default(),
            mtu: TUNNEL_MTU,
            mtu_in_profile: true,
            also_at: Vec::new(),
        }
    }

    pub(crate) fn underlay4(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, 20 + self.number)
    }

    pub(crate) fn underlay6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last_group(self.number))
    }

    pub(crate) fn own_dns(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, 53)
    }

    /// The server's address inside the tunnel.
    fn gateway4(&self) -> Ipv4Addr {
        let [a, b, c, _] = self.assigned4.octets();
        Ipv4Addr::new(a, b, c, 1)
    }

    pub(crate) fn gateway6(&self) -> Option<Ipv6Addr> {
        let mut segments = self.assigned6?.segments();
        segments[7] = 1;
        Some(segments.into())
    }

    /// The server's side of the tunnel, in the form `wg setconf` takes.
    pub(crate) fn server_settings(&self, keys: &Keys) -> String {
        format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n\
             [Peer]\nPublicKey = {}\n{}AllowedIPs = {}\n",
            keys.server.private_base64(),
            keys.client.public_base64(),
            keys.preshared_line(),
            self.allowed(),
        )
    }

    /// Puts the server's addresses on its interface and brings that up.
    pub(crate) fn set_up(&self, namespace: &Namespace, interface: &str) -> Result<(), LabError> {
        namespace.add_address(interface, self.gateway4().into(), 16)?;
        if let Some(gateway) = self.gateway6() {
            namespace.add_address(interface, gateway.into(), 64)?;
        }
        namespace.ip(&format!("link set {interface} up mtu {}", self.mtu))
    }

    /// The addresses a packet of the client must carry, as AllowedIPs.
    pub(crate) fn allowed(&self) -> String {
        match self.assigned6 {
            Some(v6) => format!("{}/32, {v6}/128", self.assigned4),
            None => format!("{}/32", self.assigned4),
        }
    }
}

/// Decimal 2N read as a hexadecimal group: 21 is `::21`.
pub(crate) const fn last_group(number: u8) -> u16 {
    0x20 + number as u16
}

/// Where the site that only region `number` has lives.
pub(crate) fn site_of(region: &str, number: u8, resolvers: Vec<IpAddr>, on_lo: bool) -> Site {
    Site {
        region: region.to_owned(),
        also_at: Vec::new(),
        own4: Ipv4Addr::new(203, 0, 113, 20 + number),
        own6: Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, last_group(number)),
        resolvers,
        resolvers_on_lo: on_lo,
    }
}

/// The keys of one region and its client.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) server: KeyPair,
    pub(crate) client: KeyPair,
    pub(crate) preshared: Option<Preshared>,
}

impl Keys {
    fn preshared_line(&self) -> String {
        self.preshared
            .as_ref()
            .map_or(String::new(), |key| format!("PresharedKey = {}\n", key.0))
    }
}

/// A preshared key in the spelling of wg-quick files.
pub(crate) struct Preshared(pub(crate) String);

impl fmt::Debug for Preshared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Preshared(..)")
    }
}

/// What leaves a region by its cable has the region's own address.
const MASQUERADE: &str = "table inet region {
    chain out {
        type nat hook postrouting priority srcnat
        iifname != \"lo\" oifname \"eth0\" masquerade
    }
}
";

#[derive(Debug)]
enum Server {
    InProcess(InProcess),
    WireguardGo(WireguardGo),
    OpenVpn(OpenVpn),
}

/// A running region. Dropping it ends its server and its services.
#[derive(Debug)]
pub struct Provider {
    plan: RegionPlan,
    profile: PathBuf,
    server: Server,
    // Dropped before the namespace: fields go in order.
    _services: RuntimeHandle,
    namespace: Namespace,
}

impl Provider {
    /// Starts the region in `namespace`, whose `eth0` is up and has the underlay addresses, and
    /// writes the client's profile into `folder` (0600).
    pub(crate) fn start(
        plan: RegionPlan,
        namespace: Namespace,
        folder: &Path,
    ) -> Result<Self, LabError> {
        let urandom = |cause| LabError::file("/dev/urandom", cause);
        let keys = Keys {
            server: KeyPair::generate().map_err(urandom)?,
            client: KeyPair::generate().map_err(urandom)?,
            preshared: match plan.preshared {
                true => Some(Preshared(preshared_base64().map_err(urandom)?)),
                false => None,
            },
        };
        let extension = match plan.kind {
            ProviderKind::OpenVpn(_) => "ovpn",
            _ => "conf",
        };
        let profile = folder.join(format!("{}.{extension}", plan.name));
        write_private(&profile, &client_profile(&plan, &keys))?;
        let server = match plan.kind {
            ProviderKind::InProcess => {
                Server::InProcess(InProcess::start(&plan, &keys, &namespace)?)
            }
            ProviderKind::WireguardGo => {
                Server::WireguardGo(WireguardGo::start(&plan, &keys, &namespace, folder)?)
            }
            ProviderKind::OpenVpn(options) => Server::OpenVpn(OpenVpn::start(
                &plan, &profile, &namespace, folder, options,
            )?),
        };
        // What a region offers is reached through its tunnel only.
        namespace.refuse_on(
            "eth0",
            &["203.0.113.0/24", "198.18.0.0/15", "2001:db8:113::/64"],
        )?;
        let resolvers = vec![SHARED_DNS.into(), plan.own_dns().into()];
        // One provider can be reached through another, as on the internet.
        namespace.forward()?;
        namespace.packet_filter(MASQUERADE)?;
        let mut site = site_of(&plan.name, plan.number, resolvers, true);
        site.also_at.clone_from(&plan.also_at);
        let services = site.start(&namespace)?;
        Ok(Self {
            plan,
            profile,
            server,
            _services: services,
            namespace,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// What it was made from.
    pub fn plan(&self) -> &RegionPlan {
        &self.plan
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The client's file: for wg-quick, or for OpenVPN.
    pub fn profile(&self) -> &Path {
        &self.profile
    }

    /// The address its server listens on.
    pub fn endpoint(&self) -> SocketAddr {
        let port = match self.plan.kind {
            ProviderKind::OpenVpn(_) => openvpn::PORT,
            _ => PORT,
        };
        SocketAddr::new(self.plan.underlay4().into(), port)
    }

    /// The process id of its server, if that is a process of its own.
    pub fn server_id(&self) -> Option<u32> {
        match &self.server {
            Server::InProcess(_) => None,
            Server::WireguardGo(server) => Some(server.id()),
            Server::OpenVpn(server) => Some(server.id()),
        }
    }

    /// Kills an OpenVPN server and starts it anew: it knows no session any more.
    pub fn restart(&mut self) -> Result<(), LabError> {
        match &mut self.server {
            Server::OpenVpn(server) => server.restart(&self.namespace),
            _ => Err(LabError::Unknown(format!(
                "a way to restart {}",
                self.plan.name
            ))),
        }
    }

    /// Starts to capture what crosses the tunnel, decrypted.
    pub fn capture(&self) -> Result<Capture, LabError> {
        let interface = match &self.server {
            Server::InProcess(_) => crate::in_process::INTERFACE,
            Server::WireguardGo(server) => server.interface(),
            Server::OpenVpn(_) => openvpn::INTERFACE,
        };
        Capture::start(&self.namespace, interface)
    }

    /// How many packets arrived through the tunnel with a source that was not handed out. They
    /// were dropped.
    pub fn drops(&self) -> Result<u64, LabError> {
        match &self.server {
            Server::InProcess(server) => Ok(server.drops()),
            Server::WireguardGo(server) => server.drops(),
            Server::OpenVpn(server) => server.drops(),
        }
    }
}

fn client_profile(plan: &RegionPlan, keys: &Keys) -> String {
    let mtu = match plan.mtu_in_profile {
        true => format!("MTU = {}\n", plan.mtu),
        false => String::new(),
    };
    let dns = if plan.own_resolver {
        plan.own_dns()
    } else {
        SHARED_DNS
    };
    let everything = match plan.assigned6 {
        Some(_) => "0.0.0.0/0, ::/0",
        None => "0.0.0.0/0",
    };
    format!(
        "# Region {}\n[Interface]\nPrivateKey = {}\nAddress = {}\nDNS = {dns}\n{mtu}\n\
         [Peer]\nPublicKey = {}\n{}AllowedIPs = {everything}\nEndpoint = {}:{PORT}\n\
         PersistentKeepalive = 25\n",
        plan.name,
        keys.client.private_base64(),
        plan.allowed(),
        keys.server.public_base64(),
        keys.preshared_line(),
        plan.underlay4(),
    )
}

/// Writes a file only its owner may read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), LabError> {
    let write = || {
        use std::io::Write;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|cause| LabError::file(path, cause))
}
