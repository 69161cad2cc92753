//! Touches the file: reads it, writes it in place, and knows what it was before.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{DnsError, MAX_LEN, Restored};
use crate::journal::{from_hex, to_hex};

/// What was done to the file. `former` is `None` if there was none.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Written {
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

    pub(super) fn to_entry(&self, path: &Path) -> String {
        use std::os::unix::ffi::OsStrExt;
        let former = self.former.as_deref().map_or("-".into(), to_hex);
        // A dot keeps empty content a word.
        format!(
            "{} .{former} .{}",
            to_hex(path.as_os_str().as_bytes()),
            to_hex(&self.content)
        )
    }

    pub(super) fn from_entry(entry: &str) -> Option<(PathBuf, Self)> {
        use std::os::unix::ffi::OsStringExt;
        let mut words = entry.split(' ');
        let path = std::ffi::OsString::from_vec(from_hex(words.next()?)?);
        let former = match words.next()?.strip_prefix('.')? {
            "-" => None,
            hex => Some(from_hex(hex)?),
        };
        let content = from_hex(words.next()?.strip_prefix('.')?)?;
        Some((path.into(), Self { former, content }))
    }
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Written({} bytes)", self.content.len())
    }
}

/// Brings the former content back, unless somebody else wrote the file meanwhile.
pub(super) fn undo(path: &Path, written: &Written) -> Result<Restored, DnsError> {
    if !written.is_ours(read(path)?.as_deref()) {
        return Ok(Restored::ChangedByOthers);
    }
    match &written.former {
        Some(former) => write_in_place(path, former)?,
        // A link that led nowhere led to the file we made: the link is not ours.
        None => fs::canonicalize(path)
            .and_then(fs::remove_file)
            .map_err(|cause| failed("remove", path, cause))?,
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
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
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
