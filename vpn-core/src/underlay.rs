//! Sockets that bypass the capture.
//!
//! A tunnel's own packets must not enter the tunnel. Every socket a transport uses comes from one
//! factory, which marks it, binds it or hands it to the host's protect hook.

use std::fmt::Debug;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;

use async_trait::async_trait;

/// Why the network below the tunnels could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnderlayError {
    /// A socket could not be made or marked.
    #[error("cannot make an underlay socket on {local}")]
    Socket {
        /// The address it was to be bound to.
        local: SocketAddr,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// The name has no usable address, or no resolver answered.
    #[error("cannot resolve {name}: {problem}")]
    Resolve {
        /// The name.
        name: String,
        /// What went wrong.
        problem: String,
    },
}

/// Makes sockets, and resolves endpoint names, on the network below the tunnels.
///
/// # Contract
///
/// * Every socket is non-blocking and exempt from the capture before it is returned.
/// * Names are resolved over such sockets too: while the capture is in force, the system's
///   resolver may itself be captured.
/// * `resolve` takes literal addresses without asking anybody and is cancel-safe.
#[async_trait]
pub trait Underlay: Debug + Send + Sync {
    /// A UDP socket bound to `local` (port 0: any).
    ///
    /// # Errors
    ///
    /// [`UnderlayError::Socket`], also if the socket cannot be exempted: never one that is captured.
    fn udp(&self, local: SocketAddr) -> Result<UdpSocket, UnderlayError>;

    /// A TCP socket to connect to `remote` with, which is not connected yet. Default: there is none,
    /// so that what needs one cannot get one that is captured.
    ///
    /// # Errors
    ///
    /// [`UnderlayError::Socket`], as for UDP.
    fn tcp(&self, remote: SocketAddr) -> Result<TcpStream, UnderlayError> {
        Err(UnderlayError::Socket {
            local: remote,
            cause: std::io::ErrorKind::Unsupported.into(),
        })
    }

    /// The addresses of `host`, IPv4 and IPv6, each with `port`, in the order to try.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, UnderlayError>;

    /// Largest IP packet on the way to `remote`, in bytes, if the system knows.
    fn mtu_to(&self, _remote: SocketAddr) -> Option<u16> {
        None
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        impl<T: Underlay + ?Sized> Underlay for $pointer {
            fn udp(&self, local: SocketAddr) -> Result<UdpSocket, UnderlayError> {
                (**self).udp(local)
            }
            fn tcp(&self, remote: SocketAddr) -> Result<TcpStream, UnderlayError> {
                (**self).tcp(remote)
            }
            async fn resolve(
                &self,
                host: &str,
                port: u16,
            ) -> Result<Vec<SocketAddr>, UnderlayError> {
                (**self).resolve(host, port).await
            }
            fn mtu_to(&self, remote: SocketAddr) -> Option<u16> {
                (**self).mtu_to(remote)
            }
        }
    )*};
}
forward!(Arc<T>, Box<T>);
