//! `[tunnel.NAME]`: a provider's file, and what is said beside it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vpn_p2p::wireguard::{NO_ANSWER_AFTER, WireGuardOptions};
use vpn_routing::nat::{PrefixMap, PrefixMapError, PrefixMaps};
use vpn_routing::router::TunnelOptions;
use vpn_routing::routes::RoutePolicy;

use super::value::{Count, Span};

/// `[tunnel.NAME]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tunnel {
    /// The provider's wg-quick file.
    pub(crate) wireguard: PathBuf,
    /// Resolvers in place of those of the file.
    pub(crate) dns: Option<Vec<IpAddr>>,
    /// Largest IP packet inside the tunnel, in place of the file's.
    pub(crate) mtu: Option<Count<576, 65_535>>,
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
