//! `mesh keygen` and `mesh pubkey`.

use std::io::{Read as _, stdin};
use std::path::Path;

use vpn_examples::print;
use vpn_p2p::mesh::Identity;
use vpn_p2p::mesh::identity::peer_to_base64;
use zeroize::Zeroizing;

use crate::error::Error;

/// Most bytes of a key that standard input may hold.
const MAX_KEY: u64 = 1024;

/// Makes a key. The public one is on standard output if the secret one is in a file.
pub(crate) fn keygen(out: Option<&Path>) -> Result<(), Error> {
    let identity = Identity::generate()?;
    match out {
        Some(path) => {
            identity.create(path)?;
            print(&format!("{}\n", peer_to_base64(identity.id())));
        }
        None => {
            print(&format!("{}\n", *identity.reveal_base64()));
            eprintln!("public key: {}", peer_to_base64(identity.id()));
        }
    }
    Ok(())
}

/// Prints the public key.
pub(crate) fn pubkey(key: Option<&Path>) -> Result<(), Error> {
    let identity = match key {
        Some(path) => Identity::read(path)?,
        None => {
            let mut text = Zeroizing::new(String::new());
            stdin()
                .take(MAX_KEY)
                .read_to_string(&mut text)
                .map_err(Error::path(Path::new("standard input")))?;
            Identity::from_base64(&text)?
        }
    };
    print(&format!("{}\n", peer_to_base64(identity.id())));
    Ok(())
}
