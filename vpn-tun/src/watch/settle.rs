//! Decides when to look, and what is told. Pure: time is an argument.
//!
//! The system says a lot: an address that is configured anew is a dozen messages. Messages are
//! therefore hints only. Once they pause, or after a while if they do not, the network is looked at
//! as a whole, and what is told follows from comparing two views. What our own interfaces do is in
//! no view, and so is no event.

use std::time::{Duration, Instant};

use vpn_core::NetworkEvent;

use super::Notice;
use super::view::View;

/// How long the system has to be quiet before the network is looked at. Steps of one change come
/// within a few milliseconds of each other.
pub const QUIET: Duration = Duration::from_millis(60);

/// Looked at after this time even if the system is never quiet.
pub const LOUDEST: Duration = Duration::from_millis(300);

/// Shortest time between two changes that are told: a flapping link costs every tunnel two
/// handshakes a second at most.
pub const BETWEEN_CHANGES: Duration = Duration::from_millis(500);

/// Shortest sleep that is one. Sessions survive less.
pub const SHORTEST_SLEEP: Duration = Duration::from_secs(1);

/// Looked at after this time without any hint: messages can be lost.
pub const AT_LEAST_EVERY: Duration = Duration::from_secs(30);

/// From hints and views to notices. Driven by its owner: after every [`hint`](Self::hint) wait
/// until [`next_look`](Self::next_look), then look and say what was [`seen`](Self::seen).
#[derive(Debug)]
pub struct Settle {
    view: View,
    /// The first and the last hint since the last look.
    hints: Option<(Instant, Instant)>,
    /// A way broke since the last look.
    broke: bool,
    last_look: Instant,
    last_change: Option<Instant>,
    slept: Duration,
}

impl Settle {
    /// Starts with how the network looks now, and how long the machine has slept in all.
    pub const fn new(now: Instant, view: View, slept: Duration) -> Self {
        Self {
            view,
            hints: None,
            broke: false,
            last_look: now,
            last_change: None,
            slept,
        }
    }

    /// The view that was seen last.
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// Something may have changed. `broke`: a way that tunnels may use broke, for however short a
    /// time.
    pub fn hint(&mut self, now: Instant, broke: bool) {
        let first = self.hints.map_or(now, |(first, _)| first);
        self.hints = Some((first, now));
        self.broke |= broke;
    }

    /// When to look.
    pub fn next_look(&self) -> Instant {
        let Some((first, last)) = self.hints else {
            return self.last_look + AT_LEAST_EVERY;
        };
        let settled = (last + QUIET).min(first + LOUDEST);
        match self.last_change {
            Some(at) => settled.max(at + BETWEEN_CHANGES),
            None => settled,
        }
    }

    /// This was seen: what is to be told.
    pub fn seen(&mut self, now: Instant, view: View) -> Option<Notice> {
        let event = self.view.event_to(&view, self.broke);
        let other = self.view.has_other_addresses(&view);
        self.view = view;
        self.hints = None;
        self.broke = false;
        self.last_look = now;
        if event == Some(NetworkEvent::Changed) {
            self.last_change = Some(now);
        }
        match event {
            Some(event) => Some(Notice::Network(event)),
            None => other.then_some(Notice::Addresses),
        }
    }

    /// Looking failed: it is tried again as after a hint.
    pub fn unseen(&mut self, now: Instant) {
        self.hints = Some((now, now));
        self.last_look = now;
    }

    /// The machine has slept this long in all, since it was started.
    pub fn slept(&mut self, now: Instant, in_all: Duration) -> Option<Notice> {
        let longer = in_all.saturating_sub(self.slept);
        // Two clocks are read one after the other; what that takes must not add up.
        self.slept = self.slept.max(in_all);
        (longer >= SHORTEST_SLEEP).then(|| {
            self.hint(now, false);
            Notice::Network(NetworkEvent::Woke)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::home;
    use super::*;

    const CHANGED: Option<Notice> = Some(Notice::Network(NetworkEvent::Changed));

    /// Plays hints, looks when it is due, and collects what is told.
    struct Play {
        settle: Settle,
        now: Instant,
        told: Vec<Notice>,
        looks: u32,
    }

    impl Play {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                settle: Settle::new(now, home(&[]), Duration::ZERO),
                now,
                told: Vec::new(),
                looks: 0,
            }
        }

        fn pass(&mut self, time: Duration, view: &View) {
            let end = self.now + time;
            while self.settle.next_look() <= end {
                self.now = self.settle.next_look().max(self.now);
                self.told.extend(self.settle.seen(self.now, view.clone()));
                self.looks += 1;
            }
            self.now = end;
        }
    }

    #[test]
    fn a_burst_is_one_event_and_one_look() {
        let mut play = Play::new();
        let after = View::default();
        for _ in 0..50 {
            play.settle.hint(play.now, true);
            play.pass(Duration::from_millis(2), &after);
        }
        play.pass(Duration::from_secs(1), &after);
        assert_eq!(play.told, [Notice::Network(NetworkEvent::Lost)]);
        assert_eq!(play.looks, 1);
    }

    #[test]
    fn fifty_addresses_more_are_no_event_of_the_network() {
        let mut play = Play::new();
        let nets: Vec<String> = (20..70).map(|n| format!("192.0.2.{n}/24")).collect();
        for count in 1..=nets.len() {
            let nets: Vec<&str> = nets[..count].iter().map(String::as_str).collect();
            play.settle.hint(play.now, false);
            play.pass(Duration::from_millis(100), &home(&nets));
        }
        assert_eq!(play.told.len(), 50);
        assert!(play.told.iter().all(|told| *told == Notice::Addresses));
    }

    #[test]
    fn hints_without_a_difference_are_nothing_and_a_flap_is_a_change() {
        let mut play = Play::new();
        play.settle.hint(play.now, false);
        play.pass(Duration::from_secs(1), &home(&[]));
        assert_eq!(play.told, []);
        play.settle.hint(play.now, true);
        play.pass(Duration::from_secs(1), &home(&[]));
        assert_eq!(play.told, [Notice::Network(NetworkEvent::Changed)]);
    }

    #[test]
    fn it_is_told_soon_also_if_the_system_is_never_quiet() {
        let mut play = Play::new();
        let begun = play.now;
        while play.told.is_empty() {
            play.settle.hint(play.now, false);
            play.pass(Duration::from_millis(10), &View::default());
        }
        assert!(play.now - begun <= LOUDEST + Duration::from_millis(10));
    }

    #[test]
    fn a_flapping_link_is_told_twice_a_second_at_most() {
        let mut play = Play::new();
        for _ in 0..1000 {
            play.settle.hint(play.now, true);
            play.pass(Duration::from_millis(10), &home(&[]));
        }
        assert!((19..=21).contains(&play.told.len()), "{}", play.told.len());
    }

    #[test]
    fn a_network_that_is_back_is_told_at_once() {
        let mut play = Play::new();
        play.settle.hint(play.now, true);
        play.pass(Duration::from_millis(100), &View::default());
        let back = play.now;
        play.settle.hint(back, false);
        assert_eq!(play.settle.next_look(), back + QUIET);
        assert_eq!(play.settle.seen(back + QUIET, home(&[])), CHANGED);
    }

    #[test]
    fn a_sleep_is_told_once_and_inaccuracy_never() {
        let mut play = Play::new();
        let (woke, now) = (Some(Notice::Network(NetworkEvent::Woke)), play.now);
        let hour = Duration::from_secs(3600);
        assert_eq!(play.settle.slept(now, Duration::from_micros(30)), None);
        assert_eq!(play.settle.slept(now, hour), woke);
        assert_eq!(play.settle.slept(now, hour), None);
        for tick in 0..10_000u32 {
            let jitter = Duration::from_micros(u64::from(tick % 7));
            assert_eq!(play.settle.slept(now, hour + jitter), None);
        }
        // The network is looked at too.
        assert_eq!(play.settle.next_look(), now + QUIET);
    }

    #[test]
    fn lost_messages_delay_and_do_not_hide() {
        let mut play = Play::new();
        play.pass(AT_LEAST_EVERY, &View::default());
        assert_eq!(play.told, [Notice::Network(NetworkEvent::Lost)]);
    }
}
