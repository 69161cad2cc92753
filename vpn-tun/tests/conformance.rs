//! The TUN device keeps the contract of a device, in a namespace of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::time::Duration;

use async_trait::async_trait;
use common::in_namespace;
use tokio::net::UdpSocket;
use vpn_core::testing::build;
use vpn_core::testing::conformance::{DeviceFixture, FarEnd, tun_device};
use vpn_core::{Packet, TunDevice};
use vpn_tun::{LinuxTun, TunConfig};

/// A device with an address, and an application at it.
struct Fixture {
    tun: LinuxTun,
    app: UdpSocket,
}

impl Fixture {
    async fn new(offload: bool) -> Self {
        let config = TunConfig::named("vpn0".parse().unwrap()).mtu(1400);
        let tun = LinuxTun::create(config.offload(offload)).unwrap();
        let handle = common::netlink();
        let ours = "10.5.0.2".parse().unwrap();
        let address = handle.address().add(tun.index(), ours, 16);
        address.execute().await.unwrap();
        common::link_up(&handle, tun.index()).await.unwrap();
        let app = UdpSocket::bind("10.5.0.2:7000").await.unwrap();
        Self { tun, app }
    }
}

#[async_trait]
impl FarEnd for Fixture {
    async fn send(&self, number: u16) {
        let sent = self.app.send_to(&number.to_be_bytes(), "10.5.0.7:53").await;
        assert_eq!(sent.unwrap(), 2);
    }

    async fn receive(&self) -> u16 {
        let mut number = [0; 2];
        assert_eq!(self.app.recv(&mut number).await.unwrap(), 2);
        u16::from_be_bytes(number)
    }

    fn packet(&self, number: u16) -> Packet {
        let payload = number.to_be_bytes();
        Packet::from_slice(&build::udp("10.5.0.7:53", "10.5.0.2:7000", &payload))
    }

    /// IP version 1, which the kernel refuses.
    fn refused(&self, _: usize) -> Option<Packet> {
        Some(Packet::from_slice(&[0x15; 40]))
    }

    /// The kernel drops what its applications do not take.
    fn fills_up(&self) -> bool {
        false
    }

    async fn patience(&self) {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

impl DeviceFixture for Fixture {
    fn device(&self) -> &dyn TunDevice {
        &self.tun
    }
}

#[test]
fn the_device_of_the_kernel_conforms() {
    in_namespace(|| async {
        tun_device(async || Fixture::new(false).await).await?;
        tun_device(async || Fixture::new(true).await).await?;
        Ok(())
    });
}
