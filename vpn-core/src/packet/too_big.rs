//! Tells the far end of a connection that its segments are too large for the way towards here.

use bytes::BytesMut;

use super::icmp_error::{Complaint, IcmpError};
use super::parse::tcp_flags;
use super::reset::Header;
use crate::flow::FlowKey;

/// Headers of a quoted segment: IPv6 and TCP without options.
const QUOTED: usize = 60;

/// "Fragmentation needed", or ICMPv6 "packet too big", about the segment that is expected next.
///
/// A link that became narrower drops what is too large for it, and only a router before that link
/// can say so. Where the link is the last one there is none, so its end has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentTooBig {
    /// From the sender of such segments to here.
    pub flow: FlowKey,
    /// The sequence number that is expected next. The sender believes a message only about what it
    /// sent and has no acknowledgment of (RFC 5927 §4.1).
    pub expected: u32,
    /// The size that the message says did not fit, headers included.
    pub was: u16,
    /// What fits, in bytes: less than `was`.
    pub mtu: u16,
}

impl SegmentTooBig {
    /// Appends the IP packet, from the flow's destination to its source, its checksums complete.
    pub fn write(&self, out: &mut BytesMut) {
        let (src, dst) = (self.flow.src(), self.flow.dst());
        let headers: u16 = if src.is_ipv4() { 40 } else { 60 };
        let header = Header {
            flow: self.flow,
            sequence: self.expected,
            acknowledgment: 0,
            flags: tcp_flags::ACK,
        };
        let mut quoted = BytesMut::with_capacity(QUOTED);
        header.write(self.was.saturating_sub(headers), &mut quoted);
        let complaint = Complaint::TooBig { mtu: self.mtu };
        IcmpError::about_headers(complaint, dst, src, &quoted).write(out);
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::Protocol;
    use crate::packet::{Message, Parsed, Quoted};
    use crate::testing::verify_checksums;

    #[test]
    fn it_quotes_the_segment_that_is_expected() {
        for (far, here) in [("203.0.113.10", "10.5.0.2"), ("2001:db8::1", "fd00::2")] {
            let flow = FlowKey::new(
                Protocol::TCP,
                (far.parse().expect("one"), 443),
                (here.parse().expect("one"), 40_000),
            );
            let told = SegmentTooBig {
                flow,
                expected: 0xdead_beef,
                was: 1420,
                mtu: 1300,
            };
            let mut out = BytesMut::new();
            told.write(&mut out);
            assert_eq!(verify_checksums(&out), Ok(()));
            let parsed = Parsed::from_bytes(&out).expect("a packet");
            assert_eq!(parsed.message, Message::IcmpError);
            assert_eq!(parsed.flow.src(), flow.dst());
            assert_eq!(parsed.flow.dst(), flow.src());
            let quoted = Quoted::of(&out, &parsed).expect("a quote");
            assert_eq!(quoted.flow, flow);
            let icmp = usize::from(parsed.transport);
            assert_eq!(out[icmp + 6..icmp + 8], 1300u16.to_be_bytes());
            let tcp = icmp + 8 + if flow.src().is_ipv4() { 20 } else { 40 };
            assert_eq!(out[tcp + 4..tcp + 8], 0xdead_beef_u32.to_be_bytes());
        }
    }
}
