//! The way to the uplink and back, while everything is captured.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use common::site::{ECHO, PATIENCE, Site, site};
use common::{Result, in_namespace};
use vpn_core::testing::build;
use vpn_core::{
    DropCounters, InterfacePlan, Packet, PacketBatch, Parsed, TransportState, TunnelTransport,
};
use vpn_tun::direct::DEFAULT_ADDRESSES;
use vpn_tun::{
    Applier, CaptureConfig, DirectConfig, DirectError, DirectTransport, Journal, LinuxTun, OnExit,
    TunConfig,
};

const SYN: u8 = 2;
const SYN_ACK: u8 = 0x12;

fn own(v4: bool) -> IpAddr {
    DEFAULT_ADDRESSES[usize::from(!v4)].addr()
}

async fn send(direct: &DirectTransport, bytes: &[u8]) -> Result<()> {
    let mut batch = PacketBatch::new(1, 2000);
    batch.push(Packet::from_slice(bytes)).unwrap();
    direct.writable().await?;
    direct.try_send(&mut batch, &mut DropCounters::default())?;
    assert!(batch.is_empty());
    Ok(())
}

/// Sends a packet again and again until an answer says yes; a link that just came up loses some.
async fn exchange(
    direct: &DirectTransport,
    packet: &[u8],
    wanted: impl Fn(&Parsed, &[u8]) -> bool,
) -> Result<()> {
    let exchanged = async {
        let mut batch = PacketBatch::new(16, 2000);
        loop {
            send(direct, packet).await?;
            let wait = tokio::time::timeout(Duration::from_millis(100), direct.readable());
            if let Ok(ready) = wait.await {
                ready?;
                direct.try_recv(&mut batch, &mut DropCounters::default())?;
                for packet in batch.packets() {
                    if packet.parse().is_ok_and(|p| wanted(&p, packet.bytes())) {
                        return Ok(());
                    }
                }
                batch.clear();
            }
        }
    };
    tokio::time::timeout(PATIENCE, exchanged).await?
}

/// UDP, TCP and ICMP echo to an Internet site and back.
async fn works(direct: &DirectTransport, v4: bool) -> Result<()> {
    let (from, to) = (own(v4), site(v4));
    let answers = move |p: &Parsed| p.flow.src() == to && p.flow.dst() == from;
    let udp = build::udp((from, 4000), (to, ECHO), b"hello udp");
    exchange(direct, &udp, |p, bytes| {
        answers(p) && bytes.ends_with(b"hello udp")
    })
    .await?;
    let syn = build::tcp((from, 4001), (to, ECHO), SYN, 1, b"");
    let flags = if v4 { 20 + 13 } else { 40 + 13 };
    exchange(direct, &syn, |p, bytes| {
        answers(p) && bytes[flags] == SYN_ACK
    })
    .await?;
    let echo = build::icmp_echo(from, to, build::Echo::Request, 77, 1, b"hello icmp");
    exchange(direct, &echo, |p, bytes| {
        answers(p) && bytes.ends_with(b"hello icmp")
    })
    .await
}

async fn captured(lockdown: bool) -> Result<(LinuxTun, Applier)> {
    let tun = LinuxTun::create(TunConfig::named("vpn0".parse()?))?;
    let mut applier = Applier::new(
        tun.name(),
        Some(CaptureConfig::default().lockdown(lockdown)),
    )?;
    applier.engage().await?;
    let plan = InterfacePlan {
        addresses: ["10.5.0.2/16".parse()?, "fd00:5::2/64".parse()?].into(),
        mtu: 1380,
        ..InterfacePlan::default()
    };
    applier.apply(&plan).await?;
    Ok((tun, applier))
}

fn config() -> DirectConfig {
    DirectConfig::beside(&"vpn0".parse().unwrap(), CaptureConfig::default())
}

/// Rules, tables of the packet filter and forwarding settings: what must be as before.
fn system() -> String {
    let run = |program: &str, args: &[&str]| {
        let output = std::process::Command::new(program).args(args).output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    };
    let mut all = run("ip", &["rule"]) + &run("ip", &["-6", "rule"]);
    all += &run("ip", &["route"]);
    all += &run("nft", &["list", "tables"]);
    for (folder, setting) in [
        ("ipv4", "forwarding"),
        ("ipv6", "forwarding"),
        ("ipv6", "force_forwarding"),
        ("ipv6", "accept_ra"),
    ] {
        for name in ["all", "default", "up0", "lo"] {
            let path = format!("/proc/sys/net/{folder}/conf/{name}/{setting}");
            all += &format!("{path} {:?}\n", fs::read_to_string(&path).ok());
        }
    }
    all
}

/// N-6: direct packets come back into the device, or nowhere.
#[test]
fn direct_reaches_the_uplink_and_comes_back_and_leaves_nothing_behind() {
    in_namespace(|| async {
        for (filter, lockdown) in [("0", false), ("1", true), ("2", false)] {
            let netlink = common::netlink();
            let site = Site::new(&netlink).await?;
            for conf in ["all", "up0", "default"] {
                fs::write(format!("/proc/sys/net/ipv4/conf/{conf}/rp_filter"), filter)?;
            }
            let (tun, mut applier) = captured(lockdown).await?;
            let before = system();
            let direct = DirectTransport::open(config()).await?;
            let TransportState::Up(assigned) = direct.state().get() else {
                return Err("not up".into());
            };
            assert_eq!(assigned.addresses, DEFAULT_ADDRESSES);
            assert_eq!(assigned.mtu, 1500);
            for v4 in [true, false] {
                works(&direct, v4).await?;
            }
            site.caught_up(vpn_tun::apply::DEFAULT_MARK).await?;
            // The neighbour saw the uplink's addresses, not ours.
            assert_eq!(
                site.seen(|f| f.get(26..30) == Some(&[100, 127, 118, 112])),
                0
            );
            assert!(site.seen(|f| f.get(26..30) == Some(&[192, 0, 2, 2])) > 0);
            // Nothing of it met the capture.
            let mut batch = PacketBatch::new(64, 2000);
            use vpn_core::TunDevice;
            tun.try_recv(&mut batch, &mut DropCounters::default())?;
            let looped = |p: &Packet| p.bytes().windows(5).any(|w| w == b"hello");
            assert!(!batch.packets().iter().any(looped));
            direct.close().await;
            direct.close().await;
            assert_eq!(system(), before, "rp_filter {filter}");
            applier.disengage(OnExit::Open).await?;
            tun.shutdown();
            let up = common::index(&netlink, "up0").await?;
            netlink.link().del(up).execute().await?;
        }
        Ok(())
    });
}

#[test]
fn the_host_does_not_become_a_router_for_others() {
    in_namespace(|| async {
        let netlink = common::netlink();
        let site = Site::new(&netlink).await?;
        // A second network that this host has nothing to do with.
        let pair = rtnetlink::LinkVeth::new("lan0", "lan1").build();
        netlink.link().add(pair).execute().await?;
        for name in ["lan0", "lan1"] {
            let index = common::index(&netlink, name).await?;
            common::link_up(&netlink, index).await?;
        }
        let lan = common::index(&netlink, "lan0").await?;
        for net in ["198.51.100.1/24", "2001:db8:a::1/64"] {
            let net: ipnet::IpNet = net.parse()?;
            common::add_address(&netlink, lan, net.addr(), net.prefix_len()).await?;
        }
        let direct = DirectTransport::open(config()).await?;
        works(&direct, true).await?;
        works(&direct, false).await?;
        // Nobody is there to be asked for.
        for to in ["198.51.100.9", "2001:db8:a::9"] {
            let entry = netlink.neighbours().add(lan, to.parse()?);
            entry
                .link_layer_address(&[2, 0, 0, 0, 0, 9])
                .execute()
                .await?;
        }
        let out = frames()?;
        // The neighbour asks us to carry this to our other network.
        site.run(|| {
            let routes: [&[&str]; 2] = [
                &["route", "add", "198.51.100.0/24", "via", "192.0.2.2"],
                &[
                    "-6",
                    "route",
                    "add",
                    "2001:db8:a::/64",
                    "via",
                    "2001:db8::2",
                ],
            ];
            for args in routes {
                let status = std::process::Command::new("ip").args(args).status();
                assert!(status.unwrap().success());
            }
            for to in ["198.51.100.9:9", "[2001:db8:a::9]:9"] {
                let any = if to.starts_with('[') {
                    "[::]:0"
                } else {
                    "0.0.0.0:0"
                };
                let socket = UdpSocket::bind(any).unwrap();
                for _ in 0..3 {
                    let _ = socket.send_to(b"forward me", to);
                }
            }
        });
        // And to the transport's own address: no answer to anything.
        site.run(|| {
            let args = ["route", "add", "100.127.118.112/32", "via", "192.0.2.2"];
            let status = std::process::Command::new("ip").args(args).status();
            assert!(status.unwrap().success());
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let _ = socket.send_to(b"forward me", "100.127.118.112:9");
        });
        works(&direct, true).await?;
        let (mut frame, mut arrived) = ([0; 2048], 0);
        while let Ok(length) = std::io::Read::read(&mut &out, &mut frame) {
            // The socket sees every interface; what a router passes on has one hop less.
            let frame = &frame[..length];
            let hops = match frame.get(12..14) {
                Some([0x08, 0x00]) => frame[22],
                Some([0x86, 0xdd]) => frame[21],
                _ => continue,
            };
            let ours = frame.windows(10).any(|w| w == b"forward me");
            arrived += usize::from(ours && hops == 64);
            assert!(!ours || hops == 64, "forwarded");
        }
        assert!(arrived >= 7, "only {arrived} arrived to be forwarded");
        let mut batch = PacketBatch::new(64, 2000);
        direct.try_recv(&mut batch, &mut DropCounters::default())?;
        let seen = |p: &Packet| p.bytes().windows(10).any(|w| w == b"forward me");
        assert!(!batch.packets().iter().any(seen));
        direct.close().await;
        Ok(())
    });
}

fn frames() -> Result<socket2::Socket> {
    const ETH_P_ALL: u16 = 3;
    let protocol = socket2::Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let socket = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[test]
fn it_follows_the_uplink() {
    in_namespace(|| async {
        let netlink = common::netlink();
        let direct = DirectTransport::open(config()).await?;
        assert!(matches!(direct.state().get(), TransportState::Down(_)));
        let _site = Site::new(&netlink).await?;
        let up = common::index(&netlink, "up0").await?;
        let link = rtnetlink::LinkMessageBuilder::<rtnetlink::LinkUnspec>::new()
            .index(up)
            .mtu(1400)
            .build();
        netlink.link().change(link).execute().await?;
        let mut state = direct.state();
        let reached = async {
            loop {
                if let TransportState::Up(assigned) = state.next().await
                    && assigned.mtu == 1400
                    && assigned.addresses.len() == 2
                {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reached).await?;
        assert_eq!(direct.capabilities().mtu, 1400);
        works(&direct, true).await?;
        works(&direct, false).await?;
        direct.close().await;
        Ok(())
    });
}

/// An interface forwards as long as the main table leads to it, and only behind the filter.
#[test]
fn what_leads_nowhere_forwards_no_more_and_a_lost_filter_is_made_again() {
    in_namespace(|| async {
        let netlink = common::netlink();
        let _site = Site::new(&netlink).await?;
        let run = |program: &str, arguments: &str| {
            let output = std::process::Command::new(program)
                .args(arguments.split(' '))
                .output();
            let output = output.unwrap();
            assert!(output.status.success(), "{arguments}: {output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let reads = |path: &str| fs::read_to_string(format!("/proc/sys/net/{path}")).ok();
        let lan = || {
            let v6 = reads("ipv6/conf/lan0/force_forwarding").unwrap_or_default();
            let v4 = reads("ipv4/conf/lan0/forwarding").unwrap_or_default();
            [v4, v6].map(|value| value.trim() == "1")
        };
        let filter = || run("nft", "list tables").contains("vpn_tun_direct_30320");
        for command in [
            "link add lan0 type veth peer name lan1",
            "link set lan1 up",
            "link set lan0 up",
            "addr add 192.168.9.1/24 dev lan0",
        ] {
            run("ip", command);
        }
        let direct = DirectTransport::open(config()).await?;
        assert_eq!(lan(), [true, false], "it leads there for IPv4 alone");
        for (program, arguments) in [
            ("ip", "addr del 192.168.9.1/24 dev lan0"),
            ("nft", "flush ruleset"),
        ] {
            run(program, arguments);
            let follows = async {
                while lan() != [false; 2] || !filter() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let followed = tokio::time::timeout(PATIENCE, follows).await;
            assert!(followed.is_ok(), "{program}: {:?} {}", lan(), filter());
        }
        works(&direct, true).await?;
        works(&direct, false).await?;
        direct.close().await;
        assert!(!filter());
        Ok(())
    });
}

#[test]
fn what_a_killed_one_left_is_undone() {
    in_namespace(|| async {
        let netlink = common::netlink();
        let _site = Site::new(&netlink).await?;
        let dir = tempfile::tempdir()?;
        let before = system();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let path = dir.path().join("journal");
        let journal = Journal::open(&path)?;
        // Its task goes without a word, and so does what it would undo.
        let killed = move || {
            let opened = runtime.block_on(DirectTransport::open(config().journal(journal)));
            drop(runtime);
            drop(opened.unwrap());
        };
        std::thread::scope(|scope| scope.spawn(killed).join().unwrap());
        assert_ne!(system(), before);
        let journal = Journal::open(&path)?;
        assert!(!journal.is_empty());
        Applier::remove_leftovers(&CaptureConfig::default(), Some(&journal)).await?;
        assert!(journal.is_empty());
        let route = |text: &str| {
            text.lines()
                .filter(|l| !l.contains("vpn0d"))
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert_eq!(route(&system()), route(&before));
        Ok(())
    });
}

#[test]
fn a_name_that_is_taken_and_a_bad_configuration_leave_nothing() {
    in_namespace(|| async {
        let before = system();
        let taken = LinuxTun::create(TunConfig::named("vpn0d".parse()?))?;
        let error = DirectTransport::open(config()).await.unwrap_err();
        assert!(matches!(error, DirectError::Device(_)), "{error}");
        drop(taken);
        let error = DirectTransport::open(config().addresses(Vec::new()))
            .await
            .unwrap_err();
        assert!(matches!(error, DirectError::Config(_)), "{error}");
        assert_eq!(system(), before);
        Ok(())
    });
}
