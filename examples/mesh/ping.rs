//! `mesh ping`: whether a peer answers, and by which way.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use vpn_core::PeerId;
use vpn_examples::control::ask;
use vpn_examples::print;
use vpn_examples::words::milliseconds;
use vpn_p2p::mesh::identity::peer_from_base64;

use crate::config::Key;
use crate::daemon::Request;
use crate::error::{Error, system};
use vpn_examples::mesh::{PeerReport, Report};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the hub has to say who has a key.
const LOOK_UP: Duration = Duration::from_secs(6);

/// Largest answer that is read.
const MAX_ANSWER: usize = 256;

/// What is sent along, so that answers to others' questions are told apart.
const MARK: &[u8; 10] = b"mesh ping ";

#[derive(Debug, clap::Args)]
pub(crate) struct Ping {
    /// Its name, address or key.
    peer: String,
    /// Control socket.
    #[arg(long)]
    control: PathBuf,
    /// How often it is asked.
    #[arg(short, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,
}

/// Asks; an error if nobody answered at all.
pub(crate) async fn run(ping: &Ping) -> Result<(), Error> {
    let address = address_of(ping).await?;
    let socket = socket(address).map_err(system("cannot ask (root may)"))?;
    let mut answered = 0;
    for sequence in 1..=ping.count {
        if sequence > 1 {
            tokio::time::sleep(PAUSE).await;
        }
        let asked = Instant::now();
        let sent = socket.send(&request(address, sequence));
        let came = match sent {
            Ok(_) => answer(&socket, sequence, asked),
            Err(error) => Err(error),
        };
        let line = match came {
            Ok(true) => {
                answered += 1;
                let time = asked.elapsed().as_secs_f64() * 1e3;
                format!("{address}: {}", milliseconds(Some(time)))
            }
            Ok(false) => format!("{address}: no answer within {} s", PATIENCE.as_secs()),
            Err(error) => format!("{address}: {error}"),
        };
        // The way it went by, as the daemon knows it now.
        let way = match report(&ping.control).await {
            Ok(report) => report
                .peers
                .iter()
                .find(|peer| peer.addresses.contains(&address))
                .map(way_of),
            Err(_) => None,
        };
        print(&format!("{line}{}\n", way.unwrap_or_default()));
    }
    print(&format!("{answered} of {} answered\n", ping.count));
    match answered {
        0 => Err(Error::Unanswered(format!("{} does not answer", ping.peer))),
        _ => Ok(()),
    }
}

fn way_of(peer: &PeerReport) -> String {
    let endpoint = peer.endpoint.as_deref().unwrap_or("-");
    format!(", {} {endpoint}: {}", peer.path, peer.why)
}

async fn report(control: &Path) -> Result<Report, Error> {
    let value = ask(control, &Request::Status)
        .await
        .map_err(Error::control(control))?;
    serde_json::from_value(value)
        .map_err(|error| Error::Unanswered(format!("its answer makes no sense: {error}")))
}

/// Which address is meant. Who has a key is asked of the hub.
async fn address_of(ping: &Ping) -> Result<IpAddr, Error> {
    let first = report(&ping.control).await?;
    if let Ok(address) = ping.peer.parse() {
        return Ok(address);
    }
    let key: Option<PeerId> = peer_from_base64(&ping.peer).ok();
    let is_meant = |peer: &&PeerReport| match key {
        Some(_) => peer.key == ping.peer,
        None => peer.name == ping.peer,
    };
    let known = |report: &Report| {
        let peer = report.peers.iter().find(is_meant)?;
        peer.addresses.first().copied()
    };
    if let Some(address) = known(&first) {
        return Ok(address);
    }
    let Some(key) = key else {
        let text = format!(
            "nobody named {} was spoken to yet: name its address or key",
            ping.peer
        );
        return Err(Error::Unanswered(text));
    };
    let connect = ask(&ping.control, &Request::Connect(Key(key))).await;
    connect.map_err(Error::control(&ping.control))?;
    let asked = Instant::now();
    while asked.elapsed() < LOOK_UP {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Some(address) = known(&report(&ping.control).await?) {
            return Ok(address);
        }
    }
    Err(Error::Unanswered(format!("no hub knows {}", ping.peer)))
}

/// A socket for echoes: what everybody may open where the system allows it, else what root may.
fn socket(address: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol))
        .or_else(|_| Socket::new(domain, Type::RAW, Some(protocol)))?;
    // Only what comes from there is heard.
    socket.connect(&SocketAddr::new(address, 0).into())?;
    Ok(socket)
}

/// An echo request (RFC 792, RFC 4443 §4.1). A ping socket puts its own identifier in; the checksum
/// of ICMPv6 is the kernel's.
fn request(address: IpAddr, sequence: u16) -> Vec<u8> {
    let kind = match address {
        IpAddr::V4(_) => 8,
        IpAddr::V6(_) => 128,
    };
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(&(std::process::id() as u16).to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(MARK);
    if address.is_ipv4() {
        let sum: u32 = message
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let sum = !((folded & 0xffff) + (folded >> 16)) as u16;
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Waits for the answer to this one.
fn answer(socket: &Socket, sequence: u16, asked: Instant) -> io::Result<bool> {
    let mut reader = socket;
    loop {
        let left = PATIENCE.saturating_sub(asked.elapsed());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        let mut buffer = [0; MAX_ANSWER];
        match reader.read(&mut buffer) {
            Ok(length) if is_answer(&buffer[..length], sequence) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// Whether this is the echo of what was sent; raw IPv4 sockets show the IP header, too.
fn is_answer(bytes: &[u8], sequence: u16) -> bool {
    let header = match bytes.first() {
        Some(first) if first >> 4 == 4 => usize::from(first & 15) * 4,
        _ => 0,
    };
    let Some((&[kind, 0, _, _, _, _, high, low], rest)) = bytes
        .get(header..)
        .and_then(|message| message.split_first_chunk::<8>())
    else {
        return false;
    };
    matches!(kind, 0 | 129) && u16::from_be_bytes([high, low]) == sequence && rest.starts_with(MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_repeats_number_and_mark() {
        let asked = request("10.0.0.1".parse().unwrap(), 7);
        let sum = asked
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum::<u32>();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the checksum");
        assert!(!is_answer(&asked, 7), "the question itself");
        let mut reply = asked.clone();
        reply[0] = 0;
        assert!(is_answer(&reply, 7));
        assert!(!is_answer(&reply, 8));
        let with_header = [&[0x45; 1][..], &[0; 19], &reply].concat();
        assert!(is_answer(&with_header, 7));
        for cut in 0..reply.len() {
            assert!(!is_answer(&reply[..cut], 7));
        }
    }
}
