//! Reads a provider's wg-quick file and says what it means here, and what has no effect.
//!
//! `cargo run --example wg_quick_check -- FILE` checks a file; without one, a sample.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;

use vpn_p2p::WgQuick;
use vpn_p2p::wg_quick::{WarningKind, WgQuickError};

/// A file as providers hand it out. The keys are nobody's.
const SAMPLE: &str = "\
[Interface]
PrivateKey = AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
Address = 10.5.0.2/32, fd00::2/128  # the same for every customer
DNS = 10.5.0.1, provider.example
PostUp = iptables -A OUTPUT -j REJECT
Colour = blue

[Peer]
PublicKey = ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = uk.provider.example:51820
PersistentKeepalive = 25
";

fn report(config: &WgQuick) {
    let interface = &config.interface;
    let list = |items: Vec<String>| match items.is_empty() {
        true => "none".to_owned(),
        false => items.join(", "),
    };
    println!(
        "addresses: {}",
        list(
            interface
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect()
        )
    );
    println!(
        "resolvers: {}",
        list(interface.dns.iter().map(ToString::to_string).collect())
    );
    println!("MTU:       {}", config.mtu());
    for peer in &config.peers {
        let endpoint = peer.endpoint.as_ref().map(ToString::to_string);
        println!(
            "peer:      {} at {}",
            peer.public_key,
            endpoint.as_deref().unwrap_or("?")
        );
        println!(
            "  carries: {}",
            list(peer.allowed_ips.iter().map(ToString::to_string).collect())
        );
    }
    for warning in &config.warnings {
        println!("warning:   {warning}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(path) = std::env::args_os().nth(1) {
        report(&WgQuick::read(path)?);
        return Ok(());
    }
    let config = WgQuick::parse("sample.conf", SAMPLE)?;
    report(&config);
    assert_eq!(config.interface.addresses.len(), 2);
    assert_eq!(config.mtu(), WgQuick::DEFAULT_MTU);
    let kinds: Vec<WarningKind> = config.warnings.iter().map(|w| w.kind).collect();
    assert_eq!(kinds, [WarningKind::NotRun, WarningKind::Unknown]);
    // Keys are in no debug output.
    assert!(!format!("{config:?}").contains("AAECAwQF"));

    let broken = SAMPLE.replace("10.5.0.2/32", "10.5.0.2/99");
    let error: WgQuickError = match WgQuick::parse("broken.conf", &broken) {
        Ok(_) => return Err("a prefix of 99 bits was accepted".into()),
        Err(error) => error,
    };
    assert!(error.to_string().contains("broken.conf"), "{error}");
    println!("and a broken file: {error}");
    Ok(())
}
