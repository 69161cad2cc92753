//! Steady traffic of one user, on source ports of its own, so that any packet tells whose it is.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use vpn_lab::{Namespace, Process, SITE4, SITE6, Seen};

use super::as_user;

/// Carries the first port; without it the test that plays the traffic does nothing.
const FIRST_PORT: &str = "MULTI_REGION_TRAFFIC";

/// The first range's first port.
const FIRST: u16 = 10_000;

/// Ports of one user.
pub const PORTS: u16 = 2_000;

/// How long an answer may take: what is blocked must not hold up the next question.
const PATIENCE: Duration = Duration::from_millis(300);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(15);

/// The virtual resolver, and one an app may have chosen itself.
const RESOLVERS: [Ipv4Addr; 2] = [
    Ipv4Addr::new(100, 127, 255, 53),
    Ipv4Addr::new(198, 18, 0, 53),
];

/// The range of the user whose rule says direct.
pub const DIRECT_RANGE: u16 = 9;

/// Which user a port belongs to: the number of its range.
fn range_of(port: u16) -> Option<u16> {
    port.checked_sub(FIRST).map(|port| port / PORTS)
}

/// How many hops left the traffic of a range begins with. A port may be changed on its way, where two
/// of one host's addresses have the same; this is not.
const fn hops_of(range: u16) -> u8 {
    100 + 10 * range as u8
}

/// The range of a packet: by its hops left, of which some are used up, or by its port, for what the
/// kernel says by itself for a socket that is gone.
pub fn range_of_packet(packet: &Seen) -> Option<u16> {
    let above = packet.hops.checked_sub(hops_of(0) - 5);
    let by_hops = above.map(|above| u16::from(above) / 10);
    by_hops.or_else(|| range_of(packet.source.port()))
}

/// Has what a socket sends tell whose it is, as its port does.
pub fn mark<'a>(socket: impl Into<SockRef<'a>>, v4: bool, port: u16) -> io::Result<()> {
    let range = range_of(port).ok_or(io::ErrorKind::InvalidInput)?;
    let (socket, hops) = (socket.into(), u32::from(hops_of(range)));
    match v4 {
        true => socket.set_ttl_v4(hops),
        false => socket.set_unicast_hops_v6(hops),
    }
}

fn first_port(range: u16) -> u16 {
    FIRST + range * PORTS
}

/// Plays the traffic until it is ended: asks in every way, one after the other.
pub fn play() {
    let Some(first) = std::env::var(FIRST_PORT).ok().and_then(|p| p.parse().ok()) else {
        return;
    };
    let first: u16 = first;
    let mut out = io::stdout();
    for turn in 0_u64.. {
        let port = first + (turn % u64::from(PORTS)) as u16;
        let (v4, v6): (IpAddr, IpAddr) = (SITE4.into(), SITE6.into());
        let (what, answer) = match turn % 6 {
            0 => ("http4", http(port, v4)),
            1 => ("echo4", echo(port, v4, b"x")),
            2 => ("http6", http(port, v6)),
            3 => ("echo6", echo(port, v6, b"x")),
            4 => ("dns", dns(port, RESOLVERS[(turn / 6 % 2) as usize])),
            // Its fragments tell no ports: not from who may appear on the direct path.
            _ if first == first_port(DIRECT_RANGE) => ("echo4", echo(port, v4, b"x")),
            // A datagram that is sent in fragments.
            _ => ("large4", echo(port, v4, &[b'x'; 4_000])),
        };
        let answer = answer.unwrap_or_else(|_| super::app::NOTHING.to_owned());
        if writeln!(out, "app: {what} {answer}").is_err() {
            return;
        }
        thread::sleep(PAUSE);
    }
}

fn any(to: IpAddr, port: u16) -> SocketAddr {
    match to {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

fn http(port: u16, site: IpAddr) -> io::Result<String> {
    let to = SocketAddr::new(site, 80);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    mark(&socket, site.is_ipv4(), port)?;
    socket.bind(&any(site, port).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: site\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.split("\"region\": \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .map(str::to_owned)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn ask(port: u16, to: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(any(to.ip(), port))?;
    mark(&socket, to.is_ipv4(), port)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(question)?;
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn echo(port: u16, site: IpAddr, payload: &[u8]) -> io::Result<String> {
    let answer = ask(port, SocketAddr::new(site, 7), payload)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    match text.split_once(' ') {
        Some((region, rest)) if rest.as_bytes() == payload => Ok(region.to_owned()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `whoami.test` TXT (RFC 1035 §4.1), by hand: the whole of it is the region's name.
fn dns(port: u16, resolver: Ipv4Addr) -> io::Result<String> {
    let id = port.to_be_bytes();
    let mut query = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(b"\x06whoami\x04test\x00\x00\x10\x00\x01");
    let answer = ask(port, (resolver, 53).into(), &query)?;
    let text = |from: usize| -> Option<String> {
        let length = usize::from(*answer.get(from)?);
        let bytes = answer.get(from + 1..from + 1 + length)?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    };
    // Behind the question: name (a pointer), type, class, TTL and length.
    text(query.len() + 12).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// How often each answer came, by what was asked.
pub type Tally = BTreeMap<(String, String), u64>;

/// Running traffic of one user.
pub struct Traffic {
    pub uid: u32,
    /// The number of its port range.
    pub range: u16,
    process: Process,
    tally: Arc<Mutex<Tally>>,
}

impl Traffic {
    /// Starts it; `range` numbers its ports.
    pub fn start(place: &Namespace, program: &Path, uid: u32, range: u16) -> Self {
        let mut command = as_user(program, uid);
        command.args(["--exact", "plays_traffic", "--nocapture"]);
        command.args(["--test-threads", "1"]);
        command.env(FIRST_PORT, first_port(range).to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(Stdio::null());
        let mut process = place.spawn(command).expect("an app");
        let output = process.child().stdout.take().expect("a pipe");
        let tally = Arc::new(Mutex::new(Tally::new()));
        let counted = Arc::clone(&tally);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Some((_, answer)) = line.split_once("app: ") else {
                    continue;
                };
                let (what, from) = answer.split_once(' ').unwrap_or((answer, ""));
                let mut tally = counted.lock().unwrap_or_else(PoisonError::into_inner);
                *tally.entry((what.to_owned(), from.to_owned())).or_default() += 1;
            }
        });
        Self {
            uid,
            range,
            process,
            tally,
        }
    }

    /// What was answered since the last call.
    pub fn take(&self) -> Tally {
        std::mem::take(&mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends it.
    pub fn end(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.end();
    }
}
