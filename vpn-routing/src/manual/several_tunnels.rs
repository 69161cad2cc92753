//! Tunnels that stand in for one another: groups, fallbacks, tunnels on demand, advertised routes.
//!
//! # A group
//!
//! ```
//! use std::time::{Duration, Instant};
//! use vpn_routing::group::{GroupConfig, Policy};
//! use vpn_routing::{Router, RouterConfig};
//!
//! let now = Instant::now();
//! let mut router = Router::new(RouterConfig::default(), now);
//! let (uk, fr) = (router.add_tunnel("uk"), router.add_tunnel("fr"));
//! let members = [uk, fr].into_iter().flatten();
//! let group = GroupConfig::new("europe", members)
//!     .policy(Policy::Latency { tolerance: Duration::from_millis(20) })
//!     .fail_back(Duration::from_secs(30));
//! let ids = router.set_groups(now, vec![group])?;
//! assert_eq!(router.group_named("europe"), ids.first().copied());
//! # Ok::<(), vpn_routing::group::GroupError>(())
//! ```
//!
//! A rule then names it: [`Action::Group`](vpn_core::Action::Group). An engine has
//! `EngineHandle::set_groups`. Compile rules after groups were set: names become ids then. A group's
//! id belongs to its name, so rules in force go on to mean the same group when others come and go.
//!
//! | You want | Policy |
//! |---|---|
//! | one tunnel, and another if it fails | [`Ordered`](crate::group::Policy::Ordered) |
//! | the nearest server | [`Latency`](crate::group::Policy::Latency), with a tolerance above the jitter |
//! | load in given shares | [`Weighted`](crate::group::Policy::Weighted) |
//! | equal load, one address per site or per app | [`Hash`](crate::group::Policy::Hash) |
//!
//! How soon a dead server is noticed is the transport's business: WireGuard needs
//! `no_answer_after`, 15 s by default. From then on no flow waits.
//!
//! # A fallback
//!
//! [`OnDown`](vpn_core::OnDown) of a rule says where its flows go while its tunnel, or every member
//! of its group, is down: nowhere (the default), to a tunnel or group, or direct. There is one hop:
//! what a fallback names does not fall back any further. A tunnel that is connecting is not down:
//! packets wait for it. New flows go back as soon as a plain tunnel is back; a group waits for
//! [`fail_back`](crate::group::GroupConfig::fail_back).
//!
//! # Live flows
//!
//! What becomes of live TCP connections is the rule's [`OnChange`](vpn_core::OnChange); all else
//! moves with its next packet. See [`writing_rules`](super::writing_rules).
//!
//! # On demand
//!
//! A transport made for it (`WireGuardOptions::on_demand`) is dormant until a packet waits for it.
//! That packet is held like one for a connecting tunnel, within
//! [`HoldLimits`](crate::router::HoldLimits), and delivered. In a group, a dormant member is used
//! only if none is up: a cold standby.
//!
//! # Advertised routes
//!
//! Networks that the other end says are behind a tunnel decide nothing, unless
//! [`Router::set_route_policy`](crate::Router::set_route_policy) admits them; see [`routes`] for the
//! precedence. What is refused, and why, is in
//! [`Event::Routes`](crate::router::Event::Routes), and the engine logs it.
//!
//! [`routes`]: crate::routes
