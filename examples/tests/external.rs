//! Tunnels of other programs, in a lab of their own: the distribution's OpenVPN beside WireGuard,
//! identical addresses of one subnet, refusals, servers that go and come, interfaces that somebody
//! else made; and nothing that goes direct.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and an app speaks on standard output"
)]

mod support;

use std::collections::HashSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::app;
use support::lab::{Lab, NO_RULE, nothing_direct};
use vpn_lab::{LabPlan, OpenVpnOptions, PASSWORD, ProviderKind, RegionPlan, USER};
use vpn_tun::apply::DEFAULT_MARK;

/// What a change may take to be seen. Not a promise: what takes longer is broken.
const SEEN: Duration = Duration::from_secs(30);

/// The app: the other tests start copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

fn openvpn(name: &str, number: u8, options: OpenVpnOptions) -> RegionPlan {
    let mut plan = RegionPlan::new(name, number);
    plan.kind = ProviderKind::OpenVpn(options);
    plan.assigned4 = Ipv4Addr::new(10, 100, 0, 2);
    plan.assigned6 = Some("fd00:100::2".parse().expect("an address"));
    plan
}

fn lab_of(regions: Vec<RegionPlan>, of_tunnel: impl Fn(&str) -> String) -> Option<Lab> {
    let plan = LabPlan {
        regions,
        client_rp_filter: 1,
    };
    Lab::start_with(plan, "on_exit = \"open\"", "apply = \"none\"", of_tunnel)
}

fn tunnel(lab: &Lab, name: &str) -> Value {
    lab.site.status(lab.lab.client())["tunnels"][name].clone()
}

/// Waits until a tunnel's state begins like this.
fn until(lab: &Lab, name: &str, state: &str) {
    let end = Instant::now() + SEEN;
    loop {
        let told = tunnel(lab, name);
        let now = told["state"].as_str().unwrap_or_default().to_owned();
        if now.starts_with(state) {
            return;
        }
        assert!(Instant::now() < end, "{name} is not {state}: {told}");
        thread::sleep(Duration::from_millis(50));
    }
}

const ALL: &str = "http4 20,http6 5,echo4 5,echo6 5,dns 5";

/// Two servers hand out one address of one subnet, a third another one, and WireGuard is beside
/// them: everybody gets what their rule says, over all protocols.
#[test]
fn openvpn_tunnels_with_the_identical_address() {
    let mut us = openvpn("us", 3, OpenVpnOptions::default());
    us.assigned4 = Ipv4Addr::new(10, 102, 0, 2);
    let fr = OpenVpnOptions {
        tcp: true,
        ..OpenVpnOptions::default()
    };
    let regions = vec![
        openvpn("uk", 1, OpenVpnOptions::default()),
        openvpn("fr", 2, fr),
        us,
        RegionPlan::new("de", 4),
    ];
    let Some(lab) = lab_of(regions, |_| String::new()) else {
        return;
    };
    let users = [(1001, "uk"), (1002, "fr"), (1003, "us"), (1004, "de")];
    for (uid, region) in users {
        lab.rule(&format!("--uid {uid} --to {region}"));
    }
    let before = lab.network();
    let mut daemon = lab.daemon();
    for (_, region) in users {
        until(&lab, region, "up");
    }
    // The first one beyond a path's MTU is dropped and tells its sender (RFC 8201): IPv6 fragments
    // only there.
    for (uid, _) in users {
        lab.run(uid, "large6");
    }
    let drops = |region: &str| tunnel(&lab, region)["drops"].clone();
    let dropped = users.map(|(_, region)| drops(region));
    nothing_direct(&lab, || {
        thread::scope(|scope| {
            for (number, (uid, region)) in (1..).zip(users) {
                let lab = &lab;
                scope.spawn(move || {
                    lab.only(uid, region, ALL);
                    lab.only(uid, region, "large4 2,large6 2,bulk4 2,bulk6 1");
                    for site in [
                        format!("203.0.113.2{number}"),
                        format!("2001:db8:113::2{number}"),
                    ] {
                        assert!(lab.ping(uid, &site), "{uid} pings {site}");
                    }
                });
            }
        });
        lab.gets_nothing(1005);
    });
    assert_eq!(lab.lab.drops().expect("counters"), 0);
    let shown = lab.site.status(lab.lab.client());
    let addresses = shown["interface"]["addresses"].as_array().expect("some");
    let v4: Vec<&str> = addresses
        .iter()
        .filter_map(|address| address.as_str())
        .filter(|address| address.starts_with("10.10"))
        .collect();
    assert_eq!(v4, ["10.100.0.2/16", "10.102.0.2/16"], "one per subnet");
    for ((_, region), before) in users.into_iter().zip(dropped) {
        assert_eq!(drops(region), before, "{region}");
    }
    assert!(daemon.terminate(), "{}", daemon.log());
    assert_eq!(lab.network(), before, "nothing is left");
}

/// N-27: a wrong password is a refusal, told as such, and not asked again; the right one connects.
/// The file has to be its owner's alone.
#[test]
fn user_and_password() {
    let options = OpenVpnOptions {
        password: true,
        ..OpenVpnOptions::default()
    };
    let auth = |_: &str| "auth = \"credentials.txt\"\n".to_owned();
    let Some(lab) = lab_of(vec![openvpn("uk", 1, options)], auth) else {
        return;
    };
    lab.rule("--uid 1001 --to uk");
    let file = lab.site.write("credentials.txt", "lab\nwrong\n");
    let readable = |mode| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    readable(0o640);
    let check = lab
        .site
        .command(&["check", "--config", "multi-region.toml"]);
    let output = lab.lab.client().output(check, SEEN).expect("the program");
    assert_eq!(output.status.code(), Some(2), "{}", output.stderr);
    assert!(
        output.stderr.contains("[tunnel.uk] auth") && output.stderr.contains("chmod 600"),
        "{}",
        output.stderr
    );
    readable(0o600);
    let daemon = lab.daemon();
    nothing_direct(&lab, || {
        until(&lab, "uk", "down");
        let told = tunnel(&lab, "uk").to_string();
        assert!(told.contains("the peer refuses"), "{told}");
        lab.gets_nothing(1001);
        lab.site
            .write("credentials.txt", &format!("{USER}\n{PASSWORD}\n"));
        let reload = lab
            .site
            .command(&["reload", "--control", "multi-region.sock"]);
        let output = lab.lab.client().output(reload, SEEN).expect("the program");
        assert!(output.status.success(), "{}", output.stderr);
        until(&lab, "uk", "up");
        lab.only(1001, "uk", "http4,http6,echo4");
    });
    for secret in ["wrong", PASSWORD] {
        assert!(!daemon.log().contains(secret), "{}", daemon.log());
    }
}

/// A server that is restarted, one that cannot be reached, and one that does not trust us: states
/// that say so, no leak, and back as soon as it can be.
#[test]
fn servers_that_go_and_come() {
    let regions = vec![
        openvpn("uk", 1, OpenVpnOptions::default()),
        openvpn("fr", 2, OpenVpnOptions::default()),
        openvpn("us", 3, OpenVpnOptions::default()),
    ];
    let Some(mut lab) = lab_of(regions, |_| "no_answer_after = \"11s\"\n".to_owned()) else {
        return;
    };
    // The client's certificate is of another authority.
    let profile = lab.lab.region("us").expect("a region").profile().to_owned();
    let of_fr = fs::read_to_string(lab.lab.region("fr").expect("a region").profile());
    let (of_fr, of_us) = (
        of_fr.expect("text"),
        fs::read_to_string(&profile).expect("text"),
    );
    let (server, _) = of_us.split_once("<cert>").expect("a certificate");
    let (_, client) = of_fr.split_once("<cert>").expect("a certificate");
    fs::write(&profile, format!("{server}<cert>{client}")).expect("written");

    lab.lab.cut("fr").expect("cut");
    for (uid, region) in [(1001, "uk"), (1002, "fr"), (1003, "us")] {
        lab.rule(&format!("--uid {uid} --to {region}"));
    }
    let _daemon = lab.daemon();
    until(&lab, "uk", "up");
    nothing_direct(&lab, || {
        lab.only(1001, "uk", "http4,echo4");
        until(&lab, "fr", "down");
        until(&lab, "us", "down");
        lab.gets_nothing(1002);
        lab.gets_nothing(1003);
        lab.lab.heal("fr").expect("healed");
        until(&lab, "fr", "up");
        lab.only(1002, "fr", "http4,http6");
    });
    let capture = lab.lab.capture_direct().expect("a capture");
    lab.lab.restart("uk").expect("restarted");
    until(&lab, "uk", "down");
    lab.gets_nothing(NO_RULE);
    until(&lab, "uk", "up");
    lab.only(1001, "uk", "http4,http6,echo4");
    lab.only(1002, "fr", "http4");
    let (seen, _) = capture.finish();
    assert!(seen.is_empty(), "{seen:?}");
}

/// A server whose certificate is not trusted is told from one that is silent, and asked less and less
/// often: OpenVPN leaves the waiting between its attempts to whoever supervises it.
#[test]
fn a_server_that_is_somebody_else() {
    let regions = vec![
        openvpn("uk", 1, OpenVpnOptions::default()),
        openvpn("fr", 2, OpenVpnOptions::default()),
    ];
    let Some(lab) = lab_of(regions, |_| String::new()) else {
        return;
    };
    let text = |name: &str| {
        let profile = lab.lab.region(name).expect("a region").profile().to_owned();
        (fs::read_to_string(&profile).expect("text"), profile)
    };
    let ((of_uk, profile), (of_fr, _)) = (text("uk"), text("fr"));
    let parts = |text: &str| {
        let (before, rest) = text.split_once("<ca>").expect("an authority");
        let (authority, after) = rest.split_once("</ca>").expect("its end");
        [before, authority, after].map(str::to_owned)
    };
    let [before, _, after] = parts(&of_uk);
    let [_, authority, _] = parts(&of_fr);
    fs::write(&profile, format!("{before}<ca>{authority}</ca>{after}")).expect("written");
    lab.rule("--uid 1001 --to uk");
    lab.rule("--uid 1002 --to fr");
    let capture = lab.lab.capture().expect("a capture");
    let server = lab.lab.region("uk").expect("a region").endpoint();
    // Each from a port of its own.
    let attempts = || {
        let seen = capture.so_far();
        let there = seen.iter().filter(|seen| seen.destination == server);
        there.map(|seen| seen.source.port()).collect::<HashSet<_>>()
    };
    let begun = Instant::now();
    let _daemon = lab.daemon();
    until(&lab, "fr", "up");
    until(&lab, "uk", "down");
    let told = tunnel(&lab, "uk");
    let cause = told["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("not who it should be"), "{told}");
    lab.gets_nothing(1001);
    lab.only(1002, "fr", "http4");
    // Five, with a second between; then 2, 4, 8 ... seconds pass. Without, there is one a second.
    thread::sleep(Duration::from_secs(14).saturating_sub(begun.elapsed()));
    let (tried, took) = (attempts().len(), begun.elapsed());
    println!("{tried} attempts in {took:?}");
    assert!(tried > 2, "it tries again");
    assert!(
        tried < 10 || took > Duration::from_secs(30),
        "{tried} attempts in {took:?}"
    );
}

/// A server that comes back with another address for us has OpenVPN make its interface anew; one that
/// does not know our token any more is asked with the password again. A process that is stopped does
/// not keep the daemon, and none outlives it.
#[test]
fn servers_that_come_back_otherwise() {
    let options = OpenVpnOptions {
        password: true,
        ..OpenVpnOptions::default()
    };
    let auth = |_: &str| "auth = \"credentials.txt\"\n".to_owned();
    let Some(mut lab) = lab_of(vec![openvpn("uk", 1, options)], auth) else {
        return;
    };
    lab.rule("--uid 1001 --to uk");
    let file = lab
        .site
        .write("credentials.txt", &format!("{USER}\n{PASSWORD}\n"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
    let server = lab.lab.folder().join("openvpn-uk");
    let settings = fs::read_to_string(server.join("server.conf")).expect("text");
    let with_tokens = format!("{settings}auth-gen-token 3600\n");
    fs::write(server.join("server.conf"), with_tokens).expect("written");
    lab.lab.restart("uk").expect("restarted");
    let before = lab.network();
    let mut daemon = lab.daemon();
    until(&lab, "uk", "up");
    lab.only(1001, "uk", "http4,echo4");
    let own = server.join("ccd").join("lab-client");
    let given = fs::read_to_string(&own).expect("text");
    fs::write(&own, given.replace("10.100.0.2", "10.100.0.7")).expect("written");
    lab.lab.restart("uk").expect("restarted");
    until(&lab, "uk", "down");
    nothing_direct(&lab, || {
        until(&lab, "uk", "up");
        lab.only(1001, "uk", "http4,http6,echo4");
    });
    let told = tunnel(&lab, "uk");
    assert_eq!(told["assigned"][0], "10.100.0.7/16", "{told}");

    let signal = |id: u32, signal| {
        let id = nix::unistd::Pid::from_raw(i32::try_from(id).expect("a number"));
        nix::sys::signal::kill(id, signal).expect("signalled");
    };
    let stopped = openvpn_of(daemon.id()).expect("a process");
    signal(stopped, nix::sys::signal::Signal::SIGSTOP);
    assert!(daemon.terminate(), "{}", daemon.log());
    assert!(!is_there(stopped), "it outlives the daemon");
    assert_eq!(lab.network(), before, "nothing is left");

    let mut daemon = lab.daemon();
    until(&lab, "uk", "up");
    let orphan = openvpn_of(daemon.id()).expect("a process");
    daemon.kill();
    let end = Instant::now() + SEEN;
    while is_there(orphan) {
        assert!(Instant::now() < end, "openvpn outlives a killed daemon");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The `openvpn` that a daemon started.
fn openvpn_of(daemon: u32) -> Option<u32> {
    let all = fs::read_dir("/proc").ok()?;
    let ids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.into_iter().find(|id| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let says = |line: &str| status.lines().any(|l| l == line);
        says("Name:\topenvpn") && says(&format!("PPid:\t{daemon}"))
    })
}

fn is_there(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

/// Interfaces that somebody else made, with one and the same address, are tunnels while they are
/// there; afterwards they are as they were.
#[test]
fn interfaces_that_somebody_else_made() {
    let mut plan = LabPlan::default();
    plan.regions.truncate(2);
    plan = plan.with_servers(ProviderKind::WireguardGo);
    plan.client_rp_filter = 0;
    let Some(mut lab) = Lab::start(plan, "on_exit = \"open\"", "apply = \"none\"") else {
        return;
    };
    let mut text = "rules = \"rules.db\"\non_exit = \"open\"\n[dns]\napply = \"none\"\n".to_owned();
    let mut interfaces = Vec::new();
    for region in ["uk", "fr"] {
        let interface = lab.lab.stock_client(region).expect("a client");
        let mark = format!("set {interface} fwmark {DEFAULT_MARK:#x}");
        lab.lab.client().tool("wg", &mark).expect("wg");
        text.push_str(&format!(
            "[tunnel.{region}]\ninterface = \"{interface}\"\ndns = [\"198.18.0.53\"]\n"
        ));
        interfaces.push(interface);
    }
    lab.site.write("multi-region.toml", &text);
    lab.settle();
    let before = lab.network();
    lab.rule("--uid 1001 --to uk");
    lab.rule("--uid 1002 --to fr");
    let mut daemon = lab.daemon();
    until(&lab, "uk", "up");
    until(&lab, "fr", "up");
    nothing_direct(&lab, || {
        lab.only(1001, "uk", ALL);
        lab.only(1002, "fr", ALL);
        lab.gets_nothing(1003);
    });
    let told = tunnel(&lab, "uk");
    assert_eq!(told["assigned"][0], "10.5.0.2/32", "{told}");
    assert_eq!(lab.lab.drops().expect("counters"), 0);
    assert!(daemon.terminate(), "{}", daemon.log());
    assert_eq!(lab.network(), before, "they are as they were");

    // An interface that goes takes its own tunnel along, and no other.
    let mut daemon = lab.daemon();
    until(&lab, "fr", "up");
    let down = format!("link set {} down", interfaces[1]);
    nothing_direct(&lab, || {
        lab.lab.client().ip(&down).expect("ip");
        until(&lab, "fr", "down");
        lab.gets_nothing(1002);
        lab.only(1001, "uk", "http4,http6");
        lab.lab
            .client()
            .ip(&down.replace("down", "up"))
            .expect("ip");
        until(&lab, "fr", "up");
        lab.only(1002, "fr", "http4");
    });
    assert!(daemon.terminate(), "{}", daemon.log());
}

/// Where the packet filter does not keep the kernel away, the tunnel is down rather than answered
/// twice.
#[test]
fn a_kernel_that_hears_everything_twice() {
    let regions = vec![openvpn("uk", 1, OpenVpnOptions::default())];
    let Some(lab) = lab_of(regions, |_| String::new()) else {
        return;
    };
    lab.rule("--uid 1001 --to uk");
    let _daemon = lab.daemon();
    until(&lab, "uk", "up");
    lab.lab
        .client()
        .tool("nft", "flush chain inet vpn_tun_ext_ovpn-uk prerouting")
        .expect("nft");
    nothing_direct(&lab, || {
        let asked = lab.run(1001, "echo4 20");
        println!(
            "{} of 20 answered",
            asked.iter().filter(|a| a.contains("uk")).count()
        );
        until(&lab, "uk", "down");
    });
    // It begins again, with a filter that holds.
    until(&lab, "uk", "up");
    lab.only(1001, "uk", "http4,echo4 20");
}

/// Document 000's resource exhaustion: tunnels come and go, and nothing stays of them.
#[test]
fn rounds_leave_nothing() {
    let rounds: usize = std::env::var("TUNNEL_ROUNDS").map_or(5, |rounds| {
        rounds.parse().expect("TUNNEL_ROUNDS is a number")
    });
    let regions = vec![
        openvpn("uk", 1, OpenVpnOptions::default()),
        openvpn("fr", 2, OpenVpnOptions::default()),
        RegionPlan::new("us", 3),
    ];
    let Some(lab) = lab_of(regions, |_| String::new()) else {
        return;
    };
    lab.rule("--uid 1001 --to uk");
    let mut daemon = lab.daemon();
    until(&lab, "uk", "up");
    let both = fs::read_to_string(lab.site.path("multi-region.toml")).expect("text");
    let start = both.find("[tunnel.fr]").expect("fr");
    let one = &both[..start];
    let reload = |text: &str| {
        lab.site.write("multi-region.toml", text);
        let reload = lab
            .site
            .command(&["reload", "--control", "multi-region.sock"]);
        let output = lab.lab.client().output(reload, SEEN).expect("the program");
        assert!(output.status.success(), "{}", output.stderr);
    };
    let id = daemon.id();
    let mut first = None;
    for round in 0..=rounds {
        reload(one);
        let gone = Instant::now() + SEEN;
        while used(id).children > 1 {
            assert!(Instant::now() < gone, "{:?}", used(id));
            thread::sleep(Duration::from_millis(10));
        }
        // What the first round brings to stay, caches of the allocator say, is there afterwards.
        match (&first, round) {
            (_, 0) => {}
            (None, _) => first = Some(used(id)),
            (Some(first), _) if round == rounds => {
                let mut last = used(id);
                // The runtime keeps idle threads of blocking calls for a while, and what a tunnel had
                // open is closed behind its process.
                let end = Instant::now() + SEEN;
                let more = |last: &Used| last.threads > first.threads || last.fds > first.fds;
                while more(&last) && Instant::now() < end {
                    thread::sleep(Duration::from_millis(100));
                    last = used(id);
                }
                println!("after 1 round: {first:?}\nafter {rounds}: {last:?}");
                assert!(last.fds <= first.fds, "file descriptors");
                assert!(last.threads <= first.threads, "threads");
                assert_eq!(last.filters, first.filters, "packet filter tables");
                let grown = last.kilobytes.saturating_sub(first.kilobytes);
                // Half a kilobyte a round would be a leak; the allocator's own noise is below.
                assert!(grown < 2048 + rounds as u64 / 2, "{grown} kB more memory");
            }
            (Some(_), _) if round % 50 == 0 => {
                println!("after {round} of {rounds}: {:?}", used(id))
            }
            _ => {}
        }
        if round < rounds {
            reload(&both);
            until(&lab, "fr", "up");
            until(&lab, "us", "up");
        }
    }
    lab.only(1001, "uk", "http4");
    assert!(daemon.terminate(), "{}", daemon.log());
}

#[derive(Debug)]
struct Used {
    fds: usize,
    threads: usize,
    children: usize,
    kilobytes: u64,
    filters: usize,
}

/// What a process has open.
fn used(id: u32) -> Used {
    let count = |folder: &str| {
        let entries = fs::read_dir(format!("/proc/{id}/{folder}"));
        entries.map_or(0, Iterator::count)
    };
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    let mut tables = std::process::Command::new("nsenter");
    tables.args([&format!("--net=/proc/{id}/ns/net"), "nft", "list", "tables"]);
    let tables = tables.output().map(|output| output.stdout);
    let tables = String::from_utf8(tables.unwrap_or_default()).unwrap_or_default();
    Used {
        fds: count("fd"),
        threads: count("task"),
        children: children.unwrap_or_default().split_whitespace().count(),
        kilobytes,
        filters: tables.lines().count(),
    }
}
