//! How a DNS query reaches the resolver of its app's tunnel, and what its answer is good for.
//!
//! Apps share one resolver configuration; tunnels do not share resolvers. So the router steers: a
//! UDP or TCP flow to port 53 (RFC 1035 §4.2) of an address that *stands for a resolver* goes to
//! the first resolver, of the same family, of the tunnel that the asker's rule names, and the
//! answer comes back from the address that was asked. Addresses that stand for a resolver are
//!
//! * [`RouterConfig::resolvers`](crate::RouterConfig::resolvers): announced to applications
//!   through the interface plan, and routed to the device;
//! * [`RouterConfig::steered`](crate::RouterConfig::steered): steered without being announced, for
//!   what the system's own configuration names;
//! * every resolver that any tunnel was assigned.
//!
//! A query to any other address keeps its destination and goes where its rule says.
//!
//! # What to announce
//!
//! An address of nobody's, for instance `100.64.0.53`. It must be *routed* to the device and not
//! assigned to it: a query to an address of this machine never leaves the kernel. The plan does
//! that. Announce one of each family if your tunnels have resolvers of both: a query is steered
//! within its family, since translating a packet from one family to the other is more than an
//! address. An IPv6 query of a tunnel whose resolvers are all IPv4 is dropped as
//! [`NoResolver`](vpn_core::DropReason::NoResolver), and the other way round; the C library then
//! asks the next `nameserver` line. No other tunnel's resolver is ever asked in its place.
//!
//! # Domains
//!
//! A rule with a domain is applied twice:
//!
//! 1. to the *query* for such a name in UDP, steered or not: it leaves through the rule's tunnel,
//!    or nowhere if the rule blocks;
//! 2. to *flows* to the addresses that the answer gave, from the first one on. Aliases count: an
//!    address is known under the name that was asked for and under each alias on the way. Hints in
//!    HTTPS records (RFC 9460) are addresses too.
//!
//! What a tunnel's resolver says counts for rules that lead to that tunnel; rules that block, and
//! those that lead to a group, take anybody's word. A name is known for as long as its TTL says,
//! but [a minute at least and a day at most](crate::dns::DnsLimits); within that day, flows to the
//! address prolong it. While a tunnel is down its names stay: their flows are blocked, not handed
//! to the next rule. With a removed tunnel they go.
//!
//! Leave ports and protocol out of a rule with a domain, or add one without: a rule for port 443
//! does not take the query, which then goes elsewhere and teaches nothing.
//!
//! # Which answers pass
//!
//! To a steered query in UDP: the first with its id and its question, on its flow, within
//! [10 s](crate::dns::DnsLimits::patience). The source port stays the app's, so a forger has to
//! guess as much as without us (RFC 5452 §9.2). An answer about a name that a rule blocks by now is
//! dropped for that rule. Everything else is dropped as
//! [`DnsUnexpected`](vpn_core::DropReason::DnsUnexpected): late, repeated or forged answers, and
//! what is no DNS at all. A datagram to a steered address that is no query is dropped as
//! [`Malformed`](vpn_core::DropReason::Malformed).
//!
//! Answers of a resolver that an app chose itself (8.8.8.8, say) all pass; those that were asked
//! for feed the rules with domains all the same.
//!
//! # What it cannot do
//!
//! * Whoever answers for a domain says which addresses it has, those of other sites and of your own
//!   networks included. A rule that sends a domain into a tunnel sends its apps' flows to any such
//!   address there. A rule that must hold whatever DNS says names addresses.
//! * Queries inside TLS, HTTPS or QUIC (ports 853 and 443: DoT, DoH, DoQ) are neither steered nor
//!   read; they follow the app's rule like other traffic, and rules with domains do not see them.
//!   Block port 853, and switch DoH off in browsers, where that matters.
//! * A query in TCP is steered by its app's rule, without its name, and its answer teaches nothing:
//!   the name is inside a stream. Clients use TCP after a truncated answer.
//! * An answer in several fragments passes and teaches nothing.
//! * A name that a client reads in an answer and asks for itself (SRV, MX, the target of an HTTPS
//!   record) is a name of its own: it needs a rule of its own.
//! * An app that keeps an address for longer than its TTL, without a flow to it, connects under the
//!   rule without domain.
//! * A local cache (systemd-resolved, nscd, dnsmasq) asks in its own name: the router sees the
//!   cache as the owner, and all apps share the tunnel of its rule. `vpn_tun::dns::Lookup` tells
//!   whether there is one.
