//! The capture, in a namespace of its own: what it installs, and what happens without the device.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use common::{in_namespace, lookup};
use rtnetlink::IpVersion;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::packet_route::rule::RuleAttribute;
use vpn_core::{InterfacePlan, TunDevice};
use vpn_tun::apply::{DEFAULT_MARK, DEFAULT_TABLE};
use vpn_tun::{Applier, ApplyError, CaptureConfig, Journal, LinuxTun, OnExit, TunConfig};

const RP_FILTER: &str = "/proc/sys/net/ipv4/conf/all/rp_filter";
const V4: &str = "203.0.113.10:80";
const V6: &str = "[2001:db8:ffff::10]:80";

fn tun() -> LinuxTun {
    LinuxTun::create(TunConfig::named("vpn0".parse().unwrap())).unwrap()
}

fn applier(tun: &LinuxTun) -> Applier {
    Applier::new(tun.name(), Some(CaptureConfig::default())).unwrap()
}

fn plan() -> InterfacePlan {
    InterfacePlan {
        addresses: ["10.5.0.2/16", "fd00:5::2/64"]
            .map(|a| a.parse().unwrap())
            .into(),
        routes: ["0.0.0.0/0", "198.51.100.7/24"]
            .map(|a| a.parse().unwrap())
            .into(),
        dns: BTreeSet::from(["10.99.0.53".parse().unwrap()]),
        mtu: 1380,
        ..InterfacePlan::default()
    }
}

fn blocked(mark: Option<u32>, to: &str) {
    let error = lookup(mark, to).unwrap_err();
    let code = error.raw_os_error();
    assert!(
        matches!(code, Some(libc::EINVAL | libc::ENETUNREACH | libc::EACCES)),
        "{to}: {error}"
    );
}

#[test]
fn what_is_installed_and_undone() {
    in_namespace(|| async {
        let netlink = common::netlink();
        common::uplink(&netlink).await?;
        let direct: IpAddr = "192.0.2.2".parse()?;
        assert_eq!(lookup(None, V4)?, direct);
        let tun = tun();
        let mut applier = applier(&tun);
        applier.engage().await?;
        applier.apply(&plan()).await?;
        for (family, version) in [
            (AddressFamily::Inet, IpVersion::V4),
            (AddressFamily::Inet6, IpVersion::V6),
        ] {
            let routes = common::routes(&netlink, family, DEFAULT_TABLE).await?;
            let defaults: Vec<_> = routes.iter().filter(|r| r.3 == 0).collect();
            assert_eq!(defaults.len(), 2, "{defaults:?}");
            assert_eq!(defaults[0].2, Some(tun.index()));
            assert_eq!(defaults[1].0, RouteType::BlackHole);
            assert!(defaults[0].1 < defaults[1].1);
            let rules = common::rules(&netlink, version).await?;
            assert_eq!(rules.len(), 2);
            assert!(common::rule_has(
                &rules[0],
                RuleAttribute::FwMark(DEFAULT_MARK)
            ));
        }
        // Resolver and routed prefix beside the two defaults.
        let v4 = common::routes(&netlink, AddressFamily::Inet, DEFAULT_TABLE).await?;
        assert_eq!(
            v4.iter().map(|r| r.3).filter(|l| *l > 0).count(),
            2,
            "{v4:?}"
        );
        let main = common::routes(&netlink, AddressFamily::Inet, 254).await?;
        assert!(main.iter().all(|r| r.2 != Some(tun.index())), "{main:?}");
        // Apps get the device's addresses, marked sockets the uplink's; loopback works.
        assert_eq!(lookup(None, V4)?, "10.5.0.2".parse::<IpAddr>()?);
        assert_eq!(lookup(None, V6)?, "fd00:5::2".parse::<IpAddr>()?);
        assert_eq!(lookup(Some(DEFAULT_MARK), V4)?, direct);
        assert_eq!(lookup(Some(DEFAULT_MARK), "10.5.0.9:80")?, direct);
        assert_eq!(
            lookup(None, "127.0.0.1:80")?,
            "127.0.0.1".parse::<IpAddr>()?
        );
        applier.disengage(OnExit::Open).await?;
        applier.disengage(OnExit::Open).await?;
        assert_eq!(lookup(None, V4)?, direct);
        assert!(common::rules(&netlink, IpVersion::V4).await?.is_empty());
        assert!(common::rules(&netlink, IpVersion::V6).await?.is_empty());
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            assert!(
                common::routes(&netlink, family, DEFAULT_TABLE)
                    .await?
                    .is_empty()
            );
        }
        assert!(common::addresses(&netlink, tun.index()).await?.is_empty());
        Ok(())
    });
}

#[test]
fn without_the_device_nothing_goes_direct_and_the_next_start_takes_over() {
    in_namespace(|| async {
        let netlink = common::netlink();
        common::uplink(&netlink).await?;
        let device = tun();
        let mut first = applier(&device);
        first.engage().await?;
        first.apply(&plan()).await?;
        // As after kill -9: the descriptor closes and nobody undoes anything.
        device.shutdown();
        drop((first, device));
        for to in [V4, V6] {
            blocked(None, to);
        }
        lookup(Some(DEFAULT_MARK), V4)?;
        lookup(Some(DEFAULT_MARK), V6)?;
        // The next start, even with another mark, leaves no rule of the first.
        let device = tun();
        let other = CaptureConfig::default().mark(7);
        let mut second = Applier::new(device.name(), Some(other.clone()))?;
        second.engage().await?;
        second.apply(&plan()).await?;
        assert_eq!(lookup(None, V4)?, "10.5.0.2".parse::<IpAddr>()?);
        assert_eq!(lookup(Some(7), V4)?, "192.0.2.2".parse::<IpAddr>()?);
        assert_eq!(common::rules(&netlink, IpVersion::V4).await?.len(), 2);
        // Stopping with the block kept: device alive, nothing direct.
        second.disengage(OnExit::Block).await?;
        blocked(None, V4);
        blocked(None, V6);
        Applier::remove_leftovers(&other, None).await?;
        assert_eq!(lookup(None, V4)?, "192.0.2.2".parse::<IpAddr>()?);
        assert_eq!(lookup(None, V6)?, "2001:db8::2".parse::<IpAddr>()?);
        Ok(())
    });
}

#[test]
fn what_both_plans_have_is_not_touched() {
    in_namespace(|| async {
        let netlink = common::netlink();
        let device = tun();
        let mut applier = applier(&device);
        applier.engage().await?;
        applier.apply(&plan()).await?;
        let before = common::addresses(&netlink, device.index()).await?;
        assert_eq!(before.len(), 2);
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        let mut next = plan();
        next.addresses.insert("10.6.0.2/24".parse()?);
        next.routes.clear();
        next.mtu = 1300;
        applier.apply(&next).await?;
        let after = common::addresses(&netlink, device.index()).await?;
        assert_eq!(after.len(), 3);
        // The time stamp of a change stays.
        assert!(
            before.iter().all(|a| after.contains(a)),
            "{before:?} {after:?}"
        );
        let v4 = common::routes(&netlink, AddressFamily::Inet, DEFAULT_TABLE).await?;
        assert_eq!(v4.iter().filter(|r| r.3 > 0).count(), 1);
        next.addresses.remove(&"10.5.0.2/16".parse()?);
        applier.apply(&next).await?;
        assert_eq!(lookup(None, V4)?, "10.6.0.2".parse::<IpAddr>()?);
        Ok(())
    });
}

#[test]
fn a_failed_plan_brings_the_former_one_back() {
    in_namespace(|| async {
        let netlink = common::netlink();
        let device = tun();
        let mut applier = applier(&device);
        applier.engage().await?;
        applier.apply(&plan()).await?;
        let before = common::addresses(&netlink, device.index()).await?;
        let mut bad = plan();
        bad.addresses.insert("10.7.0.2/24".parse()?);
        bad.addresses.insert("ff02::1/64".parse()?);
        let error = applier.apply(&bad).await.unwrap_err();
        assert!(error.to_string().contains("ff02::1/64"), "{error}");
        assert_eq!(common::addresses(&netlink, device.index()).await?, before);
        applier.apply(&plan()).await?;
        Ok(())
    });
}

#[test]
fn strict_reverse_path_filtering_is_loosened_and_restored_also_after_a_crash() {
    in_namespace(|| async {
        let dir = tempfile::tempdir()?;
        let journal = Journal::open(dir.path().join("journal"))?;
        fs::write(RP_FILTER, "1")?;
        let device = tun();
        let mut killed = applier(&device).with_journal(journal.clone());
        killed.engage().await?;
        assert_eq!(fs::read_to_string(RP_FILTER)?.trim(), "2");
        device.shutdown();
        drop((killed, device));
        let device = tun();
        let journal = Journal::open(dir.path().join("journal"))?;
        let mut next = applier(&device).with_journal(journal.clone());
        next.engage().await?;
        next.disengage(OnExit::Open).await?;
        assert_eq!(fs::read_to_string(RP_FILTER)?.trim(), "1");
        assert!(journal.is_empty());
        // And by recovery alone.
        next.engage().await?;
        drop(next);
        let journal = Journal::open(dir.path().join("journal"))?;
        Applier::remove_leftovers(&CaptureConfig::default(), Some(&journal)).await?;
        assert_eq!(fs::read_to_string(RP_FILTER)?.trim(), "1");
        Ok(())
    });
}

// R19: an app that binds to the uplink. IPv4 takes the destination for a neighbour when the lookup
// fails, which only a packet filter stops: the manual says so.
#[test]
fn binding_to_the_uplink_does_not_go_around_by_ipv6() {
    in_namespace(|| async {
        let netlink = common::netlink();
        common::uplink(&netlink).await?;
        let bound = |to: &str| {
            let to: std::net::SocketAddr = to.parse().unwrap();
            let socket = std::net::UdpSocket::bind("[::]:0")?;
            socket2::SockRef::from(&socket).bind_device(Some(b"up0"))?;
            socket.connect(to)
        };
        bound(V6)?;
        let device = tun();
        let mut applier = applier(&device);
        applier.engage().await?;
        applier.apply(&plan()).await?;
        bound(V6).unwrap_err();
        Ok(())
    });
}

#[test]
fn a_table_of_somebody_else_is_not_taken() {
    in_namespace(|| async {
        let netlink = common::netlink();
        let up = common::uplink(&netlink).await?;
        let foreign = rtnetlink::RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .table_id(DEFAULT_TABLE)
            .output_interface(up)
            .build();
        netlink.route().add(foreign).execute().await?;
        let device = tun();
        let error = applier(&device).engage().await.unwrap_err();
        assert!(matches!(error, ApplyError::TableInUse { table } if table == DEFAULT_TABLE));
        assert_eq!(lookup(None, V4)?, "192.0.2.2".parse::<IpAddr>()?);
        Ok(())
    });
}

/// The kernel drops a device's routes with its last address. Without a way to the far ends of tunnels,
/// reverse-path filtering would take their answers, and no tunnel could come back.
#[test]
fn a_device_without_an_address_is_still_what_the_capture_leads_to() {
    in_namespace(|| async {
        let netlink = common::netlink();
        common::uplink(&netlink).await?;
        let tun = tun();
        let mut applier = applier(&tun);
        applier.engage().await?;
        let index = common::index(&netlink, "vpn0").await?;
        let none = InterfacePlan {
            addresses: BTreeSet::new(),
            ..plan()
        };
        for plan in [plan(), none.clone(), plan(), none] {
            applier.apply(&plan).await?;
            assert!(applier.look().await?.is_empty(), "{plan:?}");
            let v4 = AddressFamily::Inet;
            let routes = common::routes(&netlink, v4, DEFAULT_TABLE).await?;
            let mut leading: Vec<u8> = (routes.iter())
                .filter(|(kind, _, device, _)| {
                    *kind == RouteType::Unicast && *device == Some(index)
                })
                .map(|route| route.3)
                .collect();
            leading.sort_unstable();
            assert_eq!(leading, [0, 24, 32], "{plan:?}");
        }
        applier.disengage(OnExit::Open).await?;
        let left = common::routes(&netlink, AddressFamily::Inet, DEFAULT_TABLE).await?;
        assert!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn without_ipv6_on_the_device_ipv6_is_blocked() {
    in_namespace(|| async {
        let netlink = common::netlink();
        common::uplink(&netlink).await?;
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
        let device = tun();
        let mut applier = applier(&device);
        applier.engage().await?;
        blocked(None, V6);
        lookup(Some(DEFAULT_MARK), V6)?;
        Ok(())
    });
}

#[test]
fn ipv6_switched_off_everywhere_is_no_obstacle_and_blocked_when_it_comes_back() {
    in_namespace(|| async {
        let all = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
        fs::write(all, "1")?;
        let netlink = common::netlink();
        let device = tun();
        let mut applier = applier(&device);
        applier.engage().await?;
        applier.apply(&plan()).await?;
        assert_eq!(lookup(None, V4)?, "10.5.0.2".parse::<IpAddr>()?);
        device.shutdown();
        fs::write(all, "0")?;
        common::uplink(&netlink).await?;
        blocked(None, V6);
        blocked(None, V4);
        Ok(())
    });
}

#[test]
fn no_such_interface_and_no_capture() {
    in_namespace(|| async {
        let missing = Applier::new(&"nope0".parse()?, None).unwrap_err();
        assert!(matches!(missing, ApplyError::NoInterface(_)));
        let netlink = common::netlink();
        let device = tun();
        let mut applier = Applier::new(device.name(), None)?;
        applier.engage().await?;
        applier.apply(&plan()).await?;
        assert!(common::rules(&netlink, IpVersion::V4).await?.is_empty());
        assert_eq!(lookup(None, V4)?, "10.5.0.2".parse::<IpAddr>()?);
        Ok(())
    });
}

/// A plan event for each of fifty secondary tunnels: the kernel hears of none of them.
#[test]
fn the_same_plan_again_is_no_change() {
    use futures_util::StreamExt;
    use rtnetlink::MulticastGroup;
    in_namespace(|| async {
        let device = tun();
        let mut applier = applier(&device);
        applier.engage().await?;
        applier.apply(&plan()).await?;
        let (connection, _, mut events) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
        ])?;
        tokio::spawn(connection);
        const PLANS: usize = 50;
        for _ in 0..PLANS {
            applier.apply(&plan()).await?;
        }
        // Something the kernel does tell of: what comes before it came of the plans.
        let mut changed = plan();
        changed.mtu = 1379;
        applier.apply(&changed).await?;
        let mut heard = 0;
        let of_the_link = |text: &str| text.contains("Mtu(1379)");
        while let Some((message, _)) = events.next().await {
            if of_the_link(&format!("{message:?}")) {
                break;
            }
            heard += 1;
        }
        // One that changed something would be heard each time. The kernel may still tell of the
        // first plan: a link comes up when it does.
        assert!(heard < PLANS, "{heard}");
        Ok(())
    });
}
