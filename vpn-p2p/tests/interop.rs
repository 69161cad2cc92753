//! Against wireguard-go: an ICMP echo through our transport, answered by a kernel behind it.
//!
//! Everything happens in a network namespace of its own, in which this test runs itself again.
//! Needs root, `ip`, `wg` and `wireguard-go`; says so and passes where they are missing, unless
//! `VPN_LAB_REQUIRED=1`.
#![cfg(all(feature = "wireguard", target_os = "linux"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod common;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{End, Keys, local, transport};

const FILE: &str = "VPN_P2P_INTEROP_FILE";

fn run(command: &str) -> bool {
    let words: Vec<_> = command.split_whitespace().collect();
    Command::new(words[0])
        .args(&words[1..])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn must(command: &str) {
    assert!(run(command), "failed: {command}");
}

/// Says why the test does not run. With `VPN_LAB_REQUIRED=1`, as in CI, that is a failure.
fn skipped(reason: &str) {
    let required = std::env::var_os("VPN_LAB_REQUIRED").is_some_and(|value| value == "1");
    assert!(!required, "this test must not be skipped here: {reason}");
    println!("SKIPPED: {reason}");
}

/// Removed whatever happens.
struct Lab {
    namespace: String,
    interface: String,
    server: Option<Child>,
    directory: std::path::PathBuf,
}

impl Lab {
    fn inside(&self, command: &str) -> String {
        format!("ip netns exec {} {command}", self.namespace)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        run(&format!("ip netns del {}", self.namespace));
        let _ = std::fs::remove_dir_all(&self.directory);
        let _ = std::fs::remove_file(format!("/var/run/wireguard/{}.sock", self.interface));
    }
}

#[test]
fn wireguard_go_talks_to_us() {
    for program in ["ip -V", "wg --version", "wireguard-go --version"] {
        if !run(program) {
            return skipped(&format!("`{program}` does not run here"));
        }
    }
    let id = std::process::id();
    let mut lab = Lab {
        namespace: format!("p2ptest-{id}"),
        interface: format!("wgp{id}"),
        server: None,
        directory: std::env::temp_dir().join(format!("vpn-p2p-interop-{id}")),
    };
    if !run(&format!("ip netns add {}", lab.namespace)) {
        return skipped("no right to make network namespaces");
    }
    std::fs::create_dir_all(&lab.directory).unwrap();
    must(&lab.inside("ip link set lo up"));
    let server = Command::new("ip")
        .args([
            "netns",
            "exec",
            &lab.namespace,
            "wireguard-go",
            "-f",
            &lab.interface,
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    lab.server = Some(server.unwrap());
    let show = lab.inside(&format!("wg show {}", lab.interface));
    let started = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        run(&show)
    });
    if !started {
        return skipped("wireguard-go does not start (no /dev/net/tun?)");
    }
    let keys = Keys::new();
    // `wg setconf` takes the file without what only wg-quick knows.
    let config: String = keys
        .server_file(51820, "10.5.0.2/32, fd05::2/128")
        .lines()
        .filter(|line| !line.starts_with("Address"))
        .map(|line| format!("{line}\n"))
        .collect();
    let server_file = lab.directory.join("server.conf");
    std::fs::write(&server_file, config).unwrap();
    let (interface, path) = (&lab.interface, server_file.display());
    must(&lab.inside(&format!("wg setconf {interface} {path}")));
    must(&lab.inside(&format!("ip address add 10.5.0.1/24 dev {interface}")));
    must(&lab.inside(&format!(
        "ip -6 address add fd05::1/64 dev {interface} nodad"
    )));
    must(&lab.inside(&format!("ip link set {interface} up")));
    let client_file = lab.directory.join("client.conf");
    let text = keys.client_file("127.0.0.1:51820", "0.0.0.0/0, ::/0");
    std::fs::write(&client_file, text).unwrap();
    let program = std::env::current_exe().unwrap();
    let status = Command::new("ip")
        .args(["netns", "exec", &lab.namespace])
        .arg(program)
        .args(["inside", "--exact", "--ignored", "--nocapture"])
        .env(FILE, &client_file)
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by wireguard_go_talks_to_us, inside its namespace"]
async fn inside() {
    let Ok(path) = std::env::var(FILE) else {
        println!("skipped: not inside the namespace");
        return;
    };
    let mut client = End::new(transport(&std::fs::read_to_string(path).unwrap(), local()));
    client.up().await;
    for length in [0, 56, 1000, 1372] {
        let payload = vec![0x5a; length];
        client.send(&[echo_v4(&payload)]).await;
        let reply = client.receive().await;
        assert_eq!((reply[20], &reply[28..]), (0, &payload[..]));
        client.send(&[echo_v6(&payload)]).await;
        let reply = loop {
            // The kernel may solicit neighbours and routers on its own.
            let packet = client.receive().await;
            if packet[0] >> 4 == 6 && packet[40] == 129 {
                break packet;
            }
        };
        assert_eq!(&reply[48..], &payload[..]);
    }
    // A run of equal datagrams: one segmented send.
    let burst: Vec<_> = (0..32).map(|_| echo_v4(&[1; 1000])).collect();
    client.send(&burst).await;
    for _ in 0..burst.len() {
        assert_eq!(client.receive().await[20], 0);
    }
    client.close().await;
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn echo_v4(payload: &[u8]) -> Vec<u8> {
    let total = (28 + payload.len()) as u16;
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 1, 0, 0, 10, 5, 0, 2, 10, 5, 0, 1,
    ];
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    let header = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&header);
    let mut icmp = vec![8, 0, 0, 0, 0, 7, 0, 1];
    icmp.extend_from_slice(payload);
    let sum = checksum(&[&icmp]);
    icmp[2..4].copy_from_slice(&sum);
    packet.extend(icmp);
    packet
}

fn echo_v6(payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let [high, low] = length.to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, high, low, 58, 64];
    let (src, dst): (std::net::Ipv6Addr, std::net::Ipv6Addr) =
        ("fd05::2".parse().unwrap(), "fd05::1".parse().unwrap());
    packet.extend(src.octets());
    packet.extend(dst.octets());
    let mut icmp = vec![128, 0, 0, 0, 0, 7, 0, 1];
    icmp.extend_from_slice(payload);
    let sum = checksum(&[&packet[8..40], &[0, 0, high, low, 0, 0, 0, 58], &icmp]);
    icmp[2..4].copy_from_slice(&sum);
    packet.extend(icmp);
    packet
}
