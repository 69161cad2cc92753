//! Decides what a pool may use, and refuses what makes no sense.

use std::time::Duration;

use vpn_resilience::{BackoffConfig, BreakerConfig};

/// Most streams one pool may be told to use: each costs a task, a socket and buffers.
pub const MAX_STREAMS: usize = 256;

/// Times beyond this are as good as never: with more, an instant could overflow.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What a full queue does with one packet more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Leaves it with the caller, who has a bounded queue, or a sender to slow down.
    #[default]
    PushBack,
    /// Drops it: what waits is worth more.
    DropNew,
    /// Drops the one that waited longest in that queue: what is new is worth more.
    DropOld,
}

/// What a stream costs whoever would use it: the least costly one gets the next connection.
///
/// `cost = queued × queued_weight + in_flight × in_flight_weight`, in bytes. A stream of a cost below
/// [`busy_at`](Self::busy_at) is as good as an idle one, so that a few streams carry what a few can,
/// and the others get idle and are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scoring {
    /// Weight of a byte that waits here. Default 4.
    pub queued_weight: u32,
    /// Weight of a byte that was handed to the stream, and of which the peer has not said that it
    /// came. Default 1.
    pub in_flight_weight: u32,
    /// A stream of at least this cost, or with its queue half full, is busy. Default 1 MiB.
    pub busy_at: u64,
}

impl Default for Scoring {
    fn default() -> Self {
        Self {
            queued_weight: 4,
            in_flight_weight: 1,
            busy_at: 1 << 20,
        }
    }
}

/// What the packets of a pool are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Contents {
    /// IP packets; super-packets too. A connection keeps its order. What is none is dropped, `malformed`.
    #[default]
    Ip,
    /// Any bytes, whole as they are: datagrams of another protocol. Those that begin with the same
    /// [`OPAQUE_PREFIX`] bytes keep their order, as those of one connection do.
    Opaque,
}

/// Bytes by which [opaque](Contents::Opaque) packets are told apart: a kind and whom it is for fit.
pub const OPAQUE_PREFIX: usize = 8;

/// When a peer is asked whether it is there, on a stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeConfig {
    /// Pause between an answer and the next question. Default 15 s.
    pub interval: Duration,
    /// How long an answer may take. Default 5 s.
    pub timeout: Duration,
    /// Questions in a row without an answer after which the peer is taken for gone, and every stream
    /// to it is replaced. Default 3.
    pub failures: u32,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(5),
            failures: 3,
        }
    }
}

/// Bounds and thresholds of the pool of one peer. [`Duration::MAX`] is never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// What its packets are. Default: IP packets.
    pub contents: Contents,
    /// Streams for packets at the same time, 1 to [`MAX_STREAMS`]. Default 10.
    pub max_streams_per_peer: usize,
    /// Streams that are opened ahead and stay when nothing is sent. Default 1.
    pub warm_streams: usize,
    /// After how long without a packet a stream beyond the warm ones is closed. Default 300 s.
    pub stream_idle_timeout: Duration,
    /// How often idle streams, and idle peers of a dispatcher, are looked for. Default 60 s.
    pub cleanup_interval: Duration,
    /// Packets that may wait for one stream. Default 100.
    pub packet_buffer_size: usize,
    /// Bytes that may wait for all streams of one peer, and as many again that came and wait to be
    /// taken. Default 4 MiB.
    pub peer_buffer_bytes: usize,
    /// What happens to a packet that finds its queue full. Default: it stays with the caller.
    pub overflow: Overflow,
    /// Which stream gets the next connection.
    pub scoring: Scoring,
    /// How long every stream must be busy before one more is opened. Default 100 ms.
    pub scale_up_after: Duration,
    /// How long opening a stream may take, with the greeting. Default 10 s.
    pub open_timeout: Duration,
    /// A stream that something was written to, and of which nothing came for so long, is replaced.
    /// Default 10 s.
    pub stall_after: Duration,
    /// How long both ends may take to part with an idle stream. Default 5 s.
    pub close_within: Duration,
    /// When the peer is asked whether it is there.
    pub probe: ProbeConfig,
    /// When no stream is opened for a while. Default: after 5 failures, for 60 s.
    pub breaker: BreakerConfig,
    /// When a stream that could not be opened, or did not last as long as the first pause, is tried
    /// again. Default: after 1 s, up to 30 s.
    pub backoff: BackoffConfig,
    /// What jitter is drawn from: give each peer its own. Default 0.
    pub seed: u64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            contents: Contents::default(),
            max_streams_per_peer: 10,
            warm_streams: 1,
            stream_idle_timeout: Duration::from_secs(300),
            cleanup_interval: Duration::from_secs(60),
            packet_buffer_size: 100,
            peer_buffer_bytes: 4 << 20,
            overflow: Overflow::default(),
            scoring: Scoring::default(),
            scale_up_after: Duration::from_millis(100),
            open_timeout: Duration::from_secs(10),
            stall_after: Duration::from_secs(10),
            close_within: Duration::from_secs(5),
            probe: ProbeConfig::default(),
            breaker: BreakerConfig::default(),
            backoff: BackoffConfig {
                base: Duration::from_secs(1),
                ..BackoffConfig::default()
            },
            seed: 0,
        }
    }
}

/// A configuration that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No stream, or more than may be.
    #[error("max_streams_per_peer is {0}: 1 to {MAX_STREAMS}")]
    Streams(usize),
    /// More streams ahead than there may be, or none: nothing would ever be opened.
    #[error("warm_streams is {warm}: 1 to max_streams_per_peer, which is {most}")]
    Warm {
        /// `warm_streams`.
        warm: usize,
        /// `max_streams_per_peer`.
        most: usize,
    },
    /// A queue without room.
    #[error("packet_buffer_size is 0: no packet could wait")]
    NoQueue,
    /// Less memory than one packet takes.
    #[error("{0} bytes for a peer's packets are fewer than one super-packet: {least}", least = PoolConfig::LEAST_BYTES)]
    Bytes(usize),
    /// A time that is zero: something would be done without a pause, or given up at once.
    #[error("{0} is zero")]
    Zero(&'static str),
}

impl PoolConfig {
    /// Least bytes for the packets of a peer: one super-packet with the room around it.
    pub const LEAST_BYTES: usize = 66 * 1024;

    /// The same with times that can be added to any instant.
    pub(super) fn in_time(mut self) -> Self {
        let times = [
            &mut self.stream_idle_timeout,
            &mut self.cleanup_interval,
            &mut self.scale_up_after,
            &mut self.open_timeout,
            &mut self.stall_after,
            &mut self.close_within,
            &mut self.probe.interval,
            &mut self.probe.timeout,
            &mut self.backoff.cap,
        ];
        for time in times {
            *time = (*time).min(NEVER);
        }
        self
    }

    /// Whether it makes sense. Asked by everything that is made from it.
    ///
    /// # Errors
    ///
    /// The first [`ConfigError`] there is.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (most, warm) = (self.max_streams_per_peer, self.warm_streams);
        if !(1..=MAX_STREAMS).contains(&most) {
            return Err(ConfigError::Streams(most));
        }
        if !(1..=most).contains(&warm) {
            return Err(ConfigError::Warm { warm, most });
        }
        if self.packet_buffer_size == 0 {
            return Err(ConfigError::NoQueue);
        }
        if self.peer_buffer_bytes < Self::LEAST_BYTES {
            return Err(ConfigError::Bytes(self.peer_buffer_bytes));
        }
        let times = [
            ("stream_idle_timeout", self.stream_idle_timeout),
            ("cleanup_interval", self.cleanup_interval),
            ("open_timeout", self.open_timeout),
            ("stall_after", self.stall_after),
            ("close_within", self.close_within),
            ("probe.interval", self.probe.interval),
            ("probe.timeout", self.probe.timeout),
        ];
        match times.iter().find(|(_, time)| time.is_zero()) {
            Some((name, _)) => Err(ConfigError::Zero(name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S-24: names and values of document 004: who comes from there finds what was there.
    #[test]
    fn the_defaults_are_the_documented_ones_and_make_sense() {
        let config = PoolConfig::default();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.max_streams_per_peer, 10);
        assert_eq!(config.stream_idle_timeout, Duration::from_secs(300));
        assert_eq!(config.cleanup_interval, Duration::from_secs(60));
        assert_eq!(config.packet_buffer_size, 100);
        assert_eq!(config.breaker.failure_threshold, 5);
        assert_eq!(config.breaker.reset_after, Duration::from_secs(60));
        assert_eq!(config.breaker.success_threshold, 2);
        assert_eq!(config.backoff.base, Duration::from_secs(1));
        assert_eq!(config.backoff.cap, Duration::from_secs(30));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        type Change = fn(&mut PoolConfig);
        let cases: [(Change, ConfigError); 6] = [
            (|c| c.max_streams_per_peer = 0, ConfigError::Streams(0)),
            (|c| c.max_streams_per_peer = 257, ConfigError::Streams(257)),
            (
                |c| c.warm_streams = 11,
                ConfigError::Warm { warm: 11, most: 10 },
            ),
            (|c| c.packet_buffer_size = 0, ConfigError::NoQueue),
            (|c| c.peer_buffer_bytes = 1, ConfigError::Bytes(1)),
            (
                |c| c.stall_after = Duration::ZERO,
                ConfigError::Zero("stall_after"),
            ),
        ];
        for (change, error) in cases {
            let mut config = PoolConfig::default();
            change(&mut config);
            assert_eq!(config.validate(), Err(error));
        }
    }
}
