//! Addresses to listen on: one port for UDP, and for TLS over TCP.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;

/// How often another port is tried, where any is good and TCP has none of what UDP got.
const TRIES: usize = 16;

/// Sockets of a hub: bound, and made so that they avoid a capture, where there is one.
#[derive(Debug, Default)]
pub struct Listen {
    /// For datagrams: at most one of each family.
    pub udp: Vec<UdpSocket>,
    /// For streams. None: networks that block UDP cannot reach the hub.
    pub tcp: Vec<TcpListener>,
}

impl Listen {
    /// On these addresses, with `tls` on TCP as well. IPv6 sockets take IPv6 only.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn on(addresses: &[SocketAddr], tls: bool) -> io::Result<Self> {
        let mut listen = Self::default();
        for &address in addresses {
            let mut tries = 0;
            loop {
                tries += 1;
                let udp: UdpSocket = bound(address, Type::DGRAM, Protocol::UDP)?.into();
                if tls {
                    let tcp = bound(udp.local_addr()?, Type::STREAM, Protocol::TCP);
                    match tcp {
                        Ok(socket) => {
                            socket.listen(BACKLOG)?;
                            listen.tcp.push(socket.into());
                        }
                        Err(_) if address.port() == 0 && tries < TRIES => continue,
                        Err(error) => return Err(error),
                    }
                }
                listen.udp.push(udp);
                break;
            }
        }
        Ok(listen)
    }
}

fn bound(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        // A hub that is started again finds its port in use by connections that are over (TIME_WAIT).
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
