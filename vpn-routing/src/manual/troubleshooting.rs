//! A drop reason went up: what it means and what to do.
//!
//! Every packet that does not come out is counted under one [`DropReason`](vpn_core::DropReason),
//! in all and per tunnel: `EngineHandle::status` has both, and `EngineHandle::explain` tells what
//! would become of a new flow, and why.
//!
//! | Reason | What happened | What to do |
//! |---|---|---|
//! | `malformed` | not an IP packet, or its lengths contradict each other | a few are noise; many: look at who writes to the device |
//! | `fragment` | a fragment, the first included: none is translated | have the sender send less at once: the plan's MTU, or smaller datagrams |
//! | `unsupported` | an ICMP message that is not translated | nothing, mostly |
//! | `not_routable` | multicast, broadcast, loopback, link-local | nothing: it is no traffic for a tunnel |
//! | `rules_cold` | no rules were loaded yet | see the feed's status; the source may be failing |
//! | `blocked_by_rule` | a rule says block, or cannot be carried out | `explain` names the rule; see its problems |
//! | `blocked_by_default` | no rule matched | add a rule, or another default |
//! | `no_such_tunnel` | the rule names a tunnel that is not there | add the tunnel, or correct the rule |
//! | `owner_unknown` | nobody has this socket, or several users do | a program that ended; a shared or raw socket; `EngineHandle::explain_flow` shows which sockets; rules that name no owner do not ask |
//! | `owner_timeout` | the owner was not found in time | a slow resolver: see `hold.owner` |
//! | `hold_full` | more waits than may | counted beside the tunnel it was to wait for, if that was known; slow owners, or an app that floods a tunnel that connects: see the shares in `hold` |
//! | `tunnel_connecting` | the tunnel did not come up in time | the tunnel's state; `hold.connecting` |
//! | `flow_ended` | a connection was ended because its way changed, as its rule asks | nothing: both ends were told, or its app gives up |
//! | `tunnel_down` | the tunnel is down; nothing goes elsewhere | the cause is in the tunnel's state |
//! | `family_not_carried` | the tunnel has no address of this family | a provider without IPv6: apps fall back to IPv4 |
//! | `no_resolver` | the tunnel has no resolver of this family | give it one, or announce the other family only |
//! | `dns_unexpected` | a DNS answer that no query waits for | a few: late or doubled ones; many at once: somebody forges answers |
//! | `dns_pending_full` | too many DNS queries wait | a resolver that does not answer, or an app that asks for too much: see `dns` of the settings |
//! | `flow_table_full` | no entry could be evicted | raise `max_flows`; look for a scan |
//! | `owner_quota` | one app has too many flows | raise `max_flows_per_owner`, or look at the app |
//! | `ports_exhausted` | no free port towards this remote | thousands of flows to one socket; a second tunnel helps |
//! | `mapping_taken` | GRE, ESP or the like from a second local address to one remote | use one local address, or another tunnel |
//! | `blocked_by_filter` | the packet filter says drop or reject | the filter rules, in order |
//! | `inbound_quota` | an inbound rule has as many flows as it may | raise `max_flows_per_inbound_rule`, or name who may |
//! | `queue_full` | the tunnel, the device or another worker takes less than comes | a full link; transports and apps slow down by it |
//! | `elsewhere` | one of several workers had not heard of a change yet | a few with a change of rules or tunnels; more is a bug |
//! | `too_big` | larger than the tunnel carries | set the device's MTU as the plan says |
//! | `unsolicited` | from a tunnel, answers no flow of that tunnel, and no inbound rule lets it in; or the answer of a server here to a connection that is not known any more | noise of the network, or a flow that expired: see `timeouts`; a server needs an [inbound rule](super::behind_tunnels) |
//! | `address_not_allowed` | from a tunnel, with an address it may not use | the provider's configuration (AllowedIPs) |
//! | `no_session` | the transport has no session with its peer | the tunnel's state |
//! | `not_authentic` | could not be authenticated or decrypted | forged, damaged, or the wrong key |
//! | `refused` | the system refused this packet | the interface is down, or its MTU is smaller |
//! | `closed` | the engine or the tunnel was stopping | nothing |
//!
//! # An app gets nothing, and nothing is counted
//!
//! Its packets do not reach the device: look at policy rules and routes, not here. `in_device` of
//! the accounts tells.
//!
//! # It goes out and nothing comes back
//!
//! `tx_packets` of the tunnel rises and `rx_packets` does not. If the provider drops by source
//! address, compare [`Placement`](crate::alloc::Placement) with what the provider assigned; else
//! ask another host through that tunnel.
//!
//! # An app keeps its old tunnel after a rule changed
//!
//! A live TCP connection does, unless its rule says [`OnChange::Reset`](vpn_core::OnChange::Reset):
//! see [`writing_rules`](super::writing_rules).
