//! How to implement a [`TunDevice`](crate::TunDevice).
//!
//! A device is two queues with readiness. The sample echoes: what is sent to it comes back. It
//! keeps the whole contract: batches, partial acceptance, one bad packet counted and passed over,
//! cancel-safe readiness, idempotent shutdown.
//!
//! ```
//! use std::collections::VecDeque;
//! use std::sync::Mutex;
//!
//! use async_trait::async_trait;
//! use tokio::sync::Notify;
//! use vpn_core::{
//!     DeviceCapabilities, DeviceError, DropCounters, DropReason, Offload, PacketBatch, TunDevice,
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
//! impl TunDevice for Loop {
//!     fn capabilities(&self) -> DeviceCapabilities {
//!         DeviceCapabilities::plain(1500)
//!     }
//!
//!     fn try_recv(
//!         &self,
//!         batch: &mut PacketBatch,
//!         _drops: &mut DropCounters,
//!     ) -> Result<usize, DeviceError> {
//!         let mut queue = self.queue.lock().map_err(|_| DeviceError::Closed)?;
//!         let queue = queue.as_mut().ok_or(DeviceError::Closed)?;
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
//!     ) -> Result<usize, DeviceError> {
//!         let mut queue = self.queue.lock().map_err(|_| DeviceError::Closed)?;
//!         let queue = queue.as_mut().ok_or(DeviceError::Closed)?;
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
//!     async fn readable(&self) -> Result<(), DeviceError> {
//!         self.wait(|queue| !queue.is_empty()).await.ok_or(DeviceError::Closed)
//!     }
//!
//!     async fn writable(&self) -> Result<(), DeviceError> {
//!         self.wait(|queue| queue.len() < QUEUE).await.ok_or(DeviceError::Closed)
//!     }
//!
//!     fn shutdown(&self) {
//!         self.end();
//!     }
//! }
//!
//! # let device = Loop { queue: Mutex::new(Some(VecDeque::new())), changed: Notify::new() };
//! # let (mut batch, drops) = (PacketBatch::new(4, 1500), &mut DropCounters::default());
//! # assert!(batch.push(vpn_core::Packet::from_slice(b"E")).is_ok());
//! # assert_eq!(device.try_send(&mut batch, drops).unwrap(), 1);
//! # assert_eq!(device.try_recv(&mut batch, drops).unwrap(), 1);
//! # device.shutdown();
//! # assert!(device.try_recv(&mut batch, drops).is_err());
//! ```
