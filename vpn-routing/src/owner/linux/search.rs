//! Touches `/proc`: which executable holds a socket.

use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use hashbrown::HashMap;

/// The suffix the kernel gives to the name of a file that was unlinked.
const DELETED: &[u8] = b" (deleted)";

/// Who holds a socket: one process of those, and their executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) executable: Arc<Path>,
}

/// What a search learnt of one socket: `None` if its holders run different executables, or one
/// that cannot be told.
pub(super) type Holders = HashMap<u32, Option<Holder>, foldhash::quality::RandomState>;

/// Searches all processes for sockets, once for all of them. A socket that nobody (whom we may
/// look into) holds is not in the answer. Stops early, with less, when `stop` is set.
pub(super) fn holders(wanted: &[u32], stop: &AtomicBool) -> Holders {
    let mut found = Holders::default();
    let Ok(processes) = fs::read_dir("/proc") else {
        return found;
    };
    for process in processes.flatten() {
        if stop.load(Relaxed) {
            break;
        }
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let mut executable = None;
        // Ends or forbids: then it holds nothing that we can see.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let inode = fs::read_link(descriptor.path())
                .ok()
                .as_deref()
                .and_then(inode);
            let Some(inode) = inode.filter(|inode| wanted.contains(inode)) else {
                continue;
            };
            let executable = executable.get_or_insert_with(|| executable_of(pid)).clone();
            let holder = executable.map(|executable| Holder { pid, executable });
            found
                .entry(inode)
                .and_modify(|known| {
                    let same = |h: &Option<Holder>| h.as_ref().map(|h| h.executable.clone());
                    if same(known) != same(&holder) {
                        *known = None;
                    }
                })
                .or_insert(holder);
        }
    }
    found
}

/// `socket:[4242]`
fn inode(link: &Path) -> Option<u32> {
    let text = link.to_str()?.strip_prefix("socket:[")?;
    text.strip_suffix(']')?.parse().ok()
}

/// The path of a process's executable, if it is for us the very file that runs.
pub(super) fn executable_of(pid: u32) -> Option<Arc<Path>> {
    let link = PathBuf::from(format!("/proc/{pid}/exe"));
    let path = fs::read_link(&link).ok()?;
    let running = fs::metadata(&link).ok()?;
    let same = |path: &Path| {
        fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (running.dev(), running.ino()))
    };
    if same(&path) {
        return Some(path.into());
    }
    // Replaced by an update while it runs. Only within our mount namespace does the old path say
    // anything: elsewhere anybody can mount what they like over it.
    let old = path.as_os_str().as_bytes().strip_suffix(DELETED)?;
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let ours = namespace("self")?;
    if running.nlink() == 0 && namespace(&pid.to_string())? == ours {
        let old = PathBuf::from(std::ffi::OsString::from_vec(old.to_vec()));
        return Some(old.into());
    }
    None
}
