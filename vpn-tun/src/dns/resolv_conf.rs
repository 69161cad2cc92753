//! Decides what `resolv.conf` says: pure text in, text out (resolv.conf(5)).

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Name servers the C library looks at (`MAXNS`).
pub(crate) const MAX_NAMESERVERS: usize = 3;

/// The resolvers a file names, in order. Scoped addresses are left out: they name an interface.
pub(crate) fn nameservers(content: &[u8]) -> Vec<IpAddr> {
    String::from_utf8_lossy(content)
        .lines()
        .filter(|line| is_nameserver(line))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .take(MAX_NAMESERVERS)
        .collect()
}

/// The same file with these resolvers instead; other lines stay.
pub(super) fn with_servers(former: &[u8], servers: &BTreeSet<IpAddr>) -> Vec<u8> {
    let mut text = String::from("# resolvers set by vpn-tun while it runs\n");
    for server in servers.iter().take(MAX_NAMESERVERS) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for line in String::from_utf8_lossy(former).lines() {
        if !is_nameserver(line) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.into_bytes()
}

fn is_nameserver(line: &str) -> bool {
    // A keyword begins the line (resolv.conf(5)).
    line.strip_prefix("nameserver")
        .is_some_and(|rest| rest.starts_with(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_c_library_reads() {
        let content = b"#nameserver 1.1.1.1\n;x\nnameserver\t192.0.2.1 # x\nnameserverx 1.2.3.4\n\
            nameserver fe80::1%eth0\nnameserver 2001:db8::1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let found: Vec<String> = nameservers(content).iter().map(IpAddr::to_string).collect();
        assert_eq!(found, ["192.0.2.1", "2001:db8::1", "192.0.2.2"]);
    }
}
