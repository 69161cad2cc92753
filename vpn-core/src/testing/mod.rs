//! Test doubles: everything needed to test a user of the traits without root, clock or network.
//!
//! | Item | Plays |
//! |---|---|
//! | [`memory_device`] | a [`TunDevice`](crate::TunDevice) and the applications behind it |
//! | [`memory_transport`] | a [`TunnelTransport`](crate::TunnelTransport) and the far end |
//! | [`MemoryDirectory`] | a [`PeerDirectory`](crate::PeerDirectory) |
//! | [`Faulty`] | a bad network around either: loss, delay, reordering, by seed |
//! | [`PcapTap`] | a capture file around either |
//! | [`VirtualClock`] | time |
//! | [`build`] | packets with right checksums, fragments, super-packets |
//! | [`conformance`] | whether an implementation of a trait keeps its contract |
//! | [`verify_checksums`] | the oracle: every checksum computed anew |
//!
//! Nothing here needs a runtime: the synchronous halves work from a plain `#[test]`, and the
//! asynchronous ones on any executor.
//!
//! ```
//! use vpn_core::testing::{build, memory_device};
//! use vpn_core::{DropCounters, PacketBatch, TunDevice};
//!
//! let (device, apps) = memory_device(16, 1500);
//! apps.inject(&build::udp("10.5.0.2:4000", "192.0.2.1:53", b"query"))?;
//!
//! let mut batch = PacketBatch::new(16, 1500);
//! assert_eq!(device.try_recv(&mut batch, &mut DropCounters::default())?, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod build;
mod clock;
pub mod conformance;
mod device;
mod directory;
mod faulty;
mod pcap;
mod queue;
mod transport;
mod verify;

pub use clock::VirtualClock;
pub use device::{AppSide, MemoryDevice, memory_device, memory_device_with};
pub use directory::MemoryDirectory;
pub use faulty::{Faults, Faulty};
pub use pcap::PcapTap;
pub use queue::InjectError;
pub use transport::{
    FarSide, MemoryTransport, memory_transport, memory_transport_on_demand, memory_transport_with,
};
pub use verify::{ChecksumError, verify_checksums};
