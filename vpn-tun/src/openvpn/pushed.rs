//! What an OpenVPN server pushes to its client. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use vpn_core::Assigned;

use super::pull::Pull;

/// MTU where neither the server nor the profile says one, in bytes: OpenVPN's own.
const USUAL_MTU: u16 = 1500;

/// Networks and resolvers that are taken of one server; it may push any number.
const MAX_PUSHED: usize = 256;

/// The options of a `PUSH_REPLY`, as far as they are about addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pushed {
    addresses: Vec<IpNet>,
    dns: Vec<IpAddr>,
    routes: Vec<IpNet>,
    mtu: Option<u16>,
    topology_subnet: bool,
    aead: bool,
    ifconfig: Option<(Ipv4Addr, Ipv4Addr)>,
}

impl Pushed {
    /// Before anything is pushed: what the profile says itself.
    pub(super) fn new(pull: &Pull) -> Self {
        let mut this = Self::default();
        for words in pull.own() {
            if let [name, values @ ..] = words.as_slice() {
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                let _ = this.option(name, &values);
            }
        }
        this
    }

    /// Takes in one control message: `PUSH_REPLY,option,option`.
    pub(super) fn take(&mut self, message: &str, pull: &Pull) {
        for option in message.split(',').filter(|option| pull.takes(option)) {
            let mut words = option.split_ascii_whitespace();
            let name = words.next().unwrap_or_default();
            let values: Vec<&str> = words.collect();
            // What cannot be read is not followed: an address of ours that is missing shows.
            let _ = self.option(name, &values);
        }
    }

    fn option(&mut self, name: &str, values: &[&str]) -> Option<()> {
        match (name, values) {
            ("topology", [kind, ..]) => self.topology_subnet = *kind == "subnet",
            ("ifconfig", [local, other, ..]) => {
                self.ifconfig = Some((local.parse().ok()?, other.parse().ok()?));
            }
            ("ifconfig-ipv6", [local, ..]) => {
                let net: Ipv6Net = match local.contains('/') {
                    true => local.parse().ok()?,
                    false => Ipv6Net::from(local.parse::<Ipv6Addr>().ok()?),
                };
                self.addresses.retain(|old| old.addr().is_ipv4());
                self.addresses.push(net.into());
            }
            ("dhcp-option", ["DNS" | "DNS6", address, ..]) => self.resolver(address)?,
            // Since version 2.6: by priority, which is the order they come in.
            ("dns", ["server", _, "address", addresses @ ..]) => {
                for address in addresses {
                    self.resolver(address)?;
                }
            }
            ("redirect-gateway", flags) => {
                if !flags.contains(&"!ipv4") {
                    self.route(Ipv4Net::default().into());
                }
                if flags.contains(&"ipv6") {
                    self.route(Ipv6Net::default().into());
                }
            }
            ("route", [network, rest @ ..]) => {
                let network: Ipv4Addr = network.parse().ok()?;
                let mask: Ipv4Addr = match rest.first() {
                    Some(mask) => mask.parse().ok()?,
                    None => Ipv4Addr::BROADCAST,
                };
                let net = Ipv4Net::with_netmask(network, mask).ok()?;
                self.route(net.trunc().into());
            }
            ("route-ipv6", [network, ..]) => {
                self.route(network.parse::<Ipv6Net>().ok()?.trunc().into());
            }
            ("cipher", [cipher, ..]) => {
                self.aead = cipher.ends_with("-GCM") || *cipher == "CHACHA20-POLY1305";
            }
            ("tun-mtu", [mtu, ..]) => self.mtu = mtu.parse().ok(),
            _ => {}
        }
        Some(())
    }

    fn resolver(&mut self, address: &str) -> Option<()> {
        let address: IpAddr = address.parse().ok()?;
        if self.dns.len() < MAX_PUSHED && !self.dns.contains(&address) {
            self.dns.push(address);
        }
        Some(())
    }

    fn route(&mut self, net: IpNet) {
        if self.routes.len() < MAX_PUSHED && !self.routes.contains(&net) {
            self.routes.push(net);
        }
    }

    /// What OpenVPN adds to a packet, at most, in bytes.
    pub(super) const fn overhead(&self) -> u16 {
        /// Opcode and peer id, and the byte of a compression that is off.
        const HEAD: u16 = 4 + 1;
        match self.aead {
            // Packet id and tag.
            true => HEAD + 4 + 16,
            // Packet id, the longest HMAC there is, initialisation vector and padding.
            false => HEAD + 4 + 64 + 16 + 16,
        }
    }

    /// What the tunnel was given, if it has an address.
    pub(super) fn assigned(&self, profile_mtu: Option<u16>) -> Option<Assigned> {
        let v4 = self.ifconfig.and_then(|(local, other)| {
            // With topology net30 or p2p the other value is the far end's address.
            let net = match self.topology_subnet {
                true => Ipv4Net::with_netmask(local, other).ok()?,
                false => Ipv4Net::from(local),
            };
            Some(IpNet::from(net))
        });
        let addresses: Vec<IpNet> = v4
            .into_iter()
            .chain(self.addresses.iter().copied())
            .collect();
        if addresses.is_empty() {
            return None;
        }
        Some(Assigned {
            addresses,
            dns: self.dns.clone(),
            mtu: self.mtu.or(profile_mtu).unwrap_or(USUAL_MTU),
            routes: self.routes.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::profile::Profile;
    use super::*;

    fn assigned(message: &str) -> Option<Assigned> {
        let mut pushed = Pushed::default();
        pushed.take(message, &Pull::default());
        pushed.assigned(None)
    }

    #[test]
    fn a_reply_is_read() {
        let got = assigned(
            "PUSH_REPLY,dhcp-option DNS 198.18.1.53,redirect-gateway def1 ipv6,route-gateway 10.100.0.1,\
             topology subnet,ping 5,ifconfig-ipv6 fd00:100::2/64 fd00:100::1,\
             ifconfig 10.100.0.2 255.255.0.0,peer-id 0,tun-mtu 1400,cipher AES-256-GCM",
        )
        .expect("addresses");
        let nets: Vec<String> = got.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(nets, ["10.100.0.2/16", "fd00:100::2/64"]);
        assert_eq!(got.dns, [IpAddr::from([198, 18, 1, 53])]);
        assert_eq!(got.mtu, 1400);
        assert_eq!(got.routes.len(), 2);
    }

    /// What openvpn(8) says of `pull-filter`, `route-nopull`, and of options of the client's own.
    #[test]
    fn a_profile_has_its_word() {
        const PUSHED: &str = "PUSH_REPLY,dhcp-option DNS 198.18.1.53,dns server 1 address \
            198.18.1.54 2001:db8::53,redirect-gateway def1,topology subnet,\
            ifconfig 10.100.0.2 255.255.0.0,ifconfig-ipv6 fd00:100::2/64 fd00:100::1";
        let given = |lines: &str| {
            let text = format!("remote a\n{lines}\n");
            let profile = Profile::parse(text.as_bytes(), std::path::Path::new("/p"));
            let profile = profile.expect("good");
            let mut pushed = Pushed::new(profile.pull());
            pushed.take(PUSHED, profile.pull());
            let got = pushed.assigned(None).expect("an address");
            let dns: Vec<String> = got.dns.iter().map(ToString::to_string).collect();
            (got.addresses.len(), dns.join(" "), got.routes.len())
        };
        let all = "198.18.1.53 198.18.1.54 2001:db8::53";
        assert_eq!(given("client"), (2, all.to_owned(), 1));
        assert_eq!(given("route-nopull"), (2, String::new(), 0));
        let filtered = "pull-filter ignore \"dhcp-option DNS \"\npull-filter ignore ifconfig-ipv6";
        assert_eq!(
            given(filtered),
            (1, "198.18.1.54 2001:db8::53".to_owned(), 1)
        );
        // The first that fits decides.
        let order = "pull-filter accept dhcp\npull-filter ignore d\npull-filter reject redirect";
        assert_eq!(given(order), (2, "198.18.1.53".to_owned(), 0));
        let own = "route-nopull\ndhcp-option DNS 192.0.2.53\nroute 10.0.0.0 255.0.0.0 vpn_gateway";
        assert_eq!(given(own), (2, "192.0.2.53".to_owned(), 1));
    }

    #[test]
    fn what_openvpn_adds_depends_on_the_cipher() {
        let with = |message: &str| {
            let mut pushed = Pushed::default();
            pushed.take(message, &Pull::default());
            pushed.overhead()
        };
        assert_eq!(with("PUSH_REPLY,cipher AES-256-GCM"), 25);
        assert_eq!(with("PUSH_REPLY,cipher CHACHA20-POLY1305"), 25);
        assert_eq!(with("PUSH_REPLY,cipher AES-256-CBC"), 105);
        assert_eq!(with("PUSH_REPLY"), 105);
    }

    #[test]
    fn the_other_end_of_a_pair_is_no_mask() {
        let got = assigned("PUSH_REPLY,topology net30,ifconfig 10.8.0.6 10.8.0.5").expect("one");
        assert_eq!(got.addresses, ["10.8.0.6/32".parse().expect("a net")]);
        assert_eq!(got.mtu, 1500);
    }

    #[test]
    fn what_cannot_be_read_gives_nothing() {
        for message in [
            "",
            "PUSH_REPLY",
            "PUSH_REPLY,ifconfig x y",
            "PUSH_REPLY,topology subnet,ifconfig 10.0.0.2 255.0.255.0",
            "PUSH_REPLY,ifconfig-ipv6 fd00::/999",
        ] {
            assert_eq!(assigned(message), None, "{message}");
        }
        let many = (0..1000).map(|n| format!(",route 10.{}.{}.0 255.255.255.0", n / 256, n % 256));
        let many = format!(
            "PUSH_REPLY,ifconfig 10.0.0.2 10.0.0.1{}",
            many.collect::<String>()
        );
        assert_eq!(assigned(&many).expect("one").routes.len(), MAX_PUSHED);
    }
}
