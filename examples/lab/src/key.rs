//! WireGuard keys for a lab.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x25519_dalek::{PublicKey, StaticSecret};

/// A private key and its public one.
pub struct KeyPair {
    secret: StaticSecret,
    public: PublicKey,
}

impl KeyPair {
    /// A fresh pair from the system's random numbers.
    pub fn generate() -> io::Result<Self> {
        let secret = StaticSecret::from(random()?);
        let public = PublicKey::from(&secret);
        Ok(Self { secret, public })
    }

    /// The private key as wg-quick files spell it.
    pub fn private_base64(&self) -> String {
        STANDARD.encode(self.secret.to_bytes())
    }

    /// The public key as wg-quick files spell it.
    pub fn public_base64(&self) -> String {
        STANDARD.encode(self.public.as_bytes())
    }
}

/// Only the public half.
impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("public", &self.public_base64())
            .finish_non_exhaustive()
    }
}

/// A fresh preshared key as wg-quick files spell it.
pub(crate) fn preshared_base64() -> io::Result<String> {
    Ok(STANDARD.encode(random()?))
}

fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
