//! The Internet checksum: whole (RFC 1071) and by difference (RFC 1624).

use std::net::IpAddr;

/// The one's complement sum of `bytes`, not folded, continuing from `sum`.
///
/// An odd last byte counts as the high half of a word, so only the last part of a message may be
/// odd.
///
/// Words are added as the machine has them and the result is turned once at the end: the one's
/// complement sum does not depend on byte order (RFC 1071 §2).
#[inline]
pub fn sum(bytes: &[u8], sum: u64) -> u64 {
    let mut native = 0u64;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        // At most 2^32 words of 32 bits fit; no packet has as many.
        native += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut last = [0; 4];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    native += u64::from(u32::from_ne_bytes(last));
    sum + u64::from(u16::from_be(fold(native)))
}

/// Folds a sum to 16 bits.
#[inline]
pub const fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The one's complement sum of two words: one carry at most, so no loop as in [`fold`].
#[inline]
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// As [`add`], of longer words: 2^64 - 1 is a multiple of 2^16 - 1.
#[inline]
const fn add64(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// The sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1), not folded.
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> u64 {
    address(src) + address(dst) + u64::from(protocol) + length as u64
}

fn address(addr: IpAddr) -> u64 {
    match addr {
        IpAddr::V4(a) => sum(&a.octets(), 0),
        IpAddr::V6(a) => sum(&a.octets(), 0),
    }
}

/// A change of a checksum, collected from changed fields and applied any number of times.
///
/// RFC 1624 §3, equation 3: `HC' = ~(~HC + ~m + m')`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const NONE: Self = Self(0);

    /// A 16-bit field that changed from `old` to `new`.
    #[must_use]
    pub const fn field(self, old: u16, new: u16) -> Self {
        Self(fold(self.0 as u64 + (!old) as u64 + new as u64))
    }

    /// An address that changed from `old` to `new`; both of one family.
    #[must_use]
    pub fn address(self, old: IpAddr, new: IpAddr) -> Self {
        let mut delta = self;
        let mut change = |old: &[u8], new: &[u8]| {
            for (o, n) in old.chunks_exact(2).zip(new.chunks_exact(2)) {
                delta = delta.field(
                    u16::from_be_bytes([o[0], o[1]]),
                    u16::from_be_bytes([n[0], n[1]]),
                );
            }
        };
        match (old, new) {
            (IpAddr::V4(o), IpAddr::V4(n)) => change(&o.octets(), &n.octets()),
            (IpAddr::V6(o), IpAddr::V6(n)) => change(&o.octets(), &n.octets()),
            _ => {}
        }
        delta
    }

    /// Words that changed; which field is in which part of which word does not matter, as long as
    /// fields begin at multiples of 16 bits.
    #[inline]
    pub(crate) const fn words<const N: usize>(old: [u64; N], new: [u64; N]) -> Self {
        let (mut sum, mut i) = (0, 0);
        while i < N {
            sum = add64(add64(sum, !old[i]), new[i]);
            i += 1;
        }
        // Both halves of a turned word added: the sum of its halves, with their carry, above.
        let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
        Self((sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16)
    }

    /// This change and another one.
    #[inline]
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }

    /// The checksum after the change: a complete checksum, as it stands in a packet.
    #[inline]
    pub const fn apply(self, checksum: u16) -> u16 {
        !add(!checksum, self.0)
    }

    /// The sum after the change: a partial checksum, which stands in a packet uncomplemented.
    #[inline]
    pub const fn apply_partial(self, sum: u16) -> u16 {
        add(sum, self.0)
    }
}
