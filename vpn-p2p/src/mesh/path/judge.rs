//! Decides whether the way in use still works: when it is asked, and what its silence means.

use std::time::Instant;

use super::track::Track;
use super::{MAX_OUT, PathOut, Paths, TRIGGER, TRIGGER_MAX, Why};
use crate::mesh::way::Way;

/// What is due on the way in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A question.
    Probe { urgent: bool },
    /// A question, because nothing was heard for too long.
    Doubt,
    /// A sign of life.
    Keepalive,
}

impl Paths {
    /// Sends a probe by this way.
    pub(super) fn probe(&mut self, way: Way, urgent: bool, now: Instant) {
        if self.out.len() >= MAX_OUT {
            return;
        }
        let nonce = self.nonce;
        let Some(track) = self.tracks.iter_mut().find(|track| track.way == way) else {
            return;
        };
        track.asked(nonce, now, &self.config);
        self.nonce = nonce.wrapping_add(1);
        self.out.push_back(PathOut::Probe { way, nonce, urgent });
        if self.current == Some(way) {
            self.burst_over = true;
        }
    }

    /// What is due next on the way in use, and when.
    pub(super) fn in_use_due(&self) -> Option<(Instant, Due)> {
        let track = self.track(self.current?)?;
        if track.missed() > 0 {
            let verdict = self.config.verdict(track.known_loss());
            let next = track.probed? + self.config.spacing(track.rtt);
            return (track.tried() < verdict).then_some((next, Due::Probe { urgent: true }));
        }
        if track.tried() > 0 {
            return None;
        }
        let asked = self
            .traffic_due(track)
            .map(|at| (at, Due::Probe { urgent: false }));
        if !track.way.is_direct() {
            return asked;
        }
        // Until it is heard or has sent anything, its time runs from when it came into use.
        let heard = track.heard.max(track.proof).or(self.since)?;
        let sent = track
            .transmitted
            .max(self.last_sent.filter(|at| Some(*at) >= self.since));
        let alive = if track.one_sided {
            // It sends nothing by this way on its own; asking is what keeps it proven.
            Due::Doubt
        } else {
            Due::Keepalive
        };
        let doubt = (
            heard + self.config.keepalive + self.config.grace,
            Due::Doubt,
        );
        let alive = (sent.or(self.since)? + self.config.keepalive, alive);
        [asked, Some(doubt), Some(alive)]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// While packets of users go, the way they go is asked now and then.
    fn traffic_due(&self, track: &Track) -> Option<Instant> {
        let sent = self.last_sent?;
        if track.probed.is_some_and(|at| at >= sent) {
            return None;
        }
        let first = self.burst.unwrap_or(sent) + self.config.first_probe;
        let next = track.probed.map(|at| at + self.config.period(track.rtt));
        Some(next.map_or(first, |next| next.max(first)))
    }

    pub(super) fn ask_in_use(&mut self, now: Instant) {
        let Some((at, due)) = self.in_use_due() else {
            return;
        };
        let Some(way) = self.current.filter(|_| at <= now) else {
            return;
        };
        match due {
            Due::Probe { urgent } => self.probe(way, urgent, now),
            Due::Doubt => {
                if let Some(track) = self.track_mut(way) {
                    track.one_sided = true;
                }
                self.probe(way, true, now);
            }
            Due::Keepalive => {
                self.transmitted(way, now);
                if self.out.len() < MAX_OUT {
                    self.out.push_back(PathOut::Keepalive { way });
                }
            }
        }
    }

    /// Asks the way in use now, if it is a direct one that is not being asked already.
    pub(super) fn check(&mut self, now: Instant) {
        let asked = self.current.and_then(|way| self.track(way));
        if let Some(track) = asked.filter(|track| track.way.is_direct() && track.tried() == 0) {
            self.probe(track.way, true, now);
        }
    }

    /// A datagram came from an address that is not proven: asks it back, with growing pauses.
    pub(super) fn triggered(&mut self, way: Way, now: Instant) {
        if !self.ready {
            return;
        }
        let Some(track) = self.track_mut(way) else {
            return;
        };
        let pause = match track.trigger {
            Some((next, _)) if now < next => return,
            Some((_, pause)) => (pause * 2).min(TRIGGER_MAX),
            None => TRIGGER,
        };
        track.trigger = Some((now + pause, pause));
        let just_asked = |at| now.saturating_duration_since(at) < TRIGGER;
        if !track.probed.is_some_and(just_asked) {
            self.probe(way, true, now);
        }
    }

    /// An answer came: the way of its question is proven.
    pub(super) fn answered(&mut self, nonce: u32, now: Instant) {
        let mut tracks = self.tracks.iter_mut();
        let Some(track) = tracks.find_map(|track| {
            let first = track.proof.is_none();
            track.answered(nonce, now).then_some((first, track))
        }) else {
            return;
        };
        let (first, track) = track;
        let (way, named) = (track.way, track.named);
        if !way.is_direct() {
            track.held_until = None;
        } else if self.current == Some(way) {
            let stable = |since| now.saturating_duration_since(since) >= self.config.stable;
            if self.since.is_some_and(stable) {
                track.forgive();
            }
        }
        self.choose(now, Why::Proven);
        if first && !named && way.is_direct() && self.current != Some(way) {
            // The peer sends from where it was not before: is it still where we think it is?
            self.check(now);
        }
    }

    /// Notes what stayed unanswered, and leaves the way in use if that is too much.
    pub(super) fn judge(&mut self, now: Instant) {
        for at in 0..self.tracks.len() {
            let track = &mut self.tracks[at];
            let before = track.missed();
            if !track.expire(now) {
                continue;
            }
            let (way, missed) = (track.way, track.missed());
            if self.current == Some(way) {
                let verdict = self.config.verdict(track.known_loss());
                if missed >= verdict {
                    self.leave(way, now);
                } else if before == 0 && way.is_direct() {
                    self.ask_others(way, now);
                }
            } else if missed >= self.config.unanswered && track.proof.is_some() {
                track.died();
            }
        }
    }

    /// The way in use is dead.
    fn leave(&mut self, way: Way, now: Instant) {
        let Some(at) = self.tracks.iter().position(|track| track.way == way) else {
            return;
        };
        let track = &mut self.tracks[at];
        let silent_since = track.first_tried();
        track.died();
        if !way.is_direct() {
            // Another relay may serve; with no other, this one is asked again.
            track.held_until = Some(now);
            self.choose(now, Why::Silent);
            return;
        }
        track.hold(now, &self.config);
        // What answered before that may have died of the same.
        for track in self.tracks.iter_mut().filter(|track| track.way.is_direct()) {
            track.proof = track.proof.filter(|at| Some(*at) >= silent_since);
        }
        self.choose(now, Why::Silent);
        if !self.current.is_some_and(Way::is_direct) {
            self.start_rounds(now);
        }
    }

    /// The way in use is doubted: do others, that worked lately, work now?
    fn ask_others(&mut self, doubted: Way, now: Instant) {
        let lately = |at| now.saturating_duration_since(at) <= self.config.stable;
        let ways: Vec<Way> = self
            .tracks
            .iter()
            .filter(|track| track.way.is_direct() && track.way != doubted)
            .filter(|track| track.proof.is_some_and(lately))
            .map(|track| track.way)
            .collect();
        for way in ways {
            self.probe(way, true, now);
        }
    }

    /// When the next way that was held back is free again. Of no interest while a direct way is used.
    pub(super) fn hold_ends(&self) -> Option<Instant> {
        if self.current.is_some_and(Way::is_direct) {
            return None;
        }
        let direct = self.tracks.iter().filter(|track| track.way.is_direct());
        direct.filter_map(|track| track.held_until).min()
    }

    /// Ways whose pause is over are used again if they answered lately, and asked if not.
    pub(super) fn end_holds(&mut self, now: Instant) {
        if self.hold_ends().is_none_or(|at| now < at) {
            return;
        }
        let mut ended = Vec::new();
        for track in self.tracks.iter_mut().filter(|track| track.way.is_direct()) {
            if track.held_until.is_some_and(|until| until <= now) {
                track.held_until = None;
                ended.push(track.way);
            }
        }
        self.choose(now, Why::Proven);
        if self.is_active(now) && !self.current.is_some_and(Way::is_direct) {
            for way in ended {
                self.probe(way, true, now);
            }
        }
    }
}
