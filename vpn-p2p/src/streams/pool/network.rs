//! Decides what a change of the network below means: streams over it are believed no longer.

use std::time::Instant;

use vpn_core::NetworkEvent;

use super::stream::{Phase, Stream};
use super::{Action, Pool};
use crate::streams::fault::Fault;
use crate::streams::frame::StreamId;

impl Pool {
    /// The network below is another one, or gone, or the machine slept. Streams that were opened from
    /// here are replaced at once, whatever pause there was; what was on them may be lost, and is
    /// counted. Those of the peer are for the peer to replace, but where there is no network at all
    /// none is left.
    pub fn network_changed(&mut self, now: Instant, event: NetworkEvent) {
        let gone = event == NetworkEvent::Lost;
        if self.closed || !(gone || event.calls_for_reconnect()) {
            return;
        }
        let doubted = self.streams.iter().filter(|s| gone || s.id.is_ours());
        let doubted: Vec<StreamId> = doubted.map(|stream| stream.id).collect();
        // Failures of another network say nothing about this one.
        self.breaker.reset();
        for id in doubted {
            self.doubt(now, id);
        }
        self.backoff.reset();
        self.retry_at = None;
        if gone {
            let fault = Fault::Io("there is no network".to_owned());
            self.stand(Some(&fault));
        }
        self.probe_retry_at = None;
        self.open_what_is_wanted(now);
    }

    /// There is a better way to the peer than that which the streams go: others are opened, and take over
    /// from those of ours without loss. The peer does the same with its own.
    pub fn renew(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        for stream in &mut self.streams {
            stream.is_stale = true;
        }
        let opening = |stream: &&Stream| matches!(stream.phase, Phase::Opening { .. });
        let opening: Vec<StreamId> = self.streams.iter().filter(opening).map(|s| s.id).collect();
        for id in opening {
            self.doubt(now, id);
        }
        // Failures of another way say nothing about this one.
        self.breaker.reset();
        self.backoff.reset();
        self.retry_at = None;
        self.probe_retry_at = None;
        self.open_what_is_wanted(now);
    }

    /// Ends what others take over from, once one of them carries.
    pub(super) fn take_over(&mut self, now: Instant) {
        let carries = |stream: &Stream| stream.is_data() && stream.phase == Phase::Open;
        if !self.streams.iter().any(|s| carries(s) && !s.is_stale) {
            return;
        }
        let ours = |stream: &&Stream| stream.id.is_ours() && stream.is_stale;
        let stale: Vec<StreamId> = self.streams.iter().filter(ours).map(|s| s.id).collect();
        for id in stale {
            if let Some(at) = self.find(id)
                && self.streams[at].phase == Phase::Open
            {
                self.part(now, at);
            }
        }
    }

    fn doubt(&mut self, now: Instant, id: StreamId) {
        let Some(at) = self.find(id) else { return };
        if !matches!(self.streams[at].phase, Phase::Opening { .. }) {
            self.give_up(now, id, &Fault::Doubted);
            return;
        }
        // An attempt whose outcome says nothing.
        self.actions.push_back(Action::Close(id));
        if let Some(permit) = self.streams.remove(at).permit {
            self.breaker.cancelled(permit);
        }
    }
}
