//! A member of a mesh, as its file says it and as it tells of itself: for the example `mesh`, and for a
//! daemon that has a mesh among its tunnels.

mod inbound;
mod member;
mod report;
mod value;

use std::path::{Path, PathBuf};

use vpn_p2p::mesh::Identity;
use vpn_p2p::mesh::wire::Token;
use zeroize::Zeroizing;

pub use inbound::{Entry, Inbound, Named, Port, Rule, Word, numbered};
pub use member::{Hub, Member, Peer, Place, interface};
pub use report::{Configured, HubReport, PeerReport, Report};
pub use value::{Address, Key, Way};

use crate::file::FileError;

/// Longest path of a socket: what `sockaddr_un` has room for, without the final NUL.
const MAX_SOCKET_PATH: usize = 107;

/// Longest token, in bytes.
const MAX_TOKEN: usize = 256;

/// A path of a file is relative to the folder of the configuration.
pub fn beside(config: &Path, path: &mut PathBuf) {
    *path = config.parent().unwrap_or(Path::new("")).join(&path);
}

/// Refuses a path that is too long for a socket.
///
/// # Errors
///
/// [`FileError::Config`].
pub fn check_socket(config: &Path, socket: &Path) -> Result<(), FileError> {
    if socket.as_os_str().len() > MAX_SOCKET_PATH {
        let problem = format!("longer than {MAX_SOCKET_PATH} bytes, which is all a socket may");
        return Err(FileError::config(config, "control", problem));
    }
    Ok(())
}

/// Refuses what is no name of an interface.
///
/// # Errors
///
/// [`FileError::Config`].
pub fn check_interface(config: &Path, key: &str, name: &str) -> Result<(), FileError> {
    vpn_tun::InterfaceName::new(name)
        .map(drop)
        .map_err(|error| FileError::config(config, key, error.to_string()))
}

/// Refuses what is no name of a node.
///
/// # Errors
///
/// [`FileError::Config`].
pub fn check_name(config: &Path, key: &str, name: &str) -> Result<(), FileError> {
    if vpn_p2p::mesh::record::valid_name(name) {
        return Ok(());
    }
    let problem = "a name has up to 63 letters, digits, '-', '_' and '.'";
    Err(FileError::config(config, key, problem))
}

/// The identity of a file that its owner alone can read.
///
/// # Errors
///
/// [`FileError::Config`].
pub fn identity(config: &Path, key: &Path) -> Result<Identity, FileError> {
    Identity::read(key).map_err(|error| {
        let cause = crate::chain(&error);
        FileError::config(config, "key", cause)
    })
}

/// The token of a file, without what is around it.
///
/// # Errors
///
/// [`FileError::Config`].
pub fn token(config: &Path, path: Option<&Path>) -> Result<Option<Token>, FileError> {
    let Some(path) = path else { return Ok(None) };
    let wrong = |problem| Err(FileError::config(config, "token_file", problem));
    let text = match crate::file::text_of(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) => return wrong(crate::chain(&error)),
    };
    let token = text.trim();
    if token.is_empty() || token.len() > MAX_TOKEN {
        let path = path.display();
        return wrong(format!("{path}: a token has 1 to {MAX_TOKEN} bytes"));
    }
    Ok(Some(Token(Zeroizing::new(token.to_owned()))))
}
