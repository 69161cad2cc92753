//! The daemon with offload: everything works as without, and it can be switched off while it runs.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test says so, and an app speaks on standard output"
)]

mod support;

use std::fs;
use std::time::Duration;

use support::app;
use support::lab::{Lab, NO_RULE, nothing_direct};
use vpn_lab::{LabPlan, OpenVpnOptions, ProviderKind, RegionPlan};

/// What is asked for with offload and without.
const SCRIPT: &str = "upload4 3,upload6 3,bulk4 2,bulk6 2,http4 3,large4,large6,echo4,echo6";

/// The app: the other test starts copies of this program that run this test only.
#[test]
fn plays_an_app() {
    app::play();
}

#[test]
fn super_packets_reach_tunnels_that_carry_packets() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1), RegionPlan::new("fr", 2)],
        client_rp_filter: 1,
    };
    let top = "[interface]\noffload = \"auto\"\n";
    let dns = "path = \"resolv.conf\"\napply = \"none\"";
    let Some(lab) = Lab::start(plan, top, dns) else {
        return;
    };
    lab.site.write("resolv.conf", "nameserver 192.0.2.1\n");
    lab.rule("--uid 1001 --to uk");
    lab.rule("--uid 1002 --to fr");
    let client = lab.lab.client();
    let daemon = lab.daemon();
    let on = || {
        client
            .tool("ethtool", "-k vpn0")
            .expect("ethtool")
            .contains("tcp-segmentation-offload: on")
    };
    assert!(on(), "{}", daemon.log());
    nothing_direct(&lab, || {
        for user in [(1001, "uk"), (1002, "fr")] {
            lab.only(user.0, user.1, SCRIPT);
            lab.only(user.0, user.1, "dns");
        }
        let path = lab.site.path("multi-region.toml");
        let text = fs::read_to_string(&path).expect("a file");
        lab.site
            .write("multi-region.toml", &text.replace("\"auto\"", "\"off\""));
        let mut command = lab
            .site
            .command(&["reload", "--control", "multi-region.sock"]);
        command.env("NO_COLOR", "1");
        let done = client.output(command, Duration::from_secs(10));
        let done = done.expect("the program");
        assert!(
            done.stdout.contains("in force: interface.offload"),
            "{} {}",
            done.stdout,
            done.stderr
        );
        assert!(!on(), "{}", daemon.log());
        lab.only(1001, "uk", SCRIPT);
    });
    let status = lab.site.status(client);
    assert_eq!(lab.lab.drops().expect("a count"), 0, "{status:#}");
}

/// An attached interface takes super-packets whole, and what comes out of it is joined.
#[test]
fn super_packets_through_openvpn() {
    let mut region = RegionPlan::new("uk", 1);
    region.kind = ProviderKind::OpenVpn(OpenVpnOptions::default());
    let plan = LabPlan {
        regions: vec![region],
        client_rp_filter: 2,
    };
    let top = "[interface]\noffload = \"auto\"\n";
    let Some(lab) = Lab::start(plan, top, "apply = \"none\"") else {
        return;
    };
    lab.rule("--uid 1001 --to uk");
    let _daemon = lab.daemon();
    nothing_direct(&lab, || lab.only(1001, "uk", SCRIPT));
    let told = lab.site.status(lab.lab.client())["tunnels"]["uk"].clone();
    let count = |what: &str| told["packets"][what].as_u64().unwrap_or(0);
    let bytes = |what: &str| told["bytes"][what].as_u64().unwrap_or(0);
    // Both ways there are packets of several segments.
    for way in ["tx", "rx"] {
        println!("{way}: {} bytes in {} packets", bytes(way), count(way));
    }
    assert_eq!(lab.lab.drops().expect("a count"), 0, "{told}");
}

/// The way past the tunnels takes packets only, and cuts what it is given.
#[test]
fn super_packets_past_the_tunnels() {
    let plan = LabPlan {
        regions: vec![RegionPlan::new("uk", 1)],
        client_rp_filter: 2,
    };
    let top = "default = \"direct\"\n[interface]\noffload = \"auto\"\n";
    let Some(lab) = Lab::start(plan, top, "apply = \"none\"") else {
        return;
    };
    lab.rule("--uid 1001 --to uk");
    let daemon = lab.daemon();
    for answer in lab.run(
        NO_RULE,
        "upload4 3,bulk4 2,http4 3,large4,echo4,upload6,bulk6",
    ) {
        assert!(answer.ends_with(" direct"), "{answer}: {}", daemon.log());
    }
    // The device is as wide as the uplink: a datagram of IPv6 that is too large for the tunnel is its
    // sender's to send again.
    lab.only(1001, "uk", &SCRIPT.replace("large6,", ""));
}
