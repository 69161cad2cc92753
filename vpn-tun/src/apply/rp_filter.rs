//! Touches `net.ipv4.conf.all.rp_filter`: answers to marked sockets must pass.
//!
//! Strict filtering (RFC 3704 §2.2) asks where an answer's source would be sent *without a mark*:
//! to the device. So the answer, which came in on the uplink, is dropped. Loose filtering (§2.4)
//! only asks for some route. The kernel uses the larger of `all` and the interface's own value, so
//! raising `all` to 2 loosens every interface at once and lowering it again restores each.

use std::fs;
use std::path::Path;

use super::config::ApplyError;
use crate::sysctl::Changed;

/// Where the settings are, for the network namespace of the calling thread.
const CONF: &str = "/proc/sys/net/ipv4/conf";

const STRICT: u8 = 1;
const LOOSE: &str = "2";

/// Loosens strict filtering, if any interface has it or would get it.
pub(super) fn loosen(changed: &mut Changed) -> Result<(), ApplyError> {
    loosen_in(Path::new(CONF), changed)
}

fn loosen_in(conf: &Path, changed: &mut Changed) -> Result<(), ApplyError> {
    let all = conf.join("all/rp_filter");
    let Some(now) = read(&all) else {
        return Ok(());
    };
    let path = all.to_string_lossy();
    // What a killed run loosened is ours.
    if !any_strict(now, others(conf)) && !changed.contains(&path) {
        return Ok(());
    }
    match changed.set(&path, LOOSE) {
        Err(ApplyError::Setting(error)) => Err(ApplyError::ReversePath {
            path: error.path,
            cause: error.cause,
        }),
        Ok(()) => {
            tracing::info!(
                former = now,
                "strict reverse-path filtering loosened while captured"
            );
            Ok(())
        }
        other => other,
    }
}

/// Whether filtering is strict anywhere: the larger value counts.
fn any_strict(all: u8, mut others: impl Iterator<Item = u8>) -> bool {
    others.any(|own| own.max(all) == STRICT)
}

/// The values of the interfaces, and that of interfaces yet to come (`default`).
fn others(conf: &Path) -> impl Iterator<Item = u8> {
    fs::read_dir(conf)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name() != "all")
        .filter_map(|entry| read(&entry.path().join("rp_filter")))
}

fn read(path: &Path) -> Option<u8> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(values: &[(&str, u8)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in values {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("rp_filter"), value.to_string()).unwrap();
        }
        dir
    }

    fn run(values: &[(&str, u8)]) -> (Option<u8>, u8) {
        let dir = conf(values);
        let all = dir.path().join("all/rp_filter");
        let mut changed = Changed::new(None, "test").unwrap();
        loosen_in(dir.path(), &mut changed).unwrap();
        let loosened = read(&all).unwrap();
        let back = changed.restore::<ApplyError>().unwrap().back;
        let former = back.first().map(|(_, former)| former.parse().unwrap());
        (former, loosened)
    }

    #[test]
    fn strict_anywhere_is_loosened_and_nothing_else_touched() {
        assert_eq!(run(&[("all", 0), ("default", 0), ("eth0", 0)]), (None, 0));
        assert_eq!(run(&[("all", 2), ("default", 1), ("eth0", 1)]), (None, 2));
        assert_eq!(
            run(&[("all", 0), ("default", 0), ("eth0", 1)]),
            (Some(0), 2)
        );
        assert_eq!(
            run(&[("all", 1), ("default", 0), ("eth0", 0)]),
            (Some(1), 2)
        );
        assert_eq!(
            run(&[("all", 0), ("default", 1), ("eth0", 2)]),
            (Some(0), 2)
        );
    }
}
