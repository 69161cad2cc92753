//! Which advertised routes are believed.

use ipnet::IpNet;

/// The shortest IPv4 prefix that is not a default route in disguise: providers that want
/// everything push two halves, or four quarters, instead of `0.0.0.0/0`.
pub const WIDEST_V4: u8 = 8;

/// The shortest such IPv6 prefix: `2000::/3` is all there is on the Internet today.
pub const WIDEST_V6: u8 = 16;

/// Which routes a tunnel may advertise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoutePolicy {
    /// None.
    #[default]
    None,
    /// All but default routes, and those that are nearly: shorter than [`WIDEST_V4`] or
    /// [`WIDEST_V6`].
    AllButDefault,
    /// All, default routes included.
    All,
    /// Those that lie within one of these networks.
    Within(Vec<IpNet>),
}

/// Why a route was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteRefusal {
    /// The tunnel's policy does not admit it. Admit it there if it is wanted.
    #[error("the tunnel's policy does not admit it")]
    Policy,
    /// It is a default route, or nearly, and the policy excludes those.
    #[error("it is a default route, which the tunnel's policy excludes")]
    Default,
    /// It leads to multicast, loopback or link-local addresses, which no tunnel carries.
    #[error("it leads to addresses that no tunnel carries")]
    NotRoutable,
    /// The tunnel, or all of them, advertise more than is remembered. Ask the other end to
    /// summarise.
    #[error("there are too many routes")]
    TooMany,
}

impl RoutePolicy {
    /// Whether a route is believed.
    ///
    /// # Errors
    ///
    /// [`RouteRefusal`].
    pub fn admits(&self, route: IpNet) -> Result<(), RouteRefusal> {
        if !is_routable(route) {
            return Err(RouteRefusal::NotRoutable);
        }
        let widest = match route {
            IpNet::V4(_) => WIDEST_V4,
            IpNet::V6(_) => WIDEST_V6,
        };
        match self {
            Self::All => Ok(()),
            Self::AllButDefault if route.prefix_len() < widest => Err(RouteRefusal::Default),
            Self::AllButDefault => Ok(()),
            Self::Within(networks) if networks.iter().any(|net| net.contains(&route)) => Ok(()),
            Self::Within(_) | Self::None => Err(RouteRefusal::Policy),
        }
    }
}

fn is_routable(route: IpNet) -> bool {
    // A default route covers these too, but packets to them are refused before.
    let within = |net: &str| net.parse::<IpNet>().is_ok_and(|net| net.contains(&route));
    ![
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3",
        "::1/128",
        "fe80::/10",
        "ff00::/8",
    ]
    .into_iter()
    .any(within)
}
