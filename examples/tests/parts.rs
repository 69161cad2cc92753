//! Parts of the daemon that fail, and are mended: what becomes of the others, and what is told.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and an app speaks on standard output"
)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;
use support::app;
use support::lab::{Lab, nothing_direct};
use support::metrics::{METRICS, get, sample, settled, sum};
use vpn_lab::{LabPlan, RegionPlan};

/// For what comes in seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// The app: the other tests start copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

fn lab(top: &str, workers: usize) -> Option<Lab> {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1), RegionPlan::new("fr", 2)],
        client_rp_filter: 1,
    };
    let top = format!(
        "metrics = \"{METRICS}\"\n{top}\n[interface]\noffload = \"off\"\nworkers = {workers}"
    );
    Lab::start(plan, &top, "apply = \"none\"")
}

/// Waits until status says so.
fn until(lab: &Lab, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let status = lab.site.status(lab.lab.client());
        if is_so(&status) {
            return status;
        }
        assert!(begun.elapsed() < LIMIT, "{what}: {status:#}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The last good rules stay in force while the source is not asked, what is wrong is told, and rules
/// that are mended count at once, long before the breaker's time has come.
#[test]
fn a_database_that_fails_and_is_mended() {
    let Some(lab) = lab("[breaker]\nfailures = 1\nreset_after = \"1h\"", 1) else {
        return;
    };
    lab.rule("--uid 1001 --to uk");
    let mut daemon = lab.daemon();
    lab.only(1001, "uk", "http4");
    let status = lab.site.status(lab.lab.client());
    for breaker in ["rules.file", "rules.database", "tunnel.uk", "tunnel.fr"] {
        assert_eq!(status["breakers"][breaker]["state"], "closed", "{status:#}");
    }
    for task in ["control", "interfaces", "metrics", "network", "rules"] {
        assert_eq!(status["tasks"][task]["state"], "running", "{status:#}");
        assert_eq!(status["tasks"][task]["starts"], 1, "{status:#}");
    }

    let database = Connection::open(lab.site.path("rules.db")).expect("the database");
    let sql = |text: &str| database.execute_batch(text).expect(text);
    nothing_direct(&lab, || {
        sql("ALTER TABLE rules RENAME TO away");
        let status = until(&lab, "open", |status| {
            status["breakers"]["rules.database"]["state"] == "open"
        });
        assert_eq!(status["breakers"]["rules.file"]["state"], "closed");
        assert_eq!(status["retries"]["rules.database"]["given_up"], 1);
        // Asked again or not: what the database said is what is told.
        until(&lab, "an error", |status| {
            let error = status["rules"]["error"].as_str().unwrap_or_default();
            error.contains("no such table") && error.contains("asked again later")
        });
        let text = get(&lab, "/metrics", METRICS);
        let open = "vpn_breaker_state{breaker=\"rules.database\",state=\"open\"}";
        assert_eq!(sample(&text, open), 1.0);
        assert_eq!(sample(&text, "vpn_rules_error"), 1.0);
        assert!(sample(&text, "vpn_retry_attempts_total{retry=\"rules.database\"}") >= 5.0);
        lab.only(1001, "uk", "http4");

        sql("ALTER TABLE away RENAME TO rules");
        lab.rule("--uid 1001 --to fr");
        until(&lab, "closed", |status| {
            status["breakers"]["rules.database"]["state"] == "closed"
                && status["rules"]["error"].is_null()
        });
        let end = Instant::now() + LIMIT;
        while lab.run(1001, "http4") != ["http4 fr"] {
            assert!(Instant::now() < end, "the rule does not count");
        }
    });
    assert!(daemon.terminate(), "{}", daemon.log());
}

/// Held down is down: nothing of it goes elsewhere, and it comes back once it lasts.
#[test]
fn a_tunnel_that_flaps_is_held_down() {
    let top = "[breaker]\nfailures = 2\nreset_after = \"3s\"\nsuccesses = 1";
    let Some(lab) = lab(top, 1) else { return };
    let client = lab.lab.client();
    if client.ip("link add wg9 type wireguard").is_err() {
        println!("skipped: the kernel has no WireGuard");
        return;
    }
    client.ip("addr add 10.9.0.2/32 dev wg9").expect("ip");
    client.ip("link set wg9 up").expect("ip");
    let file = lab.site.path("multi-region.toml");
    let text = std::fs::read_to_string(file).expect("it");
    let text = format!("{text}[tunnel.office]\ninterface = \"wg9\"\n");
    lab.site.write("multi-region.toml", &text);
    lab.rule("--uid 1001 --to office");
    lab.rule("--uid 1002 --to fr");
    let mut daemon = lab.daemon();
    let state = |status: &Value| status["tunnels"]["office"]["state"].clone();
    let breaker = |status: &Value| status["breakers"]["tunnel.office"]["state"].clone();
    nothing_direct(&lab, || {
        until(&lab, "up", |status| state(status) == "up");
        client.ip("link set wg9 down").expect("ip");
        until(&lab, "down", |status| state(status) == "down");
        client.ip("link set wg9 up").expect("ip");
        until(&lab, "up again", |status| state(status) == "up");
        client.ip("link set wg9 down").expect("ip");
        until(&lab, "open", |status| breaker(status) == "open");
        client.ip("link set wg9 up").expect("ip");
        let held = until(&lab, "held", |status| {
            let cause = status["tunnels"]["office"]["cause"].as_str();
            cause.is_some_and(|cause| cause.contains("held back"))
        });
        assert_eq!(state(&held), "down", "{held:#}");
        assert_eq!(held["breakers"]["tunnel.uk"]["state"], "closed");
        lab.gets_nothing(1001);
        lab.only(1002, "fr", "http4");
        until(&lab, "used again", |status| {
            state(status) == "up" && breaker(status) == "half_open"
        });
        until(&lab, "trusted", |status| breaker(status) == "closed");
    });
    assert!(daemon.terminate(), "{}", daemon.log());
}

/// In = out + drops, to the packet, from the samples alone.
fn balances(text: &str) {
    let of = |family| sum(text, family);
    let came = of("vpn_in_packets_total");
    let (went, dropped) = (of("vpn_out_packets_total"), of("vpn_dropped_packets_total"));
    println!("{came} came, {went} went, {dropped} dropped");
    assert_eq!(came, went + dropped, "{text}");
}

/// Ends what runs beside, with its own end.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Loss, tunnels that are cut and heal, rules that change under live flows, and a reload that takes a
/// tunnel away: no packet is unaccounted for.
fn every_packet_is_accounted_for(workers: usize) {
    let Some(lab) = lab("", workers) else {
        return;
    };
    lab.rule("--uid 1001 --to uk");
    lab.rule("--uid 1002 --to fr");
    let mut daemon = lab.daemon();
    lab.only(1001, "uk", "http4");
    let before = settled(&lab);
    balances(&before);

    // One in thirty is lost, of tunnels' packets in either direction.
    let loss = "table inet loss {\nchain out {\ntype filter hook forward priority 0;\n\
                numgen inc mod 30 == 0 drop\n}\n}\n";
    lab.lab.gateway().packet_filter(loss).expect("nft");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also where this panics.
        let _over = Over(&over);
        for uid in [1001, 1002] {
            let (lab, over) = (&lab, &over);
            let script = "short4 2,short6 2,large4,dns";
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    lab.run(uid, script);
                }
            });
        }
        let nobody = &lab;
        scope.spawn(move || nobody.run(support::lab::NO_RULE, "short4 3,short6 3"));
        for to in ["fr", "uk", "block", "fr", "uk"] {
            lab.rule(&format!("--uid 1001 --to {to}"));
            lab.lab.cut("fr").expect("a cut");
            thread::sleep(Duration::from_millis(400));
            lab.lab.heal("fr").expect("a cable");
            thread::sleep(Duration::from_millis(400));
        }
        let client = lab.lab.client();
        client.ip("link set eth0 down").expect("ip");
        thread::sleep(Duration::from_millis(300));
        client.ip("link set eth0 up").expect("ip");
        client
            .ip("route replace default via 192.0.2.1")
            .expect("ip");
    });
    lab.lab
        .gateway()
        .packet_filter("delete table inet loss")
        .expect("nft");
    // Gone with what is on its way.
    let file = lab.site.path("multi-region.toml");
    let text = std::fs::read_to_string(file).expect("it");
    let (without, _) = text.split_once("[tunnel.fr]").expect("a tunnel");
    lab.site.write("multi-region.toml", without);
    lab.rule("--uid 1002 --to uk");
    let client = lab.lab.client();
    let reload = ["reload", "--control", "multi-region.sock"];
    let output = client.output(lab.site.command(&reload), LIMIT);
    let output = output.expect("the program");
    assert!(output.status.success(), "{}", output.stderr);
    until(&lab, "up", |status| {
        status["tunnels"]["uk"]["state"] == "up" && status["tunnels"]["fr"].is_null()
    });

    let after = settled(&lab);
    balances(&after);
    let grew = |family| sum(&after, family) - sum(&before, family);
    assert!(grew("vpn_in_packets_total") > 200, "{after}");
    assert!(grew("vpn_dropped_packets_total") > 0, "{after}");
    assert!(daemon.terminate(), "{}", daemon.log());
}

#[test]
fn every_packet_is_accounted_for_under_chaos() {
    every_packet_is_accounted_for(1);
}

#[test]
fn every_packet_is_accounted_for_by_two_workers() {
    every_packet_is_accounted_for(2);
}
