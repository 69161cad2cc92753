//! `[tunnel.NAME]`: a provider's file, and what is said beside it.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vpn_routing::nat::{PrefixMap, PrefixMapError, PrefixMaps};
use vpn_routing::router::TunnelOptions;
use vpn_routing::routes::RoutePolicy;

use super::value::Count;

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
    /// Which of the networks that the file says are behind it are used where no rule decides.
    /// Default none.
    routes: Option<Routes>,
    /// Networks behind it that are reached under other addresses.
    map: Option<Vec<Map>>,
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
        let wrong = self.maps().err()?;
        Some(("map", wrong.to_string()))
    }

    /// Its options for the router. `problem` has refused maps that make none.
    pub(crate) fn options(&self) -> TunnelOptions {
        let mut options = TunnelOptions::default();
        options.prefix_maps = self.maps().unwrap_or_default();
        options
    }
}
