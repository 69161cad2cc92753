//! Keys: 32 bytes, written in base64. Secret ones are wiped on drop and never shown.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gotatun::x25519;
use zeroize::Zeroizing;

/// Why text is not a key. Says nothing about the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a key: 44 characters of base64 for 32 bytes are expected")]
pub struct KeyError;

fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut bytes = Zeroizing::new([0; 32]);
    // 44 characters can stand for up to 33 bytes; one more than fits is an error of the decoder.
    let mut decoded = Zeroizing::new([0; 33]);
    match STANDARD.decode_slice(text, &mut *decoded) {
        Ok(32) => bytes.copy_from_slice(&decoded[..32]),
        _ => return Err(KeyError),
    }
    Ok(bytes)
}

/// A peer's public key; it names the peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads base64.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if it is not base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| Self(*bytes))
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    /// Base64, as in a wg-quick file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! secret {
    ($(#[doc = $doc:literal])+ $name:ident) => {
        $(#[doc = $doc])+
        ///
        /// Wiped from memory when dropped. `Debug` shows its name only.
        #[derive(Clone)]
        pub struct $name(Zeroizing<[u8; 32]>);

        impl $name {
            /// The key with these bytes.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(Zeroizing::new(bytes))
            }

            /// Reads base64.
            ///
            /// # Errors
            ///
            /// [`KeyError`] if it is not base64 of 32 bytes.
            pub fn from_base64(text: &str) -> Result<Self, KeyError> {
                decode(text).map(Self)
            }

            /// A new key from the system's random numbers.
            ///
            /// # Errors
            ///
            /// What the system says if it has none.
            pub fn generate() -> std::io::Result<Self> {
                let mut bytes = Zeroizing::new([0; 32]);
                getrandom::fill(&mut *bytes).map_err(std::io::Error::other)?;
                Ok(Self(bytes))
            }

            /// The key in base64, to be written to a file. Keep it out of logs.
            pub fn reveal_base64(&self) -> Zeroizing<String> {
                Zeroizing::new(STANDARD.encode(*self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    };
}

secret! {
    /// An X25519 private key.
    PrivateKey
}
secret! {
    /// A key both ends know beforehand, mixed into every handshake.
    PresharedKey
}

impl PresharedKey {
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PrivateKey {
    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519::PublicKey::from(&self.to_secret()).to_bytes())
    }

    pub(crate) fn to_secret(&self) -> x25519::StaticSecret {
        x25519::StaticSecret::from(*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_round_trip_and_nothing_else() {
        let key = PrivateKey::generate().unwrap();
        let text = key.reveal_base64();
        assert_eq!(
            PrivateKey::from_base64(&text).unwrap().public(),
            key.public()
        );
        for bad in ["", "AAAA", &text[..43], &format!("{}A", *text)] {
            assert_eq!(PublicKey::from_base64(bad), Err(KeyError), "{bad:?}");
        }
        // 33 bytes also take 44 characters.
        assert_eq!(PublicKey::from_base64(&"A".repeat(44)), Err(KeyError));
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = PrivateKey::from_bytes([7; 32]);
        let shown = format!("{key:?}");
        assert!(!shown.contains(&*key.reveal_base64()));
        assert!(!shown.contains('7'));
    }
}
