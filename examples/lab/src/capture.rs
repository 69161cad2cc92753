//! What an interface saw: a packet socket read by a thread, to prove that nothing went that way.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::LabError;
use crate::namespace::Namespace;

/// Packets kept; further ones are only counted.
const KEPT_MAX: usize = 65_536;

/// How often the thread looks whether it should end.
const LOOK_AROUND_MS: i64 = 20;

/// Bytes of packets the kernel may hold for us, so that a burst loses none.
const KERNEL_BUFFER: usize = 16 << 20;

/// `PACKET_OUTGOING` of packet(7).
const OUTGOING: u8 = 4;

/// One packet an interface saw.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Whether it left through the interface; otherwise it arrived.
    pub outgoing: bool,
    /// IP protocol number; of IPv6 the first next-header.
    pub protocol: u8,
    /// Source, with port 0 where the protocol has none or the packet is a later fragment.
    pub source: SocketAddr,
    /// Destination, likewise.
    pub destination: SocketAddr,
    /// IPv4 time to live, IPv6 hop limit.
    pub hops: u8,
    /// Length on the wire without the link header, in bytes, cut at 2,048.
    pub length: usize,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.outgoing { "out" } else { "in" };
        write!(
            f,
            "{direction} {} > {} proto {} hops {} length {}",
            self.source, self.destination, self.protocol, self.hops, self.length
        )
    }
}

#[derive(Debug, Default)]
struct Log {
    kept: Vec<Seen>,
    total: u64,
}

/// A running capture of the IP packets on one interface. ARP and the like are left out.
#[derive(Debug)]
pub struct Capture {
    log: Arc<Mutex<Log>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

impl Capture {
    /// Starts to listen on `interface` of `namespace`; every packet from now on is seen.
    pub fn start(namespace: &Namespace, interface: &str) -> Result<Self, LabError> {
        Self::start_for(namespace, interface, |_| true)
    }

    /// As [`start`](Self::start), for those packets only: a long capture keeps what matters.
    pub fn start_for(
        namespace: &Namespace,
        interface: &str,
        wanted: impl Fn(&Seen) -> bool + Send + 'static,
    ) -> Result<Self, LabError> {
        let failed = |errno: Errno| LabError::socket(format!("a capture of {interface}"), errno);
        let (fd, index) = namespace
            .run(|| {
                let index = if_nametoindex(interface)?;
                let fd = socket(
                    AddressFamily::Packet,
                    SockType::Datagram,
                    SockFlag::SOCK_CLOEXEC,
                    SockProtocol::EthAll,
                )?;
                setsockopt(&fd, sockopt::RcvBufForce, &KERNEL_BUFFER)
                    .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &KERNEL_BUFFER))?;
                let patience = TimeVal::milliseconds(LOOK_AROUND_MS);
                setsockopt(&fd, sockopt::ReceiveTimeout, &patience)?;
                Ok((fd, index as usize))
            })?
            .map_err(failed)?;
        let log = Arc::new(Mutex::new(Log::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log_in, stop_in) = (Arc::clone(&log), Arc::clone(&stop));
        let thread = namespace.thread(move || {
            let mut buffer = [0; 2048];
            loop {
                match recvfrom::<LinkAddr>(fd.as_raw_fd(), &mut buffer) {
                    // The socket hears all interfaces of the namespace.
                    Ok((length, Some(from))) if from.ifindex() == index => {
                        let seen = read(&buffer[..length], from.pkttype() == OUTGOING);
                        if let Some(seen) = seen.filter(|seen| wanted(seen)) {
                            let mut log = log_in.lock().unwrap_or_else(PoisonError::into_inner);
                            log.total += 1;
                            if log.kept.len() < KEPT_MAX {
                                log.kept.push(seen);
                            }
                        }
                    }
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) if !stop_in.load(Ordering::Acquire) => {}
                    // Told to stop and nothing is left, or the interface is gone.
                    Err(_) => return,
                }
            }
        })?;
        Ok(Self {
            log,
            stop,
            thread: Some(thread),
        })
    }

    /// The packets so far, oldest first.
    pub fn so_far(&self) -> Vec<Seen> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.kept.clone()
    }

    /// Ends the capture after everything that was under way has been read: the packets, oldest
    /// first (at most 65,536), and how many there were in all.
    pub fn finish(mut self) -> (Vec<Seen>, u64) {
        self.end();
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        (log.kept.clone(), log.total)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads addresses and ports; `None` for what is not IP.
fn read(packet: &[u8], outgoing: bool) -> Option<Seen> {
    let (protocol, source, destination, header): (u8, IpAddr, IpAddr, usize) =
        match packet.first()? >> 4 {
            4 => {
                let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
                let destination: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
                (
                    *packet.get(9)?,
                    Ipv4Addr::from(source).into(),
                    Ipv4Addr::from(destination).into(),
                    usize::from(packet[0] & 15) * 4,
                )
            }
            6 => {
                let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
                let destination: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
                (
                    *packet.get(6)?,
                    Ipv6Addr::from(source).into(),
                    Ipv6Addr::from(destination).into(),
                    40,
                )
            }
            _ => return None,
        };
    // A later fragment has payload where a port would be.
    let later = packet[0] >> 4 == 4 && (packet[6] & 0x1f, packet[7]) != (0, 0);
    let port = |at: usize| match (protocol, packet.get(at..at + 2)) {
        (6 | 17, Some(bytes)) if !later => u16::from_be_bytes([bytes[0], bytes[1]]),
        _ => 0,
    };
    let hops = packet[if packet[0] >> 4 == 4 { 8 } else { 7 }];
    Some(Seen {
        outgoing,
        protocol,
        hops,
        source: SocketAddr::new(source, port(header)),
        destination: SocketAddr::new(destination, port(header + 2)),
        length: packet.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn any_bytes_are_read_or_refused() {
        for length in 0..64_u8 {
            for first in 0..=255_u8 {
                let mut packet = vec![0xff; usize::from(length)];
                if let Some(byte) = packet.first_mut() {
                    *byte = first;
                }
                let _ = read(&packet, false);
            }
        }
    }

    #[test]
    fn ports_lie_behind_the_options() {
        let mut packet = vec![0; 32];
        packet[0] = 0x46;
        packet[8] = 190;
        packet[9] = 17;
        packet[24..28].copy_from_slice(&[0, 53, 0x80, 0]);
        let seen = read(&packet, true).expect("a packet");
        assert_eq!((seen.source.port(), seen.destination.port()), (53, 0x8000));
        assert_eq!(seen.hops, 190);
    }
}
