//! What the daemon tells while it runs: metrics, status, the live view; and how apps are switched.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and an app speaks on standard output"
)]

mod support;

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use support::app;
use support::lab::Lab;
use support::metrics::{METRICS, get, request, sample};
use support::place::{CONFIG, Place, site};
use vpn_lab::{LabPlan, RegionPlan};

/// The app: the other tests start copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

/// The rows of the reference: name and type.
fn documented() -> BTreeSet<(String, String)> {
    let (_, reference) = include_str!("../README.md")
        .split_once("### Metrics")
        .expect("it");
    let rows = reference.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (kind, _) = rest.split_once(" |")?;
        ["counter", "gauge"]
            .contains(&kind)
            .then(|| (name.to_owned(), kind.to_owned()))
    });
    rows.collect()
}

#[test]
fn metrics_are_those_documented_and_count() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1), RegionPlan::new("fr", 2)],
        client_rp_filter: 0,
    };
    let top = format!("metrics = \"{METRICS}\"");
    let Some(lab) = Lab::start(plan, &top, "apply = \"none\"") else {
        return;
    };
    lab.rule("--uid 1001 --to uk");
    let mut daemon = lab.daemon();
    lab.only(1001, "uk", "http4 3,dns 2");
    lab.gets_nothing(support::lab::NO_RULE);

    let answer = get(&lab, "/metrics", METRICS);
    let (head, text) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let format = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(head.lines().any(|line| line == format), "{head}");
    let served: BTreeSet<(String, String)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    assert_eq!(documented(), served);

    // Every sample belongs to the family above it, and is a number.
    let mut family = "";
    for line in text.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(rest) => family = rest.split(' ').next().expect("a name"),
            None if line.starts_with("# HELP ") => {}
            None => {
                let (name, value) = line.rsplit_once(' ').expect("a sample");
                assert_eq!(name.split('{').next(), Some(family), "{line}");
                assert!(value.parse::<f64>().is_ok_and(|v| v >= 0.0), "{line}");
            }
        }
    }
    assert_eq!(sample(text, "vpn_tunnel_up{tunnel=\"uk\"}"), 1.0);
    // A client asks again where an answer takes long: more than were asked for, never fewer.
    let queries = sample(text, "vpn_dns_queries_total");
    assert!(queries >= 2.0, "{queries}");
    assert!(
        sample(
            text,
            "vpn_dropped_packets_total{reason=\"blocked_by_default\"}"
        ) >= 1.0
    );
    assert!(
        sample(
            text,
            "vpn_tunnel_bytes_total{tunnel=\"uk\",direction=\"rx\"}"
        ) > 100.0
    );
    assert_eq!(
        sample(
            text,
            "vpn_tunnel_bytes_total{tunnel=\"fr\",direction=\"rx\"}"
        ),
        0.0
    );
    assert_eq!(sample(text, "vpn_tunnel_tasks{tunnel=\"uk\"}"), 1.0);
    assert!(sample(text, "process_open_fds") > 5.0);
    // A scrape by address opens connections, and none of what it is told is about addresses.
    for secret in ["10.5.0.2", "192.0.2.", "whoami", "1001"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }

    refuses(&lab);
    status_says_the_same(&lab, queries);
    assert!(daemon.terminate(), "{}", daemon.log());
}

/// What is asked otherwise.
fn refuses(lab: &Lab) {
    let code = |answer: &str| answer.split(' ').nth(1).map(str::to_owned);
    let is = |answer: String, expected: &str| {
        assert_eq!(code(&answer).as_deref(), Some(expected), "{answer}");
    };
    is(get(lab, "/", METRICS), "404");
    is(get(lab, "/metrics", "localhost:9586"), "200");
    is(get(lab, "/metrics", "[::1]:9586"), "200");
    // The name of a web page that leads here.
    is(get(lab, "/metrics", "rebound.example:9586"), "421");
    let post = format!("POST /metrics HTTP/1.1\r\nHost: {METRICS}\r\nContent-Length: 0\r\n\r\n");
    is(request(lab, post.into_bytes()), "405");
    // More than a request may be, and what is none.
    let long = format!(
        "GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    assert_ne!(
        code(&request(lab, long.into_bytes())).as_deref(),
        Some("200")
    );
    let many = "X: x\r\n".repeat(200);
    let many = format!("GET /metrics HTTP/1.1\r\nHost: {METRICS}\r\n{many}\r\n");
    is(request(lab, many.into_bytes()), "431");
    assert_ne!(code(&request(lab, vec![0xff; 64])).as_deref(), Some("200"));
    // As many as there may be, who say nothing, delay others only until they are let go.
    let silent = || -> Vec<TcpStream> {
        (0..8)
            .map(|_| TcpStream::connect(METRICS).expect("a connection"))
            .collect()
    };
    let held = lab.lab.client().run(silent).expect("the namespace");
    is(get(lab, "/metrics", METRICS), "200");
    drop(held);
}

fn status_says_the_same(lab: &Lab, queries: f64) {
    let status = lab.site.status(lab.lab.client());
    let process = &status["process"];
    for key in ["fds", "threads", "tasks", "memory"] {
        assert!(
            process[key].as_u64().is_some_and(|n| n > 0),
            "{key}: {process}"
        );
    }
    let uk = &status["tunnels"]["uk"];
    assert!(
        uk["resources"]["fds"].as_u64().is_some_and(|n| n > 0),
        "{uk}"
    );
    assert_eq!(uk["resources"]["tasks"], 1);
    assert!(
        uk["resources"]["memory"].as_u64().is_some_and(|n| n > 1000),
        "{uk}"
    );
    assert!(
        uk["round_trip_ms"].as_f64().is_some_and(|ms| ms > 0.0),
        "{uk}"
    );
    assert_eq!(status["dns"]["queries"].as_f64(), Some(queries));
    let apps = status["apps"].as_array().expect("a list");
    let app = apps.iter().find(|app| app["uid"] == 1001).expect("the app");
    assert_eq!(app["tunnel"], "uk");
    assert!(
        app["bytes"]["rx"].as_u64().is_some_and(|n| n > 100),
        "{app}"
    );
    // The same bytes, seen from both sides.
    assert_eq!(app["bytes"], uk["bytes"], "{status:#}");
    let command = lab
        .site
        .command(&["status", "--control", "multi-region.sock"]);
    let told = lab
        .lab
        .client()
        .output(command, support::LIMIT)
        .expect("it");
    for part in [
        "process: ",
        " fds, ",
        " threads, ",
        " tasks, ",
        "round trip ",
    ] {
        assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
    }
}

/// N-30: "block" was taken for a tunnel of that name, and the old rule stayed.
#[test]
fn an_app_is_switched_over_the_control_socket() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1), RegionPlan::new("fr", 2)],
        client_rp_filter: 0,
    };
    let Some(lab) = Lab::start(plan, "", "apply = \"none\"") else {
        return;
    };
    lab.rule("--uid 1001 --to uk --on-down fr --on-change reset");
    let _daemon = lab.daemon();
    lab.only(1001, "uk", "http4");
    let switch = |uid: u32, to: &str| json!({ "switch": { "app": { "uid": uid }, "to": to } });
    let generation = || lab.site.status(lab.lab.client())["rules"]["generation"].clone();
    let in_force = |before: Value| {
        let end = std::time::Instant::now() + support::LIMIT;
        while generation() == before {
            assert!(std::time::Instant::now() < end, "it never counts");
            std::thread::sleep(Duration::from_millis(10));
        }
    };

    let before = generation();
    let answer = lab.site.request(&switch(1001, "fr"));
    assert_eq!(answer["says"], "uid 1001 -> fr", "{answer}");
    in_force(before);
    lab.only(1001, "fr", "http4 2");
    // The rule that was there was changed, and keeps what else it said; what it fell back to is
    // where it leads now.
    let list = lab.site.rule(lab.lab.client(), "list --json");
    let list: Value = serde_json::from_str(&list.stdout).expect("JSON");
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(list[0]["on_change"], "reset");
    assert_eq!(list[0]["on_down"], "block");

    let before = generation();
    assert_eq!(
        lab.site.request(&switch(1001, "block"))["says"],
        "uid 1001 -> block"
    );
    in_force(before);
    lab.gets_nothing(1001);

    // What would block by mistake is refused, and nothing is written.
    for (request, part) in [
        (switch(1001, "de"), "no tunnel or group de"),
        (switch(1001, "direct"), "nor any other way"),
        (
            json!({ "switch": { "app": {}, "to": "uk" } }),
            "nobody is known",
        ),
        (
            json!({ "switch": { "app": { "uid": 1, "x": 1 }, "to": "uk" } }),
            "bad request",
        ),
    ] {
        let answer = lab.site.request(&request);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains(part), "{answer}");
    }
    let again = lab.site.rule(lab.lab.client(), "list --json");
    assert!(again.stdout.contains("block"), "{}", again.stdout);
}

#[test]
fn without_a_database_nothing_is_switched() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1)],
        client_rp_filter: 0,
    };
    let Some(lab) = Lab::start(plan, "", "apply = \"none\"") else {
        return;
    };
    let path = lab.site.path("multi-region.toml");
    let text = std::fs::read_to_string(path).expect("it");
    let tables = "[[rule]]\nuid = 1001\nto = \"uk\"\n";
    let text = text.replace("rules = \"rules.db\"\n", "") + tables;
    lab.site.write("multi-region.toml", &text);
    let _daemon = lab.daemon();
    assert_eq!(
        lab.site.status(lab.lab.client())["rules"]["database"],
        false
    );
    let answer = lab
        .site
        .request(&json!({ "switch": { "app": { "uid": 1001 }, "to": "block" } }));
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(error.contains("names no database"), "{answer}");
    assert!(!lab.site.path("rules.db").exists());
}

#[test]
fn metrics_are_for_this_host_only() {
    let place = Place::new();
    for (value, part) in [
        ("\"0.0.0.0:9586\"", "not a loopback address"),
        ("\"192.0.2.1:9586\"", "not a loopback address"),
        ("\"[::]:9586\"", "not a loopback address"),
        ("\"127.0.0.1:0\"", "name a port"),
        ("\"localhost\"", "metrics = \"localhost\""),
        ("9586", "metrics = 9586"),
    ] {
        let site = site();
        site.write("multi-region.toml", &format!("metrics = {value}\n{CONFIG}"));
        place.check_fails(&site, &[part]);
    }
}

#[test]
fn the_live_view_without_a_terminal_says_what_to_do() {
    let (place, site) = (Place::new(), site());
    let output = place.output(site.command(&["top", "--control", "multi-region.sock"]));
    assert_eq!(output.status.code(), Some(2), "{}", output.stderr);
    Place::says(
        &output,
        &[
            "no terminal",
            "multi-region status --control multi-region.sock",
        ],
    );
}
