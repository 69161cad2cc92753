//! Decides which member of a group of tunnels a flow uses. Pure: time is an argument.
//!
//! A group is tunnels that stand for one another. A rule names the group; which of its members
//! carries a flow follows from where the members stand, from what was measured of them and, where
//! load is spread, from a hash of the flow. There is nothing random in it, so a flow is always
//! given the same member as long as the members stand as they do.
//!
//! | [`Policy`] | The member of a flow |
//! |---|---|
//! | [`Ordered`](Policy::Ordered) | the first that is in use |
//! | [`Latency`](Policy::Latency) | the one with the lowest round trip, with hysteresis |
//! | [`Weighted`](Policy::Weighted) | by the flow's hash, in proportion to weights |
//! | [`Hash`](Policy::Hash) | by the hash of its addresses or its owner |
//!
//! # Fail-over and fail-back
//!
//! A member that goes down is out of use at once. One that comes back is in use again only after
//! it was up for [`fail_back`](GroupConfig::fail_back) without a break, so a tunnel that flaps
//! moves its flows once, and not with every flap. If no member is in use, every member that is up
//! is at once: nobody waits while there is a way.
//!
//! A member that was not down before is in use as soon as it is up: when everything starts, the
//! first one is not kept waiting because the second answered sooner.
//!
//! If no member is up, the group *waits* on the one it would choose among those that are
//! connecting or dormant; if all are down, it has no choice, and the rule's
//! [`OnDown`](vpn_core::OnDown) decides.
//!
//! # What moves
//!
//! Load is spread by rendezvous hashing: each member draws a lot for each flow, and the longest
//! wins. A member that leaves moves only its own flows, and one that comes back only those that
//! become its own.

mod choose;
mod config;
mod state;
mod status;
#[cfg(test)]
mod tests;

pub use choose::Reason;
pub use config::{
    FAIL_BACK, GroupConfig, GroupError, HashBy, MAX_GROUPS, MAX_MEMBERS, Policy, TOLERANCE,
};
pub use state::{Choice, Group, Standing};
pub use status::{GroupStatus, MemberStatus};
