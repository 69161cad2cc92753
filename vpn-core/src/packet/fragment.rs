//! Which datagram a fragment belongs to (RFC 791 §3.2, RFC 8200 §4.5).

use super::checksum::Delta;
use super::{Packet, Parsed};

/// Extension headers looked at before the fragment header; the parser allows no more.
const MAX_HEADERS: usize = 8;

/// The fields of a fragment that say where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The datagram's identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Where its payload lies in the datagram, in bytes.
    pub offset: u16,
    /// Bytes of payload it carries.
    pub length: u16,
    /// Whether others follow.
    pub more: bool,
}

impl Fragment {
    /// Reads the fields of a packet that parses. `None` if it is no fragment.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let field = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        if bytes.first()? >> 4 == 4 {
            let flags = field(6)?;
            return (flags & 0x3fff != 0).then_some(Self {
                id: field(4)?.into(),
                offset: (flags & 0x1fff) << 3,
                length: field(2)?.checked_sub(u16::from(bytes.first()? & 0xf) * 4)?,
                more: flags & 0x2000 != 0,
            });
        }
        let at = header_at(bytes)?;
        let flags = field(at + 2)?;
        let fragment = Self {
            id: u32::from(field(at + 4)?) << 16 | u32::from(field(at + 6)?),
            offset: flags & 0xfff8,
            // The extension headers up to here are part of the payload length.
            length: field(4)?.checked_sub((at + 8 - 40) as u16)?,
            more: flags & 1 != 0,
        };
        // One with neither is a whole datagram (RFC 6946).
        (fragment.offset != 0 || fragment.more).then_some(fragment)
    }

    /// Whether there is such a fragment: it carries something, and ends where a datagram may end. Cut
    /// further, one beyond that would begin again at 0 (RFC 791 §3.1, RFC 8200 §4.5).
    pub fn is_possible(&self) -> bool {
        self.length != 0 && self.offset.checked_add(self.length).is_some()
    }

    /// Whether it could overwrite the flags of a TCP segment whose first fragment passed: it is
    /// refused (RFC 3128 §2).
    pub fn hides_flags(&self, parsed: &Parsed) -> bool {
        self.offset == 8 && parsed.flow.protocol() == crate::flow::Protocol::TCP
    }
}

/// Where the fragment header of an IPv6 packet is.
fn header_at(bytes: &[u8]) -> Option<usize> {
    let mut next = *bytes.get(6)?;
    let mut at = 40;
    for _ in 0..=MAX_HEADERS {
        let length = match next {
            44 => return Some(at),
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(*bytes.get(at + 1)?) + 1) * 8,
            51 => (usize::from(*bytes.get(at + 1)?) + 2) * 4,
            _ => return None,
        };
        next = *bytes.get(at)?;
        at += length;
    }
    None
}

impl Packet {
    /// Gives a fragment another identification, of which IPv4 has 16 bits.
    pub fn set_fragment_id(&mut self, id: u32) {
        let bytes = self.bytes_mut();
        match bytes.first().map(|b| b >> 4) {
            Some(4) if bytes.len() >= 20 => {
                let (old, new) = (u16::from_be_bytes([bytes[4], bytes[5]]), id as u16);
                let checksum = u16::from_be_bytes([bytes[10], bytes[11]]);
                let checksum = Delta::NONE.field(old, new).apply(checksum);
                bytes[4..6].copy_from_slice(&new.to_be_bytes());
                bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            Some(6) => {
                let field = header_at(bytes).and_then(|at| bytes.get_mut(at + 4..at + 8));
                if let Some(field) = field {
                    field.copy_from_slice(&id.to_be_bytes());
                }
            }
            _ => {}
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::{build, verify_checksums};

    #[test]
    fn fields_are_read_and_an_id_is_written_in_both_families() {
        for (src, dst) in [("10.0.0.1:1", "10.0.0.2:2"), ("[fd00::1]:1", "[fd00::2]:2")] {
            let whole = build::udp(src, dst, &[7; 3000]);
            assert_eq!(Fragment::of(&whole), None);
            let parts = build::fragments(&whole, 1280, 0x1234);
            let header = if src.starts_with('[') { 48 } else { 20 };
            let mut offset = 0;
            for (place, part) in parts.iter().enumerate() {
                let fragment = Fragment::of(part).expect("a fragment");
                assert_eq!(fragment.id, 0x1234);
                assert_eq!(usize::from(fragment.offset), offset);
                assert_eq!(fragment.more, place + 1 < parts.len());
                let mut packet = Packet::from_slice(part);
                packet.set_fragment_id(0xbeef);
                assert_eq!(Fragment::of(packet.bytes()).map(|f| f.id), Some(0xbeef));
                if part[0] >> 4 == 4 {
                    let sum = crate::packet::checksum::sum(&packet.bytes()[..20], 0);
                    assert_eq!(crate::packet::checksum::fold(sum), 0xffff);
                }
                offset += usize::from(fragment.length);
                assert_eq!(part.len() - usize::from(fragment.length), header);
            }
        }
        assert!(verify_checksums(&build::udp("10.0.0.1:1", "10.0.0.2:2", b"x")).is_ok());
    }
}
