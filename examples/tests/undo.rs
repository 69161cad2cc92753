//! System changes are always undone: a daemon that is killed at any moment, what `recover` and the
//! next start make of it, and what others changed meanwhile.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and the moments of a run are told on standard output"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use support::app;
use support::lab::Lab;
use support::trace::Trace;
use support::{Daemon, LIMIT};
use vpn_lab::{LabPlan, OpenVpnOptions, Output, ProviderKind, RegionPlan};

/// How many moments of each phase a daemon is killed at.
const IN_START: u32 = 8;
const IN_RUN: u32 = 5;
const IN_STOP: u32 = 7;

/// How long a daemon runs before it is stopped or killed.
const RUN: Duration = Duration::from_millis(2_500);

/// The host's own, as it is before and after.
const RESOLVERS: &str = "# the host's\nnameserver 192.0.2.1\nsearch example.org\n";

/// Replays a run that failed: the number it printed.
const SEED: &str = "UNDO_SEED";

/// The app: the other tests start copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

/// A lab where the daemon changes all there is to change: WireGuard and OpenVPN, direct, lockdown,
/// strict reverse-path filtering, and resolv.conf behind a link. The host has a firewall of its own.
fn lab() -> Option<Lab> {
    let mut fr = RegionPlan::new("fr", 2);
    fr.kind = ProviderKind::OpenVpn(OpenVpnOptions::default());
    fr.assigned4 = Ipv4Addr::new(10, 100, 0, 2);
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1), fr],
        client_rp_filter: 1,
    };
    let top = "on_exit = \"open\"\nlockdown = true\ndirect = \"always\"";
    let dns = "apply = \"resolv.conf\"\npath = \"resolv.conf\"";
    let lab = Lab::start(plan, top, dns)?;
    // An interface of another program, which stays.
    for line in [
        "tuntap add dev ext0 mode tun",
        "addr add 10.77.0.2/32 dev ext0",
        "link set ext0 up",
    ] {
        lab.lab.client().ip(line).expect("the host's own");
    }
    let text = fs::read_to_string(lab.site.path("multi-region.toml")).expect("it");
    let ext = "[tunnel.ext]\ninterface = \"ext0\"\n";
    lab.site.write("multi-region.toml", &format!("{text}{ext}"));
    lab.rule("--uid 1001 --to uk");
    lab.rule("--uid 1002 --to fr");
    lab.rule("--uid 1003 --to direct");
    lab.site.write("resolv.conf.real", RESOLVERS);
    symlink("resolv.conf.real", lab.site.path("resolv.conf")).expect("a link");
    for line in [
        "add table inet host",
        "add chain inet host input { type filter hook input priority 0; policy accept; }",
        "add rule inet host input tcp dport 22 accept",
    ] {
        lab.lab.client().tool("nft", line).expect("the host's own");
    }
    lab.lab
        .client()
        .ip("rule add fwmark 0x17 lookup 77 priority 500")
        .expect("the host's own");
    // Its log is opened by who starts it.
    lab.site.write("daemon.log", "");
    Some(lab)
}

fn recover(lab: &Lab) -> Output {
    let command = lab
        .site
        .command(&["recover", "--config", "multi-region.toml"]);
    lab.lab.client().output(command, LIMIT).expect("recover")
}

fn trace(lab: &Lab) -> Trace {
    Trace::of(lab.lab.client(), &lab.site)
}

/// What is left of a killed daemon is undone by `recover`, which says so; and there is nothing for
/// a second one.
fn recovers(lab: &Lab, before: &Trace, moment: &str) {
    let done = recover(lab);
    assert!(done.status.success(), "{moment}: {}", done.stderr);
    println!(
        "{moment}: {} lines of what was undone",
        done.stdout.lines().count()
    );
    trace(lab).assert_is(before, moment);
    let again = recover(lab);
    assert!(again.status.success(), "{moment}: {}", again.stderr);
    assert_eq!(again.stdout, "nothing to undo\n", "{moment}");
}

/// Numbers from a seed (splitmix64), so that a run can be repeated.
struct Random(u64);

impl Random {
    fn from_environment() -> Self {
        let given = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
            now.expect("a clock").subsec_nanos().into()
        });
        println!("{SEED}={seed}");
        Self(seed)
    }

    /// From 0 to 1, without 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `count` moments within a time, one in each part of it.
    fn moments(&mut self, count: u32, within: Duration) -> Vec<Duration> {
        let part = within / count;
        (0..count)
            .map(|number| part * number + part.mul_f64(self.next()))
            .collect()
    }
}

/// Sleeping is what places the kill: nothing is concluded from it.
fn wait_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// L-27: a crash left rules of the packet filter behind.
#[test]
fn killed_at_any_moment_everything_is_undone_by_recover() {
    let Some(lab) = lab() else {
        return;
    };
    let client = lab.lab.client();
    let before = trace(&lab);
    println!("compared: {}", before.names());

    // How long the phases take here. A stop undoes everything by itself.
    let begun = Instant::now();
    let mut daemon = Daemon::start(&lab.site, client);
    let start = begun.elapsed();
    lab.only(1001, "uk", "http4");
    lab.only(1002, "fr", "http4");
    lab.only(1003, "direct", "http4");
    assert!(trace(&lab).differs(&before) > 5, "it changes nothing?");
    let refused = recover(&lab);
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stdout);
    assert!(
        refused.stderr.contains("a daemon answers"),
        "{}",
        refused.stderr
    );
    lab.only(1001, "uk", "http4");
    let begun = Instant::now();
    assert!(daemon.terminate(), "{}", daemon.log());
    let stop = begun.elapsed();
    trace(&lab).assert_is(&before, "stopped");
    println!("a start takes {start:?}, a stop {stop:?}");

    let mut random = Random::from_environment();
    for after in random.moments(IN_START, start) {
        let mut daemon = Daemon::spawn(&lab.site, client);
        wait_until(Instant::now() + after);
        daemon.kill();
        recovers(&lab, &before, &format!("killed {after:?} after its start"));
    }
    for after in random.moments(IN_RUN, RUN) {
        let mut daemon = lab.daemon();
        wait_until(Instant::now() + after);
        daemon.kill();
        recovers(
            &lab,
            &before,
            &format!("killed {after:?} after it was ready"),
        );
    }
    for after in random.moments(IN_STOP, stop) {
        let mut daemon = lab.daemon();
        daemon.ask_to_end();
        wait_until(Instant::now() + after);
        daemon.kill();
        recovers(
            &lab,
            &before,
            &format!("killed {after:?} after it was told to stop"),
        );
    }
}

/// The next start needs none of what the killed one did, and undoes it all the same.
#[test]
fn killed_at_any_moment_everything_is_undone_by_the_next_start() {
    let Some(lab) = lab() else {
        return;
    };
    let client = lab.lab.client();
    let before = trace(&lab);
    let full = fs::read_to_string(lab.site.path("multi-region.toml")).expect("it");
    let (head, tail) = full.split_once("[tunnel.fr]").expect("a tunnel");
    let rest = tail.split_once("\n[").map(|(_, rest)| format!("[{rest}"));
    let plain = format!("{head}{}", rest.unwrap_or_default())
        .replace("direct = \"always\"\nlockdown", "lockdown")
        .replace("lockdown = true\ndirect = \"always\"", "")
        .replace("apply = \"resolv.conf\"", "apply = \"none\"");
    let remove = |uid: &str| {
        let done = lab.site.rule(client, &format!("remove --uid {uid}"));
        assert!(done.status.success(), "{}", done.stderr);
    };
    let mut random = Random::from_environment();
    for after in random.moments(4, RUN) {
        let mut daemon = lab.daemon();
        lab.only(1003, "direct", "http4");
        wait_until(Instant::now() + after);
        daemon.kill();
        remove("1002");
        remove("1003");
        lab.site.write("multi-region.toml", &plain);
        let mut next = lab.daemon();
        // Its own is all that is left by now.
        let moment = format!("killed {after:?} after it was ready, and started again");
        let now = trace(&lab).without("vpn0");
        for what in ["resolv.conf", "settings but rp_filter"] {
            now.assert_part_is(&before, what, &moment);
        }
        let tables = client.tool("nft", "list tables").expect("nft");
        assert!(
            !tables.contains("direct") && !tables.contains("ovpn"),
            "{tables}"
        );
        lab.only(1001, "uk", "http4");
        assert!(next.terminate(), "{}", next.log());
        trace(&lab).assert_is(&before, &moment);
        println!("{moment}: all of {} is as before", before.names());
        lab.site.write("multi-region.toml", &full);
        lab.rule("--uid 1002 --to fr");
        lab.rule("--uid 1003 --to direct");
    }
}

/// Also if nobody recovers: a process that OpenVPN's server still talks to would go on for ever.
#[test]
fn an_openvpn_process_ends_by_itself_when_its_daemon_is_killed() {
    let Some(lab) = lab() else {
        return;
    };
    let before = trace(&lab);
    let mut daemon = lab.daemon();
    lab.only(1002, "fr", "http4");
    assert!(trace(&lab).part("processes").contains("ovpn-fr"));
    daemon.kill();
    let killed = Instant::now();
    while trace(&lab).part("processes") != before.part("processes") {
        assert!(killed.elapsed() < LIMIT, "it goes on");
        thread::sleep(Duration::from_millis(20));
    }
    println!("it ended within {:?}", killed.elapsed());
    assert!(!trace(&lab).part("links").contains("ovpn-fr"));
    recovers(&lab, &before, "ended by itself");
}

/// What others change while it runs is told, not corrected, and not overwritten in the end.
#[test]
fn what_others_change_is_told_and_stays() {
    let Some(lab) = lab() else {
        return;
    };
    let client = lab.lab.client();
    let filter = "/proc/sys/net/ipv4/conf/all/rp_filter";
    for killed in [false, true] {
        lab.site.write("daemon.log", "");
        let mut daemon = lab.daemon();
        lab.only(1002, "fr", "http4");
        assert_eq!(changes(&lab), BTreeMap::new());
        let theirs = "nameserver 198.51.100.1\n";
        fs::write(lab.site.path("resolv.conf.real"), theirs).expect("a file");
        client.ip("rule del priority 10000").expect("a rule");
        client.ip("-6 rule del priority 9480").expect("a rule");
        client
            .set("net/ipv4/conf/all/rp_filter", "0")
            .expect("a setting");
        client.set("net/ipv4/ip_forward", "1").expect("a setting");
        client
            .tool("nft", "delete table arp vpn_tun_guard_30320")
            .expect("a table");
        for chain in [
            "vpn_tun_guard_30320 input",
            "vpn_tun_ext_ovpn-fr prerouting",
        ] {
            let added = format!("add rule inet {chain} tcp dport 23 drop");
            client.tool("nft", &added).expect("a rule");
        }
        let expected = BTreeMap::from([
            ("resolv_conf".to_owned(), 1),
            ("rule".to_owned(), 2),
            ("setting".to_owned(), 2),
            ("table".to_owned(), 3),
        ]);
        let end = Instant::now() + LIMIT;
        while changes(&lab) != expected {
            assert!(
                Instant::now() < end,
                "{}",
                lab.site.status(client)["changed_by_others"]
            );
            thread::sleep(Duration::from_millis(50));
        }
        let log = daemon.log();
        for part in [
            "ipv4 policy rule 10000 was removed",
            "resolv.conf was changed",
        ] {
            assert_eq!(log.matches(part).count(), 1, "{part}, once: {log}");
        }
        if killed {
            daemon.kill();
            let done = recover(&lab);
            assert!(done.status.success(), "{}", done.stderr);
            for left in ["resolv.conf", "rp_filter"] {
                let line = done.stdout.lines().find(|line| line.contains(left));
                assert!(
                    line.is_some_and(|l| l.starts_with("left")),
                    "{}",
                    done.stdout
                );
            }
        } else {
            assert!(daemon.terminate(), "{}", daemon.log());
        }
        let now = fs::read_to_string(lab.site.path("resolv.conf")).expect("it");
        assert_eq!(now, theirs);
        assert_eq!(client.tool("cat", filter).expect("cat").trim(), "0");
        // Who switched forwarding on for all gave the uplink the value that we had given it.
        let forwarding = "/proc/sys/net/ipv4/conf/eth0/forwarding";
        assert_eq!(client.tool("cat", forwarding).expect("cat").trim(), "1");
        let tables = client.tool("nft", "list tables").expect("nft");
        assert_eq!(tables.trim(), "table inet host");
        let rules = client.tool("ip", "rule show").expect("ip");
        assert!(
            rules.contains("fwmark 0x17") && !rules.contains("vpn0"),
            "{rules}"
        );
        assert!(
            !lab.site
                .listing()
                .contains(&"multi-region.journal".to_owned())
        );
        fs::write(lab.site.path("resolv.conf.real"), RESOLVERS).expect("a file");
        client
            .set("net/ipv4/conf/all/rp_filter", "1")
            .expect("a setting");
        client.set("net/ipv4/ip_forward", "0").expect("a setting");
    }
}

/// How many changes by others of each kind the daemon tells of.
fn changes(lab: &Lab) -> BTreeMap<String, usize> {
    let status = lab.site.status(lab.lab.client());
    let mut counts = BTreeMap::new();
    for change in status["changed_by_others"].as_array().expect("a list") {
        let kind = change["kind"].as_str().expect("a word").to_owned();
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

/// With systemd-resolved its program is asked: which resolvers, for every name, and back.
#[test]
fn systemd_resolved_is_told_and_told_back() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1)],
        client_rp_filter: 2,
    };
    let Some(lab) = Lab::start(plan, "on_exit = \"open\"", "apply = \"resolved\"") else {
        return;
    };
    lab.rule("--uid 1001 --to uk");
    let said = lab.site.path("said");
    // Says back what it was told, as the real one does.
    let script = format!(
        "#!/bin/sh\nset -e\necho \"$*\" >> {said}\n\
         if [ $# = 2 ] && [ $1 = dns ]; then echo \"Link 7 ($2): $(cat {said}.dns)\"; fi\n\
         if [ $# -gt 2 ] && [ $1 = dns ]; then shift 2; echo \"$*\" > {said}.dns; fi\n",
        said = said.display()
    );
    let program = lab.site.write("resolvectl", &script);
    make_executable(&program);
    let mut daemon = Daemon::start_with_path(&lab.site, lab.lab.client());
    lab.only(1001, "uk", "http4");
    let told = || fs::read_to_string(&said).expect("what was said");
    let begin = "dns vpn0 100.127.255.53\ndomain vpn0 ~.\ndefault-route vpn0 yes\n";
    assert!(told().starts_with(begin), "{}", told());
    assert!(daemon.terminate(), "{}", daemon.log());

    // Somebody else's resolvers are told.
    let mut daemon = Daemon::start_with_path(&lab.site, lab.lab.client());
    fs::write(lab.site.path("said.dns"), "198.51.100.1").expect("a file");
    let expected = BTreeMap::from([("resolved".to_owned(), 1)]);
    let end = Instant::now() + LIMIT;
    while changes(&lab) != expected {
        assert!(Instant::now() < end, "{}", daemon.log());
        thread::sleep(Duration::from_millis(50));
    }
    assert!(daemon.terminate(), "{}", daemon.log());

    // With the interface goes what the service knew of it.
    let mut daemon = Daemon::start_with_path(&lab.site, lab.lab.client());
    daemon.kill();
    let before = told();
    assert!(recover(&lab).status.success());
    assert_eq!(told(), before);
    assert!(!before.contains("revert"), "{before}");
    assert!(
        !lab.site
            .listing()
            .contains(&"multi-region.journal".to_owned())
    );
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
}
