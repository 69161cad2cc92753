//! Packets over byte streams, where datagrams cannot go.

pub mod budget;
mod carry;
pub mod config;
pub mod dispatch;
pub mod fault;
pub mod frame;
pub mod lanes;
pub mod memory;
pub mod peer;
pub mod pool;
mod probe;
mod stream;
mod tcp;
mod transport;

pub use budget::Budget;
pub use config::{ConfigError, Overflow, PoolConfig, ProbeConfig, Scoring};
pub use dispatch::{DispatchConfig, DispatchError, Dispatcher, PeerOpener};
pub use fault::Fault;
pub use frame::{FrameError, Session, StreamId};
pub use peer::{PoolError, StreamPool};
pub use pool::{Pool, PoolCounters, PoolStatus};
pub use stream::{Stream, StreamOpener};
pub use tcp::TcpOpener;
pub use transport::{StreamTransport, StreamTunnel};
