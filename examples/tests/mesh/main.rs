//! The example `mesh` as programs: bad input, and a mesh behind NATs made by `init`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use vpn_lab::{Namespace, NatKind, NatLab, NatPlan, Process, Side};

mod behind;
mod beside;
mod policy;
mod reload;
mod words;
mod world;

use world::*;

/// L-4: what `init` wrote is all there is; everything else has its default, and works with it.
/// Also: the hub is a member by its own loopback, the report has the promised fields, `ping` finds peers by
/// name, address and key, and nothing is left.
#[test]
fn two_members_behind_nats_made_by_init_are_direct_and_reach_the_hub() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let (hub, a, b) = (lab.hub(), lab.host(Side::A), lab.host(Side::B));
    let mesh = Mesh::new("a,b");
    for line in ["[member]", "addresses = ", "interface = "] {
        mesh.edit("hub/hub.toml", &format!("# {line}"), line);
    }
    let daemons = [mesh.hub(hub), mesh.join(a, "a"), mesh.join(b, "b")];
    assert!(
        pings(a, "10.77.0.3", 1).contains("1 received"),
        "the first packet"
    );
    let peer = mesh.until_path("a", "b", "direct", DIRECT);
    for field in [
        "name",
        "key",
        "addresses",
        "path",
        "endpoint",
        "rtt_ms",
        "loss",
        "since",
        "why",
        "tx_packets",
        "rx_packets",
    ] {
        assert!(!peer[field].is_null(), "{field}: {peer:#}");
    }
    let status = mesh.status("a");
    assert_eq!(status["name"], "a");
    assert_eq!(status["addresses"][0], "10.77.0.2");
    let link = &status["hubs"][0];
    assert_eq!(
        (&link["state"], &link["carrier"]),
        (&"up".into(), &"udp".into())
    );
    assert!(
        link["observed"]
            .as_str()
            .is_some_and(|at| at.starts_with("198.51.100.11:")),
        "{link:#}"
    );
    assert!(
        pings(b, "10.77.0.1", 3).contains("3 received"),
        "the hub's own member"
    );
    assert!(pings(hub, "10.77.0.2", 3).contains("3 received"));
    let known = mesh.status("hub");
    assert_eq!(known["online"], 3, "{known:#}");
    let key = peer["key"].as_str().expect("a key");
    for who in ["b", "10.77.0.3", key] {
        let command = command_of(&["ping", who, "--control", &mesh.socket("a"), "-c", "2"]);
        let output = a.output(command, LIMIT).expect("the program");
        assert!(
            output.stdout.contains("2 of 2 answered"),
            "{who}: {}",
            output.stdout
        );
        assert!(output.stdout.contains("direct"), "{}", output.stdout);
    }
    let command = command_of(&["ping", "nobody", "--control", &mesh.socket("a")]);
    let output = a.output(command, LIMIT).expect("the program");
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    for daemon in daemons {
        daemon.ends();
    }
    for (namespace, name) in [(hub, "hub"), (a, "a"), (b, "b")] {
        assert!(!Path::new(&mesh.socket(name)).exists());
        let links = namespace.tool("ip", "-o link show").expect("ip");
        assert!(!links.contains("mesh0"), "{links}");
    }
}

#[test]
fn without_udp_it_is_the_relay_by_tcp_and_says_so() {
    let Some(lab) = lab(NatKind::Block, NatKind::Easy) else {
        return;
    };
    let (hub, a, b) = (lab.hub(), lab.host(Side::A), lab.host(Side::B));
    let mesh = Mesh::new("a,b");
    let _daemons = [mesh.hub(hub), mesh.join(a, "a"), mesh.join(b, "b")];
    let got = pings(a, "10.77.0.3", 3);
    assert!(
        got.contains("3 received"),
        "{got}: {:#} {:#}",
        mesh.status("a"),
        mesh.status("b")
    );
    mesh.until_path("a", "b", "relay-tcp", DIRECT);
    let link = mesh.status("a")["hubs"][0].clone();
    assert_eq!(link["carrier"], "tls");
    assert_eq!(link["why"], "UDP is not answered");
}

/// What is let in is what the configuration says, and pings.
#[test]
fn only_what_inbound_names_is_let_in() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let (hub, a, b) = (lab.hub(), lab.host(Side::A), lab.host(Side::B));
    let mesh = Mesh::new("a,b");
    mesh.edit("b/mesh.toml", "inbound = []", "inbound = [\"tcp:7\"]");
    let _daemons = [mesh.hub(hub), mesh.join(a, "a"), mesh.join(b, "b")];
    assert!(pings(a, "10.77.0.3", 2).contains("2 received"));
    let open = |port: u16| {
        let listener = b
            .run(move || std::net::TcpListener::bind(("10.77.0.3", port)))
            .expect("a namespace")
            .expect("a port");
        let connected = a
            .run(move || {
                let to = ([10, 77, 0, 3], port).into();
                std::net::TcpStream::connect_timeout(&to, Duration::from_secs(2)).is_ok()
            })
            .expect("a namespace");
        drop(listener);
        connected
    };
    assert!(open(7), "it is named");
    assert!(!open(8), "it is not");
}

#[test]
fn who_is_not_on_the_list_is_told() {
    let Some(lab) = lab(NatKind::Easy, NatKind::Easy) else {
        return;
    };
    let mesh = Mesh::new("a");
    let path = mesh.path("hub/hub.toml");
    let before = fs::read_to_string(&path).expect("a file");
    let (head, _) = before.split_once("[[members]]").expect("members");
    fs::write(&path, head).expect("a file");
    let _hub = mesh.hub(lab.hub());
    let _a = mesh.join(lab.host(Side::A), "a");
    let link = mesh.status("a")["hubs"][0].clone();
    assert_ne!(link["state"], "up");
    let why = link["why"].as_str().unwrap_or_default();
    assert!(why.contains("does not know this key"), "{link:#}");
}
