//! Who a node is: an Ed25519 key, read from a file that only its owner can read.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use vpn_core::PeerId;
use zeroize::Zeroizing;

/// Bytes of a signature (RFC 8032 §5.1.6).
pub const SIGNATURE: usize = 64;

/// Why there is no identity. Says nothing about the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("{path}: cannot read or write the key", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// Others may read the file. `chmod 600` it; if somebody else may have done so, make a new key.
    #[error("{path}: others may read it (mode {mode:o}); chmod 600", path = path.display())]
    Readable {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no key.
    #[error("not a key: 44 characters of base64 for 32 bytes are expected")]
    Key,
    /// The system has no random numbers.
    #[error("the system has no random numbers")]
    Random(#[source] std::io::Error),
}

/// A node's secret Ed25519 key. Wiped from memory when dropped; `Debug` shows the public part only.
#[derive(Clone)]
pub struct Identity(SigningKey);

impl Identity {
    /// A new one, from the system's random numbers.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Random`].
    pub fn generate() -> Result<Self, IdentityError> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret)
            .map_err(|cause| IdentityError::Random(std::io::Error::other(cause)))?;
        Ok(Self::from_bytes(&secret))
    }

    /// The identity with this secret.
    pub fn from_bytes(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// Reads base64.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Key`].
    pub fn from_base64(text: &str) -> Result<Self, IdentityError> {
        let bytes = Zeroizing::new(decode(text.trim()).ok_or(IdentityError::Key)?);
        Ok(Self::from_bytes(&bytes))
    }

    /// Reads a file made by [`create`](Self::create).
    ///
    /// # Errors
    ///
    /// [`IdentityError`], also where others than its owner may read the file.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let path = path.as_ref();
        let file = |cause| IdentityError::File {
            path: path.to_owned(),
            cause,
        };
        let mode = std::fs::metadata(path).map_err(file)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Readable {
                path: path.to_owned(),
                mode,
            });
        }
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(file)?);
        Self::from_base64(&text)
    }

    /// Writes it to a new file of mode 0600; one that is there is left alone.
    ///
    /// # Errors
    ///
    /// [`IdentityError::File`].
    pub fn create(&self, path: impl AsRef<Path>) -> Result<(), IdentityError> {
        let path = path.as_ref();
        let write = || {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            writeln!(file, "{}", *self.reveal_base64())
        };
        write().map_err(|cause| IdentityError::File {
            path: path.to_owned(),
            cause,
        })
    }

    /// The secret in base64, to be written to a file. Keep it out of logs.
    pub fn reveal_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.reveal_bytes().as_slice()))
    }

    /// The secret, for who makes certificates of it. Keep it out of logs.
    pub(crate) fn reveal_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public part: who this node is for others.
    pub fn id(&self) -> PeerId {
        PeerId(self.0.verifying_key().to_bytes())
    }

    /// Signs these bytes.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.id())
    }
}

/// Whether `peer` signed these bytes. Strict: a signature has one form, and keys of small order
/// sign nothing (RFC 8032 §5.1.7, §8.8).
pub fn verify(peer: PeerId, message: &[u8], signature: &[u8]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(&peer.0) else {
        return false;
    };
    Signature::from_slice(signature)
        .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok())
}

/// A peer's key as people copy it: 44 characters of base64.
pub fn peer_to_base64(peer: PeerId) -> String {
    STANDARD.encode(peer.0)
}

/// Reads what [`peer_to_base64`] writes.
///
/// # Errors
///
/// [`IdentityError::Key`], also for 32 bytes that are no point of the curve.
pub fn peer_from_base64(text: &str) -> Result<PeerId, IdentityError> {
    let bytes = decode(text.trim()).ok_or(IdentityError::Key)?;
    VerifyingKey::from_bytes(&bytes).map_err(|_| IdentityError::Key)?;
    Ok(PeerId(bytes))
}

fn decode(text: &str) -> Option<[u8; 32]> {
    // 44 characters can stand for up to 33 bytes; one more than fits is an error of the decoder.
    let mut decoded = Zeroizing::new([0; 33]);
    match STANDARD.decode_slice(text, &mut *decoded) {
        Ok(32) => decoded.first_chunk().copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written_and_shown_by_its_public_part_only() {
        let identity = Identity::generate().unwrap();
        let again = Identity::from_base64(&identity.reveal_base64()).unwrap();
        assert_eq!(identity.id(), again.id());
        let shown = format!("{identity:?}");
        assert!(
            !shown.contains(identity.reveal_base64().as_str()),
            "{shown}"
        );
        let text = peer_to_base64(identity.id());
        assert_eq!(peer_from_base64(&text).unwrap(), identity.id());
        for wrong in ["", "x", &text[..43], "!!!!", &format!("{text}=")] {
            assert!(Identity::from_base64(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn its_file_is_its_owners_alone() {
        let folder = std::env::temp_dir().join(format!("mesh-key-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("key");
        let _ = std::fs::remove_file(&path);
        let identity = Identity::generate().unwrap();
        identity.create(&path).unwrap();
        assert_eq!(Identity::read(&path).unwrap().id(), identity.id());
        assert!(identity.create(&path).is_err(), "never overwritten");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Identity::read(&path),
            Err(IdentityError::Readable { .. })
        ));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_signature_is_of_one_key_and_one_message() {
        let (identity, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let signature = identity.sign(b"message");
        assert!(verify(identity.id(), b"message", &signature));
        assert!(!verify(other.id(), b"message", &signature));
        assert!(!verify(identity.id(), b"massage", &signature));
        assert!(!verify(identity.id(), b"message", &signature[..63]));
        assert!(!verify(PeerId([0; 32]), b"message", &signature));
    }
}
