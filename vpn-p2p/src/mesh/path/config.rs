//! The times of a path manager, with the reasons for their defaults.

use std::time::Duration;

/// Times and numbers of [`Paths`](super::Paths).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathConfig {
    /// How often the way in use is probed while packets of users go by it. Long round trips make it
    /// less, so that a dead way is noticed in time. Default: 1 s.
    pub probe_every: Duration,
    /// How long after packets begin to go, or go again, the first probe follows: one single packet
    /// and its answer are over before. Default: 250 ms.
    pub first_probe: Duration,
    /// A probe is unanswered after two round trips, but not before this. Default: 250 ms.
    pub timeout_min: Duration,
    /// A probe is unanswered after this at the latest. Default: 1 s.
    pub timeout_max: Duration,
    /// So many unanswered probes in a row end a way; on a way known to lose many, up to two more.
    /// Default: 3.
    pub unanswered: u32,
    /// A direct way in use by which nothing was sent for so long gets a keepalive. With one renewal
    /// of the session per 120 s that is at most one packet per 25 s. Default: 34 s.
    pub keepalive: Duration,
    /// So much longer than that may nothing be heard by the way in use, before it is probed.
    /// Default: 6 s.
    pub grace: Duration,
    /// Without packets of users for so long, no direct way is looked for. Default: 60 s.
    pub idle: Duration,
    /// How long a way that died in use is not returned to, although it answers; doubles each time.
    /// Default: 1 s.
    pub hold: Duration,
    /// The longest such pause. Default: 60 s.
    pub hold_max: Duration,
    /// A way in use for so long has its past forgiven. Default: 60 s.
    pub stable: Duration,
    /// How long an answered probe shows that a way which is not in use may be used. Default: 10 s.
    pub proof: Duration,
    /// A direct way replaces another one if it is faster by this and by a fifth. Default: 5 ms.
    pub better: Duration,
    /// Direct ways known at the same time, candidates of the peer's record and those learnt from
    /// its datagrams. Default: 24; at least 1.
    pub max_ways: usize,
}

impl Default for PathConfig {
    fn default() -> Self {
        Self {
            probe_every: Duration::from_secs(1),
            first_probe: Duration::from_millis(250),
            timeout_min: Duration::from_millis(250),
            timeout_max: Duration::from_secs(1),
            unanswered: 3,
            keepalive: Duration::from_secs(34),
            grace: Duration::from_secs(6),
            idle: Duration::from_secs(60),
            hold: Duration::from_secs(1),
            hold_max: Duration::from_secs(60),
            stable: Duration::from_secs(60),
            proof: Duration::from_secs(10),
            better: Duration::from_millis(5),
            max_ways: 24,
        }
    }
}

/// A dead way is to be noticed within this, while packets of users go by it.
const NOTICED: Duration = Duration::from_millis(1900);

impl PathConfig {
    /// After how long a probe of a way with this round trip counts as unanswered.
    pub(super) fn timeout(&self, rtt: Option<Duration>) -> Duration {
        let twice = rtt.map_or(self.timeout_min * 2, |rtt| rtt * 2);
        twice.min(self.timeout_max).max(self.timeout_min)
    }

    /// How often the way in use is probed: so that the worst verdict, of two more than usual
    /// (see [`spacing`](Self::spacing)), still comes in time.
    pub(super) fn period(&self, rtt: Option<Duration>) -> Duration {
        let timeout = self.timeout(rtt);
        let verdict = timeout * 2 + self.spacing(rtt) * self.unanswered;
        NOTICED
            .saturating_sub(verdict)
            .min(self.probe_every)
            .max(self.first_probe)
    }

    /// How far apart probes are that follow an unanswered one: closer than their timeouts, so that
    /// several lost ones are told from a dead way in the same time.
    pub(super) fn spacing(&self, rtt: Option<Duration>) -> Duration {
        self.timeout(rtt) / 2
    }

    /// How many unanswered probes in a row end a way that loses this part of them. With the answers
    /// that may come by the relay, a way with 20 % of loss each way dies by chance once in a quarter
    /// of an hour of steady traffic, not once in a minute.
    pub(super) fn verdict(&self, loss: f32) -> u32 {
        let more = match loss {
            loss if loss > 0.2 => 2,
            loss if loss > 0.1 => 1,
            _ => 0,
        };
        self.unanswered + more
    }
}
