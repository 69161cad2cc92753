//! Symptoms, and where to look.
//!
//! **Packets vanish.** Every drop is counted under a [`DropReason`](crate::DropReason); print the
//! [`DropCounters`](crate::DropCounters). Each reason's documentation says what it means.
//!
//! **Peers ignore what arrives.** Check with `testing::verify_checksums`. A packet with
//! [`partial_checksum`](crate::Offload::partial_checksum) is not complete: call
//! [`complete_checksum`](crate::packet::segment::complete_checksum) where it leaves for a wire.
//!
//! **`readable` never returns.** The waiter must be enabled before the condition is read; see
//! [`own_device`](super::own_device).
//!
//! **A provider swallows everything.** Providers drop sources they did not assign. Play one with
//! `testing::FarSide::strict_source` and see `rejected`.
//!
//! **What went over it?** Wrap the device or transport in `testing::PcapTap` and open the file in
//! Wireshark.
