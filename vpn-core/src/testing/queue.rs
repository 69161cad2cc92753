//! One bounded direction of a memory device or transport.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::packet::{Packet, PacketBatch};

/// Why a packet was not injected. It is given back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InjectError {
    /// The queue holds as many packets as it was made for: let the other side read first.
    #[error("the queue is full")]
    Full(Packet),
    /// The other side was closed.
    #[error("the other side is closed")]
    Closed(Packet),
}

#[derive(Debug)]
struct Inner {
    packets: VecDeque<Packet>,
    closed: bool,
}

/// A bounded FIFO with readiness at both ends. Closing keeps what is in it readable.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    capacity: usize,
    filled: Notify,
    drained: Notify,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                packets: VecDeque::with_capacity(capacity),
                closed: false,
            }),
            capacity,
            filled: Notify::new(),
            drained: Notify::new(),
        }
    }

    /// A panicking test must not hide its cause behind a poisoned lock.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, packet: Packet) -> Result<(), InjectError> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(InjectError::Closed(packet));
        }
        if inner.packets.len() >= self.capacity {
            return Err(InjectError::Full(packet));
        }
        inner.packets.push_back(packet);
        drop(inner);
        self.filled.notify_waiters();
        Ok(())
    }

    /// Waits for room. Cancelled before it returns, it has pushed nothing.
    pub(super) async fn push_wait(&self, mut packet: Packet) -> Result<(), InjectError> {
        loop {
            match self.push(packet) {
                Err(InjectError::Full(back)) => packet = back,
                other => return other,
            }
            self.writable().await;
        }
    }

    pub(super) fn pop(&self) -> Option<Packet> {
        let packet = self.lock().packets.pop_front();
        if packet.is_some() {
            self.drained.notify_waiters();
        }
        packet
    }

    /// Waits for a packet; `None` once the queue is closed and empty. Cancel-safe.
    pub(super) async fn pop_wait(&self) -> Option<Packet> {
        loop {
            let packet = self.pop();
            if packet.is_some() {
                return packet;
            }
            self.readable().await;
            let inner = self.lock();
            if inner.closed && inner.packets.is_empty() {
                return None;
            }
        }
    }

    /// Moves packets into buffers of the batch's pool; returns how many.
    pub(super) fn pop_into(&self, batch: &mut PacketBatch) -> usize {
        let mut moved = 0;
        while !batch.is_full() {
            let Some(packet) = self.pop() else { break };
            moved += usize::from(batch.push_with(|buf| {
                buf.extend_from_slice(packet.bytes());
                Some(packet.offload)
            }));
        }
        moved
    }

    pub(super) fn len(&self) -> usize {
        self.lock().packets.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_waiters();
        self.drained.notify_waiters();
    }

    /// Waits until there is a packet, or the queue is closed.
    pub(super) async fn readable(&self) {
        self.wait(&self.filled, |inner| !inner.packets.is_empty())
            .await;
    }

    /// Waits until there is room, or the queue is closed.
    pub(super) async fn writable(&self) {
        self.wait(&self.drained, |inner| inner.packets.len() < self.capacity)
            .await;
    }

    async fn wait(&self, notify: &Notify, ready: impl Fn(&Inner) -> bool + Send + Sync) {
        loop {
            // Enabled before the condition is read, so that no change in between is missed.
            let mut changed = pin!(notify.notified());
            changed.as_mut().enable();
            {
                let inner = self.lock();
                if inner.closed || ready(&inner) {
                    return;
                }
            }
            changed.await;
        }
    }
}
