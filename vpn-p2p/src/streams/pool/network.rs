//! Decides what a change of the network below means: streams over it are believed no longer.

use std::time::Instant;

use vpn_core::NetworkEvent;

use super::stream::Phase;
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
