//! How to write rules, and what happens when they change.
//!
//! A rule says what it matches (app, source, domain, destination, ports, protocol, family; what is
//! left out matches everything) and where that goes. Order does not matter; the
//! [precedence](crate::rules) does: app before source before domain before destination, longer
//! before shorter, then ports, protocol, family, then the newer.
//!
//! Rules come from a [source](crate::source): a file that people edit, a database that programs
//! change, or both as one, of which an added rule beats its equal in the file. How their parts are
//! written is the same everywhere (`vpn_core::rule::parse_prefix` and its neighbours).
//!
//! ```
//! use vpn_core::{Action, DropReason, FlowKey, Owner, OwnerMatch, Protocol, Rule, RuleId};
//! use vpn_core::{RuleMatch, RuleSnapshot, TunnelId};
//! use vpn_routing::rules::{CompiledRules, Target};
//!
//! let everything = Rule::new(RuleId(1), RuleMatch::default(), Action::Tunnel("uk".to_owned()));
//! let but_this_user = Rule::new(RuleId(2), RuleMatch { owner: Some(OwnerMatch::Uid(1002)), ..RuleMatch::default() }, Action::Block);
//! let rules = CompiledRules::compile(
//!     &RuleSnapshot::from(vec![everything, but_this_user]),
//!     &|name: &str| (name == "uk").then_some(TunnelId::new(0)),
//!     Target::Block(DropReason::BlockedByDefault),
//! )?;
//! let flow = FlowKey::new(
//!     Protocol::TCP,
//!     ([10, 5, 0, 2].into(), 40_000),
//!     ([203, 0, 113, 10].into(), 443),
//! );
//! let goes = |uid| rules.decide(Some(&Owner::user(uid)), &flow).action;
//! assert_eq!(goes(1001), Target::Tunnel(TunnelId::new(0)));
//! assert_eq!(goes(1002), Target::Block(DropReason::BlockedByRule));
//! // A rule with an owner could be meant: without knowing the owner nothing is guessed.
//! assert_eq!(rules.decide(None, &flow).action, Target::Block(DropReason::OwnerUnknown));
//! # Ok::<(), vpn_routing::rules::RuleError>(())
//! ```
//!
//! # When rules change
//!
//! New rules are in force whole, or not at all. Each flow learns of them with its next packet from
//! the device:
//!
//! | The flow | What happens |
//! |---|---|
//! | is blocked now | ends at once; the packet is dropped for the rule's reason |
//! | same tunnel as before | goes on |
//! | other tunnel, a TCP connection that both sides use | keeps its tunnel until it ends: a change of address would only break it |
//! | other tunnel, anything else (UDP, echo, a TCP handshake) | moves, as a new flow |
//! | its owner matters now and was never asked | is held until the owner is known |
//!
//! To move live TCP connections too, give the rule
//! [`OnChange::Reset`](vpn_core::OnChange::Reset): app and server get a RST at once, and the app
//! connects anew by the new way. With [`OnChange::Drop`](vpn_core::OnChange::Drop) they go nowhere
//! instead, until the app gives up. The same counts when the choice of a group changes, or a
//! fallback takes over.
//!
//! # The same rules on many hosts
//!
//! `source::EtcdRules` (feature `etcd`) follows texts of rules in etcd: each key below a prefix is one, written as
//! a file is, and those of later keys are newer. A change is in force everywhere within milliseconds; a text that
//! makes no sense keeps its last good rules, and `trouble` says which key it is. While etcd is away its rules stay.
//! Before it was there once nothing is known of them, and a [`Layered`](crate::source) source has no rules at all:
//! what they would forbid is not let out by accident; so it is until each of them could be read once. A rule for
//! a user that the host does not have is about nobody until it has one. One text is 1 MiB at most, 4,096 of them
//! 16 MiB; beyond, rules in force stay and newcomers are left out.
//!
//! The host's way to etcd must not need rules: capture around it, and name it by address. Give whoever writes
//! there a role for the prefix, and everybody TLS.
//!
//! # A rule that cannot be carried out
//!
//! It blocks what it matches and is listed in
//! [`CompiledRules::problems`](crate::rules::CompiledRules::problems); the others apply. Call
//! [`CompiledRules::check`](crate::rules::CompiledRules::check) before you store a rule.
//!
//! # Costs
//!
//! A flow that is in the table pays one compare per packet. A rule that names an executable costs
//! a search over processes for each new flow that it could match, so give such rules a
//! destination, ports or a protocol where you can. The longest list is
//! [`MAX_RULES`](crate::rules::MAX_RULES).
