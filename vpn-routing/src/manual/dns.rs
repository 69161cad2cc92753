//! How a DNS query reaches the resolver of its app's tunnel.
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
//! A query to any other address is an ordinary flow and goes where its rule says, unchanged.
//!
//! # What to announce
//!
//! An address of nobody's, for instance `100.64.0.53`. It must be *routed* to the device and not
//! assigned to it: a query to an address of this machine never leaves the kernel. The plan does
//! that. Announce one of each family if your tunnels have resolvers of both: a query is steered
//! within its family, and is dropped as [`NoResolver`](vpn_core::DropReason::NoResolver) where the
//! tunnel has none.
//!
//! # What it cannot do
//!
//! A local cache (systemd-resolved, nscd, dnsmasq) asks in its own name: the router sees the cache
//! as the owner, and all apps share the tunnel of its rule. Queries inside TLS or HTTPS (ports 853
//! and 443) are not steered; they follow the app's rule like other traffic.
