//! Decides whose a flow is among the sockets that could have sent it. Pure.

use std::net::{IpAddr, SocketAddr};

use vpn_core::flow::FlowKey;
use vpn_core::owner::{Doubt, SocketEvidence, SocketPart, SocketState};

/// One socket as the kernel describes it, addresses normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketRecord {
    pub(super) local: SocketAddr,
    /// Unspecified and port 0 if it is not connected. For a raw socket the port means nothing.
    pub(super) remote: SocketAddr,
    pub(super) uid: u32,
    /// 0 if no process holds it any more.
    pub(super) inode: u32,
    /// The interface it is bound to; 0 if it is not, or if the kernel does not say.
    pub(super) interface: u32,
    pub(super) state: SocketState,
}

/// The user of the flow, and the sockets (all of that user) that may have sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) uid: u32,
    pub(super) inodes: Vec<u32>,
}

/// How a kind of socket is compared with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    /// UDP by its port, ping by its identifier: both are the "port" of a flow.
    Datagram,
    Raw,
}

/// Of one answer to an exact question about TCP.
///
/// A listening socket answers for every peer, and TIME-WAIT has user 0 and no inode, as a
/// connection has whose process is gone: nobody can be told to have sent this.
pub(super) fn tcp(socket: &SocketRecord, flow: &FlowKey, interface: u32) -> Result<Found, Doubt> {
    match part(Kind::Tcp, socket, flow, interface) {
        SocketPart::Candidate => agree([socket]),
        SocketPart::Orphaned => Err(Doubt::Orphaned),
        _ => Err(Doubt::NoSocket),
    }
}

/// Of all sockets of one port (or echo identifier): those connected to the destination and those
/// not connected.
///
/// All sockets of the port have to be of one user, also those bound or connected elsewhere: one
/// packet may name its source (`IP_PKTINFO`) and its destination (`sendto`) against both, so that
/// anybody who has the port at some address can send from it at every other.
pub(super) fn datagram(
    sockets: &[SocketRecord],
    flow: &FlowKey,
    interface: u32,
) -> Result<Found, Doubt> {
    let here = |s: &&SocketRecord| {
        let has_port = s.local.port() == flow.src_port();
        has_port && part(Kind::Datagram, s, flow, interface) != SocketPart::OtherInterface
    };
    agree(sockets.iter().filter(here))?;
    let candidate =
        |s: &&SocketRecord| part(Kind::Datagram, s, flow, interface) == SocketPart::Candidate;
    agree(sockets.iter().filter(candidate))
}

/// Of all raw sockets of a family; their "port" is the protocol, 255 sends any.
///
/// What is connected elsewhere does not count: who may open a raw socket may forge any packet, so
/// this tells honest programs apart.
pub(super) fn raw(
    sockets: &[SocketRecord],
    flow: &FlowKey,
    interface: u32,
) -> Result<Found, Doubt> {
    let candidate =
        |s: &&SocketRecord| part(Kind::Raw, s, flow, interface) == SocketPart::Candidate;
    agree(sockets.iter().filter(candidate))
}

/// What a socket has to do with a flow that came from `interface` (0: from any).
pub(super) fn part(
    kind: Kind,
    socket: &SocketRecord,
    flow: &FlowKey,
    interface: u32,
) -> SocketPart {
    const ANY_PROTOCOL: u16 = 255;
    let fits = |bound: IpAddr, addr: IpAddr| bound.is_unspecified() || bound == addr;
    let open = socket.remote.ip().is_unspecified() && socket.remote.port() == 0;
    let protocol = u16::from(flow.protocol().0);
    let (from, to) = match kind {
        Kind::Tcp => (
            socket.local == source(flow),
            socket.remote == destination(flow),
        ),
        Kind::Datagram => (
            socket.local.port() == flow.src_port() && fits(socket.local.ip(), flow.src()),
            open || match flow.protocol().is_icmp() {
                true => socket.remote.ip() == flow.dst(),
                false => socket.remote == destination(flow),
            },
        ),
        Kind::Raw => (
            [protocol, ANY_PROTOCOL].contains(&socket.local.port())
                && fits(socket.local.ip(), flow.src()),
            fits(socket.remote.ip(), flow.dst()),
        ),
    };
    if interface != 0 && socket.interface != 0 && socket.interface != interface {
        SocketPart::OtherInterface
    } else if socket.state == SocketState::Listening {
        SocketPart::Listens
    } else if !from {
        SocketPart::OtherSource
    } else if !to {
        SocketPart::OtherDestination
    } else if socket.inode == 0 {
        SocketPart::Orphaned
    } else {
        SocketPart::Candidate
    }
}

impl SocketRecord {
    /// For people.
    pub(super) fn evidence(&self, kind: Kind, flow: &FlowKey, interface: u32) -> SocketEvidence {
        SocketEvidence {
            local: self.local,
            remote: self.remote,
            uid: self.uid,
            socket: self.inode.into(),
            device: (self.interface != 0).then_some(self.interface),
            state: self.state,
            part: part(kind, self, flow, interface),
        }
    }
}

/// All of one user, and each held by a process.
fn agree<'a>(sockets: impl IntoIterator<Item = &'a SocketRecord>) -> Result<Found, Doubt> {
    let mut found: Option<Found> = None;
    for socket in sockets {
        if socket.inode == 0 {
            return Err(Doubt::Orphaned);
        }
        match &mut found {
            None => {
                found = Some(Found {
                    uid: socket.uid,
                    inodes: vec![socket.inode],
                });
            }
            Some(found) if found.uid != socket.uid => return Err(Doubt::SeveralUsers),
            Some(found) => found.inodes.push(socket.inode),
        }
    }
    found.ok_or(Doubt::NoSocket)
}

fn source(flow: &FlowKey) -> SocketAddr {
    SocketAddr::new(flow.src(), flow.src_port())
}

fn destination(flow: &FlowKey) -> SocketAddr {
    SocketAddr::new(flow.dst(), flow.dst_port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpn_core::flow::Protocol;

    /// The interface the packets come from.
    const TUN: u32 = 7;

    fn socket(local: &str, remote: &str, uid: u32, inode: u32) -> SocketRecord {
        let remote: SocketAddr = remote.parse().unwrap();
        SocketRecord {
            local: local.parse().unwrap(),
            remote,
            uid,
            inode,
            interface: 0,
            state: match remote.ip().is_unspecified() {
                true => SocketState::Open,
                false => SocketState::Connected,
            },
        }
    }

    fn flow(protocol: Protocol) -> FlowKey {
        FlowKey::new(
            protocol,
            ([10, 5, 0, 2].into(), 5000),
            ([192, 0, 2, 1].into(), 53),
        )
    }

    const OPEN: &str = "0.0.0.0:0";

    #[test]
    fn time_wait_and_listeners_are_nobody() {
        let key = flow(Protocol::TCP);
        let mine = socket("10.5.0.2:5000", "192.0.2.1:53", 7, 9);
        assert_eq!(tcp(&mine, &key, TUN).unwrap().uid, 7);
        let time_wait = SocketRecord {
            uid: 0,
            inode: 0,
            ..mine
        };
        assert_eq!(tcp(&time_wait, &key, TUN), Err(Doubt::Orphaned));
        let listener = SocketRecord {
            state: SocketState::Listening,
            ..socket("0.0.0.0:5000", OPEN, 7, 9)
        };
        assert_eq!(tcp(&listener, &key, TUN), Err(Doubt::NoSocket));
        assert_eq!(part(Kind::Tcp, &listener, &key, TUN), SocketPart::Listens);
    }

    #[test]
    fn a_shared_port_of_several_users_is_nobodys() {
        let key = flow(Protocol::UDP);
        let of = |sockets: &[SocketRecord]| datagram(sockets, &key, TUN);
        let open = socket("0.0.0.0:5000", OPEN, 1, 11);
        let bound = socket("10.5.0.2:5000", OPEN, 2, 12);
        let here = socket("10.5.0.2:5000", "192.0.2.1:53", 2, 13);
        let mine_too = socket("10.5.0.2:5000", "192.0.2.9:53", 2, 14);
        assert_eq!(of(&[open, bound]), Err(Doubt::SeveralUsers));
        assert_eq!(of(&[open, here]), Err(Doubt::SeveralUsers));
        assert_eq!(of(&[bound, here]).unwrap().inodes, [12, 13]);
        assert_eq!(of(&[here, mine_too]).unwrap().inodes, [13]);
        assert_eq!(of(&[mine_too]), Err(Doubt::NoSocket));
        // Neither being connected elsewhere nor another address keeps one from sending this.
        let connected_elsewhere = socket("10.5.0.2:5000", "192.0.2.9:53", 3, 15);
        let bound_elsewhere = socket("10.9.9.9:5000", OPEN, 4, 16);
        assert_eq!(of(&[here, connected_elsewhere]), Err(Doubt::SeveralUsers));
        assert_eq!(of(&[open, bound_elsewhere]), Err(Doubt::SeveralUsers));
        let other_port = socket("0.0.0.0:5001", OPEN, 5, 17);
        assert_eq!(of(&[open, other_port]).unwrap().uid, 1);
    }

    #[test]
    fn what_is_bound_to_another_interface_did_not_send_it() {
        let key = flow(Protocol::UDP);
        let open = socket("0.0.0.0:5000", OPEN, 1, 11);
        let on = |interface| SocketRecord {
            interface,
            ..socket("0.0.0.0:5000", OPEN, 2, 12)
        };
        assert_eq!(datagram(&[open, on(3)], &key, TUN).unwrap().uid, 1);
        assert_eq!(datagram(&[on(3)], &key, TUN), Err(Doubt::NoSocket));
        assert_eq!(datagram(&[on(TUN)], &key, TUN).unwrap().uid, 2);
        let both = [open, on(TUN)];
        assert_eq!(datagram(&both, &key, TUN), Err(Doubt::SeveralUsers));
        assert_eq!(datagram(&[open, on(3)], &key, 0), Err(Doubt::SeveralUsers));
    }

    #[test]
    fn raw_sockets_of_several_users_are_nobodys() {
        let key = flow(Protocol::ICMP);
        let of = |sockets: &[SocketRecord]| raw(sockets, &key, TUN);
        let ping = socket("0.0.0.0:1", OPEN, 0, 1);
        let other = socket("0.0.0.0:1", OPEN, 5, 2);
        let any = socket("0.0.0.0:255", OPEN, 5, 3);
        let gre = socket("0.0.0.0:47", OPEN, 5, 4);
        let elsewhere = socket("0.0.0.0:1", "198.51.100.1:0", 5, 5);
        assert_eq!(of(&[ping, gre, elsewhere]).unwrap().uid, 0);
        assert_eq!(of(&[ping, other]), Err(Doubt::SeveralUsers));
        assert_eq!(of(&[ping, any]), Err(Doubt::SeveralUsers));
        assert_eq!(of(&[ping, ping]).unwrap().inodes.len(), 2);
    }
}
