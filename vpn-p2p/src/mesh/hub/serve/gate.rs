//! Decides how many TLS streams there may be, in all and of one address, before anything is known of
//! who opened them.
//!
//! Who says nothing holds a place for as long as greeting may take. So one address has few of these, and
//! the last ones are kept for addresses where a listed member was seen: who was here before gets in
//! through a flood of strangers.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Of places of each kind one in so many is kept for who was seen.
const KEPT: usize = 8;

/// How long an address is remembered where a listed member was: a weekend, and a day more.
const SEEN_FOR: Duration = Duration::from_secs(3 * 24 * 3600);

/// Addresses that are remembered; the one that was seen longest ago makes room. As many as there may
/// be clients by default.
const MAX_SEEN: usize = 1024;

/// How much TLS there may be. What is beyond is closed at once.
#[derive(Clone, Copy, Debug)]
pub struct TlsLimits {
    /// Streams in all, with those that are being greeted. Default 2048; each takes about 400 KB when
    /// busy. One in eight is kept for addresses where a listed member was seen.
    pub streams: usize,
    /// Streams of one address; of IPv6 one /64, for who has one has all of it. Default 64: a dozen
    /// nodes behind one NAT.
    pub per_address: usize,
    /// Streams that are being greeted. Default 64; one in eight is kept as above.
    pub greeting: usize,
    /// Streams of one address that are being greeted. Default 8: a greeting takes two round trips, so
    /// that is forty per second at 100 ms, and who holds them without a word leaves the others theirs.
    pub greeting_per_address: usize,
    /// How long greeting may take. Default 10 s.
    pub greeting_time: Duration,
    /// Clients, each with its streams. Default 1024.
    pub clients: usize,
    /// How long a client may be no member. Default 15 s.
    pub stranger_time: Duration,
    /// Bytes that wait for all clients together. Default 64 MiB.
    pub waiting_bytes: usize,
}

impl Default for TlsLimits {
    fn default() -> Self {
        Self {
            streams: 2048,
            per_address: 64,
            greeting: 64,
            greeting_per_address: 8,
            greeting_time: Duration::from_secs(10),
            clients: 1024,
            stranger_time: Duration::from_secs(15),
            waiting_bytes: 64 << 20,
        }
    }
}

/// What counts as one address: of IPv6 a /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into()
            }
        })
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    open: usize,
    greeting: usize,
}

#[derive(Debug, Default)]
struct Counts {
    all: Count,
    by_source: HashMap<Source, Count>,
    /// Where listed members were, and when last.
    seen: HashMap<Source, Instant>,
}

/// Counts streams.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) limits: TlsLimits,
    counts: Arc<Mutex<Counts>>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    counts: Arc<Mutex<Counts>>,
    pub(super) source: Source,
    greeting: bool,
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    pub(super) fn new(limits: TlsLimits) -> Self {
        let counts = Arc::default();
        Self { limits, counts }
    }

    pub(super) fn open(&self) -> usize {
        lock(&self.counts).all.open
    }

    /// A place for a stream from there that is to be greeted, if there is one.
    pub(super) fn enter(&self, address: IpAddr, now: Instant) -> Option<Place> {
        let source = Source::from(address);
        let mut counts = lock(&self.counts);
        let was_seen = counts
            .seen
            .get(&source)
            .is_some_and(|at| now.saturating_duration_since(*at) < SEEN_FOR);
        let kept = |most: usize| if was_seen { 0 } else { most / KEPT };
        let limits = &self.limits;
        let mine = counts.by_source.get(&source).copied().unwrap_or_default();
        let full = counts.all.open >= limits.streams - kept(limits.streams)
            || counts.all.greeting >= limits.greeting - kept(limits.greeting)
            || mine.open >= limits.per_address
            || mine.greeting >= limits.greeting_per_address;
        if full {
            return None;
        }
        counts.all.open += 1;
        counts.all.greeting += 1;
        let mine = counts.by_source.entry(source).or_default();
        mine.open += 1;
        mine.greeting += 1;
        drop(counts);
        Some(Place {
            counts: self.counts.clone(),
            source,
            greeting: true,
        })
    }

    /// A listed member is there.
    pub(super) fn saw(&self, source: Source, now: Instant) {
        let mut counts = lock(&self.counts);
        if counts.seen.len() >= MAX_SEEN && !counts.seen.contains_key(&source) {
            let oldest = counts.seen.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(source, _)| *source) {
                counts.seen.remove(&oldest);
            }
        }
        counts.seen.insert(source, now);
    }
}

impl Place {
    /// Its stream was greeted: it stays, and the next one can be greeted.
    pub(super) fn greeted(&mut self) {
        if std::mem::take(&mut self.greeting) {
            let mut counts = lock(&self.counts);
            counts.all.greeting -= 1;
            if let Some(mine) = counts.by_source.get_mut(&self.source) {
                mine.greeting -= 1;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.greeted();
        let mut counts = lock(&self.counts);
        counts.all.open -= 1;
        if let Some(mine) = counts.by_source.get_mut(&self.source) {
            mine.open -= 1;
            if mine.open == 0 {
                counts.by_source.remove(&self.source);
            }
        }
    }
}

/// A stream that has a place.
pub(super) struct Placed<S> {
    pub(super) stream: S,
    pub(super) _place: Place,
}

impl<S: AsyncRead + Unpin> AsyncRead for Placed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Placed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// So many places from there, until there are none.
    fn fill(gate: &Gate, from: IpAddr, now: Instant) -> Vec<Place> {
        std::iter::from_fn(|| gate.enter(from, now)).collect()
    }

    #[test]
    fn who_says_nothing_holds_few_greetings_and_a_prefix_is_one_address() {
        let (gate, now) = (Gate::new(TlsLimits::default()), Instant::now());
        let mut silent = fill(&gate, ip("203.0.113.1"), now);
        assert_eq!(silent.len(), 8);
        for n in 0..100 {
            let from = ip(&format!("2001:db8:0:1::{n}"));
            silent.extend(gate.enter(from, now));
        }
        assert_eq!(silent.len(), 16, "a /64 has as many as an address");
        let mut place = gate.enter(ip("192.0.2.1"), now).unwrap();
        place.greeted();
        let more = fill(&gate, ip("192.0.2.1"), now);
        assert_eq!(more.len(), 8, "one that was greeted does not count");
        drop((silent, more));
        assert_eq!(gate.open(), 1);
        drop(place);
        assert!(lock(&gate.counts).by_source.is_empty());
    }

    #[test]
    fn the_last_places_are_for_who_was_seen_lately() {
        let (gate, now) = (Gate::new(TlsLimits::default()), Instant::now());
        let member = ip("192.0.2.1");
        gate.saw(member.into(), now);
        let flood: Vec<Place> = (0..200)
            .filter_map(|n| gate.enter(ip(&format!("203.0.113.{n}")), now))
            .collect();
        assert_eq!(flood.len(), 64 - 8);
        assert!(gate.enter(member, now).is_some());
        assert!(gate.enter(member, now + SEEN_FOR).is_none());
        for n in 0..2000_u32 {
            let other = IpAddr::from(n.to_be_bytes());
            gate.saw(other.into(), now + Duration::from_secs(1));
        }
        assert_eq!(lock(&gate.counts).seen.len(), MAX_SEEN);
        assert!(gate.enter(member, now).is_none(), "it made room");
    }
}
