//! Touches `/proc`: which processes hold a socket, what they run and in which cgroup.

use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use hashbrown::HashMap;
use vpn_core::owner::Doubt;

use super::cgroup;

/// The suffix the kernel gives to the name of a file that was unlinked.
const DELETED: &[u8] = b" (deleted)";

/// What rules can ask of a process. Of one that may not be looked into nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) executable: Option<Arc<Path>>,
    pub(super) cgroup: Option<Arc<Path>>,
}

impl Process {
    /// Reads what there is to know of a process now.
    pub(super) fn read(pid: u32) -> Self {
        Self {
            executable: executable_of(pid),
            cgroup: cgroup::of(pid),
        }
    }

    fn is_hidden(&self) -> bool {
        self.executable.is_none() && self.cgroup.is_none()
    }
}

/// Who holds a socket: one process of those, and what all of them are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) process: Process,
}

impl Holder {
    /// For people.
    pub(super) fn evidence(&self, inode: u32) -> vpn_core::owner::Holder {
        vpn_core::owner::Holder {
            pid: self.pid,
            socket: inode.into(),
            executable: self.process.executable.clone(),
            cgroup: self.process.cgroup.clone(),
        }
    }
}

/// What a search learnt of each socket.
pub(super) type Holders = HashMap<u32, Result<Holder, Doubt>, foldhash::quality::RandomState>;

/// Searches all processes for sockets, once for all of them. A socket that nobody (whom we may
/// look into) holds is not in the answer. Stops early, with less, when `stop` is set. `seen` hears
/// of every descriptor of such a socket.
pub(super) fn holders(
    wanted: &[u32],
    stop: &AtomicBool,
    seen: &mut dyn FnMut(u32, &Holder),
) -> Holders {
    let mut found = Holders::default();
    each_holder(wanted, stop, &mut |inode, holder| {
        seen(inode, holder);
        let holder = match holder.process.is_hidden() {
            true => Err(Doubt::ProcessHidden),
            false => Ok(holder.clone()),
        };
        let process = |h: &Result<Holder, Doubt>| h.as_ref().map(|h| h.process.clone()).ok();
        found
            .entry(inode)
            .and_modify(|known| {
                if process(known) != process(&holder) {
                    *known = Err(Doubt::SeveralProcesses);
                }
            })
            .or_insert(holder);
    });
    found
}

/// Calls `each` with every process that holds one of the sockets, once per descriptor.
fn each_holder(wanted: &[u32], stop: &AtomicBool, each: &mut dyn FnMut(u32, &Holder)) {
    let Ok(processes) = fs::read_dir("/proc") else {
        return;
    };
    for process in processes.flatten() {
        if stop.load(Relaxed) {
            return;
        }
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Ends or forbids: then it holds nothing that we can see.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        let mut holder = None;
        for descriptor in descriptors.flatten() {
            let inode = fs::read_link(descriptor.path())
                .ok()
                .as_deref()
                .and_then(inode);
            let Some(inode) = inode.filter(|inode| wanted.contains(inode)) else {
                continue;
            };
            let holder = holder.get_or_insert_with(|| Holder {
                pid,
                process: Process::read(pid),
            });
            each(inode, holder);
        }
    }
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
