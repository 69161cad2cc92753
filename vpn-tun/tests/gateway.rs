//! Networks behind this host: what is forwarded for them, and that nothing of it stays.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::process::Command;

use common::{Result, in_namespace};
use vpn_tun::{Gateway, GatewayConfig, Journal, LinuxTun, TunConfig, Undone};

/// The networks of all tests: behind `lan0`, and one of each family.
const NETWORKS: [&str; 2] = ["192.168.7.0/24", "fd00:7::/64"];

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn forwards(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
    std::fs::read_to_string(path).unwrap().trim() == "1"
}

/// A device, a LAN, and an uplink that has nothing to do with it.
fn host() -> Result<LinuxTun> {
    let device = LinuxTun::create(TunConfig::named("mesh0".parse()?))?;
    run("ip", "link set lo up");
    for (name, address) in [("lan0", "192.168.7.1/24"), ("wan0", "192.0.2.1/24")] {
        run(
            "ip",
            &format!("link add {name} type veth peer name {name}p"),
        );
        run("ip", &format!("link set {name}p up"));
        run("ip", &format!("link set {name} up"));
        run("ip", &format!("addr add {address} dev {name}"));
    }
    run("ip", "route add default via 192.0.2.9");
    Ok(device)
}

fn config(journal: &Journal) -> GatewayConfig {
    let networks = NETWORKS.map(|net| net.parse().unwrap()).to_vec();
    GatewayConfig::new("mesh0".parse().unwrap(), networks).journal(journal.clone())
}

#[test]
fn only_what_is_needed_forwards_and_only_as_long_as_it_is_open() {
    in_namespace(|| async {
        let folder = tempfile::tempdir()?;
        let journal = Journal::open(folder.path().join("journal"))?;
        let _device = host()?;
        let open = || ["mesh0", "lan0", "wan0"].map(forwards);
        assert_eq!(open(), [false; 3]);
        let gateway = Gateway::open(config(&journal)).await?;
        assert_eq!(open(), [true, true, false]);
        let table = run("nft", "list table inet vpn_tun_gateway_mesh0");
        for part in NETWORKS {
            assert!(table.contains(part), "{part} in {table}");
        }
        assert!(table.contains("ipv4 iifname \"lan0\" drop"), "{table}");
        gateway.close().await;
        assert_eq!(open(), [false; 3]);
        assert!(!run("nft", "list tables").contains("gateway"));
        assert!(journal.is_empty());
        Ok(())
    });
}

/// What forwards by itself stays so, and is not closed to others.
#[test]
fn what_others_forward_stays_theirs() {
    in_namespace(|| async {
        let folder = tempfile::tempdir()?;
        let journal = Journal::open(folder.path().join("journal"))?;
        let _device = host()?;
        std::fs::write("/proc/sys/net/ipv4/conf/lan0/forwarding", "1")?;
        let gateway = Gateway::open(config(&journal)).await?;
        let table = run("nft", "list table inet vpn_tun_gateway_mesh0");
        assert!(!table.contains("ipv4 iifname \"lan0\" drop"), "{table}");
        gateway.close().await;
        assert_eq!(["mesh0", "lan0"].map(forwards), [false, true]);
        Ok(())
    });
}

/// A killed run: its runtime is gone, and nobody undid anything.
#[test]
fn what_a_killed_run_left_is_undone() {
    in_namespace(|| async {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("journal");
        let _device = host()?;
        let killed = path.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            let journal = Journal::open(killed).unwrap();
            let gateway = runtime.block_on(Gateway::open(config(&journal))).unwrap();
            runtime.shutdown_background();
            drop(gateway);
        })
        .join()
        .unwrap();
        assert!(forwards("lan0") && forwards("mesh0"));
        let journal = Journal::open(&path)?;
        let done = Gateway::recover(&journal).await?;
        assert!(!forwards("lan0") && !forwards("mesh0"), "{done:?}");
        let table = |undone: &Undone| matches!(undone, Undone::Table(_));
        assert!(done.iter().any(table), "{done:?}");
        assert!(journal.is_empty());
        Ok(())
    });
}
