//! What `check` says of good configurations, and that the reference documents every key.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so"
)]

mod support;

use support::place::{CONFIG, KEY, Place, profile, site};

#[test]
fn the_good_configuration_is_good() {
    let (place, site) = (Place::new(), site());
    let output = place.output(site.command(&["check", "--config", "multi-region.toml"]));
    assert!(output.status.success(), "{}", output.stderr);
    assert!(!site.path("rules.db").exists(), "checking makes no file");
    assert!(
        output.stdout.contains("primary of 10.5.0.2/32"),
        "{}",
        output.stdout
    );
}

#[test]
fn a_plan_names_tunnels_by_their_names() {
    let (place, site) = (Place::new(), site());
    site.write("fr.conf", &profile(KEY));
    site.write(
        "multi-region.toml",
        &format!("{CONFIG}[tunnel.fr]\nwireguard = \"fr.conf\"\n"),
    );
    let output = place.output(site.command(&["check", "--config", "multi-region.toml"]));
    let expected = "secondary of 10.5.0.2/32 (primary fr)";
    assert!(output.stdout.contains(expected), "{}", output.stdout);
    assert!(!output.stdout.contains('#'), "{}", output.stdout);
}

#[test]
fn the_smallest_configuration_has_the_documented_defaults() {
    let (place, site) = (Place::new(), site());
    site.write("multi-region.toml", "rules = \"r.db\"\n");
    let output = place.output(site.command(&["check", "--config", "multi-region.toml"]));
    assert!(output.status.success(), "{}", output.stderr);
    for line in [
        "interface vpn0",
        "rules (r.db):",
        "default: block",
        "dns: apply Auto, virtual resolver 100.127.255.53",
        "on exit: Block",
    ] {
        assert!(
            output.stdout.lines().any(|l| l == line),
            "{line}: {}",
            output.stdout
        );
    }
}

/// The keys of a section, as the program itself lists them when it meets a wrong one.
fn keys_of(place: &Place, section: &str) -> Vec<String> {
    let site = site();
    site.write("multi-region.toml", &format!("{section}\nnot_a_key = 1\n"));
    let output = place.output(site.command(&["check", "--config", "multi-region.toml"]));
    let (_, expected) = output
        .stderr
        .split_once("expected ")
        .expect("a list of keys");
    expected
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_reference_documents_exactly_the_keys_there_are() {
    let place = Place::new();
    let mut keys = Vec::new();
    for key in keys_of(&place, "") {
        let (head, name) = match key.as_str() {
            "interface" | "dns" | "control" => (format!("[{key}]"), key),
            "tunnel" => ("[tunnel.x]".to_owned(), "tunnel.NAME".to_owned()),
            _ => {
                keys.push(key);
                continue;
            }
        };
        keys.extend(
            keys_of(&place, &head)
                .into_iter()
                .map(|inner| format!("{name}.{inner}")),
        );
    }
    let (_, reference) = include_str!("../README.md")
        .split_once("### Configuration")
        .expect("it");
    let (reference, _) = reference.split_once("### Rules").expect("its end");
    let mut documented: Vec<String> = reference
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| `")?
                .split('`')
                .next()
                .map(str::to_owned)
        })
        .collect();
    keys.sort();
    documented.sort();
    assert_eq!(documented, keys);
}
