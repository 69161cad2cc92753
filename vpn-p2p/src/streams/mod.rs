//! Packets over byte streams, for where datagrams cannot go: a dispatcher, and a pool of streams per
//! peer.
//!
//! ```text
//!  packets ─▶ Dispatcher ─▶ pool of peer A ─▶ lane of the connection ─▶ stream 1 ─▶ frames
//!                      │                                            └▶ stream 2
//!                      └──▶ pool of peer B ─▶ …
//! ```
//!
//! | Module | What it decides, or touches |
//! |---|---|
//! | [`frame`] | what bytes mean: any split of them decodes alike |
//! | [`lanes`] | which connections keep together |
//! | [`pool`] | everything about the streams to one peer; pure |
//! | [`config`] | bounds, thresholds, defaults |
//! | [`budget`] | the memory of all peers together |
//! | [`StreamPool`] | a pool with its tasks and clock |
//! | [`Dispatcher`] | a pool per peer |
//! | [`StreamTransport`] | one pool as a tunnel |
//! | [`Stream`], [`StreamOpener`] | over what: [`TcpOpener`], [`memory`], or your own |
//!
//! # What holds
//!
//! * **Order.** Packets of one connection arrive in the order they were sent, also when their stream
//!   is replaced, or streams come and go with the load; none arrives twice. How: [`pool`].
//! * **Losses are counted.** `taken = delivered + Σ drops + waiting + in flight + uncertain`, exactly,
//!   and `delivered` is what the other end handed on ([`PoolCounters`]). A stream that ends loses what
//!   was written to it and had not arrived: nothing is sent twice, for IP does not ask for it.
//! * **Nobody waits for another.** A peer has its own tasks, streams and queues; opening a stream, or a
//!   peer that takes nothing, is met by no other peer, and who offers packets never waits.
//! * **Bounds.** Per peer and direction at most
//!   [`peer_buffer_bytes`](PoolConfig::peer_buffer_bytes) wait to be sent and half a megabyte to be
//!   taken, and each stream's task holds at most 128 KiB to be written and a megabyte to be read into, which
//!   packets that were not taken may keep. Over all peers a [`Budget`].
//!   A frame is at most 65,583 bytes long, and a pool has at most
//!   [`max_streams_per_peer`](PoolConfig::max_streams_per_peer) streams, as many again of the peer's
//!   twice, and one for questions.
//!
//! # Health
//!
//! A stream on which packets are, and none of them arrives for
//! [`stall_after`](PoolConfig::stall_after), is closed and replaced. Whether the peer is there at all is
//! asked on a stream of its own, [every 15 seconds](ProbeConfig); after three questions without an
//! answer all its streams are replaced. A peer whose user takes no packets looks like a stalled one:
//! keep receiving.
//!
//! # Who must be who
//!
//! Frames are not encrypted here, and nobody proves who they are: that is the stream's to do, by TLS,
//! by libp2p, or by the tunnel it is in. [`StreamTransport`] lets in only sources that its peer may
//! use.
//!
//! # TCP in TCP
//!
//! A stream that loses a segment below holds up all its connections until that is sent again, and TCP
//! inside then waits too. More streams divide that; datagrams avoid it. So these are the way where
//! nothing else passes.

//!
//! # Tuning
//!
//! | What you want | What to set |
//! |---|---|
//! | the first packet without waiting for a stream | [`warm_streams`](PoolConfig::warm_streams); a dispatcher's [`pool`](Dispatcher::pool) before the first packet |
//! | little delay rather than no loss | a small [`packet_buffer_size`](PoolConfig::packet_buffer_size) and [`Overflow::DropOld`] |
//! | more streams sooner | a lower [`busy_at`](Scoring::busy_at), a shorter [`scale_up_after`](PoolConfig::scale_up_after) |
//! | fewer streams | a lower [`max_streams_per_peer`](PoolConfig::max_streams_per_peer): connections then share, and wait for each other |
//! | more bytes per second and core | a device with offload: a packet of 64 KB costs about forty times one of 1,400 bytes, and holds as many |
//! | a dead peer noticed sooner | a shorter [`ProbeConfig::interval`]: three questions and their answers' time are what it takes |
//!
//! # Troubleshooting
//!
//! | What you see | Why, and what to do |
//! |---|---|
//! | `connecting` for ever, at the end that listens | nobody gave its streams to `accept`, or what came first is no greeting: another program, another version |
//! | `down: the network refuses` | opening fails; after five failures in a row it is tried once a minute ([`PoolConfig::breaker`]) |
//! | `down: the peer does not answer` | a stream was not greeted in time, or questions were not answered |
//! | `stalled` grows, and the peer is there | its user does not take packets: keep receiving, in every state |
//! | drops `stream_lost` | a stream ended with packets on it: as on any network |
//! | drops `queue_full` | the peer takes less than comes, and the policy is to drop; or all peers' budget is used up |
//! | drops `address_not_allowed`, inbound | the peer sends from a source that is not in [`StreamTunnel::allowed`] |
//! | drops `no_session` | the peer is down; or it is one more than a dispatcher may have |

pub mod budget;
mod carry;
pub mod config;
pub mod dispatch;
mod driver;
pub mod fault;
pub mod frame;
mod inbox;
pub mod lanes;
pub mod memory;
pub mod peer;
pub mod pool;
mod probe;
mod stream;
mod tcp;
pub(crate) mod transport;

pub use budget::Budget;
pub use config::{ConfigError, Contents, Overflow, PoolConfig, ProbeConfig, Scoring};
pub use dispatch::{DispatchConfig, DispatchError, Dispatcher, PeerOpener};
pub use fault::Fault;
pub use frame::{FrameError, Session, StreamId};
pub use peer::{PoolError, StreamPool};
pub use pool::{Pool, PoolCounters, PoolStatus};
pub use stream::{Stream, StreamOpener};
pub use tcp::TcpOpener;
pub use transport::{StreamTransport, StreamTunnel};
