//! Whatever happens in whatever order: a direct way is never used without proof, there is a way while
//! there may be one, time goes on, and everything stays bounded.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use proptest::prelude::*;

use super::tests::{HUB, ms};
use super::*;

#[derive(Clone, Debug)]
enum Event {
    Relays(bool),
    Candidates(Vec<u8>),
    Ready,
    Lost,
    Heard(u8),
    Probed(u8, bool),
    /// Answers one of the newest probes.
    Answer(u8),
    /// An answer to nothing.
    Forged(u32),
    Sent,
    Transmitted(u8),
    Network,
    Pass(u32),
    /// Time passes and every timer fires when it is due.
    Run(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => any::<bool>().prop_map(Event::Relays),
        1 => prop::collection::vec(0_u8..8, 0..5).prop_map(Event::Candidates),
        2 => Just(Event::Ready),
        1 => Just(Event::Lost),
        3 => (0_u8..10).prop_map(Event::Heard),
        3 => (0_u8..10, any::<bool>()).prop_map(|(way, urgent)| Event::Probed(way, urgent)),
        8 => (0_u8..6).prop_map(Event::Answer),
        1 => any::<u32>().prop_map(Event::Forged),
        6 => Just(Event::Sent),
        1 => (0_u8..10).prop_map(Event::Transmitted),
        1 => Just(Event::Network),
        4 => (0_u32..5_000).prop_map(Event::Pass),
        8 => (0_u32..5_000).prop_map(Event::Run),
    ]
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 7))
}

fn way(number: u8) -> Way {
    match number {
        9 => Way::Relay(HUB),
        number => Way::Direct(address(number)),
    }
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        4 => Just(Policy::Allow),
        1 => Just(Policy::DirectOnly),
        1 => Just(Policy::RelayOnly),
        1 => Just(Policy::Deny),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// L-12: what was heard proves no way; the answer to a question of our own does.
    #[test]
    fn any_order_of_events(
        policy in policy(),
        seed in any::<u64>(),
        events in prop::collection::vec(event(), 1..200),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut paths = Paths::new(PathConfig::default(), policy, seed);
        let mut relay = false;
        // What the oracle knows: which way a probe took, and which ways were proven since the
        // session began.
        let mut asked: Vec<(u32, Way)> = Vec::new();
        let mut proven: HashMap<Way, ()> = HashMap::new();
        for event in events {
            match event {
                Event::Relays(there) => {
                    relay = there;
                    let list = [(HUB, Carrier::Udp)];
                    paths.set_relays(if there { &list } else { &[] }, now);
                }
                Event::Candidates(list) => {
                    let list: Vec<SocketAddr> = list.into_iter().map(address).collect();
                    paths.set_candidates(&list, now);
                }
                Event::Ready => paths.session_ready(now),
                Event::Lost => {
                    paths.session_lost(now);
                    proven.clear();
                    asked.clear();
                }
                Event::Heard(number) => paths.heard(way(number), now),
                Event::Probed(number, urgent) => paths.probe_arrived(way(number), 5, urgent, now),
                Event::Answer(back) => {
                    let at = asked.len().checked_sub(1 + back as usize);
                    if let Some(at) = at {
                        let (nonce, way) = asked[at];
                        proven.insert(way, ());
                        paths.pong_arrived(nonce, None, now);
                    }
                }
                Event::Forged(nonce) => {
                    if asked.iter().all(|(asked, _)| *asked != nonce) {
                        paths.pong_arrived(nonce, None, now);
                    }
                }
                Event::Sent => paths.sent(now),
                Event::Transmitted(number) => paths.transmitted(way(number), now),
                Event::Network => paths.network_changed(now),
                Event::Pass(millis) => {
                    now += ms(u64::from(millis));
                    paths.handle_timeout(now);
                }
                Event::Run(millis) => {
                    let end = now + ms(u64::from(millis));
                    let mut steps = 0;
                    while let Some(at) = paths.next_timeout().filter(|at| *at <= end) {
                        now = now.max(at);
                        paths.handle_timeout(now);
                        prop_assert!(paths.next_timeout().is_none_or(|at| at > now), "no progress");
                        steps += 1;
                        prop_assert!(steps < 1000, "too many steps");
                        while let Some(out) = paths.poll() {
                            if let PathOut::Probe { way, nonce, .. } = out {
                                asked.push((nonce, way));
                            }
                        }
                    }
                    now = end;
                }
            }
            while let Some(out) = paths.poll() {
                if let PathOut::Probe { way, nonce, .. } = out {
                    asked.push((nonce, way));
                }
                prop_assert!(policy != Policy::RelayOnly || !out.way().is_direct());
                prop_assert!(policy != Policy::Deny);
            }
            match paths.current() {
                Some(way @ Way::Direct(_)) => {
                    prop_assert!(proven.contains_key(&way), "{} was never proven", way);
                    prop_assert!(matches!(policy, Policy::Allow | Policy::DirectOnly));
                }
                Some(Way::Relay(_)) => {
                    prop_assert!(relay && matches!(policy, Policy::Allow | Policy::RelayOnly));
                }
                None => prop_assert!(!relay || matches!(policy, Policy::DirectOnly | Policy::Deny)),
            }
            while let Some(PathEvent::Moved { from, to, .. }) = paths.poll_event() {
                prop_assert_ne!(from, to);
            }
            prop_assert!(paths.tracks.len() <= 25);
            let _ = paths.status();
        }
        // Whatever happened: without packets of users and without a way, it falls silent.
        let mut sent = 0;
        for _ in 0..10_000 {
            let Some(at) = paths.next_timeout() else { break };
            if at > now + ms(1_000_000) {
                break;
            }
            paths.handle_timeout(at.max(now));
            while paths.poll().is_some() {
                sent += 1;
            }
        }
        prop_assert!(sent < 600, "{} messages to a dead peer", sent);
        prop_assert!(paths.next_timeout().is_none());
    }
}
