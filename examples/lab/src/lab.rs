//! The provider lab: a client, the direct path, and regions that hand out the same address.
//!
//! | namespace | underlay | hands out | own resolver | own site |
//! |---|---|---|---|---|
//! | client | 192.0.2.10, 2001:db8:1::10 | | | |
//! | gateway ("direct") | 192.0.2.1, 2001:db8:1::1 | | 192.0.2.1 | 203.0.113.20 |
//! | region N | 192.0.2.2N, 2001:db8:1::2N | 10.5.0.2, fd00:5::2 | 198.18.N.53 | 203.0.113.2N |
//!
//! All are ports of one bridge in the gateway. Every region, and the gateway, has the site
//! 203.0.113.10 and 2001:db8:113::10; every region the resolver 198.18.0.53.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use tempfile::TempDir;

use crate::capture::{Capture, Seen};
use crate::error::LabError;
use crate::link::veth;
use crate::namespace::{Namespace, RuntimeHandle};
use crate::openvpn;
use crate::provider::{PORT, Provider, ProviderKind, RegionPlan, site_of};
use crate::wireguard_go::WireguardGo;

/// The site that answers in every region and directly.
pub const SITE4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The same site in IPv6.
pub const SITE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10);
/// The resolver address every region has.
pub const SHARED_DNS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 53);
/// The client's address on the underlay.
pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The same in IPv6.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
/// The gateway's address on the underlay.
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The same in IPv6.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);

/// States of a bridge's port, by the numbers the kernel uses.
const PORT_DISABLED: u8 = 0;
const PORT_FORWARDING: u8 = 3;

/// What a lab is to contain.
#[derive(Clone, Debug)]
pub struct LabPlan {
    /// The regions. Default: uk, fr and us, all handing out 10.5.0.2; us with a preshared key.
    pub regions: Vec<RegionPlan>,
    /// The client's reverse-path filter: 0, 1 or 2. Default 2 (loose), as desktops have.
    pub client_rp_filter: u8,
}

impl Default for LabPlan {
    fn default() -> Self {
        let mut us = RegionPlan::new("us", 3);
        us.preshared = true;
        Self {
            regions: vec![RegionPlan::new("uk", 1), RegionPlan::new("fr", 2), us],
            client_rp_filter: 2,
        }
    }
}

impl LabPlan {
    /// The same plan with another kind of server in every region.
    #[must_use]
    pub fn with_servers(mut self, kind: ProviderKind) -> Self {
        for region in &mut self.regions {
            region.kind = kind;
        }
        self
    }

    /// The programs this plan needs, for [`missing`](crate::missing).
    pub fn programs(&self) -> Vec<&'static str> {
        let mut programs = vec!["bridge", "nft"];
        for region in &self.regions {
            programs.extend(region.kind.programs());
        }
        programs.sort_unstable();
        programs.dedup();
        programs
    }
}

/// A running lab. Dropping it ends everything in it and removes its files.
#[derive(Debug)]
pub struct ProviderLab {
    // Fields are dropped in order: servers and services before the namespaces they run in, files
    // last.
    stock_clients: Vec<WireguardGo>,
    regions: Vec<Provider>,
    _direct: RuntimeHandle,
    client: Namespace,
    gateway: Namespace,
    folder: TempDir,
}

impl ProviderLab {
    /// Builds the lab; takes about a second. On an error nothing is left.
    pub fn start(plan: LabPlan) -> Result<Self, LabError> {
        let folder = TempDir::with_prefix("vpn-lab-")
            .map_err(|cause| LabError::file(std::env::temp_dir(), cause))?;
        let gateway = Namespace::new("gateway")?;
        gateway.set_rp_filter(0)?;
        gateway.ip("link add br0 type bridge")?;
        gateway.ip("link set br0 up")?;
        gateway.add_address("br0", GATEWAY4.into(), 24)?;
        gateway.add_address("br0", GATEWAY6.into(), 64)?;
        gateway.forward()?;
        let direct = site_of("direct", 0, vec![GATEWAY4.into()], false).start(&gateway)?;

        let client = host(&gateway, "client", CLIENT4, CLIENT6)?;
        client.set_rp_filter(plan.client_rp_filter)?;
        let mut regions = Vec::with_capacity(plan.regions.len());
        for region in plan.regions {
            let namespace = host(
                &gateway,
                &region.name,
                region.underlay4(),
                region.underlay6(),
            )?;
            namespace.set_rp_filter(0)?;
            regions.push(Provider::start(region, namespace, folder.path())?);
        }
        Ok(Self {
            stock_clients: Vec::new(),
            regions,
            _direct: direct,
            client,
            gateway,
            folder,
        })
    }

    /// The machine whose apps are to be routed: the SDK's engine goes here.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// The machine between all others, with the direct site.
    pub fn gateway(&self) -> &Namespace {
        &self.gateway
    }

    /// All regions.
    pub fn regions(&self) -> &[Provider] {
        &self.regions
    }

    /// The region of that name.
    pub fn region(&self, name: &str) -> Result<&Provider, LabError> {
        self.regions
            .iter()
            .find(|region| region.name() == name)
            .ok_or_else(|| LabError::Unknown(format!("region {name}")))
    }

    /// Kills an OpenVPN region's server and starts it anew.
    pub fn restart(&mut self, region: &str) -> Result<(), LabError> {
        let found = self.regions.iter_mut().find(|r| r.name() == region);
        found
            .ok_or_else(|| LabError::Unknown(format!("region {region}")))?
            .restart()
    }

    /// The folder with the clients' profiles, `NAME.conf`; further files may be put there.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Unplugs a region: frames vanish silently, as on a dead path.
    pub fn cut(&self, region: &str) -> Result<(), LabError> {
        self.plug(region, PORT_DISABLED)
    }

    /// Plugs it in again.
    pub fn heal(&self, region: &str) -> Result<(), LabError> {
        self.plug(region, PORT_FORWARDING)
    }

    /// Packets with a wrong source, all regions together.
    pub fn drops(&self) -> Result<u64, LabError> {
        self.regions.iter().map(Provider::drops).sum()
    }

    /// Starts to watch the client's cable.
    pub fn capture(&self) -> Result<Capture, LabError> {
        Capture::start(&self.gateway, "p-client")
    }

    /// Starts to watch the client's cable for packets of apps: those that are no tunnel's and no
    /// neighbours' business.
    pub fn capture_direct(&self) -> Result<Capture, LabError> {
        let endpoints = self.endpoints();
        let apps = move |seen: &Seen| is_of_app(seen, &endpoints);
        Capture::start_for(&self.gateway, "p-client", apps)
    }

    /// Of what a capture of the client's cable saw, that which is no tunnel's and no neighbour's
    /// business: packets of apps on the direct path.
    pub fn went_direct(&self, seen: &[Seen]) -> Vec<Seen> {
        let endpoints = self.endpoints();
        let apps = seen.iter().filter(|seen| is_of_app(seen, &endpoints));
        apps.copied().collect()
    }

    /// Where the regions' servers are.
    fn endpoints(&self) -> Vec<IpAddr> {
        let of_region = |region: &Provider| -> [IpAddr; 2] {
            let plan = region.plan();
            [plan.underlay4().into(), plan.underlay6().into()]
        };
        self.regions.iter().flat_map(of_region).collect()
    }

    /// Starts a stock `wireguard-go` client for a region in the client's namespace, with its
    /// addresses and without routes: the name of its interface, to bind to.
    pub fn stock_client(&mut self, region: &str) -> Result<String, LabError> {
        let profile = self.region(region)?.profile().to_owned();
        let client = WireguardGo::client(region, &profile, &self.client, self.folder.path())?;
        let interface = client.interface().to_owned();
        self.stock_clients.push(client);
        Ok(interface)
    }

    /// Ends the stock clients.
    pub fn end_stock_clients(&mut self) {
        self.stock_clients.clear();
    }

    fn plug(&self, region: &str, state: u8) -> Result<(), LabError> {
        let name = self.region(region)?.name();
        self.gateway
            .tool("bridge", &format!("link set dev p-{name} state {state}"))
            .map(|_| ())
    }
}

/// Whether a packet on the client's cable is neither of a tunnel nor of the neighbours' business.
fn is_of_app(packet: &Seen, endpoints: &[IpAddr]) -> bool {
    let server = if packet.outgoing {
        packet.source
    } else {
        packet.destination
    };
    // WireGuard's, or OpenVPN's over UDP or TCP. Without a port: a later fragment of one.
    let carries = matches!(
        (packet.protocol, server.port()),
        (17, PORT | 0) | (6 | 17, openvpn::PORT)
    );
    let of_tunnel = carries && endpoints.contains(&server.ip());
    // Neighbour discovery, and group membership (IGMP; MLD behind a hop-by-hop header).
    let of_neighbours = matches!(packet.protocol, 0 | 2 | 58)
        && (is_group_or_none(packet.destination.ip())
            || is_on_link(packet.source.ip()) && is_on_link(packet.destination.ip()));
    !of_tunnel && !of_neighbours
}

fn is_group_or_none(ip: IpAddr) -> bool {
    ip.is_multicast() || ip.is_unspecified()
}

/// Whether an address is of the underlay's own network.
fn is_on_link(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == GATEWAY4.octets()[..3],
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local() || ip.segments()[..4] == GATEWAY6.segments()[..4]
        }
    }
}

/// A machine on the gateway's bridge, with both families and default routes.
fn host(
    gateway: &Namespace,
    name: &str,
    address4: Ipv4Addr,
    address6: Ipv6Addr,
) -> Result<Namespace, LabError> {
    let namespace = Namespace::new(name)?;
    let port = format!("p-{name}");
    veth(gateway, &port, &namespace, "eth0")?;
    gateway.ip(&format!("link set {port} master br0"))?;
    namespace.add_address("eth0", address4.into(), 24)?;
    namespace.add_address("eth0", address6.into(), 64)?;
    namespace.add_route("default", GATEWAY4.into())?;
    namespace.add_route("default", GATEWAY6.into())?;
    Ok(namespace)
}
