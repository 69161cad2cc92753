//! The daemon as its systemd unit runs it: no root, the unit's capabilities and no other.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and an app speaks on standard output"
)]

mod support;

use std::os::unix::fs::chown;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::lab::{Lab, nothing_direct};
use support::{Daemon, LIMIT, app};
use vpn_lab::{LabPlan, OpenVpnOptions, ProviderKind, RegionPlan};

/// Whom the daemon runs as.
const SERVICE: u32 = 1500;

/// The app: the other tests start copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

/// The values of a key of the unit's `[Service]` section.
fn unit(key: &str) -> Vec<&'static str> {
    let text = include_str!("../multi-region/multi-region.service");
    let (_, section) = text.split_once("[Service]").expect("a section");
    let mut lines = section.lines().take_while(|line| !line.starts_with('['));
    let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.expect(key).split(' ').collect()
}

/// As `setpriv` writes a set: `-all,+net_admin`.
fn only(capabilities: &[&str]) -> String {
    let named = capabilities.iter().map(|name| {
        let name = name.strip_prefix("CAP_").expect("a capability");
        format!(",+{}", name.to_lowercase())
    });
    "-all".to_owned() + &named.collect::<String>()
}

/// The daemon's command, as the unit has it but for its folders.
fn command(lab: &Lab, ambient: &[&str]) -> Command {
    let set = only(ambient);
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &SERVICE.to_string()])
        .args(["--regid", &SERVICE.to_string(), "--clear-groups"])
        .args(["--inh-caps", &set, "--ambient-caps", &set])
        .args(["--bounding-set", &only(&unit("CapabilityBoundingSet"))])
        .arg("--no-new-privs")
        .arg(lab.site.program())
        .args(["run", "--config", "multi-region.toml"])
        .current_dir(lab.site.path(""));
    command
}

/// A WireGuard region and one of OpenVPN, with all of the daemon's files the service's.
fn lab() -> Option<Lab> {
    if vpn_lab::skip(&["setpriv", "nft", "openvpn"]) {
        return None;
    }
    assert_eq!(unit("NoNewPrivileges"), ["yes"]);
    let mut fr = RegionPlan::new("fr", 2);
    fr.kind = ProviderKind::OpenVpn(OpenVpnOptions::default());
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1), fr],
        client_rp_filter: 1,
    };
    let dns = "apply = \"resolv.conf\"\npath = \"resolv.conf\"";
    let lab = Lab::start(plan, "on_exit = \"open\"\nlockdown = true", dns)?;
    lab.site.write("resolv.conf", "nameserver 192.0.2.1\n");
    let path = lab.site.path("multi-region.toml");
    let mut text = std::fs::read_to_string(path).expect("it");
    for region in lab.lab.regions() {
        let from = region.profile().display().to_string();
        let profile = std::fs::read_to_string(region.profile()).expect("a profile");
        lab.site.write(region.name(), &profile);
        text = text.replace(&from, region.name());
    }
    lab.site.write("multi-region.toml", &text);
    lab.rule("--uid 1001 --to uk");
    lab.rule("--uid 1002 --to fr");
    lab.rule("--uid 1003 --to direct");
    let exe = format!("--exe {} --port 7 --to uk", lab.app.display());
    lab.rule(&exe);
    for name in lab.site.listing() {
        if !["app", "multi-region"].contains(&name.as_str()) {
            chown(lab.site.path(&name), Some(SERVICE), Some(SERVICE)).expect("a new owner");
        }
    }
    chown(lab.site.path(""), Some(SERVICE), Some(SERVICE)).expect("a new owner");
    Some(lab)
}

fn is_up(lab: &Lab, tunnel: &str) -> bool {
    let end = Instant::now() + LIMIT;
    loop {
        let state = lab.site.status(lab.lab.client())["tunnels"][tunnel]["state"].clone();
        if state == "up" || Instant::now() > end {
            return state == "up";
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_units_capabilities_are_enough() {
    let Some(lab) = lab() else { return };
    let ambient = unit("AmbientCapabilities");
    assert_eq!(ambient, unit("CapabilityBoundingSet"));
    let before = lab.network();
    let mut daemon = Daemon::spawn_as(&lab.site, lab.lab.client(), command(&lab, &ambient));
    daemon.ready();
    assert!(is_up(&lab, "uk") && is_up(&lab, "fr"), "{}", daemon.log());
    // What openvpn occupies can be seen, too.
    let fr = &lab.site.status(lab.lab.client())["tunnels"]["fr"];
    let process = &fr["resources"]["process"];
    for key in ["pid", "fds", "threads", "memory"] {
        assert!(process[key].as_u64().is_some_and(|n| n > 0), "{fr}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("it");
    assert!(
        status.contains(&format!("Uid:\t{SERVICE}\t{SERVICE}")),
        "{status}"
    );
    nothing_direct(&lab, || {
        lab.only(1001, "uk", "http4 3,http6,dns");
        lab.only(1002, "fr", "http4 3,http6");
        // By its executable, whoever runs it.
        lab.only(1002, "uk", "echo4 2");
    });
    lab.only(1003, "direct", "http4 2");
    assert!(daemon.terminate(), "{}", daemon.log());
    assert_eq!(lab.network(), before);
    let resolvers = std::fs::read_to_string(lab.site.path("resolv.conf")).expect("it");
    assert_eq!(resolvers, "nameserver 192.0.2.1\n");
}

/// Without one of them something of this does not work: the unit asks for no more than it needs.
#[test]
fn each_of_the_units_capabilities_is_needed() {
    let Some(lab) = lab() else { return };
    let ambient = unit("AmbientCapabilities");
    for missing in &ambient {
        let rest: Vec<&str> = ambient.iter().copied().filter(|c| c != missing).collect();
        let mut daemon = Daemon::spawn_as(&lab.site, lab.lab.client(), command(&lab, &rest));
        let what = match *missing {
            "CAP_NET_ADMIN" => daemon.ends() != Some(0),
            "CAP_NET_RAW" => {
                daemon.ready();
                let fr = lab.site.status(lab.lab.client())["tunnels"]["fr"]["state"].clone();
                fr != "up"
            }
            "CAP_SYS_PTRACE" | "CAP_DAC_READ_SEARCH" => {
                daemon.ready();
                // Whose executable it is cannot be told, and so nothing is let through.
                let answers = lab.run(1002, "echo4");
                answers == [format!("echo4 {}", app::NOTHING)]
            }
            other => panic!("nothing is known to need {other}"),
        };
        assert!(what, "{missing} is not needed: {}", daemon.log());
        if *missing != "CAP_NET_ADMIN" {
            assert!(daemon.terminate(), "{missing}: {}", daemon.log());
        }
    }
}
