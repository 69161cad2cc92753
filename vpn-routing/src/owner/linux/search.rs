//! Touches `/proc`: which processes hold a socket, what they run and in which cgroup.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use hashbrown::HashMap;
use nix::dir::Dir;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::Mode;
use vpn_core::owner::Doubt;

use super::cgroup;

/// How a directory is opened.
const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// The suffix the kernel gives to the name of a file that was unlinked.
const DELETED: &[u8] = b" (deleted)";

/// What rules can ask of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    /// `None` if it has no path here: that of a container.
    pub(super) executable: Option<Arc<Path>>,
    /// `None` if it is in none of ours.
    pub(super) cgroup: Option<Arc<Path>>,
}

impl Process {
    /// Reads what there is to know of a process now; `None` if it may not be looked into, or if
    /// it is not clear what it runs.
    pub(super) fn read(pid: u32) -> Option<Self> {
        let cgroup = cgroup::of(pid).ok()?;
        let executable = match program_of(pid)? {
            Program::Here(path) => Some(path),
            Program::Elsewhere => None,
        };
        Some(Self { executable, cgroup })
    }
}

/// Who holds a socket: one process of those, and what all of them are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) process: Process,
}

/// What a search learnt of each socket.
pub(super) type Holders = HashMap<u32, Result<Holder, Doubt>, foldhash::quality::RandomState>;

/// Searches all processes for sockets, once for all of them. A socket that nobody (whom we may
/// look into) holds is not in the answer. Stops early, with less, when `stop` is set. `seen` hears
/// of every descriptor of such a socket.
pub(super) fn holders(
    wanted: &[u32],
    stop: &AtomicBool,
    seen: &mut dyn FnMut(u32, u32, Option<&Process>),
) -> Holders {
    let mut found = Holders::default();
    each_holder(wanted, stop, &mut |inode, pid, process| {
        seen(inode, pid, process);
        let holder = match process.cloned() {
            Some(process) => Ok(Holder { pid, process }),
            None => Err(Doubt::ProcessHidden),
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
fn each_holder(
    wanted: &[u32],
    stop: &AtomicBool,
    each: &mut dyn FnMut(u32, u32, Option<&Process>),
) {
    let Ok(mut processes) = Dir::open("/proc", DIRECTORY, Mode::empty()) else {
        return;
    };
    // Names are looked up from where their directory is open: most of a pass is the kernel's work
    // per name, and every part of a path adds to it.
    let pids: Vec<u32> = (processes.iter().flatten())
        .filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok())
        .collect();
    for pid in pids {
        if stop.load(Relaxed) {
            return;
        }
        // Ends or forbids: then it holds nothing that we can see.
        let path = format!("{pid}/fd");
        let Ok(mut descriptors) = Dir::openat(&processes, path.as_str(), DIRECTORY, Mode::empty())
        else {
            continue;
        };
        let names: Vec<_> = (descriptors.iter().flatten())
            .map(|entry| entry.file_name().to_owned())
            .collect();
        let mut process = None;
        for name in names {
            let inode = readlinkat(&descriptors, name.as_c_str())
                .ok()
                .and_then(|link| inode(&link));
            let Some(inode) = inode.filter(|inode| wanted.contains(inode)) else {
                continue;
            };
            let process = process.get_or_insert_with(|| Process::read(pid));
            each(inode, pid, process.as_ref());
        }
    }
}

/// `socket:[4242]`
fn inode(link: &OsStr) -> Option<u32> {
    let text = link.to_str()?.strip_prefix("socket:[")?;
    text.strip_suffix(']')?.parse().ok()
}

/// What a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// The file that this path names for us.
    Here(Arc<Path>),
    /// A file of another mount namespace, which no path of ours names.
    Elsewhere,
}

/// What a process runs; `None` if that cannot be told.
pub(super) fn program_of(pid: u32) -> Option<Program> {
    let link = PathBuf::from(format!("/proc/{pid}/exe"));
    let path = fs::read_link(&link).ok()?;
    let running = fs::metadata(&link).ok()?;
    let same = |path: &Path| {
        fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (running.dev(), running.ino()))
    };
    if same(&path) {
        return Some(Program::Here(path.into()));
    }
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let ours = namespace("self")? == namespace(&pid.to_string())?;
    let Some(old) = path.as_os_str().as_bytes().strip_suffix(DELETED) else {
        // In our own namespace something was mounted over it.
        return (!ours).then_some(Program::Elsewhere);
    };
    // Replaced by an update while it runs. Only within our mount namespace does the old path say
    // anything: elsewhere anybody can mount what they like over it.
    let replaced = ours && running.nlink() == 0;
    replaced.then(|| {
        let old = PathBuf::from(std::ffi::OsString::from_vec(old.to_vec()));
        Program::Here(old.into())
    })
}
