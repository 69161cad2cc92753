//! How to implement a [`TunnelTransport`](crate::TunnelTransport).
//!
//! A transport is a device with a state. The sample is its own peer: what goes in comes out. Say
//! [`Up`](crate::TransportState::Up) only after the peer has answered, drop what you will never
//! send with a reason, and yield only what the peer proved to have sent. A transport without
//! offload cuts super-packets with [`split`](crate::packet::segment::split) before it sends.
//!
//! ```
//! use std::collections::VecDeque;
//! use std::sync::Mutex;
//!
//! use async_trait::async_trait;
//! use tokio::sync::Notify;
//! use vpn_core::{
//!     Assigned, DropCounters, DropReason, Offload, PacketBatch, StateSender, StateWatch,
//!     TransportCapabilities, TransportError, TransportState, TunnelTransport,
//! };
//!
//! /// Packets held at most: a burst of four batches.
//! const QUEUE: usize = 256;
//!
//! #[derive(Debug)]
//! struct Loop {
//!     /// `None` once closed.
//!     queue: Mutex<Option<VecDeque<Vec<u8>>>>,
//!     changed: Notify,
//!     state: StateSender,
//! }
//!
//! impl Loop {
//!     /// Waits for a condition; `None` once closed. The waiter is enabled before the condition
//!     /// is read, so no change is missed; it holds no packet, so it is cancel-safe.
//!     async fn wait(&self, ready: impl Fn(&VecDeque<Vec<u8>>) -> bool + Send) -> Option<()> {
//!         loop {
//!             let mut changed = std::pin::pin!(self.changed.notified());
//!             changed.as_mut().enable();
//!             if ready(self.queue.lock().ok()?.as_ref()?) {
//!                 return Some(());
//!             }
//!             changed.await;
//!         }
//!     }
//!
//!     fn end(&self) {
//!         if let Ok(mut queue) = self.queue.lock() {
//!             *queue = None;
//!         }
//!         self.changed.notify_waiters();
//!     }
//! }
//!
//! #[async_trait]
//! impl TunnelTransport for Loop {
//!     fn capabilities(&self) -> TransportCapabilities {
//!         TransportCapabilities::plain(1500)
//!     }
//!
//!     fn state(&self) -> StateWatch {
//!         self.state.watch()
//!     }
//!
//!     fn try_recv(
//!         &self,
//!         batch: &mut PacketBatch,
//!         _drops: &mut DropCounters,
//!     ) -> Result<usize, TransportError> {
//!         let mut queue = self.queue.lock().map_err(|_| TransportError::Closed)?;
//!         let queue = queue.as_mut().ok_or(TransportError::Closed)?;
//!         let before = batch.len();
//!         while !batch.is_full()
//!             && let Some(bytes) = queue.pop_front()
//!         {
//!             batch.push_with(|buf| {
//!                 buf.extend_from_slice(&bytes);
//!                 Some(Offload::NONE)
//!             });
//!         }
//!         Ok(batch.len() - before)
//!     }
//!
//!     fn try_send(
//!         &self,
//!         batch: &mut PacketBatch,
//!         drops: &mut DropCounters,
//!     ) -> Result<usize, TransportError> {
//!         let mut queue = self.queue.lock().map_err(|_| TransportError::Closed)?;
//!         let queue = queue.as_mut().ok_or(TransportError::Closed)?;
//!         let (mut gone, mut sent) = (0, 0);
//!         for packet in batch.packets() {
//!             if packet.len() > 1500 {
//!                 drops.count(DropReason::TooBig);
//!             } else if queue.len() < QUEUE {
//!                 queue.push_back(packet.bytes().to_vec());
//!                 sent += 1;
//!             } else {
//!                 break; // The rest is the caller's.
//!             }
//!             gone += 1;
//!         }
//!         batch.recycle_front(gone);
//!         self.changed.notify_waiters();
//!         Ok(sent)
//!     }
//!
//!     async fn readable(&self) -> Result<(), TransportError> {
//!         self.wait(|queue| !queue.is_empty()).await.ok_or(TransportError::Closed)
//!     }
//!
//!     async fn writable(&self) -> Result<(), TransportError> {
//!         self.wait(|queue| queue.len() < QUEUE).await.ok_or(TransportError::Closed)
//!     }
//!
//!     async fn close(&self) {
//!         self.end();
//!         self.state.set(TransportState::Closed);
//!     }
//! }
//!
//! # let tunnel = Loop {
//! #     queue: Mutex::new(Some(VecDeque::new())),
//! #     changed: Notify::new(),
//! #     state: StateSender::new(),
//! # };
//! tunnel.state.set(TransportState::Up(Assigned::default().into()));
//! ```
