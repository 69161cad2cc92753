//! Start, stop and what is left: the daemon's traces in a lab of its own.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and an app speaks on standard output"
)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use support::Daemon;
use support::app::{self, NOTHING};
use support::lab::{Lab, NO_RULE, nothing_direct};
use vpn_lab::{LabPlan, RegionPlan};

/// The app: the other tests start copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

#[test]
fn stopping_with_open_leaves_everything_as_before() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1)],
        client_rp_filter: 1,
    };
    let dns = "apply = \"resolv.conf\"\npath = \"resolv.conf\"";
    let Some(lab) = Lab::start(plan, "on_exit = \"open\"", dns) else {
        return;
    };
    let client = lab.lab.client();
    lab.rule("--uid 1001 --to uk");
    let resolvers = "# the host's\nnameserver 192.0.2.1\nsearch example.org\n";
    lab.site.write("resolv.conf", resolvers);
    let filter = || {
        client
            .tool("cat", "/proc/sys/net/ipv4/conf/all/rp_filter")
            .expect("cat")
    };
    let (before, strict) = (lab.network(), filter());
    lab.only(1001, "direct", "http4");
    // The log of the daemon is opened by its starter.
    lab.site.write("daemon.log", "");
    let listing = lab.site.listing();

    let mut daemon = lab.daemon();
    lab.only(1001, "uk", "http4 3,http6");
    let written = fs::read_to_string(lab.site.path("resolv.conf")).expect("resolv.conf");
    assert!(written.contains("nameserver 100.127.255.53"), "{written}");
    for name in ["multi-region.sock", "multi-region.journal", "rules.db"] {
        let mode = fs::metadata(lab.site.path(name))
            .expect(name)
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(daemon.terminate(), "{}", daemon.log());
    assert_eq!(lab.network(), before);
    assert_eq!(filter(), strict);
    assert_eq!(
        fs::read_to_string(lab.site.path("resolv.conf")).expect("read"),
        resolvers
    );
    assert_eq!(lab.site.listing(), listing);
    lab.only(1001, "direct", "http4");

    // At any moment of a start, too.
    for after in [0, 1, 2, 4, 6, 8, 10, 15, 20, 30, 50, 80] {
        let mut daemon = Daemon::spawn(&lab.site, client);
        thread::sleep(Duration::from_millis(after));
        daemon.terminate();
        assert_eq!(lab.network(), before, "stopped after {after} ms");
        assert_eq!(filter(), strict, "stopped after {after} ms");
        assert_eq!(lab.site.listing(), listing, "stopped after {after} ms");
    }
}

#[test]
fn a_daemon_that_fails_blocks_although_open_was_asked_for() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1)],
        client_rp_filter: 0,
    };
    let Some(lab) = Lab::start(plan, "on_exit = \"open\"", "apply = \"none\"") else {
        return;
    };
    lab.rule("--uid 1001 --to uk");
    let before = lab.network();
    let mut daemon = lab.daemon();
    lab.only(1001, "uk", "http4");
    nothing_direct(&lab, || {
        lab.lab.client().ip("link del vpn0").expect("removed");
        assert_eq!(daemon.ends(), Some(1), "{}", daemon.log());
        lab.gets_nothing(1001);
        daemon = lab.daemon();
        lab.only(1001, "uk", "http4");
    });
    assert!(daemon.terminate(), "{}", daemon.log());
    assert_eq!(lab.network(), before);
}

#[test]
fn stopping_with_block_keeps_blocking_until_the_next_start() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1)],
        client_rp_filter: 2,
    };
    let Some(lab) = Lab::start(plan, "on_exit = \"block\"", "apply = \"none\"") else {
        return;
    };
    lab.rule("--uid 1001 --to uk");
    let mut daemon = lab.daemon();
    nothing_direct(&lab, || {
        lab.only(1001, "uk", "http4");
        assert!(daemon.terminate(), "{}", daemon.log());
        lab.gets_nothing(1001);
        lab.gets_nothing(NO_RULE);
        // One that asks all the time while the next daemon takes over.
        thread::scope(|scope| {
            let impatient = scope.spawn(|| lab.run(NO_RULE, "short4 6"));
            let _again = lab.daemon();
            lab.only(1001, "uk", "http4 3");
            let answers = impatient.join().expect("the app");
            assert!(
                answers.iter().all(|answer| answer.ends_with(NOTHING)),
                "{answers:?}"
            );
        });
    });
}

#[test]
fn every_reverse_path_filter() {
    for mode in [0, 1, 2] {
        let plan = LabPlan {
            regions: vec![RegionPlan::new("uk", 1)],
            client_rp_filter: mode,
        };
        let Some(lab) = Lab::start(plan, "", "apply = \"none\"") else {
            return;
        };
        lab.rule("--uid 1001 --to uk");
        let _daemon = lab.daemon();
        lab.only(1001, "uk", "http4 3,http6 2,echo4 2");
    }
}

#[test]
fn ready_although_a_tunnel_is_dead_and_a_caller_silent() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1), RegionPlan::new("fr", 2)],
        client_rp_filter: 2,
    };
    let Some(lab) = Lab::start(plan, "", "apply = \"none\"") else {
        return;
    };
    let client = lab.lab.client();
    // An address nobody has.
    let profile = lab.lab.region("fr").expect("fr").profile().to_owned();
    let text = fs::read_to_string(&profile).expect("a profile");
    fs::write(&profile, text.replace("192.0.2.22:", "192.0.2.99:")).expect("a profile");
    lab.rule("--uid 1001 --to uk");
    lab.rule("--uid 1002 --to fr");
    let mut daemon = Daemon::spawn(&lab.site, client);
    let took = daemon.ready();
    assert!(took < support::READY_LIMIT, "{took:?}");
    nothing_direct(&lab, || {
        lab.only(1001, "uk", "http4 3");
        lab.gets_nothing(1002);
    });

    // Callers that say nothing, and half a question, delay nobody.
    let socket = lab.site.path("multi-region.sock");
    let silent: Vec<UnixStream> = (0..7)
        .map(|_| UnixStream::connect(&socket).expect("a connection"))
        .collect();
    std::io::Write::write_all(&mut &silent[0], b"\"sta").expect("half a question");
    let asked = Instant::now();
    assert_ne!(lab.site.status(client)["tunnels"]["fr"]["state"], "up");
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    assert!(daemon.terminate(), "{}", daemon.log());
    drop(silent);
}

/// Rules in the configuration are watched; the rest of it is read again when that is asked for.
#[test]
fn a_changed_configuration_is_put_in_force_while_apps_go_on() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1), RegionPlan::new("fr", 2)],
        client_rp_filter: 1,
    };
    let rule = |region: &str| format!("[[rule]]\nuid = 1001\nto = \"{region}\"\n");
    let Some(lab) = Lab::start(plan, &rule("uk"), "apply = \"none\"") else {
        return;
    };
    lab.rule("--uid 1002 --to fr");
    let client = lab.lab.client();
    let _daemon = lab.daemon();
    let good = fs::read_to_string(lab.site.path("multi-region.toml")).expect("it");
    let write = |text: &str| lab.site.write("multi-region.toml", text);
    let until = |what: &str, test: &dyn Fn() -> bool| {
        let end = Instant::now() + Duration::from_secs(10);
        while !test() {
            assert!(Instant::now() < end, "{what}: {}", lab.site.status(client));
            thread::sleep(Duration::from_millis(20));
        }
    };
    let reload = || {
        let command = lab
            .site
            .command(&["reload", "--control", "multi-region.sock"]);
        client
            .output(command, Duration::from_secs(10))
            .expect("the program")
    };
    nothing_direct(&lab, || {
        lab.only(1001, "uk", "http4");
        let mut kept = lab.asking(1002);
        assert_eq!(kept.ask(), "fr");

        let mut fresh = lab.asking(1001);
        write(&good.replace(&rule("uk"), &rule("fr")));
        let end = Instant::now() + Duration::from_secs(10);
        while fresh.ask() != "fr" {
            assert!(Instant::now() < end, "the rule does not count");
        }
        // What makes no sense changes nothing and is told.
        write(&good.replace(&rule("uk"), "[[rule]]\nto = 3\n"));
        until("the error", &|| {
            let error = lab.site.status(client)["rules"]["error"].clone();
            error
                .as_str()
                .is_some_and(|e| e.contains("[[rule]] number 1"))
        });
        assert_eq!(fresh.ask(), "fr");
        let refused = reload();
        assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
        assert!(
            refused.stderr.contains("[[rule]] number 1"),
            "{}",
            refused.stderr
        );

        // A group, a default and a time: the last one needs a restart.
        let group = "[group.eu]\nmembers = [\"fr\", \"uk\"]\n[timeouts]\nudp = \"4m\"\n";
        let changed = good.replace(&rule("uk"), &rule("eu"));
        write(&format!("default = \"uk\"\n{changed}{group}"));
        let done = reload();
        assert!(done.status.success(), "{}", done.stderr);
        for line in [
            "in force: default",
            "in force: group.eu.members",
            "after a restart: timeouts.udp",
        ] {
            assert!(done.stdout.contains(line), "{line}: {}", done.stdout);
        }
        until("the default", &|| lab.run(NO_RULE, "http4") == ["http4 uk"]);
        let told = lab
            .site
            .ask(client, "explain --uid 1001 --dst 203.0.113.10:80");
        assert_eq!(
            (&told["group"], &told["tunnel"]),
            (&"eu".into(), &"fr".into())
        );
        assert_eq!(told["rule"], "file-rule#1", "{told}");
        lab.only(1001, "fr", "http4");

        // A tunnel that rules name cannot go, and nothing goes half way.
        let (before, after) = changed.split_once("[tunnel.fr]").expect("it");
        let rest = after.split_once("\n[").map_or("", |(_, rest)| rest);
        let rest = match rest {
            "" => String::new(),
            rest => format!("[{rest}"),
        };
        write(&format!("{before}{rest}").replace(&rule("eu"), &rule("uk")));
        let refused = reload();
        assert_eq!(refused.status.code(), Some(2), "{}", refused.stdout);
        assert!(refused.stderr.contains("fr"), "{}", refused.stderr);
        lab.only(1002, "fr", "http4");
        let remove = ["rule", "remove", "--rules", "rules.db", "--uid", "1002"];
        let removed = client.output(lab.site.command(&remove), Duration::from_secs(10));
        assert!(removed.expect("the program").status.success());
        let done = reload();
        assert!(
            done.stdout.contains("in force: tunnel.fr.wireguard"),
            "{}",
            done.stdout
        );
        let status = lab.site.status(client);
        assert!(status["tunnels"]["fr"].is_null(), "{status}");
        assert!(status["groups"]["eu"].is_null(), "{status}");
        lab.only(1001, "uk", "http4");
        lab.gets_nothing(NO_RULE);

        // And comes back.
        write(&good.replace(&rule("uk"), &rule("fr")));
        assert!(reload().status.success());
        until("the tunnel", &|| lab.run(1001, "http4") == ["http4 fr"]);
    });
}

/// A tunnel on demand connects with the first packet, which is not lost, and rests again; a live
/// socket's way is explained with what the system says about its owner.
#[test]
fn a_tunnel_on_demand_and_the_owner_of_a_live_socket() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1)],
        client_rp_filter: 1,
    };
    // Long enough to be looked at before it rests.
    let extra = |_: &str| "connect = \"on-demand\"\nidle = \"5s\"\n".to_owned();
    let Some(lab) = Lab::start_with(plan, "", "apply = \"none\"", extra) else {
        return;
    };
    lab.rule("--uid 1001 --to uk");
    lab.rule("--uid 0 --to uk");
    let client = lab.lab.client();
    let _daemon = lab.daemon();
    let state = || lab.site.status(client)["tunnels"]["uk"]["state"].clone();
    assert_eq!(state(), "dormant");
    nothing_direct(&lab, || {
        lab.only(1001, "uk", "http4");
        assert_eq!(state(), "up");
        let bound = client.run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.connect((vpn_lab::SITE4, 7)).expect("a way");
            socket
        });
        let socket = bound.expect("a namespace");
        let local = socket.local_addr().expect("an address");
        let told = lab.site.ask(
            client,
            &format!(
                "explain --local {local} --dst {}:7 --proto udp",
                vpn_lab::SITE4
            ),
        );
        assert_eq!(
            (&told["owner"]["uid"], &told["tunnel"]),
            (&0.into(), &"uk".into())
        );
        let evidence = told["evidence"].as_str().expect("evidence");
        assert!(evidence.contains("uid 0"), "{evidence}");
        assert_eq!(told["rule_says"], "rule#2: uid 0", "{told}");
        let end = Instant::now() + Duration::from_secs(15);
        while state() != "dormant" {
            assert!(Instant::now() < end, "it does not rest");
            thread::sleep(Duration::from_millis(100));
        }
        lab.only(1001, "uk", "http4");
    });
}
