//! Touches the system's clocks: the only unsafe code of the watch.
#![allow(unsafe_code)]

use std::time::Duration;

/// How long the machine has slept since it was started: `CLOCK_BOOTTIME` goes on in a suspend,
/// `CLOCK_MONOTONIC` stands still (clock_gettime(2)).
pub(super) fn slept() -> Duration {
    // The first one first: what passes in between must not look like a sleep.
    let boot = read(libc::CLOCK_BOOTTIME);
    boot.saturating_sub(read(libc::CLOCK_MONOTONIC))
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live `timespec` of our own; the call writes nothing else. It fails for
    // unknown clocks only, and leaves zero then.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}
