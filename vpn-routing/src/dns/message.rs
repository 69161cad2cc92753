//! Decides what a DNS message asks and which addresses it names: pure, any bytes (RFC 1035 §4).
//!
//! Header and question are read here: a query of *any* type and class must be told from every
//! other, and a library that knows types refuses those it does not know. Records are read by
//! `simple-dns`, from a copy cut to the answer section: what a server puts behind the answers
//! cannot keep them from being read.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use simple_dns::rdata::{RData, SVCParam};
use simple_dns::{CLASS, Packet, RCODE, ResourceRecord};
use vpn_core::DomainName;

/// Length of the header (RFC 1035 §4.1.1).
const HEADER: usize = 12;

/// Longest name on the wire (RFC 1035 §2.3.4).
const MAX_NAME: usize = 255;

/// Longest label (RFC 1035 §2.3.4); larger length bytes are compression, which a first name has
/// nothing to point at.
const MAX_LABEL: u8 = 63;

/// Type and class behind the name.
const TYPE_AND_CLASS: usize = 4;

/// Shortest record: root name, type, class, TTL, length (RFC 1035 §4.1.3).
const MIN_RECORD: usize = 11;

/// Bit of the flags that says "answer" (RFC 1035 §4.1.1, QR).
const RESPONSE: u8 = 0x80;

/// Bits of the flags' first byte with the kind of query (RFC 1035 §4.1.1, OPCODE).
const OPCODE: u8 = 0x78;

/// Bit of the flags' second byte that must be zero (RFC 1035 §4.1.1, Z).
const RESERVED: u8 = 0x40;

/// Longest message whose records are read, in bytes. Resolvers send no longer datagrams, and a
/// message of many records that all point through each other costs the square of its length.
pub const MAX_READ: usize = 4096;

/// Aliases followed from the name that was asked for. Resolvers give up at about as many.
pub const MAX_ALIASES: usize = 16;

/// Addresses taken from one answer.
pub const MAX_ADDRESSES: usize = 64;

/// A DNS message with exactly one question, as it stands in a datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    bytes: &'a [u8],
    question: Question<'a>,
}

impl<'a> Message<'a> {
    /// Reads header and question. `None` if the bytes are something else: cut off in the question,
    /// with no question or several.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let [_, _, _, _, 0, 1, ..] = bytes else {
            return None;
        };
        let mut at = HEADER;
        loop {
            match *bytes.get(at)? {
                0 => break,
                length @ 1..=MAX_LABEL => at += 1 + usize::from(length),
                _ => return None,
            }
        }
        let end = at + 1 + TYPE_AND_CLASS;
        let wire = bytes.get(HEADER..end)?;
        (wire.len() <= MAX_NAME + TYPE_AND_CLASS).then_some(Self {
            bytes,
            question: Question { wire },
        })
    }

    /// The number that an answer repeats.
    pub const fn id(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    /// Whether it is an answer; else it is a query.
    pub const fn is_answer(&self) -> bool {
        self.bytes[2] & RESPONSE != 0
    }

    /// What is asked.
    pub const fn question(&self) -> Question<'a> {
        self.question
    }

    /// The addresses an answer gives to the name it was asked for, aliases followed, each with
    /// every name that led to it. Empty for what is no good answer, for one longer than
    /// [`MAX_READ`], and for one whose answer section is cut off or unreadable.
    pub fn addresses(&self) -> Vec<NamedAddress> {
        if !self.is_answer() || self.bytes[2] & OPCODE != 0 || self.bytes.len() > MAX_READ {
            return Vec::new();
        }
        let records = usize::from(u16::from_be_bytes([self.bytes[6], self.bytes[7]]));
        // The count is only a claim: no room is made for more than there can be.
        if records == 0 || records > self.bytes.len() / MIN_RECORD {
            return Vec::new();
        }
        let mut cut = self.bytes.to_vec();
        cut[3] &= !RESERVED;
        cut[8..HEADER].fill(0);
        match Packet::parse(&cut) {
            Ok(packet) if packet.rcode() == RCODE::NoError => addresses(&packet),
            _ => Vec::new(),
        }
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_answer() { "answer" } else { "query" };
        write!(f, "{kind} {} {:?}", self.id(), self.question)
    }
}

/// Name, type and class of a question, as they stand on the wire. Names are compared without case
/// (RFC 4343), so an answer may have it in letters of its own.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    wire: &'a [u8],
}

impl<'a> Question<'a> {
    /// The bytes: labels, type, class.
    pub(super) const fn wire(&self) -> &'a [u8] {
        self.wire
    }

    /// Whether these bytes are the same question.
    pub(super) fn is(&self, other: &[u8]) -> bool {
        // Type and class are numbers: 65 and 97 are no two cases of one letter. The bytes that
        // say how long a label is are below all letters.
        let (Some((name, rest)), Some((other_name, other_rest))) = (
            self.wire.split_last_chunk::<TYPE_AND_CLASS>(),
            other.split_last_chunk::<TYPE_AND_CLASS>(),
        ) else {
            return false;
        };
        rest == other_rest && name.eq_ignore_ascii_case(other_name)
    }

    /// The name; `None` for the root and for names that no host can have.
    pub fn name(&self) -> Option<DomainName> {
        let mut text = String::with_capacity(self.wire.len());
        let mut rest = self.wire;
        while let Some((&length @ 1.., after)) = rest.split_first() {
            let (label, after) = after.split_at_checked(length.into())?;
            let label = std::str::from_utf8(label).ok()?;
            if label.contains('.') {
                return None;
            }
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(label);
            rest = after;
        }
        text.parse().ok()
    }
}

impl PartialEq for Question<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other.wire)
    }
}

impl Eq for Question<'_> {}

impl fmt::Debug for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => fmt::Display::fmt(&name, f),
            None => f.write_str("?"),
        }
    }
}

/// An address, and the names that an answer gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedAddress {
    /// The address.
    pub addr: IpAddr,
    /// The name that was asked for, and each alias on the way.
    pub names: Vec<Arc<DomainName>>,
    /// How long that holds: the shortest of the records that led there.
    pub ttl: Duration,
}

fn addresses(packet: &Packet<'_>) -> Vec<NamedAddress> {
    let Some(question) = packet.questions.first() else {
        return Vec::new();
    };
    let internet = |record: &&ResourceRecord<'_>| record.class == CLASS::IN;
    let mut chain = vec![&question.qname];
    let mut ttl = u32::MAX;
    while chain.len() <= MAX_ALIASES {
        let last = chain[chain.len() - 1];
        let mut records = packet.answers.iter().filter(internet);
        let alias = records.find_map(|record| match &record.rdata {
            RData::CNAME(to) if record.name == *last => Some((&to.0, record.ttl)),
            _ => None,
        });
        let Some((alias, for_as_long)) = alias else {
            break;
        };
        if chain.contains(&alias) {
            // They lead in a circle: to no address.
            return Vec::new();
        }
        chain.push(alias);
        ttl = ttl.min(for_as_long);
    }
    let last = chain[chain.len() - 1];
    let names: Vec<Arc<DomainName>> = chain
        .iter()
        .filter_map(|name| name.to_string().parse().ok().map(Arc::new))
        .collect();
    let named = |(addr, of_record): (IpAddr, u32)| NamedAddress {
        addr,
        names: names.clone(),
        ttl: Duration::from_secs(ttl.min(of_record).into()),
    };
    packet
        .answers
        .iter()
        .filter(internet)
        .filter(|record| record.name == *last)
        .flat_map(|record| addresses_in(&record.rdata).map(|addr| (addr, record.ttl)))
        .take(MAX_ADDRESSES)
        .map(named)
        .collect()
}

/// The address of a record, or those that an HTTPS record hints at: clients connect to them before
/// they are told the address (RFC 9460 §7.3).
fn addresses_in<'a>(data: &'a RData<'_>) -> impl Iterator<Item = IpAddr> + 'a {
    let v4 = |bits: u32| IpAddr::from(Ipv4Addr::from_bits(bits));
    let v6 = |bits: u128| IpAddr::from(Ipv6Addr::from_bits(bits));
    let one = match data {
        RData::A(a) => Some(v4(a.address)),
        RData::AAAA(a) => Some(v6(a.address)),
        _ => None,
    };
    let params = match data {
        RData::HTTPS(https) => Some(https.0.iter_params()),
        _ => None,
    };
    let hints = params.into_iter().flatten().flat_map(move |param| {
        let (hints4, hints6): (&[u32], &[u128]) = match param {
            SVCParam::Ipv4Hint(list) => (list, &[]),
            SVCParam::Ipv6Hint(list) => (&[], list),
            _ => (&[], &[]),
        };
        let hints4 = hints4.iter().copied().map(v4);
        hints4.chain(hints6.iter().copied().map(v6))
    });
    one.into_iter().chain(hints)
}

#[cfg(test)]
mod tests;
