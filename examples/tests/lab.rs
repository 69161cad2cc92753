//! The daemon in a lab of its own: providers that hand out the identical address, apps as
//! processes of different users, and proof that nothing goes the direct way.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and an app speaks on standard output"
)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::LIMIT;
use support::app::{self, App, NOTHING};
use support::lab::{Lab, NO_RULE, USERS, nothing_direct};
use vpn_lab::{LabPlan, SITE4};

/// A rule counts within this time after `rule add` has ended, on a machine that does nothing else.
const RULE_LIMIT: Duration = Duration::from_millis(50);

/// The app: the other tests start copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

/// Waits until the daemon says of new flows of this user, and of this program if any, what `is_so`
/// waits for: how long that took. From then on the rule counts for every packet.
fn counts(lab: &Lab, uid: u32, program: Option<&Path>, is_so: impl Fn(&Value) -> bool) -> Duration {
    let flow = json!({ "uid": uid, "exe": program, "dst": format!("{SITE4}:80"), "proto": "tcp" });
    let begun = Instant::now();
    loop {
        let told = lab.site.request(&json!({ "explain": flow }));
        if is_so(&told) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < LIMIT, "the rule never counts: {told}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn goes_to(lab: &Lab, uid: u32, program: Option<&Path>, region: &str) -> Duration {
    counts(lab, uid, program, |told| {
        told["tunnel"] == region && told["verdict"] == "tunnel"
    })
}

/// All apps at the same time, in every way the lab can ask.
fn every_app_has_its_region(lab: &Lab) {
    thread::scope(|scope| {
        for (number, (uid, region)) in (1..).zip(USERS) {
            scope.spawn(move || {
                lab.only(uid, region, "http4 60,http6 10,echo4 5,echo6 5,dns 5");
                for site in [
                    format!("203.0.113.2{number}"),
                    format!("2001:db8:113::2{number}"),
                ] {
                    assert!(lab.ping(uid, &site), "{uid} pings {site}");
                }
                let other = format!("203.0.113.2{}", number % 3 + 1);
                assert!(
                    !lab.ping(uid, &other),
                    "{uid} reaches another region's {other}"
                );
            });
        }
        scope.spawn(|| lab.gets_nothing(NO_RULE));
    });
    assert_eq!(
        lab.lab.drops().expect("counters"),
        0,
        "packets with a wrong source"
    );
}

/// N-23: there was one tunnel of WireGuard at a time.
#[test]
fn three_providers_with_the_identical_address() {
    let Some(lab) = Lab::start(LabPlan::default(), "", "apply = \"none\"") else {
        return;
    };
    let client = lab.lab.client();
    lab.add_rules();
    let _daemon = lab.daemon();
    nothing_direct(&lab, || every_app_has_its_region(&lab));

    // `explain` tells what happens.
    for (uid, region) in USERS {
        let told = lab.site.ask(
            client,
            &format!("explain --uid {uid} --dst 203.0.113.10:80"),
        );
        assert_eq!(
            (&told["tunnel"], &told["verdict"]),
            (&region.into(), &"tunnel".into())
        );
        assert_eq!(told["source"], "10.5.0.2");
    }
    let told = lab.site.ask(
        client,
        &format!("explain --uid {NO_RULE} --dst 203.0.113.10:80"),
    );
    assert_eq!(told["rule"], "default");
    assert!(
        told["verdict"]
            .as_str()
            .is_some_and(|v| v.starts_with("drop")),
        "{told}"
    );

    let status = lab.site.status(client);
    assert_eq!(status["interface"]["name"], "vpn0");
    let shown = &status["interface"]["addresses"];
    assert_eq!(
        *shown,
        serde_json::json!(["10.5.0.2/32", "fd00:5::2/128"]),
        "{status}"
    );
    let mut roles = BTreeMap::new();
    for (_, region) in USERS {
        let tunnel = &status["tunnels"][region];
        assert_eq!(tunnel["state"], "up");
        assert_eq!(tunnel["assigned"][0], "10.5.0.2/32");
        assert_eq!(tunnel["address_on_device"], "10.5.0.2/32");
        for counter in ["packets", "bytes"] {
            for direction in ["tx", "rx"] {
                assert!(tunnel[counter][direction].as_u64() > Some(0), "{tunnel}");
            }
        }
        assert!(tunnel["drops"].is_object(), "{tunnel}");
        *roles
            .entry(tunnel["role"].as_str().unwrap_or("none").to_owned())
            .or_insert(0) += 1;
    }
    // The first to come up is the primary; which one that is nobody promises.
    let primaries: i32 = roles
        .iter()
        .filter(|(r, _)| r.starts_with("primary"))
        .map(|(_, n)| n)
        .sum();
    assert_eq!(primaries, 1, "{roles:?}");
    assert!(
        roles.keys().all(|role| role.contains("of 10.5.0.2/32")),
        "{roles:?}"
    );
    assert!(status["flows"].as_u64() > Some(0));
    assert!(status["rules"]["generation"].as_u64() > Some(0));
    let listed = status["flow_list"].as_array().expect("a list");
    assert!(
        listed
            .iter()
            .any(|flow| flow["uid"] == 1002 && flow["tunnel"] == "fr"),
        "{status}"
    );

    // The same for people.
    let command = lab
        .site
        .command(&["status", "--control", "multi-region.sock"]);
    let told = client.output(command, support::LIMIT).expect("status");
    for part in [
        "uk: up",
        "primary of 10.5.0.2/32",
        "secondary of 10.5.0.2/32 (primary ",
    ] {
        assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
    }

    // A rule that cannot be carried out blocks its app, is reported, and stops no other.
    lab.rule("--uid 1005 --to mars");
    lab.rule("--uid 1006 --to fr");
    counts(&lab, 1005, None, |told| {
        told["rule"].as_str().is_some_and(|rule| rule != "default")
    });
    goes_to(&lab, 1006, None, "fr");
    nothing_direct(&lab, || lab.gets_nothing(1005));
    lab.only(1006, "fr", "http4");
    let problems = lab.site.status(client)["rules"]["problems"].to_string();
    assert!(problems.contains("mars"), "{problems}");

    // Two programs of one user, told apart by what they execute.
    for region in ["uk", "us"] {
        let program = lab.site.app(&format!("app-{region}"));
        lab.rule(&format!("--exe {} --to {region}", program.display()));
        goes_to(&lab, 1007, Some(&program), region);
    }
    for region in ["uk", "us"] {
        let program = lab.site.path(&format!("app-{region}"));
        for answer in app::run(client, &program, 1007, "http4 5,http6 2,echo4 2") {
            assert!(answer.ends_with(region), "{region}: {answer}");
        }
    }
    lab.gets_nothing(1007);
}

/// N-8: a second tunnel worked with the address of the first one only.
#[test]
fn three_providers_with_different_addresses() {
    let mut plan = LabPlan::default();
    for (region, last) in plan
        .regions
        .iter_mut()
        .zip([[5, 0, 2], [5, 0, 3], [6, 0, 2]])
    {
        let [b, c, d] = last;
        region.assigned4 = [10, b, c, d].into();
        region.own_resolver = true;
    }
    let Some(lab) = Lab::start(plan, "", "apply = \"none\"") else {
        return;
    };
    lab.add_rules();
    let _daemon = lab.daemon();
    nothing_direct(&lab, || every_app_has_its_region(&lab));
}

/// N-21, N-30: a change of rules moves what it concerns; what it blocks ends.
#[test]
fn rules_change_while_connections_run() {
    let Some(lab) = Lab::start(LabPlan::default(), "", "apply = \"none\"") else {
        return;
    };
    let client = lab.lab.client();
    lab.add_rules();
    let mut daemon = lab.daemon();
    nothing_direct(&lab, || {
        let mut fresh = lab.asking(1001);
        assert_eq!(fresh.ask(), "uk");
        let mut held = App::start(client, &lab.app, 1001, "hold 50");
        assert_eq!(held.ask(), "uk*50");
        let mut neighbour = lab.asking(1002);
        let mut took = Vec::new();
        for region in ["fr", "uk"].repeat(5) {
            lab.rule(&format!("--uid 1001 --to {region}"));
            took.push(goes_to(&lab, 1001, None, region));
            assert_eq!(fresh.ask(), region);
            // A connection cannot change its address: it stays or ends, and goes nowhere else.
            assert_eq!(held.ask(), "uk*50");
            assert_eq!(neighbour.ask(), "fr");
        }
        took.sort_unstable();
        println!("a rule counted after {:?} (median of 10)", took[5]);
        // This machine may be busy; a rule that waits for something is late each time.
        assert!(
            took[2] < RULE_LIMIT,
            "{RULE_LIMIT:?} are promised: {took:?}"
        );
    });
    assert_eq!(lab.lab.drops().expect("counters"), 0);

    // Blocked is blocked: also what was there before.
    nothing_direct(&lab, || {
        let mut held = App::start(client, &lab.app, 1003, "hold 1");
        assert_eq!(held.ask(), "us*1");
        lab.rule("--uid 1003 --to block");
        counts(&lab, 1003, None, |told| told["verdict"] != "tunnel");
        assert_eq!(held.ask(), format!("{NOTHING}*1"));
        lab.rule("--uid 1003 --to us");
    });

    // A cut tunnel blocks its app and nobody else's.
    nothing_direct(&lab, || {
        lab.lab.cut("fr").expect("cut");
        lab.only(1002, NOTHING, "short4 2");
        lab.only(1001, "uk", "http4 3");
        lab.lab.heal("fr").expect("heal");
        let mut asking = lab.asking(1002);
        let healed = Instant::now();
        while asking.ask() != "fr" {
            assert!(
                healed.elapsed() < Duration::from_secs(10),
                "fr does not come back"
            );
        }
    });

    // Killed: nothing goes direct, and the next start takes over.
    nothing_direct(&lab, || {
        daemon.kill();
        for uid in [1001, 1002, NO_RULE] {
            lab.gets_nothing(uid);
        }
        let _again = lab.daemon();
        lab.only(1002, "fr", "http4 3");
    });
}
