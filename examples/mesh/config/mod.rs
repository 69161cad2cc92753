//! The configuration files: read, checked, with every default written here.

mod hub;

pub(crate) use hub::{AsMember, Hub};
pub(crate) use vpn_examples::mesh::{Inbound, Key, Member, Named, Place};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    const README: &str = include_str!("../../README.md");
    const KEY: &str = "X/WBOnaj/aOngoMOJ/GaP2PYDHcLhL8ALNqq3C8u2AI=";

    /// The keys that the table of this chapter names.
    fn documented(chapter: &str) -> BTreeSet<String> {
        let (_, rest) = README.split_once(chapter).expect("the chapter");
        let rest = rest.split("\n#").next().unwrap_or(rest);
        let row = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
        rest.lines().filter_map(row).collect()
    }

    /// The keys of one table, as the error for an unknown one lists them.
    fn listed(error: FileError) -> Vec<String> {
        let text = error.to_string();
        let (_, expected) = text.split_once("expected ").expect(&text);
        let expected = expected.split(": zzz").next().unwrap_or(expected);
        expected
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    use vpn_examples::file::{FileError, parse};

    fn existing<T: serde::de::DeserializeOwned + std::fmt::Debug>(
        tables: &[(&str, &str)],
    ) -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        let names: Vec<&str> = tables.iter().map(|(name, _)| *name).collect();
        for (name, before) in tables {
            let text = format!("{before}zzz = 1\n");
            let error = parse::<T>(Path::new("x"), &text).expect_err("unknown");
            for key in listed(error) {
                // Tables are documented by their keys.
                if !(name.is_empty() && names.contains(&key.as_str())) {
                    let dot = if name.is_empty() { "" } else { "." };
                    keys.insert(format!("{name}{dot}{key}"));
                }
            }
        }
        keys
    }

    /// S-24: documents named keys that nobody read.
    #[test]
    fn every_key_is_documented_and_every_documented_key_exists() {
        let member =
            existing::<Member>(&[("", ""), ("hubs", "[[hubs]]\n"), ("peers", "[[peers]]\n")]);
        assert_eq!(member, documented("### `mesh.toml`"));
        let hub = existing::<Hub>(&[
            ("", ""),
            ("member", "[member]\n"),
            ("members", "[[members]]\n"),
            ("neighbours", "[[neighbours]]\n"),
        ]);
        assert_eq!(hub, documented("### `hub.toml`"));
    }

    #[test]
    fn the_smallest_configurations_have_the_documented_defaults() {
        let text = format!(
            "key = \"a.key\"\naddresses = [\"10.77.0.2/24\"]\n[[hubs]]\nkey = \"{KEY}\"\nendpoint = \"h:1\"\n"
        );
        let member: Member = parse(Path::new("x"), &text).unwrap();
        assert_eq!(
            (member.interface.as_str(), member.listen, member.mtu),
            ("mesh0", 0, 1400)
        );
        assert_eq!(member.control, PathBuf::from("mesh.sock"));
        let echo = member.inbound_rules("mesh").unwrap();
        let echo: Vec<String> = echo.iter().map(ToString::to_string).collect();
        assert!(member.forwarded().is_empty());
        assert_eq!(echo.len(), 1);
        assert!(echo[0].contains("icmp"), "{echo:?}");
        let hub: Hub = parse(Path::new("x"), "key = \"hub.key\"\n").unwrap();
        let listen: Vec<String> = hub.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["0.0.0.0:51820", "[::]:51820"]);
        assert!(hub.tls && hub.member.is_none());
    }

    /// A peer with two addresses, and one whose addresses are not known.
    fn named() -> Vec<Named> {
        let named = |name: &str, addresses: &[&str]| Named {
            name: name.to_owned(),
            key: vpn_core::PeerId([1; 32]),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        vec![
            named("b", &["10.77.0.3", "fd00::3"]),
            named("elsewhere", &[]),
        ]
    }

    /// Only that peer, to that port; and behind this node, to those networks alone.
    #[test]
    fn a_table_says_who_may_and_whither() {
        let text = format!(
            "key = \"a.key\"\naddresses = [\"10.77.0.2/24\"]\nroutes = [\"192.168.7.0/24\"]\n\
             forward = [\"tcp:443\"]\n\
             [[inbound]]\npeer = \"b\"\nproto = \"tcp\"\nport = 80\nto_port = 8080\n\
             [[peers]]\nkey = \"{KEY}\"\nname = \"b\"\naddresses = [\"10.77.0.3\"]\n"
        );
        let member: Member = parse(Path::new("x"), &text).unwrap();
        let rules = member.inbound_rules("mesh").unwrap();
        let said: Vec<String> = rules.iter().map(ToString::to_string).collect();
        let (to, ping) = ("to 192.168.7.0/24", "icmp");
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[0].contains("of 10.77.0.3/32 -> port 8080"), "{said:?}");
        assert!(said[1].ends_with(ping), "{said:?}");
        assert!(said[2].contains("443") && said[2].ends_with(to), "{said:?}");
        assert!(said[3].contains(ping) && said[3].ends_with(to), "{said:?}");
        assert_eq!(member.forwarded(), member.routes);
    }

    #[test]
    fn what_is_let_in_follows_from_the_words() {
        let rules = |text: &str| {
            #[derive(serde::Deserialize)]
            struct Only {
                inbound: Inbound,
            }
            let only: Result<Only, _> = parse(Path::new("x"), &format!("inbound = {text}"));
            let rules = only
                .ok()
                .map(|only| only.inbound.rules("mesh", &named(), None));
            rules?.ok().map(|rules| rules.len())
        };
        for (text, count) in [
            ("\"any\"", 3),
            ("\"allow\"", 3),
            ("\"block\"", 0),
            ("[]", 1),
            ("[\"tcp:5201\", \"udp:7\"]", 3),
            ("[\"tcp\", \"udp:1-65535\"]", 3),
            ("[\"icmp\"]", 1),
            (
                "[{ proto = \"tcp\", port = 80, to_port = 8080, peer = \"b\" }]",
                3,
            ),
            (
                "[\"tcp:22\", { proto = \"icmp\", peer = \"10.77.0.0/24\" }]",
                2,
            ),
            (
                "[{ proto = \"udp\", port = \"7-9\", peer = \"10.77.0.9\" }]",
                2,
            ),
        ] {
            assert_eq!(rules(text), Some(count), "{text}");
        }
        for text in [
            "\"all\"",
            "1",
            "[\"tcp:x\"]",
            "[\"icmp:1\"]",
            "[\"tcp:9-7\"]",
            "[\"sctp\"]",
            "[\"tcp:70000\"]",
            "[{ port = 80 }]",
            "[{ proto = \"tcp\", colour = 1 }]",
            "[{ proto = \"tcp\", port = \"9-7\" }]",
            "[{ proto = \"tcp\", to_port = 80 }]",
            "[{ proto = \"tcp\", port = \"1-9\", to_port = 65530 }]",
            "[{ proto = \"icmp\", port = 1 }]",
            "[{ proto = \"tcp\", peer = \"nobody\" }]",
            "[{ proto = \"tcp\", peer = \"elsewhere\" }]",
        ] {
            assert_eq!(rules(text), None, "{text}");
        }
    }

    #[test]
    fn places_are_hosts_and_ports() {
        for (text, host, port) in [
            ("hub.example.org:51820", "hub.example.org", 51820),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("[2001:db8::1]:9", "2001:db8::1", 9),
        ] {
            let place = Place::try_from(text.to_owned()).unwrap();
            assert_eq!((place.host.as_str(), place.port), (host, port));
            assert_eq!(place.to_string(), text);
        }
        for text in [
            "",
            "hub",
            "hub:",
            "hub:0",
            "hub:70000",
            ":5",
            "2001:db8::1:9",
            "[x]:5",
            "a b:5",
        ] {
            assert!(Place::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
