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
//! 1. a rule that names an owner beats one that does not (user and executable rank alike);
//! 2. then the longest destination prefix (`0.0.0.0/0` is longer than no destination);
//! 3. then a rule with ports beats one without, and a narrower range a wider one;
//! 4. then a rule with a protocol beats one without;
//! 5. then the newest, that is the larger id.
//!
//! If none matches, the default decides.
//!
//! # Fail closed
//!
//! A rule that cannot be carried out (it names a tunnel that does not exist, or
//! [`Direct`](vpn_core::Action::Direct), which is not built) *blocks* what it matches and is
//! listed in [`problems`](CompiledRules::problems): it never lets the next rule have the flow. A
//! flow whose owner is unknown is blocked as soon as any rule with an owner could be meant.
//! Before the first rules were loaded, everything is blocked.

mod cache;
mod compile;
mod explain;
#[cfg(feature = "tokio")]
mod feed;
mod table;
#[cfg(test)]
mod tests;

pub use cache::{RuleCache, RuleReader, RuleStats};
pub use compile::{CompiledRules, Decision, MAX_RULES, RuleError, Target};
pub use explain::{Candidate, Explanation};
#[cfg(feature = "tokio")]
pub use feed::{Compile, FeedStatus, LOAD_DEADLINE, REFRESH_EVERY, RuleFeed, run_rule_source};
