//! `libp2p-node keygen`, `pubkey` and `certify`.

use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use vpn_examples::print;
use vpn_p2p::identity::{Identity, peer_from_base64, peer_to_base64};
use vpn_p2p::libp2p::Certificate;
use vpn_p2p::libp2p::key::to_libp2p;

use crate::error::Error;

fn show(identity: &Identity) {
    let key = peer_to_base64(identity.id());
    let name = to_libp2p(identity.id()).map_or_else(String::new, |name| name.to_string());
    print(&format!("{key}\n{name}\n"));
}

/// Makes a key in a new file.
pub(crate) fn keygen(out: &Path) -> Result<(), Error> {
    let identity = Identity::generate()?;
    identity.create(out)?;
    show(&identity);
    Ok(())
}

/// Prints the public key.
pub(crate) fn pubkey(key: &Path) -> Result<(), Error> {
    show(&Identity::read(key)?);
    Ok(())
}

/// Prints a certificate.
pub(crate) fn certify(
    network: &Path,
    member: &str,
    days: u32,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    let network = Identity::read(network)?;
    let member = peer_from_base64(member)
        .map_err(|error| Error::Argument(format!("--member {member}: {error}")))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let until = now.unwrap_or_default().as_secs() + u64::from(days) * 24 * 60 * 60;
    let certificate = Certificate::issue(&network, member, until, addresses);
    print(&format!("{certificate}\n"));
    Ok(())
}
