//! How etcd is talked to, as configurations say it: certificates, a user, and a file with its password.
//! Read and checked; secrets are in no `Debug`.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::file::{FileError, text_of};

/// Keys of a configuration; paths are relative to its folder.
#[derive(Clone, Copy, Debug, Default)]
pub struct EtcdKeys<'a> {
    /// What the names of these keys begin with, for messages: `etcd.` makes `etcd.ca`.
    pub prefix: &'static str,
    /// The authority that signed etcd's certificate, in PEM: with it, TLS is used.
    pub ca: Option<&'a PathBuf>,
    /// Our certificate, in PEM, where etcd asks for one.
    pub certificate: Option<&'a PathBuf>,
    /// Its key.
    pub key: Option<&'a PathBuf>,
    /// The name in etcd's certificate, where it is not the endpoint's.
    pub server_name: Option<&'a str>,
    /// The user at etcd.
    pub user: Option<&'a str>,
    /// A file with its password, which nobody else may read.
    pub password_file: Option<&'a PathBuf>,
}

/// What was read and makes sense.
#[derive(Clone, Default)]
pub struct EtcdAccess {
    /// TLS.
    pub tls: Option<Tls>,
    /// User and password.
    pub user: Option<(String, Zeroizing<String>)>,
}

/// TLS with etcd.
#[derive(Clone)]
pub struct Tls {
    /// The authority that signed etcd's certificate, in PEM.
    pub ca: Vec<u8>,
    /// Our certificate and its key, in PEM.
    pub client: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
    /// The name in etcd's certificate.
    pub server_name: Option<String>,
}

impl fmt::Debug for EtcdAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdAccess")
            .field("tls", &self.tls)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("client", &self.client.is_some())
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl EtcdKeys<'_> {
    /// Reads the files that are named.
    ///
    /// # Errors
    ///
    /// [`FileError::Config`], with the configuration, the key and what is wrong.
    pub fn read(&self, config: &Path) -> Result<EtcdAccess, FileError> {
        let folder = config.parent().unwrap_or(Path::new("."));
        let wrong = |key: &str, problem: String| {
            FileError::config(config, format!("{}{key}", self.prefix), problem)
        };
        let needs = |key: &str, other: &str| {
            let problem = format!(
                "{}{other} is missing: one makes no sense alone",
                self.prefix
            );
            Err(wrong(key, problem))
        };
        match (self.certificate, self.key) {
            (Some(_), None) => return needs("certificate", "key"),
            (None, Some(_)) => return needs("key", "certificate"),
            _ => {}
        }
        for (key, is_there) in [
            ("certificate", self.certificate.is_some()),
            ("server_name", self.server_name.is_some()),
        ] {
            if is_there && self.ca.is_none() {
                return needs(key, "ca");
            }
        }
        let pem = |key: &str, file: &Path, what: &str| {
            let path = folder.join(file);
            let text = text_of(&path).map_err(|error| wrong(key, crate::chain(&error)))?;
            let text = Zeroizing::new(text);
            match text.contains(&format!("{what}-----")) {
                true => Ok(Zeroizing::new(text.as_bytes().to_vec())),
                false => Err(wrong(
                    key,
                    format!("{} has no {what} in PEM", path.display()),
                )),
            }
        };
        let tls = match self.ca {
            None => None,
            Some(ca) => Some(Tls {
                ca: pem("ca", ca, "CERTIFICATE")?.to_vec(),
                client: match (self.certificate, self.key) {
                    (Some(certificate), Some(key)) => {
                        secret(&folder.join(key)).map_err(|problem| wrong("key", problem))?;
                        let certificate = pem("certificate", certificate, "CERTIFICATE")?;
                        Some((certificate.to_vec(), pem("key", key, "PRIVATE KEY")?))
                    }
                    _ => None,
                },
                server_name: self.server_name.map(str::to_owned),
            }),
        };
        let user = match (self.user, self.password_file) {
            (None, None) => None,
            (Some(_), None) => return needs("user", "password_file"),
            (None, Some(_)) => return needs("password_file", "user"),
            (Some(name), Some(file)) => {
                let path = folder.join(file);
                let wrong = |problem| wrong("password_file", problem);
                secret(&path).map_err(wrong)?;
                let text = text_of(&path).map_err(|error| wrong(crate::chain(&error)))?;
                let text = Zeroizing::new(text);
                // An editor ends a line; nobody means that.
                let password = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
                if password.is_empty() {
                    return Err(wrong(format!("{} is empty", path.display())));
                }
                Some((name.to_owned(), password))
            }
        };
        Ok(EtcdAccess { tls, user })
    }
}

/// Whether a file is nobody else's to read. One that is not there is told by who reads it.
fn secret(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(there) if there.permissions().mode() & 0o007 != 0 => Err(format!(
            "{0} can be read by everybody: chmod o= {0}",
            path.display()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n";

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, mode) in [
            ("ca.pem", CERTIFICATE, 0o644),
            ("own.pem", CERTIFICATE, 0o644),
            ("own.key", "-----BEGIN PRIVATE KEY-----\nxyzzy", 0o640),
            ("open.key", "-----BEGIN PRIVATE KEY-----\nxyzzy", 0o644),
            ("password", "hunter2\n", 0o600),
            ("open", "hunter2\n", 0o644),
            ("empty", "\n", 0o600),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        folder
    }

    /// Reads `ca`, `certificate`, `key`, `server_name`, `user`, `password_file`; "" for none.
    fn read(said: [&str; 6]) -> Result<EtcdAccess, String> {
        let folder = folder();
        let paths = said.map(PathBuf::from);
        let [ca, certificate, key, server_name, user, password_file] =
            [0, 1, 2, 3, 4, 5].map(|at| Some(at).filter(|at| !said[*at].is_empty()));
        let keys = EtcdKeys {
            prefix: "etcd.",
            ca: ca.map(|at| &paths[at]),
            certificate: certificate.map(|at| &paths[at]),
            key: key.map(|at| &paths[at]),
            server_name: server_name.map(|at| said[at]),
            user: user.map(|at| said[at]),
            password_file: password_file.map(|at| &paths[at]),
        };
        let read = keys.read(&folder.path().join("config.toml"));
        read.map_err(|error| crate::chain(&error))
    }

    #[test]
    fn everything_is_read_and_nothing_secret_is_shown() {
        let all = [
            "ca.pem",
            "own.pem",
            "own.key",
            "etcd.example",
            "node",
            "password",
        ];
        let access = read(all).unwrap();
        let (name, password) = access.user.clone().unwrap();
        assert_eq!((name.as_str(), password.as_str()), ("node", "hunter2"));
        let tls = access.tls.clone().unwrap();
        assert_eq!(tls.ca, CERTIFICATE.as_bytes());
        assert!(tls.client.is_some() && tls.server_name.is_some());
        let shown = format!("{access:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("120, 121"),
            "{shown}"
        );
        let none = read([""; 6]).unwrap();
        assert!(none.tls.is_none() && none.user.is_none());
    }

    #[test]
    fn what_makes_no_sense_is_said_with_its_key() {
        for (said, parts) in [
            (
                ["ca.pem", "own.pem", "", "", "", ""],
                ["etcd.certificate", "etcd.key is missing"],
            ),
            (
                ["ca.pem", "", "own.key", "", "", ""],
                ["etcd.key", "etcd.certificate is missing"],
            ),
            (
                ["", "own.pem", "own.key", "", "", ""],
                ["etcd.certificate", "etcd.ca is missing"],
            ),
            (
                ["", "", "", "a.example", "", ""],
                ["etcd.server_name", "etcd.ca is missing"],
            ),
            (["none", "", "", "", "", ""], ["etcd.ca", "No such file"]),
            (
                ["own.key", "", "", "", "", ""],
                ["etcd.ca", "no CERTIFICATE"],
            ),
            (
                ["ca.pem", "own.pem", "ca.pem", "", "", ""],
                ["etcd.key", "by everybody"],
            ),
            (
                ["ca.pem", "own.pem", "open.key", "", "", ""],
                ["etcd.key", "chmod"],
            ),
            (
                ["", "", "", "", "node", ""],
                ["etcd.user", "etcd.password_file is missing"],
            ),
            (
                ["", "", "", "", "", "password"],
                ["etcd.password_file", "etcd.user is missing"],
            ),
            (
                ["", "", "", "", "node", "open"],
                ["etcd.password_file", "by everybody"],
            ),
            (
                ["", "", "", "", "node", "empty"],
                ["etcd.password_file", "is empty"],
            ),
            (
                ["", "", "", "", "node", "none"],
                ["etcd.password_file", "No such file"],
            ),
        ] {
            let error = read(said).unwrap_err();
            for part in parts.into_iter().chain(["config.toml"]) {
                assert!(error.contains(part), "{said:?}: {part} in {error}");
            }
            assert!(
                !error.contains("hunter2") && !error.contains("xyzzy"),
                "{error}"
            );
        }
    }
}
