//! Sockets below the tunnels: marked, bound, protected; and endpoint names asked over them.
//!
//! While the capture is in force the system's resolver may itself be captured, so names are asked
//! from here, at the resolvers that `resolv.conf` named before we wrote it.

mod question;
mod resolver;
mod sys;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use socket2::{Domain, Protocol, Socket, Type};
use vpn_core::{Underlay, UnderlayError};

use crate::dns::{RESOLV_CONF, nameservers};
use crate::name::InterfaceName;

/// Receive and send buffer asked for, in bytes: some 20 ms at 1.5 Gbit/s. Without `CAP_NET_ADMIN` the
/// kernel grants up to `net.core.rmem_max` and `wmem_max` only, which by default is three
/// super-packets.
const SOCKET_BUFFER: usize = 4 << 20;

/// The file of systemd-resolved with the resolvers it asks itself.
const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// Exempts a socket in the host's own way: Android's `VpnService.protect`.
pub type ProtectHook = Arc<dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync>;

/// Makes sockets that carry the capture's mark.
///
/// ```
/// use vpn_core::Underlay;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A mark needs CAP_NET_ADMIN; 0 makes plain sockets.
/// let underlay = vpn_tun::MarkedUnderlay::new(0);
/// let socket = underlay.udp("127.0.0.1:0".parse()?)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MarkedUnderlay {
    mark: u32,
    device: Option<InterfaceName>,
    protect: Option<ProtectHook>,
    hosts: PathBuf,
    /// Where resolvers are read; `None`: they were said.
    resolv_conf: Option<PathBuf>,
    /// Resolvers that are ourselves.
    own: Vec<IpAddr>,
    nameservers: Arc<RwLock<Vec<IpAddr>>>,
}

impl MarkedUnderlay {
    /// A factory for sockets with this mark; the same as [`crate::CaptureConfig::mark`]. 0 marks
    /// nothing. Reads `/etc/resolv.conf` now, so that a later rewrite of it doesn't matter; say
    /// which resolvers are [our own](Self::own_resolvers) to have it follow the network.
    pub fn new(mark: u32) -> Self {
        let this = Self {
            mark,
            device: None,
            protect: None,
            hosts: PathBuf::from("/etc/hosts"),
            resolv_conf: Some(PathBuf::from(RESOLV_CONF)),
            own: Vec::new(),
            nameservers: Arc::default(),
        };
        this.reread();
        this
    }

    /// Binds every socket to an interface (`SO_BINDTODEVICE`). Default: none.
    #[must_use]
    pub fn bind_device(mut self, device: InterfaceName) -> Self {
        self.device = Some(device);
        self
    }

    /// Shows every socket to this function before it is bound. Default: none.
    #[must_use]
    pub fn protect(mut self, hook: ProtectHook) -> Self {
        self.protect = Some(hook);
        self
    }

    /// Reads another file than `/etc/resolv.conf`, now.
    #[must_use]
    pub fn resolv_conf(mut self, path: &Path) -> Self {
        self.resolv_conf = Some(path.to_owned());
        self.nameservers = Arc::default();
        self.reread();
        self
    }

    /// Resolvers that are reached through the tunnels: a file that names one of them was written by
    /// us, and what was read before it holds on. With these known, the file is read again whenever a
    /// name is asked for, since another network has other resolvers. Default: none, and it is not.
    #[must_use]
    pub fn own_resolvers(mut self, own: Vec<IpAddr>) -> Self {
        self.own = own;
        self
    }

    /// Asks these resolvers instead, at port 53.
    #[must_use]
    pub fn nameservers(mut self, servers: Vec<IpAddr>) -> Self {
        self.resolv_conf = None;
        self.nameservers = Arc::new(RwLock::new(servers));
        self
    }

    /// The resolvers it asks, as they were read last.
    pub fn servers(&self) -> Vec<IpAddr> {
        let servers = self.nameservers.read();
        servers.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads again which resolvers there are; whether they are others now. A file that is missing,
    /// names none or is our own changes nothing.
    pub fn reread(&self) -> bool {
        let Some(path) = &self.resolv_conf else {
            return false;
        };
        let read = if path == Path::new(RESOLV_CONF) {
            system_nameservers()
        } else {
            read_nameservers(path)
        };
        let mut known = self
            .nameservers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let unusable = read.is_empty() || read.iter().any(|server| self.own.contains(server));
        if unusable || *known == read {
            return false;
        }
        *known = read;
        true
    }

    /// Looks names up in another file than `/etc/hosts`.
    #[must_use]
    pub fn hosts(mut self, path: impl Into<PathBuf>) -> Self {
        self.hosts = path.into();
        self
    }

    fn make(&self, local: SocketAddr) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if local.is_ipv6() {
            // So that both families can have the same port.
            socket.set_only_v6(true)?;
        }
        self.exempt(&socket)?;
        if sys::force_buffers(socket.as_fd(), SOCKET_BUFFER).is_err() {
            // The limits of the system apply; less than asked for is slower, not wrong.
            let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
            let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        }
        socket.bind(&local.into())?;
        Ok(socket.into())
    }

    fn make_tcp(&self, remote: SocketAddr) -> io::Result<TcpStream> {
        let socket = Socket::new(
            Domain::for_address(remote),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        self.exempt(&socket)?;
        Ok(socket.into())
    }

    /// Keeps what the socket sends out of the capture.
    fn exempt(&self, socket: &Socket) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        if self.mark != 0 {
            socket.set_mark(self.mark)?;
        }
        if let Some(device) = &self.device {
            socket.bind_device(Some(device.as_str().as_bytes()))?;
        }
        if let Some(protect) = &self.protect {
            protect(socket.as_fd())?;
        }
        Ok(())
    }

    /// A socket connected to `remote`: sends nothing, but makes the kernel look the route up.
    fn connected(&self, remote: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.make(unspecified(remote))?;
        socket.connect(remote)?;
        Ok(socket)
    }
}

#[async_trait]
impl Underlay for MarkedUnderlay {
    fn udp(&self, local: SocketAddr) -> Result<UdpSocket, UnderlayError> {
        self.make(local)
            .map_err(|cause| UnderlayError::Socket { local, cause })
    }

    fn tcp(&self, remote: SocketAddr) -> Result<TcpStream, UnderlayError> {
        self.make_tcp(remote)
            .map_err(|cause| UnderlayError::Socket {
                local: unspecified(remote),
                cause,
            })
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, UnderlayError> {
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let mut found = resolver::in_hosts(&self.hosts, host);
        if found.is_empty() {
            if !self.own.is_empty() {
                self.reread();
            }
            found = resolver::ask(self, &self.servers(), host)
                .await
                .map_err(|problem| UnderlayError::Resolve {
                    name: host.to_owned(),
                    problem,
                })?;
        }
        let mut found: Vec<SocketAddr> = found
            .into_iter()
            .map(|a| SocketAddr::new(a, port))
            .collect();
        // IPv6 first, as RFC 6724 §2.1 has it, but what has no route goes last.
        found.sort_by_cached_key(|remote| (self.connected(*remote).is_err(), remote.is_ipv4()));
        Ok(found)
    }

    fn mtu_to(&self, remote: SocketAddr) -> Option<u16> {
        let socket = self.connected(remote).ok()?;
        let mtu = sys::path_mtu(socket.as_fd(), remote.is_ipv6()).ok()?;
        // A loopback interface has 65,536; no IP packet is larger than 65,535.
        Some(u16::try_from(mtu).unwrap_or(u16::MAX))
    }
}

impl fmt::Debug for MarkedUnderlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MarkedUnderlay")
            .field("mark", &format_args!("{:#x}", self.mark))
            .field("device", &self.device)
            .field("protect", &self.protect.is_some())
            .field("nameservers", &self.servers().len())
            .finish_non_exhaustive()
    }
}

/// Any address of the family of `remote`, any port.
fn unspecified(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    }
}

fn system_nameservers() -> Vec<IpAddr> {
    let servers = read_nameservers(Path::new(RESOLV_CONF));
    // The stub of systemd-resolved asks from sockets without a mark.
    if servers.contains(&IpAddr::from([127, 0, 0, 53])) {
        return read_nameservers(Path::new(RESOLVED_UPSTREAM));
    }
    servers
}

fn read_nameservers(path: &Path) -> Vec<IpAddr> {
    match std::fs::read(path) {
        Ok(content) => nameservers(&content),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no resolver for endpoint names");
            Vec::new()
        }
    }
}
