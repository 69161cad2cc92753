//! What need not enter the device goes around it, and nothing else, at no time.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::net::{IpAddr, SocketAddr};

use common::site::{PATIENCE, site};
use common::{Result, in_namespace, lookup};
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use vpn_core::rule::PortRange;
use vpn_core::testing::build;
use vpn_core::{
    Bypass, DropCounters, InterfacePlan, Packet, PacketBatch, Protocol, TunDevice, Way,
};
use vpn_tun::apply::DEFAULT_MARK;
use vpn_tun::{Applier, CaptureConfig, LinuxTun, OnExit, TunConfig};

const V4: &str = "203.0.113.10:80";
const V6: &str = "[2001:db8:ffff::10]:80";

fn plan(bypass: Vec<Bypass>) -> InterfacePlan {
    InterfacePlan {
        addresses: ["10.5.0.2/16", "fd00:5::2/64"]
            .map(|a| a.parse().unwrap())
            .into(),
        dns: ["10.99.0.53".parse().unwrap()].into(),
        mtu: 1380,
        bypass,
        ..InterfacePlan::default()
    }
}

fn main_way() -> Bypass {
    Bypass::new(Way::Main)
}

async fn captured() -> Result<(LinuxTun, Applier)> {
    let tun = LinuxTun::create(TunConfig::named("vpn0".parse()?))?;
    let mut applier = Applier::new(tun.name(), Some(CaptureConfig::default()))?;
    applier.engage().await?;
    Ok((tun, applier))
}

/// Whether an unmarked datagram to there would leave by the uplink.
fn around(to: &str) -> bool {
    let uplink: [IpAddr; 2] = ["192.0.2.2", "2001:db8::2"].map(|a| a.parse().unwrap());
    uplink.contains(&lookup(None, to).unwrap())
}

/// As [`around`], by TCP: the route is chosen by the SYN.
fn around_tcp(to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    let domain = Domain::for_address(to);
    let socket = Socket::new(domain, Type::STREAM, Some(SocketProtocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let _ = socket.connect(&to.into());
    let own = socket.local_addr().unwrap().as_socket().unwrap().ip();
    own == "192.0.2.2".parse::<IpAddr>().unwrap() || own == "2001:db8::2".parse::<IpAddr>().unwrap()
}

#[test]
fn each_condition_lets_around_what_it_names() {
    in_namespace(|| async {
        let netlink = common::netlink();
        common::uplink(&netlink).await?;
        let (_tun, mut applier) = captured().await?;
        applier.apply(&plan(Vec::new())).await?;
        assert!(!around(V4) && !around(V6));
        let me = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self")?);
        let udp80 = main_way()
            .protocol(Protocol::UDP)
            .ports(PortRange::single(80));
        for (list, v4, v6) in [
            (vec![main_way()], true, true),
            (vec![main_way().uids(me..=me)], true, true),
            (vec![main_way().uids(me + 1..=me + 9)], false, false),
            (vec![main_way().family(vpn_core::Family::V6)], false, true),
            (
                vec![main_way().destination("203.0.113.0/24".parse()?)],
                true,
                false,
            ),
            (
                vec![main_way().destination("0.0.0.0/0".parse()?)],
                true,
                false,
            ),
            (vec![udp80.clone()], true, true),
            (vec![main_way().ports(PortRange::single(81))], false, false),
            // The first entry that matches decides.
            (
                vec![
                    Bypass::new(Way::Capture).destination("203.0.113.10/32".parse()?),
                    main_way(),
                ],
                false,
                true,
            ),
        ] {
            applier.apply(&plan(list.clone())).await?;
            assert_eq!((around(V4), around(V6)), (v4, v6), "{list:?}");
            // Marked sockets are where they always were.
            let own = lookup(Some(DEFAULT_MARK), V4)?;
            assert_eq!(own, "192.0.2.2".parse::<IpAddr>()?);
        }
        applier.apply(&plan(vec![udp80])).await?;
        assert!(!around_tcp(V4) && !around_tcp(V6));
        applier
            .apply(&plan(vec![main_way().ports(PortRange::single(80))]))
            .await?;
        assert!(around_tcp(V4) && around_tcp(V6));
        applier.apply(&plan(vec![main_way()])).await?;
        assert!(!around("10.99.0.53:53"), "a query of the plan's resolver");
        Ok(())
    });
}

/// A rule for a user that this host does not have is about user -1, which the kernel refuses.
#[test]
fn an_entry_about_nobody_keeps_no_plan_from_being_applied() {
    in_namespace(|| async {
        let netlink = common::netlink();
        common::uplink(&netlink).await?;
        let (_tun, mut applier) = captured().await?;
        let me = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self")?);
        let nobody = |way| Bypass::new(way).uids(u32::MAX..=u32::MAX);
        let list = vec![
            nobody(Way::Main),
            nobody(Way::Capture),
            main_way().uids(me..=me),
        ];
        applier.apply(&plan(list)).await?;
        assert!(around(V4) && around(V6));
        Ok(())
    });
}

/// By then the router has the rules of the new plan, which may send the same into a tunnel.
#[test]
fn when_a_plan_cannot_be_applied_only_what_both_let_around_goes_around() {
    in_namespace(|| async {
        let netlink = common::netlink();
        common::uplink(&netlink).await?;
        let (_tun, mut applier) = captured().await?;
        let own = || main_way().destination("203.0.113.10/32".parse().unwrap());
        let before = plan(vec![own(), main_way()]);
        applier.apply(&before).await?;
        assert!(around(V4) && around(V6));
        // A group's address is nobody's.
        let mut next = plan(vec![own()]);
        next.addresses.insert("ff02::7/128".parse()?);
        assert!(applier.apply(&next).await.is_err());
        assert!(around(V4), "what both let around");
        assert!(!around(V6), "what the new plan captures goes around");
        applier.apply(&before).await?;
        assert!(around(V4) && around(V6));
        Ok(())
    });
}

#[test]
fn nothing_of_it_stays() {
    in_namespace(|| async {
        let netlink = common::netlink();
        common::uplink(&netlink).await?;
        let count = async || -> Result<usize> {
            let mut rules = 0;
            for version in [rtnetlink::IpVersion::V4, rtnetlink::IpVersion::V6] {
                use futures_util::TryStreamExt;
                let all: Vec<_> = netlink.rule().get(version).execute().try_collect().await?;
                rules += all.len();
            }
            Ok(rules)
        };
        let before = count().await?;
        let list = plan(vec![main_way().destination("203.0.113.0/24".parse()?)]);
        // Released with the block kept: everything is blocked, also what went around.
        let (tun, mut applier) = captured().await?;
        applier.apply(&list).await?;
        assert!(around(V4));
        applier.disengage(OnExit::Block).await?;
        assert!(lookup(None, V4).is_err());
        // The applier goes on where it was.
        applier.engage().await?;
        applier.apply(&list).await?;
        assert!(around(V4));
        // As after kill -9: what went around does so until the next start.
        tun.shutdown();
        drop((applier, tun));
        common::gone(&netlink, "vpn0").await?;
        assert!(around(V4) && lookup(None, V6).is_err());
        let (_tun, mut applier) = captured().await?;
        applier.apply(&plan(Vec::new())).await?;
        assert!(!around(V4));
        applier.apply(&list).await?;
        drop(applier);
        Applier::remove_leftovers(&CaptureConfig::default(), None).await?;
        assert_eq!(count().await?, before);
        Ok(())
    });
}

/// What comes out of the device for a machine behind this one goes there, not in again.
#[test]
fn answers_to_forwarded_traffic_get_where_they_belong() {
    in_namespace(|| async {
        let netlink = common::netlink();
        common::uplink(&netlink).await?;
        for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{path}"), "1")?;
        }
        let pair = rtnetlink::LinkVeth::new("lan0", "lan1").build();
        netlink.link().add(pair).execute().await?;
        for name in ["lan0", "lan1"] {
            common::link_up(&netlink, common::index(&netlink, name).await?).await?;
        }
        let lan = common::index(&netlink, "lan0").await?;
        for (net, behind) in [
            ("198.51.100.1/24", "198.51.100.9"),
            ("2001:db8:a::1/64", "2001:db8:a::9"),
        ] {
            let net: ipnet::IpNet = net.parse()?;
            common::add_address(&netlink, lan, net.addr(), net.prefix_len()).await?;
            let entry = netlink.neighbours().add(lan, behind.parse()?);
            entry
                .link_layer_address(&[2, 0, 0, 0, 0, 9])
                .execute()
                .await?;
        }
        let protocol = SocketProtocol::from(i32::from(3u16.to_be()));
        let frames = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        frames.set_nonblocking(true)?;
        let (tun, mut applier) = captured().await?;
        applier.apply(&plan(Vec::new())).await?;
        let remote: [IpAddr; 2] = [site(true), site(false)];
        let behind: [IpAddr; 2] = ["198.51.100.9".parse()?, "2001:db8:a::9".parse()?];
        for (from, to) in remote.into_iter().zip(behind) {
            let answer = build::udp((from, 80), (to, 4000), b"an answer");
            let start = std::time::Instant::now();
            let mut arrived = false;
            while !arrived {
                let mut batch = PacketBatch::new(1, 2000);
                batch.push(Packet::from_slice(&answer)).unwrap();
                tun.try_send(&mut batch, &mut DropCounters::default())?;
                let mut frame = [0; 2048];
                while let Ok(length) = std::io::Read::read(&mut &frames, &mut frame) {
                    // On Ethernet, with one hop less.
                    let hops = if to.is_ipv4() { 22 } else { 21 };
                    let text = frame[..length].windows(9).any(|w| w == b"an answer");
                    arrived |= text && frame[hops] == 63;
                }
                assert!(start.elapsed() < PATIENCE, "{to}");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        let mut batch = PacketBatch::new(64, 2000);
        tun.try_recv(&mut batch, &mut DropCounters::default())?;
        let again = |p: &Packet| p.bytes().windows(9).any(|w| w == b"an answer");
        assert!(!batch.packets().iter().any(again), "in again");
        Ok(())
    });
}
