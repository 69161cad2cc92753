//! The virtual interface: packets of this machine's applications, in batches.
//!
//! | Device | What it is |
//! |---|---|
//! | `LinuxTun` | an interface of its own, or one taken over with its name |
//! | `FdTun` | a descriptor and nothing more (Linux, Android) |
//! | [`SwapTun`] | any of these, replaced while flows live |
//!
//! `LinuxTun` is a plain TUN device: one packet per system call, no packet information. The
//! kernel removes it when its last descriptor closes, also after `kill -9`, and its routes with it;
//! what then keeps packets from going direct is the capture of [`crate::apply`].

#[cfg(any(target_os = "linux", target_os = "android"))]
mod fd;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod moving;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod parts;
#[cfg(target_os = "linux")]
mod proof;
pub mod swap;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod sys;
#[cfg(target_os = "linux")]
pub(crate) mod vnet;

use std::io;

#[cfg(any(target_os = "linux", target_os = "android"))]
pub use fd::FdTun;
#[cfg(target_os = "linux")]
pub use linux::{LinuxTun, MAX_QUEUES};
pub use swap::SwapTun;

use crate::name::InterfaceName;

/// MTU by default, in bytes: what WireGuard leaves of 1500 over IPv6.
pub const DEFAULT_MTU: u16 = 1420;

/// Packets the kernel queues for the device by default. Its own default of 500 overflows in a
/// few milliseconds of bulk traffic while the router is busy with another batch.
pub const DEFAULT_QUEUE_LEN: u32 = 1000;

/// What kind of device to make.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TunConfig {
    /// Name; `None` lets the kernel choose `tunN`.
    pub name: Option<InterfaceName>,
    /// MTU in bytes. Default [`DEFAULT_MTU`].
    pub mtu: u16,
    /// Whether to exchange super-packets, if this machine does that right: see
    /// [`offload`](Self::offload()). Default `false`.
    pub offload: bool,
    /// Packets the kernel queues before it drops. Default [`DEFAULT_QUEUE_LEN`].
    pub queue_len: u32,
}

impl Default for TunConfig {
    fn default() -> Self {
        Self {
            name: None,
            mtu: DEFAULT_MTU,
            offload: false,
            queue_len: DEFAULT_QUEUE_LEN,
        }
    }
}

impl TunConfig {
    /// A device of this name, with the defaults.
    pub fn named(name: InterfaceName) -> Self {
        Self {
            name: Some(name),
            ..Self::default()
        }
    }

    /// Sets the MTU, in bytes.
    #[must_use]
    pub const fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = mtu;
        self
    }

    /// Exchanges super-packets of up to 64 KiB with the kernel (TSO and USO, both families), if a
    /// self-test shows that this kernel passes them whole and unchanged. The test takes some
    /// milliseconds, once per process, in a network namespace of its own; where it cannot run or
    /// fails, the device is made without, and the log says why.
    #[must_use]
    pub const fn offload(mut self, wanted: bool) -> Self {
        self.offload = wanted;
        self
    }

    /// Sets the length of the kernel's queue, in packets.
    #[must_use]
    pub const fn queue_len(mut self, packets: u32) -> Self {
        self.queue_len = packets;
        self
    }
}

/// Registering a descriptor outside a runtime panics, so ask first.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn runtime() -> Result<(), TunError> {
    tokio::runtime::Handle::try_current()
        .map(drop)
        .map_err(|_| TunError::NoRuntime)
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunError {
    /// Another interface has this name. Choose another, or stop the program that owns it.
    #[error("interface {0} exists already: choose another name or stop the program that owns it")]
    NameInUse(InterfaceName),
    /// `/dev/net/tun` may not be used. Run as root or with `CAP_NET_ADMIN`.
    #[error(
        "no permission for /dev/net/tun: run as root, or give the program CAP_NET_ADMIN (setcap cap_net_admin+ep)"
    )]
    Permission(#[source] io::Error),
    /// The kernel has no TUN driver, or the container hides it.
    #[error(
        "/dev/net/tun is missing: load the module (modprobe tun) or pass the device into the container"
    )]
    NoDriver(#[source] io::Error),
    /// The descriptor is not a TUN device with plain IP packets.
    #[error("the descriptor is not a TUN device with IFF_NO_PI and without IFF_VNET_HDR")]
    NotTun(#[source] io::Error),
    /// Not inside a tokio runtime, which drives the device.
    #[error("a device is made inside a tokio runtime with I/O enabled")]
    NoRuntime,
    /// The configuration asks for something this version does not have.
    #[error("{0} is not supported yet")]
    Unsupported(&'static str),
    /// Anything else the system said.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}
