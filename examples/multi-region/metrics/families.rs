//! Which samples there are: those of the SDK that the daemon has parts for, and what it knows besides.

use vpn_core::metrics::prometheus::Text;
use vpn_core::metrics::{Beside, Family, Metric, Snapshot, Unit, families};
use vpn_routing::engine::EngineGone;

use crate::report::Reporter;
use crate::resources::{self, Process};

/// What the daemon knows and no part of the SDK does.
const DAEMON: &[&Family] = &[&CHANGED, &OPEN_FDS, &THREADS, &MEMORY, &TASKS];

const CHANGED: Family = Family::gauge(
    "vpn_changed_by_others",
    &[],
    "What others changed of what the daemon made in the system.",
);
const OPEN_FDS: Family = Family::gauge("process_open_fds", &[], "File descriptors of the daemon.");
const THREADS: Family = Family::gauge("process_threads", &[], "Threads of the daemon.");
const MEMORY: Family = Family::gauge(
    "process_resident_memory_bytes",
    &[],
    "Resident memory of the daemon.",
)
.of(Unit::Bytes);
const TASKS: Family = Family::gauge("vpn_tasks", &[], "Tasks of the daemon's runtime.");

/// Of the SDK's families, those of the parts that the daemon has.
const SECTIONS: [&[&Family]; 10] = [
    families::ROUTER,
    families::RULES,
    families::DNS,
    families::TUNNELS,
    families::GROUPS,
    families::MESH,
    families::BREAKERS,
    families::RETRIES,
    families::TASKS,
    DAEMON,
];

impl Reporter {
    /// Everything, as text.
    pub(super) async fn metrics(&self) -> Result<String, EngineGone> {
        let status = self.engine.status().await?;
        let mut snapshot = Snapshot::default();
        status.measure(&mut snapshot);
        self.feed.borrow().measure(&mut snapshot);
        self.kept.measure(&mut snapshot);
        self.kept.measure_meshes(&mut snapshot);
        for tunnel in &mut snapshot.tunnels {
            let (_, beside) = resources::of_tunnel(&tunnel.resources);
            tunnel.beside = beside.map(|(_, process)| Beside {
                descriptors: process.descriptors.map(|count| count as u64),
                threads: process.threads as u64,
                memory: process.memory,
            });
        }
        let mut text = Text::default();
        SECTIONS
            .into_iter()
            .for_each(|section| text.declare(section));
        text.add(&snapshot);
        let (own, tasks) = Process::own();
        let daemon = [
            (&CHANGED, Some(self.journal.foreign_changes().len() as f64)),
            (&OPEN_FDS, own.descriptors.map(|count| count as f64)),
            (&THREADS, Some(own.threads as f64)),
            (&MEMORY, Some(own.memory as f64)),
            (&TASKS, Some(tasks as f64)),
        ];
        for (family, value) in daemon {
            if let Some(value) = value {
                let labels = &[];
                text.sample(&Metric {
                    family,
                    labels,
                    value,
                });
            }
        }
        Ok(text.finish())
    }
}
