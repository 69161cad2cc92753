//! The configuration files: read, checked, with every default written here.

mod hub;
mod member;
mod value;

use std::path::{Path, PathBuf};

use vpn_p2p::mesh::Identity;
use vpn_p2p::mesh::wire::Token;
use zeroize::Zeroizing;

pub(crate) use hub::{AsMember, Hub};
pub(crate) use member::{Member, Place};
pub(crate) use value::{Address, Inbound, Key, Way};

use crate::error::Error;

/// Longest path of a socket: what `sockaddr_un` has room for, without the final NUL.
const MAX_SOCKET_PATH: usize = 107;

/// Longest token, in bytes.
const MAX_TOKEN: usize = 256;

/// A path of a file is relative to the folder of the configuration.
fn beside(config: &Path, path: &mut PathBuf) {
    *path = config.parent().unwrap_or(Path::new("")).join(&path);
}

fn check_socket(config: &Path, socket: &Path) -> Result<(), Error> {
    if socket.as_os_str().len() > MAX_SOCKET_PATH {
        let problem = format!("longer than {MAX_SOCKET_PATH} bytes, which is all a socket may");
        return Err(Error::config(config, "control", problem));
    }
    Ok(())
}

fn check_interface(config: &Path, key: &str, name: &str) -> Result<(), Error> {
    vpn_tun::InterfaceName::new(name)
        .map(drop)
        .map_err(|error| Error::config(config, key, error.to_string()))
}

fn check_name(config: &Path, key: &str, name: &str) -> Result<(), Error> {
    if vpn_p2p::mesh::record::valid_name(name) {
        return Ok(());
    }
    let problem = "a name has up to 63 letters, digits, '-', '_' and '.'";
    Err(Error::config(config, key, problem))
}

/// The identity of a file that its owner alone can read.
fn identity(config: &Path, key: &Path) -> Result<Identity, Error> {
    Identity::read(key).map_err(|error| {
        let cause = vpn_examples::chain(&error);
        Error::config(config, "key", cause)
    })
}

/// The token of a file, without what is around it.
fn token(config: &Path, path: Option<&Path>) -> Result<Option<Token>, Error> {
    let Some(path) = path else { return Ok(None) };
    let wrong = |problem| Err(Error::config(config, "token_file", problem));
    let text = match vpn_examples::file::text_of(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) => return wrong(vpn_examples::chain(&error)),
    };
    let token = text.trim();
    if token.is_empty() || token.len() > MAX_TOKEN {
        let path = path.display();
        return wrong(format!("{path}: a token has 1 to {MAX_TOKEN} bytes"));
    }
    Ok(Some(Token(Zeroizing::new(token.to_owned()))))
}
