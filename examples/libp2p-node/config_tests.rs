//! What a configuration may say.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::OnceLock;
use std::time::Duration;

use super::*;

pub(crate) fn of(vpn: &str, node: &str) -> Result<Ready, String> {
    // Once: a test beside this one would find a key that is made and not written yet.
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("libp2p-config-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        // One of a former process of this number is as good.
        let _ = Identity::from_bytes(&[1; 32]).create(folder.join("node.key"));
        folder
    });
    let text = format!("[node]\n{node}\n[vpn]\n{vpn}\n");
    let ready = Config::of(&folder.join("node.toml"), &text);
    ready.map_err(|error| vpn_examples::chain(&error))
}

/// Document 004's example, key by key.
const EXAMPLE: &str = r#"
enable = true
mtu = 1400
virtual_ip = "10.0.0.1"
subnet = "10.0.0.0/8"
routes = ["10.0.0.0/8"]
unallowed_ports = [22, 3306]
max_streams_per_peer = 10
stream_idle_timeout = 300
cleanup_interval = 60
packet_buffer_size = 100
circuit_breaker_failure_threshold = 5
circuit_breaker_reset_timeout = 60
circuit_breaker_success_threshold = 2
retry_max_attempts = 5
retry_initial_interval = 1
retry_max_interval = 30
"#;

#[test]
fn the_example_of_the_document_is_read_literally() {
    let ready = of(EXAMPLE, "").unwrap();
    let pool = &ready.tunnel.dispatch.pool;
    assert_eq!(pool.stream_idle_timeout, Duration::from_secs(300));
    assert_eq!(pool.breaker.reset_after, Duration::from_secs(60));
    assert_eq!(pool.backoff.cap, Duration::from_secs(30));
    assert_eq!(ready.retry.max_attempts, 5);
    assert_eq!(ready.own.addresses, ["10.0.0.1/8".parse().unwrap()]);
    // TCP and UDP of both ports.
    assert_eq!(ready.config.rules().filters.len(), 4);
    // The defaults are those of the example.
    let least = of("virtual_ip = \"10.0.0.1\"", "").unwrap();
    assert_eq!(least.tunnel.dispatch.pool, *pool);
    let without = of("enable = false", "").unwrap();
    assert!(without.own.addresses.is_empty());
    let named = of(EXAMPLE, "network_name = \"home\"").unwrap();
    assert_eq!([least.node.network, named.node.network], ["", "home"]);
}

#[test]
fn with_etcd_an_address_is_leased_unless_one_is_fixed() {
    let etcd = "discovery = \"etcd\"";
    for vpn in ["", "virtual_ip = \"auto\""] {
        let mut ready = of(&format!("{vpn}\nsubnet = \"10.9.0.0/24\""), etcd).unwrap();
        assert!(ready.own.addresses.is_empty());
        assert_eq!(ready.config.vpn.leased_from(), "10.9.0.0/24".parse().ok());
        ready.has(&["10.9.0.7".parse().unwrap()]);
        assert_eq!(ready.own.addresses, ["10.9.0.7/24".parse().unwrap()]);
        assert_eq!(ready.tunnel.addresses, ready.own.addresses);
    }
    let fixed = of("virtual_ip = \"10.0.0.1\"", etcd).unwrap();
    assert_eq!(fixed.config.vpn.leased_from(), "10.0.0.1/32".parse().ok());
    let none = of("enable = false", etcd).unwrap();
    assert_eq!(none.config.vpn.leased_from(), None);
    // Outside its subnet it is as wrong as ever.
    let wrong = of("virtual_ip = \"192.168.0.1\"", etcd).unwrap_err();
    assert!(wrong.contains("outside its subnet"), "{wrong}");
}

/// Whoever is in between would have the password.
#[test]
fn a_password_goes_to_another_host_by_tls_alone() {
    let etcd = |endpoint: &str, user: &str| {
        let node = format!("discovery = \"etcd\"\netcd = [\"{endpoint}\"]\n{user}");
        of("", &node).map(drop)
    };
    let user = "etcd_user = \"a\"\netcd_password_file = \"none\"";
    for beyond in [
        "http://192.0.2.7:2379",
        "etcd.example:2379",
        "[2001:db8::7]:2379",
    ] {
        let refused = etcd(beyond, user).unwrap_err();
        assert!(
            refused.contains("node.etcd_ca") && refused.contains(beyond),
            "{refused}"
        );
        etcd(beyond, "").unwrap();
    }
    for here in ["http://127.0.0.1:2379", "localhost:2379", "[::1]:2379"] {
        let refused = etcd(here, user).unwrap_err();
        assert!(refused.contains("none"), "its file is not there: {refused}");
    }
}

#[test]
fn an_answer_of_dns_inside_the_network_is_told_from_others() {
    let inside = ["10.0.0.0/8".parse().unwrap()];
    for (at, is) in [
        ("/ip4/10.1.2.3/tcp/1", true),
        ("/ip4/192.0.2.1/tcp/1", false),
        ("/ip6/::1/tcp/1", false),
    ] {
        assert_eq!(node_is_inside(&at.parse().unwrap(), &inside), is, "{at}");
    }
}

#[test]
fn a_bootstrap_node_by_name_is_no_address_until_it_is_looked_up() {
    let id = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let node = format!(
        "bootstrap = [\"/dns4/a.example/udp/4001/quic-v1/p2p/{id}\", \"/ip4/192.0.2.9/tcp/4001/p2p/{id}\"]"
    );
    let ready = of("virtual_ip = \"10.0.0.1\"", &node).unwrap();
    assert_eq!(ready.names.len(), 1);
    let addresses = [format!("/ip4/192.0.2.9/tcp/4001/p2p/{id}")];
    assert_eq!(
        ready
            .node
            .bootstrap
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        addresses
    );
}

#[test]
fn what_makes_no_sense_is_said_with_file_key_and_reason() {
    let good = "virtual_ip = \"10.0.0.1\"";
    for (vpn, node, parts) in [
        (
            "virtual_ip = \"192.168.0.1\"",
            "",
            ["vpn.virtual_ip", "outside its subnet"],
        ),
        (
            "virtual_ip = \"10.0.0.0\"",
            "",
            ["vpn.virtual_ip", "no host's"],
        ),
        ("", "", ["vpn.virtual_ip", "missing"]),
        (
            "virtual_ip = \"auto\"",
            "",
            ["vpn.virtual_ip", "leased from etcd"],
        ),
        (
            "virtual_ip = \"10.0.0\"",
            "",
            ["virtual_ip", "is no address"],
        ),
        (
            "virtual_ip = \"10.0.0.1\"\nsubnet = \"10.0.0.1/8\"",
            "",
            ["vpn.subnet", "10.0.0.0/8"],
        ),
        (
            "virtual_ip = \"10.0.0.1\"\nmtu = 500",
            "",
            ["vpn.mtu", "576"],
        ),
        (
            "virtual_ip = \"10.0.0.1\"\nroutes = [\"fd00::/8\"]",
            "",
            ["vpn.routes", "family"],
        ),
        (
            "virtual_ip = \"10.0.0.1\"\nunallowed_ports = [0]",
            "",
            ["vpn.unallowed_ports", "1 to 65535"],
        ),
        (
            "virtual_ip = \"10.0.0.1\"\nmax_streams_per_peer = 0",
            "",
            ["vpn.max_streams_per_peer", "1 to"],
        ),
        (
            "virtual_ip = \"10.0.0.1\"\npacket_buffer_size = 0",
            "",
            ["vpn.packet_buffer_size", "1 to"],
        ),
        (
            "virtual_ip = \"10.0.0.1\"\nstream_idle_timeout = 0",
            "",
            ["vpn.stream_idle_timeout", "1 to"],
        ),
        (
            "virtual_ip = \"10.0.0.1\"\ncleanup_interval = 0",
            "",
            ["vpn.cleanup_interval", "1 to"],
        ),
        (
            "virtual_ip = \"10.0.0.1\"\ncircuit_breaker_failure_threshold = 0",
            "",
            ["vpn.circuit_breaker_failure_threshold", "1 to"],
        ),
        (
            "virtual_ip = \"10.0.0.1\"\ncircuit_breaker_success_threshold = 0",
            "",
            ["vpn.circuit_breaker_success_threshold", "1 to"],
        ),
        (
            "virtual_ip = \"10.0.0.1\"\nretry_max_attempts = 0",
            "",
            ["vpn.retry_max_attempts", "1 to"],
        ),
        (
            "virtual_ip = \"10.0.0.1\"\nretry_initial_interval = 40",
            "",
            ["vpn.retry_max_interval", "below retry_initial_interval"],
        ),
        (
            "virtual_ip = \"10.0.0.1\"\nretries = 1",
            "",
            ["node.toml:5", "retries"],
        ),
        (
            good,
            "bootstrap = [\"nonsense\"]",
            ["node.bootstrap", "nonsense"],
        ),
        (
            good,
            "bootstrap = [\"/ip4/192.0.2.1/udp/1/quic-v1\"]",
            ["node", "/p2p/"],
        ),
        (
            good,
            "bootstrap = [\"/dnsaddr/a.example/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN\"]",
            ["node.bootstrap", "/dns4"],
        ),
        (
            good,
            "bootstrap = [\"/dns4/a.example/tcp/4001\"]",
            ["node", "/p2p/"],
        ),
        (
            good,
            "discovery = \"etcd\"\netcd_user = \"node\"",
            ["node.etcd_user", "node.etcd_password_file"],
        ),
        (
            good,
            "discovery = \"etcd\"\netcd_ca = \"none.pem\"",
            ["node.etcd_ca", "none.pem"],
        ),
        (
            good,
            "discovery = \"etcd\"\netcd_password = \"hunter2\"",
            ["node.toml", "etcd_password"],
        ),
        (
            good,
            "announce = [\"/ip4/10.0.0.9/udp/1/quic-v1\"]",
            ["node", "inside"],
        ),
        (good, "network = \"x\"", ["node.certificate", "certify"]),
        (good, "key = \"none.key\"", ["none.key", "No such file"]),
    ] {
        let said = of(vpn, node).unwrap_err();
        for part in parts {
            assert!(said.contains(part), "{vpn} {node}: {part} in {said}");
        }
    }
}
