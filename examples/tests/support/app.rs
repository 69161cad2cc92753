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
        "dns" => client::dns_txt(RESOLVER.into(), "whoami.test"),
        other => panic!("what is {other}?"),
    }
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
