//! Reads a provider's OpenVPN profile and says what is known of it, or why it is refused.
//!
//! `cargo run --example openvpn_check -- FILE` checks a file; without one, two samples.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::path::Path;

use vpn_tun::openvpn::Profile;

/// As providers hand it out.
const GOOD: &str = "\
client
dev tun
proto udp
remote uk.provider.example 1194
remote uk2.provider.example 443
auth-user-pass
<ca>
-----BEGIN CERTIFICATE-----
-----END CERTIFICATE-----
</ca>
";

/// It would run a program as root as soon as it is connected.
const BAD: &str = "client\nremote vpn.example 1194\nsetenv opt \"up\" /tmp/x\n";

fn report(profile: &Profile) {
    println!("servers: {}", profile.remotes().join(", "));
    let password = profile.asks_password();
    println!("user and password have to be given: {password}");
    match profile.mtu() {
        Some(mtu) => println!("mtu: {mtu}"),
        None => println!("mtu: what the server pushes"),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(path) = std::env::args_os().nth(1) {
        report(&Profile::read(Path::new(&path))?);
        return Ok(());
    }
    for (name, text) in [("good.ovpn", GOOD), ("bad.ovpn", BAD)] {
        println!("-- {name}");
        match Profile::parse(text.as_bytes(), Path::new("/etc/vpn")) {
            Ok(profile) => report(&profile),
            Err(error) => println!("refused: {error}"),
        }
    }
    Ok(())
}
