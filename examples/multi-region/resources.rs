//! Reads what a process occupies: descriptors, threads, memory, tasks of the runtime.

use std::path::Path;

use serde_json::{Value, json};
use vpn_core::Resources;

/// What a process occupies, as `/proc` tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    /// Open file descriptors; `None` if they are not for us to see.
    pub(crate) descriptors: Option<usize>,
    pub(crate) threads: usize,
    /// Resident bytes.
    pub(crate) memory: u64,
}

impl Process {
    /// This one, and the tasks of its runtime.
    pub(crate) fn own() -> (Self, usize) {
        let tasks = tokio::runtime::Handle::try_current()
            .map_or(0, |runtime| runtime.metrics().num_alive_tasks());
        let own = Self::at(Path::new("/proc/self")).unwrap_or_default();
        // Looking opened one.
        let descriptors = own.descriptors.map(|count| count.saturating_sub(1));
        (Self { descriptors, ..own }, tasks)
    }

    /// Another one; `None` if it is gone.
    pub(crate) fn of(process: u32) -> Option<Self> {
        Self::at(Path::new(&format!("/proc/{process}")))
    }

    fn at(folder: &Path) -> Option<Self> {
        let status = std::fs::read_to_string(folder.join("status")).ok()?;
        let entries = std::fs::read_dir(folder.join("fd"));
        Some(Self {
            descriptors: entries.ok().map(Iterator::count),
            threads: field(&status, "Threads").unwrap_or(0) as usize,
            // In KiB (proc_pid_status(5)).
            memory: field(&status, "VmRSS").unwrap_or(0) * 1024,
        })
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    let named = |line: &&str| line.strip_prefix(name).is_some_and(|l| l.starts_with(':'));
    let line = status.lines().find(named)?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// What a tunnel occupies in this process, and the process it has besides.
pub(crate) fn of_tunnel(resources: &Resources) -> (Resources, Option<(u32, Process)>) {
    let beside = resources
        .process
        .and_then(|id| Some((id, Process::of(id)?)));
    (*resources, beside)
}

/// `process` of `status --json`
pub(crate) fn own() -> Value {
    let (own, tasks) = Process::own();
    let mut value = as_json(&own);
    value["tasks"] = tasks.into();
    value
}

/// `tunnels.NAME.resources` of `status --json`
pub(crate) fn tunnel(resources: &Resources) -> Value {
    let (here, beside) = of_tunnel(resources);
    json!({
        "fds": here.descriptors,
        "tasks": here.tasks,
        "memory": here.bytes,
        "process": beside.map(|(id, process)| {
            let mut value = as_json(&process);
            value["pid"] = id.into();
            value
        }),
    })
}

fn as_json(process: &Process) -> Value {
    json!({
        "fds": process.descriptors,
        "threads": process.threads,
        "memory": process.memory,
    })
}
