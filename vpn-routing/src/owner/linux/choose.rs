//! Decides whose a flow is among the sockets that could have sent it. Pure.

use std::net::{IpAddr, SocketAddr};

use vpn_core::flow::FlowKey;

/// One socket as the kernel describes it, addresses normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketRecord {
    pub(super) local: SocketAddr,
    /// Unspecified and port 0 if it is not connected. For a raw socket the port means nothing.
    pub(super) remote: SocketAddr,
    pub(super) uid: u32,
    /// 0 if no process holds it any more.
    pub(super) inode: u32,
}

/// The user of the flow, and the sockets (all of that user) that may have sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) uid: u32,
    pub(super) inodes: Vec<u32>,
}

/// Of one answer to an exact question about TCP.
///
/// A listening socket answers for every peer, and TIME-WAIT has user 0 and no inode: neither sent
/// this.
pub(super) fn tcp(socket: &SocketRecord, flow: &FlowKey) -> Option<Found> {
    let same = socket.local == source(flow) && socket.remote == destination(flow);
    if same { agree([socket]) } else { None }
}

/// Of all sockets of one port (or echo identifier): those connected to the destination, else
/// those not connected.
pub(super) fn datagram(sockets: &[SocketRecord], flow: &FlowKey) -> Option<Found> {
    let mine =
        |s: &&SocketRecord| s.local.port() == flow.src_port() && fits(s.local.ip(), flow.src());
    let connected = |s: &&SocketRecord| match flow.protocol().is_icmp() {
        true => s.remote.ip() == flow.dst(),
        false => s.remote == destination(flow),
    };
    let open = |s: &&SocketRecord| s.remote.ip().is_unspecified() && s.remote.port() == 0;
    let local = || sockets.iter().filter(mine);
    if local().any(|s| connected(&s)) {
        // One that is not connected may send to the same place: it has to be the same user's.
        return agree(local().filter(|s| connected(s) || open(s)));
    }
    agree(local().filter(open))
}

/// Of all raw sockets of a family; their "port" is the protocol, 255 sends any.
pub(super) fn raw(sockets: &[SocketRecord], flow: &FlowKey) -> Option<Found> {
    const ANY_PROTOCOL: u16 = 255;
    let protocol = u16::from(flow.protocol().0);
    agree(sockets.iter().filter(|s| {
        (s.local.port() == protocol || s.local.port() == ANY_PROTOCOL)
            && fits(s.local.ip(), flow.src())
            && fits(s.remote.ip(), flow.dst())
    }))
}

/// All of one user, and each held by a process; `None` otherwise, or if there is none.
fn agree<'a>(sockets: impl IntoIterator<Item = &'a SocketRecord>) -> Option<Found> {
    let mut found: Option<Found> = None;
    for socket in sockets {
        if socket.inode == 0 {
            return None;
        }
        match &mut found {
            None => {
                found = Some(Found {
                    uid: socket.uid,
                    inodes: vec![socket.inode],
                });
            }
            Some(found) if found.uid != socket.uid => return None,
            Some(found) => found.inodes.push(socket.inode),
        }
    }
    found
}

fn fits(bound: IpAddr, addr: IpAddr) -> bool {
    bound.is_unspecified() || bound == addr
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

    fn socket(local: &str, remote: &str, uid: u32, inode: u32) -> SocketRecord {
        SocketRecord {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            uid,
            inode,
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
        assert_eq!(tcp(&mine, &key).unwrap().uid, 7);
        assert_eq!(
            tcp(
                &SocketRecord {
                    uid: 0,
                    inode: 0,
                    ..mine
                },
                &key
            ),
            None
        );
        assert_eq!(tcp(&socket("0.0.0.0:5000", OPEN, 7, 9), &key), None);
    }

    #[test]
    fn a_shared_port_of_several_users_is_nobodys() {
        let key = flow(Protocol::UDP);
        let open = socket("0.0.0.0:5000", OPEN, 1, 11);
        let bound = socket("10.5.0.2:5000", OPEN, 2, 12);
        let here = socket("10.5.0.2:5000", "192.0.2.1:53", 2, 13);
        let there = socket("10.5.0.2:5000", "192.0.2.9:53", 3, 14);
        assert_eq!(datagram(&[open, bound], &key), None);
        assert_eq!(datagram(&[open, here], &key), None);
        assert_eq!(datagram(&[here, there], &key).unwrap().inodes, [13]);
        assert_eq!(datagram(&[bound, here], &key).unwrap().inodes, [12, 13]);
        assert_eq!(datagram(&[open, there], &key).unwrap().uid, 1);
        let other_address = socket("10.9.9.9:5000", OPEN, 4, 15);
        assert_eq!(datagram(&[open, other_address], &key).unwrap().uid, 1);
    }

    #[test]
    fn raw_sockets_of_several_users_are_nobodys() {
        let key = flow(Protocol::ICMP);
        let ping = socket("0.0.0.0:1", OPEN, 0, 1);
        let other = socket("0.0.0.0:1", OPEN, 5, 2);
        let any = socket("0.0.0.0:255", OPEN, 5, 3);
        let gre = socket("0.0.0.0:47", OPEN, 5, 4);
        let elsewhere = socket("0.0.0.0:1", "198.51.100.1:0", 5, 5);
        assert_eq!(raw(&[ping, gre, elsewhere], &key).unwrap().uid, 0);
        assert_eq!(raw(&[ping, other], &key), None);
        assert_eq!(raw(&[ping, any], &key), None);
        assert_eq!(raw(&[ping, ping], &key).unwrap().inodes.len(), 2);
    }
}
