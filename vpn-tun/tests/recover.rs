//! What a process left that was killed, on interfaces and in services that outlive it. The daemon's
//! own test compares everything, at any moment; here are the parts that it does not use.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Result, in_namespace};
use vpn_core::InterfacePlan;
use vpn_tun::{
    Applier, CaptureConfig, DnsApply, ForeignChange, Journal, Leave, SystemDns, Undone, recover,
};

fn tool(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .expect("a tool");
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Addresses, routes and MTU of interfaces.
fn interfaces() -> String {
    [
        tool("ip", "-o addr show"),
        tool("ip", "-o link show"),
        tool("ip", "route show table all"),
        tool("ip", "-6 route show table all"),
    ]
    .concat()
}

/// Two interfaces that are up, with all that the kernel does by itself some time later: a link-local
/// address of each, checked for duplicates, has a route.
async fn uplink() -> Result<()> {
    common::uplink(&common::netlink()).await?;
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let now = interfaces();
        let routes = now.lines().filter(|line| line.starts_with("local fe80"));
        // Two, which `ip` shows by either of two ways.
        if !now.contains("tentative") && routes.count() == 4 {
            return Ok(());
        }
        assert!(Instant::now() < end, "{now}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn plan() -> Result<InterfacePlan> {
    Ok(InterfacePlan {
        addresses: ["10.5.0.2/24".parse()?, "fd00:5::2/64".parse()?].into(),
        routes: ["10.9.0.0/16".parse()?, "fd00:9::/64".parse()?].into(),
        mtu: 1400,
        ..InterfacePlan::default()
    })
}

#[test]
fn what_was_put_on_an_interface_that_stays_is_taken_off() {
    in_namespace(|| async {
        uplink().await?;
        let before = interfaces();
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("journal");
        let mut killed = Applier::new(&"up0".parse()?, None)?.with_journal(Journal::open(&path)?);
        killed.engage().await?;
        killed.apply(&plan()?).await?;
        assert_ne!(interfaces(), before);
        drop(killed);
        let journal = Journal::open(&path)?;
        let capture = CaptureConfig::default();
        let recovered = recover(&journal, &capture, Leave::Nothing).await;
        assert!(recovered.failed.is_empty(), "{:?}", recovered.failed);
        let addresses = recovered.done.iter();
        let addresses = addresses.filter(|done| matches!(done, Undone::Address { .. }));
        assert_eq!(addresses.count(), 2, "{:?}", recovered.done);
        assert_eq!(interfaces(), before);
        assert!(journal.is_empty() && !path.exists());
        let again = recover(&journal, &capture, Leave::Nothing).await;
        assert!(again.done.is_empty() && again.failed.is_empty());

        // In the end it is undone as well, and what others removed is told.
        let mut applier = Applier::new(&"up0".parse()?, None)?.with_journal(Journal::open(&path)?);
        applier.engage().await?;
        applier.apply(&plan()?).await?;
        assert_eq!(applier.look().await?, []);
        tool("ip", "addr del 10.5.0.2/24 dev up0");
        tool("ip", "-6 route del fd00:9::/64 dev up0");
        let told = applier.look().await?;
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told.iter()
                .any(|c| matches!(c, ForeignChange::Address { .. }))
        );
        assert!(
            told.iter()
                .any(|c| matches!(c, ForeignChange::Route { .. }))
        );
        applier.disengage(vpn_tun::OnExit::Open).await?;
        assert_eq!(interfaces(), before);
        assert!(!path.exists());
        Ok(())
    });
}

/// An interface of the same name that came later is somebody else's.
#[test]
fn what_is_on_another_interface_of_the_name_stays() {
    in_namespace(|| async {
        common::uplink(&common::netlink()).await?;
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("journal");
        let mut killed = Applier::new(&"up0".parse()?, None)?.with_journal(Journal::open(&path)?);
        killed.engage().await?;
        killed.apply(&plan()?).await?;
        drop(killed);
        tool("ip", "link del up0");
        tool("ip", "link add up0 type veth peer name up1");
        tool("ip", "addr add 10.5.0.2/24 dev up0");
        let theirs = interfaces();
        let journal = Journal::open(&path)?;
        let recovered = recover(&journal, &CaptureConfig::default(), Leave::Nothing).await;
        assert!(recovered.failed.is_empty() && recovered.done.is_empty());
        assert_eq!(interfaces(), theirs);
        assert!(journal.is_empty());
        Ok(())
    });
}

/// What marks the copy of this program that plays the test below.
const INSIDE: &str = "VPN_TUN_RESOLVED";

/// A program in place of `resolvectl` says back what it was told, and writes down how it was called.
const RESOLVECTL: &str = "#!/bin/sh
set -e
cd \"$(dirname \"$0\")\"
echo \"$*\" >> said
case $1/$# in
    dns/2) echo \"Link 2 ($2): $(cat dns)\" ;;
    dns/*) shift 2; echo \"$*\" > dns ;;
    revert/*) : > dns ;;
esac
";

/// `PATH` is the process's, so this is one of its own.
#[test]
fn systemd_resolved_forgets_what_it_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("resolvectl");
    fs::write(&program, RESOLVECTL).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "plays_with_resolvectl", "--nocapture"])
        .env(INSIDE, dir.path())
        .env("PATH", format!("{}:{path}", dir.path().display()))
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn plays_with_resolvectl() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    in_namespace(|| async {
        let dir = std::env::var(INSIDE)?;
        let dir = Path::new(&dir);
        let said = || fs::read_to_string(dir.join("said")).unwrap_or_default();
        let servers = BTreeSet::from(["100.127.255.53".parse()?]);
        let journal = Journal::open(dir.join("journal"))?;
        let dns = || {
            SystemDns::new(DnsApply::Resolved, dir.join("resolv.conf"))
                .on_interface("lo".parse().unwrap())
                .with_journal(journal.clone())
        };
        let mut first = dns();
        first.apply(&servers).await?;
        let begin = "dns lo 100.127.255.53\ndomain lo ~.\ndefault-route lo yes\n";
        assert_eq!(said(), begin);
        first.apply(&servers).await?;
        assert_eq!(said(), begin, "it knows that");
        assert_eq!(first.look().await?, []);
        assert_eq!(first.restore().await?, vpn_tun::dns::Restored::Restored);
        assert!(
            said().ends_with("revert lo\n") && journal.is_empty(),
            "{}",
            said()
        );

        // Killed, and the interface is still there.
        dns().apply(&servers).await?;
        let recovered = recover(&journal, &CaptureConfig::default(), Leave::Nothing).await;
        assert_eq!(recovered.done, [Undone::Resolved("lo".to_owned())]);
        assert!(said().ends_with("revert lo\n") && journal.is_empty());

        // Others told it something else: it is not fought, and stays.
        let mut again = dns();
        again.apply(&servers).await?;
        fs::write(dir.join("dns"), "198.51.100.1\n")?;
        let told = [ForeignChange::Resolved("lo".to_owned())];
        assert_eq!(again.look().await?, told);
        assert_eq!(journal.foreign_changes(), told);
        again.apply(&BTreeSet::from(["10.9.9.9".parse()?])).await?;
        assert!(!said().contains("10.9.9.9"), "{}", said());
        drop(again);
        let recovered = recover(&journal, &CaptureConfig::default(), Leave::Nothing).await;
        assert_eq!(recovered.done, told.map(Undone::Left));
        assert_eq!(fs::read_to_string(dir.join("dns"))?, "198.51.100.1\n");
        Ok(())
    });
}
