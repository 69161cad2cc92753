//! Touches the kernel: asks `sock_diag` over one netlink socket.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use vpn_core::flow::{Family, FlowKey, Protocol};
use vpn_core::owner::SocketState;

use super::choose::SocketRecord;
use super::normal;

/// "Any cookie": the kernel then compares addresses only.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// The kernel fills at most 32 KiB per answer of a dump.
const BUFFER: usize = 32 * 1024;

/// How many sockets may share one port before the owner counts as unknown.
pub(super) const MAX_SHARERS: usize = 256;

/// How many datagrams one answer may take: bounds the loop also if the kernel misbehaves.
const MAX_DATAGRAMS: usize = 64;

/// An open `sock_diag` socket. It belongs to the network namespace it was opened in.
pub(super) struct Diag {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Diag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Diag").finish_non_exhaustive()
    }
}

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        // The kernel answers within `send`, so an answer that is not there will not come.
        socket.set_non_blocking(true)?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// The one socket the kernel would give an answer of this flow to.
    pub(super) fn exact(
        &mut self,
        flow: &FlowKey,
        interface: u32,
    ) -> io::Result<Option<SocketRecord>> {
        let local = (flow.src(), flow.src_port());
        let remote = (flow.dst(), flow.dst_port());
        // For UDP the kernel reads the ends the other way round, "for historical reasons".
        let swapped = flow.protocol() == Protocol::UDP;
        let (source, destination) = if swapped {
            (remote, local)
        } else {
            (local, remote)
        };
        let id = SocketId {
            source_address: source.0,
            source_port: source.1,
            destination_address: destination.0,
            destination_port: destination.1,
            interface_id: interface,
            cookie: NO_COOKIE,
        };
        let mut answer = None;
        let asked = self.ask(flow.protocol(), flow.family(), id, 0, &mut |response| {
            answer = Some(record(response));
        });
        match asked {
            Ok(()) => Ok(answer),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every UDP socket of the flow's source port that could send in its family, or one more than
    /// [`MAX_SHARERS`] of them.
    pub(super) fn udp_port(&mut self, flow: &FlowKey) -> io::Result<Vec<SocketRecord>> {
        // IPv4 is also sent by sockets of IPv6 that are not limited to it.
        let families: &[Family] = match flow.family() {
            Family::V4 => &[Family::V4, Family::V6],
            Family::V6 => &[Family::V6],
        };
        let mut sockets = Vec::new();
        for &family in families {
            let any: IpAddr = match family {
                Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
            };
            let id = SocketId {
                source_address: any,
                // A dump is filtered by the port, in the kernel.
                source_port: flow.src_port(),
                destination_address: any,
                destination_port: 0,
                interface_id: 0,
                cookie: NO_COOKIE,
            };
            self.ask(Protocol::UDP, family, id, NLM_F_DUMP, &mut |response| {
                if (family == flow.family() || !v6_only(response)) && sockets.len() <= MAX_SHARERS {
                    sockets.push(record(response));
                }
            })?;
        }
        Ok(sockets)
    }

    fn ask(
        &mut self,
        protocol: Protocol,
        family: Family,
        socket_id: SocketId,
        flags: u16,
        each: &mut dyn FnMut(&InetResponse),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let request = SockDiagMessage::InetRequest(InetRequest {
            family: match family {
                Family::V4 => AF_INET,
                Family::V6 => AF_INET6,
            },
            protocol: protocol.0,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id,
        });
        let mut message = NetlinkMessage::new(header, request.into());
        message.finalize();
        self.buffer.resize(message.buffer_len(), 0);
        message.serialize(&mut self.buffer);
        self.socket.send(&self.buffer, 0)?;
        for _ in 0..MAX_DATAGRAMS {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            if take(&self.buffer, self.sequence, flags & NLM_F_DUMP != 0, each)? {
                return Ok(());
            }
        }
        Err(ErrorKind::InvalidData.into())
    }
}

/// Reads the messages of one datagram; answers whether it was the last.
fn take(
    mut bytes: &[u8],
    sequence: u32,
    dump: bool,
    each: &mut dyn FnMut(&InetResponse),
) -> io::Result<bool> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(bytes)
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        let length = (message.header.length as usize).next_multiple_of(4);
        bytes = bytes.get(length.max(1)..).unwrap_or_default();
        // An answer to an earlier question that was given up.
        if message.header.sequence_number != sequence {
            continue;
        }
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                each(&response);
                if !dump {
                    return Ok(true);
                }
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            _ => {}
        }
    }
    Ok(false)
}

fn record(response: &InetResponse) -> SocketRecord {
    let header = &response.header;
    let id = &header.socket_id;
    let remote = SocketAddr::new(normal(id.destination_address), id.destination_port);
    SocketRecord {
        local: SocketAddr::new(normal(id.source_address), id.source_port),
        remote,
        uid: header.uid,
        inode: header.inode,
        interface: id.interface_id,
        state: state_of(header.state, &remote),
    }
}

/// From the states of TCP (`include/net/tcp_states.h`), which other protocols borrow.
pub(super) fn state_of(state: u8, remote: &SocketAddr) -> SocketState {
    const FIN_WAIT1: u8 = 4;
    const TIME_WAIT: u8 = 6;
    const LAST_ACK: u8 = 9;
    const LISTEN: u8 = 10;
    const CLOSING: u8 = 11;
    match state {
        LISTEN => SocketState::Listening,
        FIN_WAIT1..=TIME_WAIT | LAST_ACK | CLOSING => SocketState::Closing,
        _ if remote.ip().is_unspecified() && remote.port() == 0 => SocketState::Open,
        _ => SocketState::Connected,
    }
}

/// Whether an IPv6 socket is without IPv4. The kernel says so of sockets that are not connected.
fn v6_only(response: &InetResponse) -> bool {
    response
        .nlas
        .iter()
        .any(|nla| matches!(nla, Nla::SkV6Only(true)))
}
