//! Touches the file: checks who may write it, and reads it whole.

use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use vpn_core::RuleSnapshot;

use super::error::TomlError;
use super::parse::{self, Others};
use super::{MAX_BYTES, SETTLE};
use crate::source::permission;

/// How often a file that is written while it is read is read again.
const ATTEMPTS: u32 = 5;

pub(super) fn check(path: &Path) -> Result<std::fs::Metadata, TomlError> {
    permission::check(path).map_err(TomlError::refused(path))
}

/// All rules of the file.
pub(super) fn read(path: &Path, others: Others) -> Result<RuleSnapshot, TomlError> {
    for _ in 0..ATTEMPTS {
        let before = modified(path);
        let text = text(path)?;
        if !text.trim().is_empty() && modified(path) == before {
            return parse::parse(path, &text, others);
        }
        std::thread::sleep(SETTLE);
    }
    Err(TomlError::Empty { path: path.into() })
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path)
        .and_then(|meta| meta.modified())
        .ok()
}

fn text(path: &Path) -> Result<String, TomlError> {
    let failed = |source| TomlError::Open {
        path: path.into(),
        source,
    };
    if check(path)?.len() > MAX_BYTES {
        return Err(TomlError::TooLarge { path: path.into() });
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    // One more than is allowed: it may have grown.
    let mut limited = file.take(MAX_BYTES + 1);
    limited.read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(TomlError::TooLarge { path: path.into() });
    }
    Ok(text)
}
