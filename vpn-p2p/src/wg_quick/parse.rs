//! Text to [`WgQuick`]: pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::{
    Endpoint, Interface, Peer, PresharedKey, PrivateKey, PublicKey, Warning, WarningKind, WgQuick,
    WgQuickError,
};

/// Smallest MTU accepted: what IPv4 demands of every link (RFC 791 §3.2 allows 68, RFC 1122
/// §3.3.3 makes hosts take 576).
const MIN_MTU: u16 = 576;

/// Longest name of a key: twice that of the longest known, and shorter than any base64 secret.
const MAX_KEY_CHARS: usize = 38;

pub(super) fn parse(name: &str, text: &str) -> Result<WgQuick, WgQuickError> {
    if text.len() > WgQuick::MAX_BYTES {
        return Err(WgQuickError::TooLarge {
            name: name.to_owned(),
        });
    }
    let mut reader = Reader {
        name,
        section: Section::None,
        interface: None,
        peers: Vec::new(),
        warnings: Vec::new(),
    };
    // A byte-order mark is what some editors put in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        reader.line(index + 1, line)?;
    }
    reader.finish()
}

enum Section {
    None,
    Interface,
    Peer,
}

#[derive(Default)]
struct InterfaceDraft {
    line: usize,
    private_key: Option<PrivateKey>,
    addresses: Vec<IpNet>,
    dns: Vec<IpAddr>,
    search: Vec<String>,
    mtu: Option<u16>,
    listen_port: Option<u16>,
}

#[derive(Default)]
struct PeerDraft {
    line: usize,
    public_key: Option<PublicKey>,
    preshared_key: Option<PresharedKey>,
    allowed_ips: Vec<IpNet>,
    endpoint: Option<Endpoint>,
    persistent_keepalive: Option<u16>,
}

struct Reader<'a> {
    name: &'a str,
    section: Section,
    interface: Option<InterfaceDraft>,
    peers: Vec<PeerDraft>,
    warnings: Vec<Warning>,
}

impl Reader<'_> {
    fn line(&mut self, number: usize, line: &str) -> Result<(), WgQuickError> {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            return Ok(());
        }
        if line.starts_with('[') {
            return self.section(number, line);
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(self.syntax(number, "neither a [Section] nor Key = value"));
        };
        let (key, value) = (key.trim(), value.trim());
        // A stray line of base64 ends in `=` too; it may be a secret and must not become a "key"
        // that a warning quotes.
        if key.len() > MAX_KEY_CHARS || !key.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(self.syntax(number, "neither a [Section] nor Key = value"));
        }
        match self.section {
            Section::None => Err(self.syntax(number, "a key before the first section")),
            Section::Interface => self.interface_key(number, key, value),
            Section::Peer => self.peer_key(number, key, value),
        }
    }

    fn section(&mut self, number: usize, line: &str) -> Result<(), WgQuickError> {
        if line.eq_ignore_ascii_case("[interface]") {
            if self.interface.is_some() {
                return Err(self.syntax(number, "a second [Interface]"));
            }
            self.interface = Some(InterfaceDraft {
                line: number,
                ..InterfaceDraft::default()
            });
            self.section = Section::Interface;
        } else if line.eq_ignore_ascii_case("[peer]") {
            self.peers.push(PeerDraft {
                line: number,
                ..PeerDraft::default()
            });
            self.section = Section::Peer;
        } else {
            return Err(self.syntax(number, "a section other than [Interface] and [Peer]"));
        }
        Ok(())
    }

    fn interface_key(&mut self, line: usize, key: &str, value: &str) -> Result<(), WgQuickError> {
        let at = At {
            name: self.name,
            line,
        };
        let Some(draft) = &mut self.interface else {
            return Ok(());
        };
        match key.to_ascii_lowercase().as_str() {
            "privatekey" => {
                let key = PrivateKey::from_base64(value);
                draft.private_key = Some(key.map_err(|e| at.value("PrivateKey", e))?);
            }
            "address" => {
                for item in items(value) {
                    draft.addresses.push(prefix(item, at, "Address")?);
                }
            }
            "dns" => {
                for item in items(value) {
                    match item.parse() {
                        Ok(address) => draft.dns.push(address),
                        Err(_) if is_host(item) => draft.search.push(item.to_owned()),
                        Err(_) => {
                            return Err(at.value("DNS", "neither an address nor a domain"));
                        }
                    }
                }
            }
            "mtu" => match value.parse() {
                Ok(mtu) if mtu >= MIN_MTU => draft.mtu = Some(mtu),
                _ => return Err(at.value("MTU", format!("{MIN_MTU} to 65535 is expected"))),
            },
            "listenport" => match value.parse() {
                Ok(port) => draft.listen_port = Some(port).filter(|&port| port != 0),
                Err(_) => return Err(at.value("ListenPort", "0 to 65535 is expected")),
            },
            "preup" | "postup" | "predown" | "postdown" => {
                self.warn(line, key, WarningKind::NotRun);
            }
            "table" | "fwmark" | "saveconfig" => self.warn(line, key, WarningKind::Ignored),
            _ => self.warn(line, key, WarningKind::Unknown),
        }
        Ok(())
    }

    fn peer_key(&mut self, line: usize, key: &str, value: &str) -> Result<(), WgQuickError> {
        let at = At {
            name: self.name,
            line,
        };
        let Some(draft) = self.peers.last_mut() else {
            return Ok(());
        };
        match key.to_ascii_lowercase().as_str() {
            "publickey" => {
                let key = PublicKey::from_base64(value);
                draft.public_key = Some(key.map_err(|e| at.value("PublicKey", e))?);
            }
            "presharedkey" => {
                let key = PresharedKey::from_base64(value);
                draft.preshared_key = Some(key.map_err(|e| at.value("PresharedKey", e))?);
            }
            "allowedips" => {
                for item in items(value) {
                    // Host bits are ignored, as the kernel does.
                    let network = prefix(item, at, "AllowedIPs")?.trunc();
                    if !draft.allowed_ips.contains(&network) {
                        draft.allowed_ips.push(network);
                    }
                }
            }
            "endpoint" => draft.endpoint = Some(endpoint(value, at)?),
            "persistentkeepalive" => {
                draft.persistent_keepalive = match value.parse::<u16>() {
                    Ok(seconds) => Some(seconds).filter(|&seconds| seconds != 0),
                    Err(_) if value.eq_ignore_ascii_case("off") => None,
                    Err(_) => {
                        let expected = "off or 0 to 65535 seconds is expected";
                        return Err(at.value("PersistentKeepalive", expected));
                    }
                };
            }
            _ => self.warn(line, key, WarningKind::Unknown),
        }
        Ok(())
    }

    fn finish(self) -> Result<WgQuick, WgQuickError> {
        let missing = |line, section, key| WgQuickError::Missing {
            name: self.name.to_owned(),
            line,
            section,
            key,
        };
        let draft = self
            .interface
            .ok_or_else(|| missing(1, "Interface", "PrivateKey"))?;
        let interface = Interface {
            private_key: draft
                .private_key
                .ok_or_else(|| missing(draft.line, "Interface", "PrivateKey"))?,
            addresses: draft.addresses,
            dns: draft.dns,
            search: draft.search,
            mtu: draft.mtu,
            listen_port: draft.listen_port,
        };
        let mut peers: Vec<Peer> = Vec::with_capacity(self.peers.len());
        // A network belongs to one peer; in `wg` the later peer silently takes it away.
        let mut owners = std::collections::HashSet::new();
        let mut keys = std::collections::HashSet::new();
        for draft in self.peers {
            let at = At {
                name: self.name,
                line: draft.line,
            };
            let public_key = draft
                .public_key
                .ok_or_else(|| missing(draft.line, "Peer", "PublicKey"))?;
            if !keys.insert(public_key) {
                return Err(at.value("PublicKey", "an earlier [Peer] has the same key"));
            }
            for network in &draft.allowed_ips {
                if !owners.insert(*network) {
                    let problem = format!("{network} belongs to an earlier [Peer]");
                    return Err(at.value("AllowedIPs", problem));
                }
            }
            peers.push(Peer {
                public_key,
                preshared_key: draft.preshared_key,
                allowed_ips: draft.allowed_ips,
                endpoint: draft.endpoint,
                persistent_keepalive: draft.persistent_keepalive,
            });
        }
        if peers.is_empty() {
            return Err(missing(0, "Peer", "PublicKey"));
        }
        Ok(WgQuick {
            interface,
            peers,
            warnings: self.warnings,
        })
    }

    fn warn(&mut self, line: usize, key: &str, kind: WarningKind) {
        self.warnings.push(Warning {
            line,
            key: key.to_owned(),
            kind,
        });
    }

    fn syntax(&self, line: usize, problem: &'static str) -> WgQuickError {
        WgQuickError::Syntax {
            name: self.name.to_owned(),
            line,
            problem,
        }
    }
}

/// Where a value stands.
#[derive(Clone, Copy)]
struct At<'a> {
    name: &'a str,
    line: usize,
}

impl At<'_> {
    fn value(self, key: &'static str, problem: impl ToString) -> WgQuickError {
        WgQuickError::Value {
            name: self.name.to_owned(),
            line: self.line,
            key,
            problem: problem.to_string(),
        }
    }
}

fn items(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn prefix(item: &str, at: At<'_>, key: &'static str) -> Result<IpNet, WgQuickError> {
    item.parse::<IpNet>()
        .or_else(|_| item.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| at.value(key, "neither an address nor a prefix"))
}

fn endpoint(value: &str, at: At<'_>) -> Result<Endpoint, WgQuickError> {
    let bad = || {
        at.value(
            "Endpoint",
            "host:port, address:port or [IPv6]:port is expected",
        )
    };
    let (host, port) = value.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port
        .parse()
        .ok()
        .filter(|&port| port != 0)
        .ok_or_else(bad)?;
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or_else(bad)?;
        let address: Ipv6Addr = inner.parse().map_err(|_| bad())?;
        return Ok(Endpoint::Address(SocketAddr::from((address, port))));
    }
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => Ok(Endpoint::Address(SocketAddr::from((address, port)))),
        // Without brackets, an address's last group and the port cannot be told apart.
        Ok(IpAddr::V6(_)) => Err(bad()),
        Err(_) if is_host(host) => Ok(Endpoint::Name {
            host: host.to_owned(),
            port,
        }),
        Err(_) => Err(bad()),
    }
}

/// Whether this can be a host name (RFC 1123 §2.1; underscores occur in practice).
fn is_host(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253 && text.split('.').all(label)
}
