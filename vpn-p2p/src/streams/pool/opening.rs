//! Decides when streams are opened, and which of the peer's are accepted.

use std::time::Instant;

use super::stream::{Phase, Stream};
use super::{Action, Pool};
use crate::streams::fault::Fault;
use crate::streams::frame::{Control, Purpose, Session, StreamId};

/// Streams being opened at the same time: enough to be quick, too few to be a load on the peer.
const MAX_OPENING: usize = 2;

impl Pool {
    /// A stream that was to be opened is there, and is greeted now.
    pub fn opened(&mut self, id: StreamId) {
        if let Some(at) = self.find(id) {
            let hello = Control::Hello {
                session: self.session,
                number: self.streams[at].number(),
                purpose: self.streams[at].purpose,
            };
            self.tell(at, hello);
        }
    }

    /// The peer opened a stream, and its first frame was a `Hello` with these words.
    ///
    /// # Errors
    ///
    /// Why it is refused: close it.
    pub fn accepted(
        &mut self,
        now: Instant,
        session: Session,
        number: u64,
        purpose: Purpose,
    ) -> Result<StreamId, Fault> {
        if self.closed {
            return Err(Fault::Closed);
        }
        self.meet(now, session);
        let id = StreamId::theirs(number);
        if self.find(id).is_some() || self.remembered.iter().any(|&(known, _)| known == id) {
            return Err(Fault::Protocol("two streams of one number"));
        }
        let theirs = self.streams.iter().filter(|s| !s.id.is_ours()).count();
        // Its old streams may still be here when it opens others in their place.
        if theirs > 2 * self.config.max_streams_per_peer {
            return Err(Fault::TooMany);
        }
        self.streams
            .push(Stream::new(id, purpose, Phase::Open, now));
        self.counters.accepted += 1;
        let at = self.streams.len() - 1;
        let session = self.session;
        self.tell(at, Control::Welcome { session });
        self.begin(now, at);
        Ok(id)
    }

    /// A stream of the peer's was accepted by a name that another had: what was to be closed by that name
    /// is closed by the driver itself.
    pub(in crate::streams) fn closed_already(&mut self, id: StreamId) {
        self.actions.retain(|action| *action != Action::Close(id));
    }

    /// The peer answers on a stream that we opened.
    pub(super) fn welcomed(&mut self, now: Instant, at: usize, session: Session) {
        let id = self.streams[at].id;
        self.meet(now, session);
        let Some(at) = self.find(id) else { return };
        if let Some(permit) = self.streams[at].permit.take() {
            self.breaker.succeeded(permit);
            self.backoff.succeeded(now);
            self.retry_at = None;
        }
        self.counters.opened += 1;
        self.begin(now, at);
    }

    /// The stream carries from now on.
    fn begin(&mut self, now: Instant, at: usize) {
        let stream = &mut self.streams[at];
        stream.phase = Phase::Open;
        stream.peer = self.peer;
        stream.since = now;
        (stream.progress, stream.used) = (now, now);
        if stream.purpose == Purpose::Probe {
            let id = stream.id;
            self.probe.opened(id, now);
            self.arm(now);
            return;
        }
        // Before the first packet: what was on them goes by this one too from now on.
        let stops: Vec<StreamId> = self.unsettled.iter().map(|ended| ended.id).collect();
        for stream in stops {
            self.tell(at, Control::Stop { stream });
        }
        self.stand(None);
        if !self.opens {
            self.retry_at = None;
        }
        self.reroute(now);
        self.take_over(now);
        self.open_what_is_wanted(now);
    }

    /// What another process of the peer had goes with that one.
    fn meet(&mut self, now: Instant, session: Session) {
        if self.peer.replace(session).is_none_or(|old| old == session) {
            return;
        }
        let old = self.streams.iter().filter(|s| s.peer.is_some());
        let old: Vec<StreamId> = old.map(|stream| stream.id).collect();
        for id in old {
            self.actions.push_back(Action::Close(id));
            self.ended(now, id, &Fault::Restarted);
        }
        while let Some(ended) = self.unsettled.pop() {
            self.lose(ended.in_flight);
        }
        self.remembered.retain(|(id, _)| id.is_ours());
    }

    /// Opens what is missing, as far as breaker and back-off let it.
    pub(super) fn open_what_is_wanted(&mut self, now: Instant) {
        if !self.opens || self.closed {
            return;
        }
        if self.probe_wanted(now) {
            self.probe_retry_at = Some(now + self.config.probe.interval);
            let permit = self.breaker.acquire(now).ok();
            let at = self.open(now, Purpose::Probe);
            self.streams[at].permit = permit;
        }
        while self.is_missing() && self.retry_at.is_none_or(|at| at <= now) {
            match self.breaker.acquire(now) {
                Err(refused) => self.retry_at = Some(refused.retry_at),
                Ok(permit) => {
                    let at = self.open(now, Purpose::Data);
                    self.streams[at].permit = Some(permit);
                }
            }
        }
        if let Some(at) = self.retry_at.filter(|_| self.is_missing()) {
            self.arm(at);
        }
    }

    fn probe_wanted(&self, now: Instant) -> bool {
        let probes = |stream: &Stream| !stream.is_data();
        self.count_open() > 0
            && !self.streams.iter().any(probes)
            && self.probe_retry_at.is_none_or(|at| at <= now)
    }

    /// Whether there are fewer streams than there should be, and one more may be opened, or waited for.
    pub(super) fn is_missing(&self) -> bool {
        let (mut there, mut opening) = (0, 0);
        for stream in self.streams.iter().filter(|s| s.is_data() && !s.is_stale) {
            opening += usize::from(matches!(stream.phase, Phase::Opening { .. }));
            there += usize::from(matches!(stream.phase, Phase::Opening { .. } | Phase::Open));
        }
        there < self.wanted && opening < MAX_OPENING
    }

    fn open(&mut self, now: Instant, purpose: Purpose) -> usize {
        let id = StreamId::ours(self.next_number);
        self.next_number += 1;
        let until = now + self.config.open_timeout;
        self.streams
            .push(Stream::new(id, purpose, Phase::Opening { until }, now));
        self.actions.push_back(Action::Open(id));
        self.arm(until);
        self.streams.len() - 1
    }
}
