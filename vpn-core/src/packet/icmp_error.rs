//! ICMP messages that tell a sender why its packet does not pass.

use std::net::IpAddr;

use bytes::BytesMut;

use super::checksum::{fold, pseudo_header, sum};
use super::parse::{Message, Parsed};
use crate::flow::Protocol;

/// Hop limit of a packet that is made here (RFC 1700).
const HOPS: u8 = 64;

/// Why a packet does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Complaint {
    /// "Destination unreachable, communication administratively prohibited": type 3 code 13
    /// (RFC 1812 §5.2.7.1), or type 1 code 1 of ICMPv6 (RFC 4443 §3.1).
    Prohibited,
    /// "Destination unreachable, no route": type 3 code 0 (RFC 792), or type 1 code 0 of ICMPv6.
    NoRoute,
    /// "Fragmentation needed and DF set": type 3 code 4 with the MTU of the next hop (RFC 1191
    /// §4), or "packet too big", type 2 of ICMPv6 (RFC 4443 §3.2).
    TooBig {
        /// What fits, in bytes.
        mtu: u16,
    },
}

impl Complaint {
    /// Type, code, and the four bytes behind the checksum.
    fn head_v4(self) -> [u8; 8] {
        match self {
            Self::Prohibited => [3, 13, 0, 0, 0, 0, 0, 0],
            Self::NoRoute => [3, 0, 0, 0, 0, 0, 0, 0],
            Self::TooBig { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                [3, 4, 0, 0, 0, 0, high, low]
            }
        }
    }

    fn head_v6(self) -> [u8; 8] {
        match self {
            Self::Prohibited => [1, 1, 0, 0, 0, 0, 0, 0],
            Self::NoRoute => [1, 0, 0, 0, 0, 0, 0, 0],
            Self::TooBig { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                [2, 0, 0, 0, 0, 0, high, low]
            }
        }
    }
}

/// An ICMP or ICMPv6 error about one packet, from that packet's destination to its source, quoting
/// as much of it as may be.
#[derive(Clone, Copy, Debug)]
pub struct IcmpError<'a> {
    complaint: Complaint,
    from: IpAddr,
    to: IpAddr,
    /// The packet it is about, as far as it is known.
    about: &'a [u8],
}

impl<'a> IcmpError<'a> {
    /// The longest message in IPv4, header included (RFC 1812 §4.3.2.3).
    pub const LONGEST_V4: usize = 576;

    /// The longest message in IPv6: the minimum MTU (RFC 4443 §2.4 c).
    pub const LONGEST_V6: usize = 1280;

    /// The message about `about`. `None` if none may be sent: about an ICMP error or a message of
    /// unknown kind, about a fragment but the first, or to an address that is not one host
    /// (RFC 1122 §3.2.2, RFC 4443 §2.4 e).
    pub fn new(complaint: Complaint, about: &'a [u8], parsed: &'a Parsed) -> Option<Self> {
        let silent = matches!(
            parsed.message,
            Message::IcmpError | Message::OtherIcmp | Message::LaterFragment
        );
        let one_host = |addr: IpAddr| {
            let broadcast = matches!(addr, IpAddr::V4(a) if a.is_broadcast());
            !(addr.is_multicast() || addr.is_unspecified() || addr.is_loopback() || broadcast)
        };
        let fits = !silent && one_host(parsed.flow.src()) && one_host(parsed.flow.dst());
        let whole = about.len().min(parsed.total_len as usize);
        fits.then_some(Self {
            complaint,
            from: parsed.flow.dst(),
            to: parsed.flow.src(),
            about: about.get(..whole)?,
        })
    }

    /// The message about a packet that was never seen: its headers are made up.
    pub(super) const fn about_headers(
        complaint: Complaint,
        from: IpAddr,
        to: IpAddr,
        about: &'a [u8],
    ) -> Self {
        Self {
            complaint,
            from,
            to,
            about,
        }
    }

    /// Appends the IP packet, its checksums complete.
    pub fn write(&self, out: &mut BytesMut) {
        let (from, to) = (self.from, self.to);
        let quoted = |longest: usize, headers: usize| {
            let length = self.about.len().min(longest - headers);
            self.about.get(..length).unwrap_or_default()
        };
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let quote = quoted(Self::LONGEST_V4, 28);
                let mut ip = [0; 20];
                ip[0] = 0x45;
                // Precedence of "internetwork control" (RFC 1812 §4.3.2.5).
                ip[1] = 0xc0;
                ip[2..4].copy_from_slice(&(28 + quote.len() as u16).to_be_bytes());
                ip[8] = HOPS;
                ip[9] = Protocol::ICMP.0;
                ip[12..16].copy_from_slice(&from.octets());
                ip[16..20].copy_from_slice(&to.octets());
                let checksum = !fold(sum(&ip, 0));
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                out.extend_from_slice(&ip);
                let mut icmp = self.complaint.head_v4();
                let checksum = !fold(sum(quote, sum(&icmp, 0)));
                icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
                out.extend_from_slice(&icmp);
                out.extend_from_slice(quote);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let quote = quoted(Self::LONGEST_V6, 48);
                let length = 8 + quote.len();
                let mut ip = [0; 40];
                ip[0] = 0x60;
                ip[4..6].copy_from_slice(&(length as u16).to_be_bytes());
                ip[6] = Protocol::ICMPV6.0;
                ip[7] = HOPS;
                ip[8..24].copy_from_slice(&src.octets());
                ip[24..40].copy_from_slice(&dst.octets());
                out.extend_from_slice(&ip);
                let mut icmp = self.complaint.head_v6();
                let pseudo = pseudo_header(from, to, Protocol::ICMPV6.0, length);
                let checksum = !fold(sum(quote, sum(&icmp, pseudo)));
                icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
                out.extend_from_slice(&icmp);
                out.extend_from_slice(quote);
            }
            // A key is of one family.
            _ => {}
        }
    }
}
