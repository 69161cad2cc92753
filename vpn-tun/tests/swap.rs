//! A TUN device is replaced by another while flows live, in a namespace of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests are no tests to the lint

mod common;

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{Result, in_namespace};
use tokio::net::UdpSocket;
use vpn_core::packet::{Packet, PacketBatch};
use vpn_core::{DropCounters, Parsed, TunDevice};
use vpn_tun::{FdTun, SwapTun};

/// How often the device is replaced, as a host does that changes an address or a resolver.
const SWAPS: usize = 6;

/// Flows that live across all of them.
const FLOWS: usize = 3;

fn ip(lines: &[String]) {
    let mut command = Command::new("ip");
    let mut ip = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn();
    let ip = ip.as_mut().unwrap();
    let text = lines.join("\n");
    ip.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success(), "ip {lines:?}");
}

/// The host's part: makes an interface, which nothing leads to yet, and hands over its descriptor
/// alone.
fn establish(name: &str) -> Result<OwnedFd> {
    let made = tun_rs::DeviceBuilder::new()
        .name(name)
        .mtu(1400)
        .build_sync()?;
    Ok(made.as_fd().try_clone_to_owned()?)
}

/// The host's part: has the flows go to this interface.
fn lead_to(name: &str) {
    ip(&[
        format!("link set {name} up"),
        format!("route replace 198.51.100.0/24 dev {name} src 10.5.0.2"),
    ]);
}

/// Sends every packet back where it came from.
async fn echo(tun: Arc<SwapTun>) {
    let mut batch = PacketBatch::new(8, 1500);
    let mut answers = PacketBatch::new(8, 1500);
    let mut drops = DropCounters::default();
    while tun.readable().await.is_ok() {
        if tun.try_recv(&mut batch, &mut drops).is_err() {
            break;
        }
        for packet in batch.packets() {
            let ours = Parsed::from_bytes(packet.bytes()).is_ok_and(|p| p.flow.dst_port() == 7);
            if ours {
                // Source and destination change places: every sum stays as it is.
                let mut bytes = packet.bytes().to_vec();
                let (src, dst) = bytes[12..20].split_at_mut(4);
                src.swap_with_slice(dst);
                bytes[20..24].rotate_left(2);
                answers.push(Packet::from_slice(&bytes)).unwrap();
            }
        }
        batch.clear();
        while !answers.is_empty() {
            let ready = tun.writable().await;
            if ready.is_err() || tun.try_send(&mut answers, &mut drops).is_err() {
                return;
            }
        }
    }
}

/// N-12: a change of the interface cost what was under way.
#[test]
fn flows_live_across_swaps_and_lose_repeat_or_reorder_nothing() {
    in_namespace(|| async {
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0")?;
        ip(&[
            "link set lo up".to_owned(),
            "addr add 10.5.0.2/32 dev lo".to_owned(),
        ]);
        let first = establish("tun0")?;
        lead_to("tun0");
        let tun = Arc::new(SwapTun::new(FdTun::owned(first, 1400)?, 1500));
        let echoing = tokio::spawn(echo(tun.clone()));

        let flows: Vec<Arc<UdpSocket>> = {
            let mut flows = Vec::new();
            for _ in 0..FLOWS {
                let socket = UdpSocket::bind("10.5.0.2:0").await?;
                socket.connect("198.51.100.7:7").await?;
                flows.push(Arc::new(socket));
            }
            flows
        };
        // Read at once: a socket keeps some hundred datagrams only.
        let (seen, mut answers) = tokio::sync::mpsc::unbounded_channel();
        for (index, flow) in flows.iter().cloned().enumerate() {
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 8];
                while let Ok(4) = flow.recv(&mut buffer).await {
                    let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
                    if seen.send((index, number)).is_err() {
                        break;
                    }
                }
            });
        }
        let mut sent = 0u32;
        let mut send = async |count: u32| -> Result<()> {
            for _ in 0..count {
                for flow in &flows {
                    flow.send(&sent.to_be_bytes()).await?;
                }
                sent += 1;
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        send(50).await?;
        for n in 1..=SWAPS {
            // Packets are under way in the old one before and after the new one is taken in.
            let fd = establish(&format!("tun{n}"))?;
            send(20).await?;
            tun.swap(FdTun::owned(fd, 1400)?)?;
            send(20).await?;
            lead_to(&format!("tun{n}"));
            send(20).await?;
        }
        let mut received: HashMap<usize, Vec<u32>> = HashMap::new();
        let all = async {
            for _ in 0..sent as usize * FLOWS {
                let (index, number) = answers.recv().await.ok_or("no more answers")?;
                received.entry(index).or_default().push(number);
            }
            Result::Ok(())
        };
        let done = tokio::time::timeout(Duration::from_secs(20), all).await;
        done.map_err(|_| "packets are missing")??;
        let expected: Vec<u32> = (0..sent).collect();
        for (index, seen) in &received {
            assert_eq!(seen, &expected, "flow {index}");
        }
        // Only the last interface is left: the others went when their descriptors were closed.
        let left = async {
            loop {
                let links = Command::new("ip").args(["-o", "link"]).output()?;
                let links = String::from_utf8(links.stdout)?;
                if links.matches(" tun").count() == 1 {
                    assert!(links.contains(&format!("tun{SWAPS}")), "{links}");
                    return Result::Ok(());
                }
                flows[0].send(&u32::MAX.to_be_bytes()).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), left).await??;
        tun.shutdown();
        echoing.await?;
        println!("{FLOWS} flows of {sent} packets across {SWAPS} swaps");
        Ok(())
    });
}

/// N-18: closing never touches a descriptor of somebody else, and a borrowed one stays its owner's.
#[test]
fn a_descriptor_is_closed_once_and_by_its_owner() {
    in_namespace(|| async {
        let hosts = establish("tun0")?;
        let tun = FdTun::borrowed(hosts.as_fd(), 1400)?;
        let waiting = Arc::new(tun);
        let reader = tokio::spawn({
            let tun = waiting.clone();
            async move { tun.readable().await }
        });
        tokio::task::yield_now().await;
        waiting.shutdown();
        waiting.shutdown();
        assert!(reader.await?.is_err());
        // The number is free for others now; nothing of the device may touch it.
        let others: Vec<std::fs::File> = (0..16)
            .map(|_| std::fs::File::open("/dev/null"))
            .collect::<std::io::Result<_>>()?;
        let mut batch = PacketBatch::new(1, 1400);
        let mut drops = DropCounters::default();
        assert!(waiting.try_recv(&mut batch, &mut drops).is_err());
        drop(waiting);
        for file in &others {
            assert!(file.metadata().is_ok());
        }
        let again = FdTun::borrowed(hosts.as_fd(), 1400)?;
        ip(&["link set tun0 up".to_owned()]);
        again.writable().await?;
        drop(again);
        drop(hosts);
        common::gone(&common::netlink(), "tun0").await?;
        Ok(())
    });
}
