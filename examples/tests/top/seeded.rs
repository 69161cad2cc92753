//! Any order of reports and keys, in a terminal of any size: drawn without a panic, and true.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::model::{Ask, HISTORY, Key, Model};
use super::picture;
use super::snapshot::Snapshot;

#[derive(Clone, Debug)]
enum Step {
    Said(u64, Box<Snapshot>),
    Gone,
    Key(Key),
    Drawn(u16, u16),
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let name = || {
        prop_oneof![
            "[a-z]{1,12}",
            "\\PC{0,40}",
            Just("\u{1b}[2J漢字e\u{301}".to_owned())
        ]
    };
    let state = prop::sample::select(vec!["up", "down", "connecting", "dormant", "closed", ""]);
    let tunnel = (
        name(),
        state,
        any::<u64>(),
        any::<u64>(),
        proptest::option::of(0.0..1e9),
    );
    let app = (
        proptest::option::of(0u32..9),
        name(),
        name(),
        any::<u64>(),
        any::<bool>(),
    );
    let tunnels = proptest::collection::vec(tunnel, 0..9);
    let apps = proptest::collection::vec(app, 0..40);
    (tunnels, apps, any::<bool>(), name(), any::<u64>()).prop_map(
        |(tunnels, apps, database, reason, count)| {
            let tunnels: serde_json::Map<_, _> = tunnels
                .into_iter()
                .map(|(name, state, tx, rx, round_trip)| {
                    let bytes = json!({ "tx": tx, "rx": rx });
                    let of = json!({ "state": state, "bytes": bytes, "round_trip_ms": round_trip });
                    (name, of)
                })
                .collect();
            let apps: Vec<_> = apps
                .into_iter()
                .map(|(uid, exe, tunnel, rx, inbound)| {
                    json!({
                        "uid": uid, "executable": exe, "tunnel": tunnel, "inbound": inbound,
                        "flows": rx, "bytes": { "rx": rx, "tx": rx },
                    })
                })
                .collect();
            serde_json::from_value(json!({
                "tunnels": tunnels, "apps": apps, "rules": { "database": database },
                "drops": { reason: count },
            }))
            .unwrap_or_default()
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let keys = vec![
        Key::Up,
        Key::Down,
        Key::Enter,
        Key::Escape,
        Key::Char('s'),
        Key::Char('p'),
        Key::Char('?'),
        Key::Char('q'),
    ];
    prop_oneof![
        3 => (0u64..3_000, snapshot()).prop_map(|(after, said)| Step::Said(after, Box::new(said))),
        1 => Just(Step::Gone),
        4 => prop::sample::select(keys).prop_map(Step::Key),
        3 => (0u16..130, 0u16..50).prop_map(|(width, height)| Step::Drawn(width, height)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_is_drawn(steps in proptest::collection::vec(step(), 0..40)) {
        let mut now = Instant::now();
        let mut model = Model::new("x.sock".to_owned());
        for step in steps {
            match step {
                Step::Said(after, said) => {
                    now += Duration::from_millis(after);
                    model.snapshot(now, *said);
                }
                Step::Gone => model.gone("no answer".to_owned()),
                Step::Key(key) => {
                    let ask = model.key(key);
                    // What is gone meanwhile, or cannot be written, is the daemon's to refuse.
                    if let Some(Ask::Switch(owner, _)) = ask {
                        prop_assert!(!owner.inbound);
                    }
                }
                Step::Drawn(width, height) => {
                    let rows = picture(&model, width, height);
                    let control = |c: char| c.is_control();
                    prop_assert!(!rows.join("").contains(control), "{rows:?}");
                }
            }
            prop_assert!(model.history_of_all.len() <= HISTORY);
            prop_assert!(model.history.len() <= model.shown.tunnels.len().max(9));
        }
    }
}
