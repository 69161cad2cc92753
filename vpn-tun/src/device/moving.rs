//! Moves batches through a descriptor's read and write, one packet per call; decides which errors
//! are about the device.

use std::io;

use vpn_core::device::DeviceError;
use vpn_core::packet::{HEADROOM, PacketBatch};
use vpn_core::{DropCounters, DropReason, Offload};

/// Reads packets until the batch is full or nothing is left. `read` fills a packet's place and says
/// how many bytes it wrote.
pub(super) fn receive(
    batch: &mut PacketBatch,
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> Result<usize, DeviceError> {
    let room = batch.pool_mut().largest_packet();
    let mut received = 0;
    let mut end = None;
    while !batch.is_full() {
        let filled = batch.push_with(|buf| {
            buf.resize(HEADROOM + room, 0);
            match retry(|| read(&mut buf[HEADROOM..])) {
                Ok(length) => {
                    buf.truncate(HEADROOM + length.min(room));
                    Some(Offload::NONE)
                }
                Err(error) => {
                    end = Some(error);
                    None
                }
            }
        });
        if !filled {
            break;
        }
        received += 1;
    }
    match end {
        // What was received comes first; the error comes again with the next call.
        Some(error) if received == 0 && error.kind() != io::ErrorKind::WouldBlock => {
            Err(DeviceError::Io(error))
        }
        _ => Ok(received),
    }
}

/// Writes packets until all are written or the device takes no more. A packet that is refused is
/// counted, and its batch-mates go on.
pub(super) fn send(
    batch: &mut PacketBatch,
    drops: &mut DropCounters,
    mut write: impl FnMut(&[u8]) -> io::Result<usize>,
) -> Result<usize, DeviceError> {
    let (mut done, mut sent) = (0, 0);
    let mut failure = None;
    for packet in batch.packets() {
        match retry(|| write(packet.bytes())) {
            Ok(_) => sent += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if is_fatal(&error) => {
                failure = Some(error);
                break;
            }
            Err(_) => drops.count(DropReason::Refused),
        }
        done += 1;
    }
    batch.recycle_front(done);
    match failure {
        Some(error) if done == 0 => Err(DeviceError::Io(error)),
        _ => Ok(sent),
    }
}

/// Repeats what a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Whether an error of a write is about the device, not about one packet.
fn is_fatal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADF | libc::EBADFD | libc::ENODEV | libc::ENXIO)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_about_the_device_are_fatal() {
        for code in [libc::EINVAL, libc::EMSGSIZE, libc::EIO, libc::ENOBUFS] {
            assert!(!is_fatal(&io::Error::from_raw_os_error(code)));
        }
        assert!(is_fatal(&io::Error::from_raw_os_error(libc::EBADFD)));
    }
}
