//! Decides whether something on this machine asks DNS on behalf of applications: pure text in,
//! findings out (resolv.conf(5), nsswitch.conf(5), nscd.conf(5)).
//!
//! A query that a cache sends is the cache's, whoever wanted to know. Then no rule can give each
//! application the resolver of its own tunnel, nor tell whose lookup a domain rule saw.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::resolv_conf::nameservers;
use super::written::read;

/// Where systemd-resolved listens: the stub, and the one that passes queries on unchanged.
const RESOLVED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54)),
];

/// What the C library asks if `resolv.conf` names nobody (resolv.conf(5)).
const NOBODY_NAMED: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const NSSWITCH: &str = "/etc/nsswitch.conf";
const NSCD_CONF: &str = "/etc/nscd.conf";
/// There while nscd runs; the C library looks nowhere else.
const NSCD_SOCKET: &str = "/var/run/nscd/socket";
/// There while systemd-resolved runs; nss-resolve asks through it.
const RESOLVED_SOCKET: &str = "/run/systemd/resolve/io.systemd.Resolve";

/// Something that asks on behalf of applications, and so hides which of them wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HiddenAsker {
    /// `resolv.conf` names the stub of systemd-resolved.
    ResolvedStub(IpAddr),
    /// `nsswitch.conf` looks hosts up through nss-resolve, and systemd-resolved runs.
    NssResolve,
    /// nscd runs and caches hosts.
    Nscd,
    /// `resolv.conf` names a resolver on this machine: dnsmasq, unbound and their like. Queries to
    /// it never leave the kernel, and it asks in its own name.
    LocalForwarder(IpAddr),
}

impl HiddenAsker {
    /// Whether it goes on hiding them when `resolv.conf` is written by
    /// [`SystemDns`](super::SystemDns).
    pub const fn survives_resolv_conf(&self) -> bool {
        matches!(self, Self::NssResolve | Self::Nscd)
    }
}

impl fmt::Display for HiddenAsker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResolvedStub(addr) => write!(
                f,
                "resolv.conf names {addr}, the stub of systemd-resolved: apply DNS through resolv.conf"
            ),
            Self::NssResolve => f.write_str(
                "nsswitch.conf looks hosts up through systemd-resolved: take 'resolve' from its \
                 hosts line, or stop systemd-resolved",
            ),
            Self::Nscd => f.write_str(
                "nscd looks hosts up for every app: set 'enable-cache hosts no' in nscd.conf, or \
                 stop it",
            ),
            Self::LocalForwarder(addr) => write!(
                f,
                "resolv.conf names {addr}, a resolver on this machine: apply DNS through resolv.conf"
            ),
        }
    }
}

/// What says how this system looks names up. A file that is missing is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// `resolv.conf`.
    pub resolv_conf: String,
    /// `nsswitch.conf`.
    pub nsswitch: String,
    /// `nscd.conf`, if nscd runs.
    pub nscd: Option<String>,
    /// Whether systemd-resolved runs.
    pub resolved: bool,
}

impl Lookup {
    /// Reads the system's files, and `resolv.conf` where it is said to be. What cannot be read is
    /// taken for missing.
    pub fn of_system(resolv_conf: &Path) -> Self {
        let text = |path: &Path| {
            let content = read(path).ok().flatten().unwrap_or_default();
            String::from_utf8_lossy(&content).into_owned()
        };
        let nscd = Path::new(NSCD_SOCKET).exists();
        Self {
            resolv_conf: text(resolv_conf),
            nsswitch: text(Path::new(NSSWITCH)),
            nscd: nscd.then(|| text(Path::new(NSCD_CONF))),
            resolved: Path::new(RESOLVED_SOCKET).exists(),
        }
    }

    /// Who asks on behalf of applications. `own` are the addresses of this machine.
    pub fn hidden_askers(&self, own: &[IpAddr]) -> Vec<HiddenAsker> {
        let mut found = Vec::new();
        let mut named = nameservers(self.resolv_conf.as_bytes());
        if named.is_empty() {
            named.push(NOBODY_NAMED);
        }
        for addr in named {
            if RESOLVED.contains(&addr) {
                found.push(HiddenAsker::ResolvedStub(addr));
            } else if addr.is_loopback() || own.contains(&addr) {
                found.push(HiddenAsker::LocalForwarder(addr));
            }
        }
        if self.resolved && hosts_by_resolve(&self.nsswitch) {
            found.push(HiddenAsker::NssResolve);
        }
        if self.nscd.as_deref().is_some_and(caches_hosts) {
            found.push(HiddenAsker::Nscd);
        }
        found
    }
}

/// Whether the hosts line names the service `resolve`; `[…]` are actions, not services.
fn hosts_by_resolve(nsswitch: &str) -> bool {
    let hosts = nsswitch.lines().find_map(|line| {
        let line = line.split('#').next()?.trim_start();
        line.strip_prefix("hosts")?.trim_start().strip_prefix(':')
    });
    let mut in_action = false;
    hosts.is_some_and(|services| {
        services.split_whitespace().any(|word| {
            let service = !in_action && !word.starts_with('[');
            in_action = (in_action || word.starts_with('[')) && !word.ends_with(']');
            service && word == "resolve"
        })
    })
}

/// Whether nscd caches hosts: it does unless it is told not to.
fn caches_hosts(conf: &str) -> bool {
    let told = conf.lines().rev().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        match (words.next()?, words.next()?, words.next()?) {
            ("enable-cache", "hosts", told) => Some(told),
            _ => None,
        }
    });
    told != Some("no")
}

#[cfg(test)]
mod tests {
    use super::HiddenAsker::{LocalForwarder, Nscd, NssResolve, ResolvedStub};
    use super::*;

    fn named(resolv_conf: &str, own: &[IpAddr]) -> Vec<HiddenAsker> {
        let lookup = Lookup {
            resolv_conf: resolv_conf.to_owned(),
            ..Lookup::default()
        };
        lookup.hidden_askers(own)
    }

    #[test]
    fn resolvers_on_this_machine_ask_for_others() {
        let own: IpAddr = [192, 0, 2, 7].into();
        let cases = [
            ("nameserver 192.0.2.1\n", vec![]),
            (
                "nameserver 127.0.0.53\noptions edns0\n",
                vec![ResolvedStub([127, 0, 0, 53].into())],
            ),
            (
                "nameserver 192.0.2.1\nnameserver ::1\nnameserver 127.0.0.1\n",
                vec![
                    LocalForwarder("::1".parse().unwrap()),
                    LocalForwarder([127, 0, 0, 1].into()),
                ],
            ),
            ("nameserver 192.0.2.7\n", vec![LocalForwarder(own)]),
            // Nobody named means the resolver of this machine.
            ("# empty\n", vec![LocalForwarder([127, 0, 0, 1].into())]),
        ];
        for (text, expected) in cases {
            assert_eq!(named(text, &[own]), expected, "{text}");
        }
    }

    #[test]
    fn nss_resolve_counts_if_it_is_asked_and_answers() {
        let cases = [
            ("hosts: files resolve [!UNAVAIL=return] dns\n", true),
            ("passwd: files\nhosts:\tmymachines resolve dns # x\n", true),
            ("hosts: files dns # resolve\n", false),
            ("#hosts: resolve\nhosts: files dns\n", false),
            ("hosts: files [ resolve=return ] dns\n", false),
            ("networks: resolve\n", false),
            ("", false),
        ];
        for (text, expected) in cases {
            for resolved in [true, false] {
                let lookup = Lookup {
                    resolv_conf: "nameserver 192.0.2.1\n".to_owned(),
                    nsswitch: text.to_owned(),
                    resolved,
                    ..Lookup::default()
                };
                let found = lookup.hidden_askers(&[]) == [NssResolve];
                assert_eq!(found, expected && resolved, "{text}");
            }
        }
    }

    #[test]
    fn nscd_counts_unless_it_leaves_hosts_alone() {
        let cases = [
            (Some(""), true),
            (Some("enable-cache hosts yes\n"), true),
            (Some("\tenable-cache\thosts\tno\n"), false),
            (
                Some("enable-cache passwd no\n#enable-cache hosts no\n"),
                true,
            ),
            (None, false),
        ];
        for (nscd, expected) in cases {
            let lookup = Lookup {
                resolv_conf: "nameserver 192.0.2.1\n".to_owned(),
                nscd: nscd.map(str::to_owned),
                ..Lookup::default()
            };
            assert_eq!(lookup.hidden_askers(&[]) == [Nscd], expected, "{nscd:?}");
        }
    }

    #[test]
    fn what_a_written_file_cannot_mend_says_so() {
        let stub = ResolvedStub([127, 0, 0, 53].into());
        assert!(!stub.survives_resolv_conf() && NssResolve.survives_resolv_conf());
        assert!(Nscd.survives_resolv_conf());
        assert!(stub.to_string().contains("127.0.0.53"));
    }
}
