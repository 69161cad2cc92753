//! What is wrong with a wg-quick file, and where.

use std::path::PathBuf;

/// Why a wg-quick file cannot be used. Names the file, the line and the key, and never a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WgQuickError {
    /// The file cannot be read. Check its path and its permissions.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// Larger than [`WgQuick::MAX_BYTES`](super::WgQuick::MAX_BYTES): hardly a configuration.
    #[error("{name} has more than {} bytes", super::WgQuick::MAX_BYTES)]
    TooLarge {
        /// The file's name.
        name: String,
    },
    /// A line is neither a section, nor `Key = value`, nor a comment.
    #[error("{name}:{line}: {problem}")]
    Syntax {
        /// The file's name.
        name: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// A value cannot be understood.
    #[error("{name}:{line}: {key}: {problem}")]
    Value {
        /// The file's name.
        name: String,
        /// The line, from 1.
        line: usize,
        /// The key whose value it is.
        key: &'static str,
        /// What is wrong, or expected.
        problem: String,
    },
    /// A required key is missing.
    #[error("{name}:{line}: [{section}] has no {key}")]
    Missing {
        /// The file's name.
        name: String,
        /// The line of the section, from 1; 0 if there is no such section.
        line: usize,
        /// The section.
        section: &'static str,
        /// The key.
        key: &'static str,
    },
}
