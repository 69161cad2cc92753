//! Routes against a list that is searched from end to end.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;
use vpn_core::TunnelId;

use super::{
    MAX_REPORTED, MAX_ROUTES_OF_TUNNEL, RouteConflict, RoutePolicy, RouteRefusal, RouteTable,
};

fn id(index: u16) -> TunnelId {
    TunnelId::new(index)
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn of(table: &RouteTable, addr: &str) -> Option<usize> {
    let found = table.lookup(addr.parse().unwrap());
    found.map(|(_, tunnel)| tunnel.index())
}

#[test]
fn nothing_is_admitted_unless_policy_says_so() {
    let mut table = RouteTable::new();
    let pushed = nets(&["0.0.0.0/0", "::/0", "10.1.0.0/16"]);
    let report = table.advertise(id(0), &pushed).unwrap();
    assert_eq!((report.admitted, report.refused), (0, 3));
    assert_eq!(report.refusals[2], (pushed[2], RouteRefusal::Policy));
    assert!(report.is_clean(), "nobody wanted them");
    assert_eq!(of(&table, "10.1.2.3"), None);
    let report = table.set_policy(id(0), RoutePolicy::All).unwrap();
    assert_eq!(report.admitted, 3, "what was advertised before counts");
    assert_eq!(of(&table, "2001:db8::1"), Some(0));
    assert_eq!(table.set_policy(id(0), RoutePolicy::All), None);
}

/// L-19, N-10: a default route is one in halves, too.
#[test]
fn a_default_route_in_disguise_is_one() {
    let policy = RoutePolicy::AllButDefault;
    for route in nets(&[
        "0.0.0.0/0",
        "0.0.0.0/1",
        "128.0.0.0/1",
        "64.0.0.0/2",
        "::/0",
        "2000::/3",
    ]) {
        assert_eq!(policy.admits(route), Err(RouteRefusal::Default), "{route}");
    }
    for route in nets(&["10.0.0.0/8", "192.168.1.0/24", "2001:db8::/32"]) {
        assert_eq!(policy.admits(route), Ok(()), "{route}");
    }
}

#[test]
fn a_list_admits_what_lies_within() {
    let policy = RoutePolicy::Within(nets(&["10.0.0.0/8", "fd00::/8"]));
    assert_eq!(policy.admits("10.3.0.0/16".parse().unwrap()), Ok(()));
    assert_eq!(policy.admits("10.0.0.0/8".parse().unwrap()), Ok(()));
    for route in nets(&["0.0.0.0/0", "11.0.0.0/8", "8.0.0.0/6"]) {
        assert_eq!(policy.admits(route), Err(RouteRefusal::Policy), "{route}");
    }
}

#[test]
fn what_no_tunnel_carries_is_never_admitted() {
    for route in nets(&[
        "127.0.0.1/32",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "fe80::/64",
        "::1/128",
        "ff02::/16",
    ]) {
        assert_eq!(
            RoutePolicy::All.admits(route),
            Err(RouteRefusal::NotRoutable),
            "{route}"
        );
    }
}

#[test]
fn of_equal_prefixes_the_tunnel_that_was_added_first_has_it() {
    let mut table = RouteTable::new();
    let shared = nets(&["10.1.0.0/16"]);
    for tunnel in [1, 0] {
        table.set_policy(id(tunnel), RoutePolicy::All);
        let report = table.advertise(id(tunnel), &shared).unwrap();
        let conflict = RouteConflict {
            route: shared[0],
            winner: id(0),
            loser: id(1),
        };
        assert_eq!(
            report.conflicts,
            if tunnel == 1 { vec![] } else { vec![conflict] }
        );
    }
    assert_eq!(of(&table, "10.1.0.1"), Some(0), "whoever came up first");
    assert!(table.withdraw(id(0)));
    assert_eq!(of(&table, "10.1.0.1"), Some(1));
    assert!(table.withdraw(id(1)));
    assert_eq!(of(&table, "10.1.0.1"), None);
    assert!(table.is_empty());
}

/// N-10: sets of routes grew for ever.
#[test]
fn a_flood_of_routes_is_bounded_and_so_is_its_report() {
    let many: Vec<IpNet> = (0..20_000u32)
        .map(|n| {
            Ipv4Net::new(Ipv4Addr::from_bits(0x0b00_0000 | n << 8), 24)
                .unwrap()
                .into()
        })
        .collect();
    let mut table = RouteTable::new();
    table.set_policy(id(0), RoutePolicy::AllButDefault);
    let report = table.advertise(id(0), &many).unwrap();
    assert_eq!(report.admitted, MAX_ROUTES_OF_TUNNEL);
    assert_eq!(report.refused, many.len() - MAX_ROUTES_OF_TUNNEL);
    assert!(report.refusals.len() <= MAX_REPORTED);
    assert_eq!(report.refusals[0].1, RouteRefusal::TooMany);
    assert!(!report.is_clean());
    assert_eq!(table.len(), MAX_ROUTES_OF_TUNNEL);
}

fn policies() -> impl Strategy<Value = RoutePolicy> {
    prop_oneof![
        Just(RoutePolicy::None),
        Just(RoutePolicy::AllButDefault),
        Just(RoutePolicy::All),
        Just(RoutePolicy::Within(nets(&["10.0.0.0/9"]))),
    ]
}

fn routes() -> impl Strategy<Value = Vec<IpNet>> {
    let route = (0u8..4, 0u8..=32).prop_map(|(low, len)| {
        let addr = Ipv4Addr::new(10, low << 6, low, low);
        IpNet::V4(Ipv4Net::new(addr, len).unwrap())
    });
    prop::collection::vec(route, 0..8)
}

proptest! {
    #[test]
    fn the_longest_admitted_prefix_wins_and_nothing_else(
        steps in prop::collection::vec(
            (0u16..4, prop_oneof![
                routes().prop_map(|r| (Some(r), None, false)),
                policies().prop_map(|p| (None, Some(p), false)),
                Just((None, None, true)),
            ]),
            1..30,
        ),
        asked in prop::collection::vec((0u8..4, any::<u8>()), 10),
    ) {
        let mut table = RouteTable::new();
        let mut model: [(RoutePolicy, Vec<IpNet>); 4] = Default::default();
        for (tunnel, (routes, policy, gone)) in steps {
            let place = &mut model[usize::from(tunnel)];
            if let Some(routes) = routes {
                table.advertise(id(tunnel), &routes);
                place.1 = routes;
            }
            if let Some(policy) = policy {
                table.set_policy(id(tunnel), policy.clone());
                place.0 = policy;
            }
            if gone {
                table.withdraw(id(tunnel));
                *place = Default::default();
            }
            for (high, low) in &asked {
                let addr = IpAddr::from([10, high << 6, *low, *low]);
                let found = model.iter().enumerate().flat_map(|(index, (policy, routes))| {
                    let admitted = routes.iter().filter(|r| policy.admits(r.trunc()).is_ok());
                    admitted.map(move |route| (route, index))
                });
                let best = found
                    .filter(|(route, _)| route.contains(&addr))
                    .min_by_key(|(route, index)| (std::cmp::Reverse(route.prefix_len()), *index));
                let expected = best.map(|(route, index)| (route.trunc(), id(index as u16)));
                prop_assert_eq!(table.lookup(addr), expected);
            }
        }
        for tunnel in 0..4 {
            table.withdraw(id(tunnel));
        }
        prop_assert!(table.is_empty());
    }
}
