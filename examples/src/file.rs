//! Reads configurations: regular files, bounded; what is wrong is said with file, line and key.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Most bytes of a configuration.
const MAX_BYTES: u64 = 16 << 20;

/// Why a file is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It is not valid TOML, or has a wrong or unknown key.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What.
        message: String,
    },
    /// It is well-formed and makes no sense.
    #[error("{}: {key}: {problem}", path.display())]
    Config {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
}

impl FileError {
    /// What makes no sense in a file.
    pub fn config(path: &Path, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config {
            path: path.to_owned(),
            key: key.into(),
            problem: problem.into(),
        }
    }
}

/// The text of a regular file: a pipe would keep whoever reads it waiting.
///
/// # Errors
///
/// [`FileError`].
pub fn text_of(path: &Path) -> Result<String, FileError> {
    let failed = |cause| FileError::Read {
        path: path.to_owned(),
        cause,
    };
    regular(path).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut file = std::fs::File::open(path)
        .map_err(failed)?
        .take(MAX_BYTES + 1);
    file.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        let problem = format!("larger than {MAX_BYTES} bytes; say it in fewer rules");
        return Err(failed(io::Error::other(problem)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let before = error.as_bytes().iter().take(good);
        FileError::Syntax {
            path: path.to_owned(),
            line: before.filter(|&&byte| byte == b'\n').count() + 1,
            message: "this is not UTF-8; save the file as UTF-8 text".to_owned(),
        }
    })
}

/// Whether this is a file that can be read to its end, more than once.
///
/// # Errors
///
/// If it is not.
pub fn regular(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path)? {
        there if there.is_file() => Ok(()),
        there if there.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::other("not a regular file")),
    }
}

/// What a TOML text says; an unknown key is an error where the type says so.
///
/// # Errors
///
/// [`FileError::Syntax`], with the line.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, FileError> {
    toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or_default();
        let before = text.as_bytes().get(..span.start).unwrap_or_default();
        let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
        let mut message = error.message().replace('\n', " ");
        // What is wrong with a value does not say of which key.
        let at = text.lines().nth(line - 1).unwrap_or_default().trim();
        if !at.is_empty() {
            message = format!("{message}: {at}");
        }
        FileError::Syntax {
            path: path.to_owned(),
            line,
            message,
        }
    })
}
