//! How to assemble a daemon.
//!
//! An [`Engine`](crate::engine::Engine) takes four parts, each behind a trait or a handle:
//!
//! 1. a device ([`TunDevice`](vpn_core::TunDevice)): the kernel's, a host's, one in memory;
//! 2. owners ([`OwnerResolver`](vpn_core::OwnerResolver)): who sent this packet;
//! 3. a [`RuleCache`](crate::rules::RuleCache), which a [`RuleFeed`](crate::rules::RuleFeed) fills;
//! 4. transports ([`TunnelTransport`](vpn_core::TunnelTransport)), each under the name rules use.
//!
//! Bring things up in the order that fails closed: capture first, then rules, then the engine,
//! then say "ready". An engine without rules drops everything as
//! [`RulesCold`](vpn_core::DropReason::RulesCold).
//!
//! ```
//! use std::sync::Arc;
//! use vpn_core::testing::{build, memory_device, memory_transport};
//! use vpn_core::{Action, Assigned, DropReason, Rule, RuleId, RuleMatch, TunnelId};
//! use vpn_routing::engine::Engine;
//! use vpn_routing::owner::MemoryOwners;
//! use vpn_routing::rules::{CompiledRules, RuleCache, RuleFeed, Target};
//! use vpn_routing::source::StaticRules;
//! use vpn_routing::RouterConfig;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The parts: here all in memory.
//! let (device, apps) = memory_device(64, 1500);
//! let (transport, far) = memory_transport(64, 1420);
//! let rules = RuleCache::new();
//! let owners = Arc::new(MemoryOwners::new());
//! let mut engine = Engine::new(Arc::new(device), owners, rules.clone(), RouterConfig::default());
//! let uk = engine.add_tunnel("uk", Arc::new(transport))?;
//!
//! // Rules follow their source until the token is cancelled.
//! let source = StaticRules::new([Rule::new(RuleId(1), RuleMatch::default(), Action::Tunnel("uk".to_owned()))]);
//! let compile = move |snapshot: &vpn_core::RuleSnapshot| {
//!     let tunnels = |name: &str| (name == "uk").then_some(uk);
//!     CompiledRules::compile(snapshot, &tunnels, Target::Block(DropReason::BlockedByDefault))
//! };
//! let feed = RuleFeed::new(Arc::new(source), rules, Arc::new(compile));
//! let mut loaded = feed.status();
//! let stop = tokio_util::sync::CancellationToken::new();
//! let feeding = tokio::spawn(feed.run(stop.clone()));
//! loaded.wait_for(|status| !status.generation.is_cold()).await?;
//!
//! // The engine runs until it is told to stop.
//! let handle = engine.handle();
//! let running = tokio::spawn(engine.run());
//! far.up(Assigned { addresses: vec!["10.5.0.2/32".parse()?], mtu: 1420, ..Default::default() });
//! apps.inject(&build::udp("10.5.0.2:4000", "203.0.113.10:7", b"hello"))?;
//! assert!(far.take_wait().await.is_some());
//!
//! handle.stop().await;
//! let last = running.await??;
//! assert!(last.accounts.balance());
//! stop.cancel();
//! feeding.await?;
//! # Ok(())
//! # }
//! ```
//!
//! What the interface should look like comes from [`EngineHandle::plan`], a watch: apply each
//! plan, from the first on. After a tunnel was added or removed while the engine runs, notify
//! [`RuleFeed::recompile`], since names may mean something else now.
//!
//! [`EngineHandle::plan`]: crate::engine::EngineHandle::plan
//! [`RuleFeed::recompile`]: crate::rules::RuleFeed::recompile
