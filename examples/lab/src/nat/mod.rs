//! The NAT lab: two hosts behind routers with NATs of a chosen kind, a public host, a public hub.
//!
//! | namespace | address | role |
//! |---|---|---|
//! | hub | 198.51.100.1, 198.51.100.2 | public; reflects at ports 7001 and 7002 of both, UDP and TCP |
//! | a | 192.168.1.2 | behind router a, 198.51.100.11 (.111 after a rebind) |
//! | b | 192.168.2.2 | behind router b, 198.51.100.12 (.112 after a rebind) |
//! | c | 198.51.100.30 | public host, no NAT, no filter |
//!
//! Routers and the public host are ports of one bridge in the hub's namespace. With IPv6 the hosts
//! have public addresses behind a stateful firewall.

mod reflector;
mod router;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::error::LabError;
use crate::link::veth;
use crate::namespace::{Namespace, RuntimeHandle};
use crate::process::wait_for;

pub use reflector::{Mapping, REFLECTOR_PORTS, mapping, reflexive, reflexive_tcp};
pub use router::{NatKind, NatRouter};

/// The hub's address.
pub const HUB4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The hub's second address: for a second hub, or to ask from another place.
pub const SECOND_HUB4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The hub's address in IPv6, where the plan has it.
pub const HUB6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1);
/// The public host's address.
pub const PUBLIC4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 30);
/// The same in IPv6.
pub const PUBLIC6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x30);

/// How long the first way may take to come to be.
const FIRST_WAY_LIMIT: Duration = Duration::from_secs(8);

/// One of the two hosts behind a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first one.
    A,
    /// The second one.
    B,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }

    /// The last number of the router's first public address, and of its IPv6 address.
    fn number(self) -> u8 {
        match self {
            Self::A => 11,
            Self::B => 12,
        }
    }

    /// The router's public address in IPv6.
    fn wan6(self) -> Ipv6Addr {
        let last = match self {
            Self::A => 0x11,
            Self::B => 0x12,
        };
        Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, last)
    }

    /// The address with that last number in the LAN of this side.
    fn lan6(self, last: u16) -> Ipv6Addr {
        let subnet = match self {
            Self::A => 0x10a,
            Self::B => 0x10b,
        };
        Ipv6Addr::new(0x2001, 0xdb8, subnet, 0, 0, 0, 0, last)
    }
}

/// What a NAT lab is to contain.
#[derive(Clone, Copy, Debug)]
pub struct NatPlan {
    /// The NAT of host a. Default: easy.
    pub a: NatKind,
    /// The NAT of host b. Default: easy.
    pub b: NatKind,
    /// Both LANs are 192.168.1.0/24 and both hosts 192.168.1.2: private candidates that name
    /// somebody else. Default: no.
    pub same_lan: bool,
    /// The hosts also have public IPv6 addresses behind a stateful firewall. Default: no.
    pub v6: bool,
}

impl Default for NatPlan {
    fn default() -> Self {
        Self::of(NatKind::Easy, NatKind::Easy)
    }
}

impl NatPlan {
    /// The programs a lab needs, for [`skip`](crate::skip).
    pub const PROGRAMS: [&str; 2] = ["nft", "conntrack"];

    /// Two kinds of NAT, and nothing special.
    pub const fn of(a: NatKind, b: NatKind) -> Self {
        Self {
            a,
            b,
            same_lan: false,
            v6: false,
        }
    }

    fn kind(&self, side: Side) -> NatKind {
        match side {
            Side::A => self.a,
            Side::B => self.b,
        }
    }

    /// The third number of the LAN's addresses.
    fn lan(&self, side: Side) -> u8 {
        match side {
            Side::B if !self.same_lan => 2,
            Side::A | Side::B => 1,
        }
    }
}

/// A running NAT lab. Dropping it ends everything in it.
#[derive(Debug)]
pub struct NatLab {
    // Fields are dropped in order: services before the namespaces they run in.
    _reflector: RuntimeHandle,
    plan: NatPlan,
    hosts: [Namespace; 2],
    routers: [NatRouter; 2],
    public: Namespace,
    hub: Namespace,
}

impl NatLab {
    /// Builds the lab; takes less than a second, two with IPv6. On an error nothing is left.
    pub fn start(plan: NatPlan) -> Result<Self, LabError> {
        let hub = Namespace::new("hub")?;
        hub.set_rp_filter(0)?;
        hub.ip("link add br0 type bridge")?;
        hub.ip("link set br0 up")?;
        for address in [HUB4, SECOND_HUB4] {
            hub.add_address("br0", address.into(), 24)?;
        }
        let public = Namespace::new("c")?;
        plug(&hub, "c", &public, "eth0")?;
        public.add_address("eth0", PUBLIC4.into(), 24)?;
        public.add_route("default", HUB4.into())?;
        let (router_a, host_a) = behind(&hub, &plan, Side::A)?;
        let (router_b, host_b) = behind(&hub, &plan, Side::B)?;
        let mut addresses: Vec<IpAddr> = vec![HUB4.into(), SECOND_HUB4.into()];
        if plan.v6 {
            hub.add_address("br0", HUB6.into(), 64)?;
            public.add_address("eth0", PUBLIC6.into(), 64)?;
            addresses.push(HUB6.into());
            let (a, b) = (router_a.namespace(), router_b.namespace());
            for (side, knows) in [(Side::A, [&hub, &public, b]), (Side::B, [&hub, &public, a])] {
                for namespace in knows {
                    let lan = side.lan6(0);
                    namespace.add_route(&format!("{lan}/64"), side.wan6().into())?;
                }
            }
        }
        let reflector = reflector::start(&hub, &addresses)?;
        if plan.v6 {
            for namespace in [&host_a, &host_b, &public] {
                comes_to(namespace, (HUB6, REFLECTOR_PORTS[0]).into())?;
            }
        }
        Ok(Self {
            _reflector: reflector,
            plan,
            hosts: [host_a, host_b],
            routers: [router_a, router_b],
            public,
            hub,
        })
    }

    /// What was asked for.
    pub fn plan(&self) -> NatPlan {
        self.plan
    }

    /// The host behind a router.
    pub fn host(&self, side: Side) -> &Namespace {
        match side {
            Side::A => &self.hosts[0],
            Side::B => &self.hosts[1],
        }
    }

    /// The host's own address, in its LAN.
    pub fn lan4(&self, side: Side) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, self.plan.lan(side), 2)
    }

    /// The host's IPv6 address, where the plan has them.
    pub fn lan6(&self, side: Side) -> Option<Ipv6Addr> {
        self.plan.v6.then(|| side.lan6(2))
    }

    /// The router of a host: its public address, and what it is to do to packets.
    pub fn router(&self, side: Side) -> &NatRouter {
        match side {
            Side::A => &self.routers[0],
            Side::B => &self.routers[1],
        }
    }

    /// Roaming: the router gets another public address (.11 and .111 in turn for a, .12 and .112
    /// for b) and forgets all mappings. Tells the new one.
    pub fn rebind(&mut self, side: Side) -> Result<Ipv4Addr, LabError> {
        let router = match side {
            Side::A => &mut self.routers[0],
            Side::B => &mut self.routers[1],
        };
        let last = router.wan4().octets()[3];
        let other = if last > 100 { last - 100 } else { last + 100 };
        router.move_to(wan4(other))?;
        Ok(router.wan4())
    }

    /// The public host.
    pub fn public(&self) -> &Namespace {
        &self.public
    }

    /// The hub, which is also the cable all others are connected by: a capture of `p-nat-a`,
    /// `p-nat-b` or `p-c` sees what goes to and from one of them, whoever it is for.
    pub fn hub(&self) -> &Namespace {
        &self.hub
    }
}

fn wan4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, last)
}

/// A cable from `interface` of a namespace to the bridge: its port is called `p-NAME`.
fn plug(
    hub: &Namespace,
    name: &str,
    namespace: &Namespace,
    interface: &str,
) -> Result<(), LabError> {
    veth(namespace, interface, hub, &format!("p-{name}"))?;
    hub.ip(&format!("link set p-{name} master br0"))
}

/// Waits until a machine reaches a reflector: a new interface does not answer IPv6's question for its
/// link address in its first second.
fn comes_to(namespace: &Namespace, reflector: SocketAddr) -> Result<(), LabError> {
    let what = format!("the way from {} to {reflector}", namespace.label());
    wait_for(&what, FIRST_WAY_LIMIT, || {
        namespace.run(|| reflexive_tcp(reflector).ok()).ok()?
    })
    .map(|_| ())
}

/// A router of that side, plugged in, and the host behind it.
fn behind(hub: &Namespace, plan: &NatPlan, side: Side) -> Result<(NatRouter, Namespace), LabError> {
    let letter = side.letter();
    let namespace = Namespace::new(&format!("nat-{letter}"))?;
    plug(hub, &format!("nat-{letter}"), &namespace, "wan")?;
    let host = Namespace::new(&letter.to_string())?;
    veth(&host, "eth0", &namespace, "lan")?;
    let lan = plan.lan(side);
    let gateway = Ipv4Addr::new(192, 168, lan, 1);
    namespace.add_address("lan", gateway.into(), 24)?;
    // Loose, as desktops have it.
    host.set_rp_filter(2)?;
    host.add_address("eth0", Ipv4Addr::new(192, 168, lan, 2).into(), 24)?;
    host.add_route("default", gateway.into())?;
    if plan.v6 {
        namespace.add_address("wan", side.wan6().into(), 64)?;
        namespace.add_address("lan", side.lan6(1).into(), 64)?;
        host.add_address("eth0", side.lan6(2).into(), 64)?;
        host.add_route("default", side.lan6(1).into())?;
    }
    let router = NatRouter::start(namespace, plan.kind(side), wan4(side.number()))?;
    Ok((router, host))
}
