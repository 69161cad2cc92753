//! coturn, and as much of TURN as one channel needs (RFC 8656, RFC 8489).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Running;
use super::ends::Ends;
use crate::Error;
use crate::contender::bound_to_us;

const PROGRAM: &str = "turnserver";

/// The first channel there may be (RFC 8656 §12).
const CHANNEL: u16 = 0x4000;

const MAGIC: u32 = 0x2112_a442;
const ALLOCATE: u16 = 0x0003;
const CHANNEL_BIND: u16 = 0x0009;
const SUCCESS: u16 = 0x0100;
const REQUESTED_TRANSPORT: u16 = 0x0019;
const CHANNEL_NUMBER: u16 = 0x000c;
const XOR_PEER_ADDRESS: u16 = 0x0012;

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn is_installed() -> bool {
    let mut command = Command::new(PROGRAM);
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok()
}

/// Starts it without anything that costs time and can be left out: no log, no proof of who asks.
pub(super) fn start() -> Result<Running, Error> {
    let folder = TempDir::with_prefix("bench-lab-")?;
    let at = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = bound_to_us(PROGRAM);
    command
        .args([
            "-n",
            "--no-auth",
            "--no-tcp",
            "--no-tls",
            "--no-dtls",
            "--no-cli",
        ])
        .args([
            "--allow-loopback-peers",
            "--log-file",
            "/dev/null",
            "--relay-threads",
            "1",
        ])
        .args(["--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1"])
        .args(["--listening-port", &at.port().to_string()])
        .args(["--userdb", "db", "--pidfile", "pid"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let process = command.spawn()?;
    let ends = Ends::new()?;
    let mut running = Running {
        process,
        way: ends.bare(at),
        _folder: Some(folder),
    };
    let ends = Ends::new()?;
    ends.sender
        .set_read_timeout(Some(Duration::from_millis(200)))?;
    // Requested transport: UDP.
    let allocate = request(ALLOCATE, &[(REQUESTED_TRANSPORT, &[17, 0, 0, 0])]);
    let deadline = Instant::now() + PATIENCE;
    while ask(&ends.sender, at, &allocate).is_err() {
        if Instant::now() > deadline {
            return Err("coturn does not answer".into());
        }
        thread::sleep(Duration::from_millis(50));
    }
    let [high, low] = CHANNEL.to_be_bytes();
    let peer = address(ends.receiver_addr()?)?;
    let bind = request(
        CHANNEL_BIND,
        &[
            (CHANNEL_NUMBER, &[high, low, 0, 0]),
            (XOR_PEER_ADDRESS, &peer),
        ],
    );
    ask(&ends.sender, at, &bind)?;
    let [long, short] = (super::CONTENT as u16).to_be_bytes();
    running.way = ends.behind(at, &[high, low, long, short]);
    Ok(running)
}

/// A request of these attributes (RFC 8489 §5).
fn request(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        body.extend_from_slice(&kind.to_be_bytes());
        body.extend_from_slice(&(value.len() as u16).to_be_bytes());
        body.extend_from_slice(value);
    }
    let mut message = kind.to_be_bytes().to_vec();
    message.extend_from_slice(&(body.len() as u16).to_be_bytes());
    message.extend_from_slice(&MAGIC.to_be_bytes());
    message.extend_from_slice(&[kind as u8; 12]);
    message.extend_from_slice(&body);
    message
}

/// An address as STUN writes it (RFC 8489 §14.2).
fn address(address: SocketAddr) -> Result<[u8; 8], Error> {
    let IpAddr::V4(ip) = address.ip() else {
        return Err("IPv4 only".into());
    };
    let port = address.port() ^ (MAGIC >> 16) as u16;
    let ip = Ipv4Addr::to_bits(ip) ^ MAGIC;
    let mut bytes = [0, 1, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[4..].copy_from_slice(&ip.to_be_bytes());
    Ok(bytes)
}

/// Asks, and wants success.
fn ask(socket: &UdpSocket, server: SocketAddr, request: &[u8]) -> Result<(), Error> {
    socket.send_to(request, server)?;
    let mut buffer = [0; 2048];
    let (count, _) = socket.recv_from(&mut buffer)?;
    let wanted = u16::from_be_bytes([request[0], request[1]]) | SUCCESS;
    if buffer[..count].starts_with(&wanted.to_be_bytes()) {
        return Ok(());
    }
    Err(format!("coturn refuses: {:?}", &buffer[..count.min(64)]).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_the_rfc_has_them() {
        // RFC 5769 §2.2: 192.0.2.1:32853.
        let written = address("192.0.2.1:32853".parse().unwrap()).unwrap();
        assert_eq!(written, [0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
    }
}
