//! Mappings against their promises, on random histories.

use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::*;
use vpn_core::{Protocol, TunnelId};

use super::*;

const UK: Space = (TunnelId::new(0), Protocol::UDP);
const FR: Space = (TunnelId::new(1), Protocol::UDP);

fn endpoint(text: &str) -> Endpoint {
    let socket: std::net::SocketAddr = text.parse().unwrap();
    Endpoint::new(socket.ip(), socket.port())
}

fn any_port(_: u16) -> bool {
    true
}

/// RFC 4787 REQ-1: one endpoint of the device, one of the tunnel.
#[test]
fn one_socket_has_one_endpoint_per_tunnel() {
    let mut nat = Mappings::new(Some(1));
    let app = endpoint("10.5.0.2:5000");
    let mut acquire = |space, wanted| nat.acquire(space, app, endpoint(wanted), any_port);
    let (first, wire) = acquire(UK, "10.6.0.2:5000").unwrap();
    assert_eq!(wire, endpoint("10.6.0.2:5000"), "the port is kept");
    let (second, same) = acquire(UK, "10.6.0.2:5000").unwrap();
    assert_eq!((&first, wire), (&second, same));
    let (_, other) = acquire(FR, "10.7.0.2:5000").unwrap();
    assert_eq!(other, endpoint("10.7.0.2:5000"));
    assert_eq!(nat.len(), 2);
}

/// RFC 4787 REQ-3: no overloading.
#[test]
fn two_sockets_never_share_an_endpoint() {
    let mut nat = Mappings::new(Some(1));
    let wanted = endpoint("10.6.0.2:5000");
    let (a, b) = (endpoint("10.5.0.2:5000"), endpoint("10.9.0.2:5000"));
    let (_, first) = nat.acquire(UK, a, wanted, any_port).unwrap();
    let (_, second) = nat.acquire(UK, b, wanted, any_port).unwrap();
    assert_ne!(first, second);
    assert!(second.port >= FIRST_PORT);
}

#[test]
fn a_mapping_lives_as_long_as_its_last_flow() {
    let mut nat = Mappings::new(Some(1));
    let (app, wanted) = (endpoint("10.5.0.2:5000"), endpoint("10.6.0.2:5000"));
    let (one, _) = nat.acquire(UK, app, wanted, any_port).unwrap();
    let (two, _) = nat.acquire(UK, app, wanted, any_port).unwrap();
    nat.release(one);
    assert_eq!(nat.len(), 1);
    nat.release(two);
    assert!(nat.is_empty());
    let other = endpoint("10.9.0.2:5000");
    assert_eq!(nat.acquire(UK, other, wanted, any_port).unwrap().1, wanted);
}

#[test]
fn published_ports_are_not_given_away() {
    let mut nat = Mappings::new(Some(1));
    let (app, wanted) = (endpoint("10.5.0.2:5000"), endpoint("10.6.0.2:5000"));
    let (_, wire) = nat.acquire(UK, app, wanted, |port| port != 5000).unwrap();
    assert_ne!(wire.port, 5000);
    let none = nat.acquire(UK, endpoint("10.5.0.2:1"), wanted, |_| false);
    assert_eq!(none, Err(PortsExhausted));
    assert_eq!(nat.len(), 1, "nothing is left of what was refused");
}

#[test]
fn an_exact_mapping_is_had_or_refused() {
    let mut nat = Mappings::new(Some(1));
    let (server, other) = (endpoint("10.5.0.2:80"), endpoint("10.5.0.2:81"));
    let published = endpoint("10.6.0.2:8080");
    let id = nat.acquire_exact(UK, server, published).unwrap();
    assert_eq!(nat.acquire_exact(UK, server, published), Some(id));
    assert_eq!(nat.acquire_exact(UK, other, published), None);
    // What the server itself begins leaves from there, too.
    let wanted = endpoint("10.6.0.2:80");
    assert_eq!(
        nat.acquire(UK, server, wanted, any_port).unwrap().1,
        published
    );
}

/// RFC 6056: ports for collisions are not those that anybody would guess next.
#[test]
fn drawn_ports_are_spread_and_repeat_only_with_the_seed() {
    let draw = |seed| -> Vec<u16> {
        let mut ports = RandomPorts::new(seed);
        (0..64).map(|_| ports.draw(any_port).unwrap()).collect()
    };
    assert_eq!(draw(Some(7)), draw(Some(7)));
    assert_ne!(draw(Some(7)), draw(Some(8)));
    assert_ne!(draw(None), draw(None));
    let drawn = draw(Some(7));
    let near = drawn
        .windows(2)
        .filter(|w| w[0].abs_diff(w[1]) < 64)
        .count();
    assert!(near < 4, "{drawn:?}");
}

#[test]
fn a_prefix_map_goes_both_ways() {
    let map = |a: &str, b: &str| PrefixMap::new(a.parse().unwrap(), b.parse().unwrap());
    let v6 = map("fd71::/64", "2001:db8:1::/64").unwrap();
    let there = v6.to_remote("fd71::9".parse().unwrap()).unwrap();
    assert_eq!(there, "2001:db8:1::9".parse::<std::net::IpAddr>().unwrap());
    assert_eq!(v6.to_local(there), Some("fd71::9".parse().unwrap()));
    assert_eq!(v6.to_local("fd71::9".parse().unwrap()), None);
    assert!(map("10.0.0.0/8", "192.168.0.0/16").is_err());
    assert!(map("10.0.0.0/8", "fd00::/8").is_err());
    let all = map("0.0.0.0/0", "0.0.0.0/0").unwrap();
    let any = "203.0.113.9".parse().unwrap();
    assert_eq!(all.to_remote(any), Some(any));
    let (a, b) = (
        map("10.71.1.0/24", "192.168.1.0/24").unwrap(),
        map("10.72.1.0/24", "192.168.1.0/25").map_err(|e| e.to_string()),
    );
    assert!(b.is_err());
    let twice = map("10.72.1.0/24", "192.168.1.0/24").unwrap();
    assert!(PrefixMaps::new(vec![a, twice]).is_err(), "which way back?");
}

#[derive(Clone, Debug)]
enum Step {
    Acquire(u8, u8),
    Exact(u8, u8, u8),
    Apart(u8, u8),
    Release(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2u8, 0..12u8).prop_map(|(t, d)| Step::Acquire(t, d)),
        2 => (0..2u8, 0..12u8, 0..6u8).prop_map(|(t, d, w)| Step::Exact(t, d, w)),
        1 => (0..2u8, 0..12u8).prop_map(|(t, d)| Step::Apart(t, d)),
        4 => any::<prop::sample::Index>().prop_map(Step::Release),
    ]
}

proptest! {
    /// Whatever happens: no endpoint of a tunnel stands for two of the device, an endpoint of the
    /// device keeps its own while a flow uses it, and nothing is left at the end.
    #[test]
    fn mappings_keep_their_promises(steps in prop::collection::vec(step(), 1..200), seed: u64) {
        let mut nat = Mappings::new(Some(seed));
        // Twelve endpoints on three addresses want four ports.
        let device = |d: u8| Endpoint::new([10, 5, 0, d / 4].into(), 5000 + u16::from(d % 4));
        let wire = |port: u16| Endpoint::new([10, 6, 0, 2].into(), port);
        let space = |t: u8| (TunnelId::new(t.into()), Protocol::UDP);
        let mut live: Vec<(MappingId, u8, u8, Endpoint)> = Vec::new();
        for step in steps {
            match step {
                Step::Acquire(t, d) => {
                    let (id, got) = nat
                        .acquire(space(t), device(d), wire(device(d).port), any_port)
                        .unwrap();
                    live.push((id, t, d, got));
                }
                Step::Exact(t, d, w) => {
                    let wanted = wire(5000 + u16::from(w));
                    let taken = live.iter().any(|&(_, lt, ld, lw)| lt == t && lw == wanted && ld != d);
                    let id = nat.acquire_exact(space(t), device(d), wanted);
                    prop_assert_eq!(id.is_none(), taken);
                    live.extend(id.map(|id| (id, t, d, wanted)));
                }
                Step::Apart(t, d) => {
                    let addr = wire(0).addr;
                    let (id, got) = nat.acquire_apart(space(t), device(d), addr, any_port).unwrap();
                    prop_assert!(!live.iter().any(|l| (l.1, l.3) == (t, got)));
                    live.push((id, t, d, got));
                }
                Step::Release(which) => {
                    if !live.is_empty() {
                        let gone = live.swap_remove(which.index(live.len()));
                        nat.release(gone.0);
                    }
                }
            }
            let mut standing: HashMap<(u8, Endpoint), u8> = HashMap::new();
            for &(_, t, d, w) in &live {
                prop_assert_eq!(*standing.entry((t, w)).or_insert(d), d);
            }
            prop_assert_eq!(nat.len(), standing.len());
        }
        for (id, ..) in live {
            nat.release(id);
        }
        prop_assert!(nat.is_empty());
    }
}

proptest! {
    /// Every length of both families, against plain integers.
    #[test]
    fn a_prefix_map_moves_the_network_and_keeps_the_host(
        v6 in any::<bool>(), len in 0u8..=128, here in any::<u128>(), there in any::<u128>(),
        addr in any::<u128>(), inside in any::<bool>(),
    ) {
        let bits = if v6 { 128 } else { 32 };
        let len = len % (bits + 1);
        let cut = |n: u128| if v6 { n } else { n & 0xffff_ffff };
        let host = cut(u128::MAX).checked_shr(len.into()).unwrap_or(0);
        let address = |n: u128| match v6 {
            true => IpAddr::from(n.to_be_bytes()),
            false => IpAddr::from((n as u32).to_be_bytes()),
        };
        let network = |n: u128| ipnet::IpNet::new(address(n), len).unwrap();
        let (here, there) = (cut(here), cut(there));
        let map = PrefixMap::new(network(here), network(there)).unwrap();
        let addr = match inside {
            true => (here & !host) | (addr & host),
            false => cut(addr),
        };
        let meant = (addr & !host == here & !host).then(|| address((there & !host) | (addr & host)));
        prop_assert_eq!(map.to_remote(address(addr)), meant);
        if let Some(remote) = meant {
            prop_assert_eq!(map.to_local(remote), Some(address(addr)));
        }
    }
}
