//! The manual: how-tos, tuning, troubleshooting.
//!
//! # From nothing to a captured machine
//!
//! ```no_run
//! # #[cfg(target_os = "linux")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use vpn_core::InterfacePlan;
//! use vpn_tun::{Applier, CaptureConfig, Journal, LinuxTun, MarkedUnderlay, OnExit, TunConfig};
//!
//! let capture = CaptureConfig::default();
//! // Sockets for tunnels: made with the capture's mark, or they would enter their own tunnel.
//! let underlay = Arc::new(MarkedUnderlay::new(capture.mark));
//! let tun = Arc::new(LinuxTun::create(TunConfig::named("vpn0".parse()?))?);
//! let journal = Journal::open("/run/my-vpn.journal")?;
//! let mut applier = Applier::new(tun.name(), Some(capture))?.with_journal(journal);
//! applier.engage().await?;
//! // Hand `tun` and `underlay` to the engine; give each plan it computes to the applier.
//! let plan = InterfacePlan {
//!     addresses: ["10.5.0.2/32".parse()?].into(),
//!     mtu: 1420,
//!     ..InterfacePlan::default()
//! };
//! applier.apply(&plan).await?;
//! // At the end. `Block` keeps the machine closed, `Open` lets traffic go direct again.
//! applier.disengage(OnExit::Block).await?;
//! # Ok(())
//! # }
//! # fn main() {}
//! ```
//!
//! # How the capture works
//!
//! `ip rule` and `ip route show table 30320` show it:
//!
//! ```text
//! 0:      from all lookup local
//! 9480:   from all iif vpn0 lookup main
//! 9481:   from all iif vpn0 blackhole
//! 9488:   from all to 192.0.2.0/24 goto 10002
//! 10000:  not from all fwmark 0x76706e31 lookup 30320
//! 10001:  not from all fwmark 0x76706e31 blackhole
//! 10002:  from all nop
//! 32766:  from all lookup main
//!
//! default dev vpn0 metric 100
//! blackhole default metric 2147483647
//! ```
//!
//! * An unmarked packet to another machine finds the device, or the blackhole when there is none.
//! * A marked packet does not match the rule, and goes where it would have gone before.
//! * Packets to the machine's own addresses are found in `local` first.
//! * What comes out of the device for another machine (the answer to a container) is routed by the
//!   main table, and never into the device again.
//! * Between 9488 and 9999 stands the plan's bypass list: what need not enter the device. When it
//!   changes, entries that lead around are removed first and added last; live flows that go around
//!   may lose a packet to the device meanwhile.
//! * There is no moment in between: blackhole, device route and rule are added in this order, and a
//!   restart replaces each in place.
//! * The device's subnets have no route in the main table, so a tunnel whose endpoint lies in such
//!   a subnet still leaves by the uplink.
//!
//! # After a crash
//!
//! The kernel removes the device and its routes; rule and blackhole stay and block. Either start
//! again, which takes over, or undo:
//!
//! ```no_run
//! # #[cfg(target_os = "linux")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use vpn_tun::{CaptureConfig, Journal, Leave, recover};
//! let journal = Journal::open("/run/my-vpn.journal")?;
//! let recovered = recover(&journal, &CaptureConfig::default(), Leave::Nothing).await;
//! for done in &recovered.done {
//!     println!("{done}");
//! }
//! assert!(recovered.failed.is_empty(), "the journal keeps what failed");
//! # Ok(())
//! # }
//! # fn main() {}
//! ```
//!
//! A start does the same first, with `Leave::Capture`: what the former run needed and this one does
//! not (the direct transport, a tunnel of OpenVPN) is gone, and the capture stands all the time.
//!
//! The journal has to be given to all that changes the system: [`Applier`](crate::Applier),
//! [`SystemDns`](crate::SystemDns), [`DirectConfig`](crate::DirectConfig) and
//! [`OpenVpnConfig`](crate::openvpn::OpenVpnConfig) take clones of one. Its entries are of one boot and
//! one network namespace: elsewhere all but the content of `resolv.conf` is forgotten, since whoever has
//! the same names there is somebody else.
//!
//! What the bypass list let around before the crash goes around until then: rules stay, and nobody is
//! there to take them back.
//!
//! By hand: `ip rule flush protocol 118; ip -6 rule flush protocol 118; ip route flush table 30320;
//! ip -6 route flush table 30320; nft delete table inet vpn_tun_guard_30320; nft delete table arp
//! vpn_tun_guard_30320; nft delete table inet vpn_tun_direct_30320`.
//!
//! # What others change
//!
//! [`Applier::look`](crate::Applier::look) and [`SystemDns::look`](crate::SystemDns::look) compare
//! what was made with what is there; the transports do so by themselves. What differs is logged once,
//! and [`Journal::foreign_changes`](crate::Journal::foreign_changes) lists it:
//!
//! * It is not corrected. The next plan adds and removes what differs between the plans, and writes the
//!   packet filter's tables anew where it concerns them.
//! * It is not overwritten in the end: a file or a setting that has another value than ours stays.
//! * A value that somebody set to what we had set it to cannot be told from ours, but for forwarding of
//!   IPv4: who sets `ip_forward` keeps it, on the uplink as well.
//! * If the network below changes, [`SystemDns::follow`](crate::SystemDns::follow) takes what was
//!   written into `resolv.conf` for the former content.
//!
//! # systemd-resolved
//!
//! [`DnsApply::Resolved`](crate::DnsApply::Resolved) runs `resolvectl dns`, `domain` (`~.`) and
//! `default-route` for the device; what the service knows of it goes with the device. It asks on
//! behalf of every app, in the name of its own user: give that user a rule, or a default, or no
//! name is found. DNS per app needs it out of the way.
//!
//! # Lockdown
//!
//! Routes decide for who asks them. [`CaptureConfig::lockdown`](crate::CaptureConfig::lockdown) has the
//! packet filter drop whatever leaves by another way than ours: apps that bind to the uplink, rules
//! and routes that others put before the capture, forwarding around. Let out are marked packets,
//! loopback, the device, neighbour discovery, a DHCP client, and the bypass list. It goes with
//! `disengage(OnExit::Open)` and with `remove_leftovers`, not with the process. Frames that a bridge
//! forwards are dropped too where `bridge-nf-call-iptables` is on.
//!
//! # Direct
//!
//! ```no_run
//! # #[cfg(target_os = "linux")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use vpn_tun::{CaptureConfig, DirectConfig, DirectTransport, Journal, MarkedUnderlay};
//! let capture = CaptureConfig::default();
//! let underlay = MarkedUnderlay::new(capture.mark);
//! let config = DirectConfig::beside(&"vpn0".parse()?, capture)
//!     .dns(underlay.servers())
//!     .journal(Journal::open("/run/my-vpn.journal")?);
//! // A tunnel like the others: hand it to the engine under the name that rules call "direct".
//! let direct = DirectTransport::open(config).await?;
//! # Ok(())
//! # }
//! # fn main() {}
//! ```
//!
//! The kernel forwards and masquerades its packets; see [`crate::direct`] for what that changes.
//! Resolvers that are the machine itself (127.0.0.53) cannot be reached through it: name the ones
//! they ask.
//!
//! # Tuning
//!
//! | What | Where | When |
//! |---|---|---|
//! | queue to the device | `TunConfig::queue_len`, packets | `ip -s link show vpn0` counts dropped TX |
//! | socket buffers | `sysctl net.core.rmem_max net.core.wmem_max` | 4 MiB are asked for; less is granted without a word |
//! | mark, table, priority | `CaptureConfig` | a second instance, or another program uses them |
//!
//! # What it does not do
//!
//! * A program with `CAP_NET_ADMIN` or `CAP_NET_RAW` can set the mark or write frames to the uplink.
//! * A program that binds to the uplink (`SO_BINDTODEVICE`) gets no IPv6 route: that is what
//!   the second rule is for. By IPv4 the kernel
//!   takes any destination for a neighbour on that link when the lookup fails: real neighbours, and
//!   what a router answers ARP for, are reached. `lockdown` stops that.
//! * A firewall that flushes the whole ruleset when it reloads removes lockdown, the guard and the
//!   masquerading of `direct`. Let it flush its own tables only.
//! * Answers to connections *from* the network (an SSH session over the uplink) are unmarked and
//!   enter the device. Reach the machine through a tunnel, or mark the server's sockets.
//! * Whether an IPv4 gateway is on the link is, to the kernel, a question to the policy rules, ours
//!   among them: while captured, `ip route add default via GATEWAY dev UPLINK` is refused ("Nexthop has
//!   invalid gateway"), and without `dev` it leads into the device. A program that configures uplinks
//!   while the capture stands adds the route with `onlink` (systemd-networkd: `GatewayOnLink=yes`), or
//!   a rule lets that network go around ([`Bypass`](vpn_core::Bypass) of its prefix).
//! * Link-local IPv6 and unicast DHCP renewals are captured as everything else; DHCP clients fall
//!   back to broadcast from a packet socket.
//!
//! # Troubleshooting
//!
//! | Symptom | Cause and remedy |
//! |---|---|
//! | `no permission for /dev/net/tun` | root, or `setcap cap_net_admin+ep` on the program |
//! | `routing table … holds routes of another program` | choose another table |
//! | tunnels never connect, their packets leave and answers arrive | strict reverse-path filtering: `engage` loosens it; look whether something set `net.ipv4.conf.all.rp_filter` back to 1 |
//! | `the program nft is missing` | install nftables; a build of it without JSON is refused as well |
//! | `direct` is up, and nothing comes back | a firewall that drops forwarded packets: let it accept `iifname vpn0d` and answers to it |
//! | `EINVAL` or "Invalid argument" when an app connects | the blackhole: the device is gone or down |
//! | IPv6 fails, IPv4 works | MTU below 1280, or `disable_ipv6` on the device: IPv6 is then blocked |
//! | "Nexthop has invalid gateway" when an uplink is configured | see above: `onlink`, or a bypass of its network |
//! | every app asks the same resolver | systemd-resolved asks for all of them; DNS per app needs it out of the way |
//! | no name is found with systemd-resolved | its user (`systemd-resolve`) has no rule: it asks for everybody |
//! | `cannot undo what was changed` | the journal keeps it: mend the cause, and `recover` again |
//! | `…: not a journal of this program` | the file is of another version: undo by hand, then remove it |
