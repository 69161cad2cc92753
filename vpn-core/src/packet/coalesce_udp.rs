//! Joins consecutive datagrams of one UDP flow into one super-packet, as [`coalesce`](super::coalesce())
//! joins segments of TCP.
//!
//! Datagrams have no order of their own, so all but the last are of one size, and each follows the
//! one before (Linux `udp_gro_receive`). Only what cuts to the very same packets again is joined, but
//! for the identification of those that may not be fragmented.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{Delta, fold, pseudo_header, sum};
use super::{Gso, Offload, Packet};

/// Longest IP packet, in bytes, for both families.
const LONGEST: usize = 65_535;

/// Most datagrams of one super-packet (Linux `UDP_GRO_CNT_MAX`).
const MOST: usize = 64;

/// Protocol number of UDP, and the length of its header (RFC 768).
const UDP: u8 = 17;
const HEADER: usize = 8;

/// A UDP datagram in a packet with the plainest headers.
#[derive(Clone, Copy)]
struct Layout {
    v4: bool,
    /// Where the UDP header begins.
    udp: usize,
    len: usize,
}

impl Layout {
    /// `None`: a fragment, a packet with IP options or extension headers, without payload or
    /// checksum, or none of UDP.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (v4, udp, said) = match bytes.first()? {
            0x45 => {
                let whole = bytes.get(6)? & 0x3f == 0 && *bytes.get(7)? == 0;
                let is_udp = *bytes.get(9)? == UDP;
                (whole && is_udp).then_some((true, 20, usize::from(read16(bytes, 2)?)))?
            }
            first if first >> 4 == 6 => {
                let is_udp = *bytes.get(6)? == UDP;
                is_udp.then_some((false, 40, usize::from(read16(bytes, 4)?) + 40))?
            }
            _ => return None,
        };
        let fits = said == bytes.len()
            && usize::from(read16(bytes, udp + 4)?) == bytes.len() - udp
            && bytes.len() > udp + HEADER
            && read16(bytes, udp + 6)? != 0;
        let len = bytes.len();
        fits.then_some(Self { v4, udp, len })
    }

    const fn payload_len(self) -> usize {
        self.len - self.udp - HEADER
    }

    /// The pseudo-header's sum for a message of this length.
    fn pseudo(self, bytes: &[u8], length: usize) -> u64 {
        let (src, dst): (IpAddr, IpAddr) = if self.v4 {
            let at = |from: usize| {
                let mut octets = [0; 4];
                octets.copy_from_slice(&bytes[from..from + 4]);
                Ipv4Addr::from(octets).into()
            };
            (at(12), at(16))
        } else {
            let at = |from: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&bytes[from..from + 16]);
                Ipv6Addr::from(octets).into()
            };
            (at(8), at(24))
        };
        pseudo_header(src, dst, UDP, length)
    }

    /// Whether the checksum is right; `pseudo` is the pseudo-header's sum without the length.
    fn is_intact(self, bytes: &[u8], pseudo: u64) -> bool {
        let message = &bytes[self.udp..];
        fold(sum(message, pseudo + message.len() as u64)) == 0xffff
    }

    /// Whether what has to be equal is.
    fn continues(self, head: &[u8], next: &[u8]) -> bool {
        let same = |range: std::ops::Range<usize>| head[range.clone()] == next[range];
        let network = match self.v4 {
            // Type of service; flags; time to live; addresses.
            true => same(1..2) && same(6..9) && same(12..20),
            // Traffic class and flow label; hop limit; addresses.
            false => same(0..4) && same(7..40),
        };
        network && same(self.udp..self.udp + 4)
    }
}

/// Appends `next`, an IP packet with its checksum complete, to `head`, which becomes a super-packet,
/// if both are datagrams of one UDP flow and no longer than `longest` together, in bytes. Else
/// changes nothing and answers `false`: then `next` may be the head of others.
///
/// ```
/// use vpn_core::packet::{Packet, coalesce_datagrams};
/// use vpn_core::testing::build;
/// let datagram = |text: &str| build::udp("203.0.113.10:53", "10.5.0.2:4000", text.as_bytes());
/// let mut head = Packet::from_slice(&datagram("one"));
/// assert!(coalesce_datagrams(&mut head, &datagram("two"), 1500));
/// assert!(!coalesce_datagrams(&mut head, &datagram("three"), 1500), "longer");
/// assert_eq!(head.segments(), 2);
/// ```
pub fn coalesce_datagrams(head: &mut Packet, next: &[u8], longest: usize) -> bool {
    append(head, next, longest).is_some()
}

fn append(head: &mut Packet, more: &[u8], longest: usize) -> Option<()> {
    let joined = head.offload.gso;
    if head.offload.partial_checksum != joined.is_some() {
        return None;
    }
    let bytes = head.bytes();
    // The partial checksum of a super-packet may be any; that of a datagram may not be none.
    let (first, second) = (Layout::of(bytes)?, Layout::of(more)?);
    let len = first.len + second.payload_len();
    if first.v4 != second.v4 || len > longest.min(LONGEST) {
        return None;
    }
    let size = joined.map_or(first.payload_len(), |gso| usize::from(gso.size));
    let parts = first.payload_len() / size.max(1);
    // Cut again, each has one more; what may not be fragmented may have any (RFC 6864 §4).
    let numbered = !first.v4
        || bytes[6] & 0x40 != 0
        || read16(more, 4)? == read16(bytes, 4)?.wrapping_add(u16::try_from(parts).ok()?);
    let belongs = first.payload_len() == parts * size
        && parts < MOST
        && numbered
        && second.payload_len() <= size
        && first.continues(bytes, more);
    if !belongs {
        return None;
    }
    // The addresses are the same: they are summed once, and stay in the partial checksum.
    let pseudo = match joined {
        None => first.pseudo(bytes, 0),
        Some(_) => {
            let had = !((first.len - first.udp) as u16);
            u64::from(read16(bytes, first.udp + 6)?) + u64::from(had)
        }
    };
    // The sums last: they read everything.
    let intact =
        second.is_intact(more, pseudo) && (joined.is_some() || first.is_intact(bytes, pseudo));
    if !intact {
        return None;
    }
    let size = u16::try_from(size).ok()?;
    head.buf.extend_from_slice(&more[second.udp + HEADER..]);
    head.offload = Offload {
        gso: Some(Gso { size }),
        partial_checksum: true,
    };
    let bytes = head.bytes_mut();
    let length = len - first.udp;
    write16(bytes, first.udp + 4, length as u16);
    write16(bytes, first.udp + 6, fold(pseudo + length as u64));
    if first.v4 {
        let checksum = u16::from_be_bytes([bytes[10], bytes[11]]);
        let delta = Delta::NONE.field(first.len as u16, len as u16);
        write16(bytes, 2, len as u16);
        write16(bytes, 10, delta.apply(checksum));
    } else {
        write16(bytes, 4, (len - 40) as u16);
    }
    Some(())
}

#[inline]
fn read16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Of a header whose length is known.
#[inline]
fn write16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{BufferPool, segment};
    use crate::testing::build;

    fn flow(v6: bool, sizes: &[usize]) -> Vec<Packet> {
        let ends = match v6 {
            false => ("10.5.0.2:4000", "203.0.113.10:80"),
            true => ("[fd00:5::2]:4000", "[2001:db8:113::10]:80"),
        };
        let datagrams = sizes.iter().enumerate().map(|(index, &size)| {
            let payload: Vec<u8> = (0..size).map(|at| (at * 7 + index) as u8).collect();
            let mut bytes = build::udp(ends.0, ends.1, &payload);
            if !v6 {
                write16(&mut bytes, 4, 0xfffe_u16.wrapping_add(index as u16));
                write16(&mut bytes, 10, 0);
                let checksum = !fold(sum(&bytes[..20], 0));
                write16(&mut bytes, 10, checksum);
            }
            Packet::from_slice(&bytes)
        });
        datagrams.collect()
    }

    fn joined(packets: &[Packet], longest: usize) -> Vec<Packet> {
        let mut out: Vec<Packet> = Vec::new();
        for packet in packets {
            let appended = out
                .last_mut()
                .is_some_and(|head| coalesce_datagrams(head, packet.bytes(), longest));
            if !appended {
                out.push(packet.shrunk());
            }
        }
        out
    }

    fn cut(packets: &[Packet]) -> Vec<Vec<u8>> {
        let (mut pool, mut out) = (BufferPool::new(64, 2048), Vec::new());
        for packet in packets {
            segment::split(packet, &mut pool, |part| out.push(part.bytes().to_vec()))
                .expect("a packet");
        }
        out
    }

    #[test]
    fn equal_datagrams_and_a_shorter_one_become_one_packet() {
        for v6 in [false, true] {
            let one = joined(&flow(v6, &[64, 64, 64, 10, 64]), LONGEST);
            assert_eq!(one.len(), 2);
            assert_eq!(one[0].segments(), 4);
            assert_eq!(one[0].offload.gso, Some(Gso { size: 64 }));
            assert!(
                v6 || fold(sum(&one[0].bytes()[..20], 0)) == 0xffff,
                "of the header"
            );
            let many = joined(&flow(v6, &[64; MOST + 1]), LONGEST);
            assert_eq!(many.len(), 2, "and no more than {MOST}");
        }
    }

    #[test]
    fn what_does_not_belong_together_stays_apart() {
        let pair = || {
            let mut pair = flow(false, &[100, 100]);
            let second = pair.pop().expect("two");
            (pair.pop().expect("two"), second)
        };
        let (mut head, next) = pair();
        assert!(
            !coalesce_datagrams(&mut head, next.bytes(), 227),
            "too long"
        );
        assert!(coalesce_datagrams(&mut head, next.bytes(), 228));
        // Each byte of the headers matters, but for those that are made anew.
        for at in 0..28 {
            let (mut head, mut next) = pair();
            next.bytes_mut()[at] ^= 0x04;
            if let Some(layout) = Layout::of(next.bytes()) {
                // As if it had been sent so; the header's own checksum is of no account.
                write16(next.bytes_mut(), 26, 0);
                let message = next.bytes()[20..].to_vec();
                let checksum = !fold(sum(&message, layout.pseudo(next.bytes(), message.len())));
                write16(next.bytes_mut(), 26, checksum);
            }
            let numbered = head.bytes()[6] & 0x40 == 0;
            let free = [10, 11, 26, 27].contains(&at) || !numbered && [4, 5].contains(&at);
            let appended = coalesce_datagrams(&mut head, next.bytes(), LONGEST);
            assert_eq!(appended, free, "byte {at}");
        }
        // A payload that was damaged on its way is left for its reader to refuse.
        for damage_head in [false, true] {
            let (mut head, mut next) = pair();
            let damaged = if damage_head { &mut head } else { &mut next };
            damaged.bytes_mut()[60] ^= 1;
            assert!(!coalesce_datagrams(&mut head, next.bytes(), LONGEST));
        }
        // Without a checksum nobody can tell.
        let (mut head, mut next) = pair();
        write16(next.bytes_mut(), 26, 0);
        assert!(!coalesce_datagrams(&mut head, next.bytes(), LONGEST));
        assert!(!coalesce_datagrams(
            &mut flow(false, &[0])[0],
            flow(false, &[0])[0].bytes(),
            LONGEST
        ));
    }

    proptest! {
        /// Whatever is joined cuts to the very same packets.
        #[test]
        fn joining_and_cutting_is_identity(
            v6: bool,
            sizes in prop::collection::vec(prop_oneof![Just(64usize), Just(1200), 0usize..1500], 1..100),
            longest in 1000usize..=LONGEST,
        ) {
            let packets = flow(v6, &sizes);
            let whole = joined(&packets, longest);
            let fits = |packet: &Packet| packet.offload.gso.is_none() || packet.len() <= longest;
            prop_assert!(whole.iter().all(fits));
            let expected: Vec<Vec<u8>> = packets.iter().map(|p| p.bytes().to_vec()).collect();
            prop_assert_eq!(cut(&whole), expected);
        }

        #[test]
        fn any_bytes_are_refused_or_joined(
            head in prop::collection::vec(any::<u8>(), 0..120),
            next in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let mut head = Packet::from_slice(&head);
            coalesce_datagrams(&mut head, &next, LONGEST);
        }
    }
}
