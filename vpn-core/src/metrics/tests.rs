//! METRICS.md beside the code, and what a snapshot becomes.

use std::collections::BTreeSet;

use super::*;
use crate::transport::TransportState;
use crate::verdict::{DropCounters, DropReason};

/// Something of everything, so that every family has a sample.
fn full() -> Snapshot {
    let mut drops = DropCounters::default();
    drops.count(DropReason::QueueFull);
    let mesh_drops = drops.clone();
    let round_trip = Some(std::time::Duration::from_millis(30));
    Snapshot {
        router: Some(Router::default()),
        rules: Some(Rules::default()),
        dns: Some(Dns::default()),
        tunnels: vec![Tunnel {
            name: "a \"b\"\\\n".into(),
            state: TransportState::Connecting,
            tx: [1, 2],
            rx: [3, 4],
            drops: drops.clone(),
            flows: 1,
            names: 0,
            mtu: 1400,
            round_trip,
            resources: crate::Resources::default(),
            beside: Some(Beside {
                descriptors: Some(1),
                ..Beside::default()
            }),
        }],
        groups: vec![GroupMember::default()],
        pools: vec![Pool {
            events: vec![("opened", 1)],
            drops,
            round_trip,
            ..Pool::default()
        }],
        breakers: vec![Breaker::default()],
        retries: vec![Retry::default()],
        limits: vec![Limit {
            outcomes: vec![("admitted", 1)],
            ..Limit::default()
        }],
        lives: vec![Life::default()],
        tasks: vec![Task::default()],
        paths: vec![Path {
            round_trip,
            ..Path::default()
        }],
        meshes: vec![Mesh {
            hubs: vec![("hub".into(), true)],
            drops: mesh_drops,
            ..Mesh::default()
        }],
        hubs: vec![Hub {
            messages: vec![("hello", 1)],
            refused: vec![("full", 1)],
            packets: vec![("relayed", 1)],
            ..Hub::default()
        }],
        nodes: vec![Node {
            messages: vec![("sent", 1)],
            records: vec![("kept", 1)],
            ..Node::default()
        }],
        directory: Some(Directory::default()),
    }
}

fn all() -> Vec<&'static Family> {
    families::ALL.iter().copied().flatten().copied().collect()
}

/// The rows of the table: name, kind, unit, labels, help.
fn documented() -> Vec<[String; 5]> {
    let rows = include_str!("../../METRICS.md")
        .lines()
        .filter(|l| l.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<String> = row
            .trim_matches('|')
            .split('|')
            .map(|c| c.trim().to_owned())
            .collect();
        cells.try_into().unwrap()
    })
    .collect()
}

/// S-24: documented metrics were nowhere.
#[test]
fn the_documented_families_are_those_there_are() {
    let written: Vec<[String; 5]> = all()
        .iter()
        .map(|family| {
            let labels: Vec<String> = family.labels.iter().map(|l| format!("`{l}`")).collect();
            [
                format!("`{}`", family.name),
                format!("{:?}", family.kind).to_lowercase(),
                format!("{:?}", family.unit).to_lowercase(),
                labels.join(", "),
                family.help.to_owned(),
            ]
        })
        .collect();
    if documented() != written {
        let rows: Vec<String> = written
            .iter()
            .map(|row| format!("| {} |", row.join(" | ")))
            .collect();
        panic!("METRICS.md should say:\n{}", rows.join("\n"));
    }
}

#[test]
fn every_family_has_samples_and_every_sample_its_family() {
    let mut seen = BTreeSet::new();
    full().visit(&mut |metric| {
        assert_eq!(metric.labels.len(), metric.family.labels.len());
        seen.insert(metric.family.name);
    });
    let named: BTreeSet<&str> = all().iter().map(|family| family.name).collect();
    assert_eq!(named.len(), all().len(), "no name twice");
    assert_eq!(seen, named);
}

#[test]
fn names_say_what_they_are() {
    for family in all() {
        let name = family.name.strip_prefix("vpn_").unwrap();
        assert!(
            name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{name}"
        );
        assert_eq!(
            name.ends_with("_total"),
            family.kind == Kind::Counter,
            "{name}"
        );
        let base = name.trim_end_matches("_total");
        assert_eq!(
            base.ends_with("_bytes"),
            family.unit == Unit::Bytes,
            "{name}"
        );
        assert_eq!(
            base.ends_with("_seconds"),
            family.unit == Unit::Seconds,
            "{name}"
        );
        assert!(family.help.ends_with('.'), "{name}");
    }
}

#[cfg(feature = "prometheus")]
#[test]
fn the_text_has_every_sample_once_and_escapes() {
    let (mut text, mut samples) = (prometheus::Text::default(), 0);
    full().visit(&mut |_| samples += 1);
    text.add(&full());
    let text = text.finish();
    let of_type = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(of_type("# TYPE "), all().len());
    assert_eq!(of_type("vpn_"), samples);
    let tunnel = "vpn_tunnel_packets_total{tunnel=\"a \\\"b\\\"\\\\\\n\",direction=\"rx\"} 3";
    assert!(text.lines().any(|line| line == tunnel), "{text}");
}

#[cfg(feature = "prometheus")]
#[test]
fn families_stay_together_whoever_brings_them() {
    let mut text = prometheus::Text::default();
    let pool = |peer: &str| Pool {
        peer: peer.into(),
        ..Pool::default()
    };
    text.add(&pool("a"));
    text.add(&pool("b"));
    let text = text.finish();
    let names = text.lines().filter(|line| !line.starts_with('#'));
    let names: Vec<&str> = names
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let mut runs = names.clone();
    runs.dedup();
    let distinct: BTreeSet<&str> = names.into_iter().collect();
    assert_eq!(runs.len(), distinct.len());
}

#[cfg(feature = "metrics")]
mod facade_tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use ::metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    use super::*;

    #[derive(Default)]
    struct Kept {
        described: Mutex<BTreeSet<String>>,
        values: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    }

    impl Kept {
        fn value(&self, key: &Key) -> Arc<AtomicU64> {
            let mut values = self.values.lock().unwrap();
            values.entry(key.to_string()).or_default().clone()
        }

        fn described(&self, name: &KeyName) {
            self.described
                .lock()
                .unwrap()
                .insert(name.as_str().to_owned());
        }
    }

    impl Recorder for Kept {
        fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
            self.described(&name);
        }
        fn describe_gauge(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
            self.described(&name);
        }
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.value(key))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.value(key))
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn a_recorder_gets_every_sample_and_the_newest_value() {
        let (kept, mut snapshot) = (Kept::default(), full());
        crate::metrics::facade::describe(&all(), &kept);
        assert_eq!(kept.described.lock().unwrap().len(), all().len());
        let mut samples = 0;
        snapshot.visit(&mut |_| samples += 1);
        crate::metrics::facade::record(&snapshot, &kept);
        snapshot.pools[0].silences = 7;
        crate::metrics::facade::record(&snapshot, &kept);
        let values = kept.values.lock().unwrap();
        assert_eq!(values.len(), samples);
        let silences = values
            .iter()
            .find(|(key, _)| key.contains("silences"))
            .unwrap();
        assert_eq!(silences.1.load(Ordering::Relaxed), 7);
    }
}
