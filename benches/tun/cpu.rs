//! Reads CPU time from `/proc`.

use std::fs;
use std::time::Duration;

/// Length of a tick of `/proc`, in milliseconds: `USER_HZ` is 100 on every Linux system.
const TICK: u64 = 10;

fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> Duration {
    Duration::from_millis(fields.filter_map(|f| f.parse::<u64>().ok()).sum::<u64>() * TICK)
}

/// Time that this process has used, user and system (proc(5): fields 14 and 15 of `stat`).
pub(crate) fn process() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    ticks(after_name.split_whitespace().skip(11).take(2))
}

/// Time that all processors were busy (proc(5): all of `cpu` but idle and iowait).
pub(crate) fn machine() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat
        .lines()
        .next()
        .unwrap_or("")
        .split_whitespace()
        .skip(1)
        .take(8);
    ticks(
        fields
            .enumerate()
            .filter(|(i, _)| *i != 3 && *i != 4)
            .map(|(_, f)| f),
    )
}
