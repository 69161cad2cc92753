//! What a rule says, and where rules come from.
//!
//! | Kind | Which packets |
//! |---|---|
//! | [`Rule`] | flows that start here: which tunnel they use |
//! | [`InboundRule`] | flows that start behind a tunnel: which are let in |
//! | [`FilterRule`] | any flow, after it was decided: what may not pass all the same |

mod action;
mod filter;
mod inbound;
mod matches;
mod ports;
mod source;
mod text;

use std::fmt;

use crate::id::RuleId;

pub use action::{Action, OnChange, OnDown};
pub use filter::{FilterAction, FilterDirection, FilterRule, IcmpMatch};
pub use inbound::InboundRule;
pub use matches::{Contradiction, OwnerMatch, RuleMatch};
pub use ports::{PortRange, RuleProtocol};
pub use source::{RuleSnapshot, RuleSource, RuleSourceError};
pub use text::{RuleTextError, parse_cgroup, parse_prefix};

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Its identity; a larger one is newer and wins ties.
    pub id: RuleId,
    /// What it matches.
    pub matches: RuleMatch,
    /// What happens then.
    pub action: Action,
    /// What live flows do when their decision changes. Default keep.
    pub on_change: OnChange,
    /// What happens while the tunnel, or every tunnel of the group, is down. Default block.
    pub on_down: OnDown,
}

impl Rule {
    /// A rule whose live flows are kept on a change, and which blocks while its tunnel is down.
    pub const fn new(id: RuleId, matches: RuleMatch, action: Action) -> Self {
        Self {
            id,
            matches,
            action,
            on_change: OnChange::Keep,
            on_down: OnDown::Block,
        }
    }

    /// The same rule with another answer to "what of live flows?".
    #[must_use]
    pub fn on_change(mut self, on_change: OnChange) -> Self {
        self.on_change = on_change;
        self
    }

    /// The same rule with another answer to "what while the tunnel is down?".
    #[must_use]
    pub fn on_down(mut self, on_down: OnDown) -> Self {
        self.on_down = on_down;
        self
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.id, self.matches, self.action)?;
        if self.on_change != OnChange::Keep {
            write!(f, ", on change {}", self.on_change)?;
        }
        if self.on_down != OnDown::Block {
            write!(f, ", while down {}", self.on_down)?;
        }
        Ok(())
    }
}
