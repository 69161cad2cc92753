//! Bootstrap nodes by name: which addresses have one, and, touching the system's resolver, where they are.
//!
//! Names are looked up once, at the start. libp2p could do it by itself and does not here: what it dials
//! is screened by address, so that nothing inside the VPN is dialled, and a name is none.

use std::io;
use std::net::IpAddr;

use vpn_p2p::libp2p::Multiaddr;
use vpn_p2p::libp2p::multiaddr::Protocol;
use vpn_resilience::Fault;
use vpn_resilience::RetryConfig;
use vpn_resilience::call::{Policy as _, WithRetry};

/// Most addresses of one name: enough for each family of a few machines.
const MAX_ADDRESSES: usize = 8;

/// An address whose beginning is a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    name: String,
    /// Whether addresses of these families are asked for: IPv4, IPv6.
    families: (bool, bool),
    /// What follows the name: port, protocol, `/p2p/`.
    rest: Multiaddr,
}

/// Addresses as they are, and those that begin with a name.
///
/// # Errors
///
/// What is wrong with one, in words.
pub(crate) fn split(all: Vec<Multiaddr>) -> Result<(Vec<Multiaddr>, Vec<Named>), String> {
    let (mut addresses, mut names) = (Vec::new(), Vec::new());
    for address in all {
        let (name, families) = match address.iter().next() {
            Some(Protocol::Dns4(name)) => (name, (true, false)),
            Some(Protocol::Dns6(name)) => (name, (false, true)),
            Some(Protocol::Dns(name)) => (name, (true, true)),
            Some(Protocol::Dnsaddr(_)) => {
                return Err(format!(
                    "{address}: /dnsaddr (addresses in TXT records) is not looked up; \
                     say /dns4 or /dns6 with port and /p2p/"
                ));
            }
            _ => {
                addresses.push(address);
                continue;
            }
        };
        names.push(Named {
            name: name.to_string(),
            families,
            rest: address.iter().skip(1).collect(),
        });
    }
    Ok((addresses, names))
}

impl Named {
    /// As if it were somewhere (an address of documentation), to check the rest by.
    pub(crate) fn anywhere(&self) -> Multiaddr {
        self.at(match self.families.0 {
            true => [192, 0, 2, 1].into(),
            false => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
        })
    }

    fn at(&self, address: IpAddr) -> Multiaddr {
        let first = Protocol::from(address);
        std::iter::once(first).chain(self.rest.iter()).collect()
    }

    fn of(&self, found: impl Iterator<Item = IpAddr>) -> Vec<Multiaddr> {
        let wanted = |address: &IpAddr| match address {
            IpAddr::V4(_) => self.families.0,
            IpAddr::V6(_) => self.families.1,
        };
        let mut all: Vec<Multiaddr> = Vec::new();
        for address in found.filter(wanted) {
            let address = self.at(address);
            if !all.contains(&address) && all.len() < MAX_ADDRESSES {
                all.push(address);
            }
        }
        all
    }

    /// Where it is now. Tried again as the configuration says: the network may only just be coming.
    ///
    /// # Errors
    ///
    /// What the system's resolver says, or that the name has no address of the family.
    pub(crate) async fn look_up(&self, retry: RetryConfig) -> Result<Vec<Multiaddr>, String> {
        let retry = WithRetry::new(retry, 0, |_: &io::Error| Fault::Transient);
        let found = retry.run(|| tokio::net::lookup_host((self.name.as_str(), 0)));
        let found = found
            .await
            .map_err(|error| format!("{}: {}", self.name, vpn_examples::chain(&error)))?;
        let all = self.of(found.map(|found| found.ip()));
        match all.is_empty() {
            true => Err(format!("{}: no address of this family", self.name)),
            false => Ok(all),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const ID: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn address(text: &str) -> Multiaddr {
        text.replace("ID", ID).parse().unwrap()
    }

    #[test]
    fn names_are_told_from_addresses() {
        let all = [
            "/ip4/192.0.2.7/tcp/1/p2p/ID",
            "/dns4/a.example/tcp/2/p2p/ID",
        ];
        let (addresses, names) = split(all.map(address).into()).unwrap();
        assert_eq!(addresses, [address(all[0])]);
        assert_eq!(names[0].anywhere(), address("/ip4/192.0.2.1/tcp/2/p2p/ID"));
        let refused = split(vec![address("/dnsaddr/a.example/p2p/ID")]).unwrap_err();
        assert!(
            refused.contains("/dnsaddr") && refused.contains("/dns4"),
            "{refused}"
        );
    }

    #[test]
    fn of_what_is_found_the_family_counts_and_no_more_than_a_few() {
        let found: [IpAddr; 3] =
            ["198.51.100.1", "2001:db8::7", "198.51.100.1"].map(|a| a.parse().unwrap());
        for (said, wanted) in [
            (
                "/dns4/a/udp/1/quic-v1/p2p/ID",
                &["/ip4/198.51.100.1/udp/1/quic-v1/p2p/ID"][..],
            ),
            (
                "/dns6/a/udp/1/quic-v1/p2p/ID",
                &["/ip6/2001:db8::7/udp/1/quic-v1/p2p/ID"],
            ),
            (
                "/dns/a/tcp/1/p2p/ID",
                &[
                    "/ip4/198.51.100.1/tcp/1/p2p/ID",
                    "/ip6/2001:db8::7/tcp/1/p2p/ID",
                ],
            ),
        ] {
            let (_, names) = split(vec![address(said)]).unwrap();
            let wanted: Vec<Multiaddr> = wanted.iter().map(|text| address(text)).collect();
            assert_eq!(names[0].of(found.into_iter()), wanted, "{said}");
        }
        let (_, names) = split(vec![address("/dns4/a/tcp/1/p2p/ID")]).unwrap();
        let many = (0..100).map(|host| IpAddr::from([198, 51, 100, host]));
        assert_eq!(names[0].of(many).len(), MAX_ADDRESSES);
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_one_that_is_not_there_is_told() {
        let once = RetryConfig {
            max_attempts: 1,
            ..RetryConfig::default()
        };
        let (_, names) = split(vec![address("/dns4/localhost/tcp/9/p2p/ID")]).unwrap();
        let found = names[0].look_up(once).await.unwrap();
        assert_eq!(found, [address("/ip4/127.0.0.1/tcp/9/p2p/ID")]);
        let (_, names) = split(vec![address("/dns4/nobody.invalid/tcp/9/p2p/ID")]).unwrap();
        let refused = names[0].look_up(once).await.unwrap_err();
        assert!(refused.contains("nobody.invalid"), "{refused}");
    }
}
