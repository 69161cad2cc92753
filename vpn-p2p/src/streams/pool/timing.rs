//! Decides what the clock brings, and when it is to be asked next.

use std::time::Instant;

use super::Pool;
use super::stream::{Phase, Stream};
use crate::streams::fault::Fault;
use crate::streams::frame::{Control, StreamId};
use crate::streams::probe::Due;

impl Pool {
    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let mut next = (!self.closed).then_some(self.next_cleanup);
        let mut earlier = |at: Option<Instant>| next = next.into_iter().chain(at).min();
        for stream in &self.streams {
            earlier(stream.ack_at);
            earlier(self.deadline(stream));
        }
        earlier(self.probe.poll_timeout());
        if self.opens && self.count_open() > 0 && self.streams.iter().all(Stream::is_data) {
            earlier(self.probe_retry_at);
        }
        if self.is_missing() {
            earlier(self.retry_at);
        }
        earlier(
            self.busy_since
                .map(|since| since + self.config.scale_up_after),
        );
        self.armed = next;
        next
    }

    /// When the stream is given up.
    fn deadline(&self, stream: &Stream) -> Option<Instant> {
        let stalls = || stream.progress + self.config.stall_after;
        match stream.phase {
            Phase::Opening { until } | Phase::Draining { until } | Phase::Parting { until } => {
                Some(until)
            }
            Phase::Open => (!stream.is_empty()).then(stalls),
        }
    }

    /// It is this late.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        self.overdue(now);
        for at in 0..self.streams.len() {
            let due = |due: &mut Instant| *due <= now;
            if self.streams[at].ack_at.take_if(due).is_some() {
                // No wake-up any more: the stream may not take anything for long.
                self.streams[at].ack_due = true;
                self.signal(at);
            }
        }
        self.ask(now);
        if now >= self.next_cleanup {
            self.next_cleanup = now + self.config.cleanup_interval;
            self.spare.clear();
            self.retire_idle(now);
        }
        if self.busy_since.is_some() {
            self.weigh(now);
        }
        if !self.opens && self.retry_at.take_if(|at| *at <= now).is_some() {
            // The peer had its time to come back.
            self.stand(Some(&Fault::Silent));
        }
        self.open_what_is_wanted(now);
    }

    fn overdue(&mut self, now: Instant) {
        let late = |stream: &&Stream| self.deadline(stream).is_some_and(|at| at <= now);
        let late: Vec<StreamId> = self.streams.iter().filter(late).map(|s| s.id).collect();
        for id in late {
            let Some(at) = self.find(id) else { continue };
            let fault = match self.streams[at].phase {
                Phase::Open => Fault::Stalled,
                _ => Fault::Timeout,
            };
            self.give_up(now, id, &fault);
        }
    }

    fn ask(&mut self, now: Instant) {
        match self.probe.timeout(now) {
            Due::Nothing => {}
            Due::Ask(stream, number) => {
                if let Some(at) = self.find(stream) {
                    self.tell(at, Control::Ping { number });
                }
            }
            Due::Silent => {
                self.counters.silences += 1;
                let greeted = self.streams.iter().filter(|s| s.peer.is_some());
                let all: Vec<StreamId> = greeted.map(|stream| stream.id).collect();
                for id in all {
                    self.give_up(now, id, &Fault::Silent);
                }
                self.stand(Some(&Fault::Silent));
            }
        }
    }

    /// Streams beyond the warm ones that nobody used for long are ended, the youngest first.
    fn retire_idle(&mut self, now: Instant) {
        let idle = |stream: &Stream, limit| {
            let ours = stream.id.is_ours() && stream.is_data() && stream.phase == Phase::Open;
            ours && stream.is_empty() && now >= stream.used + limit
        };
        for at in (0..self.streams.len()).rev() {
            let limit = self.config.stream_idle_timeout;
            if self.wanted <= self.config.warm_streams {
                return;
            }
            if at < self.streams.len() && idle(&self.streams[at], limit) {
                self.wanted -= 1;
                self.part(now, at);
            }
        }
    }
}
