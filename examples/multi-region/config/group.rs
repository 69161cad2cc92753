//! `[group.NAME]`: tunnels that stand for one another.

use serde::{Deserialize, Serialize};
use vpn_core::TunnelId;
use vpn_routing::group::{FAIL_BACK, GroupConfig, HashBy, MAX_MEMBERS, Policy, TOLERANCE};

use super::value::Span;

/// `[group.NAME]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// Tunnels, in order of preference.
    pub(crate) members: Vec<String>,
    /// How one is chosen. Default `ordered`.
    #[serde(default)]
    policy: Choice,
    /// How long a member has to be up before flows go back to it. Default 10 s.
    #[serde(default = "fail_back")]
    fail_back: Span<0, 86_400_000>,
    /// By how much a round trip must be shorter for flows to move. Default 10 ms.
    tolerance: Option<Span<0, 10_000>>,
    /// One for each member.
    weights: Option<Vec<u32>>,
    /// By what flows are hashed. Default `addresses`.
    hash_by: Option<By>,
}

fn fail_back() -> Span<0, 86_400_000> {
    Span(FAIL_BACK)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Choice {
    #[default]
    Ordered,
    Latency,
    Weighted,
    Hash,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum By {
    Addresses,
    Owner,
}

impl Group {
    /// What is wrong with it: the key, and what would be right.
    pub(super) fn problem(&self, exists: impl Fn(&str) -> bool) -> Option<(&'static str, String)> {
        let count = self.members.len();
        if !(1..=MAX_MEMBERS).contains(&count) {
            return Some((
                "members",
                format!("{count} tunnels; name 1 to {MAX_MEMBERS}"),
            ));
        }
        for (place, name) in self.members.iter().enumerate() {
            if !exists(name) {
                return Some(("members", format!("there is no tunnel {name:?}")));
            }
            if self.members[..place].contains(name) {
                return Some(("members", format!("{name:?} is named twice")));
            }
        }
        let only = |key, policy| Some((key, format!("only with policy = \"{policy}\"")));
        match &self.weights {
            None if self.policy == Choice::Weighted => {
                return Some(("weights", "missing; give each member one".to_owned()));
            }
            Some(_) if self.policy != Choice::Weighted => return only("weights", "weighted"),
            Some(weights) if weights.len() != count || weights.contains(&0) => {
                let problem = "give each member one weight, from 1 up";
                return Some(("weights", problem.to_owned()));
            }
            _ => {}
        }
        if self.tolerance.is_some() && self.policy != Choice::Latency {
            return only("tolerance", "latency");
        }
        if self.hash_by.is_some() && self.policy != Choice::Hash {
            return only("hash_by", "hash");
        }
        None
    }

    /// The group for the router. Members without an id are left out: `problem` has refused them.
    pub(crate) fn for_router(
        &self,
        name: &str,
        id: impl Fn(&str) -> Option<TunnelId>,
    ) -> GroupConfig {
        let members = self.members.iter().filter_map(|name| id(name));
        let policy = match self.policy {
            Choice::Ordered => Policy::Ordered,
            Choice::Latency => Policy::Latency {
                tolerance: self.tolerance.map_or(TOLERANCE, |span| span.0),
            },
            Choice::Weighted => Policy::Weighted(self.weights.clone().unwrap_or_default()),
            Choice::Hash => Policy::Hash(match self.hash_by {
                Some(By::Owner) => HashBy::Owner,
                Some(By::Addresses) | None => HashBy::Addresses,
            }),
        };
        GroupConfig::new(name, members)
            .policy(policy)
            .fail_back(self.fail_back.0)
    }
}
