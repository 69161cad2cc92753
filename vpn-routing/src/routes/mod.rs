//! Decides which tunnel a destination lies behind, as far as tunnels say so and policy believes it.
//!
//! The other end of a tunnel may advertise networks: a provider's pushed routes, the `AllowedIPs` of
//! a profile. That is a claim, and whoever sends it would like to have the traffic. So each tunnel
//! has a [`RoutePolicy`], by default [`None`](RoutePolicy::None); what it does not admit is refused
//! and reported, and decides nothing.
//!
//! # Precedence
//!
//! 1. Any rule beats any route: a pushed default route moves no flow that a rule names.
//! 2. Of admitted routes the longest prefix wins; of equal ones that of the tunnel that was added
//!    first, and the [conflict](RouteConflict) is reported.
//! 3. Routes beat the default action.
//!
//! A route stays as long as its tunnel, also while that is down: its traffic goes nowhere then,
//! rather than where a shorter route or the default leads.

mod policy;
mod table;
#[cfg(test)]
mod tests;

pub use policy::{RoutePolicy, RouteRefusal, WIDEST_V4, WIDEST_V6};
pub use table::{
    MAX_REPORTED, MAX_ROUTES, MAX_ROUTES_OF_TUNNEL, RouteConflict, RouteReport, RouteTable,
};
