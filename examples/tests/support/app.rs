//! Apps: copies of the test program, run as processes of a user, that ask sites who they are.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use vpn_lab::{Namespace, Process, SITE4, SITE6, client};

use super::{LIMIT, as_user};

/// Carries the script; without it the test that plays the app does nothing.
const SCRIPT: &str = "MULTI_REGION_APP";

/// The virtual resolver, as documented.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 53);

/// For questions that are to stay unanswered.
const SHORT: Duration = Duration::from_millis(500);

/// What a question without answer is reported as.
pub const NOTHING: &str = "nothing";

/// Plays the script of the environment: steps `WHAT COUNT`, separated by commas; or `ask` and
/// `hold COUNT`, which ask once a line of standard input, on new connections or the same ones.
pub fn play() {
    let Ok(script) = std::env::var(SCRIPT) else {
        return;
    };
    for step in script.split(',') {
        let (what, count) = step.split_once(' ').unwrap_or((step, "1"));
        let count: usize = count.parse().expect("a count");
        match what {
            "ask" => each_line(|| said(client::region_of(SITE4.into()))),
            "hold" => {
                let mut held: Vec<_> = (0..count).filter_map(|_| connect().ok()).collect();
                each_line(|| {
                    let mut answers: Vec<String> = held
                        .iter_mut()
                        .map(|stream| said(region_on(stream)))
                        .collect();
                    answers.sort();
                    answers.dedup();
                    format!("{}*{}", answers.join("+"), held.len())
                });
            }
            "stream" => stream(count),
            "many" => println!("app: many {}", many(count)),
            _ => (0..count).for_each(|_| println!("app: {what} {}", said(once(what)))),
        }
    }
}

fn once(what: &str) -> std::io::Result<String> {
    let (v4, v6): (IpAddr, IpAddr) = (SITE4.into(), SITE6.into());
    match what {
        "http4" => client::region_of(v4),
        "http6" => client::region_of(v6),
        "short4" => client::http_get_within(v4, "/", SHORT),
        "short6" => client::http_get_within(v6, "/", SHORT),
        "echo4" => client::udp_echo(v4, "x").map(|text| text.replace(" x", "")),
        "echo6" => client::udp_echo(v6, "x").map(|text| text.replace(" x", "")),
        "large4" => large(v4),
        "large6" => large(v6),
        "bulk4" => bulk(v4),
        "bulk6" => bulk(v6),
        "upload4" => upload(v4),
        "upload6" => upload(v6),
        "closed4" => closed(v4),
        "closed6" => closed(v6),
        "refused6" => refused(v6),
        "dns" => client::dns_txt(RESOLVER.into(), "whoami.test"),
        other => match other.strip_prefix("at:").and_then(|site| site.parse().ok()) {
            Some(site) => client::region_of(site),
            None => panic!("what is {other}?"),
        },
    }
}

/// A datagram of 8,000 bytes there and back.
fn large(site: IpAddr) -> std::io::Result<String> {
    let text: String = ('a'..='z').cycle().take(8_000).collect();
    let answer = client::udp_echo(site, &text)?;
    match answer.split_once(' ') {
        Some((region, echoed)) if echoed == text => Ok(region.to_owned()),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// A megabyte over one connection.
fn bulk(site: IpAddr) -> std::io::Result<String> {
    let body = client::http_get(site, "/bytes/1000000")?;
    match body.len() {
        1_000_000 => client::region_of(site),
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Some hundred requests of a kilobyte each, written at once on one connection: the system makes
/// segments as large as it may.
fn upload(site: IpAddr) -> std::io::Result<String> {
    const REQUESTS: usize = 300;
    let mut stream = TcpStream::connect_timeout(&(site, 80).into(), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let fill: String = ('a'..='z').cycle().take(1_000).collect();
    let mut all = format!("GET / HTTP/1.1\r\nX-Fill: {fill}\r\n\r\n").repeat(REQUESTS - 1);
    all.push_str("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    stream.write_all(all.as_bytes())?;
    let mut answers = String::new();
    stream.read_to_string(&mut answers)?;
    let region = client::region_of(site)?;
    match answers
        .matches(&format!("\"region\": \"{region}\""))
        .count()
    {
        REQUESTS => Ok(region),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// A datagram to a port nobody listens on: the network says so.
fn closed(site: IpAddr) -> std::io::Result<String> {
    let any: std::net::SocketAddr = match site {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect((site, 9_999))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send(b"anybody?")?;
    match socket.recv(&mut [0; 64]) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Ok("refused".to_owned())
        }
        Err(error) => Err(error),
        Ok(_) => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// A connection that the host itself refuses, at once.
fn refused(site: IpAddr) -> std::io::Result<String> {
    let begun = std::time::Instant::now();
    match TcpStream::connect_timeout(&(site, 80).into(), Duration::from_secs(2)) {
        Err(error)
            if error.kind() != std::io::ErrorKind::TimedOut
                && begun.elapsed() < Duration::from_millis(500) =>
        {
            Ok("unreachable".to_owned())
        }
        Err(error) => Err(error),
        Ok(_) => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// So many short connections, spread over four destinations: how many went where.
fn many(count: usize) -> String {
    let mut answers = std::collections::BTreeMap::<String, usize>::new();
    let v4: IpAddr = SITE4.into();
    let v6: IpAddr = SITE6.into();
    for turn in 0..count {
        let (site, port) = [(v4, 80), (v6, 80), (v4, 8080), (v6, 8080)][turn % 4];
        *answers
            .entry(said(client::region_at(site, port)))
            .or_default() += 1;
    }
    let told: Vec<String> = answers
        .iter()
        .map(|(who, n)| format!("{who}*{n}"))
        .collect();
    told.join("+")
}

/// Connections that carry a few megabytes each, a part of it per line of input.
fn stream(count: usize) {
    let mut held: Vec<TcpStream> = (0..count).filter_map(|_| connect().ok()).collect();
    for stream in &held {
        // A path that changes is found again by retransmissions, whose waits double.
        let waits = stream.set_read_timeout(Some(LIMIT / 2));
        waits.expect("a timeout");
    }
    each_line(|| {
        let mut regions: Vec<String> = held
            .iter_mut()
            .map(|stream| said(body_on(stream, 500_000).and_then(|()| region_on(stream))))
            .collect();
        regions.dedup();
        regions.join("+")
    });
}

/// One more body of this length on the same connection.
fn body_on(stream: &mut TcpStream, length: usize) -> std::io::Result<()> {
    write!(stream, "GET /bytes/{length} HTTP/1.1\r\nHost: site\r\n\r\n")?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)
}

fn said(answer: std::io::Result<String>) -> String {
    answer.unwrap_or_else(|_| NOTHING.to_owned())
}

fn each_line(mut answer: impl FnMut() -> String) {
    println!("app: here");
    for _ in std::io::stdin().lines() {
        println!("app: {}", answer());
    }
}

fn connect() -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((SITE4, 80))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(stream)
}

/// One more request on the same connection.
fn region_on(stream: &mut TcpStream) -> std::io::Result<String> {
    write!(stream, "GET / HTTP/1.1\r\nHost: site\r\n\r\n")?;
    let mut text = String::new();
    let mut buffer = [0; 2048];
    while !text.ends_with("}\n") {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    let region = text
        .split("\"region\": \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    region
        .map(str::to_owned)
        .ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

fn command(program: &Path, uid: u32, script: &str) -> std::process::Command {
    let mut command = as_user(program, uid);
    command.args([
        "--exact",
        "plays_an_app",
        "--nocapture",
        "--test-threads",
        "1",
    ]);
    command.env(SCRIPT, script);
    command
}

/// Plays a script to its end: every answer, as `WHAT ANSWER`.
pub fn run(place: &Namespace, program: &Path, uid: u32, script: &str) -> Vec<String> {
    let output = place
        .output(command(program, uid, script), LIMIT * 2)
        .expect("the app");
    assert!(
        output.status.success(),
        "{}{}",
        output.stdout,
        output.stderr
    );
    output.stdout.lines().filter_map(answer).collect()
}

/// libtest writes the test's name before the first line.
fn answer(line: &str) -> Option<String> {
    line.split_once("app: ")
        .map(|(_, answer)| answer.to_owned())
}

/// An app that asks when it is told to.
pub struct App {
    _process: Process,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl App {
    /// `ask` or `hold COUNT`.
    pub fn start(place: &Namespace, program: &Path, uid: u32, script: &str) -> Self {
        let mut command = command(program, uid, script);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = place.spawn(command).expect("an app");
        let input = process.child().stdin.take().expect("a pipe");
        let output = process.child().stdout.take().expect("a pipe");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(answer) = answer(&line) {
                    let _ = sender.send(answer);
                }
            }
        });
        let this = Self {
            _process: process,
            input,
            lines,
        };
        assert_eq!(this.next(), "here");
        this
    }

    /// Who answers now.
    pub fn ask(&mut self) -> String {
        self.input.write_all(b"\n").expect("a pipe");
        self.next()
    }

    fn next(&self) -> String {
        self.lines
            .recv_timeout(LIMIT)
            .expect("an answer of the app")
    }
}
