//! Any datagram as a DNS message: read, waited for, learned from, within the bounds.
#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use vpn_core::{FlowKey, Protocol, TunnelId};
use vpn_routing::conn::OwnerSlot;
use vpn_routing::dns::{Book, DnsLimits, MAX_ADDRESSES, MAX_ALIASES, Message, Noted, Pending};

/// Small, so that they are met.
fn limits() -> DnsLimits {
    DnsLimits {
        flow_queries: 2,
        owner_queries: 3,
        queries: 4,
        address_names: 2,
        tunnel_names: 8,
        ..DnsLimits::default()
    }
}

fuzz_target!(|data: &[u8]| {
    let Some(message) = Message::read(data) else {
        return;
    };
    let _ = (message.question().name(), format!("{message:?}"));
    let addresses = message.addresses();
    assert!(addresses.len() <= MAX_ADDRESSES);
    assert!(addresses.is_empty() || message.is_answer());
    let tunnel = TunnelId::new(0);
    let mut book = Book::new(limits());
    for learned in &addresses {
        assert!(learned.names.len() <= MAX_ALIASES + 1);
        book.learn(0, tunnel, learned);
    }
    assert!(book.len() <= 8 && book.names_in(tunnel) == book.len());
    for learned in &addresses {
        assert!(book.names(0, learned.addr).count() <= 2);
    }
    waited_for(data, &message);
    book.forget(tunnel);
    assert!(book.is_empty());
});

/// A query's own answer counts once; anything else is none.
fn waited_for(data: &[u8], message: &Message<'_>) {
    let (client, resolver) = (Ipv4Addr::new(10, 5, 0, 2), Ipv4Addr::new(10, 99, 0, 1));
    let flow = FlowKey::new(Protocol::UDP, (client.into(), 5000), (resolver.into(), 53));
    let mut pending = Pending::new(limits());
    let mut reply = data.to_vec();
    reply[2] ^= 0x80;
    let Some(reply) = Message::read(&reply) else {
        return;
    };
    let (query, answer) = match message.is_answer() {
        true => (&reply, message),
        false => (message, &reply),
    };
    assert!(!pending.answered(0, &flow, answer), "nobody asked");
    assert_eq!(pending.note(0, &flow, OwnerSlot(0), query), Noted::Waits);
    assert!(
        !pending.answered(0, &flow.reversed(), answer),
        "of another flow"
    );
    assert!(pending.answered(0, &flow, answer), "its answer");
    assert!(!pending.answered(0, &flow, answer), "counts once");
}
