//! Reads and writes of one packet, over a socket that tokio watches.

use std::io::{self, IoSlice, Read};

use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Reads of one call: packets that are dropped do not fill its batch, and there may be no end of
/// them.
pub(super) const READS: usize = 1024;

/// Reads one packet; `WouldBlock` if there is none.
pub(super) fn read(socket: &AsyncFd<Socket>, into: &mut [u8]) -> io::Result<usize> {
    retried(|| socket.try_io(Interest::READABLE, |mut socket: &Socket| socket.read(into)))
}

/// Writes one packet; `WouldBlock` if there is no room.
pub(super) fn write(socket: &AsyncFd<Socket>, bytes: &[u8]) -> io::Result<()> {
    write_parts(socket, &[IoSlice::new(bytes)])
}

/// Writes one packet, of these parts.
pub(super) fn write_parts(socket: &AsyncFd<Socket>, parts: &[IoSlice<'_>]) -> io::Result<()> {
    retried(|| {
        socket.try_io(Interest::WRITABLE, |socket: &Socket| {
            // An end that is closed is an error here, and no signal to the program we are part of.
            socket.send_vectored_with_flags(parts, libc::MSG_NOSIGNAL)
        })
    })
    .map(drop)
}

fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Ready until a call finds nothing: that call clears it.
pub(super) async fn readable(socket: &AsyncFd<Socket>) -> io::Result<()> {
    let ready = socket.readable().await;
    ready.map(|mut guard| guard.retain_ready())
}

pub(super) async fn writable(socket: &AsyncFd<Socket>) -> io::Result<()> {
    let ready = socket.writable().await;
    ready.map(|mut guard| guard.retain_ready())
}
