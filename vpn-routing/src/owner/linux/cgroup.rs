//! Which control group a process is in, as `/proc/PID/cgroup` has it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// The suffix the kernel gives to a group that was removed.
const DELETED: &[u8] = b" (deleted)";

/// How much of the file is read: a dozen hierarchies, each with a path of `PATH_MAX` at most, and
/// most with far less.
const MAX_LENGTH: u64 = 64 * 1024;

/// The control group of a process, or `None` if it cannot be told.
pub(super) fn of(pid: u32) -> Option<Arc<Path>> {
    use std::io::Read as _;
    let file = std::fs::File::open(format!("/proc/{pid}/cgroup")).ok()?;
    let mut text = Vec::new();
    let length = file.take(MAX_LENGTH).read_to_end(&mut text).ok()?;
    // Cut off, a path would be another one.
    if length as u64 == MAX_LENGTH {
        return None;
    }
    parse(&text).map(Arc::from)
}

/// Lines of `number:controllers:path`. The unified hierarchy has number 0 and no controllers
/// (cgroups(7)); where it is not used, systemd's own hierarchy has the same paths.
fn parse(text: &[u8]) -> Option<&Path> {
    let (mut unified, mut systemd) = (None, None);
    for line in text.split(|&b| b == b'\n') {
        let mut parts = line.splitn(3, |&b| b == b':');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(b"0"), Some(b""), path) => unified = path,
            (Some(_), Some(b"name=systemd"), path) => systemd = path,
            _ => {}
        }
    }
    let path = match (unified, systemd) {
        (None | Some(b"/"), Some(path)) => path,
        (Some(path), _) => path,
        (None, None) => return None,
    };
    // Outside of our own cgroup namespace, or gone: the path means nothing here.
    let outside = path == b"/.." || path.starts_with(b"/../");
    let usable = path.starts_with(b"/") && !outside && !path.ends_with(DELETED);
    usable.then(|| Path::new(OsStr::from_bytes(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_either_version_is_read() {
        let cases: [(&[u8], Option<&str>); 9] = [
            (
                b"0::/user.slice/app-firefox.scope\n",
                Some("/user.slice/app-firefox.scope"),
            ),
            (b"0::/\n", Some("/")),
            (b"0::/a:b/c\n", Some("/a:b/c")),
            (
                b"5:memory:/x\n1:name=systemd:/system.slice/ssh.service\n0::/\n",
                Some("/system.slice/ssh.service"),
            ),
            (
                b"1:name=systemd:/old\n0::/system.slice/ssh.service\n",
                Some("/system.slice/ssh.service"),
            ),
            (b"5:memory:/x\n", None),
            (b"0::/gone (deleted)\n", None),
            (b"0::/../beside\n", None),
            (b"nonsense", None),
        ];
        for (text, group) in cases {
            assert_eq!(parse(text), group.map(Path::new), "{text:?}");
        }
    }

    #[test]
    fn our_own_group_is_found_where_there_are_any() {
        let text = std::fs::read("/proc/self/cgroup").unwrap_or_default();
        let own = of(std::process::id());
        assert_eq!(own.as_deref(), parse(&text));
        assert!(of(u32::MAX).is_none());
    }
}
