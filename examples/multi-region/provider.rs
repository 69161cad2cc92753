//! What carries a tunnel: a provider's file, read and checked, and how it is started.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use vpn_core::TunnelTransport;
use vpn_examples::mesh::{Configured, Member};
use vpn_p2p::WgQuick;
use vpn_p2p::mesh::{Identity, MeshTransport, NodeConfig};
use vpn_p2p::wg_quick::WgQuickError;
use vpn_p2p::wireguard::WireGuardTransport;
use vpn_tun::external::{ExternalConfig, ExternalTransport};
use vpn_tun::openvpn::{Credentials, OpenVpnConfig, OpenVpnTransport, Profile};
use vpn_tun::{CaptureConfig, InterfaceName, Journal, MarkedUnderlay};

use crate::config::{self, Tunnel};
use crate::error::Error;
use crate::kept::Kept;

/// A tunnel, ready to be started.
#[derive(Debug)]
pub(crate) enum Provider {
    WireGuard(Box<WgQuick>),
    OpenVpn(Box<OpenVpnConfig>),
    Interface(Box<ExternalConfig>),
    Mesh(Box<Mesh>),
}

/// A member's file, read.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    node: NodeConfig,
    identity: Identity,
    configured: Configured,
}

impl Provider {
    /// Reads the files of a tunnel; what the configuration says is put in place of what they say.
    pub(crate) fn read(name: &str, said: &Tunnel) -> Result<Self, Error> {
        if let Some(path) = &said.wireguard {
            return Self::wireguard(name, path, said);
        }
        if let Some(path) = &said.mesh {
            return Self::mesh(path);
        }
        if let Some(interface) = &said.interface {
            // `problem` has refused what is no name.
            let interface = InterfaceName::new(interface.as_str());
            let interface = interface.map_err(|cause| Error::Provider {
                tunnel: name.to_owned(),
                key: "interface",
                cause: cause.into(),
            })?;
            return Ok(Self::interface(interface, said));
        }
        let path = said.openvpn.as_deref().unwrap_or(Path::new(""));
        let failed =
            |key: &'static str, cause: Box<dyn std::error::Error + Send + Sync>| Error::Provider {
                tunnel: name.to_owned(),
                key,
                cause,
            };
        let profile = Profile::read(path).map_err(|cause| failed("openvpn", cause.into()))?;
        if profile.asks_password() && said.auth.is_none() {
            let problem = "the profile wants a user and a password, and no file beside it holds them: name \
                 one with auth";
            return Err(failed("openvpn", problem.into()));
        }
        let interface = interface_of(name).map_err(|cause| failed("openvpn", cause.into()))?;
        let mut config =
            OpenVpnConfig::new(profile, interface).no_answer_after(said.no_answer_after());
        if let Some(path) = &said.auth {
            let read = Credentials::read(path).map_err(|cause| failed("auth", cause.into()))?;
            config = config.credentials(read);
        }
        if let Some(dns) = &said.dns {
            config = config.dns(dns.clone());
        }
        if let Some(mtu) = said.mtu() {
            config = config.mtu(mtu);
        }
        Ok(Self::OpenVpn(Box::new(config)))
    }

    fn mesh(path: &Path) -> Result<Self, Error> {
        let member = Member::read(path)?;
        Ok(Self::Mesh(Box::new(Mesh {
            node: member.node(path)?,
            identity: member.identity(path)?,
            configured: Configured::from(&member),
        })))
    }

    fn interface(name: InterfaceName, said: &Tunnel) -> Self {
        let mut config = ExternalConfig::new(name);
        if let Some(addresses) = &said.addresses {
            config = config.addresses(addresses.clone());
        }
        if let Some(dns) = &said.dns {
            config = config.dns(dns.clone());
        }
        if let Some(mtu) = said.mtu() {
            config = config.mtu(mtu);
        }
        Self::Interface(Box::new(config))
    }

    fn wireguard(name: &str, path: &Path, said: &Tunnel) -> Result<Self, Error> {
        let failed = |cause: WgQuickError| Error::Provider {
            tunnel: name.to_owned(),
            key: "wireguard",
            cause: cause.into(),
        };
        config::regular(path).map_err(|cause| {
            let path = path.to_owned();
            failed(WgQuickError::Read { path, cause })
        })?;
        let mut file = WgQuick::read(path).map_err(failed)?;
        if let Some(dns) = &said.dns {
            file.interface.dns.clone_from(dns);
        }
        if let Some(mtu) = said.mtu() {
            file.interface.mtu = Some(mtu);
        }
        Ok(Self::WireGuard(Box::new(file)))
    }

    /// Starts it. Of a mesh more is told than a tunnel tells.
    pub(crate) fn start(
        &self,
        name: &str,
        said: &Tunnel,
        underlay: &Arc<MarkedUnderlay>,
        capture: &CaptureConfig,
        journal: &Journal,
        kept: &Kept,
    ) -> Result<Arc<dyn TunnelTransport>, Error> {
        let underlay = Arc::clone(underlay);
        match self {
            Self::WireGuard(file) => {
                let file = file.as_ref().clone();
                let transport = WireGuardTransport::new(file, underlay, said.transport());
                transport
                    .map(|transport| Arc::new(transport) as Arc<dyn TunnelTransport>)
                    .map_err(|cause| Error::Tunnel {
                        tunnel: name.to_owned(),
                        cause,
                    })
            }
            Self::OpenVpn(config) => {
                let config = config.as_ref().clone().mark(capture.mark);
                let config = config.journal(journal.clone());
                Ok(Arc::new(OpenVpnTransport::start(config, underlay)))
            }
            Self::Interface(config) => {
                let config = config.as_ref().clone().journal(journal.clone());
                Ok(Arc::new(ExternalTransport::start(config)))
            }
            Self::Mesh(mesh) => {
                let Mesh {
                    node,
                    identity,
                    configured,
                } = mesh.as_ref().clone();
                let transport = MeshTransport::start(node, identity, underlay);
                let transport = transport.map_err(|cause| Error::Provider {
                    tunnel: name.to_owned(),
                    key: "mesh",
                    cause: cause.into(),
                })?;
                let transport = Arc::new(transport);
                kept.mesh(name, &transport, configured);
                Ok(transport)
            }
        }
    }

    /// Its MTU, if a file or the configuration says one.
    pub(crate) fn mtu(&self) -> Option<u16> {
        match self {
            Self::WireGuard(file) => file.interface.mtu,
            Self::OpenVpn(config) => config.said_mtu(),
            Self::Interface(config) => config.said_mtu(),
            Self::Mesh(mesh) => Some(mesh.node.mtu),
        }
    }

    /// What is known before it connects: addresses.
    pub(crate) fn addresses(&self) -> &[IpNet] {
        match self {
            Self::WireGuard(file) => &file.interface.addresses,
            Self::OpenVpn(_) => &[],
            Self::Interface(config) => config.said_addresses().unwrap_or_default(),
            Self::Mesh(mesh) => &mesh.node.member.addresses,
        }
    }

    /// Its resolvers, if they are known before it connects.
    pub(crate) fn dns(&self) -> Option<&[IpAddr]> {
        match self {
            Self::WireGuard(file) => Some(&file.interface.dns),
            Self::OpenVpn(config) => config.said_dns(),
            Self::Interface(config) => Some(config.said_dns()),
            // Its resolvers would be members; no file names any.
            Self::Mesh(_) => Some(&[]),
        }
    }

    /// What its file says that is not followed.
    pub(crate) fn warnings(&self) -> Vec<String> {
        match self {
            Self::WireGuard(file) => file.warnings.iter().map(ToString::to_string).collect(),
            Self::OpenVpn(_) | Self::Interface(_) | Self::Mesh(_) => Vec::new(),
        }
    }

    /// Whether it takes over an interface that it did not make.
    pub(crate) const fn is_taken_over(&self) -> bool {
        matches!(self, Self::Interface(_))
    }

    /// Whether another one like it can start only when this one is gone: they share a port or an
    /// interface.
    pub(crate) fn is_exclusive(&self) -> bool {
        match self {
            Self::WireGuard(file) => file.interface.listen_port.is_some(),
            // Two of one identity would take the hub from each other.
            Self::OpenVpn(_) | Self::Interface(_) | Self::Mesh(_) => true,
        }
    }
}

/// How the interfaces of tunnels begin that other programs carry.
pub(crate) const INTERFACES: &str = "ovpn-";

/// The interface of a tunnel that another program runs: [`INTERFACES`] and the tunnel's name, which is
/// cut to what the kernel takes, with a hash that tells it from others.
fn interface_of(tunnel: &str) -> Result<InterfaceName, vpn_tun::NameError> {
    use std::hash::{Hash as _, Hasher as _};
    /// Without the final NUL of `IFNAMSIZ`.
    const LONGEST: usize = 15;
    let mut name = format!("{INTERFACES}{tunnel}");
    if name.len() > LONGEST {
        let mut hasher = std::hash::DefaultHasher::new();
        tunnel.hash(&mut hasher);
        // Tunnels' names are ASCII.
        name.truncate(LONGEST - 7);
        name.push_str(&format!("-{:06x}", hasher.finish() & 0xff_ffff));
    }
    InterfaceName::new(name)
}
