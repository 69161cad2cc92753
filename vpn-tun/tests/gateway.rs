//! Networks behind this host: what is forwarded for them, and that nothing of it stays.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use common::{Result, in_namespace};
use vpn_core::testing::build;
use vpn_core::{DropCounters, Packet, PacketBatch, TunDevice};
use vpn_tun::{Gateway, GatewayConfig, Journal, LinuxTun, TunConfig, Undone};

/// The networks of all tests: behind `lan0`, and one of each family.
const NETWORKS: [&str; 2] = ["192.168.7.0/24", "fd00:7::/64"];

/// Where all datagrams go.
const PORT: u16 = 5000;

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

/// Waits until the gateway has followed.
async fn until(what: &str, is: impl Fn() -> bool) {
    let followed = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), followed).await;
    assert!(waited.is_ok(), "{what}");
}

/// As if this came by the device: a datagram that says what it is.
async fn comes(by: &LinuxTun, from: &str, to: &str, word: &str) -> Result<()> {
    let (from, to): (IpAddr, IpAddr) = (from.parse()?, to.parse()?);
    let bytes = build::udp((from, 4000), (to, PORT), word.as_bytes());
    let mut batch = PacketBatch::new(1, 2000);
    batch.push(Packet::from_slice(&bytes)).unwrap();
    by.writable().await?;
    by.try_send(&mut batch, &mut DropCounters::default())?;
    assert!(batch.is_empty());
    Ok(())
}

/// Of these words, those that went out by the device, up to the last.
async fn went<'a>(by: &LinuxTun, words: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut went = Vec::new();
    let listen = async {
        let mut batch = PacketBatch::new(16, 2000);
        while went.last() != words.last() {
            by.readable().await?;
            by.try_recv(&mut batch, &mut DropCounters::default())?;
            for packet in batch.packets() {
                let said = |word: &&&str| packet.bytes().ends_with(word.as_bytes());
                went.extend(words.iter().find(said));
            }
            batch.clear();
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    tokio::time::timeout(Duration::from_secs(5), listen).await??;
    Ok(went)
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

/// What `inbound` closes is not opened by `forward`: this host is a machine of that LAN too.
#[test]
fn this_host_is_not_reached_by_its_addresses_in_those_networks() {
    in_namespace(|| async {
        let folder = tempfile::tempdir()?;
        let journal = Journal::open(folder.path().join("journal"))?;
        let device = host()?;
        run("ip", "addr add fd00:7::1/64 dev lan0 nodad");
        run("ip", "addr add 10.77.0.2/24 dev mesh0");
        run("ip", "addr add fd00:77::2/64 dev mesh0 nodad");
        run("ip", "link set mesh0 up");
        let listener = UdpSocket::bind(("::", PORT))?;
        listener.set_read_timeout(Some(Duration::from_secs(5)))?;
        let everywhere = ["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap());
        let mut everything = config(&journal);
        everything.networks = everywhere.to_vec();
        for config in [config(&journal), everything] {
            let gateway = Gateway::open(config).await?;
            for (from, to, word) in [
                ("10.77.0.3", "192.168.7.1", "lan"),
                ("10.77.0.3", "192.168.7.255", "broadcast"),
                ("fd00:77::3", "fd00:7::1", "lan6"),
                ("fd00:77::3", "fd00:7::", "anycast6"),
                ("fd00:77::3", "fd00:77::2", "own6"),
                ("10.77.0.3", "10.77.0.2", "own"),
            ] {
                comes(&device, from, to, word).await?;
            }
            let mut heard = Vec::new();
            while heard.last().is_none_or(|last| last != "own") {
                let mut buffer = [0; 100];
                let length = listener.recv(&mut buffer)?;
                heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            assert_eq!(heard, ["own6", "own"]);
            gateway.close().await;
        }
        Ok(())
    });
}

/// At boot the uplink is there first, and with it the only way to the LAN.
#[test]
fn what_leads_there_no_more_forwards_no_more() {
    in_namespace(|| async {
        let folder = tempfile::tempdir()?;
        let journal = Journal::open(folder.path().join("journal"))?;
        let _device = host()?;
        run("ip", "addr del 192.168.7.1/24 dev lan0");
        let gateway = Gateway::open(config(&journal)).await?;
        let open = || ["mesh0", "lan0", "wan0"].map(forwards);
        assert_eq!(open(), [true, false, true]);
        run("ip", "addr add 192.168.7.1/24 dev lan0");
        until("it follows", || open() == [true, true, false]).await;
        let table = run("nft", "list table inet vpn_tun_gateway_mesh0");
        assert!(table.contains("ipv4 iifname \"lan0\" drop"), "{table}");
        gateway.close().await;
        assert_eq!(open(), [false; 3]);
        assert!(journal.is_empty());
        Ok(())
    });
}

/// As `systemctl reload nftables` does it.
#[test]
fn a_filter_that_somebody_flushes_is_made_again() {
    in_namespace(|| async {
        let folder = tempfile::tempdir()?;
        let journal = Journal::open(folder.path().join("journal"))?;
        let _device = host()?;
        let gateway = Gateway::open(config(&journal)).await?;
        let table = || run("nft", "list tables").contains("vpn_tun_gateway_mesh0");
        for _ in 0..2 {
            run("nft", "flush ruleset");
            until("it is made again", || table() && forwards("lan0")).await;
        }
        gateway.close().await;
        assert!(!table() && !forwards("lan0") && journal.is_empty());
        Ok(())
    });
}

/// A program that does nothing in the place of `nft`: what cannot be filtered is not forwarded.
#[test]
fn as_long_as_a_lost_filter_cannot_be_made_nothing_is_forwarded() {
    in_namespace(|| async {
        let folder = tempfile::tempdir()?;
        let journal = Journal::open(folder.path().join("journal"))?;
        let _device = host()?;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        run("mount", "--make-rprivate /");
        let gateway = Gateway::open(config(&journal)).await?;
        let nft = run("which", "nft");
        run("nft", "flush ruleset");
        run("mount", &format!("--bind /bin/false {}", nft.trim()));
        let open = || ["mesh0", "lan0", "wan0"].map(forwards);
        until("it ends", || open() == [false; 3]).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(open(), [false; 3]);
        run("umount", nft.trim());
        until("it goes on", || open() == [true, true, false]).await;
        assert!(run("nft", "list tables").contains("vpn_tun_gateway_mesh0"));
        gateway.close().await;
        Ok(())
    });
}

/// An uplink that forwards, by others: whoever is there may say that they are in the LAN.
#[test]
fn what_says_it_is_of_the_lan_comes_from_the_lan() {
    in_namespace(|| async {
        let folder = tempfile::tempdir()?;
        let journal = Journal::open(folder.path().join("journal"))?;
        let tun = |name: &str| LinuxTun::create(TunConfig::named(name.parse().unwrap()));
        let (device, lan, wan) = (tun("mesh0")?, tun("lan0")?, tun("wan0")?);
        for (name, address) in [
            ("mesh0", "10.77.0.2/24"),
            ("lan0", "192.168.7.1/24"),
            ("wan0", "192.0.2.1/24"),
        ] {
            run("ip", &format!("addr add {address} dev {name}"));
            run("ip", &format!("link set {name} up"));
        }
        std::fs::write("/proc/sys/net/ipv4/conf/wan0/forwarding", "1")?;
        for conf in ["all", "wan0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{conf}/rp_filter"), "0")?;
        }
        let gateway = Gateway::open(config(&journal)).await?;
        let to = "10.77.0.3";
        comes(&wan, "192.168.7.9", to, "spoofed").await?;
        comes(&wan, "172.17.0.2", to, "of others").await?;
        comes(&lan, "172.17.0.2", to, "no source of ours").await?;
        comes(&lan, "192.168.7.9", to, "of the lan").await?;
        let words = ["spoofed", "of others", "no source of ours", "of the lan"];
        assert_eq!(went(&device, &words).await?, ["of others", "of the lan"]);
        gateway.close().await;
        Ok(())
    });
}

/// IPv6 is none of the business of a gateway to IPv4 networks, and the other way round.
#[test]
fn only_the_families_of_the_networks_are_forwarded() {
    in_namespace(|| async {
        let folder = tempfile::tempdir()?;
        let journal = Journal::open(folder.path().join("journal"))?;
        let _device = host()?;
        run("ip", "addr add fd00:7::1/64 dev lan0 nodad");
        let read = |path: &str| std::fs::read_to_string(format!("/proc/sys/net/{path}")).ok();
        let open = |path: &str| read(path).is_some_and(|value| value.trim() == "1");
        // Linux before 6.17 has one for all interfaces.
        let narrow = read("ipv6/conf/lo/force_forwarding").is_some();
        let of_v6 = if narrow {
            [
                "ipv6/conf/mesh0/force_forwarding",
                "ipv6/conf/lan0/force_forwarding",
            ]
        } else {
            ["ipv6/conf/all/forwarding"; 2]
        };
        for v4 in [true, false] {
            let mut config = config(&journal);
            config.networks.retain(|net| net.addr().is_ipv4() == v4);
            let gateway = Gateway::open(config).await?;
            assert_eq!(["mesh0", "lan0"].map(forwards), [v4; 2]);
            assert_eq!(of_v6.map(open), [!v4; 2]);
            gateway.close().await;
            assert_eq!(of_v6.map(open), [false; 2]);
        }
        Ok(())
    });
}
