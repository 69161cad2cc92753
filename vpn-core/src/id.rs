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

/// A group of tunnels of one engine. It belongs to the group's name while the engine lives: rules
/// that were compiled before a change of groups lead to no other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(u16);

impl GroupId {
    /// The group with this number.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// Its number, usable as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group#{}", self.0)
    }
}

/// A rule, unique within its source. Ties between rules go to the newer one.
///
/// A rule that was added while the program runs is newer than every rule of a configuration file;
/// among those of one kind the larger number is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(pub u64);

/// Marks the rules of a configuration file.
const OF_FILE: u64 = 1 << 63;

impl RuleId {
    /// The rule at this place of a configuration file, counted from 1.
    pub const fn of_file(place: u32) -> Self {
        Self(OF_FILE | place as u64)
    }

    /// Its place in a configuration file, if it is of one.
    pub const fn place_in_file(self) -> Option<u32> {
        if self.0 & OF_FILE == 0 {
            None
        } else {
            Some(self.0 as u32)
        }
    }
}

impl Ord for RuleId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0 ^ OF_FILE).cmp(&(other.0 ^ OF_FILE))
    }
}

impl PartialOrd for RuleId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place_in_file() {
            Some(place) => write!(f, "file-rule#{place}"),
            None => write!(f, "rule#{}", self.0),
        }
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
