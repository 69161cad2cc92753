//! Moves batches through a descriptor's read and write, one packet per call; decides which errors
//! are about the device.

use std::io;

use vpn_core::device::DeviceError;
use vpn_core::packet::{HEADROOM, PacketBatch};
use vpn_core::{DropCounters, DropReason, Offload, Packet};

use super::parts::{self, Stopped};
#[cfg(target_os = "linux")]
use super::vnet::{self, HEADER};

/// Largest packet a device with offload yields, in bytes.
#[cfg(target_os = "linux")]
const LARGEST: usize = u16::MAX as usize;

/// Bytes read from a device with offload before the batch goes on: a full one of super-packets would be 4 MiB.
/// So many stay in the processor's cache until they are sealed and sent, and who waits behind them
/// waits for a fraction of a millisecond.
#[cfg(target_os = "linux")]
const MAX_BYTES: usize = 256 * 1024;

#[cfg(target_os = "linux")]
thread_local! {
    /// Shared by all devices of a worker.
    static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

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
    mut write: impl FnMut(&Packet) -> io::Result<()>,
) -> Result<usize, DeviceError> {
    let (mut done, mut sent) = (0, 0);
    let mut failure = None;
    for packet in batch.packets() {
        match retry(|| write(packet)) {
            Ok(()) => sent += 1,
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

/// Writes a packet to a device without offload: as it is, or cut and completed.
pub(super) fn plainly(
    packet: &Packet,
    mut write: impl FnMut(&[u8]) -> io::Result<usize>,
) -> io::Result<()> {
    if packet.offload == Offload::NONE {
        return write(packet.bytes()).map(drop);
    }
    parts::each(packet, |part| write(part).map(drop)).map_err(|stopped| match stopped {
        Stopped::Before(error) => error,
        Stopped::Malformed => io::ErrorKind::InvalidInput.into(),
        // Sent again as a whole it would arrive twice.
        Stopped::Amid => io::ErrorKind::Other.into(),
    })
}

/// Reads packets with their offload description in front. `read` fills header and packet and says
/// how many bytes it wrote in all.
#[cfg(target_os = "linux")]
pub(super) fn receive_described(
    batch: &mut PacketBatch,
    drops: &mut DropCounters,
    mut read: impl FnMut(&mut [u8; HEADER], &mut [u8]) -> io::Result<usize>,
) -> Result<usize, DeviceError> {
    let (mut received, mut bytes_read) = (0, 0);
    let mut end = None;
    SCRATCH.with_borrow_mut(|scratch| {
        // Into one place, and from there to a buffer: clearing 64 KiB for each packet costs more
        // than copying most of them.
        scratch.resize(LARGEST, 0);
        while !batch.is_full() && bytes_read < MAX_BYTES {
            let mut header = [0; HEADER];
            let length = match retry(|| read(&mut header, scratch)) {
                Ok(length) => length.saturating_sub(HEADER),
                Err(error) => {
                    end = Some(error);
                    break;
                }
            };
            bytes_read += length;
            let bytes = scratch.get(..length).unwrap_or_default();
            let offload = match vnet::read(&header) {
                Some(offload) if length <= batch.pool_mut().largest_packet() => offload,
                _ => {
                    drops.count(DropReason::Malformed);
                    continue;
                }
            };
            received += usize::from(batch.push_with(|buf| {
                buf.extend_from_slice(bytes);
                Some(offload)
            }));
        }
    });
    match end {
        Some(error) if received == 0 && error.kind() != io::ErrorKind::WouldBlock => {
            Err(DeviceError::Io(error))
        }
        _ => Ok(received),
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

    /// L-23, S-23: an error about one packet ended all reading, or all writing.
    #[test]
    fn only_errors_about_the_device_are_fatal() {
        for code in [libc::EINVAL, libc::EMSGSIZE, libc::EIO, libc::ENOBUFS] {
            assert!(!is_fatal(&io::Error::from_raw_os_error(code)));
        }
        assert!(is_fatal(&io::Error::from_raw_os_error(libc::EBADFD)));
    }
}
