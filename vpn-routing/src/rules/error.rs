//! What can be wrong with rules.

use vpn_core::RuleId;

use super::compile::MAX_RULES;

/// What is wrong with rules. At run time the rule that is named blocks what it matches.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The rule names a tunnel or group that does not exist. Correct the name, or add it.
    #[error("{rule}: there is no tunnel or group {tunnel:?}; correct the name or add it")]
    NoSuchTunnel {
        /// The rule.
        rule: RuleId,
        /// The name it gives.
        tunnel: String,
    },
    /// The inbound rule names a tunnel that does not exist. Correct the name, or add it.
    #[error("inbound {rule}: there is no tunnel {tunnel:?}; name a tunnel (a group is none)")]
    NoSuchTunnelOfInbound {
        /// The inbound rule.
        rule: RuleId,
        /// The name it gives.
        tunnel: String,
    },
    /// The filter rule names a tunnel or group that does not exist. Correct the name, or add it.
    #[error("filter {rule}: there is no tunnel or group {tunnel:?}; correct the name or add it")]
    NoSuchTunnelOfFilter {
        /// The filter rule.
        rule: RuleId,
        /// The name it gives.
        tunnel: String,
    },
    /// The rule names a group that does not exist. Correct the name, or add the group.
    #[error("{rule}: there is no group {group:?}; correct the name or add the group")]
    NoSuchGroup {
        /// The rule.
        rule: RuleId,
        /// The name it gives.
        group: String,
    },
    /// The rule names an interface that does not exist, or has no address. Correct the name, or
    /// name its prefix as the source.
    #[error(
        "{rule}: no interface {interface:?} with an address; correct it or name a source prefix"
    )]
    NoSuchInterface {
        /// The rule.
        rule: RuleId,
        /// The name it gives.
        interface: String,
    },
    /// The rule says direct, and this host offers no way past the tunnels. Name a tunnel or block,
    /// or register a direct tunnel.
    #[error("{rule}: direct is not available here; name a tunnel or block")]
    DirectUnavailable {
        /// The rule.
        rule: RuleId,
    },
    /// The ports of an inbound or filter rule make no sense. Correct them.
    #[error("{rule}: {what}; correct its ports")]
    BadPorts {
        /// The rule.
        rule: RuleId,
        /// What is wrong with them.
        what: &'static str,
    },
    /// The rule falls back to what it leads to anyway. Name another tunnel or group, or block.
    #[error("{rule}: it falls back to itself; name another tunnel or group, or block")]
    FallbackLoop {
        /// The rule.
        rule: RuleId,
    },
    /// The rule asks for something this version does not know. Update, or rewrite the rule.
    #[error("{rule}: {what} is not known to this version; update it or rewrite the rule")]
    Unsupported {
        /// The rule.
        rule: RuleId,
        /// What is not known.
        what: &'static str,
    },
    /// More rules of a kind that is looked at in order than there may be. None of the snapshot is
    /// used.
    #[error("{count} {what} rules are more than {most}; use prefixes and port ranges")]
    TooManyInOrder {
        /// Which kind.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// More rules than [`MAX_RULES`]. None of the snapshot is used.
    #[error(
        "{count} rules are more than {MAX_RULES}; use prefixes and port ranges to say it in fewer"
    )]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

impl RuleError {
    /// The rule of a snapshot's `rules` that is wrong; `None` if it is not one of them.
    pub const fn rule(&self) -> Option<RuleId> {
        match self {
            Self::NoSuchTunnel { rule, .. }
            | Self::NoSuchGroup { rule, .. }
            | Self::NoSuchInterface { rule, .. }
            | Self::DirectUnavailable { rule }
            | Self::FallbackLoop { rule }
            | Self::Unsupported { rule, .. } => Some(*rule),
            _ => None,
        }
    }
}
