//! Touches marked sockets to ask resolvers for a name, and `/etc/hosts`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::MarkedUnderlay;
use super::question::{Answer, Kind, Query};

/// Time for one resolver to answer both questions; libc waits 5 s, too long for a reconnect.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often each resolver is asked.
const ROUNDS: usize = 2;
/// Port of resolvers (RFC 1035 §4.2).
const PORT: u16 = 53;
/// Largest answer over UDP that is read, in bytes. We don't ask for more than 512.
const MAX_ANSWER: usize = 4096;

/// The addresses that a hosts(5) file has for a name.
pub(super) fn in_hosts(path: &Path, host: &str) -> Vec<IpAddr> {
    let Ok(text) = std::fs::read_to_string(path) else {
        return Vec::new();
    };
    let host = host.trim_end_matches('.');
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else {
            continue;
        };
        if words.any(|name| name.eq_ignore_ascii_case(host)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// Asks each resolver in turn for both kinds of address. The error says what went wrong last.
pub(super) async fn ask(
    underlay: &MarkedUnderlay,
    servers: &[IpAddr],
    host: &str,
) -> Result<Vec<IpAddr>, String> {
    let mut problem = String::from("no resolver is known");
    for _ in 0..ROUNDS {
        for server in servers {
            match ask_one(underlay, SocketAddr::new(*server, PORT), host).await {
                Ok(Some(found)) if found.is_empty() => return Err("it has no address".into()),
                Ok(Some(found)) => return Ok(found),
                Ok(None) => return Err("it does not exist".into()),
                Err(error) => problem = format!("{server}: {error}"),
            }
        }
    }
    Err(problem)
}

/// The addresses, or `None` if the server says that there is no such name.
async fn ask_one(
    underlay: &MarkedUnderlay,
    server: SocketAddr,
    host: &str,
) -> Result<Option<Vec<IpAddr>>, String> {
    // Connected: the kernel takes answers from the server's address and port only, and tells
    // when nobody listens there. Its port is random (RFC 5452 §9.2).
    let socket = underlay.connected(server).map_err(|e| e.to_string())?;
    let socket = UdpSocket::from_std(socket).map_err(|e| e.to_string())?;
    let mut open = vec![Query::new(host, Kind::Aaaa), Query::new(host, Kind::A)];
    for query in &open {
        let message = query.message().ok_or("it is not a domain name")?;
        socket.send(&message).await.map_err(|e| e.to_string())?;
    }
    let mut found = Vec::new();
    let mut failure = None;
    let answers = async {
        let mut message = [0; MAX_ANSWER];
        while !open.is_empty() {
            let length = socket.recv(&mut message).await.map_err(|e| e.to_string())?;
            let answer = open.iter().enumerate().find_map(|(i, query)| {
                let bytes = message.get(..length)?;
                Some((i, query.answer(bytes)?))
            });
            let Some((i, answer)) = answer else { continue };
            open.swap_remove(i);
            match answer {
                Answer::Addresses(addresses) => found.extend(addresses),
                Answer::NoSuchName => return Ok(None),
                Answer::Truncated => {
                    failure = Some("the answer does not fit into a datagram".to_owned());
                }
                Answer::Failed(code) => failure = Some(format!("the resolver says {code:?}")),
            }
        }
        Ok(Some(()))
    };
    match timeout(TIMEOUT, answers).await {
        Ok(Ok(None)) => Ok(None),
        // One kind is enough: some resolvers never answer the other.
        _ if !found.is_empty() => Ok(Some(found)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(failure.unwrap_or_else(|| "no answer in time".into())),
        Ok(Ok(Some(()))) => failure.map_or(Ok(Some(found)), Err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_files_are_read_as_the_manual_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        std::fs::write(
            &path,
            "# 192.0.2.9 vpn\n192.0.2.1 a VPN.example # b\nbad vpn.example\n2001:db8::1\tvpn.example\n",
        )
        .unwrap();
        let found = in_hosts(&path, "vpn.example.");
        assert_eq!(
            found,
            [
                "192.0.2.1".parse::<IpAddr>().unwrap(),
                "2001:db8::1".parse().unwrap()
            ]
        );
        assert!(in_hosts(&path, "b").is_empty());
        assert!(in_hosts(Path::new("/nonexistent"), "a").is_empty());
    }
}
