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
        "rules (multi-region.toml):",
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

/// The rows of the reference: key and default.
fn documented() -> Vec<(String, String)> {
    let (_, reference) = include_str!("../README.md")
        .split_once("### Configuration")
        .expect("it");
    let (reference, _) = reference.split_once("### `status").expect("its end");
    let rows = reference.lines().filter_map(|line| {
        let (key, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (default, _) = rest.split_once(" |")?;
        Some((key.to_owned(), default.trim_matches('`').to_owned()))
    });
    rows.collect()
}

/// S-24: documents named keys that nobody read.
#[test]
fn the_reference_documents_exactly_the_keys_there_are() {
    let place = Place::new();
    let mut keys = Vec::new();
    for key in keys_of(&place, "") {
        let (head, name) = match key.as_str() {
            "default" | "direct" | "lockdown" | "on_exit" | "rules" | "journal" | "metrics" => {
                keys.push(key);
                continue;
            }
            "tunnel" | "group" => (format!("[{key}.x]"), format!("{key}.NAME")),
            "rule" | "inbound" | "filter" => (format!("[[{key}]]"), key),
            _ => (format!("[{key}]"), key),
        };
        keys.extend(
            keys_of(&place, &head)
                .into_iter()
                .map(|inner| format!("{name}.{inner}")),
        );
    }
    let mut documented: Vec<String> = documented().into_iter().map(|(key, _)| key).collect();
    keys.sort();
    documented.sort();
    assert_eq!(documented, keys);
}

/// S-24: documented defaults were not those of the program.
#[test]
fn the_documented_defaults_are_those_in_force() {
    let (place, site) = (Place::new(), site());
    site.write("multi-region.toml", "[[rule]]\nto = \"block\"\n");
    let output = place.output(site.command(&["check", "--config", "multi-region.toml"]));
    assert!(output.status.success(), "{}", output.stderr);
    let (_, settings) = output.stdout.split_once("settings:\n").expect("settings");
    let documented = documented();
    let in_force: Vec<(&str, &str)> = settings
        .lines()
        .filter_map(|line| line.trim().split_once(" = "))
        .collect();
    assert!(in_force.len() > 30, "{settings}");
    for (key, value) in in_force {
        let row = documented.iter().find(|(documented, _)| documented == key);
        let (_, default) = row.unwrap_or_else(|| panic!("{key} is not documented"));
        assert_eq!(default, value, "{key}");
    }
}

#[test]
fn rules_of_the_configuration_and_of_the_database_are_in_the_plan() {
    let (place, site) = (Place::new(), site());
    let text = format!(
        "{CONFIG}[group.eu]\nmembers = [\"uk\"]\n\
         [[rule]]\nuid = 7\ndomain = \".example.com\"\nto = \"eu\"\non_down = \"uk\"\n\
         [[filter]]\naction = \"reject\"\ndirection = \"in\"\ntunnel = \"eu\"\nproto = \"tcp\"\n\
         port = 25\n[[filter]]\naction = \"drop\"\nicmp = \"3/4\"\n"
    );
    site.write("multi-region.toml", &text);
    let add =
        "rule add --rules rules.db --cgroup /a.slice --src 10.0.0.0/8 --to eu --on-change reset";
    let words: Vec<&str> = add.split(' ').collect();
    let output = place.output(site.command(&words));
    assert!(output.status.success(), "{}", output.stderr);
    let output = place.output(site.command(&["check", "--config", "multi-region.toml"]));
    for line in [
        "  file-rule#1: uid 7 domain .example.com -> eu, while down fall back to uk",
        "  rule#1: cgroup /a.slice src 10.0.0.0/8 -> eu, on change reset",
        "  filter file-rule#1: in tunnel eu proto tcp port 25 -> reject",
        "  filter file-rule#2: icmp 3/4 -> drop",
        "group eu: uk",
    ] {
        assert!(
            output.stdout.lines().any(|l| l == line),
            "{line}: {} {}",
            output.stdout,
            output.stderr
        );
    }
    let list = ["rule", "list", "--rules", "rules.db", "--json"];
    let output = place.output(site.command(&list));
    let list: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(list[0]["cgroup"], "/a.slice");
    assert_eq!(list[0]["to"], "eu");
    let remove = "rule remove --rules rules.db --cgroup /a.slice --src 10.0.0.0/8 --to eu";
    let words: Vec<&str> = remove.split(' ').collect();
    assert!(place.output(site.command(&words)).status.success());
}
