//! The TUN device, in a namespace of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use common::{Result, in_namespace};
use tokio::net::UdpSocket;
use vpn_core::packet::{Packet, PacketBatch, checksum};
use vpn_core::{DropCounters, DropReason, InterfacePlan, Parsed, TunDevice};
use vpn_tun::{Applier, LinuxTun, TunConfig, TunError};

async fn device() -> Result<LinuxTun> {
    let tun = LinuxTun::create(TunConfig::named("vpn0".parse()?).mtu(1400))?;
    let mut applier = Applier::new(tun.name(), None)?;
    applier.engage().await?;
    let plan = InterfacePlan {
        addresses: ["10.5.0.2/16".parse()?].into(),
        ..InterfacePlan::default()
    };
    applier.apply(&plan).await?;
    Ok(tun)
}

/// A UDP datagram to 10.5.0.2:`port`, without a UDP checksum (RFC 768 allows that over IPv4).
fn datagram(port: u16, payload: &[u8]) -> Packet {
    let total = (28 + payload.len()) as u16;
    let mut bytes = vec![0x45, 0];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 5, 0, 9, 10, 5, 0, 2]);
    let sum = !checksum::fold(checksum::sum(&bytes, 0));
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(4000u16.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    Packet::from_slice(&bytes)
}

#[test]
fn what_an_app_sends_is_received() {
    in_namespace(|| async {
        let tun = device().await?;
        assert_eq!(tun.capabilities().mtu, 1400);
        let app = UdpSocket::bind("10.5.0.2:0").await?;
        for i in 0..5u8 {
            app.send_to(&[i; 20], "10.5.0.7:53").await?;
        }
        let mut drops = DropCounters::default();
        // Fuller than the batch: the rest comes with the next call.
        let mut batch = PacketBatch::new(3, 1400);
        let mut seen = Vec::new();
        while seen.len() < 5 {
            tun.readable().await?;
            tun.try_recv(&mut batch, &mut drops)?;
            assert!(batch.len() <= 3);
            for packet in batch.packets() {
                // IPv6 autoconfiguration talks too.
                if let Ok(parsed) = Parsed::from_bytes(packet.bytes())
                    && parsed.flow.dst_port() == 53
                {
                    seen.push(packet.bytes()[28]);
                }
            }
            batch.clear();
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        Ok(())
    });
}

// 002 §1, L-23, S-23.
#[test]
fn one_refused_packet_harms_no_other() {
    in_namespace(|| async {
        let tun = device().await?;
        let app = UdpSocket::bind("10.5.0.2:7000").await?;
        let mut batch = PacketBatch::new(8, 1400);
        batch.push(datagram(7000, b"one")).unwrap();
        batch.push(Packet::from_slice(&[0x15; 40])).unwrap(); // IP version 1: EINVAL
        batch.push(Packet::from_slice(&[])).unwrap();
        batch.push(datagram(7000, b"two")).unwrap();
        let mut drops = DropCounters::default();
        tun.writable().await?;
        assert_eq!(tun.try_send(&mut batch, &mut drops)?, 2);
        assert!(batch.is_empty());
        assert_eq!(drops.get(DropReason::Refused), 2);
        let mut buf = [0; 100];
        for expected in [b"one", b"two"] {
            let length = app.recv(&mut buf).await?;
            assert_eq!(&buf[..length], expected);
        }
        Ok(())
    });
}

#[test]
fn closing_wakes_a_pending_read_and_removes_the_interface() {
    in_namespace(|| async {
        let tun = Arc::new(device().await?);
        let mut batch = PacketBatch::new(8, 1400);
        let mut drops = DropCounters::default();
        let waiting = tokio::spawn({
            let tun = tun.clone();
            async move {
                let mut batch = PacketBatch::new(8, 1400);
                let mut drops = DropCounters::default();
                loop {
                    if let Err(error) = tun.readable().await {
                        return error;
                    }
                    let _ = tun.try_recv(&mut batch, &mut drops);
                    batch.clear();
                }
            }
        });
        tokio::task::yield_now().await;
        tun.shutdown();
        tun.shutdown();
        let error = tokio::time::timeout(Duration::from_secs(10), waiting).await??;
        assert_eq!(error.to_string(), "the device is closed");
        assert!(tun.try_recv(&mut batch, &mut drops).is_err());
        assert!(tun.try_send(&mut batch, &mut drops).is_err());
        assert!(tun.writable().await.is_err());
        common::gone(&common::netlink(), "vpn0").await?;
        Ok(())
    });
}

#[test]
fn names() {
    in_namespace(|| async {
        let first = LinuxTun::create(TunConfig::named("vpn0".parse()?))?;
        let again = LinuxTun::create(TunConfig::named("vpn0".parse()?)).unwrap_err();
        assert!(matches!(&again, TunError::NameInUse(name) if name.as_str() == "vpn0"));
        let lo = LinuxTun::create(TunConfig::named("lo".parse()?)).unwrap_err();
        assert!(matches!(lo, TunError::NameInUse(_)));
        let automatic = LinuxTun::create(TunConfig::default())?;
        assert!(automatic.name().as_str().starts_with("tun"));
        assert_ne!(first.index(), automatic.index());
        Ok(())
    });
}

#[test]
fn a_descriptor_from_somebody_else_works_as_our_own() {
    in_namespace(|| async {
        let opened = tun_rs::DeviceBuilder::new()
            .name("given0")
            .ipv4("10.5.0.2", 16, None)
            .mtu(1400)
            .build_sync()?;
        let fd = opened.as_fd().try_clone_to_owned()?;
        drop(opened);
        let tun = LinuxTun::from_fd(fd)?;
        assert_eq!(tun.name().as_str(), "given0");
        assert_eq!(
            tun.index(),
            common::index(&common::netlink(), "given0").await?
        );
        assert_eq!(tun.capabilities().mtu, 1400);
        let app = UdpSocket::bind("10.5.0.2:7000").await?;
        let mut batch = PacketBatch::new(8, 1400);
        batch.push(datagram(7000, b"in")).unwrap();
        let mut drops = DropCounters::default();
        tun.writable().await?;
        assert_eq!(tun.try_send(&mut batch, &mut drops)?, 1);
        let mut buf = [0; 100];
        assert_eq!(app.recv(&mut buf).await?, 2);
        app.send_to(b"out", "10.5.0.9:53").await?;
        let seen = async {
            loop {
                tun.readable().await?;
                tun.try_recv(&mut batch, &mut drops)?;
                if batch.packets().iter().any(|p| p.bytes().ends_with(b"out")) {
                    return Result::Ok(());
                }
                batch.clear();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), seen).await??;
        tun.shutdown();
        common::gone(&common::netlink(), "given0").await?;
        Ok(())
    });
}

#[test]
fn a_descriptor_that_is_no_tun_is_refused() {
    in_namespace(|| async {
        let file = std::fs::File::open("/dev/null")?;
        let error = LinuxTun::from_fd(file.into()).unwrap_err();
        assert!(matches!(error, TunError::NotTun(_)), "{error}");
        Ok(())
    });
}
