//! Touches one interface of another program: its packets, past the kernel's own stack.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::BytesMut;
use socket2::Socket;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex as AsyncMutex;
use vpn_core::packet::segment::Segments;
use vpn_core::packet::{Joiner, Packet, PacketBatch, segment};
use vpn_core::{DropCounters, DropReason};

use super::borrowed::Borrowed;
use super::shut::Shut;
use super::vnet::{self, HEADER};
use super::{ExternalError, poll, sys};
use crate::InterfaceName;
use crate::apply::netlink::Netlink;
use crate::foreign::ForeignChange;
use crate::journal::Journal;

/// After how many packets it is looked whether the filter saw them too. It sees none that the kernel
/// takes for broken; so many are not.
const PROOF: u64 = 8;

/// The longest packet there is, with its header.
const LONGEST: usize = HEADER + 65_535;

/// An interface whose packets are ours alone: nothing of it reaches the kernel's stack.
#[derive(Debug)]
pub(crate) struct Attached {
    socket: AsyncFd<Socket>,
    reading: Mutex<Reading>,
    shut: AsyncMutex<Shut>,
    index: u32,
    /// Packets that came out of the tunnel.
    received: AtomicU64,
    proven: AtomicBool,
    /// What else is given back.
    borrowed: Borrowed,
}

/// What is read goes here first.
#[derive(Debug)]
struct Reading {
    buffer: Vec<u8>,
    /// One part of a super-packet.
    part: BytesMut,
}

impl Attached {
    /// Bytes of its buffers.
    pub(crate) fn bytes(&self) -> usize {
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.buffer.capacity()
    }

    /// Takes the interface over: shut towards the stack first, then up, then heard.
    pub(crate) async fn open(
        name: &InterfaceName,
        journal: Option<&Journal>,
    ) -> Result<Self, ExternalError> {
        let missing = || ExternalError::Missing(name.clone());
        let index = crate::device::sys::index_of(name.as_str()).ok_or_else(missing)?;
        let mut shut = Shut::close(name, journal).await?;
        let (borrowed, socket) = match take_over(name, index, journal).await {
            Ok(taken) => taken,
            Err(error) => {
                shut.open().await;
                return Err(error);
            }
        };
        Ok(Self {
            socket,
            reading: Mutex::new(Reading {
                buffer: vec![0; LONGEST],
                part: BytesMut::new(),
            }),
            shut: AsyncMutex::new(shut),
            index,
            received: AtomicU64::new(0),
            proven: AtomicBool::new(false),
            borrowed,
        })
    }

    /// The interface's index: another one of its name has another one.
    pub(crate) const fn index(&self) -> u32 {
        self.index
    }

    /// Appends packets that came out of the tunnel. A super-packet is cut first: what is joined
    /// again, if the batch has room for that, the router has no need to look into one by one.
    pub(crate) fn try_recv(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> io::Result<usize> {
        let Ok(mut reading) = self.reading.lock() else {
            return Err(io::Error::other("a former call failed"));
        };
        let reading = &mut *reading;
        let (before, mut read) = (batch.len(), 0);
        let mut joiner = Joiner::default();
        for _ in 0..poll::READS {
            if batch.is_full() {
                break;
            }
            let length = match poll::read(&self.socket, &mut reading.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if batch.len() == before => return Err(error),
                // It comes again with the next call.
                Err(_) => break,
            };
            read += 1;
            let read = &reading.buffer[..length];
            take(read, &mut reading.part, &mut joiner, batch, drops);
        }
        self.received.fetch_add(read, Ordering::Relaxed);
        Ok(batch.len() - before)
    }

    /// Sends from the front of a batch.
    pub(crate) fn try_send(
        &self,
        batch: &mut PacketBatch,
        drops: &mut DropCounters,
    ) -> io::Result<usize> {
        let (mut done, mut sent) = (0, 0);
        let mut failure = None;
        for packet in batch.packets() {
            match self.send(packet) {
                Ok(()) => sent += 1,
                Err(Failed::Wait) => break,
                Err(Failed::Drop(reason)) => drops.count(reason),
                Err(Failed::Gone(error)) => {
                    failure = Some(error);
                    break;
                }
            }
            done += 1;
        }
        batch.recycle_front(done);
        match failure {
            Some(error) if done == 0 => Err(error),
            _ => Ok(sent),
        }
    }

    /// Sends one packet. The kernel cuts a super-packet, later and for less than we would.
    fn send(&self, packet: &Packet) -> Result<(), Failed> {
        let Some(header) = vnet::write(packet) else {
            return Err(Failed::Drop(DropReason::Malformed));
        };
        let parts = [IoSlice::new(&header), IoSlice::new(packet.bytes())];
        let Err(error) = poll::write_parts(&self.socket, &parts) else {
            return Ok(());
        };
        Err(match error.raw_os_error() {
            _ if error.kind() == io::ErrorKind::WouldBlock => Failed::Wait,
            // The program does not keep up: its interface's queue is full.
            Some(libc::ENOBUFS) => Failed::Drop(DropReason::QueueFull),
            Some(libc::EMSGSIZE) => Failed::Drop(DropReason::TooBig),
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => Failed::Gone(error),
            _ => Failed::Drop(DropReason::Refused),
        })
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        poll::readable(&self.socket).await
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        poll::writable(&self.socket).await
    }

    /// Whether the kernel is kept away: what came to us has to be what the filter dropped. Says
    /// nothing before some packets came.
    pub(crate) async fn proven(&self) -> Result<bool, ExternalError> {
        if self.received.load(Ordering::Relaxed) < PROOF || self.proven.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match self
            .shut
            .lock()
            .await
            .dropped()
            .await
            .map_err(ExternalError::Filter)?
        {
            0 => Err(ExternalError::Twice),
            _ => Ok(!self.proven.swap(true, Ordering::Relaxed)),
        }
    }

    /// What somebody else changed of what keeps the kernel's stack away.
    pub(crate) async fn look(&self) -> Vec<ForeignChange> {
        self.shut.lock().await.look().await
    }

    /// Gives the interface back.
    pub(crate) async fn detach(&self) {
        // Gone with the interface, if that is.
        if let Err(error) = self.borrowed.give_back().await {
            tracing::warn!(%error, "the interface is not as it was");
        }
        self.shut.lock().await.open().await;
    }
}

/// What is needed of the interface, and its packets. On an error it is as before.
async fn take_over(
    name: &InterfaceName,
    index: u32,
    journal: Option<&Journal>,
) -> Result<(Borrowed, AsyncFd<Socket>), ExternalError> {
    let netlink = Netlink::open()?;
    let borrowed = Borrowed::take(&netlink, name, index, journal).await?;
    match sys::open(index) {
        Ok(socket) => Ok((borrowed, socket)),
        Err(cause) => {
            borrowed.give_back().await?;
            let doing = "open a packet socket";
            Err(ExternalError::Io { doing, cause })
        }
    }
}

/// Why a packet was not sent.
enum Failed {
    Wait,
    Drop(DropReason),
    Gone(io::Error),
}

/// What was read, with its header, as packets.
fn take(
    read: &[u8],
    part: &mut BytesMut,
    joiner: &mut Joiner,
    batch: &mut PacketBatch,
    drops: &mut DropCounters,
) {
    let Some((header, bytes)) = read.split_first_chunk::<HEADER>() else {
        drops.count(DropReason::Malformed);
        return;
    };
    let Some(offload) = vnet::read(header) else {
        drops.count(DropReason::Unsupported);
        return;
    };
    let largest = batch.pool_mut().largest_packet();
    let mut push = |bytes: &[u8]| {
        if bytes.len() > largest {
            drops.count(DropReason::TooBig);
        } else if !joiner.append(bytes, batch) {
            drops.count(DropReason::QueueFull);
        }
    };
    if offload.gso.is_none() && !offload.partial_checksum {
        return push(bytes);
    }
    let mut packet = Packet::from_slice(bytes).with_offload(offload);
    let done = match offload.gso {
        None => segment::complete_checksum(&mut packet).map(|()| push(packet.bytes())),
        Some(_) => Segments::new(&packet).map(|segments| {
            for index in 0..segments.count() {
                part.clear();
                segments.append_to(index, part);
                push(part);
            }
        }),
    };
    if done.is_err() {
        drops.count(DropReason::Malformed);
    }
}
