//! What a profile says of what servers push: what is taken, and what is there before. Pure.

/// Options that are about addresses, and mean the same in a profile as pushed.
const ADDRESSES: &[&str] = &[
    "dhcp-option",
    "dns",
    "ifconfig",
    "ifconfig-ipv6",
    "redirect-gateway",
    "route",
    "route-ipv6",
    "topology",
];

/// What `route-nopull` leaves out.
const ROUTES: &[&str] = &[
    "dhcp-option",
    "dns",
    "redirect-gateway",
    "route",
    "route-ipv6",
];

/// A profile's word on what servers push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pull {
    /// Its own options about addresses, in order.
    own: Vec<Vec<String>>,
    /// `pull-filter`: whether what begins so is taken. The first that fits decides.
    filters: Vec<(bool, String)>,
    no_routes: bool,
}

impl Pull {
    /// Takes in one option of the profile.
    pub(super) fn option(&mut self, option: &str, words: &[String]) {
        match (option, words) {
            // What is rejected makes OpenVPN connect anew: it does not come to be used either.
            ("pull-filter", [_, what, text, ..]) => {
                self.filters.push((what == "accept", text.clone()));
            }
            ("route-nopull", _) => self.no_routes = true,
            _ if ADDRESSES.contains(&option) => {
                let values = words.iter().skip(1).cloned();
                self.own
                    .push(std::iter::once(option.to_owned()).chain(values).collect());
            }
            _ => {}
        }
    }

    /// The profile's own options about addresses.
    pub(super) fn own(&self) -> &[Vec<String>] {
        &self.own
    }

    /// Whether a pushed option is followed.
    pub(super) fn takes(&self, pushed: &str) -> bool {
        let name = pushed.split_ascii_whitespace().next().unwrap_or_default();
        if self.no_routes && ROUTES.contains(&name) {
            return false;
        }
        let fits = |(_, text): &&(bool, String)| pushed.starts_with(text.as_str());
        self.filters
            .iter()
            .find(fits)
            .is_none_or(|(taken, _)| *taken)
    }
}
