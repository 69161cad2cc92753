//! Touches the network: one UDP socket, with segmentation and coalescing where the system has them.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;

/// Largest UDP payload, and so largest coalesced receive, in bytes.
const MAX_DATAGRAM: usize = 65_535;

/// Receive buffers per worker thread: what one `recvmmsg` fills. Eight of 64 KiB stay in L2, and
/// with coalescing hold up to 512 datagrams.
const RX_BUFFERS: usize = 8;

/// Bytes of one segmented send: the largest UDP payload over IPv6 without jumbograms is 65,487.
const MAX_RUN_BYTES: usize = 65_000;

/// Requested socket buffers, in bytes: about 25 ms at 1 Gbit/s. The system may grant less.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// How Linux says that it cannot segment (udp(7) `UDP_SEGMENT`, errno(3)).
const EIO: i32 = 5;
const EINVAL: i32 = 22;

thread_local! {
    /// Shared by all transports a worker drives, so that a waiting transport holds no buffer.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    received: Vec<Vec<u8>>,
    /// Datagrams are decrypted in place in pieces of these, one for each buffer: the memory is used
    /// again once all pieces are dropped, and none has to be asked for.
    arenas: [BytesMut; RX_BUFFERS],
}

/// Datagrams from one sender, of `stride` bytes each but the last.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) from: SocketAddr,
    /// At which of our addresses, if the system says.
    #[cfg(feature = "mesh")]
    pub(crate) at: Option<IpAddr>,
    stride: usize,
    bytes: BytesMut,
}

impl Received {
    /// Bytes of the datagrams that are left.
    pub(crate) fn bytes_left(&self) -> usize {
        self.bytes.len()
    }

    /// From whom, the length of each datagram but the last, and all of them.
    #[cfg(feature = "mesh")]
    pub(crate) fn into_parts(self) -> (SocketAddr, usize, BytesMut) {
        (self.from, self.stride.max(1), self.bytes)
    }

    /// Takes the first datagram.
    pub(crate) fn pop(&mut self) -> Option<BytesMut> {
        if self.bytes.is_empty() {
            return None;
        }
        let len = self.stride.min(self.bytes.len()).max(1);
        Some(self.bytes.split_to(len))
    }
}

/// Sealed datagrams of equal length (the last may be shorter) to one receiver.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) bytes: Vec<u8>,
    /// From which of our addresses it leaves; `None`: as the system chooses.
    pub(crate) from: Option<IpAddr>,
    to: Option<SocketAddr>,
    segment: usize,
    /// Which packet each datagram is of, or a part of: its place in the batch of one call.
    packets: Vec<u32>,
    closed: bool,
}

impl Run {
    /// Whether a datagram of this length may be appended.
    pub(crate) fn takes(&self, to: SocketAddr, len: usize, max_segments: usize) -> bool {
        match self.to {
            None => true,
            Some(mine) => {
                mine == to
                    && !self.closed
                    && len <= self.segment
                    && self.packets.len() < max_segments
                    && self.bytes.len() + len <= MAX_RUN_BYTES
            }
        }
    }

    /// Notes that a datagram of this length, of this packet, was appended to `bytes`.
    pub(crate) fn appended(&mut self, to: SocketAddr, len: usize, packet: u32) {
        if self.to.is_none() {
            self.to = Some(to);
            self.segment = len;
        }
        self.packets.push(packet);
        self.closed = len < self.segment;
    }

    pub(crate) fn count(&self) -> usize {
        self.packets.len()
    }

    /// The packet that a datagram belongs to.
    pub(crate) fn packet(&self, datagram: usize) -> Option<u32> {
        self.packets.get(datagram).copied()
    }

    pub(crate) const fn to(&self) -> Option<SocketAddr> {
        self.to
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.from = None;
        self.to = None;
        self.segment = 0;
        self.packets.clear();
        self.closed = false;
    }
}

/// What became of a [`Run`].
pub(crate) enum Flushed {
    Sent,
    /// The socket's buffer is full; nothing was sent.
    Blocked,
    /// These datagrams were refused, the last of them for this reason; the others were sent.
    Refused(Vec<usize>, io::Error),
}

/// One UDP socket of the underlay.
#[derive(Debug)]
pub(crate) struct Udp {
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
    /// Datagrams one send may carry: 1 once the system could not segment.
    max_segments: AtomicUsize,
}

impl Udp {
    /// Takes a socket over. Call it inside the runtime that is to drive it.
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        // Best effort: less than asked for costs bursts, not correctness. What the underlay got beyond
        // the system's limit would be cut to that.
        let small = |size: io::Result<usize>| size.is_ok_and(|size| size < SOCKET_BUFFER);
        if small(state.send_buffer_size((&socket).into())) {
            let _ = state.set_send_buffer_size((&socket).into(), SOCKET_BUFFER);
        }
        if small(state.recv_buffer_size((&socket).into())) {
            let _ = state.set_recv_buffer_size((&socket).into(), SOCKET_BUFFER);
        }
        Ok(Self {
            socket: tokio::net::UdpSocket::from_std(socket)?,
            max_segments: AtomicUsize::new(state.max_gso_segments()),
            state,
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// Datagrams one send may carry.
    pub(crate) fn max_segments(&self) -> usize {
        self.max_segments.load(Ordering::Relaxed)
    }

    /// Appends what has arrived, at most [`RX_BUFFERS`] buffers. `WouldBlock` if nothing has.
    pub(crate) fn receive(&self, into: &mut impl Extend<Received>) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.received.is_empty() {
                scratch.received = vec![vec![0; MAX_DATAGRAM]; RX_BUFFERS];
            }
            let mut meta = [RecvMeta::default(); RX_BUFFERS];
            let count = {
                let mut rest = scratch.received.iter_mut();
                let mut slices: [IoSliceMut<'_>; RX_BUFFERS] = std::array::from_fn(|_| {
                    IoSliceMut::new(rest.next().map_or(&mut [], Vec::as_mut_slice))
                });
                let mut taken = 0;
                let more = self.socket.try_io(Interest::READABLE, || {
                    taken = self
                        .state
                        .recv((&self.socket).into(), &mut slices, &mut meta)?;
                    // With buffers to spare nothing is left: said here, that needs no call to hear it.
                    // What arrives from now on is another event.
                    if taken < RX_BUFFERS {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    Ok(())
                });
                match more {
                    Err(error) if taken == 0 => return Err(error),
                    _ => taken,
                }
            };
            into.extend(
                meta.iter()
                    .zip(&scratch.received)
                    .zip(&mut scratch.arenas)
                    .take(count)
                    .filter(|((meta, _), _)| meta.len > 0)
                    .map(|((meta, buffer), arena)| {
                        arena.clear();
                        arena.reserve(meta.len);
                        arena.extend_from_slice(&buffer[..meta.len]);
                        Received {
                            from: meta.addr,
                            #[cfg(feature = "mesh")]
                            at: meta.dst_ip.map(|at| at.to_canonical()),
                            stride: meta.stride,
                            bytes: arena.split(),
                        }
                    }),
            );
            Ok(())
        })
    }

    /// Sends one datagram now or not at all: for protocol messages, which are repeated anyway.
    pub(crate) fn send_now(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.send_from(None, to, datagram)
    }

    /// The same, from one of our addresses.
    pub(crate) fn send_from(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
        datagram: &[u8],
    ) -> io::Result<()> {
        self.state
            .try_send((&self.socket).into(), &transmit(from, to, datagram, None))
    }

    /// Sends a run, in one call where the system can.
    pub(crate) fn flush(&self, run: &Run) -> Flushed {
        let Some(to) = run.to else {
            return Flushed::Sent;
        };
        let segment = (run.count() > 1).then_some(run.segment);
        match self.try_send(&transmit(run.from, to, &run.bytes, segment)) {
            Ok(()) => Flushed::Sent,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Flushed::Blocked,
            // This one goes piece by piece.
            Err(e) if run.count() > 1 => {
                let flushed = self.send_singly(run.from, to, &run.bytes, run.segment);
                self.note_failure(&e, &flushed);
                flushed
            }
            Err(e) => Flushed::Refused(vec![0], e),
        }
    }

    /// Sends datagrams of `segment` bytes each but the last, in as few calls as the system allows;
    /// returns how many it did not take. For what is not kept to be tried again.
    #[cfg(feature = "mesh")]
    pub(crate) fn forward(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
        bytes: &[u8],
        segment: usize,
    ) -> usize {
        let segment = segment.max(1);
        let each = self.max_segments().min(MAX_RUN_BYTES / segment).max(1);
        let mut lost = 0;
        for run in bytes.chunks(each * segment) {
            let count = run.len().div_ceil(segment);
            // Asked at once, and not whether there was room last time: nothing waits for an answer.
            let transmit = transmit(from, to, run, (count > 1).then_some(segment));
            match self.state.try_send((&self.socket).into(), &transmit) {
                Ok(()) => {}
                Err(e) if count > 1 && e.kind() != io::ErrorKind::WouldBlock => {
                    let flushed = self.send_singly(from, to, run, segment);
                    self.note_failure(&e, &flushed);
                    if let Flushed::Refused(which, _) = flushed {
                        lost += which.len();
                    }
                }
                Err(_) => lost += count,
            }
        }
        lost
    }

    /// If the interface or driver cannot segment, the next ones go piece by piece at once.
    fn note_failure(&self, run: &io::Error, singly: &Flushed) {
        if cannot_segment(run, singly) {
            tracing::debug!(error = %run, "the system does not segment datagrams");
            self.max_segments.store(1, Ordering::Relaxed);
        }
    }

    fn send_singly(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
        bytes: &[u8],
        segment: usize,
    ) -> Flushed {
        let mut refused = Vec::new();
        let mut last = None;
        for (index, datagram) in bytes.chunks(segment.max(1)).enumerate() {
            // A full buffer in the middle loses the rest: this happens once per socket.
            if let Err(e) = self.send_from(from, to, datagram) {
                refused.push(index);
                last = Some(e);
            }
        }
        match last {
            Some(e) => Flushed::Refused(refused, e),
            None => Flushed::Sent,
        }
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_io(Interest::WRITABLE, || {
            self.state.try_send((&self.socket).into(), transmit)
        })
    }
}

/// Whether a run failed because it was one. Older kernels say so as well where its datagrams are
/// larger than the path, and quinn-udp believes them: a path that narrows once would cost the
/// segmentation for good.
fn cannot_segment(run: &io::Error, singly: &Flushed) -> bool {
    // An address of ours that is gone is refused like that too, and single datagrams from it as well.
    let otherwise =
        |each: &io::Error| quinn_udp::is_msg_size_err(each) || each.raw_os_error() == Some(EINVAL);
    let otherwise = matches!(singly, Flushed::Refused(_, each) if otherwise(each));
    matches!(run.raw_os_error(), Some(EIO | EINVAL)) && !otherwise
}

fn transmit(
    from: Option<IpAddr>,
    to: SocketAddr,
    contents: &[u8],
    segment_size: Option<usize>,
) -> Transmit<'_> {
    Transmit {
        destination: to,
        ecn: None,
        contents,
        segment_size,
        src_ip: from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> Udp {
        Udp::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap()
    }

    #[test]
    fn a_run_takes_equal_datagrams_and_one_shorter() {
        let (here, there) = (
            "127.0.0.1:1".parse().unwrap(),
            "127.0.0.1:2".parse().unwrap(),
        );
        let mut run = Run::default();
        assert!(run.takes(here, 100, 8));
        run.appended(here, 100, 0);
        assert!(run.takes(here, 100, 8) && run.takes(here, 60, 8));
        assert!(!run.takes(here, 101, 8), "longer");
        assert!(!run.takes(there, 100, 8), "elsewhere");
        assert!(!run.takes(here, 100, 1), "too many");
        run.appended(here, 60, 1);
        assert!(!run.takes(here, 60, 8), "after a shorter one");
        run.clear();
        assert!(run.takes(there, 1, 1));
    }

    /// L-25: what was joined on the way lost its bounds.
    #[tokio::test]
    async fn a_run_arrives_as_the_datagrams_it_was_made_of() {
        let (sender, receiver) = (socket(), socket());
        let to = receiver.local_addr().unwrap();
        let mut run = Run::default();
        let mut expected = Vec::new();
        for n in 0..5u8 {
            let datagram = vec![n; if n == 4 { 300 } else { 1000 }];
            assert!(run.takes(to, datagram.len(), 8));
            run.bytes.extend_from_slice(&datagram);
            run.appended(to, datagram.len(), 0);
            expected.push(datagram);
        }
        sender.writable().await.unwrap();
        assert!(matches!(sender.flush(&run), Flushed::Sent));
        assert!(matches!(
            sender.send_singly(None, to, &run.bytes, run.segment),
            Flushed::Sent
        ));
        let twice = [expected.clone(), expected].concat();
        let mut datagrams = Vec::new();
        while datagrams.len() < twice.len() {
            receiver.readable().await.unwrap();
            let mut received = Vec::new();
            let _ = receiver.receive(&mut received);
            for mut received in received {
                assert_eq!(received.from, sender.local_addr().unwrap());
                datagrams.extend(std::iter::from_fn(|| received.pop()));
            }
        }
        assert!(datagrams == twice);
    }

    /// Pitfall: hardware without checksum offload, and a path that narrows, look alike.
    #[test]
    fn segmentation_is_given_up_only_where_it_is_the_cause() {
        let error = io::Error::from_raw_os_error;
        let (eperm, emsgsize) = (1, 90);
        for cause in [EIO, EINVAL] {
            assert!(cannot_segment(&error(cause), &Flushed::Sent));
            let gone = Flushed::Refused(vec![0], error(eperm));
            assert!(cannot_segment(&error(cause), &gone));
            let too_big = Flushed::Refused(vec![0], error(emsgsize));
            assert!(!cannot_segment(&error(cause), &too_big));
            let no_source = Flushed::Refused(vec![0], error(EINVAL));
            assert!(!cannot_segment(&error(cause), &no_source));
        }
        assert!(!cannot_segment(&error(eperm), &Flushed::Sent));
        assert!(!cannot_segment(&error(emsgsize), &Flushed::Sent));
    }

    #[tokio::test]
    async fn without_segmentation_runs_are_one_datagram_long() {
        let sender = socket();
        sender.max_segments.store(1, Ordering::Relaxed);
        let to = sender.local_addr().unwrap();
        let mut run = Run::default();
        assert!(run.takes(to, 100, sender.max_segments()));
        run.appended(to, 100, 0);
        assert!(!run.takes(to, 100, sender.max_segments()));
    }

    #[tokio::test]
    async fn a_datagram_that_is_too_big_is_refused_and_not_swallowed() {
        let sender = socket();
        let to = sender.local_addr().unwrap();
        let mut run = Run::default();
        run.bytes.resize(65_535, 0);
        run.appended(to, 65_535, 0);
        sender.writable().await.unwrap();
        let Flushed::Refused(which, error) = sender.flush(&run) else {
            panic!("sent");
        };
        assert_eq!(which, [0]);
        assert!(quinn_udp::is_msg_size_err(&error));
    }
}
