//! Whether a file may say where traffic goes.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Why a file of rules is not used.
#[derive(Debug)]
pub(super) enum Refused {
    /// The system does not show it.
    Open(std::io::Error),
    /// A folder or a device.
    NotAFile,
    /// Everybody may write it; its permission bits.
    WorldWritable(u32),
}

/// Looks at the file: rules decide what leaves by which tunnel, so one that everybody may write is
/// refused.
pub(super) fn check(path: &Path) -> Result<Metadata, Refused> {
    let meta = std::fs::metadata(path).map_err(Refused::Open)?;
    if !meta.is_file() {
        return Err(Refused::NotAFile);
    }
    if meta.mode() & 0o002 != 0 {
        return Err(Refused::WorldWritable(meta.mode() & 0o7777));
    }
    Ok(meta)
}
