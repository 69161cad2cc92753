//! The app: a process that asks the same site again and again and says which region answered.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::Signal;

use crate::clock::Nanos;
use crate::report::Report;

/// Pause between two connections: about fifty a second, without keeping a core busy.
const PAUSE: Duration = Duration::from_millis(20);

/// How long connecting, and each read, may take. Three SYNs are sent in this time.
const LIMIT: Duration = Duration::from_secs(4);

/// Largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// The header in which the site names its region.
pub(crate) const REGION_HEADER: &str = "X-Region";

/// Asks the sites in turn, for ever: until the process that started this one goes away.
pub(crate) fn run(sites: &[SocketAddr]) -> ExitCode {
    // Best effort: without it the first report after the parent's death ends the loop.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let mut out = io::stdout();
    for &site in sites.iter().cycle() {
        let report = ask(site);
        if writeln!(out, "{report}")
            .and_then(|()| out.flush())
            .is_err()
        {
            break;
        }
        thread::sleep(PAUSE);
    }
    ExitCode::SUCCESS
}

fn ask(site: SocketAddr) -> Report {
    let opened = Nanos::now();
    let stream = TcpStream::connect_timeout(&site, LIMIT);
    let connected = Nanos::now();
    let answer = stream.and_then(|stream| get(stream, site));
    let answer = answer.map_err(|error| format!("{site}: {error}"));
    Report {
        opened,
        connected,
        answer,
    }
}

/// `GET /`: the region, if the answer is complete.
fn get(mut stream: TcpStream, site: SocketAddr) -> io::Result<String> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    region_of(&answer).map_err(|problem| io::Error::new(io::ErrorKind::InvalidData, problem))
}

/// The region a complete answer names.
fn region_of(answer: &[u8]) -> Result<String, &'static str> {
    const END: &[u8] = b"\r\n\r\n";
    let end = answer
        .windows(END.len())
        .position(|w| w == END)
        .ok_or("no HTTP header")?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| "an HTTP header that is no text")?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err("not the HTTP status 200");
    }
    let field = |wanted: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(": "));
        fields
            .filter(|(name, _)| *name == wanted)
            .map(|(_, value)| value)
            .next()
    };
    let length: usize = field("Content-Length")
        .and_then(|n| n.parse().ok())
        .ok_or("no length")?;
    if answer.len() - end - END.len() != length {
        return Err("a truncated answer");
    }
    field(REGION_HEADER)
        .map(str::to_owned)
        .ok_or("no region in the answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_complete_answer_names_a_region() {
        let head = "HTTP/1.1 200 OK\r\nX-Region: uk\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(
            region_of(format!("{head}abc").as_bytes()),
            Ok("uk".to_owned())
        );
        assert_eq!(
            region_of(format!("{head}ab").as_bytes()),
            Err("a truncated answer")
        );
        assert!(region_of(head.replace("200", "404").as_bytes()).is_err());
        assert!(region_of(b"").is_err());
        assert!(region_of(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
