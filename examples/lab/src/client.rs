//! The apps of a lab: small blocking questions to a site, each bounded in time.
//!
//! Run them inside a namespace with [`Namespace::run`](crate::Namespace::run), or from a process
//! that was started there.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, TYPE};

/// How long a question waits for its answer before it counts as unanswered.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// A datagram is sent again after this time; inside a lab only a dead path loses any.
const RESEND: Duration = Duration::from_millis(500);

/// Largest answer read, in bytes.
const ANSWER_MAX: u64 = 1 << 20;

/// `GET path` from port 80 of `site`: the body.
pub fn http_get(site: IpAddr, path: &str) -> io::Result<String> {
    http_get_within(site, path, ANSWER_LIMIT)
}

/// As [`http_get`], with a time limit for each step (connect, write, read).
pub fn http_get_within(site: IpAddr, path: &str, limit: Duration) -> io::Result<String> {
    get(SocketAddr::new(site, 80), path, limit)
}

fn get(address: SocketAddr, path: &str, limit: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not an HTTP answer",
        )),
    }
}

/// The region a site names in its answer.
pub fn region_of(site: IpAddr) -> io::Result<String> {
    region_at(site, 80)
}

/// As [`region_of`], at port 80 or 8080.
pub fn region_at(site: IpAddr, port: u16) -> io::Result<String> {
    let body = get(SocketAddr::new(site, port), "/", ANSWER_LIMIT)?;
    body.split("\"region\": \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .map(str::to_owned)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no region in the answer"))
}

/// Sends `text` to the echo service of `site`: what came back.
pub fn udp_echo(site: IpAddr, text: &str) -> io::Result<String> {
    let answer = ask(SocketAddr::new(site, 7), text.as_bytes(), |_| true)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Asks `resolver` for the TXT record of `name`.
pub fn dns_txt(resolver: IpAddr, name: &str) -> io::Result<String> {
    dns(resolver, name, TYPE::TXT, |data| match data {
        RData::TXT(text) => Some(text.clone().try_into().unwrap_or_default()),
        _ => None,
    })
}

/// Asks `resolver` for an address of `name`.
pub fn dns_address(resolver: IpAddr, name: &str, v6: bool) -> io::Result<IpAddr> {
    let kind = if v6 { TYPE::AAAA } else { TYPE::A };
    dns(resolver, name, kind, |data| match data {
        RData::A(a) => Some(Ipv4Addr::from(a.address).into()),
        RData::AAAA(a) => Some(Ipv6Addr::from(a.address).into()),
        _ => None,
    })
}

fn dns<T>(
    resolver: IpAddr,
    name: &str,
    kind: TYPE,
    pick: impl Fn(&RData<'_>) -> Option<T>,
) -> io::Result<T> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error:?}"));
    // The port is random; inside a lab the id need not be.
    let mut query = Packet::new_query(0x5a5a);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).map_err(invalid)?;
    query
        .questions
        .push(Question::new(name, kind.into(), CLASS::IN.into(), false));
    let bytes = query.build_bytes_vec().map_err(invalid)?;
    let answer = ask(SocketAddr::new(resolver, 53), &bytes, |answer| {
        answer.starts_with(&0x5a5a_u16.to_be_bytes())
    })?;
    let answer = Packet::parse(&answer).map_err(invalid)?;
    answer
        .answers
        .iter()
        .find_map(|record| pick(&record.rdata))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such record"))
}

fn ask(to: SocketAddr, question: &[u8], accept: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if to.is_ipv6() {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(RESEND))?;
    let mut buffer = vec![0; 65_535];
    for _ in 0..(ANSWER_LIMIT.as_millis() / RESEND.as_millis()) {
        socket.send(question)?;
        match socket.recv(&mut buffer) {
            Ok(length) if accept(&buffer[..length]) => return Ok(buffer[..length].to_vec()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
