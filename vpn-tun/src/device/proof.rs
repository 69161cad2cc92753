//! Touches a network namespace of its own: proves that this kernel passes super-packets whole and
//! unchanged, before a device relies on it.
//!
//! Two devices with offload stand in a namespace that is made for this and goes with its thread. A
//! super-packet of each kind (TCP and UDP, both families) is written to the one; the kernel forwards
//! it to the other, where it has to come out whole, with the same segment size and the same
//! payload. What differs is what a router changes: the time to live.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;
use std::time::Duration;

use tun_rs::{AsyncDevice, DeviceBuilder};
use vpn_core::packet::checksum::{fold, pseudo_header, sum};
use vpn_core::packet::{Gso, Offload, Packet};

use super::sys;
use super::vnet::{self, HEADER};

/// How long one packet may take. The kernel takes microseconds.
const LIMIT: Duration = Duration::from_secs(1);

/// Payload of a segment, in bytes, and how many segments and a bit there are.
const SEGMENT: u16 = 1300;
const SEGMENTS: usize = 40;

/// Whether offload can be relied on. Tested once per process.
pub(super) fn offload_works() -> bool {
    static PROVEN: OnceLock<bool> = OnceLock::new();
    *PROVEN.get_or_init(|| {
        let tested = std::thread::Builder::new()
            .name("offload-test".into())
            .spawn(test)
            .map(std::thread::JoinHandle::join);
        let problem = match tested {
            Ok(Ok(Ok(()))) => return true,
            Ok(Ok(Err(Unproven::Untested(error)))) => {
                tracing::debug!(%error, "no network namespace to test offload in: the device runs without");
                return false;
            }
            Ok(Ok(Err(Unproven::Failed(problem)))) => problem,
            Ok(Err(_)) => "the test panicked".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(problem, "the device runs without offload");
        false
    })
}

/// Why offload is not relied on.
enum Unproven {
    /// That takes a privilege which a daemon does not need otherwise.
    Untested(io::Error),
    Failed(String),
}

impl From<String> for Unproven {
    fn from(problem: String) -> Self {
        Self::Failed(problem)
    }
}

/// The whole test, on a thread of its own.
fn test() -> Result<(), Unproven> {
    sys::leave_network().map_err(Unproven::Untested)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let from = device("from0", 1).map_err(|error| format!("no device: {error}"))?;
        let to = device("to0", 2).map_err(|error| format!("no device: {error}"))?;
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            let path = format!("/proc/sys/net/{switch}");
            std::fs::write(path, "1").map_err(|error| format!("no forwarding: {error}"))?;
        }
        for (kind, v6, udp) in [
            ("TCP over IPv4", false, false),
            ("TCP over IPv6", true, false),
            ("UDP over IPv4", false, true),
            ("UDP over IPv6", true, true),
        ] {
            let packet = super_packet(v6, udp);
            let passed = pass(&from, &to, &packet);
            match tokio::time::timeout(LIMIT, passed).await {
                Ok(Ok(())) => {}
                Ok(Err(problem)) => return Err(format!("{kind}: {problem}").into()),
                Err(_) => return Err(format!("{kind}: it does not come out whole").into()),
            }
        }
        Ok(())
    })
}

fn device(name: &str, net: u8) -> io::Result<AsyncDevice> {
    DeviceBuilder::new()
        .name(name)
        .mtu(1420)
        .offload(true)
        .ipv4(Ipv4Addr::new(10, 0, net, 1), 24, None)
        .ipv6(Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, 1), 64)
        .build_async()
}

/// A host on the network of a device.
fn address(v6: bool, net: u8, host: u8) -> IpAddr {
    match v6 {
        false => [10, 0, net, host].into(),
        true => [0xfd00, net.into(), 0, 0, 0, 0, 0, u16::from(host)].into(),
    }
}

/// A packet from behind the first device to behind the second.
fn super_packet(v6: bool, udp: bool) -> Packet {
    let (src, dst) = (address(v6, 1, 9), address(v6, 2, 9));
    let payload = (0..usize::from(SEGMENT) * SEGMENTS + 77).map(|n| (n * 7 % 251) as u8);
    let mut transport = Vec::new();
    transport.extend(4000u16.to_be_bytes());
    transport.extend(if udp { 443u16 } else { 80 }.to_be_bytes());
    let header = if udp { 8 } else { 20 };
    let length = header + payload.len();
    if udp {
        transport.extend((length as u16).to_be_bytes());
        transport.extend([0, 0]);
    } else {
        // Sequence 1, acknowledgment 1, ACK, a window.
        transport.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    }
    let protocol = if udp { 17 } else { 6 };
    let partial = fold(pseudo_header(src, dst, protocol, length));
    let at = if udp { 6 } else { 16 };
    transport[at..at + 2].copy_from_slice(&partial.to_be_bytes());
    let mut bytes = Vec::new();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            bytes.extend([0x45, 0]);
            bytes.extend((20 + length as u16).to_be_bytes());
            bytes.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            let checksum = !fold(sum(&bytes, 0));
            bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend((length as u16).to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
        }
        _ => {}
    }
    bytes.extend(transport);
    bytes.extend(payload);
    Packet::from_slice(&bytes).with_offload(Offload {
        gso: Some(Gso { size: SEGMENT }),
        partial_checksum: true,
    })
}

/// Writes a packet to one device and waits until it comes out of the other.
async fn pass(from: &AsyncDevice, to: &AsyncDevice, packet: &Packet) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let header = vnet::write(packet).ok_or("it has no header")?;
    let parts = [IoSlice::new(&header), IoSlice::new(packet.bytes())];
    from.send_vectored(&parts).await.map_err(failed)?;
    let sent = packet.parse().map_err(|error| error.to_string())?;
    let mut bytes = vec![0; usize::from(u16::MAX)];
    loop {
        let mut header = [0; HEADER];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut bytes)];
        let length = to.recv_vectored(&mut parts).await.map_err(failed)?;
        let got = &bytes[..length.saturating_sub(HEADER)];
        // The kernel talks too: neighbours, groups.
        let Some(offload) = vnet::read(&header) else {
            continue;
        };
        let packet_out = Packet::from_slice(got).with_offload(offload);
        let ours = packet_out.parse().is_ok_and(|out| out.flow == sent.flow);
        if !ours {
            continue;
        }
        if packet_out.offload != packet.offload {
            return Err(format!("it comes out as {:?}", packet_out.offload));
        }
        let at = usize::from(sent.transport);
        if got.get(at..) != packet.bytes().get(at..) {
            return Err("it comes out changed".to_owned());
        }
        return Ok(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packets_of_the_test_are_what_they_should_be() {
        for (v6, udp) in [(false, false), (true, false), (false, true), (true, true)] {
            let packet = super_packet(v6, udp);
            let header = vnet::write(&packet).unwrap();
            assert_eq!(vnet::read(&header), Some(packet.offload));
            let mut pool = vpn_core::packet::BufferPool::new(1, 1500);
            let cut = vpn_core::packet::segment::split(&packet, &mut pool, |_| {}).unwrap();
            assert_eq!(cut, SEGMENTS + 1);
        }
    }
}
