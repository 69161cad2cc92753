//! The networks: those that the reference calls good, poor and terrible, and a long one.

use std::time::Duration;

use vpn_core::testing::Faults;

/// A network between two ends, the same in both directions; the rate is that of the way there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    pub(crate) name: &'static str,
    /// Share of packets that is lost.
    loss: f64,
    /// How long a packet takes, in milliseconds, and how much longer it may.
    delay: u64,
    jitter: u64,
    /// Bytes per second.
    pub(crate) rate: u64,
}

impl Network {
    pub(crate) fn faults(&self, partition: bool) -> Faults {
        Faults {
            loss: self.loss,
            delay: Duration::from_millis(self.delay),
            jitter: Duration::from_millis(self.jitter),
            partition,
            ..Faults::default()
        }
    }
}

pub(crate) const GOOD: Network = Network {
    name: "good",
    loss: 0.01,
    delay: 10,
    jitter: 5,
    rate: 12_500_000,
};

pub(crate) const POOR: Network = Network {
    name: "poor",
    loss: 0.1,
    delay: 200,
    jitter: 100,
    rate: 125_000,
};

pub(crate) const TERRIBLE: Network = Network {
    name: "terrible",
    loss: 0.3,
    delay: 500,
    jitter: 200,
    rate: 12_500,
};

pub(crate) const HIGH_LATENCY: Network = Network {
    name: "high latency",
    loss: 0.01,
    delay: 1000,
    jitter: 100,
    rate: 1_250_000,
};
