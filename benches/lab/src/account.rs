//! Reads from `/proc` what a window of measurement cost: CPU time of the machine, of the processes
//! that carry packets and of strangers; memory; retransmissions.

use std::fs;
use std::time::Duration;

use vpn_lab::{LabError, Namespace};

/// Length of a tick of `/proc`, in milliseconds: `USER_HZ` is 100 on every Linux system.
const TICK: u64 = 10;

fn ticks<'a>(fields: impl Iterator<Item = &'a str>) -> Duration {
    Duration::from_millis(fields.filter_map(|f| f.parse::<u64>().ok()).sum::<u64>() * TICK)
}

/// Time that all processors were busy so far (proc(5): all of `cpu` but idle and iowait).
pub(crate) fn machine() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    let fields = first.split_whitespace().skip(1).take(8).enumerate();
    ticks(fields.filter(|(i, _)| *i != 3 && *i != 4).map(|(_, f)| f))
}

/// What one process has used so far, user and system (proc(5): fields 14 and 15 of `stat`).
pub(crate) fn process(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    ticks(after_name(&stat).skip(11).take(2))
}

/// The fields from the third on: a program's name may contain spaces.
fn after_name(stat: &str) -> impl Iterator<Item = &str> {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace()
}

/// What user processes other than `ours` have used so far. Kernel threads work for us.
pub(crate) fn strangers(ours: &[u32]) -> Duration {
    const KTHREADD: &str = "2";
    let Ok(entries) = fs::read_dir("/proc") else {
        return Duration::ZERO;
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = pids.filter(|pid| !ours.contains(pid) && *pid != std::process::id());
    others
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .filter(|stat| after_name(stat).nth(1) != Some(KTHREADD))
        .map(|stat| ticks(after_name(&stat).skip(11).take(2)))
        .sum()
}

/// What a process has in memory now and had at most, in KiB (proc(5): `VmRSS` and `VmHWM`).
pub(crate) fn resident(pid: u32) -> Option<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |key: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some((kib("VmRSS:")?, kib("VmHWM:")?))
}

/// TCP segments that were sent again so far in a namespace.
pub(crate) fn retransmits(namespace: &Namespace) -> Result<u64, LabError> {
    namespace.run(|| {
        let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap_or_default();
        let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
        let (names, values) = (
            lines.next().unwrap_or_default(),
            lines.next().unwrap_or_default(),
        );
        names
            .split_whitespace()
            .zip(values.split_whitespace())
            .find(|(name, _)| *name == "RetransSegs")
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_spaces_and_brackets() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4 5 0 0 0 3 4 0 0 20";
        assert_eq!(after_name(stat).next(), Some("S"));
        assert_eq!(
            ticks(after_name(stat).skip(11).take(2)),
            Duration::from_millis(70)
        );
    }

    #[test]
    fn the_machine_and_this_process_use_time() {
        let before = machine();
        let mut sum = 0_u64;
        while process(std::process::id()) < Duration::from_millis(20) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(machine() > before);
        assert!(resident(std::process::id()).is_some_and(|(now, most)| 0 < now && now <= most));
    }
}
