//! Decides what to ask for a name and whether an answer answers it: pure (RFC 1035, RFC 5452).

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

/// Aliases followed within one answer. Resolvers give up at about as many.
const MAX_ALIASES: usize = 8;
/// Addresses taken from one answer.
const MAX_ADDRESSES: usize = 16;

/// Which address to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// IPv4.
    A,
    /// IPv6.
    Aaaa,
}

/// What a matching answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// These addresses; none means that the name has none of the kind.
    Addresses(Vec<IpAddr>),
    /// The name does not exist.
    NoSuchName,
    /// Cut to what fits into a datagram (RFC 1035 §4.1.1, TC), with no address left in it. That is
    /// not the same as "has none": ask another.
    Truncated,
    /// The server could not answer: ask another.
    Failed(RCODE),
}

/// One question on its way.
#[derive(Debug)]
pub(super) struct Query {
    id: u16,
    name: String,
    kind: Kind,
}

impl Query {
    /// A question with an unpredictable id.
    pub(super) fn new(name: &str, kind: Kind) -> Self {
        Self {
            // Keyed from the system's randomness, so that an id says nothing about the next.
            id: RandomState::new().build_hasher().finish() as u16,
            name: name.trim_end_matches('.').to_ascii_lowercase(),
            kind,
        }
    }

    /// The message to send, or `None` if the name cannot be asked.
    pub(super) fn message(&self) -> Option<Vec<u8>> {
        if self.name.is_empty() {
            return None;
        }
        let mut packet = Packet::new_query(self.id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(Question::new(
            Name::new(&self.name).ok()?,
            QTYPE::TYPE(self.record()),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        packet.build_bytes_vec().ok()
    }

    /// What a message says to this question; `None` if it answers another one.
    pub(super) fn answer(&self, message: &[u8]) -> Option<Answer> {
        let packet = Packet::parse(message).ok()?;
        let [question] = packet.questions.as_slice() else {
            return None;
        };
        if packet.id() != self.id
            || !packet.has_flags(PacketFlag::RESPONSE)
            || question.qtype != QTYPE::TYPE(self.record())
            || question.qclass != QCLASS::CLASS(CLASS::IN)
            || !same(&question.qname, &self.name)
        {
            return None;
        }
        Some(match packet.rcode() {
            RCODE::NoError => match self.addresses(&packet) {
                none if none.is_empty() && packet.has_flags(PacketFlag::TRUNCATION) => {
                    Answer::Truncated
                }
                addresses => Answer::Addresses(addresses),
            },
            RCODE::NameError => Answer::NoSuchName,
            other => Answer::Failed(other),
        })
    }

    /// Addresses of the name, aliases followed within the answer.
    fn addresses(&self, packet: &Packet<'_>) -> Vec<IpAddr> {
        let mut name = self.name.clone();
        for _ in 0..MAX_ALIASES {
            let found: Vec<IpAddr> = packet
                .answers
                .iter()
                .filter(|record| record.class == CLASS::IN && same(&record.name, &name))
                .filter_map(|record| match (&record.rdata, self.kind) {
                    (RData::A(a), Kind::A) => Some(Ipv4Addr::from(a.address).into()),
                    (RData::AAAA(a), Kind::Aaaa) => Some(Ipv6Addr::from(a.address).into()),
                    _ => None,
                })
                .take(MAX_ADDRESSES)
                .collect();
            if !found.is_empty() {
                return found;
            }
            let alias = packet
                .answers
                .iter()
                .find_map(|record| match &record.rdata {
                    RData::CNAME(to) if same(&record.name, &name) => Some(to.0.to_string()),
                    _ => None,
                });
            match alias {
                Some(next) => name = next,
                None => break,
            }
        }
        Vec::new()
    }

    const fn record(&self) -> TYPE {
        match self.kind {
            Kind::A => TYPE::A,
            Kind::Aaaa => TYPE::AAAA,
        }
    }
}

/// Names are compared without case (RFC 4343).
fn same(name: &Name<'_>, text: &str) -> bool {
    name.to_string()
        .trim_end_matches('.')
        .eq_ignore_ascii_case(text.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, CNAME};

    fn reply(query: &Query, change: impl FnOnce(&mut Packet<'_>)) -> Vec<u8> {
        let message = query.message().unwrap();
        let mut packet = Packet::parse(&message).unwrap().into_reply();
        change(&mut packet);
        packet.build_bytes_vec().unwrap()
    }

    fn a(name: &'static str, address: [u8; 4]) -> ResourceRecord<'static> {
        let address = u32::from(Ipv4Addr::from(address));
        ResourceRecord::new(
            Name::new(name).unwrap(),
            CLASS::IN,
            60,
            RData::A(A { address }),
        )
    }

    #[test]
    fn aliases_are_followed_within_the_answer() {
        let query = Query::new("VPN.example.org.", Kind::A);
        let message = reply(&query, |p| {
            let to = CNAME(Name::new("host.example.net").unwrap());
            p.answers.push(a("evil.example", [6, 6, 6, 6]));
            p.answers.push(ResourceRecord::new(
                Name::new("vpn.example.org").unwrap(),
                CLASS::IN,
                60,
                RData::CNAME(to),
            ));
            p.answers.push(a("host.example.net", [192, 0, 2, 7]));
        });
        let expected = Answer::Addresses(vec![IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(query.answer(&message), Some(expected));
    }

    #[test]
    fn an_alias_loop_ends() {
        let query = Query::new("a.example", Kind::A);
        let message = reply(&query, |p| {
            let to = CNAME(Name::new("a.example").unwrap());
            let name = Name::new("a.example").unwrap();
            p.answers
                .push(ResourceRecord::new(name, CLASS::IN, 60, RData::CNAME(to)));
        });
        assert_eq!(query.answer(&message), Some(Answer::Addresses(Vec::new())));
    }

    #[test]
    fn what_answers_another_question_is_ignored() {
        let query = Query::new("a.example", Kind::A);
        let good = reply(&query, |p| p.answers.push(a("a.example", [192, 0, 2, 1])));
        assert!(query.answer(&good).is_some());
        let id = reply(&query, |p| p.set_id(query.id.wrapping_add(1)));
        assert_eq!(query.answer(&id), None);
        let name = reply(&query, |p| {
            p.questions[0].qname = Name::new("b.example").unwrap()
        });
        assert_eq!(query.answer(&name), None);
        let kind = reply(&query, |p| p.questions[0].qtype = QTYPE::TYPE(TYPE::AAAA));
        assert_eq!(query.answer(&kind), None);
        assert_eq!(query.answer(&query.message().unwrap()), None);
    }

    #[test]
    fn errors_are_told_apart() {
        let query = Query::new("a.example", Kind::Aaaa);
        let gone = reply(&query, |p| *p.rcode_mut() = RCODE::NameError);
        assert_eq!(query.answer(&gone), Some(Answer::NoSuchName));
        let failed = reply(&query, |p| *p.rcode_mut() = RCODE::ServerFailure);
        assert_eq!(
            query.answer(&failed),
            Some(Answer::Failed(RCODE::ServerFailure))
        );
    }

    #[test]
    fn an_answer_cut_to_nothing_is_not_an_answer() {
        let query = Query::new("a.example", Kind::A);
        let cut = reply(&query, |p| p.set_flags(PacketFlag::TRUNCATION));
        assert_eq!(query.answer(&cut), Some(Answer::Truncated));
        let some = reply(&query, |p| {
            p.set_flags(PacketFlag::TRUNCATION);
            p.answers.push(a("a.example", [192, 0, 2, 1]));
        });
        let expected = Answer::Addresses(vec![IpAddr::from([192, 0, 2, 1])]);
        assert_eq!(query.answer(&some), Some(expected));
    }

    #[test]
    fn names_that_cannot_be_asked() {
        assert!(Query::new("", Kind::A).message().is_none());
        assert!(Query::new(&"x".repeat(64), Kind::A).message().is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Query::new("a.example", Kind::A).answer(&bytes);
        }
    }
}
