//! The network below is watched, in a namespace of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Result, carrier, in_namespace, index, netlink};
use vpn_core::{Bypass, InterfacePlan, NetworkEvent, Way};
use vpn_tun::watch::Notice;
use vpn_tun::{Applier, CaptureConfig, LinuxTun, NetworkWatch, TunConfig};

/// From a change to its notice. Of a carrier the kernel tells once a second at most, and a busy
/// machine takes its time; what is promised of all else is far less.
const SOON: Duration = Duration::from_secs(2);

/// Runs `ip` with these lines of arguments, at one go, in this thread's namespace.
fn ip(lines: &[&str]) {
    let mut command = Command::new("ip");
    let mut ip = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn();
    let ip = ip.as_mut().unwrap();
    let text = lines.join("\n");
    ip.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success(), "ip {lines:?}");
}

/// Two uplinks; the second has no default route yet.
fn two_uplinks() {
    ip(&[
        "link set lo up",
        "link add wan0 type veth peer name far0",
        "link add wan1 type veth peer name far1",
        "address add 192.0.2.10/24 dev wan0",
        "address add 198.51.100.10/24 dev wan1",
        "link set far0 up",
        "link set far1 up",
        "link set wan0 addrgenmode none up",
        "link set wan1 addrgenmode none up",
        "route add default via 192.0.2.1 dev wan0",
    ]);
}

async fn watch() -> Result<NetworkWatch> {
    two_uplinks();
    // A veth's carrier comes a moment after both ends are up: when the kernel gets to it.
    let handle = netlink();
    for name in ["wan0", "far0", "wan1", "far1"] {
        carrier(&handle, index(&handle, name).await?).await?;
    }
    Ok(NetworkWatch::start(Arc::new(|name: &str| name == "vpn0")).await?)
}

/// The next notice of the network; those of addresses are passed over.
async fn next(watch: &mut NetworkWatch) -> NetworkEvent {
    loop {
        if let Notice::Network(event) = watch.next().await {
            return event;
        }
    }
}

/// All that is told of the network until nothing more is for a second, and after how long the first.
async fn told(watch: &mut NetworkWatch) -> Result<(Vec<NetworkEvent>, Duration)> {
    let begun = Instant::now();
    let mut events = vec![tokio::time::timeout(SOON * 5, next(watch)).await?];
    let took = begun.elapsed();
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(1), next(watch)).await {
        events.push(event);
    }
    Ok((events, took))
}

/// Changes one after the other, and what is to be told of each.
const CHANGES: [(&[&str], NetworkEvent); 5] = [
    // The client's address changes: the default route goes with the old one.
    (
        &[
            "address del 192.0.2.10/24 dev wan0",
            "address add 192.0.2.77/24 dev wan0",
            "route add default via 192.0.2.1 dev wan0",
        ],
        NetworkEvent::Changed,
    ),
    // Another uplink takes over.
    (
        &[
            "route add default via 198.51.100.1 dev wan1 metric 50",
            "route del default dev wan0",
        ],
        NetworkEvent::Changed,
    ),
    // A cable is pulled and plugged in; routes without a carrier lead nowhere.
    (&["link set far1 down"], NetworkEvent::Lost),
    (&["link set far1 up"], NetworkEvent::Changed),
    // So short that nothing is to be seen of it afterwards.
    (
        &["link set far1 down", "link set far1 up"],
        NetworkEvent::Changed,
    ),
];

/// From where the changes end to where they begin.
const BACK: [&str; 4] = [
    "address del 192.0.2.77/24 dev wan0",
    "address add 192.0.2.10/24 dev wan0",
    "route add default via 192.0.2.1 dev wan0",
    "route del default dev wan1",
];

#[test]
fn an_address_a_link_and_a_default_route_are_events() {
    in_namespace(|| async {
        let mut watch = watch().await?;
        // What is told last is the change, each time. That it is told soon, and once, is to be seen of
        // each change in one of three rounds: a busy machine may pause between two lines of `ip`, and
        // they are two changes then.
        let mut otherwise = [const { Vec::new() }; CHANGES.len()];
        let mut as_promised = [false; CHANGES.len()];
        for round in 0..3 {
            if round > 0 {
                ip(&BACK);
                told(&mut watch).await?;
            }
            for (number, (lines, expected)) in CHANGES.iter().enumerate() {
                ip(lines);
                let (events, took) = told(&mut watch).await?;
                assert_eq!(events.last(), Some(expected), "{lines:?}: {events:?}");
                match events.len() == 1 && took < SOON {
                    true => as_promised[number] = true,
                    false => otherwise[number].push((events, took)),
                }
            }
            if as_promised == [true; CHANGES.len()] {
                return Ok(());
            }
        }
        Err(format!("not one event, and soon: {as_promised:?}, {otherwise:?}").into())
    });
}

#[test]
fn our_own_interfaces_and_what_no_tunnel_uses_are_none() {
    in_namespace(|| async {
        let mut watch = watch().await?;
        let tun = LinuxTun::create(TunConfig::named("vpn0".parse()?))?;
        let mut applier = Applier::new(tun.name(), Some(CaptureConfig::default()))?;
        applier.engage().await?;
        for n in 1..50u8 {
            let plan = InterfacePlan {
                addresses: [format!("10.5.{n}.2/16").parse()?].into(),
                ..InterfacePlan::default()
            };
            applier.apply(&plan).await?;
        }
        ip(&[
            "link add docker0 type bridge",
            "address add 172.17.0.1/16 dev docker0",
            "link set docker0 up",
        ]);
        let more: Vec<String> = (20..70)
            .map(|n| format!("address add 192.0.2.{n}/24 dev wan0"))
            .collect();
        ip(&more.iter().map(String::as_str).collect::<Vec<_>>());
        ip(&["link set far0 down"]);
        // All this was told of, had it been an event, before what is provoked at the end.
        let (events, _) = told(&mut watch).await?;
        assert_eq!(events, [NetworkEvent::Lost]);
        applier.disengage(vpn_tun::OnExit::Open).await?;
        Ok(())
    });
}

#[test]
fn other_addresses_are_noticed_without_an_event() {
    in_namespace(|| async {
        let mut watch = watch().await?;
        ip(&["address add 192.0.2.20/24 dev wan0"]);
        let notice = tokio::time::timeout(SOON * 5, watch.next()).await?;
        assert_eq!(notice, Notice::Addresses);
        Ok(())
    });
}

/// To the kernel, whether a gateway is on the link is a question to the policy rules, the capture
/// among them: what the manual says about hosts whose uplink is configured anew.
#[test]
fn a_default_route_beside_the_capture_needs_onlink_or_a_bypass() {
    in_namespace(|| async {
        two_uplinks();
        let tun = LinuxTun::create(TunConfig::named("vpn0".parse()?))?;
        let mut applier = Applier::new(tun.name(), Some(CaptureConfig::default()))?;
        applier.engage().await?;
        let add = |more: &str| {
            let route = format!("route add default via 198.51.100.1 dev wan1 metric 7{more}");
            let done = Command::new("ip").args(route.split_whitespace()).output();
            done.unwrap().status.success()
        };
        assert!(
            !add(""),
            "the kernel asks elsewhere now: correct the manual"
        );
        assert!(add(" onlink"));
        ip(&["route del default via 198.51.100.1 dev wan1 metric 7"]);
        let lan = Bypass::new(Way::Main).destination("198.51.100.0/24".parse()?);
        let plan = InterfacePlan {
            bypass: vec![lan],
            ..InterfacePlan::default()
        };
        applier.apply(&plan).await?;
        assert!(add(""));
        applier.disengage(vpn_tun::OnExit::Open).await?;
        Ok(())
    });
}
