//! A user's name and password: read from a file that nobody else can read, and never shown.

use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Longest name and longest password, in bytes: OpenVPN answers a longer one with an error, and asks
/// no more (`OPTION_PARM_SIZE`).
pub const MAX_CREDENTIAL: usize = 255;

/// How much of a file of credentials is read, in bytes: enough to tell what is too long.
const MAX_BYTES: u64 = 8192;

/// A user's name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

/// Why credentials are refused. Nothing of them is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Others could read the password.
    #[error("{} has mode {mode:04o}: others can read it; chmod 600 it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// OpenVPN would take neither.
    #[error(
        "{} has a name or a password of more than {MAX_CREDENTIAL} bytes, which OpenVPN does not \
         take from here; let the profile's auth-user-pass name the file",
        path.display()
    )]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It is not a name and a password, a line each.
    #[error("{} is not a name and a password, a line each", path.display())]
    NotTwoLines {
        /// The file.
        path: PathBuf,
    },
}

impl Credentials {
    /// These. `None` where one holds a line break, as the protocol has lines, or is longer than
    /// [`MAX_CREDENTIAL`], and for an empty name.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Option<Self> {
        let (user, password) = (user.into(), password.into());
        let line = |text: &str| !text.contains(['\n', '\r', '\0']) && text.len() <= MAX_CREDENTIAL;
        (line(&user) && line(&password) && !user.is_empty()).then_some(Self { user, password })
    }

    /// Reads a file as `auth-user-pass` has it: the name, and the password below it.
    ///
    /// # Errors
    ///
    /// [`CredentialsError`]; also if others than its owner may read the file.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let path = || path.to_owned();
        let failed = |cause| CredentialsError::Read {
            path: path(),
            cause,
        };
        // A pipe would keep whoever opens it waiting.
        let mut how = std::fs::OpenOptions::new();
        how.read(true).custom_flags(libc::O_NONBLOCK);
        let file = how.open(path()).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if !about.is_file() {
            return Err(failed(io::Error::other("not a regular file")));
        }
        let mode = about.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(CredentialsError::Open { path: path(), mode });
        }
        let mut text = String::new();
        file.take(MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(failed)?;
        let mut lines = text.lines();
        let two = lines.next().zip(lines.next());
        if two.is_some_and(|(user, password)| user.len().max(password.len()) > MAX_CREDENTIAL) {
            return Err(CredentialsError::TooLong { path: path() });
        }
        two.and_then(|(user, password)| Self::new(user, password))
            .ok_or_else(|| CredentialsError::NotTwoLines { path: path() })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// N-27: credentials were where others read them.
    #[test]
    fn a_file_is_read_if_it_is_its_owners_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("credentials.txt");
        let write = |text: &str, mode| {
            std::fs::write(&path, text).expect("written");
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode).expect("set");
        };
        write("lab\r\nsecret word\n", 0o600);
        let read = Credentials::read(&path).expect("good");
        assert_eq!(Some(&read), Credentials::new("lab", "secret word").as_ref());
        assert_eq!(format!("{read:?}"), "Credentials(..)");
        write("lab\nsecret\n", 0o640);
        let error = Credentials::read(&path).expect_err("open to the group");
        assert!(error.to_string().contains("0640"), "{error}");
        for text in ["", "lab", "\nsecret\n"] {
            write(text, 0o600);
            let error = Credentials::read(&path);
            assert!(matches!(error, Err(CredentialsError::NotTwoLines { .. })));
        }
        let longest = "x".repeat(MAX_CREDENTIAL);
        write(&format!("lab\n{longest}\n"), 0o600);
        assert!(Credentials::read(&path).is_ok());
        write(&format!("lab\n{longest}x\n"), 0o600);
        let error = Credentials::read(&path);
        assert!(matches!(error, Err(CredentialsError::TooLong { .. })));
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo").success());
        let pipe = Credentials::read(&pipe);
        assert!(matches!(pipe, Err(CredentialsError::Read { .. })));
        let folder = Credentials::read(folder.path());
        assert!(matches!(folder, Err(CredentialsError::Read { .. })));
        assert!(Credentials::new("a", "b\nsignal SIGTERM").is_none());
    }
}
