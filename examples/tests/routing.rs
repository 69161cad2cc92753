//! What real traffic asks of a router, through real WireGuard: fragments, ICMP errors, path MTU,
//! groups, inbound rules, overlapping networks, direct.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and an app speaks on standard output"
)]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use support::app::{self, App};
use support::lab::{Lab, USERS, nothing_direct};
use support::{LIMIT, as_user, in_time};
use vpn_lab::{LabPlan, Output, SITE4, SITE6, client};

const NO_DNS: &str = "apply = \"none\"";

/// A new connection is on the next member of a group within this time.
const FAIL_OVER_LIMIT: Duration = Duration::from_secs(1);

/// The app: the other tests start copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

/// `ping` as a user, with these options.
fn ping(lab: &Lab, uid: u32, options: &str) -> Output {
    let mut command = as_user(std::path::Path::new("ping"), uid);
    command.args(["-n", "-c", "2", "-i", "0.2", "-W", "1"]);
    command.args(options.split(' '));
    lab.lab.client().output(command, LIMIT).expect("ping")
}

/// 8,000 bytes there and back: six fragments each way.
#[test]
fn large_datagrams_cross_every_tunnel_in_fragments() {
    let Some(lab) = Lab::start(LabPlan::default(), "", NO_DNS) else {
        return;
    };
    lab.add_rules();
    let _daemon = lab.daemon();
    nothing_direct(&lab, || {
        for (uid, region) in USERS {
            lab.only(uid, region, "large4 20,large6 20");
        }
    });
    assert_eq!(lab.lab.drops().expect("counters"), 0);
}

/// An app learns of every hop and of closed ports: errors come back with the packet it sent.
#[test]
fn icmp_errors_come_back_through_the_tunnel() {
    let Some(lab) = Lab::start(LabPlan::default(), "", NO_DNS) else {
        return;
    };
    lab.add_rules();
    let _daemon = lab.daemon();
    nothing_direct(&lab, || {
        for (uid, region) in USERS {
            // Another region, as seen from this one: the first hop is this region's server.
            let (beyond4, beyond6) = match region {
                "uk" => ("192.0.2.22", "2001:db8:1::22"),
                _ => ("192.0.2.21", "2001:db8:1::21"),
            };
            for (hop, to) in [("From 10.5.0.1", beyond4), ("From fd00:5::1", beyond6)] {
                let told = ping(&lab, uid, &format!("-t 1 {to}"));
                assert!(told.stdout.contains(hop), "{uid} to {to}: {}", told.stdout);
                let told = ping(&lab, uid, &format!("-t 2 {to}"));
                assert!(told.status.success(), "{uid} to {to}: {}", told.stdout);
            }
            lab.only(uid, "refused", "closed4,closed6");
        }
    });
}

#[test]
fn a_packet_too_large_for_its_tunnel_is_told_so() {
    let mut plan = LabPlan::default();
    plan.regions[0].mtu = 1280;
    let Some(lab) = Lab::start(plan, "[interface]\nmtu = 1500", NO_DNS) else {
        return;
    };
    lab.add_rules();
    let _daemon = lab.daemon();
    nothing_direct(&lab, || {
        // First the wider one: the kernel remembers what fits by destination, for every app.
        let told = ping(&lab, 1002, "-M do -s 1392 203.0.113.10");
        assert!(told.status.success(), "{}", told.stdout);
        let told = ping(&lab, 1001, "-M do -s 1472 203.0.113.10");
        assert!(!told.status.success(), "{}", told.stdout);
        let said = told.stdout.contains("mtu = 1280") || told.stderr.contains("mtu=1280");
        assert!(said, "{}{}", told.stdout, told.stderr);
        // What fits passes; what may be fragmented is.
        for options in ["-M do -s 1252 203.0.113.10", "-M dont -s 1472 203.0.113.10"] {
            let told = ping(&lab, 1001, options);
            assert!(told.status.success(), "{options}: {}", told.stdout);
        }
        let told = ping(&lab, 1001, "-M do -s 1452 2001:db8:113::10");
        assert!(!told.status.success(), "{}", told.stdout);
        let told = ping(&lab, 1001, "-M do -s 1232 2001:db8:113::10");
        assert!(told.status.success(), "{}", told.stdout);
        for (uid, region) in USERS {
            lab.only(uid, region, "bulk4 2,bulk6 2,large4 5,large6 5");
        }
    });
}

/// The cable's MTU shrinks in the middle of transfers, and with it that of every tunnel.
#[test]
fn a_transfer_survives_a_shrinking_mtu() {
    let mut plan = LabPlan::default();
    for region in &mut plan.regions {
        region.mtu_in_profile = false;
    }
    let Some(lab) = Lab::start(plan, "", NO_DNS) else {
        return;
    };
    lab.add_rules();
    let _daemon = lab.daemon();
    let client = lab.lab.client();
    nothing_direct(&lab, || {
        let mut bulk = App::start(client, &lab.app, 1001, "stream 4");
        assert_eq!(bulk.ask(), "uk");
        client.set_mtu("eth0", 1360).expect("an MTU");
        assert_eq!(bulk.ask(), "uk");
        let end = Instant::now() + LIMIT;
        while lab.site.status(client)["tunnels"]["uk"]["mtu"] != 1296 {
            assert!(Instant::now() < end, "{}", lab.site.status(client));
            thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(bulk.ask(), "uk");
        lab.only(1001, "uk", "bulk4 2,bulk6 2,large4 2");
        client.set_mtu("eth0", 1500).expect("an MTU");
        lab.only(1001, "uk", "bulk4 2");
    });
}

/// No tunnel carries IPv6, but the cable does: apps fall back to IPv4 at once and leak nothing.
#[test]
fn ipv6_goes_nowhere_where_no_tunnel_carries_it() {
    let mut plan = LabPlan::default();
    for region in &mut plan.regions {
        region.assigned6 = None;
    }
    let Some(lab) = Lab::start(plan, "", NO_DNS) else {
        return;
    };
    lab.add_rules();
    let _daemon = lab.daemon();
    nothing_direct(&lab, || {
        for (uid, region) in USERS {
            lab.only(uid, "unreachable", "refused6");
            lab.only(uid, region, "http4 5,echo4 2");
        }
    });
}

/// Two users on two tunnels, four destinations. `VPN_LAB_CONNECTIONS` says how many (default
/// 4,000; a release build does the 100,000 of `.ci/lab-providers`).
#[test]
fn short_connections_go_where_they_should() {
    let Some(lab) = Lab::start(LabPlan::default(), "", NO_DNS) else {
        return;
    };
    lab.add_rules();
    let _daemon = lab.daemon();
    let wanted = std::env::var("VPN_LAB_CONNECTIONS").ok();
    let each: usize = wanted.and_then(|n| n.parse().ok()).unwrap_or(4_000) / 2;
    nothing_direct(&lab, || {
        thread::scope(|scope| {
            for (uid, region) in &USERS[..2] {
                let lab = &lab;
                scope.spawn(move || {
                    let told = lab.run(*uid, &format!("many {each}"));
                    assert_eq!(told, [format!("many {region}*{each}")]);
                });
            }
        });
    });
    println!("{} connections, each through its own tunnel", each * 2);
}

#[test]
fn a_group_fails_over_resets_and_fails_back() {
    let config = "\
[group.europe]
members = [\"uk\", \"fr\"]
fail_back = \"2s\"

[[rule]]
uid = 1001
to = \"europe\"
on_change = \"reset\"
";
    let Some(lab) = Lab::start(LabPlan::default(), config, NO_DNS) else {
        return;
    };
    let _daemon = lab.daemon();
    let client = lab.lab.client();
    let measured = || {
        // At first whichever was up first.
        let mut fresh = lab.asking(1001);
        let end = Instant::now() + LIMIT;
        while fresh.ask() != "uk" {
            assert!(Instant::now() < end, "the first is up and not used");
        }
        let mut held = App::start(client, &lab.app, 1001, "hold 1");
        assert_eq!(held.ask(), "uk*1");
        lab.lab.cut("uk").expect("cut");
        // The transport notices after a while; from then on it takes a moment only.
        let end = Instant::now() + LIMIT * 2;
        while lab.site.status(client)["tunnels"]["uk"]["state"] == "up" {
            assert!(Instant::now() < end, "uk stays up");
            thread::sleep(Duration::from_millis(100));
        }
        let down = Instant::now();
        while fresh.ask() != "fr" {
            assert!(down.elapsed() < LIMIT, "no fail-over");
        }
        let failed_over = down.elapsed();
        println!("fail-over {failed_over:?} after the tunnel was down");
        // Its connection was reset, not left hanging.
        let asked = Instant::now();
        assert_eq!(held.ask(), "nothing*1");
        let reset = asked.elapsed();
        lab.lab.heal("uk").expect("heal");
        let end = Instant::now() + LIMIT * 2;
        while fresh.ask() != "uk" {
            assert!(Instant::now() < end, "no fail-back");
            thread::sleep(Duration::from_millis(100));
        }
        failed_over.max(reset)
    };
    nothing_direct(&lab, || in_time(FAIL_OVER_LIMIT, measured));
}

/// Somebody behind a tunnel reaches a server here by its rule, and no other.
#[test]
fn a_server_behind_a_tunnel_is_reached_by_its_rule() {
    let config = "\
[[inbound]]
tunnel = \"uk\"
proto = \"tcp\"
port = 8080
to_port = 80

[[inbound]]
tunnel = \"uk\"
proto = \"udp\"
port = 9000
";
    let Some(lab) = Lab::start(LabPlan::default(), config, NO_DNS) else {
        return;
    };
    lab.add_rules();
    let _daemon = lab.daemon();
    let place = lab.lab.client();
    let (tcp, udp) = place
        .run(|| {
            let tcp = TcpListener::bind("0.0.0.0:80").expect("a server");
            let udp = UdpSocket::bind("0.0.0.0:9000").expect("a server");
            udp.set_read_timeout(Some(LIMIT)).expect("a limit");
            (tcp, udp)
        })
        .expect("servers");
    let server = thread::spawn(move || {
        let (mut stream, from) = tcp.accept().expect("a client");
        stream.write_all(b"hello").expect("a client");
        // The client reads to the end.
        drop(stream);
        let mut buffer = [0; 100];
        let (length, back) = udp.recv_from(&mut buffer).expect("a datagram");
        udp.send_to(&buffer[..length], back).expect("an answer");
        (from.ip(), back.ip())
    });
    nothing_direct(&lab, || {
        let to = |port| SocketAddr::from(([10, 5, 0, 2], port));
        let ask = |region: &str, port| {
            let region = lab.lab.region(region).expect("a region").namespace();
            let asked = region.run(|| {
                let mut text = String::new();
                TcpStream::connect_timeout(&to(port), Duration::from_millis(700))
                    .and_then(|mut stream| stream.read_to_string(&mut text))
                    .map(|_| text)
            });
            asked.expect("a namespace").ok()
        };
        assert_eq!(ask("fr", 8080), None, "not through another tunnel");
        assert_eq!(ask("uk", 22), None, "not another port");
        assert_eq!(ask("uk", 8080), Some("hello".to_owned()));
        let region = lab.lab.region("uk").expect("a region").namespace();
        let echoed = region.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.set_read_timeout(Some(LIMIT)).expect("a limit");
            socket.connect(to(9000)).expect("a destination");
            socket.send(b"ping").expect("a datagram");
            let mut buffer = [0; 100];
            let length = socket.recv(&mut buffer).expect("an echo");
            buffer[..length].to_vec()
        });
        assert_eq!(echoed.expect("a namespace"), b"ping");
    });
    let (tcp_from, udp_from) = server.join().expect("a server");
    let gateway: IpAddr = [10, 5, 0, 1].into();
    assert_eq!((tcp_from, udp_from), (gateway, gateway));
}

/// Two branch offices with the same network, each under a prefix of its own.
#[test]
fn two_sites_with_the_same_network_are_both_reached() {
    let mut plan = LabPlan::default();
    for region in &mut plan.regions {
        region.also_at = vec![[192, 168, 1, 10].into()];
    }
    let map = |name: &str| match name {
        "uk" => "map = [{ local = \"10.64.1.0/24\", remote = \"192.168.1.0/24\" }]\n".to_owned(),
        "fr" => "map = [{ local = \"10.64.2.0/24\", remote = \"192.168.1.0/24\" }]\n".to_owned(),
        _ => String::new(),
    };
    let Some(lab) = Lab::start_with(plan, "", NO_DNS, map) else {
        return;
    };
    lab.rule("--uid 1001 --dst 10.64.1.0/24 --to uk");
    lab.rule("--uid 1001 --dst 10.64.2.0/24 --to fr");
    let _daemon = lab.daemon();
    nothing_direct(&lab, || {
        for (office, region) in [("10.64.1.10", "uk"), ("10.64.2.10", "fr")] {
            lab.only(1001, region, &format!("at:{office} 5"));
            assert!(lab.ping(1001, office), "{office}");
        }
    });
    assert_eq!(lab.lab.drops().expect("counters"), 0);
}

/// Direct for TCP, UDP and ICMP, both families, beside tunnels: there and back, and no loop.
#[test]
fn direct_reaches_the_uplink_and_comes_back() {
    let config = "\
[[rule]]
uid = 1004
to = \"direct\"

[[rule]]
uid = 1005
domain = \"whoami.test\"
to = \"uk\"

[[rule]]
uid = 1005
to = \"direct\"
";
    let Some(lab) = Lab::start(LabPlan::default(), config, NO_DNS) else {
        return;
    };
    lab.add_rules();
    let program = lab.site.app("direct-app");
    lab.rule(&format!("--exe {} --to direct", program.display()));
    let _daemon = lab.daemon();
    // By user, which policy rules can say; and by program, which only the router can.
    for (program, uid) in [(&lab.app, 1004), (&program, 1007)] {
        for answer in app::run(
            lab.lab.client(),
            program,
            uid,
            "http4 5,http6 5,echo4 5,echo6 5",
        ) {
            assert!(answer.ends_with("direct"), "{uid}: {answer}");
        }
    }
    assert!(lab.ping(1004, &SITE4.to_string()) && lab.ping(1004, &SITE6.to_string()));
    for (uid, region) in USERS {
        lab.only(uid, region, "http4 3,http6 3");
    }
    let seen = lab.lab.client().run(|| client::region_of(SITE4.into()));
    assert!(seen.expect("a namespace").is_err(), "no rule, no way");
}
