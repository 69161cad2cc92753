//! What machines send each other: pings, datagrams, TCP.

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use vpn_lab::{Namespace, Process};

use super::world::LIMIT;

/// Whether a ping is answered within so many seconds.
pub(crate) fn pings(namespace: &Namespace, to: &str, wait: u32) -> bool {
    let arguments = format!("-c 1 -W {wait} {to}");
    namespace.tool("ping", &arguments).is_ok()
}

/// A datagram is sent, and comes back.
pub(crate) fn udp_echo(at: &Namespace, to: &Namespace, address: &str) -> bool {
    let server = to.run(|| UdpSocket::bind("0.0.0.0:7").expect("a socket"));
    let server = server.expect("inside");
    let _ = server.set_read_timeout(Some(Duration::from_secs(5)));
    let echo = thread::spawn(move || {
        let mut datagram = [0; 1500];
        if let Ok((bytes, from)) = server.recv_from(&mut datagram) {
            let _ = server.send_to(&datagram[..bytes], from);
        }
    });
    let answer = at.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
        let _ = socket.send_to(b"who is there", (address, 7));
        let mut datagram = [0; 1500];
        let got = socket.recv(&mut datagram).unwrap_or(0);
        datagram[..got] == *b"who is there"
    });
    let _ = echo.join();
    answer.expect("inside")
}

/// A server for as many clients as come, one after the other.
pub(crate) fn iperf3_server(on: &Namespace) -> Process {
    let mut server = Command::new("iperf3");
    server.arg("-s").stdout(Stdio::null());
    on.spawn(server).expect("iperf3")
}

/// Megabits per second of some megabytes of TCP, counted where they arrive.
pub(crate) fn iperf3(at: &Namespace, to: &str, megabytes: u32) -> f64 {
    let from = Instant::now();
    loop {
        let mut client = Command::new("iperf3");
        client.args(["-J", "-n", &format!("{megabytes}M"), "-c", to]);
        let output = at.output(client, LIMIT).expect("iperf3");
        let said: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        if let Some(bits) = said["end"]["sum_received"]["bits_per_second"].as_f64() {
            return bits / 1e6;
        }
        // The server may not listen yet, or is not done with the one before.
        assert!(from.elapsed() < LIMIT, "iperf3: {}", output.stdout);
        thread::sleep(Duration::from_millis(100));
    }
}

/// A long connection while something breaks.
pub(crate) struct Long {
    process: Process,
    said: PathBuf,
    _folder: TempDir,
}

impl Long {
    /// 20 Mbit/s for so many seconds.
    pub(crate) fn start(at: &Namespace, to: &str, seconds: u32) -> Self {
        let folder = TempDir::new().expect("a folder");
        let said = folder.path().join("said");
        let mut client = Command::new("iperf3");
        let seconds = seconds.to_string();
        client.args(["-J", "-b", "20M", "-t", &seconds, "-c", to]);
        client.stdout(fs::File::create(&said).expect("a file"));
        Self {
            process: at.spawn(client).expect("iperf3"),
            said,
            _folder: folder,
        }
    }

    /// To its end: it was never silent for three of its seconds, and ended well.
    pub(crate) fn survives(mut self) {
        let ended = self.process.wait(2 * LIMIT).expect("an end in time");
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        assert!(ended.success(), "{said}");
        let said: Value = serde_json::from_str(&said).expect("JSON");
        let seconds = said["intervals"].as_array().expect("intervals");
        let bytes = seconds.iter().map(|second| second["sum"]["bytes"].as_u64());
        let bytes: Vec<u64> = bytes.map(Option::unwrap_or_default).collect();
        println!("the long connection, kilobytes in each second: {:?}", {
            bytes.iter().map(|bytes| bytes / 1000).collect::<Vec<_>>()
        });
        // A busy machine may lose a second, and TCP waits longer each time; what is cut stays silent.
        let mut threes = bytes.windows(3);
        assert!(bytes.len() >= 3, "{bytes:?}");
        assert!(
            threes.all(|three| three.iter().any(|bytes| *bytes > 0)),
            "{bytes:?}"
        );
    }
}
