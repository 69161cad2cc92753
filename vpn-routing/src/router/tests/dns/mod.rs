//! Queries go to the resolver of the tunnel that their rule names, answers count once, and what
//! they say decides later flows.

mod answers;
mod domains;
mod model;

use vpn_core::{DropReason, Protocol};

use super::world::{World, addr, flow_of, udp};
use crate::dns::testing::{Says, answer, query};
use crate::{RouterConfig, dns::DnsLimits};

const VIRTUAL: &str = "100.127.255.53";
const UK: (&str, &str) = ("10.5.0.2", "198.18.1.53");
const FR: (&str, &str) = ("10.5.0.2", "198.18.2.53");
/// On the device: both providers assign it.
const APP: &str = "10.5.0.2";
const A: u16 = 1;

/// Two providers with one address and a resolver each; user 1001 is in the uk, 1002 in fr.
fn two_regions() -> World {
    with_limits(DnsLimits::default())
}

fn with_limits(dns: DnsLimits) -> World {
    let config = RouterConfig {
        resolvers: vec![addr(VIRTUAL)],
        dns,
        ..RouterConfig::default()
    };
    let mut world = World::with_config(config, &[("uk", &[]), ("fr", &[])]);
    world.up("uk", &["10.5.0.2/32"], &[UK.1]);
    world.up("fr", &["10.5.0.2/32"], &[FR.1]);
    world.rule(1001, "uk");
    world.rule(1002, "fr");
    world
}

/// A user's socket asks `resolver`.
fn ask(world: &mut World, uid: u32, port: u16, resolver: &str, query: &[u8]) {
    world.socket(Protocol::UDP, (APP, port), uid, port.into());
    world.send([udp((APP, port), (resolver, 53), query)]);
}

/// A resolver answers in its tunnel.
fn reply(world: &mut World, tunnel: &str, port: u16, message: &[u8]) {
    let (own, resolver) = if tunnel == "uk" { UK } else { FR };
    world.receive(tunnel, &udp((resolver, 53), (own, port), message));
}

/// A user looks a name up and is told an address, through the tunnel that the query took.
fn look_up(world: &mut World, uid: u32, tunnel: &str, name: &str, address: &str, ttl: u32) {
    let port = 50_000 + world.router.accounts().in_device as u16;
    ask(world, uid, port, VIRTUAL, &query(port, name, A));
    assert_eq!(
        world.sent(tunnel).len(),
        1,
        "{name} is asked for in {tunnel}"
    );
    let says = [Says::Address(name, address, ttl)];
    reply(world, tunnel, port, &answer(port, name, A, &says));
    assert_eq!(world.delivered().len(), 1);
}

/// Which tunnel a new flow of a user takes; `None` if it is dropped.
fn way(world: &mut World, uid: u32, address: &str) -> Option<&'static str> {
    let port = 20_000 + world.router.accounts().in_device as u16;
    world.socket(Protocol::UDP, (APP, port), uid, port.into());
    world.send([udp((APP, port), (address, 443), b"hello")]);
    let ways: Vec<_> = ["uk", "fr"]
        .into_iter()
        .filter(|tunnel| !world.sent(tunnel).is_empty())
        .collect();
    assert!(ways.len() <= 1);
    ways.first().copied()
}
