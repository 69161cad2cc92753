//! Nothing of a bound app appears anywhere but in the tunnel its rule names, through every fault
//! that an hour of bad luck could bring, in minutes.
//!
//! Every user's traffic has a hop limit and source ports of its own, so that each packet tells whose
//! it is. The direct path and every region are captured from the first `ready` to the end.
//! `VPN_LEAK_ROUNDS` repeats the faults (default 1).

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and an app speaks on standard output"
)]

mod support;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use support::app::NOTHING;
use support::lab::Lab;
use support::traffic::{self, DIRECT_RANGE, Traffic, range_of_packet};
use support::{Daemon, as_user};
use vpn_lab::{Capture, LabPlan, SITE4, SITE6, Seen};

/// Users, what their rule names, and the regions their packets may appear in.
const USERS: [(u32, &str, &[&str]); 7] = [
    (1001, "uk", &["uk"]),
    (1002, "fr", &["fr"]),
    (1003, "us", &["us"]),
    // No rule.
    (1004, "", &[]),
    // Its rule changes.
    (1006, "uk", &["uk", "fr"]),
    // A group: uk, else fr.
    (1007, "europe", &["uk", "fr"]),
    (1008, "direct", &["direct"]),
];

/// The range of the first user's app that binds to the uplink, and its first port.
const BOUND_RANGE: u16 = 10;
const BOUND: u16 = 30_000;

/// How long a fault lasts.
const DWELL: Duration = Duration::from_secs(3);

const CONFIG: &str = "\
on_exit = \"block\"
lockdown = true

[group.europe]
members = [\"uk\", \"fr\"]
fail_back = \"1s\"

[[rule]]
uid = 1007
to = \"europe\"

[[rule]]
uid = 1008
to = \"direct\"
";

/// The traffic: the test starts copies of this program that run this test only.
#[test]
fn plays_traffic() {
    traffic::play();
}

/// Plays an app that binds to the uplink, see [`bound_to_the_uplink`].
#[test]
fn plays_a_bound_app() {
    if std::env::var_os("MULTI_REGION_BOUND").is_some() {
        bound_to_the_uplink();
    }
}

/// Sends past the routing rules: by device, and with the uplink's own address.
fn bound_to_the_uplink() {
    let sites: [IpAddr; 2] = [SITE4.into(), SITE6.into()];
    for (turn, site) in (0..).zip(sites.into_iter().cycle().take(20)) {
        for kind in [Type::DGRAM, Type::STREAM] {
            let send = || -> io::Result<()> {
                let to = SocketAddr::new(site, 7);
                let socket = Socket::new(Domain::for_address(to), kind, None::<Protocol>)?;
                socket.bind_device(Some(b"eth0"))?;
                traffic::mark(&socket, site.is_ipv4(), BOUND + turn)?;
                let any: SocketAddr = match site {
                    IpAddr::V4(_) => ([0, 0, 0, 0], BOUND + turn).into(),
                    IpAddr::V6(_) => ([0u16; 8], BOUND + turn).into(),
                };
                socket.bind(&any.into())?;
                socket.connect_timeout(&to.into(), Duration::from_millis(50))?;
                socket.send(b"out")?;
                Ok(())
            };
            // Refused or lost: only what is seen on the cable counts.
            let _ = send();
        }
        let _ = UdpSocket::bind(SocketAddr::new(vpn_lab::CLIENT4.into(), BOUND + 50 + turn))
            .and_then(|socket| {
                traffic::mark(&socket, true, BOUND + turn)?;
                socket.send_to(b"out", (SITE4, 7))
            });
    }
}

/// What the whole test runs on.
struct Run {
    lab: Lab,
    daemon: Option<Daemon>,
    traffic: Vec<Traffic>,
    begun: Instant,
    faults: u32,
}

impl Run {
    fn fault(&mut self, what: &str, work: impl FnOnce(&mut Self)) {
        self.faults += 1;
        println!("{:6.1} s  {what}", self.begun.elapsed().as_secs_f32());
        work(self);
    }

    /// Waits until every user with a tunnel gets answers again, and from nowhere else.
    fn recovered(&self) {
        let end = Instant::now() + Duration::from_secs(30);
        for app in &self.traffic {
            let allowed = USERS.iter().find(|u| u.0 == app.uid).expect("a user").2;
            if allowed.is_empty() {
                continue;
            }
            app.take();
            let answered = |(_, from): &(String, String)| from != NOTHING;
            while !app.take().keys().any(answered) {
                assert!(
                    Instant::now() < end,
                    "{} gets no answers: {}",
                    app.uid,
                    self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
                );
                thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn start_daemon(&mut self) {
        self.daemon = Some(self.lab.daemon());
    }

    fn stop_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            assert!(daemon.terminate(), "{}", daemon.log());
        }
    }

    fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
    }
}

fn faults(run: &mut Run) {
    for region in ["uk", "fr", "us"] {
        run.fault(&format!("{region} is cut, and healed"), |run| {
            run.lab.lab.cut(region).expect("cut");
            thread::sleep(DWELL);
            run.lab.lab.heal(region).expect("heal");
            run.recovered();
        });
    }
    run.fault("rules change, ten times", |run| {
        for to in ["fr", "uk"].repeat(5) {
            run.lab.rule(&format!("--uid 1006 --to {to}"));
            thread::sleep(Duration::from_millis(200));
        }
        run.lab.rule("--uid 1003 --to block");
        thread::sleep(Duration::from_millis(500));
        run.lab.rule("--uid 1003 --to us");
    });
    run.fault("a rule names a tunnel that is not there", |run| {
        run.lab.rule("--uid 1003 --to mars");
        thread::sleep(DWELL / 2);
        run.lab.rule("--uid 1003 --to us");
        run.recovered();
    });
    run.fault("the rules' database is locked", |run| {
        let path = run.lab.site.path("rules.db");
        let database = rusqlite::Connection::open(path).expect("rules");
        database.execute_batch("BEGIN EXCLUSIVE").expect("a lock");
        thread::sleep(DWELL);
        database.execute_batch("ROLLBACK").expect("an end");
    });
    run.fault("uk flaps", |run| {
        for _ in 0..6 {
            run.lab.lab.cut("uk").expect("cut");
            thread::sleep(Duration::from_millis(300));
            run.lab.lab.heal("uk").expect("heal");
            thread::sleep(Duration::from_millis(300));
        }
        run.recovered();
    });
    run.fault("a more specific route in the main table", |run| {
        let client = run.lab.lab.client();
        for change in ["add", "del"] {
            client
                .ip(&format!("route {change} 203.0.113.0/24 via 192.0.2.1"))
                .expect("a route");
            client
                .ip(&format!(
                    "-6 route {change} 2001:db8:113::/64 via 2001:db8:1::1"
                ))
                .expect("a route");
            thread::sleep(DWELL / 2);
        }
    });
    run.fault("an app binds to the uplink", |run| {
        let mut command = as_user(&run.lab.app, 1001);
        command.args(["--exact", "plays_a_bound_app", "--nocapture"]);
        command.env("MULTI_REGION_BOUND", "1");
        let output = run.lab.lab.client().output(command, support::LIMIT * 2);
        assert!(output.expect("the app").status.success());
    });
    run.fault("a neighbour sends to the device's addresses", neighbour);
    run.fault("the daemon stops and starts", |run| {
        run.stop_daemon();
        thread::sleep(DWELL);
        run.start_daemon();
        run.recovered();
    });
    run.fault("the daemon is killed and starts", |run| {
        run.kill_daemon();
        thread::sleep(DWELL);
        run.start_daemon();
        run.recovered();
    });
    run.fault("a cold start: no provider answers", |run| {
        run.kill_daemon();
        for region in ["uk", "fr", "us"] {
            run.lab.lab.cut(region).expect("cut");
        }
        run.start_daemon();
        thread::sleep(DWELL);
        for region in ["uk", "fr", "us"] {
            run.lab.lab.heal(region).expect("heal");
        }
        run.recovered();
    });
}

/// From the gateway, as any machine on the client's network could.
fn neighbour(run: &mut Run) {
    let gateway = run.lab.lab.gateway();
    for (device, via) in [
        ("10.5.0.2/32", "192.0.2.10"),
        ("fd00:5::2/128", "2001:db8:1::10"),
    ] {
        gateway
            .add_route(device, via.parse().expect("an address"))
            .expect("a route");
    }
    for address in ["10.5.0.2", "fd00:5::2"] {
        let address: IpAddr = address.parse().expect("an address");
        let asked = gateway.run(|| {
            let sent = UdpSocket::bind(match address {
                IpAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
                IpAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
            })
            .and_then(|socket| {
                socket.connect((address, 33_434))?;
                socket.set_read_timeout(Some(Duration::from_millis(300)))?;
                socket.send(b"hello")?;
                socket.recv(&mut [0; 64])
            });
            // "Refused" would be an answer as well.
            let silent = |error: io::Error| {
                matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                )
            };
            let mut quiet = sent.is_err_and(silent);
            let wait = Duration::from_millis(300);
            let tcp = std::net::TcpStream::connect_timeout(&(address, 22).into(), wait);
            quiet &= tcp.is_err_and(silent);
            quiet
        });
        assert!(asked.expect("a question"), "{address} answers a neighbour");
    }
    gateway.ip("route del 10.5.0.2/32").expect("a route");
    gateway.ip("-6 route del fd00:5::2/128").expect("a route");
}

/// Whose packet it is: the user whose hops it has left, or else whose ports it has.
fn user_of(packet: &Seen) -> Option<(u32, &'static [&'static str])> {
    let place = match range_of_packet(packet)? {
        DIRECT_RANGE => USERS.len() - 1,
        BOUND_RANGE => 0,
        range => usize::from(range),
    };
    USERS.get(place).map(|&(uid, _, allowed)| (uid, allowed))
}

/// Packets from the client in a place where they may not be, with the user they are of.
fn leaks(place: &str, seen: &[Seen]) -> Vec<(u32, Seen)> {
    let misplaced =
        |packet: &&Seen| user_of(packet).is_none_or(|(_, allowed)| !allowed.contains(&place));
    let named = |packet: &Seen| (user_of(packet).map_or(0, |(uid, _)| uid), *packet);
    seen.iter().filter(misplaced).map(named).collect()
}

/// N-7: whatever failed, packets went directly.
#[test]
fn nothing_leaks_in_an_hour_of_faults() {
    let mut plan = LabPlan::default();
    for region in &mut plan.regions {
        // Room for nothing but questions: what is dropped is not what is tested here.
        region.own_resolver = true;
    }
    let Some(lab) = Lab::start(plan, CONFIG, "apply = \"none\"") else {
        return;
    };
    for (uid, to, _) in USERS {
        if ["uk", "fr", "us"].contains(&to) {
            lab.rule(&format!("--uid {uid} --to {to}"));
        }
    }
    let daemon = lab.daemon();
    let direct = lab.lab.capture_direct().expect("a capture");
    let regions: Vec<(String, Capture)> = lab
        .lab
        .regions()
        .iter()
        .map(|region| {
            (
                region.name().to_owned(),
                region.capture().expect("a capture"),
            )
        })
        .collect();
    let client = lab.lab.client();
    let traffic = (0..).zip(USERS).map(|(place, (uid, to, _))| {
        let range = if to == "direct" { DIRECT_RANGE } else { place };
        Traffic::start(client, &lab.app, uid, range)
    });
    let mut run = Run {
        traffic: traffic.collect(),
        lab,
        daemon: Some(daemon),
        begun: Instant::now(),
        faults: 0,
    };
    run.recovered();
    let rounds = std::env::var("VPN_LEAK_ROUNDS").ok();
    for _ in 0..rounds.and_then(|n| n.parse().ok()).unwrap_or(1) {
        faults(&mut run);
    }
    run.stop_daemon();
    thread::sleep(DWELL);
    for app in &mut run.traffic {
        app.end();
    }

    let mut found: BTreeMap<String, Vec<(u32, Seen)>> = BTreeMap::new();
    let (mut seen_in_all, mut leaked) = (0, 0);
    let (seen, total) = direct.finish();
    seen_in_all += total;
    // On the client's cable, as its neighbour sees it: what the client sends comes in there.
    let sent: Vec<Seen> = seen.into_iter().filter(|packet| !packet.outgoing).collect();
    let of_direct = leaks("direct", &sent);
    leaked += of_direct.len();
    found.insert("the direct path".to_owned(), of_direct);
    for (region, capture) in regions {
        let (seen, total) = capture.finish();
        seen_in_all += total;
        let (ports, _): (Vec<Seen>, Vec<Seen>) = seen
            .into_iter()
            .partition(|p| range_of_packet(p).is_some() && !p.outgoing);
        let here = leaks(&region, &ports);
        leaked += here.len();
        found.insert(region, here);
    }
    println!(
        "{} faults in {:.0} s, {seen_in_all} packets captured, {leaked} of them where they may not be",
        run.faults,
        run.begun.elapsed().as_secs_f32()
    );
    for (place, packets) in found {
        let few: Vec<_> = packets.iter().take(5).collect();
        assert!(
            packets.is_empty(),
            "{place}: {} packets, {few:?}",
            packets.len()
        );
    }
    assert!(seen_in_all > 0, "the captures saw nothing");
}
