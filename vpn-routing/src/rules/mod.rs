//! Decides which tunnel a flow uses: rules compiled for lookup, and the cache that swaps them.
//!
//! A [`RuleSnapshot`](vpn_core::RuleSnapshot) says what somebody wants; [`CompiledRules`] answers
//! it per flow, and [`RuleCache`] swaps compiled rules whole, so that a reader sees either all of
//! the old ones or all of the new ones.
//!
//! # Precedence
//!
//! Of all rules that match a flow, one decides:
//!
//! 1. a rule that names an owner beats one that does not (all kinds of owners rank alike, but of
//!    nested cgroups the nearest wins);
//! 2. then the longest source prefix, an input interface counting as its prefix;
//! 3. then a rule with a domain beats one without: more labels beat fewer, and of one domain the
//!    name itself beats `*.name`, which beats `.name`;
//! 4. then the longest destination prefix (`0.0.0.0/0` is longer than no destination);
//! 5. then a rule with ports beats one without, and a narrower range a wider one;
//! 6. then a rule with a protocol beats one without;
//! 7. then a rule with a family beats one without;
//! 8. then the newest (see [`RuleId`](vpn_core::RuleId)).
//!
//! If none matches, the default decides.
//!
//! # Domains
//!
//! A rule with a domain matches a destination that was looked up under such a name, in answers
//! that came through the tunnel the rule leads to; and it matches the query itself, so that the
//! name is looked up through that tunnel in the first place. [`Domains`] says what is known.
//!
//! # Fail closed
//!
//! A rule that cannot be carried out (it names a tunnel that does not exist, or
//! [`Direct`](vpn_core::Action::Direct) where the host offers none) *blocks* what it matches and
//! is listed in [`problems`](CompiledRules::problems): it never lets the next rule have the flow.
//! A flow whose owner is unknown is blocked as soon as any rule with an owner could be meant,
//! unless a rule without an owner names its source: that is for traffic that only passes through
//! this host, which no socket here owns.
//! Before the first rules were loaded, everything is blocked.

mod bypass;
mod cache;
mod compile;
mod decide;
mod entries;
mod entry;
mod error;
mod explain;
#[cfg(feature = "tokio")]
mod feed;
mod inbound;
mod names;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod who;

pub use bypass::MAX_BYPASS;
pub use cache::{RuleCache, RuleReader, RuleStats};
pub use compile::{CompiledRules, MAX_RULES};
pub use decide::{Decision, Target};
pub use error::RuleError;
pub use explain::{Candidate, Explanation};
#[cfg(feature = "tokio")]
pub use feed::{Compile, FeedStatus, LOAD_DEADLINE, REFRESH_EVERY, RuleFeed, run_rule_source};
pub use inbound::{Admitted, InboundRules, MAX_INBOUND_RULES};
pub use names::{Asked, Domains, Names, NoDomains};
