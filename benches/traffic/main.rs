//! What the less usual packets cost: first packets of flows, fragments, errors, handshakes, queries,
//! and packets under a filter, each beside an ordinary packet of an established flow that is
//! translated.
//!
//! Each kind asserts how many packets come out, so none measures drops.
#![allow(missing_docs, reason = "criterion's macros")]

mod case;
mod dns;
mod errors;
mod filter;
mod flows;
mod lane;
mod sizes;

use criterion::{Criterion, criterion_group, criterion_main};

fn traffic(criterion: &mut Criterion) {
    for (title, goal, cases) in [
        (
            "new flow",
            "<= 10 x, <= 30 x with its owner",
            flows::new_flows(),
        ),
        ("new flow through a group", "<= 20 x", flows::members()),
        ("flow from behind a tunnel", "<= 10 x", flows::inbound()),
        ("handshake", "<= 10 x", flows::handshakes()),
        ("8,000 bytes in fragments", "<= 8 x", sizes::fragments()),
        ("too large for its tunnel", "<= 30 x", sizes::too_large()),
        ("ICMP error", "<= 6 x", errors::errors()),
        ("DNS, steered", "<= 40 x", dns::dns()),
        ("filter", "<= 1.1 x while nothing changes", filter::filter()),
    ] {
        case::report(criterion, title, goal, cases);
    }
}

criterion_group!(benches, traffic);
criterion_main!(benches);
