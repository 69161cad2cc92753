//! Any text as a wg-quick file: refused with the line, or read without a secret in what is shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vpn_p2p::WgQuick;

fuzz_target!(|text: &str| {
    match WgQuick::parse("fuzz.conf", text) {
        Err(error) => {
            assert!(error.to_string().contains("fuzz.conf"), "{error}");
        }
        Ok(file) => {
            assert!(!file.peers.is_empty());
            assert!(file.mtu() >= 576);
            assert!(file.interface.addresses.len() <= text.len());
            let shown = format!("{file:?}");
            let secret = file.interface.private_key.reveal_base64();
            // A file may give a secret as a public key too; then it is shown as one.
            let public = file.peers.iter().map(|peer| peer.public_key.to_string());
            let published = public.clone().any(|key| key == *secret);
            assert!(
                published || !shown.contains(secret.as_str()),
                "a key in Debug"
            );
            for warning in &file.warnings {
                let told = warning.to_string();
                assert!(
                    published || !told.contains(secret.as_str()),
                    "a key in a warning"
                );
            }
        }
    }
});
