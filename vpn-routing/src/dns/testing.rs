//! Messages for tests.

use std::net::IpAddr;

use simple_dns::rdata::{A, AAAA, CNAME, RData};
use simple_dns::{CLASS, Name, Packet, ResourceRecord};

/// What an answer says about a name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Says<'a> {
    Address(&'a str, &'a str, u32),
    Alias(&'a str, &'a str, u32),
}

pub(crate) fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// An answer with compressed names behind the question.
pub(crate) fn answer(id: u16, name: &str, kind: u16, says: &[Says<'_>]) -> Vec<u8> {
    let mut packet = Packet::new_reply(id);
    for record in says {
        packet.answers.push(match *record {
            Says::Address(name, addr, ttl) => {
                let data = match addr.parse().unwrap() {
                    IpAddr::V4(a) => RData::A(A::from(a)),
                    IpAddr::V6(a) => RData::AAAA(AAAA::from(a)),
                };
                ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, ttl, data)
            }
            Says::Alias(name, to, ttl) => {
                let data = RData::CNAME(CNAME(Name::new_unchecked(to)));
                ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, ttl, data)
            }
        });
    }
    let records = packet.build_bytes_vec().unwrap();
    let mut bytes = query(id, name, kind);
    bytes[2] |= 0x80;
    bytes[6..8].copy_from_slice(&records[6..8]);
    bytes.extend(&records[12..]);
    bytes
}
