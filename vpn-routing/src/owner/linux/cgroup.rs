//! Which control group a process is in, as `/proc/PID/cgroup` has it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// The suffix the kernel gives to a group that was removed.
const DELETED: &[u8] = b" (deleted)";

/// How much of the file is read: a dozen hierarchies, each with a path of `PATH_MAX` at most, and
/// most with far less.
const MAX_LENGTH: u64 = 64 * 1024;

/// The control group of a process; `None` if there are no groups, or it is in none of ours.
///
/// # Errors
///
/// It cannot be read, or it was removed.
pub(super) fn of(pid: u32) -> io::Result<Option<Arc<Path>>> {
    let file = match File::open(format!("/proc/{pid}/cgroup")) {
        Ok(file) => file,
        // A kernel without cgroups.
        Err(_) if !Path::new("/proc/self/cgroup").exists() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    let length = file.take(MAX_LENGTH).read_to_end(&mut text)?;
    // Cut off, a path would be another one.
    if length as u64 == MAX_LENGTH {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok(parse(&text)?.map(Arc::from))
}

/// Lines of `number:controllers:path`. The unified hierarchy has number 0 and no controllers
/// (cgroups(7)); where it is not used, systemd's own hierarchy has the same paths.
fn parse(text: &[u8]) -> io::Result<Option<&Path>> {
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
        (None, None) => return Ok(None),
    };
    if path.ends_with(DELETED) {
        return Err(ErrorKind::NotFound.into());
    }
    // Outside of our own cgroup namespace the path means nothing here.
    let outside = path == b"/.." || path.starts_with(b"/../");
    let ours = path.starts_with(b"/") && !outside;
    Ok(ours.then(|| Path::new(OsStr::from_bytes(path))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_either_version_is_read() {
        let cases: [(&[u8], Option<&str>); 8] = [
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
            (b"0::/../beside\n", None),
            (b"nonsense", None),
        ];
        for (text, group) in cases {
            assert_eq!(parse(text).unwrap(), group.map(Path::new), "{text:?}");
        }
        assert!(parse(b"0::/gone (deleted)\n").is_err());
    }

    #[test]
    fn our_own_group_is_found_where_there_are_any() {
        let text = std::fs::read("/proc/self/cgroup").unwrap_or_default();
        let own = of(std::process::id()).unwrap();
        assert_eq!(own.as_deref(), parse(&text).unwrap());
        assert!(text.is_empty() || of(u32::MAX).is_err());
    }
}
