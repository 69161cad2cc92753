//! The maximum segment size that the ends of a connection tell each other (RFC 9293 §3.7.1), made
//! to fit what lies between them.

use super::checksum::Delta;
use super::{Message, Packet, Parsed, tcp_flags};

/// Kinds of TCP options (RFC 9293 §3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Lowers the maximum segment size of a SYN so that segments fit packets of `mtu` bytes; answers
/// whether it was changed. Any other packet, and a SYN that says less, stays as it is.
///
/// A SYN without the option stays so: its sender then gets segments of 536 or 1,220 bytes
/// (RFC 9293 §3.7.1), which fit every tunnel.
pub fn clamp_mss(packet: &mut Packet, parsed: &Parsed, mtu: u16) -> bool {
    let Message::Tcp(flags) = parsed.message else {
        return false;
    };
    if flags & tcp_flags::SYN == 0 {
        return false;
    }
    let headers = if parsed.flow.src().is_ipv6() { 60 } else { 40 };
    let most = mtu.saturating_sub(headers);
    let transport = usize::from(parsed.transport);
    let partial = packet.offload.partial_checksum;
    let bytes = packet.bytes_mut();
    let Some(at) = option_at(bytes, transport + 20, usize::from(parsed.payload)) else {
        return false;
    };
    let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    if old <= most {
        return false;
    }
    bytes[at..at + 2].copy_from_slice(&most.to_be_bytes());
    // A partial checksum covers the pseudo-header only.
    if !partial {
        // A field at an odd place counts with its bytes exchanged (RFC 1071 §2).
        let odd = (at - transport) % 2 == 1;
        let word = |value: u16| if odd { value.swap_bytes() } else { value };
        let sum = transport + 16;
        let checksum = u16::from_be_bytes([bytes[sum], bytes[sum + 1]]);
        let checksum = Delta::NONE.field(word(old), word(most)).apply(checksum);
        bytes[sum..sum + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    true
}

/// Where the value of the option is, among the options from `at` to `end`.
fn option_at(bytes: &[u8], mut at: usize, end: usize) -> Option<usize> {
    let options = bytes.get(..end)?;
    loop {
        match *options.get(at)? {
            END => return None,
            NO_OPERATION => at += 1,
            kind => {
                let length = usize::from(*options.get(at + 1)?);
                if kind == MAXIMUM_SEGMENT_SIZE && length == 4 && at + 4 <= end {
                    return Some(at + 2);
                }
                // Shorter than itself: what follows cannot be told.
                at += if length < 2 { return None } else { length };
            }
        }
    }
}
