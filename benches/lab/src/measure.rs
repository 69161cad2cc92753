//! Takes the figures of one contender in one round.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Error;
use crate::account;
use crate::contender::{Contender, Running};
use crate::traffic::{self, Echo, Streams};

/// Pause between two questions on an idle way: long enough that processors go to sleep.
const IDLE_PACE: Duration = Duration::from_millis(3);

/// Pause between two questions beside a stream.
const LOADED_PACE: Duration = Duration::from_millis(15);

/// How long what lies in sockets of an ended stream gets to run dry.
const REST: Duration = Duration::from_millis(100);

/// How long everything lasts.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Windows {
    /// Of the stream, in seconds.
    pub(crate) stream: f64,
    /// Of what comes before it is measured.
    pub(crate) warm_up: f64,
    /// Of the flood of small datagrams.
    pub(crate) flood: f64,
    /// Of the questions on an idle way.
    pub(crate) idle: f64,
    /// Bytes that are compared first.
    pub(crate) compared: usize,
}

impl Windows {
    /// Everything in proportion to the stream's seconds.
    pub(crate) fn of(stream: f64) -> Self {
        Self {
            stream,
            warm_up: (stream / 8.0).clamp(0.1, 1.0),
            flood: (stream / 4.0).clamp(0.2, 3.0),
            idle: (stream / 4.0).clamp(0.2, 2.0),
            compared: if stream < 1.0 { 4 << 20 } else { 32 << 20 },
        }
    }
}

/// Round-trip times in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct RoundTrip {
    pub(crate) median: f64,
    pub(crate) p99: f64,
}

impl RoundTrip {
    fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let at = |share: f64| {
            let index = (times.len() as f64 * share) as usize;
            times.get(index.min(times.len().wrapping_sub(1)))
        };
        let micros = |time: &Duration| time.as_secs_f64() * 1e6;
        Some(Self {
            median: micros(at(0.5)?),
            p99: micros(at(0.99)?),
        })
    }
}

/// What one contender did in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Goodput, in Gbit/s.
    pub(crate) gbits: f64,
    /// CPU seconds of the processes that carry, per 10⁹ bytes; none where only the kernel does.
    pub(crate) own_cpu: Option<f64>,
    /// CPU seconds that the machine was busy, per 10⁹ bytes: both ends and the kernel included.
    pub(crate) machine_cpu: f64,
    /// Segments sent again while the stream was measured.
    pub(crate) retransmits: u64,
    /// Small datagrams that arrive per second, in thousands.
    pub(crate) flood_kpps: Option<f64>,
    pub(crate) idle: Option<RoundTrip>,
    pub(crate) loaded: Option<RoundTrip>,
    /// Memory of the processes that carry, in MiB, at most.
    pub(crate) resident: Option<f64>,
    /// Processors that strangers used while the stream was measured.
    pub(crate) strangers: f64,
}

/// One round: starts it, compares bytes, and measures.
pub(crate) fn round(contender: &Contender, cut: bool, windows: Windows) -> Result<Figures, Error> {
    let running = contender.start(cut)?;
    let mut echo = Echo::start(&running.ground, running.target)?;
    echo.wait_until_open()?;
    std::thread::sleep(running.settling);
    traffic::compare(&running.ground, running.target, windows.compared)?;
    std::thread::sleep(REST);
    let idle = RoundTrip::of(echo.ask_for(Duration::from_secs_f64(windows.idle), IDLE_PACE));
    let mut figures = stream(&running, &[running.target], windows, Some(&mut echo))?;
    std::thread::sleep(REST);
    let length = Duration::from_secs_f64(windows.flood);
    let rate = traffic::flood(&running.ground, running.target, length)?;
    figures.flood_kpps = Some(rate / 1e3);
    figures.idle = idle;
    Ok(figures)
}

/// Measures streams to these addresses.
pub(crate) fn stream(
    running: &Running,
    to: &[Ipv4Addr],
    windows: Windows,
    echo: Option<&mut Echo>,
) -> Result<Figures, Error> {
    let pids = running.pids();
    let streams = Streams::start(&running.ground, to)?;
    std::thread::sleep(Duration::from_secs_f64(windows.warm_up));
    let before = Sample::take(running, &pids, &streams)?;
    let window = Duration::from_secs_f64(windows.stream);
    let loaded = match echo {
        Some(echo) => RoundTrip::of(echo.ask_for(window, LOADED_PACE)),
        None => {
            std::thread::sleep(window);
            None
        }
    };
    let after = Sample::take(running, &pids, &streams)?;
    drop(streams);
    let seconds = (after.at - before.at).as_secs_f64();
    let bytes = (after.bytes - before.bytes) as f64;
    if bytes == 0.0 {
        return Err("the stream stalled".into());
    }
    let per_gb = |a: Duration, b: Duration| b.saturating_sub(a).as_secs_f64() * 1e9 / bytes;
    let most = pids.iter().filter_map(|pid| account::resident(*pid));
    let most = most.map(|(_, most)| most).sum::<u64>() as f64 / 1024.0;
    Ok(Figures {
        gbits: bytes * 8e-9 / seconds,
        own_cpu: (!pids.is_empty()).then(|| per_gb(before.own, after.own)),
        machine_cpu: per_gb(before.machine, after.machine),
        retransmits: after.retransmits.saturating_sub(before.retransmits),
        flood_kpps: None,
        idle: None,
        loaded,
        resident: (!pids.is_empty()).then_some(most),
        strangers: after
            .strangers
            .saturating_sub(before.strangers)
            .as_secs_f64()
            / seconds,
    })
}

/// All counters at one moment.
#[derive(Debug)]
struct Sample {
    at: Instant,
    bytes: u64,
    own: Duration,
    machine: Duration,
    strangers: Duration,
    retransmits: u64,
}

impl Sample {
    fn take(running: &Running, pids: &[u32], streams: &Streams) -> Result<Self, Error> {
        let strangers = account::strangers(pids);
        Ok(Self {
            strangers,
            retransmits: account::retransmits(&running.ground.app)?,
            own: pids.iter().map(|pid| account::process(*pid)).sum(),
            machine: account::machine(),
            bytes: streams.received(),
            at: Instant::now(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_ranked() {
        let times = (1..=200).rev().map(Duration::from_micros).collect();
        let Some(found) = RoundTrip::of(times) else {
            panic!("there are times");
        };
        assert!((found.median - 101.0).abs() < 1e-6, "{found:?}");
        assert!((found.p99 - 199.0).abs() < 1e-6, "{found:?}");
        assert!(RoundTrip::of(Vec::new()).is_none());
    }
}
