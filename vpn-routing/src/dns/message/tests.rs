//! Messages of every kind, also of the unkind one.

use proptest::prelude::*;

use super::*;
use crate::dns::testing::{Says, answer, query};

fn read(bytes: &[u8]) -> Message<'_> {
    Message::read(bytes).expect("a message")
}

fn addresses(bytes: &[u8]) -> Vec<(String, Vec<String>, u64)> {
    let said = read(bytes).addresses();
    said.into_iter()
        .map(|a| {
            let names = a.names.iter().map(|n| n.to_string()).collect();
            (a.addr.to_string(), names, a.ttl.as_secs())
        })
        .collect()
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&n| n.to_owned()).collect()
}

#[test]
fn a_query_says_what_it_asks() {
    let bytes = query(0x1234, "WWW.Example.com", 28);
    let message = read(&bytes);
    assert_eq!((message.id(), message.is_answer()), (0x1234, false));
    let name = message.question().name().map(|n| n.to_string());
    assert_eq!(name.as_deref(), Some("www.example.com"));
    assert!(message.addresses().is_empty());
}

#[test]
fn a_question_is_the_same_in_any_letter_case_and_no_other_type_is() {
    let (small, large) = (query(1, "a.b", 1), query(1, "A.B", 1));
    assert_eq!(read(&small).question(), read(&large).question());
    // HTTPS is type 65, the letter A; type 97 is the letter a.
    let (https, other) = (query(1, "a.b", 65), query(1, "a.b", 97));
    assert_ne!(read(&https).question(), read(&other).question());
    // A length byte of a label is no letter either.
    let (one, two) = (query(1, "a.bc", 1), query(1, "abc.d", 1));
    assert_ne!(read(&one).question(), read(&two).question());
}

#[test]
fn types_and_names_nobody_knows_are_questions_all_the_same() {
    for (name, kind) in [("", 2), ("exa mple.com", 1), ("_dns.resolver.arpa", 64)] {
        let bytes = query(1, name, kind);
        let message = read(&bytes);
        assert_eq!(message.question().name().is_some(), kind == 64, "{name}");
        assert_eq!(message.question(), read(&query(2, name, kind)).question());
    }
    // A dot inside a label does not make two of it.
    let mut bytes = query(1, "a-b.com", 1);
    bytes[14] = b'.';
    assert_eq!(read(&bytes).question().name(), None);
}

#[test]
fn what_has_not_exactly_one_whole_question_is_none() {
    let whole = query(1, "example.com", 1);
    for length in 0..whole.len() {
        assert!(Message::read(&whole[..length]).is_none(), "{length}");
    }
    for count in [0, 2, 255] {
        let mut bytes = whole.clone();
        bytes[5] = count;
        assert!(Message::read(&bytes).is_none());
    }
    let mut pointer = whole.clone();
    pointer[12] = 0xc0;
    assert!(Message::read(&pointer).is_none());
    assert!(Message::read(&query(1, &["a"; 127].join("."), 1)).is_some());
    assert!(Message::read(&query(1, &["a"; 128].join("."), 1)).is_none());
}

#[test]
fn aliases_are_followed_and_the_shortest_ttl_counts() {
    let bytes = answer(
        1,
        "www.Example.com",
        1,
        &[
            Says::Address("cdn.example.net", "192.0.2.1", 300),
            Says::Alias("WWW.example.com", "a.example.net", 30),
            Says::Alias("a.example.net", "CDN.example.net", 500),
            Says::Address("cdn.example.NET", "2001:db8::1", 20),
            Says::Address("unasked.example", "192.0.2.9", 300),
        ],
    );
    let chain = names(&["www.example.com", "a.example.net", "cdn.example.net"]);
    let expected = [
        ("192.0.2.1".to_owned(), chain.clone(), 30),
        ("2001:db8::1".to_owned(), chain, 20),
    ];
    assert_eq!(addresses(&bytes), expected);
}

/// RFC 9460 §7.3: clients connect to hints before they are told the address.
#[test]
fn hints_of_https_records_are_addresses() {
    use simple_dns::rdata::{HTTPS, SVCB};
    use simple_dns::{Name, Packet, ResourceRecord};
    let mut packet = Packet::new_reply(1);
    let mut service = SVCB::new(1, Name::new_unchecked(""));
    service.set_alpn(&["h3".try_into().expect("a string")]);
    service.set_ipv4hint(&[0xc000_0201, 0xc000_0202]);
    service.set_ipv6hint(&[0x2001_0db8 << 96 | 1]);
    let data = RData::HTTPS(HTTPS(service));
    let name = Name::new_unchecked("a.example");
    let record = ResourceRecord::new(name, CLASS::IN, 70, data);
    packet.answers.push(record);
    let records = packet.build_bytes_vec().expect("an answer");
    let mut bytes = answer(1, "a.example", 65, &[]);
    bytes[7] = 1;
    bytes.extend(&records[12..]);
    let found: Vec<_> = addresses(&bytes).into_iter().map(|a| a.0).collect();
    assert_eq!(found, ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
}

#[test]
fn circles_and_endless_chains_lead_nowhere() {
    let circle = [
        Says::Alias("a.example", "b.example", 1),
        Says::Alias("b.example", "a.example", 1),
        Says::Address("a.example", "192.0.2.1", 1),
    ];
    assert!(addresses(&answer(1, "a.example", 1, &circle)).is_empty());
    let chain: Vec<String> = (0..=MAX_ALIASES + 1).map(|n| format!("n{n}.x")).collect();
    let link = |n: usize| Says::Alias(&chain[n], &chain[n + 1], 1);
    for (links, reached) in [(MAX_ALIASES, 1), (MAX_ALIASES + 1, 0)] {
        let mut says: Vec<_> = (0..links).map(link).collect();
        says.push(Says::Address(&chain[links], "192.0.2.1", 1));
        let found = addresses(&answer(1, "n0.x", 1, &says));
        assert_eq!(found.len(), reached, "{links}");
    }
}

#[test]
fn what_follows_the_answers_cannot_hide_them() {
    let mut bytes = answer(
        1,
        "a.example",
        1,
        &[Says::Address("a.example", "192.0.2.1", 9)],
    );
    // Reserved bit, truncation, and an additional record that is none (RFC 6891 OPT cut off).
    bytes[2] |= 0x02;
    bytes[3] |= RESERVED;
    bytes[11] = 1;
    bytes.extend([0, 0, 41, 16]);
    assert_eq!(addresses(&bytes).len(), 1);
    // Only success says something.
    bytes[3] = 3;
    assert!(addresses(&bytes).is_empty());
}

#[test]
fn a_count_is_only_a_claim() {
    let mut bytes = answer(
        1,
        "a.example",
        1,
        &[Says::Address("a.example", "192.0.2.1", 9)],
    );
    bytes[6..8].fill(0xff);
    assert!(addresses(&bytes).is_empty());
    let many = [Says::Address("a.example", "192.0.2.1", 9); MAX_ADDRESSES + 1];
    let bytes = answer(1, "a.example", 1, &many);
    assert_eq!(addresses(&bytes).len(), MAX_ADDRESSES);
    let mut long = answer(1, "a.example", 1, &many[..1]);
    long.resize(MAX_READ + 1, 0);
    assert!(addresses(&long).is_empty());
}

proptest! {
    #[test]
    fn any_bytes_give_a_result(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Some(message) = Message::read(&bytes) {
            let _ = (message.question().name(), message.addresses(), format!("{message:?}"));
            prop_assert!(message.question().is(message.question().wire()));
        }
    }

    #[test]
    fn a_damaged_answer_gives_a_result(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = answer(1, "www.example.com", 1, &[
            Says::Alias("www.example.com", "a.example.net", 30),
            Says::Address("a.example.net", "192.0.2.1", 300),
        ]);
        bytes.truncate(bytes.len() - cut.index(bytes.len()) / 8);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(message) = Message::read(&bytes) {
            let said = message.addresses();
            prop_assert!(said.len() <= MAX_ADDRESSES);
            prop_assert!(said.iter().all(|a| a.names.len() <= MAX_ALIASES + 1));
        }
    }
}
