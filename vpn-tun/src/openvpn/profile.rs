//! A provider's `.ovpn` file: read, checked, and given to OpenVPN as it is. Pure.
//!
//! What a profile may say is OpenVPN's business, with these exceptions: it must not run programs, it
//! must not configure the system, and it must not write where it likes. Such options are refused by
//! name, not taken out: who wrote them should know that they are not followed.

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::options::{READS, RUNS, SUPERVISED, WRITES};
use super::pull::Pull;
use super::words::{is_name, is_space, words};

/// Longest profile that is read, in bytes: certificates and keys inline are a few kilobytes.
pub const MAX_PROFILE: usize = 1 << 20;

/// Longest line, in bytes: OpenVPN's own limit (`OPTION_LINE_SIZE`).
const MAX_LINE: usize = 256;

/// Why a profile is refused.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: Arc<std::io::Error>,
    },
    /// It is longer than [`MAX_PROFILE`].
    #[error("the profile has {length} bytes; at most {MAX_PROFILE} are read")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// It is not UTF-8 from this line on, or the line holds a NUL.
    #[error("line {line} is not text")]
    NotText {
        /// Counted from 1.
        line: usize,
    },
    /// No option begins like this, or a quotation is not closed. OpenVPN might read it in another
    /// way than we do, so it is not guessed at.
    #[error("line {line} is no option and no <block>")]
    NotAnOption {
        /// Counted from 1.
        line: usize,
    },
    /// OpenVPN would cut the line.
    #[error("line {line} has more than {MAX_LINE} bytes")]
    LongLine {
        /// Counted from 1.
        line: usize,
    },
    /// An option that a profile may not have here.
    #[error("line {line}: {option} is refused: {why}; remove the line")]
    Refused {
        /// Counted from 1.
        line: usize,
        /// The option.
        option: String,
        /// What it would do.
        why: &'static str,
    },
    /// A file that is not beside the profile.
    #[error("line {line}: {option} names {path}, which is not beside the profile; put it there")]
    Elsewhere {
        /// Counted from 1.
        line: usize,
        /// The option.
        option: String,
        /// What it names.
        path: String,
    },
    /// An inline block without its end.
    #[error("line {line}: <{tag}> has no </{tag}>")]
    OpenBlock {
        /// Where it begins, counted from 1.
        line: usize,
        /// Its name.
        tag: String,
    },
    /// A tunnel of Ethernet frames: this SDK carries IP.
    #[error("line {line}: a tap device carries Ethernet frames; only tun is supported")]
    Tap {
        /// Counted from 1.
        line: usize,
    },
    /// No `remote`: there is nowhere to connect to.
    #[error("no remote: there is no server to connect to")]
    NoRemote,
}

/// What is known of a profile before OpenVPN reads it.
#[derive(Clone, PartialEq, Eq)]
pub struct Profile {
    text: String,
    folder: PathBuf,
    remotes: Vec<String>,
    asks_password: bool,
    mtu: Option<u16>,
    pull: Pull,
    /// The files it names: line, option and path.
    files: Vec<(usize, String, PathBuf)>,
}

impl fmt::Debug for Profile {
    /// Without the text, which has keys in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile")
            .field("remotes", &self.remotes)
            .field("asks_password", &self.asks_password)
            .field("mtu", &self.mtu)
            .finish_non_exhaustive()
    }
}

impl Profile {
    /// Reads and checks a profile; files that it names have to be in its folder.
    ///
    /// # Errors
    ///
    /// [`ProfileError`], for the first line that is wrong.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let failed = |cause: std::io::Error| ProfileError::Read {
            path: path.to_owned(),
            cause: Arc::new(cause),
        };
        let mut bytes = Vec::new();
        let limit = MAX_PROFILE as u64 + 1;
        // A pipe would keep whoever opens it waiting.
        let mut how = std::fs::OpenOptions::new();
        how.read(true).custom_flags(libc::O_NONBLOCK);
        let file = how.open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(std::io::Error::other("not a regular file")));
        }
        file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = std::path::absolute(folder).map_err(failed)?;
        let mut profile = Self::parse(&bytes, &folder)?;
        profile.links_lead_beside()?;
        Ok(profile)
    }

    /// A provider's archive may hold a link to any file of this host.
    fn links_lead_beside(&mut self) -> Result<(), ProfileError> {
        let real_folder = self.folder.canonicalize();
        for (line, option, path) in &self.files {
            // What is not there, OpenVPN misses itself.
            let (Ok(folder), Ok(real)) = (&real_folder, self.folder.join(path).canonicalize())
            else {
                continue;
            };
            match real.starts_with(folder) {
                true => {}
                false if option == "auth-user-pass" => self.asks_password = true,
                false => {
                    return Err(ProfileError::Elsewhere {
                        line: *line,
                        option: option.clone(),
                        path: path.display().to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Checks a profile that is, or would be, in this folder.
    ///
    /// # Errors
    ///
    /// [`ProfileError`], for the first line that is wrong.
    pub fn parse(bytes: &[u8], folder: &Path) -> Result<Self, ProfileError> {
        if bytes.len() > MAX_PROFILE {
            return Err(ProfileError::TooLong {
                length: bytes.len(),
            });
        }
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
            Err(error) => {
                let before = &bytes[..error.valid_up_to()];
                let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
                return Err(ProfileError::NotText { line });
            }
        };
        let mut profile = Self {
            text: text.to_owned(),
            folder: folder.to_owned(),
            remotes: Vec::new(),
            asks_password: false,
            mtu: None,
            pull: Pull::default(),
            files: Vec::new(),
        };
        let mut inside: Option<(usize, String)> = None;
        for (at, raw) in text.lines().enumerate() {
            let line = at + 1;
            if raw.contains('\0') {
                return Err(ProfileError::NotText { line });
            }
            // OpenVPN reads what is longer in pieces, and would see an end or an option in one.
            if raw.len() >= MAX_LINE {
                return Err(ProfileError::LongLine { line });
            }
            if let Some((_, tag)) = &inside {
                if raw
                    .trim_start_matches(is_space)
                    .starts_with(&format!("</{tag}>"))
                {
                    inside = None;
                }
                continue;
            }
            let no_option = ProfileError::NotAnOption { line };
            let Some(words) = words(raw) else {
                return Err(no_option);
            };
            let [first, rest @ ..] = words.as_slice() else {
                continue;
            };
            match tag_of(first).filter(|_| rest.is_empty()) {
                // It holds options; the others hold keys.
                Some("connection" | "/connection") => {}
                Some(tag) if is_name(tag) => {
                    profile.option(line, &[tag.to_owned()])?;
                    inside = Some((line, tag.to_owned()));
                }
                None if is_name(first) => profile.option(line, &words)?,
                _ => return Err(no_option),
            }
        }
        if let Some((line, tag)) = inside {
            return Err(ProfileError::OpenBlock { line, tag });
        }
        if profile.remotes.is_empty() {
            return Err(ProfileError::NoRemote);
        }
        Ok(profile)
    }

    /// One option with its values.
    fn option(&mut self, line: usize, words: &[String]) -> Result<(), ProfileError> {
        let Some(first) = words.first() else {
            return Ok(());
        };
        // "setenv opt X" is X, for versions that do not know X.
        if let [setenv, opt, rest @ ..] = words
            && (setenv.as_str(), opt.as_str()) == ("setenv", "opt")
        {
            return self.option(line, rest);
        }
        // OpenVPN takes both forms.
        let option = first.strip_prefix("--").unwrap_or(first);
        let refused = |why| {
            Err(ProfileError::Refused {
                line,
                option: option.to_owned(),
                why,
            })
        };
        if RUNS.contains(&option) {
            return refused("it runs a program");
        }
        if SUPERVISED.contains(&option) || option.starts_with("management") {
            return refused("the process is supervised here");
        }
        if WRITES.contains(&option) {
            return refused("it reaches files outside the profile");
        }
        let reads = READS.iter().find(|(name, _)| *name == option);
        if let Some(path) = reads.and_then(|(_, place)| words.get(*place)) {
            if !is_beside(&self.folder, path) {
                return Err(ProfileError::Elsewhere {
                    line,
                    option: option.to_owned(),
                    path: path.clone(),
                });
            }
            self.files.push((line, option.to_owned(), path.into()));
        }
        let value = words.get(1).map(String::as_str);
        match option {
            "dev" | "dev-type" if value.is_some_and(|v| v.starts_with("tap")) => {
                return Err(ProfileError::Tap { line });
            }
            "remote" => self.remotes.extend(value.map(str::to_owned)),
            // A file elsewhere is not read, but what it holds can be given otherwise.
            "auth-user-pass" => {
                let beside = value.filter(|path| is_beside(&self.folder, path));
                self.asks_password = beside.is_none();
                let file = beside.map(|path| (line, option.to_owned(), path.into()));
                self.files.extend(file);
            }
            "tun-mtu" => self.mtu = value.and_then(|v| v.parse().ok()),
            _ => self.pull.option(option, words),
        }
        Ok(())
    }

    /// The file's text, as OpenVPN gets it. It may hold private keys.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it is: files that it names are found from there.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The servers it names, in order: names or addresses.
    pub fn remotes(&self) -> &[String] {
        &self.remotes
    }

    /// Whether it wants a user's name and password, and no file beside it holds them.
    pub const fn asks_password(&self) -> bool {
        self.asks_password
    }

    /// The MTU it sets, in bytes.
    pub const fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    pub(super) const fn pull(&self) -> &Pull {
        &self.pull
    }
}

/// The name of a block that a word opens.
fn tag_of(word: &str) -> Option<&str> {
    word.strip_prefix('<')?.strip_suffix('>')
}

/// Whether a path leads to a file in the profile's own folder, or below.
fn is_beside(folder: &Path, path: &str) -> bool {
    let path = Path::new(path);
    let within = path.strip_prefix(folder).unwrap_or(path);
    let mut parts = within.components();
    parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests;
