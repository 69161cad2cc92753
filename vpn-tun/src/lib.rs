//! What the VPN SDK touches of the operating system.
//!
//! | Module | What it touches |
//! |---|---|
//! | [`name`] | nothing: what an interface may be called |
//! | [`device`] | the virtual interface: packets in, packets out |
//! | [`apply`] | addresses, routes, policy rules and MTU, by netlink; the capture that fails closed; the packet filter beside it |
//! | [`direct`] | the way to the uplink as a tunnel: a second interface, whose packets the kernel forwards |
//! | [`dns`] | `resolv.conf`, systemd-resolved |
//! | [`external`] | interfaces of other programs, past the kernel's stack; packets of native libraries |
//! | [`openvpn`] | the distribution's OpenVPN as a tunnel: its process, its management interface |
//! | [`journal`] | a small file that says what to undo after a crash |
//! | [`recover()`] | what a killed run left, as its journal says |
//! | [`underlay`] | sockets below the tunnels: marked, bound, protected |
//! | [`watch`] | links, addresses, routes and sleep: what happens to the network below |
//! | [`manual`] | how the capture works, tuning, troubleshooting |
//!
//! Linux is complete. Android has [`device`] by a descriptor; elsewhere the crate compiles and
//! offers [`name`], [`SwapTun`] and [`vpn_core::device::NoDevice`], and a host brings its own
//! [`vpn_core::TunDevice`].
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(target_os = "linux")]
pub mod apply;
pub mod device;
#[cfg(target_os = "linux")]
pub mod direct;
#[cfg(target_os = "linux")]
pub mod dns;
#[cfg(target_os = "linux")]
pub mod external;
#[cfg(target_os = "linux")]
mod filtered;
#[cfg(target_os = "linux")]
mod foreign;
#[cfg(target_os = "linux")]
mod forwarding;
#[cfg(target_os = "linux")]
pub mod gateway;
#[cfg(target_os = "linux")]
pub mod journal;
pub mod manual;
pub mod name;
#[cfg(target_os = "linux")]
mod nft;
#[cfg(target_os = "linux")]
pub mod openvpn;
#[cfg(target_os = "linux")]
mod program;
#[cfg(target_os = "linux")]
mod recover;
#[cfg(target_os = "linux")]
mod sysctl;
#[cfg(target_os = "linux")]
pub mod underlay;
#[cfg(target_os = "linux")]
pub mod watch;

#[cfg(target_os = "linux")]
pub use apply::{Applier, ApplyError, CaptureConfig, OnExit};
#[cfg(any(target_os = "linux", target_os = "android"))]
pub use device::FdTun;
#[cfg(target_os = "linux")]
pub use device::LinuxTun;
pub use device::{SwapTun, TunConfig, TunError};
#[cfg(target_os = "linux")]
pub use direct::{DirectConfig, DirectError, DirectTransport};
#[cfg(target_os = "linux")]
pub use dns::{DnsApply, DnsError, SystemDns};
#[cfg(target_os = "linux")]
pub use foreign::ForeignChange;
#[cfg(target_os = "linux")]
pub use gateway::{Gateway, GatewayConfig, GatewayError};
#[cfg(target_os = "linux")]
pub use journal::Journal;
pub use name::{InterfaceName, NameError};
#[cfg(target_os = "linux")]
pub use nft::NftError;
#[cfg(target_os = "linux")]
pub use recover::{Leave, RecoverError, Recovered, Undone, recover};
#[cfg(target_os = "linux")]
pub use sysctl::SysctlError;
#[cfg(target_os = "linux")]
pub use underlay::MarkedUnderlay;
#[cfg(target_os = "linux")]
pub use watch::NetworkWatch;

#[cfg(all(doctest, target_os = "linux"))]
#[doc = include_str!("../README.md")]
struct Readme;
