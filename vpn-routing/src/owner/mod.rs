//! Who owns a flow: implementations of [`OwnerResolver`](vpn_core::OwnerResolver).
//!
//! | Resolver | Feature | Knows |
//! |---|---|---|
//! | [`MemoryOwners`] | | what the host (or a test) put into a table |
//! | `LinuxOwners` | `linux-owner` | user, executable and cgroup, from the kernel |
//!
//! The reference system gave a flow it could not attribute to the first app it found (N-1). Here
//! nobody is guessed: two candidates with different owners are
//! [`Unknown`](vpn_core::OwnerAnswer::Unknown), and the rules block what depends on it.

#[cfg(all(feature = "linux-owner", target_os = "linux"))]
mod linux;
mod memory;

#[cfg(all(feature = "linux-owner", target_os = "linux"))]
pub use linux::{LinuxOwners, LinuxOwnersError, MAX_CACHED, MAX_PENDING, MAX_UNKNOWN, UNKNOWN_FOR};
pub use memory::MemoryOwners;
