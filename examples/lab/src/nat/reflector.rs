//! The reflector: answers who asks with the address it was asked from; and who asks it.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::error::LabError;
use crate::namespace::{Namespace, RuntimeHandle};

/// Its ports at each address of the hub, UDP and TCP.
pub const REFLECTOR_PORTS: [u16; 2] = [7001, 7002];

/// A question is sent again after this time, so often: nothing else is on these cables, so what is
/// unanswered then is unanswerable.
const RESEND: Duration = Duration::from_millis(200);
const QUESTIONS: usize = 4;

/// Longest answer: an IPv6 address with its port.
const ANSWER_MAX: usize = 64;

/// How two destinations see one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// As the same address and port.
    EndpointIndependent,
    /// Each as another one.
    EndpointDependent,
    /// Not at all.
    None,
}

/// Starts it at all ports of these addresses.
pub(super) fn start(
    namespace: &Namespace,
    addresses: &[IpAddr],
) -> Result<RuntimeHandle, LabError> {
    let (udp, tcp) = namespace
        .run(|| {
            let places = addresses
                .iter()
                .flat_map(|ip| REFLECTOR_PORTS.map(|port| SocketAddr::new(*ip, port)));
            let mut sockets = (Vec::new(), Vec::new());
            for place in places {
                let socket = UdpSocket::bind(place)?;
                socket.set_nonblocking(true)?;
                sockets.0.push(socket);
                let listener = TcpListener::bind(place)?;
                listener.set_nonblocking(true)?;
                sockets.1.push(listener);
            }
            Ok(sockets)
        })?
        .map_err(|cause: io::Error| LabError::socket("a reflector", cause))?;
    namespace.runtime(move || async move {
        for socket in udp {
            tokio::spawn(reflect(socket));
        }
        for listener in tcp {
            tokio::spawn(reflect_tcp(listener));
        }
        std::future::pending::<()>().await;
    })
}

async fn reflect(socket: UdpSocket) {
    let Ok(socket) = tokio::net::UdpSocket::from_std(socket) else {
        return;
    };
    let mut buffer = [0; ANSWER_MAX];
    loop {
        if let Ok((_, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(from.to_string().as_bytes(), from).await;
        }
    }
}

async fn reflect_tcp(listener: TcpListener) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    loop {
        if let Ok((mut stream, from)) = listener.accept().await {
            let _ = stream.write_all(from.to_string().as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    }
}

/// How `reflector` sees this socket; an error of kind `TimedOut` where nothing comes back.
pub fn reflexive(socket: &UdpSocket, reflector: SocketAddr) -> io::Result<SocketAddr> {
    socket.set_read_timeout(Some(RESEND))?;
    let mut buffer = [0; ANSWER_MAX];
    for _ in 0..QUESTIONS {
        socket.send_to(b"?", reflector)?;
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if from == reflector => return parse(&buffer[..length]),
            // A late answer to an earlier question, or of a peer.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// How `reflector` sees a TCP connection of ours.
pub fn reflexive_tcp(reflector: SocketAddr) -> io::Result<SocketAddr> {
    let limit = RESEND * QUESTIONS as u32;
    let stream = TcpStream::connect_timeout(&reflector, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX as u64).read_to_end(&mut answer)?;
    parse(&answer)
}

/// How the NAT maps a new socket of ours toward both ports of a reflector.
pub fn mapping(reflector: IpAddr) -> io::Result<Mapping> {
    let any = if reflector.is_ipv6() {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any)?;
    let mut seen = REFLECTOR_PORTS
        .iter()
        .map(|port| reflexive(&socket, SocketAddr::new(reflector, *port)));
    match (seen.next(), seen.next()) {
        (Some(Ok(one)), Some(Ok(two))) if one == two => Ok(Mapping::EndpointIndependent),
        (Some(Ok(_)), Some(Ok(_))) => Ok(Mapping::EndpointDependent),
        (Some(Err(error)), _) | (_, Some(Err(error)))
            if error.kind() != io::ErrorKind::TimedOut =>
        {
            Err(error)
        }
        _ => Ok(Mapping::None),
    }
}

fn parse(answer: &[u8]) -> io::Result<SocketAddr> {
    std::str::from_utf8(answer)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an address"))
}
