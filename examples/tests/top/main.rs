//! The live view without terminal, clock and daemon: what is shown of what, and what keys do.

#![allow(clippy::expect_used, clippy::panic, reason = "a failing test says so")]
#![allow(dead_code, reason = "the shell uses the rest")]

#[path = "../../multi-region/top/apps.rs"]
mod apps;
#[path = "../../multi-region/top/footer.rs"]
mod footer;
#[path = "../../multi-region/top/model.rs"]
mod model;
#[path = "../../multi-region/top/over.rs"]
mod over;
#[path = "../../multi-region/top/peers.rs"]
mod peers;
#[path = "../../multi-region/top/rates.rs"]
mod rates;
mod seeded;
#[path = "../../multi-region/top/snapshot.rs"]
mod snapshot;
#[path = "../../multi-region/top/tunnels.rs"]
mod tunnels;
#[path = "../../multi-region/top/view.rs"]
mod view;
#[path = "../../multi-region/top/words.rs"]
mod words;

use std::time::{Duration, Instant};

use model::{Ask, Key, Link, Model, Over};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};
use snapshot::Snapshot;

/// What it looks like, row by row.
fn picture(model: &Model, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    let frame = terminal
        .draw(|frame| view::view(frame, model))
        .expect("a picture");
    let cells = frame.buffer;
    let row = |y| (0..width).map(|x| cells[(x, y)].symbol()).collect();
    (0..height).map(row).collect()
}

/// The row that begins with `start`.
fn row_of<'a>(picture: &'a [String], start: &str) -> &'a str {
    let found = picture
        .iter()
        .find(|row| row.trim_start().starts_with(start));
    found.unwrap_or_else(|| panic!("{start} in {picture:#?}"))
}

fn tunnel(state: &str, rx: u64) -> Value {
    json!({
        "state": state,
        "cause": (state == "down").then_some("the peer does not answer"),
        "role": "secondary of 10.5.0.2/32 (primary fr)",
        "assigned": ["10.5.0.2/32", "fd00:5::2/128"],
        "round_trip_ms": 12.34,
        "bytes": { "tx": 10, "rx": rx },
        "flows": 3,
        "unknown to this version": [1],
    })
}

/// What a daemon says that has counted so much.
fn said(count: u64) -> Snapshot {
    let app = |uid: u64, tunnel: &str, rx: u64| json!({ "uid": uid, "tunnel": tunnel, "flows": 2, "bytes": { "tx": 0, "rx": rx } });
    let mut snapshot: Snapshot = serde_json::from_value(json!({
        "interface": { "name": "vpn0", "addresses": ["10.5.0.2/32"] },
        "rules": { "generation": 7, "database": true },
        "tunnels": { "fr": tunnel("up", count), "uk": tunnel("down", 2 * count) },
        "groups": { "eu": { "chosen": "fr" } },
        "apps": [
            app(1001, "uk", 2 * count),
            app(1002, "fr", count),
            { "uid": null, "tunnel": "fr", "flows": 1, "bytes": {} },
            { "uid": null, "inbound": true, "tunnel": "uk", "flows": 1, "bytes": {} },
        ],
        "drops": { "tunnel_down": count / 10, "queue_full": 5 },
        "dns": { "queries": count / 100, "pending": 2, "names": 9 },
        "changed_by_others": [{ "kind": "rule", "change": "a rule is gone" }],
        "process": { "fds": 31, "threads": 2, "tasks": 9, "memory": 12_500_000 },
    }))
    .expect("a snapshot");
    snapshot.users.insert(1001, "alice".to_owned());
    snapshot
}

/// A model that heard two reports, a second apart.
fn model() -> (Model, Instant) {
    let now = Instant::now();
    let mut model = Model::new("multi-region.sock".to_owned());
    model.snapshot(now, said(1_000));
    let now = now + Duration::from_secs(1);
    model.snapshot(now, said(51_000));
    (model, now)
}

/// By which ways the peers of a mesh are reached, in turn.
const WAYS: [&str; 3] = ["none", "direct", "relay"];

/// What a daemon says of a mesh with so many peers.
fn with_mesh(peers: usize) -> Snapshot {
    let mut snapshot = said(1_000);
    let peer = |number: usize| {
        json!({
            "name": if number == 0 { String::new() } else { format!("peer{number}") },
            "key": "abcdefghijklmnopqrstuvwxyz",
            "path": WAYS[number % WAYS.len()],
            "endpoint": (number > 0).then_some("203.0.113.9:51820"),
            "rtt_ms": (number > 0).then_some(8.5),
            "rx_bytes": number,
            "why": "its challenge was answered",
        })
    };
    let peers: Vec<Value> = (0..peers).map(peer).collect();
    let mut mesh = tunnel("up", 1_000);
    mesh["mesh"] = json!({ "hubs": [], "peers": peers });
    let mesh = serde_json::from_value(mesh).expect("a tunnel");
    snapshot.tunnels.insert("mesh".to_owned(), mesh);
    snapshot
}

#[test]
fn peers_are_below_their_mesh() {
    let mut model = Model::new(String::new());
    model.snapshot(Instant::now(), with_mesh(3));
    let rows = picture(&model, 80, 24);
    let title = row_of(&rows, "─ tunnels");
    assert!(title.contains("3 peers: 1 direct, 1 relayed"), "{title}");
    let at = |start: &str| {
        let found = rows
            .iter()
            .position(|row| row.trim_start().starts_with(start));
        found.unwrap_or_else(|| panic!("{start} in {rows:#?}"))
    };
    // Who moved most is first; who has no name has a key.
    let (mesh, all) = (at("mesh "), at("all "));
    assert_eq!(
        [at("peer2"), at("peer1"), at("abcdefghijkl "), at("uk ")],
        [mesh + 1, mesh + 2, mesh + 3, mesh + 4],
        "{rows:#?}"
    );
    assert!(mesh < all);
    for part in ["direct", "203.0.113.9:51820", "8.50 ms", "its challenge"] {
        assert!(rows[mesh + 2].contains(part), "{}", rows[mesh + 2]);
    }
    assert!(rows[mesh + 3].contains("none"), "{}", rows[mesh + 3]);
}

/// Tunnels come first, then as many peers as there is room for, and apps keep theirs.
#[test]
fn many_peers_leave_room() {
    let mut model = Model::new(String::new());
    model.snapshot(Instant::now(), with_mesh(100));
    for (height, listed) in [(19, 0), (24, 5), (60, 8)] {
        let rows = picture(&model, 80, height);
        let peers = rows.iter().filter(|row| row.starts_with("   peer"));
        assert_eq!(peers.count(), listed, "{rows:#?}");
        for start in ["fr ", "uk ", "mesh ", "all ", "─ apps"] {
            row_of(&rows, start);
        }
    }
    assert!(row_of(&picture(&model, 80, 60), "peer").starts_with("   peer99 "));
    let mut two = with_mesh(100);
    let other = two.tunnels["mesh"].clone();
    two.tunnels.insert("also".to_owned(), other);
    model.snapshot(Instant::now(), two);
    for start in ["also ", "fr ", "uk ", "mesh ", "all ", "─ apps"] {
        row_of(&picture(&model, 80, 24), start);
    }
}

#[test]
fn everything_is_shown_in_80_by_24() {
    let (model, _) = model();
    let rows = picture(&model, 80, 24);
    let row = |start: &str| row_of(&rows, start).to_owned();
    assert!(
        row("multi-region").contains("vpn0 10.5.0.2/32"),
        "{rows:#?}"
    );
    assert!(row("multi-region").ends_with("● live "), "{rows:#?}");
    assert!(row("─ tunnels").contains("1 of 2 up"));
    for part in [
        "up",
        "10.5.0.2/32",
        "secondary",
        "12.3 ms",
        "50.0 kB",
        "0 B",
    ] {
        assert!(row("fr ").contains(part), "{part}: {}", row("fr "));
    }
    let uk = row("uk ");
    assert!(
        uk.contains("down       10.5.0.2/32    the peer does not answer"),
        "{uk}"
    );
    assert!(row("all").contains("150 kB"), "{}", row("all"));
    assert!(row("all").contains('█'), "a sparkline: {}", row("all"));
    for part in ["uk", "100 kB", "102 kB", "2"] {
        assert!(row("alice").contains(part), "{part}: {}", row("alice"));
    }
    assert!(row("uid 1002").contains("fr"));
    assert!(
        row("tunnel_down").contains("5100"),
        "{}",
        row("tunnel_down")
    );
    assert!(
        row("tunnel_down").contains("5000/s"),
        "{}",
        row("tunnel_down")
    );
    let all = rows.join("\n");
    for part in [
        "1 changed by others, see status",
        "drops 5105",
        "generation 7 in order",
        "510 steered, 500/s, 2 wait, 9 names",
        "12.5 MB, 31 fds, 9 tasks",
        "switch tunnel",
        "not asked",
        "from outside",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
}

#[test]
fn a_daemon_that_goes_is_shown_and_one_that_comes_counts_anew() {
    let (mut model, now) = model();
    model.gone("Connection refused (os error 111)".to_owned());
    let rows = picture(&model, 80, 24);
    assert!(row_of(&rows, "multi-region").ends_with("● no daemon "));
    assert!(row_of(&rows, "no daemon").contains("Connection refused"));
    // What it said last stays, without rates.
    assert!(row_of(&rows, "alice").contains("102 kB"));
    assert!(row_of(&rows, "fr ").contains(" - "));
    // Another one, with smaller counters: no rate is made of the two.
    model.snapshot(now + Duration::from_secs(9), said(100));
    assert_eq!(model.link, Link::Live);
    assert!(model.rates.is_none());
    model.snapshot(now + Duration::from_secs(10), said(300));
    let rate = model.rates.as_ref().expect("rates").tunnels["fr"];
    assert_eq!(rate.rx, 200);
}

#[test]
fn before_the_first_answer_it_says_whom_it_asks() {
    let mut model = Model::new("/run/x.sock".to_owned());
    assert!(
        picture(&model, 80, 24)
            .join("")
            .contains("asking /run/x.sock")
    );
    model.gone("No such file or directory".to_owned());
    let text = picture(&model, 80, 24).join("");
    assert!(
        text.contains("no daemon at /run/x.sock: No such file"),
        "{text}"
    );
}

#[test]
fn a_counter_that_fell_has_begun_anew() {
    let (mut model, now) = model();
    // A tunnel that was made anew.
    model.snapshot(now + Duration::from_secs(2), said(4_000));
    let rates = model.rates.as_ref().expect("rates");
    assert_eq!(rates.tunnels["fr"].rx, 2_000);
}

#[test]
fn a_pause_keeps_what_is_shown_and_then_tells_the_mean() {
    let (mut model, now) = model();
    model.key(Key::Char('p'));
    let before = picture(&model, 80, 24);
    assert!(row_of(&before, "multi-region").ends_with("● paused "));
    model.snapshot(now + Duration::from_secs(1), said(99_000));
    assert_eq!(picture(&model, 80, 24), before);
    // One that goes meanwhile is told all the same.
    model.gone("gone".to_owned());
    assert!(row_of(&picture(&model, 80, 24), "multi-region").ends_with("no daemon "));
    model.snapshot(now + Duration::from_secs(2), said(99_500));
    model.key(Key::Char(' '));
    model.snapshot(now + Duration::from_secs(4), said(251_000));
    assert_eq!(
        model.rates.as_ref().expect("rates").tunnels["fr"].rx,
        50_000
    );
}

#[test]
fn keys_choose_an_app_and_its_way() {
    let (mut model, now) = model();
    // By rate, alice is first.
    assert_eq!(model.key(Key::Down), None);
    // The selection follows the app to another place.
    model.key(Key::Char('s'));
    model.snapshot(now + Duration::from_secs(1), said(52_000));
    assert_eq!(model.key(Key::Enter), None);
    let rows = picture(&model, 80, 24).join("\n");
    assert!(rows.contains("uid 1002 through"), "{rows}");
    for part in [
        "fr               up",
        "eu               group, now fr",
        "block",
    ] {
        assert!(rows.contains(part), "{part}: {rows}");
    }
    // It is on fr now; the next one is uk.
    assert_eq!(model.key(Key::Down), None);
    let asked = model.key(Key::Enter);
    let Some(Ask::Switch(owner, to)) = asked else {
        panic!("{asked:?}");
    };
    assert_eq!((owner.uid, to.as_str()), (Some(1002), "uk"));
    assert_eq!(model.over, Over::Nothing);
    model.said(Ok("rule#4: uid 1002 -> uk".to_owned()));
    assert!(picture(&model, 80, 24)[23].contains("rule#4: uid 1002 -> uk"));
    model.key(Key::Escape);
    assert!(picture(&model, 80, 24)[23].contains("quit"));
    // Escape ends a choice, q as well; only the next q ends all.
    model.key(Key::Char('t'));
    assert_eq!(model.key(Key::Escape), None);
    model.key(Key::Char('t'));
    assert_eq!(model.key(Key::Char('q')), None);
    assert_eq!(model.key(Key::Char('q')), Some(Ask::Quit));
    model.key(Key::Char('t'));
    assert_eq!(model.key(Key::Interrupt), Some(Ask::Quit));
}

#[test]
fn what_cannot_be_switched_says_why() {
    let (mut model, now) = model();
    for _ in 0..9 {
        model.key(Key::Down);
    }
    model.key(Key::Enter);
    assert!(picture(&model, 80, 24)[23].contains("nobody is known to own these flows"));
    model.key(Key::Up);
    model.key(Key::Enter);
    assert!(picture(&model, 80, 24)[23].contains("begun from behind the tunnel"));
    let mut without = said(60_000);
    without.rules.database = false;
    model.snapshot(now + Duration::from_secs(1), without);
    model.key(Key::Enter);
    assert!(picture(&model, 80, 24)[23].contains("names no database of rules"));
}

#[test]
fn trouble_with_rules_is_told_in_full() {
    let (mut model, now) = model();
    let mut broken = said(60_000);
    broken.rules.error = Some("multi-region.toml:3: expected a tunnel".to_owned());
    model.snapshot(now + Duration::from_secs(1), broken);
    let rows = picture(&model, 80, 24);
    assert!(rows[23].contains("rules cannot be loaded: multi-region.toml:3"));
    assert!(rows.join("").contains("in trouble"));
}

#[test]
fn parts_that_are_not_well_are_told() {
    let (mut model, now) = model();
    let parts = |breaker: &str, task: &str, starts: u64| -> Snapshot {
        let mut snapshot = said(60_000);
        let value = json!({
            "breakers": { "tunnel.uk": { "state": breaker }, "rules.file": { "state": "closed" } },
            "tasks": { "network": { "state": task, "starts": starts } },
        });
        let more: Snapshot = serde_json::from_value(value).expect("a report");
        (snapshot.breakers, snapshot.tasks) = (more.breakers, more.tasks);
        snapshot
    };
    let mut shows = |second: u64, snapshot: Snapshot| {
        model.snapshot(now + Duration::from_secs(second), snapshot);
        let rows = picture(&model, 80, 24);
        parts_of(&rows)
    };
    let well = shows(1, parts("closed", "running", 1));
    assert_eq!(well.trim(), "1 tasks run, 2 breakers closed");
    let held = shows(2, parts("half_open", "running", 1));
    assert_eq!(held.trim(), "tunnel.uk half-open");
    let both = shows(3, parts("open", "waiting", 2));
    assert!(
        both.starts_with("  tunnel.uk open  network waiting"),
        "{both}"
    );
}

/// What the row of parts says, cut where the picture ends.
fn parts_of(rows: &[String]) -> String {
    let found = rows
        .iter()
        .find_map(|row| Some(row.split_once(" parts ")?.1.to_owned()));
    found.unwrap_or_else(|| panic!("no parts in {rows:#?}"))
}

#[test]
fn help_is_ended_by_any_key() {
    let (mut model, _) = model();
    model.key(Key::Char('?'));
    assert!(picture(&model, 80, 24).join("").contains("pause, go on"));
    assert_eq!(model.key(Key::Char('q')), None);
    assert!(!picture(&model, 80, 24).join("").contains("pause, go on"));
}

#[test]
fn numbers_are_short() {
    for (count, text) in [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (u64::MAX, "18.4 EB"),
    ] {
        assert_eq!(words::bytes(count), text, "{count}");
    }
    assert_eq!(words::count(9_999), "9999");
    assert_eq!(words::count(12_345), "12.3k");
    assert_eq!(words::count(1_234_567), "1.23M");
}
