//! R19, each way around tried beside a neighbour who writes down what gets there.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use common::site::{PATIENCE, Site, site};
use common::{Result, in_namespace};
use vpn_core::{Bypass, InterfacePlan, TunDevice, Way};
use vpn_tun::apply::DEFAULT_MARK;
use vpn_tun::{Applier, CaptureConfig, LinuxTun, OnExit, TunConfig};

const DEVICE_V4: &str = "10.5.0.2";
const DEVICE_V6: &str = "fd00:5::2";

fn plan() -> InterfacePlan {
    InterfacePlan {
        addresses: ["10.5.0.2/16", "fd00:5::2/64"]
            .map(|a| a.parse().unwrap())
            .into(),
        mtu: 1380,
        ..InterfacePlan::default()
    }
}

async fn captured(lockdown: bool) -> Result<(LinuxTun, Applier)> {
    let tun = LinuxTun::create(TunConfig::named("vpn0".parse()?))?;
    let capture = CaptureConfig::default().lockdown(lockdown);
    let mut applier = Applier::new(tun.name(), Some(capture))?;
    applier.engage().await?;
    applier.apply(&plan()).await?;
    Ok((tun, applier))
}

/// Sends a text by every way that gets past routing rules: bound to the uplink, bound to its
/// address, and by a route of the main table that is more specific.
fn go_around(text: &str) {
    for v4 in [true, false] {
        let to = SocketAddr::new(site(v4), 9);
        let (any, uplink): (IpAddr, IpAddr) = if v4 {
            ("0.0.0.0".parse().unwrap(), "192.0.2.2".parse().unwrap())
        } else {
            ("::".parse().unwrap(), "2001:db8::2".parse().unwrap())
        };
        // Refused is what we want; the neighbour judges.
        let bound = UdpSocket::bind((any, 0)).unwrap();
        socket2::SockRef::from(&bound)
            .bind_device(Some(b"up0"))
            .unwrap();
        let _ = bound.send_to(text.as_bytes(), to);
        let source = UdpSocket::bind((uplink, 0)).unwrap();
        let _ = source.send_to(text.as_bytes(), to);
        let plain = UdpSocket::bind((any, 0)).unwrap();
        let _ = plain.send_to(text.as_bytes(), to);
    }
}

/// More specific than anything the capture has, in the main table.
async fn specific_routes(netlink: &rtnetlink::Handle) -> Result<()> {
    let up = common::index(netlink, "up0").await?;
    let v4 = rtnetlink::RouteMessageBuilder::<std::net::Ipv4Addr>::new()
        .destination_prefix("203.0.113.10".parse()?, 32)
        .output_interface(up)
        .build();
    netlink.route().add(v4).execute().await?;
    let v6 = rtnetlink::RouteMessageBuilder::<std::net::Ipv6Addr>::new()
        .destination_prefix("2001:db8:ffff::10".parse()?, 128)
        .output_interface(up)
        .build();
    netlink.route().add(v6).execute().await?;
    Ok(())
}

/// Waits until a text gets to the neighbour.
async fn arrives(site: &Site, text: &str, mut send: impl FnMut()) -> Result<()> {
    let arrived = async {
        while site.saw(text.as_bytes()) == 0 {
            send();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    Ok(tokio::time::timeout(PATIENCE, arrived).await?)
}

#[test]
fn lockdown_stops_what_routes_cannot() {
    in_namespace(|| async {
        let netlink = common::netlink();
        let neighbour = Site::new(&netlink).await?;
        specific_routes(&netlink).await?;
        // Without it, what binds to the uplink gets around by IPv4: a documented limit.
        let (tun, mut applier) = captured(false).await?;
        arrives(&neighbour, "without lockdown", || {
            go_around("without lockdown")
        })
        .await?;
        applier.disengage(OnExit::Open).await?;
        tun.shutdown();
        drop((tun, applier));

        let (tun, applier) = captured(true).await?;
        for _ in 0..20 {
            go_around("with lockdown");
        }
        neighbour.caught_up(DEFAULT_MARK).await?;
        assert_eq!(neighbour.saw(b"with lockdown"), 0);
        // Neighbour discovery of the link itself still works, in both directions.
        let to_link = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None);
            let socket = socket.unwrap();
            socket.set_mark(DEFAULT_MARK).unwrap();
            let to: SocketAddr = "[2001:db8::1]:9".parse().unwrap();
            let _ = socket.send_to(b"marked by IPv6", &to.into());
        };
        arrives(&neighbour, "marked by IPv6", to_link).await?;
        // As after kill -9.
        tun.shutdown();
        drop((tun, applier));
        for _ in 0..20 {
            go_around("after the kill");
        }
        neighbour.caught_up(DEFAULT_MARK).await?;
        assert_eq!(neighbour.saw(b"after the kill"), 0);
        // And after an orderly end that keeps the block.
        let (tun, mut kept) = captured(true).await?;
        kept.disengage(OnExit::Block).await?;
        tun.shutdown();
        drop((tun, kept));
        for _ in 0..20 {
            go_around("blocked on exit");
        }
        neighbour.caught_up(DEFAULT_MARK).await?;
        assert_eq!(neighbour.saw(b"blocked on exit"), 0);
        let config = CaptureConfig::default();
        Applier::remove_leftovers(&config, None).await?;
        arrives(&neighbour, "open again", || go_around("open again")).await?;
        Ok(())
    });
}

#[test]
fn what_may_go_around_passes_lockdown_in_order() {
    in_namespace(|| async {
        let netlink = common::netlink();
        let neighbour = Site::new(&netlink).await?;
        let (_tun, mut applier) = captured(true).await?;
        let mut list = plan();
        list.bypass = vec![
            Bypass::new(Way::Capture).destination("203.0.113.0/25".parse()?),
            Bypass::new(Way::Main).destination("203.0.113.0/24".parse()?),
            Bypass::new(Way::Main).destination("2001:db8:ffff::/48".parse()?),
        ];
        applier.apply(&list).await?;
        let around = || go_around("as a rule says");
        let v6 = |f: &[u8]| f.get(12..14) == Some(&[0x86, 0xdd]);
        arrives(&neighbour, "as a rule says", around).await?;
        neighbour.caught_up(DEFAULT_MARK).await?;
        let text = |f: &[u8]| f.windows(14).any(|w| w == b"as a rule says");
        assert!(neighbour.seen(|f| text(f) && v6(f)) > 0);
        assert_eq!(neighbour.seen(|f| text(f) && !v6(f)), 0);
        // Taken back at once.
        applier.apply(&plan()).await?;
        for _ in 0..20 {
            go_around("no rule says");
        }
        neighbour.caught_up(DEFAULT_MARK).await?;
        assert_eq!(neighbour.saw(b"no rule says"), 0);
        Ok(())
    });
}

/// What forwarded traffic could take, while lockdown is on.
#[test]
fn lockdown_stops_forwarding_around() {
    in_namespace(|| async {
        let netlink = common::netlink();
        let neighbour = Site::new(&netlink).await?;
        for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{path}"), "1")?;
        }
        let back = |neighbour: &Site, text: &'static str| {
            // To an address of its own, by us: with one hop less it is back.
            neighbour.run(move || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                let _ = socket.send_to(text.as_bytes(), "198.51.100.77:9");
            });
        };
        neighbour.run(|| {
            let args = ["route", "add", "198.51.100.0/24", "via", "192.0.2.2"];
            let status = std::process::Command::new("ip").args(args).status();
            assert!(status.unwrap().success());
        });
        let returned = |f: &[u8], text: &[u8]| {
            f.get(22) == Some(&63) && f.windows(text.len()).any(|w| w == text)
        };
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0")?;
        let up = common::index(&netlink, "up0").await?;
        let entry = netlink.neighbours().add(up, "198.51.100.77".parse()?);
        entry
            .link_layer_address(&[2, 0, 0, 0, 0, 9])
            .execute()
            .await?;
        let forwarded = async {
            while neighbour.seen(|f| returned(f, b"once around")) == 0 {
                back(&neighbour, "once around");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, forwarded).await?;
        let (_tun, mut applier) = captured(true).await?;
        // A rule of the host's own, before the capture.
        let status = std::process::Command::new("ip")
            .args([
                "rule",
                "add",
                "pref",
                "100",
                "to",
                "198.51.100.0/24",
                "lookup",
                "main",
            ])
            .status();
        assert!(status?.success());
        for _ in 0..20 {
            back(&neighbour, "not around");
        }
        neighbour.caught_up(DEFAULT_MARK).await?;
        assert!(neighbour.saw(b"not around") > 0);
        assert_eq!(neighbour.seen(|f| returned(f, b"not around")), 0);
        applier.disengage(OnExit::Open).await?;
        Ok(())
    });
}

/// A device address answers nothing on the uplink: not to ARP, not to a datagram, not to an echo.
#[test]
fn a_device_address_answers_nothing_on_the_uplink() {
    in_namespace(|| async {
        let netlink = common::netlink();
        let neighbour = Site::new(&netlink).await?;
        let (_tun, mut applier) = captured(false).await?;
        let services: Vec<UdpSocket> = [DEVICE_V4, DEVICE_V6]
            .iter()
            .map(|address| UdpSocket::bind((*address, 9)).unwrap())
            .collect();
        for socket in &services {
            socket.set_nonblocking(true)?;
        }
        let ask = |neighbour: &Site| {
            neighbour.run(|| {
                for to in [DEVICE_V4, DEVICE_V6] {
                    let any = if to.contains(':') { "::" } else { "0.0.0.0" };
                    let socket = UdpSocket::bind((any, 0)).unwrap();
                    let _ = socket.send_to(b"who is there", (to, 9));
                }
                std::thread::sleep(Duration::from_millis(30));
            });
        };
        // Both on the link: they are asked for by ARP and neighbour discovery.
        neighbour.run(|| {
            for args in [
                vec!["route", "add", "10.5.0.0/16", "dev", "up1"],
                vec!["-6", "route", "add", "fd00:5::/64", "dev", "up1"],
            ] {
                let status = std::process::Command::new("ip").args(args).status();
                assert!(status.unwrap().success());
            }
        });
        let arp_answer = |f: &[u8]| {
            f.get(12..14) == Some(&[0x08, 0x06])
                && f.get(20..22) == Some(&[0, 2])
                && f.get(28..32) == Some(&[10, 5, 0, 2])
        };
        let advertised: std::net::Ipv6Addr = DEVICE_V6.parse()?;
        let advertisement = move |f: &[u8]| {
            f.get(12..14) == Some(&[0x86, 0xdd])
                && f.get(54) == Some(&136)
                && f.get(62..78) == Some(&advertised.octets())
        };
        for _ in 0..5 {
            ask(&neighbour);
        }
        neighbour.caught_up(DEFAULT_MARK).await?;
        assert_eq!(neighbour.seen(arp_answer), 0, "ARP");
        assert_eq!(neighbour.seen(advertisement), 0, "neighbour discovery");
        // Who knows our link-layer address needs no answer to the question.
        let known = |neighbour: &Site, mac: String| {
            neighbour.run(move || {
                for args in [
                    ["neigh", "replace", DEVICE_V4, "lladdr", &mac, "dev", "up1"],
                    ["neigh", "replace", DEVICE_V6, "lladdr", &mac, "dev", "up1"],
                ] {
                    let status = std::process::Command::new("ip").args(args).status();
                    assert!(status.unwrap().success());
                }
            });
        };
        let show = std::process::Command::new("ip")
            .args(["-br", "link", "show", "up0"])
            .output()?;
        let show = String::from_utf8(show.stdout)?;
        let mac = show
            .split_whitespace()
            .nth(2)
            .ok_or("no address")?
            .to_owned();
        known(&neighbour, mac);
        for _ in 0..5 {
            ask(&neighbour);
        }
        neighbour.caught_up(DEFAULT_MARK).await?;
        let mut buf = [0; 64];
        for socket in &services {
            assert!(socket.recv_from(&mut buf).is_err(), "it got through");
        }
        // The guard is what stops it: without, IPv4 and IPv6 get through, and ARP is answered.
        let gone = std::process::Command::new("nft")
            .args(["flush", "ruleset"])
            .status()?;
        assert!(gone.success());
        let through = async {
            for socket in &services {
                while socket.recv_from(&mut buf).is_err() {
                    ask(&neighbour);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        tokio::time::timeout(PATIENCE, through).await?;
        applier.disengage(OnExit::Open).await?;
        Ok(())
    });
}
