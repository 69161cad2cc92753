//! The header in front of each packet of a packet socket, and of a TUN device with offload: how the packet is offloaded. Pure.

use vpn_core::packet::{Gso, Offload, Packet};
use vpn_core::{Family, Protocol};

/// Its length (`struct virtio_net_hdr`, virtio 1.2 §5.1.6).
pub(crate) const HEADER: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// The sender uses ECN; segments are cut as any others.
const GSO_ECN: u8 = 0x80;

/// The header of a packet that is complete as it is.
pub(crate) const PLAIN: [u8; HEADER] = [0; HEADER];

/// What a header says; `None` for an offload that nobody here asked for.
pub(crate) fn read(header: &[u8; HEADER]) -> Option<Offload> {
    // In the machine's own byte order (packet(7) has the legacy header).
    let size = u16::from_ne_bytes([header[4], header[5]]);
    let gso = match header[1] & !GSO_ECN {
        GSO_NONE => None,
        GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_L4 => Some(Gso { size }),
        _ => return None,
    };
    Some(Offload {
        gso,
        partial_checksum: header[0] & NEEDS_CHECKSUM != 0,
    })
}

/// The header for a packet; `None` if it makes no sense.
pub(crate) fn write(packet: &Packet) -> Option<[u8; HEADER]> {
    let offload = packet.offload;
    if offload == Offload::NONE {
        return Some(PLAIN);
    }
    let parsed = packet.parse().ok()?;
    if parsed.first_fragment {
        return None;
    }
    // Where its transport has the checksum, and what cutting it is called.
    let (checksum, udp) = match parsed.flow.protocol() {
        Protocol::TCP => (16u16, false),
        Protocol::UDP => (6, true),
        Protocol::ICMPV6 if offload.gso.is_none() => (2, false),
        _ => return None,
    };
    let mut header = PLAIN;
    if let Some(gso) = offload.gso {
        header[1] = match (udp, Family::of(parsed.flow.src())) {
            (true, _) => GSO_UDP_L4,
            (false, Family::V4) => GSO_TCPV4,
            (false, Family::V6) => GSO_TCPV6,
        };
        header[2..4].copy_from_slice(&parsed.payload.to_ne_bytes());
        header[4..6].copy_from_slice(&gso.size.to_ne_bytes());
    }
    if offload.partial_checksum {
        header[0] = NEEDS_CHECKSUM;
        header[6..8].copy_from_slice(&parsed.transport.to_ne_bytes());
        header[8..10].copy_from_slice(&checksum.to_ne_bytes());
    }
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        assert_eq!(read(&PLAIN), Some(Offload::NONE));
        let mut header = PLAIN;
        header[0] = NEEDS_CHECKSUM;
        header[1] = GSO_TCPV6 | GSO_ECN;
        header[4..6].copy_from_slice(&1348u16.to_ne_bytes());
        let offload = read(&header).expect("known");
        assert_eq!(offload.gso, Some(Gso { size: 1348 }));
        assert!(offload.partial_checksum);
        header[1] = 3;
        assert_eq!(read(&header), None, "fragmentation of UDP is none of ours");
    }
}
