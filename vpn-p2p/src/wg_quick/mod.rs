//! The provider's wg-quick file, read unchanged.
//!
//! What `wg-quick(8)` and `wg(8)` understand is understood; what would run commands or change
//! the machine (`PostUp`, `Table`, …) is reported in [`WgQuick::warnings`] and never done. Parsing
//! is pure: [`WgQuick::parse`] takes the text. [`WgQuick::read`] is the only part that touches a
//! file.
//!
//! ```
//! use vpn_p2p::WgQuick;
//!
//! let config = WgQuick::parse("uk.conf", "
//!     [Interface]
//!     PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
//!     Address = 10.5.0.2/32, fd00::2/128   # both families
//!     DNS = 10.5.0.1
//!     PostUp = iptables -A FORWARD -j ACCEPT
//!     [Peer]
//!     PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
//!     AllowedIPs = 0.0.0.0/0, ::/0
//!     Endpoint = uk.example.net:51820
//! ")?;
//! assert_eq!(config.interface.addresses.len(), 2);
//! assert_eq!(config.warnings.len(), 1); // PostUp: reported, not run
//! # Ok::<(), vpn_p2p::wg_quick::WgQuickError>(())
//! ```

mod error;
mod key;
mod parse;

use std::fmt;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ipnet::IpNet;

pub use error::WgQuickError;
pub use key::{KeyError, PresharedKey, PrivateKey, PublicKey};

/// A wg-quick file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WgQuick {
    /// The `[Interface]` section.
    pub interface: Interface,
    /// The `[Peer]` sections, in order; at least one.
    pub peers: Vec<Peer>,
    /// What was not taken over, in the order of the file.
    pub warnings: Vec<Warning>,
}

/// This end.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Interface {
    /// Our key.
    pub private_key: PrivateKey,
    /// Our addresses inside the tunnel. A bare address is a `/32` or `/128`.
    pub addresses: Vec<IpNet>,
    /// Resolvers to ask through the tunnel.
    pub dns: Vec<IpAddr>,
    /// Search domains (the entries of `DNS` that are no addresses).
    pub search: Vec<String>,
    /// Largest IP packet inside the tunnel, in bytes, if the file says.
    pub mtu: Option<u16>,
    /// UDP port to listen on, if the file says; else any.
    pub listen_port: Option<u16>,
}

/// The other end.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Peer {
    /// Its key.
    pub public_key: PublicKey,
    /// A second secret, if both ends have one.
    pub preshared_key: Option<PresharedKey>,
    /// Addresses that are behind this peer: packets to them go to it, and only packets from them
    /// are accepted from it. Empty: none.
    pub allowed_ips: Vec<IpNet>,
    /// Where it is, if known; else it is waited for.
    pub endpoint: Option<Endpoint>,
    /// How often an empty packet keeps NATs open, in seconds; `None`: never.
    pub persistent_keepalive: Option<u16>,
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// An address.
    Address(SocketAddr),
    /// A name, which must be resolved outside the tunnel.
    Name {
        /// The host.
        host: String,
        /// The UDP port.
        port: u16,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Something in the file that has no effect here, or should be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// The line, from 1; 0: the file as a whole.
    pub line: usize,
    /// The key, as written; empty for the file as a whole.
    pub key: String,
    /// What it is about.
    pub kind: WarningKind,
}

/// What a [`Warning`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WarningKind {
    /// A command (`PreUp`, `PostUp`, `PreDown`, `PostDown`): never run.
    NotRun,
    /// A setting of the machine (`Table`, `FwMark`, `SaveConfig`): the engine decides these.
    Ignored,
    /// A key that `wg-quick` does not know either, or not in this section.
    Unknown,
    /// Everybody on this machine can read the file and so its private key.
    WorldReadable,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, key) = (self.line, &self.key);
        match self.kind {
            WarningKind::NotRun => write!(f, "line {line}: {key}: commands are not run"),
            WarningKind::Ignored => {
                write!(
                    f,
                    "line {line}: {key}: has no effect, the engine decides this"
                )
            }
            WarningKind::Unknown => write!(f, "line {line}: {key}: unknown key"),
            WarningKind::WorldReadable => {
                f.write_str("everybody can read this file and its private key: chmod 600")
            }
        }
    }
}

impl WgQuick {
    /// Largest file, in bytes: a thousand peers fit, an accident does not.
    pub const MAX_BYTES: usize = 1024 * 1024;

    /// MTU when the file names none: 1500, minus 80 for IPv6, UDP and WireGuard, as wg-quick does.
    pub const DEFAULT_MTU: u16 = 1420;

    /// Reads the text of a file; `name` is what errors call it.
    ///
    /// # Errors
    ///
    /// [`WgQuickError`] names the file, the line and the key.
    pub fn parse(name: &str, text: &str) -> Result<Self, WgQuickError> {
        parse::parse(name, text)
    }

    /// Reads a file. One that others can read too gets a [`WarningKind::WorldReadable`].
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse), and [`WgQuickError::Read`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, WgQuickError> {
        let path = path.as_ref();
        let failed = |cause| WgQuickError::Read {
            path: path.to_owned(),
            cause,
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        let readable = world_readable(&file.metadata().map_err(failed)?);
        let mut text = zeroize::Zeroizing::new(String::new());
        // One byte more than allowed, so that "too large" is told from "just fits".
        file.take(Self::MAX_BYTES as u64 + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        let mut config = Self::parse(&path.display().to_string(), &text)?;
        if readable {
            config.warnings.push(Warning {
                line: 0,
                key: String::new(),
                kind: WarningKind::WorldReadable,
            });
        }
        Ok(config)
    }

    /// The file's MTU, or the default.
    pub fn mtu(&self) -> u16 {
        self.interface.mtu.unwrap_or(Self::DEFAULT_MTU)
    }
}

#[cfg(unix)]
fn world_readable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o004 != 0
}

#[cfg(not(unix))]
fn world_readable(_: &std::fs::Metadata) -> bool {
    false
}
