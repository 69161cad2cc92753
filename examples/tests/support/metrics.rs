//! What the daemon tells Prometheus.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::lab::Lab;

/// Where it answers, as the tests' configurations have it.
pub const METRICS: &str = "127.0.0.1:9586";

/// One HTTP request, as bytes; the whole answer.
pub fn request(lab: &Lab, bytes: Vec<u8>) -> String {
    let work = move || {
        let mut stream = TcpStream::connect(METRICS).expect("a connection");
        let limit = Some(Duration::from_secs(10));
        stream.set_read_timeout(limit).expect("a limit");
        stream.write_all(&bytes).expect("a request");
        let mut text = Vec::new();
        // A refusal may come as a reset, once everything was said.
        let _ = stream.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    };
    lab.lab.client().run(work).expect("the namespace")
}

/// `GET path`, asked of `host`; the whole answer.
pub fn get(lab: &Lab, path: &str, host: &str) -> String {
    let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    request(lab, text.into_bytes())
}

/// The value of a sample, by its name with its labels.
pub fn sample(text: &str, name: &str) -> f64 {
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let found = found.unwrap_or_else(|| panic!("{name} in {text}"));
    found.parse().expect("a number")
}

/// All samples, once everything that waited has gone somewhere and nothing else comes.
pub fn settled(lab: &Lab) -> String {
    let end = Instant::now() + super::LIMIT;
    let mut before = None;
    loop {
        let text = get(lab, "/metrics", METRICS);
        let waits = sum(&text, "vpn_held_packets") + sum(&text, "vpn_queued_packets");
        let came = sum(&text, "vpn_in_packets_total");
        if waits == 0 && before.replace(came) == Some(came) {
            return text;
        }
        assert!(Instant::now() < end, "{waits} packets wait: {text}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// The sum of a family's samples.
pub fn sum(text: &str, family: &str) -> u64 {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(family)?;
        if !rest.starts_with(['{', ' ']) {
            return None;
        }
        rest.rsplit_once(' ')?.1.parse::<u64>().ok()
    });
    samples.sum()
}
