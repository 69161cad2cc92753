//! Identifiers. Newtypes, so that no bare integer crosses a module.

use std::fmt;

/// A tunnel of one engine: a small dense number, given in the order tunnels are added.
///
/// Ids are never reused while an engine lives, so a late packet cannot reach another tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelId(u16);

impl TunnelId {
    /// How many tunnels one engine can name.
    pub const MAX: usize = u16::MAX as usize;

    /// The tunnel with this number.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// Its number, usable as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tunnel#{}", self.0)
    }
}

/// A rule, unique within its source. Larger is newer: ties between rules go to the larger id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u64);

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule#{}", self.0)
    }
}

/// The number of a rule snapshot. Zero means that no rules were ever loaded ("cold").
///
/// A flow remembers the generation its decision was made under; one compare tells whether the
/// decision is current.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u32);

impl Generation {
    /// No rules yet.
    pub const COLD: Self = Self(0);

    /// The one after this; never [`COLD`](Self::COLD), also when the counter wraps.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.wrapping_add(1) {
            0 => Self(1),
            n => Self(n),
        }
    }

    /// Whether no rules were ever loaded.
    pub const fn is_cold(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_generation_is_not_cold() {
        assert_eq!(Generation(u32::MAX).next(), Generation(1));
        assert!(!Generation(u32::MAX).next().is_cold());
    }
}
