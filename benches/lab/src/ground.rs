//! Makes the namespaces of one measurement: where the application is, where the far end is, and
//! what lies between them. All of it goes with the value.

use std::net::Ipv4Addr;

use vpn_lab::{LabError, Namespace, veth};

/// The application's end of the cable.
pub(crate) const CABLE_APP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The far end of the cable; behind a router it is [`ROUTED_FAR`].
pub(crate) const CABLE_FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// The far end behind the router.
const ROUTED_FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// The application inside the tunnel.
pub(crate) const APP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The far end inside the tunnel.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// What the far end sees of the application behind our router.
pub(crate) const ASSIGNED: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

/// MTU inside of tunnels, in bytes, the same for everybody: what WireGuard leaves of 1,500.
pub(crate) const MTU: u16 = 1420;

/// Two machines and what lies between them.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) app: Namespace,
    pub(crate) far: Namespace,
    /// Where the far end is reached without a tunnel, if there is a cable.
    pub(crate) direct: Ipv4Addr,
    _router: Option<Namespace>,
}

impl Ground {
    /// Two machines with nothing between them: a process with a device in each joins them.
    pub(crate) fn apart() -> Result<Self, LabError> {
        Ok(Self {
            app: Namespace::new("app")?,
            far: Namespace::new("far")?,
            direct: FAR,
            _router: None,
        })
    }

    /// Two machines on one cable. A cable that cuts hands on every packet by itself, as a wire does:
    /// the kernel passes super-packets through veth whole otherwise.
    pub(crate) fn cable(cut: bool) -> Result<Self, LabError> {
        let this = Self {
            direct: CABLE_FAR,
            ..Self::apart()?
        };
        veth(&this.app, "eth0", &this.far, "eth0")?;
        this.app.add_address("eth0", CABLE_APP.into(), 24)?;
        this.far.add_address("eth0", CABLE_FAR.into(), 24)?;
        for end in [&this.app, &this.far] {
            if cut {
                cut_on(end, "eth0")?;
            }
        }
        Ok(this)
    }

    /// Two machines with a router between them, which forwards in the kernel and translates the
    /// source by nftables.
    pub(crate) fn routed(cut: bool) -> Result<Self, LabError> {
        let router = Namespace::new("router")?;
        let this = Self {
            direct: ROUTED_FAR,
            ..Self::apart()?
        };
        veth(&this.app, "eth0", &router, "near")?;
        veth(&router, "far", &this.far, "eth0")?;
        this.app.add_address("eth0", CABLE_APP.into(), 24)?;
        router.add_address("near", CABLE_FAR.into(), 24)?;
        router.add_address("far", Ipv4Addr::new(198, 51, 100, 1).into(), 24)?;
        this.far.add_address("eth0", ROUTED_FAR.into(), 24)?;
        this.app.add_route("default", CABLE_FAR.into())?;
        router.forward()?;
        // The far end has no route back to the application: without the translation nothing comes.
        router.packet_filter(
            "table ip nat { chain post { type nat hook postrouting priority 100; \
             oifname \"far\" snat to 198.51.100.1; }; }",
        )?;
        if cut {
            for (machine, port) in [
                (&this.app, "eth0"),
                (&router, "near"),
                (&router, "far"),
                (&this.far, "eth0"),
            ] {
                cut_on(machine, port)?;
            }
        }
        Ok(Self {
            _router: Some(router),
            ..this
        })
    }

    /// Gives both ends of the tunnel their addresses, and the ways to each other.
    pub(crate) fn set_up_devices(&self, app: &str, far: &str) -> Result<(), LabError> {
        for (machine, device, own, others) in [
            (&self.app, app, APP, &[FAR][..]),
            (&self.far, far, FAR, &[APP, ASSIGNED][..]),
        ] {
            machine.ip(&format!("addr replace {own}/32 dev {device}"))?;
            machine.ip(&format!("link set {device} mtu {MTU} txqueuelen 1000 up"))?;
            for other in others {
                machine.ip(&format!("route replace {other}/32 dev {device}"))?;
            }
        }
        Ok(())
    }
}

/// Switches off what lets a port hand on super-packets whole.
fn cut_on(machine: &Namespace, port: &str) -> Result<(), LabError> {
    machine
        .tool(
            "ethtool",
            &format!("-K {port} tso off gso off gro off tx off"),
        )
        .map(drop)
}
