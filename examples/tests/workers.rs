//! The daemon with two workers: tunnels with the identical address on both, and queues that the
//! kernel chooses.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and an app speaks on standard output"
)]

mod support;

use std::thread;
use std::time::Duration;

use support::app::{self, App};
use support::lab::{Lab, NO_RULE, USERS, nothing_direct};
use vpn_lab::LabPlan;

/// How long the kernel remembers by which queue a flow was answered (`TUN_FLOW_EXPIRATION`), and
/// a second.
const FORGETS: Duration = Duration::from_secs(4);

const SCRIPT: &str = "http4 40,http6 10,echo4 5,echo6 5,large4 5,large6 5,upload4 2,bulk6 2,dns 5";

/// The app: the other tests start copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

/// Fresh connections and datagrams of three apps at the same time, some of which come out of the
/// queue of a worker that has not their tunnel; and a connection of each that stays.
fn every_app_has_its_region(top: &str) {
    let dns = "path = \"resolv.conf\"\napply = \"none\"";
    let Some(lab) = Lab::start(LabPlan::default(), top, dns) else {
        return;
    };
    lab.site.write("resolv.conf", "nameserver 192.0.2.1\n");
    let client = lab.lab.client();
    lab.add_rules();
    let _daemon = lab.daemon();
    nothing_direct(&lab, || {
        let mut staying = USERS.map(|(uid, _)| App::start(client, &lab.app, uid, "hold 5"));
        thread::scope(|scope| {
            for (uid, region) in USERS {
                let lab = &lab;
                scope.spawn(move || lab.only(uid, region, SCRIPT));
            }
            scope.spawn(|| lab.gets_nothing(NO_RULE));
        });
        // The kernel forgets after three seconds of silence which queue was theirs.
        thread::sleep(FORGETS);
        for (app, (_, region)) in staying.iter_mut().zip(USERS) {
            assert_eq!(app.ask(), format!("{region}*5"));
        }
    });
    let status = lab.site.status(client);
    println!("{}", status["packets"]);
    assert!(
        status["packets"]["handed_over"].as_u64() > Some(0),
        "{status:#}"
    );
    assert_eq!(lab.lab.drops().expect("counters"), 0, "wrong sources");
    // But of the app without a rule, what is no traffic of apps, and what a worker hands to one that
    // does not get to it: its ring is bounded. That is little.
    let drops = status["drops"].as_object().expect("drops").clone();
    let expected = [
        "blocked_by_default",
        "not_routable",
        "unsupported",
        "queue_full",
    ];
    let others = drops
        .keys()
        .filter(|name| !expected.contains(&name.as_str()));
    assert_eq!(others.count(), 0, "{drops:?}");
    let number =
        |value: Option<&serde_json::Value>| value.and_then(serde_json::Value::as_u64).unwrap_or(0);
    let packets = &status["packets"];
    let came = number(packets.get("in_device")) + number(packets.get("in_tunnels"));
    let full = number(drops.get("queue_full"));
    assert!(full * 100 <= came, "{full} of {came} found no room");
}

#[test]
fn three_providers_on_two_workers() {
    every_app_has_its_region("[interface]\nworkers = 2\noffload = \"off\"\n");
}

#[test]
fn super_packets_on_two_workers() {
    every_app_has_its_region("[interface]\nworkers = 2\noffload = \"auto\"\n");
}
