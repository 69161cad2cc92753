//! How to implement a [`RuleSource`](crate::RuleSource).
//!
//! Yield whole snapshots; on trouble return an error, and the last good rules stay in force. The
//! sample takes rules from the host program over a `watch` channel.
//!
//! ```
//! use async_trait::async_trait;
//! use tokio::sync::{Mutex, watch};
//! use vpn_core::rule::{RuleSnapshot, RuleSource, RuleSourceError};
//!
//! #[derive(Debug)]
//! struct FromHost(Mutex<watch::Receiver<RuleSnapshot>>);
//!
//! #[async_trait]
//! impl RuleSource for FromHost {
//!     async fn load(&self) -> Result<RuleSnapshot, RuleSourceError> {
//!         // Marks the value as seen: `changed` then waits for a newer one.
//!         Ok(self.0.lock().await.borrow_and_update().clone())
//!     }
//!
//!     async fn changed(&self) {
//!         if self.0.lock().await.changed().await.is_err() {
//!             // The host is gone: these rules are the last.
//!             std::future::pending().await
//!         }
//!     }
//! }
//! ```
