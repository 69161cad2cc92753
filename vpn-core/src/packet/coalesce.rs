//! Joins consecutive segments of a TCP stream into one super-packet: what [`segment`](super::segment)
//! cuts, the other way round.
//!
//! A tunnel yields packet by packet; joined, they are looked up, rewritten and written to the device
//! once. Only what cuts to the very same packets again is joined (but for the identification of those
//! that may not be fragmented, which means nothing), by the rules of Linux's `tcp_gro_receive`: all
//! headers but lengths, checksums, sequence number, identification and PSH are
//! equal, nothing is missing between, and all but the last are of one size. A segment's checksum is
//! checked before it is given up for a partial one.

use super::checksum::{Delta, fold, pseudo_header, sum};
use super::{Gso, Offload, Packet, tcp_flags};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest IP packet, in bytes, for both families (RFC 791, RFC 8200 without jumbograms; of IPv6's
/// own header it is 40 bytes less than there could be).
const LONGEST: usize = 65_535;

/// Protocol number of TCP.
const TCP: u8 = 6;

/// Where a TCP segment's parts are. Made for segments that may be joined only.
#[derive(Clone, Copy)]
struct Layout {
    v4: bool,
    /// Where the TCP header begins.
    tcp: usize,
    /// Where the payload begins.
    payload: usize,
    len: usize,
}

impl Layout {
    /// `None`: a fragment, a packet with IP options, extension headers or unusual flags, or none of
    /// TCP. Those stay as they are.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (v4, tcp, said) = match bytes.first()? {
            0x45 => {
                let whole = bytes.get(6)? & 0x3f == 0 && *bytes.get(7)? == 0;
                let is_tcp = *bytes.get(9)? == TCP;
                (whole && is_tcp).then_some((true, 20, usize::from(read16(bytes, 2)?)))?
            }
            first if first >> 4 == 6 => {
                let is_tcp = *bytes.get(6)? == TCP;
                is_tcp.then_some((false, 40, usize::from(read16(bytes, 4)?) + 40))?
            }
            _ => return None,
        };
        let header = usize::from(bytes.get(tcp + 12)? >> 4) * 4;
        let payload = tcp + header;
        let plain = bytes.get(tcp + 13)? & !tcp_flags::PSH == tcp_flags::ACK;
        let fits = said == bytes.len() && header >= 20 && payload < bytes.len();
        (plain && fits).then_some(Self {
            v4,
            tcp,
            payload,
            len: bytes.len(),
        })
    }

    /// The pseudo-header's sum for a message of this length.
    fn pseudo(self, bytes: &[u8], length: usize) -> u64 {
        let (src, dst): (IpAddr, IpAddr) = if self.v4 {
            let at = |from: usize| {
                let octets = [
                    bytes[from],
                    bytes[from + 1],
                    bytes[from + 2],
                    bytes[from + 3],
                ];
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
        pseudo_header(src, dst, TCP, length)
    }

    /// Whether the TCP checksum is right; `pseudo` is the pseudo-header's sum without the length.
    fn is_intact(self, bytes: &[u8], pseudo: u64) -> bool {
        let message = &bytes[self.tcp..];
        fold(sum(message, pseudo + message.len() as u64)) == 0xffff
    }

    fn sequence(self, bytes: &[u8]) -> u32 {
        let at = self.tcp + 4;
        u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    const fn payload_len(self) -> usize {
        self.len - self.payload
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
        let tcp = self.tcp;
        // Ports; acknowledgment and length of the header; window; urgent pointer and options.
        network
            && same(tcp..tcp + 4)
            && same(tcp + 8..tcp + 13)
            && same(tcp + 14..tcp + 16)
            && same(tcp + 18..self.payload)
    }
}

/// Appends `next`, an IP packet with its checksum complete, to `head`, which becomes a super-packet,
/// if both are consecutive segments of one stream and no longer than `longest` together, in bytes.
/// Else changes nothing and answers `false`: then `next` may be the head of others.
///
/// ```
/// use vpn_core::packet::{Packet, coalesce, tcp_flags};
/// use vpn_core::testing::build;
/// let part = |sequence, text: &str| {
///     let ends = ("203.0.113.10:80", "10.5.0.2:4000");
///     build::tcp(ends.0, ends.1, tcp_flags::ACK, sequence, text.as_bytes())
/// };
/// let mut head = Packet::from_slice(&part(1, "one "));
/// assert!(coalesce(&mut head, &part(5, "two "), 1500));
/// assert!(!coalesce(&mut head, &part(5, "two "), 1500), "twice");
/// assert_eq!(head.segments(), 2);
/// ```
pub fn coalesce(head: &mut Packet, next: &[u8], longest: usize) -> bool {
    append(head, next, longest).is_some()
}

fn append(head: &mut Packet, more: &[u8], longest: usize) -> Option<()> {
    let joined = head.offload.gso;
    if head.offload.partial_checksum != joined.is_some() {
        return None;
    }
    let bytes = head.bytes();
    let (first, second) = (Layout::of(bytes)?, Layout::of(more)?);
    let len = first.len + second.payload_len();
    if first.payload != second.payload || first.v4 != second.v4 || len > longest.min(LONGEST) {
        return None;
    }
    let size = joined.map_or(first.payload_len(), |gso| usize::from(gso.size));
    let parts = first.payload_len() / size.max(1);
    let is_full = first.payload_len() == parts * size;
    // A push ends what belongs together.
    let is_open = bytes[first.tcp + 13] & tcp_flags::PSH == 0;
    let follows = first
        .sequence(bytes)
        .wrapping_add(u32::try_from(first.payload_len()).ok()?)
        == second.sequence(more);
    // Cut again, each has one more; what may not be fragmented may have any (RFC 6864 §4).
    let numbered = !first.v4
        || bytes[6] & 0x40 != 0
        || read16(more, 4)? == read16(bytes, 4)?.wrapping_add(u16::try_from(parts).ok()?);
    let belongs = is_full
        && is_open
        && follows
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
            let had = !((first.len - first.tcp) as u16);
            u64::from(read16(bytes, first.tcp + 16)?) + u64::from(had)
        }
    };
    // The sums last: they read everything.
    let intact =
        second.is_intact(more, pseudo) && (joined.is_some() || first.is_intact(bytes, pseudo));
    if !intact {
        return None;
    }
    let size = u16::try_from(size).ok()?;
    let push = more[second.tcp + 13] & tcp_flags::PSH;
    head.buf.extend_from_slice(&more[second.payload..]);
    head.offload = Offload {
        gso: Some(Gso { size }),
        partial_checksum: true,
    };
    let bytes = head.bytes_mut();
    bytes[first.tcp + 13] |= push;
    let length = len - first.tcp;
    write16(bytes, first.tcp + 16, fold(pseudo + length as u64));
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

    fn stream(v6: bool, sizes: &[usize], options: &[u8], push: bool) -> Vec<Packet> {
        let ends = match v6 {
            false => ("10.5.0.2:4000", "203.0.113.10:80"),
            true => ("[fd00:5::2]:4000", "[2001:db8:113::10]:80"),
        };
        let (mut sequence, mut packets) = (u32::MAX - 2000, Vec::new());
        for (index, &size) in sizes.iter().enumerate() {
            let last = index + 1 == sizes.len();
            let flags = tcp_flags::ACK | if last && push { tcp_flags::PSH } else { 0 };
            let payload: Vec<u8> = (0..size).map(|at| (at * 7 + index) as u8).collect();
            let mut bytes =
                build::tcp_with_options(ends.0, ends.1, flags, sequence, options, &payload);
            if !v6 {
                let id = 0xfffe_u16.wrapping_add(index as u16);
                write16(&mut bytes, 4, id);
                write16(&mut bytes, 10, 0);
                let checksum = !fold(sum(&bytes[..20], 0));
                write16(&mut bytes, 10, checksum);
            }
            sequence = sequence.wrapping_add(size as u32);
            packets.push(Packet::from_slice(&bytes));
        }
        packets
    }

    fn joined(packets: &[Packet], longest: usize) -> Vec<Packet> {
        let mut out: Vec<Packet> = Vec::new();
        for packet in packets {
            let appended = out
                .last_mut()
                .is_some_and(|head| coalesce(head, packet.bytes(), longest));
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
    fn a_stream_becomes_one_packet() {
        for v6 in [false, true] {
            let packets = stream(v6, &[1400, 1400, 1400, 300], &[1, 1, 8, 10], true);
            let one = joined(&packets, LONGEST);
            assert_eq!(one.len(), 1);
            assert_eq!(one[0].segments(), 4);
            assert_eq!(one[0].offload.gso, Some(Gso { size: 1400 }));
            assert!(
                v6 || fold(sum(&one[0].bytes()[..20], 0)) == 0xffff,
                "of the header"
            );
        }
    }

    #[test]
    fn what_does_not_belong_together_stays_apart() {
        let pair = || {
            let mut pair = stream(false, &[1000, 1000], &[], false);
            let second = pair.pop().expect("two");
            (pair.pop().expect("two"), second)
        };
        let (mut head, next) = pair();
        assert!(coalesce(&mut head, next.bytes(), LONGEST));
        let (mut head, next) = pair();
        assert!(!coalesce(&mut head, next.bytes(), 2039), "too long");
        // Each byte of the headers matters, but for those that are made anew.
        for at in 0..40 {
            let (mut head, mut next) = pair();
            next.bytes_mut()[at] ^= 0x04;
            // As if it had been sent so; the header's own checksum is of no account.
            let layout = Layout::of(next.bytes());
            if let Some(layout) = layout {
                write16(next.bytes_mut(), 36, 0);
                let message = next.bytes()[20..].to_vec();
                let checksum = !fold(sum(&message, layout.pseudo(next.bytes(), message.len())));
                write16(next.bytes_mut(), 36, checksum);
            }
            let free = [4, 5, 10, 11, 36, 37].contains(&at);
            assert_eq!(
                coalesce(&mut head, next.bytes(), LONGEST),
                free,
                "byte {at}"
            );
        }
        // A payload that was damaged on its way is left for its reader to refuse.
        for (damage_head, at) in [(false, 500), (true, 500)] {
            let (mut head, mut next) = pair();
            let damaged = if damage_head { &mut head } else { &mut next };
            damaged.bytes_mut()[at] ^= 1;
            assert!(!coalesce(&mut head, next.bytes(), LONGEST));
        }
        // A short one is the last.
        let [mut head, next, after] =
            <[Packet; 3]>::try_from(stream(false, &[1000, 999, 1000], &[], false)).expect("three");
        assert!(coalesce(&mut head, next.bytes(), LONGEST));
        assert!(!coalesce(&mut head, after.bytes(), LONGEST));
    }

    proptest! {
        /// Whatever is joined cuts to the very same packets.
        #[test]
        fn joining_and_cutting_is_identity(
            v6: bool,
            sizes in prop::collection::vec(prop_oneof![Just(1400usize), 1usize..1500], 1..40),
            options in prop::collection::vec(any::<u8>(), 0..12),
            push: bool,
            longest in 1000usize..=LONGEST,
        ) {
            let packets = stream(v6, &sizes, &options, push);
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
            coalesce(&mut head, &next, LONGEST);
        }
    }
}
