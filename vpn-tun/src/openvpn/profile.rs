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
            _ => {}
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
mod tests {
    use super::*;

    const GOOD: &str = "client\ndev tun\nproto udp\nremote vpn.example 1194 # the nearest\n\
        auth-user-pass\ntun-mtu 1400\n<ca>\nup is no option here\n</ca>\n";

    #[test]
    fn a_providers_file_is_kept_as_it_is() {
        let profile = Profile::parse(GOOD.as_bytes(), Path::new("/p")).expect("good");
        assert_eq!(profile.text(), GOOD);
        assert_eq!(profile.remotes(), ["vpn.example"]);
        assert!(profile.asks_password());
        assert_eq!(profile.mtu(), Some(1400));
        let shown = format!("{profile:?}");
        assert!(!shown.contains("<ca>"), "{shown}");
    }

    #[test]
    fn what_runs_writes_or_takes_over_is_refused_in_every_spelling() {
        for (line, option) in [
            ("up /bin/x", "up"),
            ("  --up /bin/x", "up"),
            ("\"up\" /bin/x", "up"),
            ("\"log\"/etc/x", "log"),
            ("memstats /etc/x", "memstats"),
            ("plugin x.so", "plugin"),
            ("script-security 2", "script-security"),
            ("management 127.0.0.1 7505", "management"),
            ("management-external-key", "management-external-key"),
            ("log-append /etc/x", "log-append"),
            ("cd /", "cd"),
            ("config other", "config"),
            ("daemon", "daemon"),
            ("<plugin>", "plugin"),
            ("setenv opt up /bin/x", "up"),
            ("setenv opt setenv opt plugin x", "plugin"),
        ] {
            let text = format!("remote a\n{line}\n");
            match Profile::parse(text.as_bytes(), Path::new("/p")) {
                Err(ProfileError::Refused { option: told, .. }) => {
                    assert_eq!(told, option, "{line}");
                }
                other => panic!("{line}: {other:?}"),
            }
        }
        // An end that OpenVPN would find in the second piece of a long line.
        let pieces = format!("remote a\n<ca>\n{}</ca>\nup x\n</ca>\n", "x".repeat(255));
        let refused = Profile::parse(pieces.as_bytes(), Path::new("/p"));
        assert!(matches!(refused, Err(ProfileError::LongLine { line: 3 })));
        // Options of one connection are options all the same.
        let inside = "remote a\n<connection>\nremote b\nup x\n</connection>\n";
        let refused = Profile::parse(inside.as_bytes(), Path::new("/p"));
        assert!(matches!(
            refused,
            Err(ProfileError::Refused { line: 4, .. })
        ));
    }

    /// Lines at which OpenVPN sees a block begin or an option, and a laxer reader does not.
    #[test]
    fn no_line_is_read_in_another_way_than_openvpn_does() {
        for text in [
            "\\ log /etc/x",
            // OpenVPN is in <ca> until </ca>; others are in <cert>.
            "--<ca>\n<cert>\n</ca>\nlog /etc/x\n--<cert>\n</cert>",
            "<ca> \\#\n<cert>\n</ca>\nlog /etc/x\n<cert> \\#\n</cert>",
            "\u{feff}<ca>\n<cert>\n</ca>\nlog /etc/x",
            // To OpenVPN two words of no meaning each; to others a block.
            "ignore-unknown-option <ca\" </ca\n<ca\" >\nlog /etc/x\n</ca >",
            "ignore-unknown-option <ca\n\"<ca\"\">\"\nlog /etc/x\n</ca>",
            "</ca>\nlog /etc/x\n<//ca>",
            // To OpenVPN these open no block.
            "<ca> x\nlog /etc/x\n</ca>",
            "<ca>\u{a0}\nlog /etc/x\n</ca>",
        ] {
            let text = format!("{text}\nremote a\n");
            let refused = Profile::parse(text.as_bytes(), Path::new("/p"));
            assert!(
                matches!(
                    refused,
                    Err(ProfileError::NotAnOption { .. } | ProfileError::Refused { .. })
                ),
                "{text}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_link_beside_the_profile_leads_nowhere_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let (inner, secret) = (folder.join("p"), folder.join("secret"));
        std::fs::create_dir(&inner).expect("made");
        std::fs::write(&secret, "root\nx\n").expect("written");
        std::os::unix::fs::symlink(&secret, inner.join("link")).expect("linked");
        std::fs::write(inner.join("file"), "a\nb\n").expect("written");
        std::os::unix::fs::symlink("file", inner.join("within")).expect("linked");
        let path = inner.join("x.ovpn");
        let read = |line: &str| {
            std::fs::write(&path, format!("remote a\n{line}\n")).expect("written");
            Profile::read(&path)
        };
        let refused = read("ca link");
        assert!(matches!(
            refused,
            Err(ProfileError::Elsewhere { line: 2, .. })
        ));
        let asks = |line| read(line).expect("good").asks_password();
        assert!(asks("auth-user-pass link"));
        assert!(!asks("auth-user-pass within"));
        assert!(!asks("ca within"));
    }

    #[test]
    fn a_pipe_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo").success());
        let error = Profile::read(&path);
        assert!(matches!(error, Err(ProfileError::Read { .. })), "{error:?}");
    }

    /// A password file is sent to the server: it must not be any file of this host.
    #[test]
    fn only_files_beside_the_profile_are_read() {
        for line in [
            "pkcs12 ../other/secret",
            "ca a/../../b",
            "http-proxy proxy 8080 /etc/passwd",
        ] {
            let text = format!("remote a\n{line}\n");
            let refused = Profile::parse(text.as_bytes(), Path::new("/p"));
            assert!(
                matches!(refused, Err(ProfileError::Elsewhere { line: 2, .. })),
                "{line}: {refused:?}"
            );
        }
        for line in [
            "ca ca.crt",
            "cert ./keys/me.crt",
            "tls-auth ta.key 1",
            "auth-user-pass /p/me.txt",
        ] {
            let text = format!("remote a\n{line}\n");
            let profile = Profile::parse(text.as_bytes(), Path::new("/p"));
            assert!(!profile.expect("good").asks_password(), "{line}");
        }
    }

    #[test]
    fn credentials_elsewhere_have_to_be_given() {
        for line in [
            "auth-user-pass",
            "auth-user-pass /etc/shadow",
            "auth-user-pass ../other/secret",
        ] {
            let text = format!("remote a\n{line}\n");
            let profile = Profile::parse(text.as_bytes(), Path::new("/p"));
            assert!(profile.expect("good").asks_password(), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let of = |bytes: &[u8]| Profile::parse(bytes, Path::new("/p"));
        let parse = |text: &str| of(text.as_bytes());
        let alone = parse("client\n");
        assert!(matches!(alone, Err(ProfileError::NoRemote)));
        let tap = parse("remote a\ndev tap0\n");
        assert!(matches!(tap, Err(ProfileError::Tap { line: 2 })));
        let open = parse("remote a\n<ca>\nx\n");
        assert!(matches!(open, Err(ProfileError::OpenBlock { line: 2, .. })));
        let not_text = of(b"remote a\n\xff\n");
        assert!(matches!(not_text, Err(ProfileError::NotText { line: 2 })));
        let long = parse(&format!("remote {}\n", "a".repeat(300)));
        assert!(matches!(long, Err(ProfileError::LongLine { line: 1 })));
        let whole = of(&vec![b'#'; MAX_PROFILE + 1]);
        assert!(matches!(whole, Err(ProfileError::TooLong { .. })));
    }
}
