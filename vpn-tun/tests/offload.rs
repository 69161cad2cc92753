//! A device with offload, in a namespace of its own: super-packets pass whole, and it can be
//! switched off while it runs.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::os::fd::AsRawFd;
use std::time::Duration;

use common::{Result, in_namespace};
use tokio::net::UdpSocket;
use vpn_core::packet::{Gso, Packet, PacketBatch, segment};
use vpn_core::{DropCounters, Parsed, TunDevice};
use vpn_tun::{LinuxTun, TunConfig};

const LIMIT: Duration = Duration::from_secs(10);

async fn device(offload: bool) -> Result<LinuxTun> {
    let config = TunConfig::named("vpn0".parse()?).mtu(1400).offload(offload);
    let tun = LinuxTun::create(config)?;
    let handle = common::netlink();
    for (address, prefix) in [("10.5.0.2", 16), ("fd05::2", 64)] {
        common::add_address(&handle, tun.index(), address.parse()?, prefix).await?;
    }
    common::link_up(&handle, tun.index()).await?;
    Ok(tun)
}

/// Has the kernel make a super-packet: datagrams of 1,000 bytes in one call.
fn send_segmented(app: &UdpSocket, payload: &[u8]) -> Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let parts = [std::io::IoSlice::new(payload)];
    let size = [ControlMessage::UdpGsoSegments(&1000)];
    let sent = sendmsg::<()>(app.as_raw_fd(), &parts, &size, MsgFlags::empty(), None)?;
    assert_eq!(sent, payload.len());
    Ok(())
}

/// The next packets to port 53, until as many bytes of payload are there.
async fn receive(tun: &LinuxTun, bytes: usize) -> Result<Vec<Packet>> {
    let mut batch = PacketBatch::new(64, tun.capabilities().max_packet as usize);
    let mut drops = DropCounters::default();
    let (mut seen, mut length) = (Vec::new(), 0);
    let all = async {
        while length < bytes {
            tun.readable().await?;
            tun.try_recv(&mut batch, &mut drops)?;
            for packet in batch.drain() {
                let parsed = Parsed::from_bytes(packet.bytes());
                if let Ok(parsed) = parsed
                    && parsed.flow.dst_port() == 53
                {
                    length += packet.len() - usize::from(parsed.payload);
                    seen.push(packet);
                }
            }
        }
        Result::Ok(())
    };
    tokio::time::timeout(LIMIT, all).await??;
    Ok(seen)
}

#[test]
fn what_applications_send_at_once_comes_at_once_until_it_is_switched_off() {
    in_namespace(|| async {
        let tun = device(true).await?;
        assert!(tun.has_offload() && tun.capabilities().offload);
        for (own, far) in [
            ("10.5.0.2:0", "10.5.0.7:53"),
            ("[fd05::2]:0", "[fd05::7]:53"),
        ] {
            let app = UdpSocket::bind(own).await?;
            app.connect(far).await?;
            let payload: Vec<u8> = (0..40_500u32).map(|n| (n % 251) as u8).collect();
            tun.set_offload(true)?;
            send_segmented(&app, &payload)?;
            let seen = receive(&tun, payload.len()).await?;
            assert_eq!(seen.len(), 1, "{far}");
            assert_eq!(seen[0].offload.gso, Some(Gso { size: 1000 }));
            let at = usize::from(seen[0].parse()?.payload);
            assert_eq!(&seen[0].bytes()[at..], &payload[..]);

            tun.set_offload(false)?;
            send_segmented(&app, &payload)?;
            let plain = receive(&tun, payload.len()).await?;
            assert_eq!(plain.len(), 41, "{far}");
            assert!(plain.iter().all(|packet| packet.offload.gso.is_none()));
            let mut joined = Vec::new();
            for packet in &plain {
                joined.extend_from_slice(&packet.bytes()[usize::from(packet.parse()?.payload)..]);
            }
            assert_eq!(joined, payload);
        }
        Ok(())
    });
}

/// What one device yields whole can be written whole to another one, and cut to one without.
#[test]
fn a_super_packet_is_delivered_by_devices_with_and_without_offload() {
    in_namespace(|| async {
        for offload in [true, false] {
            let tun = device(offload).await?;
            assert_eq!(tun.has_offload(), offload);
            assert!(offload || tun.set_offload(true).is_err());
            let app = UdpSocket::bind("10.5.0.2:7000").await?;
            let payload = vec![7; 10_300];
            let packet = super_packet(&payload);
            assert_eq!(
                segment::Segments::new(&packet)?.count(),
                11,
                "as it should be"
            );
            let mut batch = PacketBatch::new(1, 65_535);
            batch.push(packet).unwrap();
            let mut drops = DropCounters::default();
            tun.writable().await?;
            assert_eq!(tun.try_send(&mut batch, &mut drops)?, 1);
            let mut joined = Vec::new();
            let mut buffer = [0; 2000];
            while joined.len() < payload.len() {
                let length = tokio::time::timeout(LIMIT, app.recv(&mut buffer)).await??;
                joined.extend_from_slice(&buffer[..length]);
            }
            assert_eq!(joined, payload);
        }
        Ok(())
    });
}

/// From 10.5.0.9:4000 to 10.5.0.2:7000, segments of 1,000 bytes.
fn super_packet(payload: &[u8]) -> Packet {
    use vpn_core::packet::checksum::{fold, pseudo_header, sum};
    let length = 8 + payload.len();
    let mut bytes = vec![0x45, 0];
    bytes.extend((20 + length as u16).to_be_bytes());
    bytes.extend([0, 1, 0x40, 0, 64, 17, 0, 0, 10, 5, 0, 9, 10, 5, 0, 2]);
    let checksum = !fold(sum(&bytes, 0));
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes.extend(4000u16.to_be_bytes());
    bytes.extend(7000u16.to_be_bytes());
    bytes.extend((length as u16).to_be_bytes());
    let (src, dst) = ([10, 5, 0, 9].into(), [10, 5, 0, 2].into());
    bytes.extend(fold(pseudo_header(src, dst, 17, length)).to_be_bytes());
    bytes.extend(payload);
    Packet::from_slice(&bytes).with_offload(vpn_core::Offload {
        gso: Some(Gso { size: 1000 }),
        partial_checksum: true,
    })
}
