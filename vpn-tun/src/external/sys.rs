//! Touches packet sockets: the only unsafe code of external tunnels.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::unix::AsyncFd;

/// A socket for all packets of one interface, and of no other (packet(7)).
///
/// It starts with protocol 0 and so hears nothing until it is bound: a packet of another interface
/// that came in between would be taken for one of this.
pub(super) fn open(index: u32) -> io::Result<AsyncFd<Socket>> {
    let socket = Socket::new_raw(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
    // What we send ourselves is no packet of the tunnel.
    set(&socket, libc::PACKET_IGNORE_OUTGOING, 1)?;
    // Each packet with its offload description in front (virtio_net_hdr).
    set(&socket, libc::PACKET_VNET_HDR, 1)?;
    // SAFETY: the closure writes a whole `sockaddr_ll` to storage that is large enough for any
    // address and zeroed, and sets its length.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            (*address).sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    socket.bind(&address)?;
    register(socket)
}

/// Has tokio watch a socket.
pub(super) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor and is moved in, so it stays open, and the same, until
    // it is dropped together with its registration.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

fn set(socket: &Socket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the socket is open as long as it is borrowed; `value` is live and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
