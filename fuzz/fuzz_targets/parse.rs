//! Any bytes as a packet: parsed, translated there and back, completed and cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vpn_core::packet::{BufferPool, Gso, Offload, Packet, Parsed, segment};
use vpn_core::testing::verify_checksums;

// The first two bytes say how the packet is offloaded; the others are the packet.
fuzz_target!(|data: &[u8]| {
    let Some((&[flags, size], bytes)) = data.split_first_chunk::<2>() else {
        return;
    };
    let Ok(parsed) = Parsed::from_bytes(bytes) else {
        return;
    };
    assert!(parsed.transport <= parsed.payload);
    assert!(u32::from(parsed.payload) <= parsed.total_len);
    assert!(parsed.total_len as usize <= bytes.len());
    translated(bytes, &parsed);
    let offload = Offload {
        gso: (flags & 1 != 0).then_some(Gso { size: size.into() }),
        partial_checksum: flags & 2 != 0,
    };
    offloaded(Packet::from_slice(bytes).with_offload(offload));
});

/// A right packet stays right when it is translated, and comes back as it was.
fn translated(bytes: &[u8], parsed: &Parsed) {
    let right = verify_checksums(bytes).is_ok();
    let flow = parsed.flow;
    let other = match flow.src().is_ipv4() {
        true => "192.0.2.9".parse(),
        false => "2001:db8::9".parse(),
    };
    let Ok(other) = other else { return };
    for to in [
        flow.with_source(other, 40_000),
        flow.with_destination(other, 40_000),
        flow.with_source(other, 40_000).with_destination(other, 1),
    ] {
        let mut packet = Packet::from_slice(bytes);
        packet.translate(parsed, &to);
        assert_eq!(packet.len(), bytes.len());
        if !right {
            continue;
        }
        verify_checksums(packet.bytes()).expect("still right");
        let there = packet.parse().expect("still a packet");
        // What has no port there comes back to none.
        packet.translate(&there, &flow);
        // The checksum of a datagram in fragments has two ways to be zero: only the whole tells.
        if !parsed.first_fragment {
            assert_eq!(packet.bytes(), bytes, "there and back");
        }
    }
}

/// Every segment of what can be cut is a packet of its own, and right.
fn offloaded(mut packet: Packet) {
    let mut pool = BufferPool::new(4, 1600);
    let mut count = 0;
    let cut = segment::split(&packet, &mut pool, |part| {
        count += 1;
        let parsed = part.parse().expect("a segment is a packet");
        assert_eq!(parsed.total_len as usize, part.len());
    });
    if let Ok(segments) = cut {
        assert_eq!(segments, count);
    }
    if segment::complete_checksum(&mut packet).is_ok() {
        assert!(!packet.offload.partial_checksum);
    }
}
