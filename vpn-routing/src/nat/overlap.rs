//! Which networks lay claim to the same addresses, who gets them, and why: for people.

use std::fmt;

use ipnet::IpNet;
use vpn_core::TunnelId;

/// How many overlaps one report has at most: more say nothing new.
pub const MAX_OVERLAPS: usize = 256;

/// Who says that a network is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Claimant {
    /// The local prefix of a map of this tunnel.
    Map(TunnelId),
    /// A route of this tunnel.
    Route(TunnelId),
    /// A subnet that this tunnel's address is of.
    Subnet(TunnelId),
    /// The host is on this network itself.
    Host,
}

/// A network, and who says that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Who.
    pub by: Claimant,
    /// The network, host bits cleared.
    pub net: IpNet,
}

impl Claim {
    /// Whether flows that no rule decides are sent by it: those to tunnels' subnets and to the
    /// host's networks go where the default says.
    const fn leads(&self) -> bool {
        matches!(self.by, Claimant::Map(_) | Claimant::Route(_))
    }

    const fn is_map(&self) -> bool {
        matches!(self.by, Claimant::Map(_))
    }
}

/// How two prefixes share addresses. There is no other way: they are equal, or one is within the
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OverlapKind {
    /// The same prefix.
    Equal,
    /// The winner's contains the loser's.
    Contains,
    /// The winner's is within the loser's.
    Within,
}

/// Why one claim is followed, and not the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// Only maps and routes lead anywhere by destination.
    LeadsSomewhere,
    /// Of two maps, or two routes, its prefix is longer, so it means these addresses more exactly.
    LongerPrefix,
    /// Somebody wrote the map down; a route is what a tunnel says of itself. Whatever their
    /// lengths.
    MapBeforeRoute,
    /// Its tunnel was added earlier.
    EarlierTunnel,
    /// Neither leads anywhere: rules and the default decide, and this report only says so.
    Undecided,
}

/// Two claims to the same addresses. A rule that matches beats both of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Overlap {
    /// The claim that is followed for the addresses they share.
    pub winner: Claim,
    /// The other one. Map its network elsewhere, or name it in a rule, to reach it.
    pub loser: Claim,
    /// How they meet, seen from the winner.
    pub kind: OverlapKind,
    /// Why the winner wins.
    pub why: Why,
}

impl Overlap {
    /// How two claims meet; `None` if they share no address.
    pub fn between(a: Claim, b: Claim) -> Option<Self> {
        if !a.net.contains(&b.net) && !b.net.contains(&a.net) {
            return None;
        }
        let length = |claim: &Claim| claim.net.prefix_len();
        let (a_wins, why) = if a.leads() != b.leads() {
            (a.leads(), Why::LeadsSomewhere)
        } else if !a.leads() {
            (a.by <= b.by, Why::Undecided)
        } else if a.is_map() != b.is_map() {
            (a.is_map(), Why::MapBeforeRoute)
        } else if a.net != b.net {
            (length(&a) > length(&b), Why::LongerPrefix)
        } else {
            (a.by <= b.by, Why::EarlierTunnel)
        };
        let (winner, loser) = if a_wins { (a, b) } else { (b, a) };
        let kind = match () {
            () if winner.net == loser.net => OverlapKind::Equal,
            () if winner.net.contains(&loser.net) => OverlapKind::Contains,
            () => OverlapKind::Within,
        };
        Some(Self {
            winner,
            loser,
            kind,
            why,
        })
    }

    /// All overlaps among `claims`, the first [`MAX_OVERLAPS`] of them. What one tunnel claims
    /// twice in the same way is left out: it leads to the same place.
    pub fn among(claims: &[Claim]) -> Vec<Self> {
        let pairs = claims.iter().enumerate().flat_map(|(place, &a)| {
            let before = &claims[..place];
            before.iter().map(move |&b| (b, a))
        });
        pairs
            .filter(|(a, b)| a.by != b.by)
            .filter_map(|(a, b)| Self::between(a, b))
            .take(MAX_OVERLAPS)
            .collect()
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.by {
            Claimant::Map(tunnel) => write!(f, "{} (map of {tunnel})", self.net),
            Claimant::Route(tunnel) => write!(f, "{} (route of {tunnel})", self.net),
            Claimant::Subnet(tunnel) => write!(f, "{} (subnet of {tunnel})", self.net),
            Claimant::Host => write!(f, "{} (the host's)", self.net),
        }
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            OverlapKind::Equal => "equals",
            OverlapKind::Contains => "contains",
            OverlapKind::Within => "is within",
        };
        let why = match self.why {
            Why::LeadsSomewhere => "the first is used: the other leads nowhere by itself",
            Why::LongerPrefix => "the first is used: it is longer",
            Why::MapBeforeRoute => "the first is used: a map beats a route",
            Why::EarlierTunnel => "the first is used: its tunnel was added earlier",
            Why::Undecided => "rules and the default decide",
        };
        write!(f, "{} {kind} {}; {why}", self.winner, self.loser)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(by: Claimant, net: &str) -> Claim {
        let net = net.parse().unwrap();
        Claim { by, net }
    }

    #[test]
    fn each_kind_of_overlap_has_a_winner_and_a_reason() {
        use Claimant::{Host, Map, Route, Subnet};
        let (a, b) = (TunnelId::new(0), TunnelId::new(1));
        let cases = [
            (
                Map(a),
                "10.71.0.0/16",
                Map(b),
                "10.71.1.0/24",
                1,
                OverlapKind::Within,
                Why::LongerPrefix,
            ),
            (
                Map(b),
                "10.71.1.0/24",
                Map(a),
                "10.71.1.0/24",
                1,
                OverlapKind::Equal,
                Why::EarlierTunnel,
            ),
            (
                Route(a),
                "10.71.1.0/24",
                Map(b),
                "10.71.1.0/24",
                1,
                OverlapKind::Equal,
                Why::MapBeforeRoute,
            ),
            (
                Route(a),
                "10.71.1.0/24",
                Map(b),
                "10.71.0.0/16",
                1,
                OverlapKind::Contains,
                Why::MapBeforeRoute,
            ),
            (
                Route(a),
                "10.0.0.0/8",
                Host,
                "10.1.0.0/16",
                0,
                OverlapKind::Contains,
                Why::LeadsSomewhere,
            ),
            (
                Subnet(a),
                "10.5.0.0/24",
                Map(b),
                "10.0.0.0/8",
                1,
                OverlapKind::Contains,
                Why::LeadsSomewhere,
            ),
            (
                Subnet(b),
                "10.5.0.0/24",
                Host,
                "10.0.0.0/8",
                0,
                OverlapKind::Within,
                Why::Undecided,
            ),
        ];
        for (by, net, other, with, winner, kind, why) in cases {
            let claims = [claim(by, net), claim(other, with)];
            let overlap = Overlap::between(claims[0], claims[1]).unwrap();
            let told = (overlap.winner, overlap.kind, overlap.why);
            assert_eq!(told, (claims[winner], kind, why), "{overlap}");
            // Whoever is asked first.
            assert_eq!(Overlap::between(claims[1], claims[0]), Some(overlap));
        }
        let apart = [claim(Map(a), "10.71.0.0/24"), claim(Map(b), "10.71.1.0/24")];
        assert!(Overlap::among(&apart).is_empty());
    }
}
