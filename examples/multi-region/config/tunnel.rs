//! `[tunnel.NAME]`: a provider's file, and what is said beside it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vpn_p2p::wireguard::{NO_ANSWER_AFTER, WireGuardOptions};
use vpn_routing::nat::{PrefixMap, PrefixMapError, PrefixMaps};
use vpn_routing::router::TunnelOptions;
use vpn_routing::routes::RoutePolicy;
use vpn_tun::InterfaceName;

use super::value::{Count, Span};

/// `[tunnel.NAME]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tunnel {
    /// The provider's wg-quick file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wireguard: Option<PathBuf>,
    /// The provider's OpenVPN profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) openvpn: Option<PathBuf>,
    /// An interface that another program makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<String>,
    /// A mesh, by its member's file: `[mesh]` makes such a tunnel.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub(crate) mesh: Option<PathBuf>,
    /// What it was assigned; with `interface`. Default the interface's addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) addresses: Option<Vec<IpNet>>,
    /// File of user and password, 0600; with `openvpn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) auth: Option<PathBuf>,
    /// Resolvers in place of those of the file.
    pub(crate) dns: Option<Vec<IpAddr>>,
    /// Largest IP packet inside the tunnel, in place of the file's.
    mtu: Option<Count<576, 65_535>>,
    /// Whether it connects at once and stays, or with the first packet. Default `always`.
    #[serde(default)]
    connect: Connect,
    /// After how long without packets it rests; with `on-demand`. Default 5 minutes.
    idle: Option<Span<1_000, 86_400_000>>,
    /// How long its peer may leave a question unanswered before it is down. Default 15 s.
    #[serde(default = "no_answer_after")]
    no_answer_after: Span<11_000, 600_000>,
    /// Which of the networks that the file says are behind it are used where no rule decides.
    /// Default none.
    routes: Option<Routes>,
    /// Networks behind it that are reached under other addresses.
    map: Option<Vec<Map>>,
}

/// How long a tunnel on demand stays up without packets, unless said otherwise.
const IDLE: Duration = Duration::from_secs(300);

fn no_answer_after() -> Span<11_000, 600_000> {
    Span(NO_ANSWER_AFTER)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Connect {
    #[default]
    Always,
    OnDemand,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "none of \"none\", \"all\", \"no-default\" and no list of prefixes"
)]
enum Routes {
    Word(Word),
    Within(Vec<IpNet>),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    None,
    All,
    NoDefault,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Map {
    local: IpNet,
    remote: IpNet,
}

impl Tunnel {
    /// A mesh: what leads to its networks leads to it, where no rule decides.
    pub(super) const fn of_mesh(file: PathBuf) -> Self {
        Self {
            wireguard: None,
            openvpn: None,
            interface: None,
            mesh: Some(file),
            addresses: None,
            auth: None,
            dns: None,
            mtu: None,
            connect: Connect::Always,
            idle: None,
            no_answer_after: Span(NO_ANSWER_AFTER),
            routes: Some(Routes::Word(Word::All)),
            map: None,
        }
    }

    /// Its files, by the keys that name them.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let files = [
            ("wireguard", &self.wireguard),
            ("openvpn", &self.openvpn),
            ("auth", &self.auth),
            ("mesh", &self.mesh),
        ];
        let named = files.into_iter();
        named.filter_map(|(key, file)| Some((key, file.as_deref()?)))
    }

    /// Relative paths are meant from here.
    pub(super) fn relative_to(&mut self, folder: &Path) {
        let files = [
            &mut self.wireguard,
            &mut self.openvpn,
            &mut self.auth,
            &mut self.mesh,
        ];
        for file in files.into_iter().flatten() {
            *file = folder.join(&file);
        }
    }

    /// The MTU that is said here, in bytes.
    pub(crate) fn mtu(&self) -> Option<u16> {
        // Within its bounds, which are those of the type.
        self.mtu.and_then(|mtu| u16::try_from(mtu.0).ok())
    }

    /// How long its provider may leave a question unanswered.
    pub(crate) const fn no_answer_after(&self) -> Duration {
        self.no_answer_after.0
    }

    /// Which routes it may advertise.
    pub(crate) fn route_policy(&self) -> RoutePolicy {
        match &self.routes {
            None | Some(Routes::Word(Word::None)) => RoutePolicy::None,
            Some(Routes::Word(Word::All)) => RoutePolicy::All,
            Some(Routes::Word(Word::NoDefault)) => RoutePolicy::AllButDefault,
            Some(Routes::Within(nets)) => RoutePolicy::Within(nets.clone()),
        }
    }

    fn maps(&self) -> Result<PrefixMaps, PrefixMapError> {
        let maps = self.map.iter().flatten();
        let maps: Result<_, _> = maps.map(|m| PrefixMap::new(m.local, m.remote)).collect();
        PrefixMaps::new(maps?)
    }

    /// What is wrong with it: the key, and what would be right.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let kinds = [
            ("wireguard", self.wireguard.is_some()),
            ("openvpn", self.openvpn.is_some()),
            ("interface", self.interface.is_some()),
            ("mesh", self.mesh.is_some()),
        ];
        let mut said = kinds.into_iter().filter(|(_, said)| *said);
        let Some((kind, _)) = said.next() else {
            let problem = "missing; name a file with it or with openvpn, or an interface";
            return Some(("wireguard", problem.to_owned()));
        };
        if let Some((second, _)) = said.next() {
            return Some((second, format!("beside {kind}: a tunnel is one of them")));
        }
        let name = self.interface.as_deref().map(InterfaceName::new);
        if let Some(Err(error)) = name {
            return Some(("interface", error.to_string()));
        }
        let only = [
            ("auth", self.auth.is_some(), "openvpn"),
            ("addresses", self.addresses.is_some(), "interface"),
            ("connect", self.connect == Connect::OnDemand, "wireguard"),
        ];
        if let Some((key, _, with)) = only
            .into_iter()
            .find(|(_, said, with)| *said && kind != *with)
        {
            let what = if key == "connect" {
                "on-demand only"
            } else {
                "only"
            };
            return Some((key, format!("{what} with {with}")));
        }
        if self.idle.is_some() && self.connect != Connect::OnDemand {
            return Some(("idle", "only with connect = \"on-demand\"".to_owned()));
        }
        let wrong = self.maps().err()?;
        Some(("map", wrong.to_string()))
    }

    /// Its options for the transport.
    pub(crate) fn transport(&self) -> WireGuardOptions {
        let options = WireGuardOptions::default().no_answer_after(self.no_answer_after.0);
        match self.connect {
            Connect::Always => options,
            Connect::OnDemand => options.on_demand(self.idle.map_or(IDLE, |idle| idle.0)),
        }
    }

    /// Its options for the router. `problem` has refused maps that make none.
    pub(crate) fn options(&self) -> TunnelOptions {
        let mut options = TunnelOptions::default();
        options.prefix_maps = self.maps().unwrap_or_default();
        options
    }
}
