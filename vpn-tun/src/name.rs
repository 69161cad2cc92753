//! Decides what an interface may be called.

use std::fmt;
use std::str::FromStr;

/// Longest interface name in bytes: Linux `IFNAMSIZ` without the closing NUL.
pub const MAX_LEN: usize = 15;

/// A name the kernel accepts for an interface.
///
/// ```
/// use vpn_tun::InterfaceName;
/// assert!("vpn0".parse::<InterfaceName>().is_ok());
/// assert!("vpn 0".parse::<InterfaceName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName(String);

/// Why a name is not an interface name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No name, or more than [`MAX_LEN`] bytes.
    #[error("an interface name has 1 to {MAX_LEN} bytes, {name:?} has {}", name.len())]
    Length {
        /// The name.
        name: String,
    },
    /// A character the kernel refuses, or would expand (`%`).
    #[error("an interface name may not contain {character:?}: {name:?}")]
    Character {
        /// The name.
        name: String,
        /// The first such character.
        character: char,
    },
    /// A name with a meaning of its own.
    #[error("{name:?} is reserved and cannot name an interface")]
    Reserved {
        /// The name.
        name: String,
    },
}

impl InterfaceName {
    /// Checks a name: 1 to [`MAX_LEN`] bytes, as the kernel takes them.
    ///
    /// # Errors
    ///
    /// [`NameError`], which says what is wrong with it.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        if name.is_empty() || name.len() > MAX_LEN {
            return Err(NameError::Length { name });
        }
        // '/' and ':' and white space are refused by dev_valid_name(); '%' is a template; a NUL
        // would cut the name.
        let bad = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
        if let Some(character) = name.chars().find(|c| bad(*c)) {
            return Err(NameError::Character { name, character });
        }
        // "all" and "default" name settings under /proc/sys/net, not an interface.
        if matches!(name.as_str(), "." | ".." | "all" | "default") {
            return Err(NameError::Reserved { name });
        }
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = NameError;
    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl AsRef<str> for InterfaceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_kernel_accepts() {
        for name in ["a", "vpn0", "tun-0_x.1", "exactly15bytes_"] {
            assert_eq!(InterfaceName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn refuses_the_rest() {
        for name in ["", "sixteen_bytes_xx", "ééééééé8x"] {
            assert!(
                matches!(InterfaceName::new(name), Err(NameError::Length { .. })),
                "{name}"
            );
        }
        for name in ["a/b", "a b", "a\tb", "a:b", "tun%d", "a\0b", "a\u{a0}b"] {
            assert!(
                matches!(InterfaceName::new(name), Err(NameError::Character { .. })),
                "{name}"
            );
        }
        for name in [".", "..", "all", "default"] {
            assert!(
                matches!(InterfaceName::new(name), Err(NameError::Reserved { .. })),
                "{name}"
            );
        }
    }
}
