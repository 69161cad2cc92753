//! Bootstrap nodes by name: which addresses have one, and, touching the system's resolver, where they are.
//!
//! Names are looked up at the start, until one is found. libp2p could do it by itself and does not here: what it dials
//! is screened by address, so that nothing inside the VPN is dialled, and a name is none.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use vpn_p2p::libp2p::Multiaddr;
use vpn_p2p::libp2p::multiaddr::Protocol;
use vpn_resilience::Fault;
use vpn_resilience::RetryConfig;
use vpn_resilience::call::{Policy as _, WithRetry};

/// Most addresses of one name: enough for each family of a few machines.
const MAX_ADDRESSES: usize = 8;

/// How long the system's resolver may take: it asks a second server after five seconds.
const ANSWER: Duration = Duration::from_secs(10);

/// An address whose beginning is a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    name: String,
    /// Whether addresses of these families are asked for: IPv4, IPv6.
    families: (bool, bool),
    /// What follows the name: port, protocol, `/p2p/`.
    rest: Multiaddr,
}

/// Who else is there to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    None,
    /// Nodes that were met in an earlier life.
    Met,
    /// Bootstrap nodes with addresses.
    Said,
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

    /// Where it is now.
    async fn look_up(self) -> Result<Vec<Multiaddr>, String> {
        let found = timeout(ANSWER, tokio::net::lookup_host((self.name.as_str(), 0))).await;
        let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let found = found.map_err(|error| format!("{}: {error}", self.name))?;
        let all = self.of(found.map(|found| found.ip()));
        match all.is_empty() {
            true => Err(format!("{}: no address of this family", self.name)),
            false => Ok(all),
        }
    }
}

/// Where the names are now that lead somewhere one may ask; all are looked up at once. Tried again as the
/// configuration says while no bootstrap node is there to begin with: the network may only just be coming.
///
/// # Errors
///
/// What the system's resolver says of one, if nobody else is there.
pub(crate) async fn look_up(
    names: &[Named],
    retry: RetryConfig,
    others: Others,
    may_ask: impl Fn(&Multiaddr) -> bool + Send + Sync,
) -> Result<Vec<Multiaddr>, String> {
    look_up_by(names, retry, others, may_ask, Named::look_up).await
}

/// The same, by whoever knows where a name is.
async fn look_up_by<F: Future<Output = Result<Vec<Multiaddr>, String>> + Send>(
    names: &[Named],
    retry: RetryConfig,
    others: Others,
    may_ask: impl Fn(&Multiaddr) -> bool + Send + Sync,
    ask: impl Fn(Named) -> F + Send + Sync,
) -> Result<Vec<Multiaddr>, String> {
    let once = || async {
        let answers = join_all(names.iter().cloned().map(&ask)).await;
        let (mut all, mut missing) = (Vec::new(), None);
        for answer in answers {
            match answer {
                // A resolver may say what it likes.
                Ok(found) => all.extend(found.into_iter().filter(&may_ask)),
                Err(problem) => {
                    tracing::warn!(problem, "a bootstrap node is not found");
                    missing = Some(problem);
                }
            }
        }
        let is_alone = all.is_empty() && others != Others::Said;
        match missing.filter(|_| is_alone) {
            Some(problem) => Err(io::Error::other(problem)),
            None => Ok(all),
        }
    };
    // Who answered is not given up for one that does not: each name has its own time.
    let retry = RetryConfig {
        attempt_timeout: None,
        ..retry
    };
    let retry = WithRetry::new(retry, 0, |_: &io::Error| Fault::Transient);
    match retry.run(once).await {
        Err(_) if others == Others::Met => Ok(Vec::new()),
        found => found.map_err(|error| vpn_examples::chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

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

    /// Tried so often, with no pause that matters.
    fn attempts(max_attempts: u32) -> RetryConfig {
        RetryConfig {
            max_attempts,
            initial_interval: Duration::from_millis(1),
            max_interval: Duration::from_millis(1),
            ..RetryConfig::default()
        }
    }

    fn named(names: &[&str]) -> Vec<Named> {
        let all = names
            .iter()
            .map(|name| address(&format!("/dns4/{name}/tcp/9/p2p/ID")));
        split(all.collect()).unwrap().1
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_one_that_is_not_there_is_told() {
        let names = named(&["localhost"]);
        let found = look_up(&names, attempts(1), Others::None, |_| true)
            .await
            .unwrap();
        assert_eq!(found, [address("/ip4/127.0.0.1/tcp/9/p2p/ID")]);
        let names = named(&["nobody.invalid"]);
        let refused = look_up(&names, attempts(1), Others::None, |_| true)
            .await
            .unwrap_err();
        assert!(refused.contains("nobody.invalid"), "{refused}");
    }

    #[tokio::test]
    async fn names_are_looked_up_at_once_and_again_only_while_nobody_is_there() {
        let asked = AtomicUsize::new(0);
        // Each answers when all have been asked.
        let ask = |all: usize| {
            let asked = &asked;
            move |name: Named| async move {
                asked.fetch_add(1, SeqCst);
                while !asked.load(SeqCst).is_multiple_of(all) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                match name.name.as_str() {
                    "dead" => Err("dead: it is not there".to_owned()),
                    _ => Ok(vec![name.anywhere()]),
                }
            }
        };
        let within = Duration::from_secs(60);
        let names = named(&["dead", "a", "dead"]);
        for (names, others, may_ask, times, wanted) in [
            (&names[..], Others::None, true, 3, Some(1)),
            (&names[..], Others::Met, true, 3, Some(1)),
            (&names[..1], Others::None, true, 5, None),
            (&names[..1], Others::Said, true, 1, Some(0)),
            // Who was met once may be gone.
            (&names[..1], Others::Met, true, 5, Some(0)),
            // Somebody who is not to be asked is nobody.
            (&names[..2], Others::None, false, 10, None),
        ] {
            asked.store(0, SeqCst);
            let ask = ask(names.len());
            let found = look_up_by(names, attempts(5), others, |_| may_ask, ask);
            let found = timeout(within, found).await.unwrap();
            assert_eq!(found.as_ref().ok().map(Vec::len), wanted, "{found:?}");
            assert_eq!(asked.load(SeqCst), times);
        }
    }
}
