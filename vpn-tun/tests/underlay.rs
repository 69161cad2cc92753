//! Underlay sockets: endpoint names over DNS, and strict reverse-path filtering with real packets.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::mpsc;
use std::time::Duration;

use common::in_namespace;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, Packet, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::net::UdpSocket;
use vpn_core::{InterfacePlan, Underlay, UnderlayError};
use vpn_tun::apply::DEFAULT_MARK;
use vpn_tun::{Applier, CaptureConfig, LinuxTun, MarkedUnderlay, OnExit, TunConfig};

/// A resolver that knows `vpn.test`; before each answer it sends a forged one with another id.
async fn resolver(socket: UdpSocket) {
    let mut buf = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buf).await {
        let mut packet = Packet::parse(&buf[..length]).unwrap().into_reply();
        let question = packet.questions[0].clone();
        if question.qname.to_string() != "vpn.test" {
            *packet.rcode_mut() = RCODE::NameError;
        } else if question.qtype == QTYPE::TYPE(TYPE::A) {
            let id = packet.id();
            let record = |address: [u8; 4]| {
                let address = Ipv4Addr::from(address).into();
                ResourceRecord::new(
                    question.qname.clone(),
                    CLASS::IN,
                    1,
                    RData::A(A { address }),
                )
            };
            packet.set_id(id.wrapping_add(1));
            packet.answers.push(record([6, 6, 6, 6]));
            socket
                .send_to(&packet.build_bytes_vec().unwrap(), from)
                .await
                .unwrap();
            packet.set_id(id);
            packet.answers = vec![record([127, 0, 0, 9])];
        } else {
            let address = Ipv6Addr::LOCALHOST.into();
            let data = RData::AAAA(AAAA { address });
            packet
                .answers
                .push(ResourceRecord::new(question.qname, CLASS::IN, 1, data));
        }
        socket
            .send_to(&packet.build_bytes_vec().unwrap(), from)
            .await
            .unwrap();
    }
}

#[test]
fn endpoint_names_are_asked_over_marked_sockets() {
    in_namespace(|| async {
        common::link_up(&common::netlink(), 1).await?;
        tokio::spawn(resolver(UdpSocket::bind("127.0.0.1:53").await?));
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("resolv.conf");
        // The first resolver isn't there.
        fs::write(&path, "nameserver 127.0.0.2\nnameserver 127.0.0.1\n")?;
        let underlay = MarkedUnderlay::new(DEFAULT_MARK)
            .resolv_conf(&path)
            .own_resolvers(vec!["10.99.0.53".parse()?])
            .hosts(dir.path());
        // Written over later, as the daemon itself does.
        fs::write(&path, "nameserver 10.99.0.53\n")?;
        let found = underlay.resolve("vpn.test", 51820).await?;
        let expected: [SocketAddr; 2] = ["[::1]:51820".parse()?, "127.0.0.9:51820".parse()?];
        assert_eq!(found, expected);
        let error = underlay.resolve("other.test", 1).await.unwrap_err();
        assert!(matches!(&error, UnderlayError::Resolve { name, .. } if name == "other.test"));
        assert!(error.to_string().contains("does not exist"), "{error}");
        // Who knows what is written by us can follow another network, and only that.
        fs::write(&path, "nameserver 127.0.0.2\n")?;
        let follows = MarkedUnderlay::new(DEFAULT_MARK)
            .own_resolvers(vec!["10.99.0.53".parse()?])
            .resolv_conf(&path)
            .hosts(dir.path());
        fs::write(&path, "nameserver 127.0.0.1\n")?;
        assert_eq!(follows.resolve("vpn.test", 51820).await?, expected);
        fs::write(&path, "nameserver 127.0.0.1\nnameserver 10.99.0.53\n")?;
        assert!(!follows.reread());
        assert_eq!(follows.servers(), ["127.0.0.1".parse::<IpAddr>()?]);
        let literal = underlay.resolve("[2001:db8::1]", 7).await?;
        assert_eq!(literal, ["[2001:db8::1]:7".parse::<SocketAddr>()?]);
        assert_eq!(underlay.mtu_to("127.0.0.1:9".parse()?), Some(u16::MAX));
        assert_eq!(underlay.mtu_to("203.0.113.1:9".parse()?), None);
        Ok(())
    });
}

/// N-24: what the kernel knows of the way, also while it changes and while unmarked packets go
/// elsewhere.
#[test]
fn the_mtu_to_an_endpoint_is_that_of_the_marked_route() {
    in_namespace(|| async {
        let netlink = common::netlink();
        let up = common::uplink(&netlink).await?;
        let tun = LinuxTun::create(TunConfig::default())?;
        let mut applier = Applier::new(tun.name(), Some(CaptureConfig::default()))?;
        applier.engage().await?;
        let plan = InterfacePlan {
            addresses: ["10.5.0.2/16".parse()?, "fd00:5::2/64".parse()?].into(),
            mtu: 1290,
            ..InterfacePlan::default()
        };
        applier.apply(&plan).await?;
        let underlay = MarkedUnderlay::new(DEFAULT_MARK);
        let ends = ["203.0.113.10:9", "[2001:db8:ffff::10]:9"];
        for mtu in [1500u32, 1380, 1420] {
            let link = LinkMessageBuilder::<LinkUnspec>::new()
                .index(up)
                .mtu(mtu)
                .build();
            netlink.link().change(link).execute().await?;
            for end in ends {
                assert_eq!(underlay.mtu_to(end.parse()?), Some(mtu as u16), "{end}");
            }
        }
        // Without the mark, it is the device's.
        assert_eq!(MarkedUnderlay::new(0).mtu_to(ends[0].parse()?), Some(1290));
        // A route of its own, narrower than the link.
        let status = std::process::Command::new("ip")
            .args([
                "route",
                "add",
                "203.0.113.10/32",
                "dev",
                "up0",
                "mtu",
                "1300",
            ])
            .status()?;
        assert!(status.success());
        assert_eq!(underlay.mtu_to(ends[0].parse()?), Some(1300));
        Ok(())
    });
}

#[test]
fn a_refusing_protect_hook_means_no_socket() {
    let hook = std::sync::Arc::new(|_: std::os::fd::BorrowedFd<'_>| {
        Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied))
    });
    let underlay = MarkedUnderlay::new(0).protect(hook);
    let error = underlay.udp("127.0.0.1:0".parse().unwrap()).unwrap_err();
    assert!(matches!(error, UnderlayError::Socket { .. }));
}

/// A connection that is made with it is one the capture leaves alone.
#[tokio::test]
async fn a_tcp_socket_is_exempt_and_not_connected() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = seen.clone();
    let underlay = MarkedUnderlay::new(0).protect(std::sync::Arc::new(move |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }));
    let socket = underlay.tcp(to).unwrap();
    assert_eq!(seen.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert!(socket.peer_addr().is_err(), "not connected yet");
    let socket = tokio::net::TcpSocket::from_std_stream(socket);
    let (near, far) = tokio::join!(socket.connect(to), listener.accept());
    assert_eq!(near.unwrap().local_addr().unwrap(), far.unwrap().1);
    let refusing = MarkedUnderlay::new(0).protect(std::sync::Arc::new(|_| {
        Err(std::io::ErrorKind::PermissionDenied.into())
    }));
    assert!(matches!(
        refusing.tcp(to),
        Err(UnderlayError::Socket { .. })
    ));
}

/// A UDP echo server at 192.0.2.1 in a namespace of its own; takes the peer end of the uplink.
fn echo_server(ready: mpsc::Sender<u32>, end_moved: tokio::sync::oneshot::Receiver<()>) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ready.send(nix::unistd::gettid().as_raw() as u32).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        end_moved.await.unwrap();
        let netlink = common::netlink();
        let index = common::index(&netlink, "up1").await.unwrap();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        netlink
            .address()
            .add(index, address, 24)
            .execute()
            .await
            .unwrap();
        common::link_up(&netlink, index).await.unwrap();
        let socket = UdpSocket::bind("192.0.2.1:7").await.unwrap();
        let mut buf = [0; 100];
        // Ends when the test's runtime is gone: nobody sends for a while.
        while let Ok(Ok((length, from))) =
            tokio::time::timeout(Duration::from_secs(5), socket.recv_from(&mut buf)).await
        {
            socket.send_to(&buf[..length], from).await.unwrap();
        }
    });
}

#[test]
fn answers_to_marked_sockets_pass_strict_reverse_path_filtering() {
    in_namespace(|| async {
        let (ready, thread) = mpsc::channel();
        let (moved, end_moved) = tokio::sync::oneshot::channel();
        std::thread::spawn(|| echo_server(ready, end_moved));
        let thread = thread.recv()?;
        for conf in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{conf}/rp_filter"), "1")?;
        }
        let netlink = common::netlink();
        netlink
            .link()
            .add(LinkVeth::new("up0", "up1").build())
            .execute()
            .await?;
        let index = common::index(&netlink, "up0").await?;
        netlink
            .address()
            .add(index, "192.0.2.2".parse()?, 24)
            .execute()
            .await?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .index(common::index(&netlink, "up1").await?)
            .setns_by_pid(thread)
            .build();
        netlink.link().change(peer).execute().await?;
        common::link_up(&netlink, index).await?;
        let default = RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(index)
            .build();
        netlink.route().add(default).execute().await?;
        moved.send(()).map_err(|()| "the server is gone")?;

        let tun = LinuxTun::create(TunConfig::default())?;
        let mut applier = Applier::new(tun.name(), Some(CaptureConfig::default()))?;
        applier.engage().await?;
        let plan = InterfacePlan {
            addresses: ["10.5.0.2/16".parse()?].into(),
            ..InterfacePlan::default()
        };
        applier.apply(&plan).await?;
        let underlay = MarkedUnderlay::new(DEFAULT_MARK);
        assert!(
            echoes(&underlay).await,
            "no answer through loosened filtering"
        );
        // The same with the setting put back: this is what the loosening is for.
        fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1")?;
        assert!(
            !echoes(&underlay).await,
            "strict filtering lets answers pass"
        );
        applier.disengage(OnExit::Open).await?;
        Ok(())
    });
}

/// Whether the server answers a marked socket within a few tries.
async fn echoes(underlay: &MarkedUnderlay) -> bool {
    let socket = UdpSocket::from_std(underlay.udp("0.0.0.0:0".parse().unwrap()).unwrap()).unwrap();
    let mut buf = [0; 100];
    for _ in 0..10 {
        let _ = socket.send_to(b"hello", "192.0.2.1:7").await;
        let answer = tokio::time::timeout(Duration::from_millis(200), socket.recv(&mut buf)).await;
        if matches!(answer, Ok(Ok(5))) {
            return true;
        }
    }
    false
}
