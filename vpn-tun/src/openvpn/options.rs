//! The options of OpenVPN that a profile may not have, or not have as it likes (openvpn(8)). Pure.

/// Options that run a program, load code or hand out control.
pub(super) const RUNS: &[&str] = &[
    "auth-user-pass-verify",
    "client-connect",
    "client-crresponse",
    "client-disconnect",
    "dns-updown",
    "down",
    "down-pre",
    "engine",
    "iproute",
    "ipchange",
    "learn-address",
    "pkcs11-providers",
    "plugin",
    "providers",
    "route-pre-down",
    "route-up",
    "script-security",
    "tls-crypt-v2-verify",
    "tls-export-cert",
    "tls-verify",
    "up",
    "up-delay",
    "up-restart",
];

/// Options that are the supervisor's own.
pub(super) const SUPERVISED: &[&str] = &[
    "askpass",
    "bind-dev",
    "daemon",
    "inetd",
    "mark",
    "mktun",
    "port-share",
    "rmtun",
    "service",
    "syslog",
    "mode",
    "server",
    "server-ipv6",
    "server-bridge",
];

/// Options that read or write files anywhere, or change where paths lead.
pub(super) const WRITES: &[&str] = &[
    "cd",
    "chroot",
    "config",
    "dev-node",
    "genkey",
    "ifconfig-pool-persist",
    "log",
    "log-append",
    "memstats",
    "replay-persist",
    "status",
    "tmp-dir",
    "writepid",
];

/// Options that name a file to read, and which of their values it is. What is read may be sent to the
/// server, so it has to lie beside the profile.
pub(super) const READS: &[(&str, usize)] = &[
    ("auth-gen-token-secret", 1),
    ("ca", 1),
    ("capath", 1),
    ("cert", 1),
    ("crl-verify", 1),
    ("dh", 1),
    ("extra-certs", 1),
    ("http-proxy", 3),
    ("http-proxy-user-pass", 1),
    ("key", 1),
    ("pkcs12", 1),
    ("secret", 1),
    ("socks-proxy", 3),
    ("tls-auth", 1),
    ("tls-crypt", 1),
    ("tls-crypt-v2", 1),
];
