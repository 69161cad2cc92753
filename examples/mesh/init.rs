//! `mesh init`: a folder with everything a hub and its members need, ready to copy.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use vpn_examples::print;
use vpn_p2p::mesh::Identity;
use vpn_p2p::mesh::identity::peer_to_base64;
use vpn_p2p::mesh::record::valid_name;

use crate::config::Place;
use crate::error::Error;

/// Most members that are made at once.
const MAX_MEMBERS: usize = 1000;

/// The folder of the hub; no member may have this name.
const HUB: &str = "hub";

#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// The folder, which must not exist or be empty.
    dir: PathBuf,
    /// Where members find the hub: HOST:PORT. It listens on that port.
    #[arg(long, value_parser = place)]
    hub: Place,
    /// Their names, with commas between; or how many.
    #[arg(long)]
    members: String,
    /// The network of the mesh. The first address is kept for the hub.
    #[arg(long, default_value = "10.77.0.0/24")]
    network: IpNet,
}

fn place(text: &str) -> Result<Place, String> {
    Place::try_from(text.to_owned()).map_err(str::to_owned)
}

/// Makes it.
pub(crate) fn run(init: &Init) -> Result<(), Error> {
    let names = names(&init.members)?;
    let network = init.network.trunc();
    // From the second on: the first is the hub's.
    let hosts: Vec<IpAddr> = network.hosts().take(names.len() + 1).collect();
    if hosts.len() <= names.len() {
        let text = format!(
            "{network} has not enough addresses for {} members",
            names.len()
        );
        return Err(Error::Argument(text));
    }
    let made = std::fs::read_dir(&init.dir).is_ok_and(|mut entries| entries.next().is_some());
    if made {
        let text = format!("{} is not empty; name a new folder", init.dir.display());
        return Err(Error::Argument(text));
    }
    folder(&init.dir)?;
    let hub = init.dir.join(HUB);
    folder(&hub)?;
    let hub_key = Identity::generate()?;
    hub_key.create(hub.join("hub.key"))?;
    let mut listed = String::new();
    for (name, address) in names.iter().zip(&hosts[1..]) {
        let at = init.dir.join(name);
        folder(&at)?;
        let key = Identity::generate()?;
        key.create(at.join(format!("{name}.key")))?;
        let text = member(
            name,
            *address,
            network.prefix_len(),
            &peer_to_base64(hub_key.id()),
            &init.hub,
        );
        write(&at.join("mesh.toml"), &text)?;
        let public = peer_to_base64(key.id());
        // Writing to a string cannot fail.
        let _ = write!(
            listed,
            "\n[[members]]\nname = \"{name}\"\nkey = \"{public}\"\naddresses = [\"{address}\"]\n"
        );
    }
    let own = IpNet::new(hosts[0], network.prefix_len());
    let own = own.map_or_else(|_| String::new(), |net| net.to_string());
    write(
        &hub.join("hub.toml"),
        &hub_toml(init.hub.port, network, &own, &listed),
    )?;
    let mut said = format!(
        "made {}\n\ncopy  {HUB}/  to {}, then there:  mesh hub --config {HUB}/hub.toml\n",
        init.dir.display(),
        init.hub.host
    );
    for (name, address) in names.iter().zip(&hosts[1..]) {
        let _ = writeln!(
            said,
            "copy  {name}/  to its machine, then there:  mesh join --config {name}/mesh.toml   ({address})"
        );
    }
    print(&said);
    Ok(())
}

/// Names that are given, or made from a number.
fn names(members: &str) -> Result<Vec<String>, Error> {
    let wrong = |text: String| Err(Error::Argument(format!("--members: {text}")));
    let names: Vec<String> = match members.parse::<usize>() {
        Ok(count) if count > MAX_MEMBERS => return wrong(format!("more than {MAX_MEMBERS}")),
        Ok(count) => (1..=count).map(|number| format!("m{number}")).collect(),
        Err(_) => members.split(',').map(|it| it.trim().to_owned()).collect(),
    };
    if names.is_empty() || names.len() > MAX_MEMBERS {
        return wrong(format!("1 to {MAX_MEMBERS} are made at once"));
    }
    for (at, name) in names.iter().enumerate() {
        let plain = !name.is_empty() && !name.starts_with('.') && valid_name(name);
        if !plain || name == HUB {
            return wrong(format!(
                "\"{name}\" is no name: up to 63 letters, digits, '-', '_' and '.', and not {HUB}"
            ));
        }
        if names[..at].contains(name) {
            return wrong(format!("\"{name}\" is there twice"));
        }
    }
    Ok(names)
}

fn member(name: &str, address: IpAddr, length: u8, hub: &str, at: &Place) -> String {
    format!(
        r#"name = "{name}"
key = "{name}.key"
addresses = ["{address}/{length}"]
interface = "mesh0"
control = "/run/mesh.sock"
# What others may begin here, beside pings: "any", "block", or such as ["tcp:22", "udp:7-9"].
inbound = []

[[hubs]]
key = "{hub}"
endpoint = "{at}"
"#
    )
}

fn hub_toml(port: u16, network: IpNet, own: &str, listed: &str) -> String {
    format!(
        r#"name = "hub"
key = "hub.key"
listen = ["0.0.0.0:{port}", "[::]:{port}"]
tls = true
control = "mesh-hub.sock"
networks = ["{network}"]

# The hub can have an address of its own in the mesh; it needs root then.
# [member]
# addresses = ["{own}"]
# interface = "mesh0"
{listed}"#
    )
}

/// A folder that its owner alone can look into: keys are below it.
fn folder(path: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::path(path))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(Error::path(path))
}
