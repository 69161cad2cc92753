//! Touches the file: reads it, writes it in place, and knows what it was before.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{DnsError, MAX_LEN, Restored};
use crate::journal::{from_hex, to_hex};

/// Links followed to a file that is not there; the kernel follows as many (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Everybody reads the file, whatever mask we run with.
const MODE: u32 = 0o644;

/// What was done to the file. `former` is `None` if there was none.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// The file itself, behind all links: a link that leads elsewhere later does not hide it.
    pub(super) target: PathBuf,
    pub(super) former: Option<Vec<u8>>,
    pub(super) content: Vec<u8>,
}

impl Written {
    /// Whether the file is as we left it, also in the middle of writing: then the beginning is
    /// new and the rest is old.
    pub(super) fn is_ours(&self, now: Option<&[u8]>) -> bool {
        let Some(now) = now else { return false };
        let same = std::iter::zip(now, &self.content).take_while(|(a, b)| a == b);
        let same = same.count();
        let former = self.former.as_deref().unwrap_or_default();
        now == self.content || now[same..] == *former.get(same..).unwrap_or_default()
    }

    /// Whether whoever reads `path` reads what we wrote.
    pub(super) fn is_in_force(&self, path: &Path) -> Result<bool, DnsError> {
        let now = read(&self.target)?;
        Ok(target_of(path) == self.target && now.as_ref() == Some(&self.content))
    }

    pub(super) fn to_entry(&self) -> String {
        use std::os::unix::ffi::OsStrExt;
        let former = self.former.as_deref().map_or("-".into(), to_hex);
        // A dot keeps empty content a word.
        format!(
            "{} .{former} .{}",
            to_hex(self.target.as_os_str().as_bytes()),
            to_hex(&self.content)
        )
    }

    pub(super) fn from_entry(entry: &str) -> Option<Self> {
        use std::os::unix::ffi::OsStringExt;
        let mut words = entry.split(' ');
        let target = std::ffi::OsString::from_vec(from_hex(words.next()?)?).into();
        let former = match words.next()?.strip_prefix('.')? {
            "-" => None,
            hex => Some(from_hex(hex)?),
        };
        let content = from_hex(words.next()?.strip_prefix('.')?)?;
        Some(Self {
            target,
            former,
            content,
        })
    }
}

/// The file behind all links, there or not.
pub(super) fn target_of(path: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        match (fs::read_link(&target), target.parent()) {
            (Ok(next), Some(folder)) => target = folder.join(next),
            _ => break,
        }
    }
    // So that it is the same by any working directory.
    match (target.parent(), target.file_name()) {
        (Some(folder), Some(name)) if !folder.as_os_str().is_empty() => {
            fs::canonicalize(folder).map_or_else(|_| target.clone(), |folder| folder.join(name))
        }
        _ => std::path::absolute(&target).unwrap_or(target),
    }
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Written({} bytes)", self.content.len())
    }
}

/// Brings the former content back, unless somebody else wrote the file meanwhile.
pub(super) fn undo(written: &Written) -> Result<Restored, DnsError> {
    let now = read(&written.target)?;
    if now == written.former {
        // Never written: also a file that cannot be.
        return Ok(Restored::Restored);
    }
    if !written.is_ours(now.as_deref()) {
        return Ok(Restored::ChangedByOthers);
    }
    match &written.former {
        Some(former) => write_in_place(&written.target, former)?,
        // A link that led nowhere led to the file we made: the link is not ours.
        None => fs::remove_file(&written.target)
            .map_err(|cause| failed("remove", &written.target, cause))?,
    }
    Ok(Restored::Restored)
}

/// The content, or `None` if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, DnsError> {
    let result = fs::File::open(path).and_then(|file| {
        let mut content = Vec::new();
        file.take(MAX_LEN as u64 + 1).read_to_end(&mut content)?;
        if content.len() > MAX_LEN {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too large"));
        }
        Ok(content)
    });
    match result {
        Ok(content) => Ok(Some(content)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(failed("read", path, cause)),
    }
}

/// Overwrites, then cuts: a reader in between sees lines of both, never an empty file.
pub(super) fn write_in_place(path: &Path, content: &[u8]) -> Result<(), DnsError> {
    let write = || {
        let there = path.exists();
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        if !there {
            file.set_permissions(fs::Permissions::from_mode(MODE))?;
        }
        file.write_all(content)?;
        file.set_len(content.len() as u64)?;
        file.sync_all()
    };
    write().map_err(|cause| failed("write", path, cause))
}

fn failed(doing: &'static str, path: &Path, cause: io::Error) -> DnsError {
    DnsError::Io {
        doing,
        path: path.to_owned(),
        cause,
    }
}
