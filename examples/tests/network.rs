//! The network below changes while the daemon runs: tunnels are back within a second, without
//! waiting for a silence to be noticed.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and an app speaks on standard output"
)]

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use support::app::{self, NOTHING};
use support::in_time;
use support::lab::{Lab, nothing_direct};
use vpn_lab::{Capture, LabPlan, RegionPlan, Seen};

/// What is promised: less than any keep-alive or silence that a transport would wait for.
const A_SECOND: Duration = Duration::from_secs(1);

/// For what is not promised.
const LIMIT: Duration = Duration::from_secs(20);

/// A handshake initiation over IPv4 (whitepaper §5.4.2): 148 bytes, UDP, IP.
const INITIATION: usize = 148 + 8 + 20;

/// The client's address at its second uplink.
const SECOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// The app: the other tests start copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

fn lab() -> Option<Lab> {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1)],
        client_rp_filter: 1,
    };
    let lab = Lab::start(plan, "", "apply = \"none\"")?;
    lab.rule("--uid 1001 --to uk");
    // A second cable to the gateway, for when the first way is gone.
    let (client, gateway) = (lab.lab.client(), lab.lab.gateway());
    vpn_lab::veth(gateway, "p-second", client, "eth1").expect("a cable");
    gateway
        .ip("addr add 198.51.100.1/24 dev p-second")
        .expect("ip");
    client
        .ip(&format!("addr add {SECOND}/24 dev eth1"))
        .expect("ip");
    client
        .ip("route add default via 198.51.100.1 dev eth1 metric 200")
        .expect("ip");
    lab.settle();
    Some(lab)
}

/// Waits until it is so, and says how long that took.
fn until(what: &str, is_so: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
    begun.elapsed()
}

fn state(lab: &Lab) -> String {
    let status = lab.site.status(lab.lab.client());
    status["tunnels"]["uk"]["state"]
        .to_string()
        .replace('"', "")
}

fn initiations(capture: &Capture, from: Ipv4Addr) -> usize {
    let of = |seen: &&Seen| seen.length == INITIATION && seen.source.ip() == IpAddr::V4(from);
    capture.so_far().iter().filter(of).count()
}

/// A tunnel without traffic does not notice by itself that its address is another one, or that its
/// packets take another way: the server would go on sending to the old place.
#[test]
fn an_idle_tunnel_tells_its_server_where_it_is_now() {
    let Some(lab) = lab() else { return };
    let (client, gateway) = (lab.lab.client(), lab.lab.gateway());
    let _daemon = lab.daemon();
    lab.only(1001, "uk", "http4");
    // At one go: between two programs a busy machine may do something else.
    let ip = |lines: &[&str]| {
        let file = lab.site.write("batch", &lines.join("\n"));
        client.ip(&format!("-batch {}", file.display()))
    };
    let (first, moved) = (Ipv4Addr::new(192, 0, 2, 10), Ipv4Addr::new(192, 0, 2, 99));
    let measured = || {
        let capture = lab.lab.capture().expect("a capture");
        let changes = [
            "addr del 192.0.2.10/24 dev eth0",
            "addr add 192.0.2.99/24 dev eth0",
        ];
        ip(&changes).expect("ip");
        let address = until("a handshake", || initiations(&capture, moved) > 0);
        lab.only(1001, "uk", "http4");
        let (_, all) = capture.finish();
        println!("the address changed: a handshake after {address:?}, {all} packets");

        let capture = Capture::start(gateway, "p-second").expect("a capture");
        client.ip("addr del 192.0.2.99/24 dev eth0").expect("ip");
        let route = until("a handshake", || initiations(&capture, SECOND) > 0);
        lab.only(1001, "uk", "http4");
        let count = initiations(&capture, SECOND);
        assert!((1..=3).contains(&count), "{count} handshakes");
        println!("the default route moved: a handshake after {route:?}, {count} in all");

        // And back, to where the next measurement begins.
        let capture = lab.lab.capture().expect("a capture");
        let changes = [
            "addr add 192.0.2.10/24 dev eth0",
            "route add default via 192.0.2.1 dev eth0 onlink",
        ];
        ip(&changes).expect("ip");
        until("a handshake", || initiations(&capture, first) > 0);
        lab.only(1001, "uk", "http4");
        address.max(route)
    };
    nothing_direct(&lab, || in_time(A_SECOND, measured));
}

/// N-25: nothing followed when the network was lost.
#[test]
fn a_link_that_goes_and_comes_back() {
    let Some(lab) = lab() else { return };
    lab.lab.client().ip("link del eth1").expect("ip");
    let (client, gateway) = (lab.lab.client(), lab.lab.gateway());
    let daemon = lab.daemon();
    lab.only(1001, "uk", "http4");
    let (mut downs, mut ups) = (Vec::new(), Vec::new());
    for round in 0..3 {
        gateway.ip("link set p-client down").expect("ip");
        let lost = until("down", || state(&lab) == "down");
        lab.only(1001, NOTHING, "short4");
        gateway.ip("link set p-client up").expect("ip");
        // The kernel gathers changes of carriers for up to a second before it says so.
        let link = || client.tool("ip", "-o link show eth0").expect("ip");
        until("a carrier", || link().contains("state UP"));
        let back = until("up", || state(&lab) == "up");
        lab.only(1001, "uk", "http4");
        println!("round {round}: down after {lost:?}, up after {back:?}");
        downs.push(lost);
        ups.push(back);
    }
    // This machine may be busy: once in time is enough, what is wrong is late each time.
    for took in [downs, ups] {
        let in_time = took.iter().any(|took| *took < A_SECOND);
        assert!(in_time, "{took:?}: {}", daemon.log());
    }
}

/// However often the link flaps, the server hears little of it.
#[test]
fn attempts_are_bounded() {
    let Some(lab) = lab() else { return };
    let client = lab.lab.client();
    let _daemon = lab.daemon();
    lab.only(1001, "uk", "http4");
    let capture = lab.lab.capture().expect("a capture");
    let begun = Instant::now();
    for _ in 0..100 {
        client.ip("link set eth0 down").expect("ip");
        client.ip("link set eth0 up").expect("ip");
        client
            .ip("route replace default via 192.0.2.1")
            .expect("ip");
    }
    let flapping = begun.elapsed();
    // Still "up" says nothing yet: what was the last flap is told a moment later.
    until("a handshake", || {
        initiations(&capture, Ipv4Addr::new(192, 0, 2, 10)) > 0
    });
    until("up", || {
        state(&lab) == "up"
            && !lab
                .run(1001, "short4")
                .contains(&format!("short4 {NOTHING}"))
    });
    let (seen, _) = capture.finish();
    let count = seen.iter().filter(|seen| seen.length == INITIATION).count();
    // Two changes a second, each with an attempt and a later one, and some to end with.
    let most = 6 + 4 * usize::try_from(flapping.as_secs()).expect("a number");
    assert!((1..=most).contains(&count), "{count} in {flapping:?}");
    println!("100 flaps in {flapping:?}: {count} handshakes");
}
