//! The oracle: every checksum of a packet, computed anew.

use crate::flow::Protocol;
use crate::packet::checksum::{fold, pseudo_header, sum};
use crate::packet::{Message, ParseError, Parsed};

/// Why a packet's checksums are not right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChecksumError {
    /// The bytes are not a packet.
    #[error("not a packet")]
    Parse(#[from] ParseError),
    /// A checksum differs from the one computed anew.
    #[error("{what} checksum is {found:#06x}, should be {expected:#06x}")]
    Wrong {
        /// Which header's.
        what: &'static str,
        /// What stands in the packet.
        found: u16,
        /// What should stand there.
        expected: u16,
    },
}

/// Computes the IPv4 header checksum and the TCP, UDP, ICMP or ICMPv6 checksum of a complete
/// packet anew and compares.
///
/// A UDP checksum of 0 means "none" over IPv4 (RFC 768) and is wrong over IPv6 (RFC 8200 §8.1).
/// Fragments have their IPv4 header verified only, for the rest of the message is elsewhere.
///
/// # Errors
///
/// [`ChecksumError`] names the first checksum that is wrong.
pub fn verify_checksums(bytes: &[u8]) -> Result<(), ChecksumError> {
    let parsed = Parsed::from_bytes(bytes)?;
    let bytes = &bytes[..parsed.total_len as usize];
    if bytes[0] >> 4 == 4 {
        let header = &bytes[..usize::from(bytes[0] & 0xf) * 4];
        compare("IPv4 header", header, 10, 0, false)?;
    }
    if parsed.first_fragment {
        return Ok(());
    }
    let segment = &bytes[usize::from(parsed.transport)..];
    let protocol = parsed.flow.protocol();
    let pseudo = |segment: &[u8]| {
        let (src, dst) = (parsed.flow.src(), parsed.flow.dst());
        pseudo_header(src, dst, protocol.0, segment.len())
    };
    match parsed.message {
        Message::Tcp(_) => compare("TCP", segment, 16, pseudo(segment), false),
        Message::Udp => {
            let length = usize::from(u16::from_be_bytes([segment[4], segment[5]]));
            let segment = &segment[..length];
            if parsed.flow.src().is_ipv4() && segment[6..8] == [0, 0] {
                return Ok(());
            }
            compare("UDP", segment, 6, pseudo(segment), true)
        }
        Message::EchoRequest | Message::EchoReply | Message::IcmpError | Message::OtherIcmp => {
            if protocol == Protocol::ICMPV6 {
                compare("ICMPv6", segment, 2, pseudo(segment), false)
            } else {
                compare("ICMP", segment, 2, 0, false)
            }
        }
        Message::LaterFragment | Message::Other => Ok(()),
    }
}

fn compare(
    what: &'static str,
    message: &[u8],
    at: usize,
    seed: u64,
    zero_means_none: bool,
) -> Result<(), ChecksumError> {
    let found = u16::from_be_bytes([message[at], message[at + 1]]);
    let mut expected = !fold(sum(&message[at + 2..], sum(&message[..at], seed)));
    if zero_means_none && expected == 0 {
        expected = 0xffff;
    }
    // Exact: 0x0000 and 0xffff are both "zero" to the receiver's sum, but only one is right.
    if found == expected {
        Ok(())
    } else {
        Err(ChecksumError::Wrong {
            what,
            found,
            expected,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::build::{self, Echo};

    #[test]
    fn built_packets_verify_and_a_flipped_bit_does_not() {
        for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let socket = |addr: &str, port| (addr.parse().unwrap(), port);
            let (from, to) = (socket(a, 1), socket(b, 2));
            for packet in [
                build::udp(from, to, b"odd"),
                build::tcp_with_options(from, to, 2, 7, &[2, 4, 5, 180], b"even"),
                build::icmp_echo(a, b, Echo::Request, 3, 4, b"ping"),
                build::icmp(a, b, 3, 4, 1280, b"quoted"),
            ] {
                assert_eq!(verify_checksums(&packet), Ok(()));
                let mut broken = packet;
                *broken.last_mut().unwrap() ^= 0x10;
                assert!(matches!(
                    verify_checksums(&broken),
                    Err(ChecksumError::Wrong { .. })
                ));
            }
        }
    }

    #[test]
    fn fragments_carry_the_whole_payload() {
        for (from, to) in [("10.0.0.1:1", "10.0.0.2:2"), ("[fd00::1]:1", "[fd00::2]:2")] {
            let packet = build::udp(from, to, &[7; 3000]);
            let fragments = build::fragments(&packet, 1280, 9);
            assert_eq!(fragments.len(), 3);
            let (mut carried, mut firsts) = (0, 0);
            for fragment in &fragments {
                assert!(fragment.len() <= 1280);
                assert_eq!(verify_checksums(fragment), Ok(()));
                let parsed = Parsed::from_bytes(fragment).unwrap();
                carried += fragment.len() - usize::from(parsed.transport);
                firsts += usize::from(parsed.first_fragment);
            }
            assert_eq!((carried, firsts), (3008, 1));
        }
    }
}
