//! A tunnel whose packets a native library hands over: through a socket pair, or a descriptor.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use socket2::Socket;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use vpn_core::packet::{Offload, PacketBatch};
use vpn_core::{
    Assigned, DownCause, DropCounters, DropReason, Resources, StateSender, StateWatch,
    TransportCapabilities, TransportError, TransportState, TunnelTransport,
};

use super::parts::{self, Stopped};
use super::{poll, sys};

/// Longest IP packet.
const LONGEST: usize = 65_535;

/// A tunnel that a native library runs. One message of the socket, or one read of the descriptor,
/// is one IP packet.
///
/// The library keeps the other end, and says through [`NativeControl`] what it was assigned. The
/// transport owns its descriptor, which closes on exec and with the transport; the library closes
/// its own, and that is the end of the tunnel.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// use socket2::{Domain, Socket, Type};
/// use vpn_tun::external::NativeTransport;
/// let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
/// let (transport, control) = NativeTransport::new(ours.into())?;
/// // `theirs` goes to the library; once it is connected:
/// control.up(vpn_core::Assigned::default());
/// # drop((theirs, transport));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct NativeTransport {
    shared: Arc<Shared>,
    closing: watch::Sender<bool>,
    socket: AsyncFd<Socket>,
    /// Its messages have an end; a datagram socket only has empty ones.
    ends: bool,
    /// Nothing comes any more, although the socket says that something does.
    ended: AtomicBool,
    buffer: Mutex<Vec<u8>>,
}

#[derive(Debug)]
struct Shared {
    state: StateSender,
    mtu: std::sync::atomic::AtomicU16,
}

/// Says where a native tunnel stands. When it is dropped, the tunnel is down.
#[derive(Debug)]
pub struct NativeControl {
    shared: Arc<Shared>,
}

impl NativeControl {
    /// It is up, with this.
    pub fn up(&self, assigned: Assigned) {
        let mtu = &self.shared.mtu;
        mtu.store(assigned.mtu, std::sync::atomic::Ordering::Relaxed);
        let state = TransportState::Up(Arc::new(assigned));
        self.shared.state.set(state);
    }

    /// It is connecting again.
    pub fn connecting(&self) {
        self.shared.state.set(TransportState::Connecting);
    }

    /// It is down, and why.
    pub fn down(&self, cause: DownCause) {
        self.shared.state.set(TransportState::Down(cause));
    }
}

impl Drop for NativeControl {
    fn drop(&mut self) {
        self.down(DownCause::Network("the library let go of it".to_owned()));
    }
}

impl NativeTransport {
    /// Takes over one end: of a pair of `SOCK_SEQPACKET` or `SOCK_DGRAM`, so that each message
    /// stays one packet.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a stream socket, which would join packets; what the system says for
    /// anything that is no socket.
    pub fn new(descriptor: OwnedFd) -> io::Result<(Self, NativeControl)> {
        let socket = Socket::from(descriptor);
        if !matches!(
            socket.r#type()?,
            socket2::Type::SEQPACKET | socket2::Type::DGRAM
        ) {
            let problem = "a stream does not keep packets apart: use SOCK_SEQPACKET or SOCK_DGRAM";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let ends = socket.r#type()? == socket2::Type::SEQPACKET;
        socket.set_nonblocking(true)?;
        socket.set_cloexec(true)?;
        let shared = Arc::new(Shared {
            state: StateSender::new(),
            mtu: std::sync::atomic::AtomicU16::new(1500),
        });
        let control = NativeControl {
            shared: shared.clone(),
        };
        let transport = Self {
            shared,
            closing: watch::Sender::new(false),
            socket: sys::register(socket)?,
            ends,
            ended: AtomicBool::new(false),
            buffer: Mutex::new(vec![0; LONGEST + 1]),
        };
        Ok((transport, control))
    }

    fn open(&self) -> Result<(), TransportError> {
        match *self.closing.borrow() {
            true => Err(TransportError::Closed),
            false => Ok(()),
        }
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        let cause = DownCause::Network("the library closed its end".to_owned());
        self.shared.state.set(TransportState::Down(cause));
    }
}

#[async_trait]
impl TunnelTransport for NativeTransport {
    fn capabilities(&self) -> TransportCapabilities {
        let mtu = &self.shared.mtu;
        TransportCapabilities::plain(mtu.load(std::sync::atomic::Ordering::Relaxed))
    }

    fn state(&self) -> StateWatch {
        self.shared.state.watch()
    }

    fn resources(&self) -> Resources {
        let mut resources = Resources::default();
        resources.descriptors = 1;
        resources.bytes = self.buffer.lock().map_or(0, |buffer| buffer.capacity());
        resources
    }

    fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.open()?;
        let Ok(mut buffer) = self.buffer.lock() else {
            return Err(TransportError::Io(io::Error::other("a former call failed")));
        };
        let before = batch.len();
        for _ in 0..poll::READS {
            if batch.is_full() {
                break;
            }
            match poll::read(&self.socket, &mut buffer) {
                // No packet is empty: this is the end.
                Ok(0) if self.ends => {
                    self.end();
                    break;
                }
                Ok(0) => drops.count(DropReason::Malformed),
                Ok(length) if length > batch.pool_mut().largest_packet() => {
                    drops.count(DropReason::TooBig);
                }
                Ok(length) => {
                    let pushed = batch.push_with(|into| {
                        into.extend_from_slice(&buffer[..length]);
                        Some(Offload::NONE)
                    });
                    if !pushed {
                        drops.count(DropReason::QueueFull);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.end();
                    break;
                }
            }
        }
        Ok(batch.len() - before)
    }

    fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> Result<usize, TransportError> {
        self.open()?;
        let (mut done, mut sent) = (0, 0);
        let mtu = usize::from(self.capabilities().mtu);
        for packet in batch.packets() {
            if packet.offload.gso.is_none() && packet.bytes().len() > mtu {
                drops.count(DropReason::TooBig);
                done += 1;
                continue;
            }
            match parts::each(packet, |part| poll::write(&self.socket, part)) {
                Ok(()) => sent += 1,
                Err(Stopped::Malformed) => drops.count(DropReason::Malformed),
                Err(Stopped::Amid) => drops.count(DropReason::QueueFull),
                Err(Stopped::Before(error)) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    _ => drops.count(DropReason::Refused),
                },
            }
            done += 1;
        }
        batch.recycle_front(done);
        Ok(sent)
    }

    async fn readable(&self) -> Result<(), TransportError> {
        let mut closing = self.closing.subscribe();
        self.open()?;
        let more = !self.ended.load(Ordering::Relaxed);
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => Err(TransportError::Closed),
            ready = poll::readable(&self.socket), if more => ready.map_err(TransportError::Io),
        }
    }

    async fn writable(&self) -> Result<(), TransportError> {
        self.open()?;
        poll::writable(&self.socket)
            .await
            .map_err(TransportError::Io)
    }

    async fn close(&self) {
        self.closing.send_replace(true);
        self.shared.state.set(TransportState::Closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Type};

    fn pair(kind: Type) -> (NativeTransport, NativeControl, Socket) {
        let (ours, theirs) = Socket::pair(Domain::UNIX, kind, None).expect("a pair");
        let (transport, control) = NativeTransport::new(ours.into()).expect("a transport");
        control.up(Assigned::default());
        (transport, control, theirs)
    }

    #[tokio::test]
    async fn an_end_is_told_once_and_an_empty_datagram_is_none() {
        let mut batch = PacketBatch::new(4, 2048);
        let mut drops = DropCounters::default();
        let (transport, _control, theirs) = pair(Type::DGRAM);
        theirs.send(&[]).expect("sent");
        transport.readable().await.expect("readable");
        assert_eq!(transport.try_recv(&mut batch, &mut drops).ok(), Some(0));
        assert!(matches!(transport.state().get(), TransportState::Up(_)));

        let (transport, _control, theirs) = pair(Type::SEQPACKET);
        drop(theirs);
        transport.readable().await.expect("the end");
        assert_eq!(transport.try_recv(&mut batch, &mut drops).ok(), Some(0));
        assert!(matches!(transport.state().get(), TransportState::Down(_)));
        // It would be ready for ever.
        let mut again = std::pin::pin!(transport.readable());
        let woken = std::future::poll_fn(|task| {
            std::task::Poll::Ready(again.as_mut().poll(task).is_ready())
        });
        assert!(!woken.await);
        transport.close().await;
        assert!(matches!(again.await, Err(TransportError::Closed)));
    }
}
