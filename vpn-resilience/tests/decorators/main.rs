//! Decorators: whatever is put around an implementation of a trait keeps the trait's contract, and
//! does what it is there for.
#![cfg(feature = "decorators")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod calls;
mod conformance;
mod remade;
mod tunnels;

use vpn_core::{Assigned, Packet, PacketBatch, testing::build};

/// What a far end assigns.
fn assigned() -> Assigned {
    Assigned {
        addresses: vec!["10.5.0.2/32".parse().unwrap()],
        mtu: 1420,
        ..Assigned::default()
    }
}

/// A batch of so many packets.
fn packets(count: u8) -> PacketBatch {
    let mut batch = PacketBatch::new(usize::from(count), 1500);
    for i in 0..count {
        let bytes = build::udp("10.5.0.2:4000", "203.0.113.10:7", &[i]);
        assert!(batch.push(Packet::from_slice(&bytes)).is_ok());
    }
    batch
}
