//! Cables, addresses, routes and kernel settings of a namespace, through the `ip` program.

use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use crate::error::LabError;
use crate::namespace::Namespace;

/// `ip` answers in milliseconds; a stuck one is a broken machine.
const IP_LIMIT: Duration = Duration::from_secs(10);

/// A cable: the interface `a_name` in `a` and `b_name` in `b`, both up, without addresses.
pub fn veth(a: &Namespace, a_name: &str, b: &Namespace, b_name: &str) -> Result<(), LabError> {
    a.ip(&format!(
        "link add {a_name} type veth peer name {b_name} netns {}",
        b.tid()
    ))?;
    a.ip(&format!("link set {a_name} up"))?;
    b.ip(&format!("link set {b_name} up"))
}

impl Namespace {
    /// Runs `ip` with these space-separated arguments inside the namespace.
    pub fn ip(&self, arguments: &str) -> Result<(), LabError> {
        self.tool("ip", arguments).map(|_| ())
    }

    /// Runs a program with space-separated arguments inside the namespace; its standard output.
    pub fn tool(&self, program: &str, arguments: &str) -> Result<String, LabError> {
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace());
        let output = self.output(command, IP_LIMIT)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(LabError::Failed {
            command: format!("{program} {arguments}"),
            label: self.label().to_owned(),
            message: output.stderr.trim().to_owned(),
        })
    }

    /// Loads packet-filter rules, in the language of `nft`, in one transaction. Needs that program.
    pub fn packet_filter(&self, rules: &str) -> Result<(), LabError> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]);
        let output = self.output_of(command, rules.as_bytes(), IP_LIMIT)?;
        if output.status.success() {
            return Ok(());
        }
        Err(LabError::Failed {
            command: "nft -f -".to_owned(),
            label: self.label().to_owned(),
            message: output.stderr.trim().to_owned(),
        })
    }

    /// Drops what arrives on `interface` for these prefixes, although their addresses may be our
    /// own. Call it once, before other policy rules.
    pub fn refuse_on(&self, interface: &str, prefixes: &[&str]) -> Result<(), LabError> {
        for family in ["-4", "-6"] {
            // The table of own addresses is asked first (preference 0) unless it is moved.
            self.ip(&format!("{family} rule add pref 10 lookup local"))?;
            self.ip(&format!("{family} rule del pref 0"))?;
        }
        for prefix in prefixes {
            let family = if prefix.contains(':') { "-6" } else { "-4" };
            self.ip(&format!(
                "{family} rule add pref 5 iif {interface} to {prefix} blackhole"
            ))?;
        }
        Ok(())
    }

    /// Gives `interface` an address, usable at once (no duplicate address detection).
    pub fn add_address(
        &self,
        interface: &str,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), LabError> {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        self.ip(&format!(
            "addr add {address}/{prefix} dev {interface}{nodad}"
        ))
    }

    /// A route; `to` is a prefix or `default`. The family is that of `via`.
    pub fn add_route(&self, to: &str, via: IpAddr) -> Result<(), LabError> {
        let family = if via.is_ipv6() { "-6" } else { "-4" };
        self.ip(&format!("{family} route add {to} via {via}"))
    }

    /// Sets the largest packet of an interface, in bytes.
    pub fn set_mtu(&self, interface: &str, mtu: u16) -> Result<(), LabError> {
        self.ip(&format!("link set {interface} mtu {mtu}"))
    }

    /// Forwards packets of both families between its interfaces.
    pub fn forward(&self) -> Result<(), LabError> {
        self.set("net/ipv4/ip_forward", "1")?;
        self.set("net/ipv6/conf/all/forwarding", "1")
    }

    /// Reverse-path filtering of IPv4 on all interfaces, also later ones: 0 off, 1 strict,
    /// 2 loose.
    pub fn set_rp_filter(&self, mode: u8) -> Result<(), LabError> {
        for scope in ["all", "default"] {
            self.set(
                &format!("net/ipv4/conf/{scope}/rp_filter"),
                &mode.to_string(),
            )?;
        }
        Ok(())
    }

    /// Writes a kernel setting below `/proc/sys`. Those below `net` belong to the namespace.
    pub fn set(&self, key: &str, value: &str) -> Result<(), LabError> {
        let path = format!("/proc/sys/{key}");
        self.run(|| fs::write(&path, value))?
            .map_err(|cause| LabError::file(&path, cause))
    }
}
