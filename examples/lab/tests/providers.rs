//! The lab itself: stock clients reach every region, and what must not pass does not.
//! Needs root; says what is missing otherwise.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a failing test says so"
)]

use std::net::IpAddr;
use std::time::Duration;

use vpn_lab::{LabPlan, ProviderKind, ProviderLab, SHARED_DNS, SITE4, SITE6, Seen, client};

/// Starts a lab with servers of this kind, to be used by stock clients, or says why not.
fn lab_of(kind: ProviderKind) -> Option<ProviderLab> {
    let plan = LabPlan::default().with_servers(kind);
    let mut programs = plan.programs();
    programs.extend(ProviderKind::WireguardGo.programs());
    if vpn_lab::skip(&programs) {
        return None;
    }
    Some(ProviderLab::start(plan).expect("a lab"))
}

fn lab() -> Option<ProviderLab> {
    lab_of(ProviderKind::WireguardGo)
}

/// Sends all of the client's traffic but the tunnels' own through `interface`.
fn route_all(lab: &ProviderLab, interface: &str) {
    for family in ["-4", "-6"] {
        for to in ["203.0.113.0/24", "198.18.0.0/16", "2001:db8:113::/64"] {
            if to.contains(':') == (family == "-6") {
                lab.client()
                    .ip(&format!("{family} route replace {to} dev {interface}"))
                    .expect("a route");
            }
        }
    }
}

#[test]
fn the_direct_path_answers_as_direct() {
    let Some(lab) = lab() else { return };
    for site in [IpAddr::from(SITE4), SITE6.into()] {
        let region = lab
            .client()
            .run(|| client::region_of(site))
            .expect("inside");
        assert_eq!(region.expect("an answer"), "direct");
    }
}

#[test]
fn a_stock_client_reaches_every_region_of_stock_servers() {
    reaches_every_region(ProviderKind::WireguardGo);
}

#[test]
fn a_stock_client_reaches_every_region_of_our_servers() {
    reaches_every_region(ProviderKind::InProcess);
}

fn reaches_every_region(kind: ProviderKind) {
    let Some(mut lab) = lab_of(kind) else { return };
    for name in ["uk", "fr", "us"] {
        let interface = lab.stock_client(name).expect("a stock client");
        route_all(&lab, &interface);
        let capture = lab.capture().expect("a capture");
        lab.client()
            .run(|| {
                for site in [IpAddr::from(SITE4), SITE6.into()] {
                    assert_eq!(client::region_of(site).expect("HTTP"), name);
                    let echo = client::udp_echo(site, "hi").expect("echo");
                    assert_eq!(echo, format!("{name} hi"));
                }
                let txt = client::dns_txt(SHARED_DNS.into(), "whoami.test").expect("TXT");
                assert_eq!(txt, name);
                for v6 in [false, true] {
                    client::dns_address(SHARED_DNS.into(), "web.test", v6).expect("web.test");
                }
                let body = client::http_get(SITE4.into(), "/bytes/300000").expect("bytes");
                assert_eq!(body.len(), 300_000);
            })
            .expect("inside");
        for site in ["203.0.113.10", "2001:db8:113::10"] {
            lab.client()
                .tool("ping", &format!("-q -c 2 -i 0.1 -W 2 {site}"))
                .expect("ping");
        }
        let (seen, total) = capture.finish();
        assert!(total > 0, "the tunnel's own packets are seen");
        let direct = lab.went_direct(&seen);
        assert!(direct.is_empty(), "{name}: {direct:?}");
        lab.end_stock_clients();
    }
    assert_eq!(lab.drops().expect("drops"), 0);
}

#[test]
fn a_wrong_source_is_dropped_and_counted_by_stock_servers() {
    drops_a_wrong_source(ProviderKind::WireguardGo);
}

#[test]
fn a_wrong_source_is_dropped_and_counted_by_our_servers() {
    drops_a_wrong_source(ProviderKind::InProcess);
}

fn drops_a_wrong_source(kind: ProviderKind) {
    let Some(mut lab) = lab_of(kind) else { return };
    let interface = lab.stock_client("fr").expect("a stock client");
    lab.client()
        .ip(&format!("addr add 10.5.0.77/32 dev {interface}"))
        .expect("an address");
    lab.client()
        .ip(&format!(
            "route add 203.0.113.0/24 dev {interface} src 10.5.0.77"
        ))
        .expect("a route");
    let limit = Duration::from_millis(800);
    let answer = lab
        .client()
        .run(|| client::http_get_within(SITE4.into(), "/", limit))
        .expect("inside");
    assert!(answer.is_err(), "{answer:?}");
    assert!(lab.drops().expect("drops") > 0);
}

#[test]
fn a_cut_region_is_silent_and_comes_back() {
    let Some(mut lab) = lab() else { return };
    let interface = lab.stock_client("uk").expect("a stock client");
    route_all(&lab, &interface);
    let region = |limit| {
        lab.client()
            .run(|| client::http_get_within(SITE4.into(), "/", limit))
            .expect("inside")
    };
    assert!(region(Duration::from_secs(5)).is_ok());
    lab.cut("uk").expect("cut");
    assert!(region(Duration::from_millis(500)).is_err());
    lab.heal("uk").expect("heal");
    // The neighbour entry may have failed meanwhile; it is asked for again within a second or two.
    assert!((0..10).any(|_| region(Duration::from_secs(2)).is_ok()));
}

#[test]
fn a_capture_sees_what_goes_direct() {
    let Some(lab) = lab() else { return };
    let capture = lab.capture().expect("a capture");
    let answer = lab.client().run(|| client::udp_echo(SITE4.into(), "x"));
    assert_eq!(answer.expect("inside").expect("echo"), "direct x");
    let (seen, _) = capture.finish();
    let direct = lab.went_direct(&seen);
    // A client asks again where an answer takes long.
    assert!(direct.len() >= 2, "question and answer: {seen:?}");
    for (what, from) in [("question", false), ("answer", true)] {
        let is = |packet: &Seen| (packet.source.ip() == IpAddr::from(SITE4)) == from;
        assert!(direct.iter().any(is), "{what}: {seen:?}");
    }
}

#[test]
fn a_region_is_not_reached_around_its_tunnel() {
    let Some(lab) = lab() else { return };
    let region = lab.region("uk").expect("uk");
    let inside = region.namespace();
    let own = inside.run(|| client::region_of(SITE4.into()));
    assert_eq!(own.expect("inside").expect("an answer"), "uk");
    for (site, via) in [
        ("203.0.113.10", "192.0.2.21"),
        ("2001:db8:113::10", "2001:db8:1::21"),
    ] {
        lab.client()
            .add_route(site, via.parse().expect("an address"))
            .expect("a route");
        let site: IpAddr = site.parse().expect("an address");
        let limit = Duration::from_millis(500);
        let answer = lab
            .client()
            .run(|| client::http_get_within(site, "/", limit));
        assert!(answer.expect("inside").is_err(), "{site}");
    }
}

#[test]
fn packet_filters_are_the_namespaces_own() {
    let Some(lab) = lab() else { return };
    if vpn_lab::skip(&["nft"]) {
        return;
    }
    let rules = "table inet t { chain c { type filter hook output priority 0; \
                 tcp dport 80 reject with tcp reset; }; }";
    lab.client().packet_filter(rules).expect("rules");
    let answer = lab.client().run(|| client::region_of(SITE4.into()));
    assert!(answer.expect("inside").is_err());
    let echo = lab.client().run(|| client::udp_echo(SITE4.into(), "x"));
    assert_eq!(echo.expect("inside").expect("an answer"), "direct x");
    assert!(lab.client().packet_filter("nonsense").is_err());
}

#[test]
fn profiles_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let Some(lab) = lab() else { return };
    for region in lab.regions() {
        let mode = std::fs::metadata(region.profile()).expect("a profile");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_panic_leaves_nothing() {
    let Some(lab) = lab() else { return };
    let folder = lab.folder().to_owned();
    let servers: Vec<u32> = lab
        .regions()
        .iter()
        .filter_map(|region| region.server_id())
        .collect();
    assert_eq!(servers.len(), 3);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _lab = lab;
        panic!("a test that fails");
    }));
    assert!(panicked.is_err());
    assert!(!folder.exists());
    for id in servers {
        assert!(
            !std::path::Path::new(&format!("/proc/{id}")).exists(),
            "server {id} is still there"
        );
    }
}
