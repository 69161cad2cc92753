//! Touches the file of known peers: one address with its peer per line, readable by its owner only.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Lines that are read and written: some dozens of nodes are enough to find all others.
pub(super) const MAX_KNOWN: usize = 256;

/// Bytes that are read: the longest lines there are, all of them.
const MAX_BYTES: u64 = 256 * 512;

/// The peers of a file, none if there is no file. What is no address is left out: a node that finds
/// half of its file can start all the same.
pub(super) fn read(path: &Path) -> io::Result<Vec<(PeerId, Multiaddr)>> {
    let mut text = Vec::new();
    match fs::File::open(path) {
        Ok(file) => file.take(MAX_BYTES).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&text);
    let known = text
        .lines()
        .filter_map(|line| named(line.trim().parse().ok()?));
    Ok(known.take(MAX_KNOWN).collect())
}

/// An address that ends with its peer's name, in two.
pub(super) fn named(mut address: Multiaddr) -> Option<(PeerId, Multiaddr)> {
    match address.pop()? {
        Protocol::P2p(peer) => Some((peer, address)),
        _ => None,
    }
}

/// Replaces the file in one step.
pub(super) fn write(path: &Path, known: &[(PeerId, Multiaddr)]) -> io::Result<()> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    for (peer, address) in known.iter().take(MAX_KNOWN) {
        writeln!(file, "{address}/p2p/{peer}")?;
    }
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_bounded_and_its_owners_alone() {
        let folder = std::env::temp_dir().join(format!("libp2p-known-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("known-peers");
        assert_eq!(read(&path).unwrap(), []);
        let address: Multiaddr = "/ip4/192.0.2.1/udp/1/quic-v1".parse().unwrap();
        let all: Vec<_> = (0..MAX_KNOWN + 9)
            .map(|_| (PeerId::random(), address.clone()))
            .collect();
        write(&path, &all).unwrap();
        assert_eq!(read(&path).unwrap(), all[..MAX_KNOWN]);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(
            &path,
            format!("nonsense\n{address}\n{address}/p2p/{}\n\u{0}", all[0].0),
        )
        .unwrap();
        assert_eq!(read(&path).unwrap(), all[..1]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
